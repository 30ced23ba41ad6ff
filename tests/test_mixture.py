"""Mixtures of tasks: T5's texts and rates, batches that resume, scores by task, and a run on one."""

import collections
import dataclasses
import json

import jax
import nano
import numpy as np
import pytest
from nano import quick_compilation  # noqa: F401

import jaxprompt as jp
from jaxprompt.config_values import ConfigError
from jaxprompt.data.features import Feature
from jaxprompt.data.mixture import mix, mixing_rates
from jaxprompt.data.named_source import NamedSource
from jaxprompt.data.pipeline import train_batches
from jaxprompt.data.tasks import FORMATS, load_task
from jaxprompt.evaluation.task_sets import by_task, eval_sets, score_sets
from jaxprompt.experiment import Experiment
from jaxprompt.training.open_tasks import open_task
from jaxprompt.training.run import run
from jaxprompt.training.train import check_scorable

SUPERGLUE = {"boolq": 9427, "cb": 250, "copa": 400, "multirc": 27_243, "record": 138_854, "rte": 2490, "wic": 5428,
             "wsc": 259, "dpr": 1322}  # fmt: skip
"""The weights in T5's SuperGLUE mixture, which are numbers of training examples."""


def rows(count, mark):
    return [Feature(np.full(3, mark, np.int32), np.array([1], np.int32), number) for number in range(count)]


def batches(sizes, weights, *, seed=3, batch_size=8, **shares):
    parts = [rows(size, mark) for mark, size in enumerate(sizes)]
    return train_batches(
        parts, weights=weights, batch_size=batch_size, seed=seed, pad_id=0, buckets=4, target_buckets=1, **shares
    )


def test_rates_are_those_of_examples_proportional_mixing():
    counts = list(SUPERGLUE.values())
    assert mixing_rates(counts) == [count / sum(counts) for count in counts], "T5 mixes SuperGLUE without a limit"
    assert mixing_rates([10, 1000, 30], limit=60) == [0.1, 0.6, 0.3]


def test_a_mixture_meets_its_rates_and_each_task_its_own_epochs():
    seen = collections.defaultdict(list)
    with_limit = mixing_rates([6, 40], limit=18)  # 1/4 and 3/4
    stream = batches([6, 40], with_limit)
    for _ in range(12):
        batch = next(stream)
        for mark, index in zip(batch.inputs[:, 0], batch.index, strict=True):
            seen[int(mark)].append(int(index))
    stream.close()
    assert (len(seen[0]), len(seen[1])) == (24, 72)
    for start in range(0, 24, 6):
        assert sorted(seen[0][start : start + 6]) == list(range(6))
    assert sorted(seen[1][:40]) == list(range(40))
    assert seen[0][:6] != seen[0][6:12], "every epoch has an order of its own"


def test_batches_go_on_where_they_stopped_and_shares_make_the_whole():
    whole, again = batches([5, 30], [0.25, 0.75]), batches([5, 30], [0.25, 0.75])
    parts = [batches([5, 30], [0.25, 0.75], process_index=number, process_count=2) for number in (0, 1)]
    for _ in range(3):
        next(whole)
        together = [next(part) for part in parts]
    again.set_state(json.loads(json.dumps(whole.get_state())))
    third = batches([5, 30], [0.25, 0.75])
    for _ in range(2):
        next(third)
    np.testing.assert_array_equal(next(third).index, np.concatenate([part.index for part in together]))
    assert nano.bits(next(again)) == nano.bits(next(whole))
    other = batches([5, 30], [0.5, 0.5])
    with pytest.raises(ValueError, match=r"saved data position is one of .*'weights': \[0.25, 0.75\]"):
        other.set_state(whole.get_state())
    for each in (whole, again, third, other, *parts):
        each.close()
    with pytest.raises(ValueError, match=r"a weight above 0 for each of 2 sequences, got \[1.0\]"):
        batches([5, 30], [1.0])


def write(directory, name, *records):
    directory.mkdir(exist_ok=True)
    for split in ("train", "validation"):
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return load_task(name, f"jsonl:{directory}")


def test_texts_begin_as_t5s(tmp_path):
    # As `t5.data.preprocessors` writes them (t5 0.9.4): `boolq passage: …`, `wsc: …`, and DPR like WSC.
    boolq = write(tmp_path / "b", "boolq", {"passage": "It rains.", "question": "is it dry", "label": 0})
    sentence = {"sentence": "Bob asked Tom if he can lend money.", "pronoun": "he", "candidates": ["Bob", "Tom"]}
    dpr = write(tmp_path / "d", "dpr", sentence | {"label": 1})
    mixture = mix({"boolq": boolq, "dpr": dpr}, unscored=["dpr"])
    texts = {name: task.examples("train")[0] for name, task in mixture.tasks.items()}
    assert texts["boolq"].fields["input"] == "boolq passage: It rains. question: is it dry"
    assert texts["boolq"].target == "False"
    assert texts["dpr"].fields["input"] == "wsc: Bob asked Tom if *he* can lend money."
    assert texts["dpr"].target == "Tom"
    assert mixture.format.init_words == ("False", "True")
    assert list(mixture.scored) == ["boolq"]
    assert FORMATS["boolq"].input == "passage: {passage} question: {question}", "the task itself is as it was"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unscored": ["b"]}, r"unscored are \['b'\], but the tasks are \['a'\]"),
        ({"unscored": ["a"]}, "needs a task that is evaluated"),
        ({"limit": 0}, "it must be at least 1"),
    ],
)
def test_a_mixture_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        mix({"a": nano.task()}, **arguments)


def test_names_in_lists_of_tasks():
    assert NamedSource.parse("boolq") == NamedSource("boolq")
    assert NamedSource.parse("x=jsonl:a/b@test") == NamedSource("x", "jsonl:a/b", "test")
    assert NamedSource.parse("dpr=tfds:d@") == NamedSource("dpr", "tfds:d", "")
    assert NamedSource.parse("mrqa_drop@test") == NamedSource("mrqa_drop", "", "test")
    assert NamedSource.parse("x=jsonl:/me@home/b") == NamedSource("x", "jsonl:/me@home/b")
    with pytest.raises(ConfigError, match="cannot read '=x'; write NAME=SOURCE"):
        NamedSource.parse("=x")


# Texts are cut to one length, so that there is one shape to compile.
MIXTURE = {"source": "mini:{name}", "mixture": ["sentiment", "entailment=mini:entailment"], "max_train_examples": 16,
           "max_input_length": 12}  # fmt: skip
SHORT = {"task": MIXTURE, "train": {"steps": 2, "checkpoint_every": 1},
         "eval": {"every": 2, "max_examples": 4, "batch_size": 4, "method": "rank"}}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one prompt on two tasks: (experiment, workdir, report)."""
    workdir = tmp_path_factory.mktemp("mixture") / "run"
    experiment = nano.experiment(prompt={"init": "class_labels"}, **SHORT)
    return experiment, workdir, run(experiment, workdir, progress=False)


def test_a_run_on_a_mixture_is_scored_by_task_and_chosen_by_the_mean(finished):
    _, workdir, report = finished
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["tasks"].keys() == {"sentiment", "entailment"}
    assert all(values.keys() == {"accuracy"} for values in summary["tasks"].values())
    assert by_task(summary["scores"]["trained prompt"]) == summary["tasks"]
    best = summary["best"]
    assert best["values"].keys() == {"sentiment/accuracy", "entailment/accuracy"}
    assert best["selection"] == pytest.approx(sum(best["values"].values()) / 2)
    assert "sentiment/accuracy" in report
    _, meta = jp.load_prompt(workdir / "prompt")
    assert (meta.task, meta.template, meta.labels) == ("sentiment+entailment", "{soft:4} {input}", ())


def test_a_stopped_run_on_a_mixture_ends_like_one_that_was_not(finished, tmp_path):
    experiment, workdir, _ = finished
    run(experiment, tmp_path, progress=False, stop_after=1)
    run(experiment, tmp_path, progress=False)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()


def test_a_task_of_a_mixture_scores_as_it_does_by_itself():
    lm = nano.language_model()
    experiment = Experiment.from_dict({"task": MIXTURE})
    model = jp.patch(lm, jp.ModelTuning(), "{input}")
    params = model.init_params(jax.random.key(0))
    sets = eval_sets(model, open_task(experiment), "validation", batch_size=4, max_examples=4)
    mixed = score_sets(model, params, sets, method="rank")
    task = load_task(source="mini:entailment")
    format = dataclasses.replace(task.format, input=f"entailment {task.format.input}", max_input_length=12)
    alone = jp.patch(lm, jp.ModelTuning(), format.input)
    task = dataclasses.replace(task, format=format)
    expected = jp.evaluate(alone, params, task, batch_size=4, max_examples=4, method="rank")
    assert mixed.tasks["entailment"].predictions == expected.predictions
    assert mixed.values["entailment/accuracy"] == expected.values["accuracy"]


@pytest.mark.parametrize(
    ("task", "eval", "message"),
    [
        ({"name": "rte"}, {}, "task.name is one task's, but task.mixture names several"),
        ({"mixture_limit": 0}, {}, "task.mixture_limit is 0"),
        ({"mixture": ["sentiment", "sentiment"]}, {}, "names a task twice"),
        ({"mixture": ["sentiment=mini:sentiment@test"]}, {}, "asks for a split of 'sentiment'"),
        ({"mixture": ["sentimental"]}, {}, "no mini task 'sentimental'"),
        ({}, {"metric": "accuracy"}, "eval.metric is 'accuracy', but sentiment.entailment has .*'sentiment/accuracy'"),
    ],
)
def test_a_mixture_that_a_config_gets_wrong(task, eval, message):
    def opened():
        experiment = nano.experiment(task=MIXTURE | task, eval=eval)
        check_scorable(open_task(experiment), "validation", experiment.eval)

    with pytest.raises(ValueError, match=message):
        opened()
