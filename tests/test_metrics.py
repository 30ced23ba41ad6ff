import pytest
import sklearn.metrics

from jaxprompt.data import superglue
from jaxprompt.data.task_format import Example
from jaxprompt.evaluation import metrics
from jaxprompt.evaluation.superglue_score import SUPERGLUE_TASKS, superglue_score

BINARY = ("no", "yes")
CB = ("entailment", "contradiction", "neutral")


def examples(*targets):
    return [Example({}, target) if isinstance(target, str) else Example({}, target[0], target) for target in targets]


def numbered(labels, numbers):
    """Label numbers as text; a number beyond the labels becomes a text that is no label."""
    return [labels[n] if n < len(labels) else "purple" for n in numbers]


def test_accuracy_strips_and_takes_any_reference():
    asked = examples("yes", "no", ("dog", "hound"), "no")
    assert metrics.score(["accuracy"], [" yes ", "yes", "hound", "No"], asked, BINARY) == {"accuracy": 0.5}


# Vectors published with T5's own metrics (google-research/text-to-text-transfer-transformer, metrics_test.py).
def test_f1_matches_t5_on_invalid_predictions():
    asked = examples(*numbered(BINARY, [0, 1, 1, 0]))
    values = metrics.score(["f1"], numbered(BINARY, [0, 1, 2, 2]), asked, BINARY)
    assert values == {"f1": pytest.approx(0.5)}


def test_mean_f1_matches_t5():
    asked = examples(*numbered(CB, [0, 1, 1, 2]))
    values = metrics.score(["mean_f1"], numbered(CB, [0, 0, 2, 2]), asked, CB)
    assert values == {"mean_f1": pytest.approx(0.4444444444444444)}


def test_squad_metrics_match_t5():
    asked = examples(("big moose", "hippo"), "correct1", ("correct2.1", "correct2.2"), ("a", "b"))
    names = ["exact_match", "token_f1"]
    assert metrics.score(names, ["a big  Moose!", "wrong", "correct2.2", "c"], asked) == {
        "exact_match": pytest.approx(0.5),
        "token_f1": pytest.approx(0.5),
    }
    values = metrics.score(names, ["abd"], examples(("abc abd", "$$$$")))
    assert values == {"exact_match": 0.0, "token_f1": pytest.approx(2 / 3)}


def test_squad_names_its_values_as_tables_do():
    asked, said = examples(("abc abd", "$$$$"), "one"), ["abd", "one"]
    exact, overlap = metrics.score(["exact_match", "token_f1"], said, asked).values()
    assert metrics.score(["squad"], said, asked) == {"exact_match": exact, "f1": overlap}


def test_a_group_is_right_where_all_of_it_is():
    asked = [Example({}, target, group=group) for target, group in zip(["yes", "no", "yes", "no"], "aabb", strict=True)]
    assert metrics.score(["group_exact_match"], ["yes", "no ", "yes", "yes"], asked) == {"exact_match": 0.5}
    with pytest.raises(ValueError, match="examples with a group"):
        metrics.score(["group_exact_match"], ["yes"], examples("yes"))


def test_superglue_score_averages_inside_a_task_first():
    # XXL, mean of five prompts: Lester et al. 2021, Table 3, whose own mean is 90.5.
    published = {
        "boolq": {"accuracy": 0.911},
        "cb": {"accuracy": 0.993, "mean_f1": 0.990},
        "copa": {"accuracy": 0.988},
        "multirc": {"exact_match": 0.657, "f1": 0.887},
        "record": {"exact_match": 0.927, "f1": 0.934},
        "rte": {"accuracy": 0.926},
        "wic": {"accuracy": 0.762},
        "wsc": {"accuracy": 0.958},
    }
    assert superglue_score({**published, "squad": {"f1": 0.0}}) == pytest.approx(0.905, abs=5e-4)
    assert set(SUPERGLUE_TASKS) == set(superglue.FORMATS)
    with pytest.raises(ValueError, match=r"\['cb'\] are missing"):
        superglue_score({task: values for task, values in published.items() if task != "cb"})


def test_normalize_answer_matches_t5():
    # U+2018, a curly quote, is not ASCII punctuation, so the official script keeps it.
    text = "`Needs\tA_LOT of the 'normalization'.\"\u2018"
    assert metrics.normalize_answer(text) == "needs alot of normalization\u2018"


def test_f1_and_mean_f1_match_sklearn_where_every_prediction_is_a_label():
    targets, guesses = [0, 1, 2, 2, 1, 0, 0], [0, 2, 2, 1, 1, 1, 0]
    values = metrics.score(["mean_f1"], numbered(CB, guesses), examples(*numbered(CB, targets)), CB)
    assert values["mean_f1"] == pytest.approx(sklearn.metrics.f1_score(targets, guesses, average="macro"))
    targets, guesses = [0, 1, 1, 0, 1], [1, 1, 0, 0, 1]
    values = metrics.score(["f1"], numbered(BINARY, guesses), examples(*numbered(BINARY, targets)), BINARY)
    assert values["f1"] == pytest.approx(sklearn.metrics.f1_score(targets, guesses))


def test_all_predictions_outside_the_labels_score_zero_without_a_warning():
    asked = examples("no", "yes", "no")
    values = metrics.score(["accuracy", "f1", "mean_f1"], ["", "<extra_id_0>", "maybe"], asked, BINARY)
    assert values == {"accuracy": 0.0, "f1": 0.0, "mean_f1": 0.0}


def test_selection_score_is_the_mean():
    assert metrics.selection_score({"accuracy": 0.5, "f1": 0.75}) == pytest.approx(0.625)
    # What does not lie in [0, 1] would outweigh all else.
    assert metrics.selection_score({"bleu": 0.5, "nist": 8.0, "rouge_l": 0.7}) == pytest.approx(0.6)
    assert metrics.selection_score({"nist": 8.0, "cider": 2.0}) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="at least one metric"):
        metrics.selection_score({})


@pytest.mark.parametrize(
    ("names", "predictions", "asked", "labels", "message"),
    [
        (["acuracy"], ["a"], examples("a"), (), "unknown metrics"),
        (["accuracy"], ["a", "b"], examples("a"), (), "2 for 1 examples"),
        (["accuracy"], [], [], (), "0 for 0 examples"),
        (["f1"], ["neutral"], examples("neutral"), CB, "two labels"),
        (["mean_f1"], ["a"], examples("a"), (), "labels"),
        (["mean_f1"], ["neutral"], examples("purple"), CB, "purple"),
    ],
)
def test_errors_say_what_came(names, predictions, asked, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.score(names, predictions, asked, labels)
