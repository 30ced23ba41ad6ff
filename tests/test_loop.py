"""The training loop: runs that stop, die or diverge, and what they leave behind."""

import os
import signal

import jax
import nano
import numpy as np
import pytest
from nano import quick_compilation  # noqa: F401
from tiny_runs import OPTIM, SLOTS, TRAIN, run_fit, tiny

from jaxprompt.data.features import Feature
from jaxprompt.data.pipeline import train_batches
from jaxprompt.experiment import TrainConfig
from jaxprompt.prompts.prompt_tuning import PromptTuning
from jaxprompt.training.checkpoint import Checkpoints
from jaxprompt.training.loop import Score, TrainingDiverged
from jaxprompt.training.optim import make_optimizer, preset
from jaxprompt.training.step import init_state


def outcome(workdir):
    """Everything that a run came to: files byte by byte, and the newest checkpoint bit by bit."""
    trainable = {"prompt": tiny().init_params(jax.random.key(0))["prompt"]}
    optimizer = make_optimizer(OPTIM, PromptTuning.rules, trainable, TRAIN.steps)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore(init_state(trainable, optimizer, jax.random.key(0)))
    del restored.data_state["seconds"]
    files = {name: (workdir / name).read_bytes() for name in ("metrics.jsonl", "best.npy", "best.json")}
    return nano.bits(restored.state), restored.data_state, restored.step, files


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    fitted = run_fit(workdir)
    assert fitted.step == 12
    assert fitted.best["step"] == 8, "neither the first nor the last, so that it can be lost"
    return outcome(workdir), fitted


@pytest.mark.parametrize("stops", [(5,), (7,), (4, 9), (1, 2, 11)], ids=str)
def test_a_run_that_stops_ends_like_one_that_does_not(tmp_path, undisturbed, stops):
    for stop in stops:
        assert run_fit(tmp_path, stop_after=stop).step == stop
    fitted = run_fit(tmp_path)
    assert outcome(tmp_path) == undisturbed[0]
    assert fitted.best == undisturbed[1].best
    assert nano.bits(fitted.params) == nano.bits(undisturbed[1].params)


class Died(BaseException):
    """Stands for the end of a process."""


def test_a_run_that_dies_between_export_and_checkpoint_repeats_the_export(tmp_path, undisturbed):
    exported = []

    def die(best):
        exported.append(best["step"])
        if best["step"] == undisturbed[1].best["step"] and exported.count(best["step"]) == 1:
            raise Died

    with pytest.raises(Died):
        run_fit(tmp_path, after_export=die)
    run_fit(tmp_path, after_export=die)
    assert exported.count(undisturbed[1].best["step"]) == 2
    assert outcome(tmp_path) == undisturbed[0]


def kill_yourself(*_):
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """Batches that kill their process instead of giving batch n of this sitting."""

    def __init__(self, left):
        self.batches, self.left = nano.feature_batches(slots=SLOTS), left

    def __next__(self):
        self.left -= 1
        return kill_yourself() if self.left < 0 else next(self.batches)

    def __getattr__(self, name):
        return getattr(self.batches, name)


def sitting(workdir, how):
    """What a process of its own does: a run that is killed in the way named, or goes on undisturbed."""
    if how == "export":
        run_fit(workdir, after_export=kill_yourself)
    else:
        run_fit(workdir, batches=Deadly(int(how)) if how else None)


def in_a_process(workdir, how=""):
    code = "import pathlib, sys; sys.path.insert(0, 'tests'); import test_loop; "
    return nano.python("-c", f"{code}test_loop.sitting(pathlib.Path({str(workdir)!r}), {how!r})")


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_is_not(tmp_path, undisturbed):
    for how in ("6", "export"):  # after the checkpoint of step 5, and in the first evaluation that finds a new best
        killed = in_a_process(tmp_path, how)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "spl')  # as a write that was cut short leaves it
    run_fit(tmp_path)
    assert outcome(tmp_path) == undisturbed[0]


def test_a_damaged_newest_checkpoint_costs_steps_and_nothing_else(tmp_path, undisturbed):
    run_fit(tmp_path, stop_after=10)
    for file in (tmp_path / "checkpoints/10/state").rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)
    # In a process of its own, for asyncio may complain of reads that orbax never waited for.
    resumed = in_a_process(tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "/checkpoints/10 is damaged" in resumed.stderr
    assert "went back to step 5" in resumed.stderr
    assert outcome(tmp_path) == undisturbed[0]


def test_a_finished_run_is_not_run_again(tmp_path, undisturbed):
    run_fit(tmp_path)
    before = outcome(tmp_path)

    def fail(*_):
        raise AssertionError("there is nothing left to do")

    fitted = run_fit(tmp_path, evaluate=fail, batches=Deadly(0))
    assert (fitted.step, fitted.best) == (12, undisturbed[1].best)
    assert outcome(tmp_path) == before
    assert run_fit(tmp_path, stop_after=3).step == 12, "nor is it taken back"


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run_fit(tmp_path, train=TrainConfig(steps=8, batch_size=4, checkpoint_every=2, keep_checkpoints=2))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["6", "8"]


def test_the_first_of_equal_scores_is_the_best(tmp_path):
    scores, exported = iter([0.2, 0.5, 0.5, 0.4, 0.5, 0.6]), []

    def evaluate(_):
        selection = next(scores)
        return Score({"accuracy": selection, "other": 1 - selection}, selection)

    steps = TrainConfig(steps=24, batch_size=4, checkpoint_every=7)
    common = {"evaluate": evaluate, "after_export": lambda best: exported.append(best["step"]), "train": steps}
    fitted = run_fit(tmp_path, stop_after=10, **common)
    assert fitted.best == {"step": 8, "selection": 0.5, "values": {"accuracy": 0.5, "other": 0.5}}
    assert run_fit(tmp_path, stop_after=22, **common).best["step"] == 8, "a resumed run remembers it"
    assert run_fit(tmp_path, **common).best["step"] == 24
    assert exported == [4, 8, 24]


@pytest.mark.parametrize("stops", [(), (14,), (16, 20)], ids=str)
def test_a_run_ends_when_scores_cease_to_improve(tmp_path, stops):
    """Three evaluations without a better one: best at step 8, the last at step 20; however often it is interrupted."""
    selections = {4: 0.2, 8: 0.5, 12: 0.4, 16: 0.5, 20: 0.1}
    evaluated = []

    def evaluate(params):
        evaluated.append(4 * (len(evaluated) + 1))
        return Score({"accuracy": selections[evaluated[-1]]}, selections[evaluated[-1]])

    patient = TrainConfig(steps=40, batch_size=4, checkpoint_every=50, patience=3)
    for stop in stops:
        stopped = run_fit(tmp_path, evaluate=evaluate, train=patient, stop_after=stop)
        assert (stopped.step, stopped.finished) == (stop, stop == 20)
    fitted = run_fit(tmp_path, evaluate=evaluate, train=patient)
    assert (fitted.step, fitted.finished, fitted.best["step"]) == (20, True, 8)
    assert evaluated == [4, 8, 12, 16, 20]
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == 20, "the end is saved"
    again = run_fit(tmp_path, evaluate=None, batches=Deadly(0), train=patient)
    assert (again.step, again.finished, again.best) == (20, True, fitted.best)
    assert nano.bits(again.params) == nano.bits(fitted.params)


def test_without_patience_all_steps_are_made(tmp_path):
    steps = TrainConfig(steps=16, batch_size=4, checkpoint_every=50)
    fitted = run_fit(tmp_path, evaluate=lambda _: Score({"accuracy": 0.5}, 0.5), train=steps)
    assert (fitted.step, fitted.finished, fitted.best["step"]) == (16, True, 4)
    assert not run_fit(tmp_path / "part", train=steps, stop_after=3).finished


def test_events_are_complete_and_windows_are_means(tmp_path):
    run_fit(tmp_path)
    events = nano.events(tmp_path)
    assert all(event.keys() == {"step", "split", "values"} for event in events)
    assert all(isinstance(value, float) for event in events for value in event["values"].values())
    assert [event["step"] for event in events if event["split"] == "train"] == [3, 4, 6, 8, 9, 12]
    assert [event["step"] for event in events if event["split"] == "validation"] == [4, 8, 12]
    assert {event["split"] for event in events} == {"train", "validation"}
    batches = nano.feature_batches(slots=SLOTS)
    read = [next(batches) for _ in range(12)]
    batches.close()
    since = 0
    for event in events:
        if event["split"] == "train":
            window, since = read[since : event["step"]], event["step"]
            padding = [np.mean(batch.input_segments == 0) for batch in window]
            tokens = [batch.target_weights.sum() for batch in window]
            assert event["values"]["padding_share"] == pytest.approx(np.mean(padding))
            assert event["values"]["num_tokens"] == pytest.approx(np.mean(tokens))
            assert event["values"]["num_examples"] == 4
    assert len({event["values"].get("padding_share") for event in events}) > 2


def batches_with_a_stray_id():
    """One example names a virtual token that the prompt does not have."""
    size = nano.language_model().config.vocab_size
    features = [
        Feature(np.array([*range(size, size + SLOTS), 20 + n, size + SLOTS if n == 9 else 7]), np.array([5, 1]))
        for n in range(40)
    ]
    return train_batches(features, batch_size=4, seed=2, pad_id=0, buckets=8, target_buckets=2)


def test_divergence_names_the_first_bad_step_and_keeps_what_was_good(tmp_path):
    batches = batches_with_a_stray_id()
    bad = next(number for number, batch in enumerate(batches, start=1) if 9 in batch.index)
    batches.close()
    assert 2 < bad < 10
    train = TrainConfig(steps=12, batch_size=4, log_every=100, checkpoint_every=bad - 2)
    for _ in range(2):  # and again, from the checkpoint
        with pytest.raises(TrainingDiverged, match=rf"step {bad} gave .*'loss': nan.*good checkpoint.*learning_rate"):
            run_fit(tmp_path, train=train, batches=batches_with_a_stray_id())
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [str(bad - 2)]
    good, _, step, files = outcome(tmp_path)
    assert step == bad - 2
    assert np.isfinite(np.load(tmp_path / "best.npy")).all() or bad <= 4
    assert b"NaN" not in files["metrics.jsonl"]
    assert good


def test_an_absurd_learning_rate_is_divergence(tmp_path):
    with pytest.raises(TrainingDiverged, match=r"step 1 gave .*update_rms.* inf"):
        run_fit(tmp_path, optim=preset("lester2021", learning_rate=1e30))
    with pytest.raises(TrainingDiverged, match=r"the evaluation after step 4 gave .*'closeness': nan"):
        run_fit(tmp_path / "other", evaluate=lambda _: Score({"closeness": float("nan")}, float("nan")))
    assert not (tmp_path / "other/best.npy").exists()
