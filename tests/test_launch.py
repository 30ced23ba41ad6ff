"""`launch/train.py` as a process: flags, exit codes, and what a user gets to read."""

import json
import os

import nano
import numpy as np
import pytest

SMALL = (
    "--config.train.steps=4", "--config.train.batch_size=4", "--config.eval.every=2", "--config.eval.max_examples=8",
    "--config.task.max_train_examples=16", "--noprogress",
)  # fmt: skip


def train(*arguments, config="configs/quickstart.py"):
    return nano.python("launch/train.py", f"--config={config}", *arguments)


def small(workdir, *arguments):
    return train(f"--workdir={workdir}", f"--config.model.path={nano.model_dir()}", *SMALL, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir={}", "--config.trian.steps=3"], "--config.trian.steps=3: unknown config key 'trian': "),
        (["--workdir={}", "--config.train.stepz=3"], "expected one of ['steps', "),
        (["--workdir={}", "config.train.steps=3"], "unexpected arguments ['config.train.steps=3']"),
        (["--config.train.steps=3"], "flag --workdir=None: Flag --workdir must have a value"),
        (["--workdir={}", "--config.train.steps=many"], "flag --config.train.steps=many: invalid literal for int()"),
        (["--workdir={}", "--config.model.dtype=half"], "model.dtype is 'half'; expected one of ['float32', "),
        (["--workdir={}", "--config=configs/lester.py:size=huge"], "--config: ValueError: configs/lester.py knows "),
        (["--workdir={}", "--stop_afterr=3"], "Did you mean: stop_after ?"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_an_error_that_helps(tmp_path, arguments, message):
    done = train(*(argument.format(tmp_path / "run") for argument in arguments))
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert os.listdir(tmp_path) == []


def test_a_malformed_line_of_data_is_named(tmp_path):
    data = nano.write_rte(tmp_path / "data")
    with (data / "train.jsonl").open("a") as file:
        file.write('{"premise": "cut sho')
    arguments = ("--config.task.name=rte", f"--config.task.source=jsonl:{data}", "--config.task.test_split=")
    done = small(tmp_path / "run", *arguments)
    assert done.returncode == 1
    assert f"ValueError: {data / 'train.jsonl'}, line 21: not JSON" in done.stderr
    assert "(--traceback shows where it was raised)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in small(tmp_path / "run", *arguments, "--traceback").stderr


def test_a_run_that_diverges_fails_and_keeps_what_was_good(tmp_path):
    absurd = ("--config.optim.learning_rate=1e30", "--config.optim.schedule=linear", "--config.optim.warmup_steps=1")
    done = small(tmp_path / "run", *absurd, "--config.train.checkpoint_every=1")
    assert done.returncode == 1
    assert "TrainingDiverged: step 2 gave " in done.stderr, "the rate of step 1 is 0"
    assert "The last good checkpoint and the best export are kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path / "run/checkpoints") == ["1"]


def test_a_run_stops_goes_on_and_says_the_same_twice(tmp_path):
    stopped = small(tmp_path / "run", "--stop_after=3")
    assert (stopped.returncode, stopped.stdout) == (
        0,
        "stopped after step 3 of 4; the same command goes on from there\n",
    )
    ended = small(tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    assert "trained prompt" in ended.stdout
    assert ended.stderr == "", "no pages of log lines"
    again = small(tmp_path / "run")
    assert (again.returncode, again.stdout, again.stderr) == (0, ended.stdout, "")
    other = small(tmp_path / "run", "--config.seed=1")
    assert other.returncode == 1
    assert "  seed: there 0, here 1" in other.stderr


def test_the_quickstart_runs_on_the_shipped_model(tmp_path):
    """The one test here that needs the trained weights in jaxprompt/assets/nano-t5."""
    done = train(f"--workdir={tmp_path}", *SMALL, "--config.train.steps=8", "--config.train.log_every=4")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["num_trainable"] == 20 * 128
    assert summary["scores"].keys() == {"no prompt", "hard prompt", "trained prompt"}
    assert summary["best"]["step"] in (2, 4, 6, 8)
    losses = [event["values"]["loss"] for event in nano.events(tmp_path) if event["split"] == "train"]
    assert losses[-1] < losses[0]
    assert (tmp_path / "learning_curve.png").stat().st_size > 10_000


def evaluated(*arguments):
    done = nano.python("launch/evaluate.py", *arguments, "--max_examples=6", "--batch_size=8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_prompt_that_names_no_template_is_scored_with_the_tasks(tmp_path):
    import jaxprompt as jp
    from jaxprompt.prompts.store import BaseModel, PromptMeta

    lm = jp.load_model(nano.model_dir())
    tokens = np.zeros((3, lm.config.d_model), np.float32)
    jp.save_prompt(tmp_path / "prompt", jp.Injection(tokens=tokens), PromptMeta("prompt_tuning", BaseModel.of(lm)))
    scored = f"--prompt={tmp_path / 'prompt'}"
    assert '"num_examples": 6' in evaluated(scored, "--task=mini:sentiment", "--method=rank")
    words = tmp_path / "words.txt"
    words.write_text("Arland\nBensia\n")
    out = tmp_path / "scores.json"
    evaluated(scored, "--task=mini:facts/country", "--method=token", f"--vocabulary={words}", "--metrics=accuracy",
              "--template={subject} lies in {target} .", "--ensemble", f"--output={out}")  # fmt: skip
    report = json.loads(out.read_text())
    (scores,) = report["prompts"].values()
    assert scores.keys() == {"num_examples", "accuracy"}
    assert report["ensemble"] == scores, "of one prompt the vote is its own"
