"""Several prompts in one run: each is what it would be in a run of its own."""

import dataclasses
import json

import jax
import nano
import numpy as np
import pytest
from nano import quick_compilation  # noqa: F401

import jaxprompt as jp
from jaxprompt import sharding
from jaxprompt.data.batching import of_one_shape
from jaxprompt.experiment import ConfigError, MeshConfig, TrainConfig
from jaxprompt.prompts.store import load_prompt
from jaxprompt.training.loop import TrainingDiverged
from jaxprompt.training.members import Bests, Member, members_of
from jaxprompt.training.optim import OptimConfig
from jaxprompt.training.run import run

SEEDS, RATES = (3, 8), (0.3, 0.1)
OPTIM = {"name": "adafactor", "learning_rate": 0.3, "weight_decay": 1e-3}


def experiment(**sections):
    defaults = {"prompt": {"length": 4, "init": "random"}, "optim": OPTIM, "task": {"max_train_examples": 11}}
    # With dropout, so that its draws are each prompt's own, too; packed, for these depend on where an example lies.
    train = {"dropout": True, "packing": "always"} | sections.get("train", {})
    return nano.experiment(**defaults | sections | {"train": train})


def together(**train):
    return experiment(train={"num_prompts": 2, "seeds": SEEDS, "learning_rates": RATES} | train)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two prompts, and a run of each."""
    root = tmp_path_factory.mktemp("members")
    run(together(), root / "both", progress=False)
    for number, (seed, rate) in enumerate(zip(SEEDS, RATES, strict=True)):
        run(experiment(seed=seed, optim=OPTIM | {"learning_rate": rate}), root / str(number), progress=False)
    return root


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


def test_each_trains_and_scores_as_in_a_run_of_its_own(finished):
    both = summary(finished / "both")
    assert (both["num_trainable"], [one["seed"] for one in both["members"]]) == (4 * 32, list(SEEDS))
    for number in (0, 1):
        alone, member = summary(finished / str(number)), both["members"][number]
        assert member["scores"] == alone["scores"]["trained prompt"]
        assert {key: member["best"][key] for key in ("step", "values")} == {
            key: alone["best"][key] for key in ("step", "values")
        }
        losses = [event["values"] for event in nano.events(finished / "both") if event["split"] == "train"]
        own = [event["values"] for event in nano.events(finished / str(number)) if event["split"] == "train"]
        np.testing.assert_allclose([row[f"loss/{number}"] for row in losses], [row["loss"] for row in own], rtol=1e-5)
        of_run, of_member = (load_prompt(finished / at)[0] for at in (f"{number}/prompt", f"both/prompts/{number}"))
        np.testing.assert_allclose(of_member.tokens, of_run.tokens, rtol=1e-5, atol=1e-5)
    # Different seeds and rates are different prompts.
    first, second = (load_prompt(finished / f"both/prompts/{number}")[0].tokens for number in (0, 1))
    assert np.abs(first - second).max() > 0.1


def test_the_best_of_them_is_the_runs_prompt_and_they_vote(finished):
    both = summary(finished / "both")
    best = both["best"]["member"]
    leading, its = (load_prompt(finished / "both" / name)[0].tokens for name in ("prompt", f"prompts/{best}"))
    assert nano.bits(leading) == nano.bits(its)
    scores = [member["scores"]["accuracy"] for member in both["members"]]
    assert both["scores"]["average"]["accuracy"] == pytest.approx(np.mean(scores))
    assert both["scores"]["best"]["accuracy"] == scores[best]
    assert both["scores"]["ensemble"].keys() == {"accuracy"}


def test_a_run_of_several_that_stopped_goes_on_to_the_same_end(finished, tmp_path):
    run(together(), tmp_path, progress=False, stop_after=4)
    run(together(), tmp_path, progress=False)
    assert nano.events(tmp_path) == nano.events(finished / "both")
    for number in (0, 1):
        resumed, whole = (load_prompt(at / f"prompts/{number}")[0] for at in (tmp_path, finished / "both"))
        assert nano.bits(resumed.tokens) == nano.bits(whole.tokens)


def test_one_that_diverges_does_not_take_the_others_along(finished, tmp_path):
    # Its virtual tokens pass fp32's range at the second step.
    run(together(learning_rates=(0.3, 1e38)), tmp_path, progress=False)
    found = summary(tmp_path)
    assert "gave {" in found["members"][1]["diverged"]
    assert "diverged" not in found["members"][0]
    expected = summary(finished / "both")["members"][0]
    assert found["members"][0]["scores"] == expected["scores"]
    with pytest.raises(TrainingDiverged, match=r"step \d+ gave"):
        run(together(learning_rates=(1e38, 1e38)), tmp_path / "all", progress=False)


def test_on_several_devices_they_are_the_same(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "default_devices", lambda: jax.devices()[:4])
    changed = together()
    changed = dataclasses.replace(changed, mesh=MeshConfig(data=2, model=2))
    run(changed, tmp_path, progress=False)
    for number in (0, 1):
        split, whole = (load_prompt(at / f"prompts/{number}")[0] for at in (tmp_path, finished / "both"))
        np.testing.assert_allclose(split.tokens, whole.tokens, rtol=1e-4, atol=1e-4)


def test_members_are_numbered_by_seed_unless_told():
    optim = OptimConfig(learning_rate=0.2)
    assert members_of(TrainConfig(), optim, 5) == ()
    assert members_of(TrainConfig(num_prompts=2), optim, 5) == (Member(5, 0.2), Member(6, 0.2))
    told = TrainConfig(num_prompts=2, seeds=(9, 9), learning_rates=(0.1, 0.4))
    assert members_of(told, optim, 5) == (Member(9, 0.1), Member(9, 0.4))


def test_patience_ends_a_members_search_and_not_the_others():
    bests = Bests([Member(0, 0.1), Member(1, 0.1)], patience=2)
    assert bests.improved(0, 1, 0.5, {})["leads"]
    assert bests.improved(1, 1, 0.4, {})["leads"] is False
    assert bests.improved(0, 2, 0.5, {}) is None  # an equal score is none better
    assert bests.improved(1, 2, 0.6, {})["leads"]
    assert bests.improved(1, 3, 0.7, {})["leads"]
    assert not bests.wait_in_vain(3)
    assert bests.improved(0, 4, 0.9, {}) is None  # its own run would have ended at step 3
    assert bests.wait_in_vain(5)
    again = Bests([Member(0, 0.1), Member(1, 0.1)], patience=2)
    again.restore(json.loads(json.dumps(bests.record())))
    assert (again.each, again.overall) == (bests.each, bests.overall)


def test_what_cannot_train_together_is_refused(tmp_path):
    for changes, message in (
        ({"num_prompts": 0}, "at least 1"),
        ({"num_prompts": 3, "seeds": (1, 2)}, "seeds has 2 values for train.num_prompts=3"),
        ({"learning_rates": (0.1, 0.2)}, "one for each"),
        ({"num_prompts": 2, "tune_model": True}, "one frozen model"),
    ):
        with pytest.raises(ConfigError, match=message):
            TrainConfig(**changes)
    for changes in (
        {"train": {"num_prompts": 2}, "prompt": {"method": "model_tuning"}},
        {"train": {"seeds": (3,), "tune_model": True}},
    ):
        with pytest.raises(ConfigError, match="share one frozen model"):
            run(experiment(**changes), tmp_path, progress=False)
    encoded = jp.patch(nano.language_model(), jp.PTuning(length=4, encoder="mlp"), "{soft:4} {text} {target}")
    half = (("prompt/encoder/.*", "freeze"), ("prompt/.*", "train"), ("model/.*", "freeze"))
    with pytest.raises(ConfigError, match=r"the rules freeze 'prompt/encoder/.* all parts must"):
        jp.train(encoded, nano.task(), tmp_path, train=TrainConfig(num_prompts=2), rules=half)
    assert not jax.tree.leaves(list(tmp_path.glob("*/*")))


def test_a_row_is_dropped_from_alike_however_far_it_is_padded():
    model = jp.patch(nano.language_model(), jp.PromptTuning(length=4), "{soft:4} review: {text}")
    params = model.init_params(jax.random.key(0))
    rows = [{"text": "the sea was cold"}, {"text": "the town was warm and the king"}]
    short = model.encode_text(rows, nano.LABELS)
    long = model.encode_text(
        [*rows, {"text": "the road and the sea and the town and the house"}], ["a", "b", "c d e f g"]
    )
    long = jax.tree.map(lambda leaf: leaf[:2], long)
    _, widened = of_one_shape([long, short], pad_id=0)
    assert (widened.inputs.shape, short.inputs.shape < long.inputs.shape) == (long.inputs.shape, True)

    def logits(batch, deterministic=False):
        return model.apply(params, batch, deterministic=deterministic, rngs={"dropout": jax.random.key(1)})

    found, expected = logits(widened)[:, : short.targets.shape[1]], logits(short)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected - logits(short, deterministic=True)).max() > 0.1, "or nothing was dropped"
