"""Votes and their ties, and N prompts in one forward pass."""

import dataclasses

import jax
import nano
import numpy as np
import pytest
from nano import quick_compilation  # noqa: F401

import jaxprompt as jp
from jaxprompt.evaluation.ensemble import EnsembleModel, by_score, ensemble_vote
from jaxprompt.evaluation.evaluate import eval_set, label_scores, score, score_members
from jaxprompt.evaluation.ranking import rank_choices
from jaxprompt.training.members import stack, take

LABELS = ("no", "yes", "maybe")


def test_most_votes_win_and_the_earliest_of_equals():
    first, second, third = ["a", "a", "a", "x"], ["b", "b", "a", "y"], ["b", "c", "b", "x"]
    assert ensemble_vote([first, second, third]) == ["b", "a", "a", "x"]
    # A tie goes to whoever stands first, so the order of the members decides it.
    assert ensemble_vote([second, first]) == ["b", "b", "a", "y"]
    assert ensemble_vote([third, second, first])[1] == "c"
    assert ensemble_vote([["one of four"], ["b"], ["c"], ["b"]]) == ["b"]
    assert ensemble_vote([first]) == first


def test_probabilities_are_averaged_and_not_likelihoods():
    # Member 0 is sure of "yes"; 1 and 2 lean to "no". Two of three vote "no", the mean probability is for "yes".
    scores = np.log([[[0.01, 0.98, 0.01]], [[0.5, 0.4, 0.1]], [[0.5, 0.4, 0.1]]])
    assert ensemble_vote([], scores, rule="mean_probability", labels=LABELS) == ["yes"]
    # A member's own constant says nothing about the labels.
    shifted = scores - np.array([500.0, 0.0, 3.0])[:, None, None]
    assert ensemble_vote([], shifted, rule="mean_probability", labels=LABELS) == ["yes"]
    assert ensemble_vote([["yes"], ["no"], ["no"]]) == ["no"]


def test_ranks_are_counted_as_borda_counts_them():
    # "maybe" is everybody's second (3 points), "no" and "yes" split the rest: 2 + 0 + 0 and 0 + 2 + 2 = 4.
    scores = np.array([[[3.0, 1.0, 2.0]], [[1.0, 3.0, 2.0]], [[1.0, 3.0, 2.0]]])
    assert ensemble_vote([], scores, rule="ranked", labels=LABELS) == ["yes"]
    # With two members the three labels have 2 points each, and the first stands.
    assert ensemble_vote([], scores[:2], rule="ranked", labels=LABELS) == ["no"]
    # Equally likely labels share points: "no" has 1.5 + 0, "yes" 1.5 + 2, "maybe" 0 + 1.
    tied = np.array([[[5.0, 5.0, 1.0]], [[1.0, 3.0, 2.0]]])
    assert ensemble_vote([], tied, rule="ranked", labels=LABELS) == ["yes"]


def test_what_cannot_be_voted_on_is_refused():
    with pytest.raises(ValueError, match=r"unknown rule 'mean'.*majority"):
        ensemble_vote([["a"]], rule="mean")
    with pytest.raises(ValueError, match=r"as many answers of each member.*\[2, 1\]"):
        ensemble_vote([["a", "b"], ["a"]])
    with pytest.raises(ValueError, match=r"needs scores \[N, M, 3\].*got \(2, 4, 2\)"):
        ensemble_vote([], np.zeros((2, 4, 2)), rule="ranked", labels=LABELS)


def test_members_stand_by_score_and_then_by_number():
    assert by_score({0: 0.5, 1: 0.9, 2: 0.9, 4: 0.7}) == [1, 2, 4, 0]


METHODS = {
    "prompt tuning": jp.PromptTuning(length=3, init="sampled_vocab"),
    "prefix tuning": jp.PrefixTuning(length=3, reparametrization="flat", scale=2.0),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_one_pass_over_the_replicated_batch_answers_as_each_prompt_does(family, method):
    lm = nano.language_model() if family == "t5" else jp.load_model("nano-gpt2")
    task = nano.task({"validation": 7})
    # Room for the labels in either family's tokens.
    task = dataclasses.replace(task, format=dataclasses.replace(task.format, max_target_length=5))
    model = jp.patch(lm, METHODS[method], task.format.input)
    prompts = [METHODS[method].init_params(jax.random.key(seed), lm) for seed in range(3)]
    stacked = {"model": lm.params, "prompt": stack(prompts)}
    ensemble, data = EnsembleModel(model, 3), eval_set(model, task, "validation", batch_size=4)

    apart = [{"model": lm.params, "prompt": prompt} for prompt in prompts]
    together = score_members(ensemble, stacked, data)
    for member, params in enumerate(apart):
        alone = score(model, params, data)
        assert (together[member].predictions, together[member].values) == (alone.predictions, alone.values)
        assert nano.bits(take(stacked["prompt"], member)) == nano.bits(params["prompt"])
    if (
        family == "t5"
    ):  # weights that were drawn at random answer differently to different prompts, or this shows nothing
        assert len({tuple(scores.predictions) for scores in together}) > 1

    found = label_scores(ensemble, stacked, data)
    assert found.shape == (3, 7, 2)
    batch = model.encode_text([example.fields for example in data.examples])
    for member, params in enumerate(apart):
        np.testing.assert_allclose(found[member], rank_choices(model, params, batch, nano.LABELS), rtol=1e-4, atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 1e-3
