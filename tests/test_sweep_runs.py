"""Sweeps that run: what is finished is left, what fails hides nothing, and what was interrupted goes on."""

import json
import os
import signal

import nano
import pytest
from nano import quick_compilation  # noqa: F401

from jaxprompt.paths import as_path
from jaxprompt.sweeps import runner
from jaxprompt.sweeps.folding import fold
from jaxprompt.sweeps.grid import expand, link
from jaxprompt.training import task_batches as batches_module
from jaxprompt.training.preemption import Preempted
from jaxprompt.training.run import SUMMARY, run

CONFIG = """
from jaxprompt.experiment import Experiment


def get_config():
    return Experiment.from_dict({values!r}).to_config()
"""


@pytest.fixture
def config(tmp_path):
    values = nano.experiment().to_dict()
    (tmp_path / "nano.py").write_text(CONFIG.format(values=values))
    return str(tmp_path / "nano.py")


@pytest.fixture
def root(tmp_path):
    return str(tmp_path / "root")


class Maker:
    """Makes runs in no time; `wrong` says what is raised in the runs of some names."""

    def __init__(self, **wrong):
        self.made, self.wrong = [], wrong

    def __call__(self, experiment, workdir):
        self.made.append(workdir.name)
        assert (workdir / "axes.json").exists(), "a run that dies at once is described, too"
        if workdir.name in self.wrong:
            raise self.wrong[workdir.name]
        best = {"step": 4, "values": {"accuracy": 0.9}}
        (workdir / SUMMARY).write_text(json.dumps({"best": best}))
        return f"report of {workdir.name}"


def tasks(config, root, *names, **stage):
    return link(expand([{"config": config, "axes": {"task.name": list(names)}, **stage}], root), root)


def states(outcomes):
    return {one.run.name: one.state for one in outcomes}


def reported(root, name="sweep.json"):
    return {row["name"]: row["state"] for row in json.loads((as_path(root) / name).read_text())["runs"]}


def test_a_broken_run_is_reported_and_hides_nothing(config, root):
    runs, said = tasks(config, root, "rte", "cb", "boolq"), []
    maker = Maker(cb=ValueError("no such split\nand more of it"))
    outcomes = runner.run_all(runs, root, maker, say=said.append)
    assert maker.made == ["rte", "cb", "boolq"]
    assert states(outcomes) == reported(root) == {"rte": "finished", "cb": "failed", "boolq": "finished"}
    assert not runner.succeeded(outcomes)
    assert said[:3] == ["[1/3] rte", "report of rte", "[2/3] cb"]
    lines = runner.to_text(outcomes).splitlines()
    assert lines[0].split() == ["rte", "finished", "0", "s", "best", "validation", "accuracy", "0.900,", "step", "4"]
    assert lines[1].endswith("ValueError: no such split")
    assert lines[-1] == "2 finished, 1 failed"
    kept = json.loads((as_path(root) / "sweep.json").read_text())["runs"][1]
    assert kept["message"] == "ValueError: no such split\nand more of it"
    axes = json.loads((as_path(root) / "cb" / "axes.json").read_text())
    assert axes == kept["axes"] == {"task": "cb", "method": "prompt_tuning", "length": 4, "seed": 0}

    again = Maker()  # mended
    assert states(runner.run_all(runs, root, again)) == {
        "rte": "was finished",
        "cb": "finished",
        "boolq": "was finished",
    }
    assert again.made == ["cb"]


def test_the_first_failure_may_end_it(config, root):
    runs = tasks(config, root, "rte", "cb", "boolq")
    outcomes = runner.run_all(runs, root, Maker(cb=OSError("full")), fail_fast=True)
    assert states(outcomes) == reported(root) == {"rte": "finished", "cb": "failed", "boolq": "not begun"}
    assert not runner.succeeded(outcomes)


def test_where_an_error_was_raised_is_told_on_demand(config, root, capsys):
    runner.run_all(tasks(config, root, "rte"), root, Maker(rte=KeyError("key")), tracebacks=True)
    captured = capsys.readouterr()
    assert "Traceback" in captured.err
    assert "failed: KeyError: key\n" in captured.out


def test_a_signal_ends_the_sweep_and_not_only_the_run(config, root):
    runs = tasks(config, root, "rte", "cb", "boolq")
    with pytest.raises(Preempted):
        runner.run_all(runs, root, Maker(cb=Preempted("stopped by SIGTERM")))
    assert reported(root) == {"rte": "finished", "cb": "stopped", "boolq": "not begun"}


def test_what_starts_from_a_failed_run_is_skipped(config, root):
    stages = [
        {"name": "adapt", "config": config, "axes": {"seed": [0, 1]}, "fold": []},
        {"name": "tune", "config": config, "axes": {"seed": [0, 1]}, "fold": [],
         "set": {"model.path": "{root}/adapt-seed{seed}/model"}},
        {"name": "again", "config": config, "set": {"prompt.path": "{root}/tune-seed0/prompt"}},
    ]  # fmt: skip
    runs = link(expand(stages, root), root)
    outcomes = runner.run_all(runs, root, Maker(**{"adapt-seed0": ValueError("diverged")}))
    assert states(outcomes) == {
        "adapt-seed0": "failed", "adapt-seed1": "finished", "tune-seed0": "skipped", "tune-seed1": "finished",
        "again": "skipped",
    }  # fmt: skip
    messages = {one.run.name: one.message for one in outcomes}
    assert messages["tune-seed0"] == "it starts from adapt-seed0, which failed"
    assert messages["again"] == "it starts from tune-seed0, which was skipped"
    chosen = [run for run in runs if run.name.startswith("tune")]
    assert states(runner.run_all(chosen, root, Maker())) == {"tune-seed0": "skipped", "tune-seed1": "was finished"}


def test_a_directory_of_another_sweep_is_left_alone(config, root):
    runner.run_all(tasks(config, root, "rte"), root, Maker())
    before = {path: path.read_bytes() for path in (as_path(root) / "rte").iterdir()}
    others = tasks(config, root, "rte", "cb", set={"train.steps": 9})
    outcomes = runner.run_all(others, root, maker := Maker())
    assert maker.made == ["cb"]
    assert outcomes[0].state == "failed"
    assert "holds a run of another configuration:\n  train.steps: there 6, here 9" in outcomes[0].message
    assert {path: path.read_bytes() for path in (as_path(root) / "rte").iterdir()} == before


def test_a_folded_run_says_what_it_is(config, root):
    runs = link(fold(expand([{"config": config, "axes": {"seed": [0, 1, 2]}}], root)), root)
    said = []
    runner.run_all(runs, root, Maker(), say=said.append, report="sweep-0-of-2.json")
    assert said[0] == "[1/1] nano, 3 runs in one"
    assert reported(root, "sweep-0-of-2.json") == {"nano": "finished"}
    assert json.loads((as_path(root) / "nano" / "axes.json").read_text())["seeds"] == [0, 1, 2]


class Interrupting:
    """Training batches that send SIGTERM to their own process while the n-th is prepared, and count."""

    def __init__(self, batches, at, counts):
        self.batches, self.at, self.counts = batches, at, counts

    def __next__(self):
        self.counts.append(len(self.counts) + 1)
        if len(self.counts) == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return next(self.batches)

    def __getattr__(self, name):
        return getattr(self.batches, name)


def test_a_sweep_that_is_interrupted_within_a_run_goes_on(config, root, tmp_path, monkeypatch):
    """Real runs: one that finishes, one without a model, one that starts from that, one that is interrupted."""
    stages = [
        {"name": "good", "config": config},
        {"name": "broken", "config": config, "set": {"model.path": str(tmp_path / "nowhere")}},
        {"name": "next", "config": config, "set": {"model.path": "{root}/broken/model"}},
        {"name": "last", "config": config, "set": {"seed": 1}},
    ]
    runs = link(expand(stages, root), root)
    counts, original, at = [], batches_module.train_batches, 6 + 4
    monkeypatch.setattr(
        batches_module, "train_batches", lambda *args, **kwargs: Interrupting(original(*args, **kwargs), at, counts)
    )

    def make(experiment, workdir):
        return run(experiment, workdir, progress=False)

    with pytest.raises(Preempted, match="stopped by SIGTERM after step 4 of 6, which is saved"):
        runner.run_all(runs, root, make)
    assert reported(root) == {"good": "finished", "broken": "failed", "next": "skipped", "last": "stopped"}
    finished = {path: path.read_bytes() for path in (as_path(root) / "good").iterdir() if path.is_file()}

    outcomes = runner.run_all(runs, root, make)
    assert states(outcomes) == {"good": "was finished", "broken": "failed", "next": "skipped", "last": "finished"}
    assert len(counts) == 6 + 4 + 2, "the interrupted run had two of its six steps left"
    assert "nowhere" in outcomes[1].message
    assert outcomes[2].message == "it starts from broken, which failed"
    assert {path: path.read_bytes() for path in finished} == finished
    assert [event["step"] for event in nano.events(as_path(root) / "last") if event["split"] == "train"] == [2, 3, 4, 6]


def sweep(*arguments):
    return nano.python("launch/sweep.py", *arguments)


def test_the_command_reports_at_the_end(config, root):
    settings = (f"--config={config}", f"--root={root}", "--axis=seed=0,1", "--set=model.path=nowhere", "--noprogress")
    done = sweep(*settings)
    assert done.returncode == 1
    last = [line.split() for line in done.stdout.splitlines()[-2:]]
    assert last[0][:2] == ["nano", "failed"]
    assert last[1] == ["1", "failed"]
    assert "Traceback" not in done.stdout + done.stderr
    assert reported(root) == {"nano": "failed"}
    done = sweep(*settings, "--nofold", "--print")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"python launch/train.py --config={config} --workdir={root}/seed{seed} --config.model.path=nowhere "
        f"--config.seed={seed}"
        for seed in (0, 1)
    ]
    assert json.loads((as_path(root) / "seed1" / "axes.json").read_text())["seed"] == 1
