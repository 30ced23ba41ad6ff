"""`run`: an experiment from its config to its summary, and what it says of experiments that cannot be run."""

import json
import os
import re
import shutil

import nano
import pytest
from nano import quick_compilation  # noqa: F401

from jaxprompt.cli import clear_errors
from jaxprompt.experiment import ConfigError
from jaxprompt.prompts.store import load_prompt
from jaxprompt.training import run as run_module
from jaxprompt.training import task_batches as batches_module
from jaxprompt.training.run import run


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run with baselines and a test split: (experiment, workdir, report)."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    experiment = nano.experiment(task={"test_split": "test"}, eval={"baselines": True})
    return experiment, workdir, run(experiment, workdir, progress=False)


def test_a_run_leaves_what_the_design_promises(finished):
    _, workdir, report = finished
    assert sorted(os.listdir(workdir)) == [
        "checkpoints", "config.json", "learning_curve.png", "metrics.jsonl", "prompt", "summary.json",
    ]  # fmt: skip
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["scores"].keys() == {"no prompt", "hard prompt", "trained prompt"}
    assert all(values.keys() == {"accuracy"} for values in summary["scores"].values())
    assert (summary["split"], summary["step"], summary["num_trainable"]) == ("test", 6, 4 * 32)
    assert summary["num_frozen"] == nano.language_model().num_params
    assert summary["best"]["values"] == load_prompt(workdir / "prompt")[1].score
    assert summary["seconds"] > 0
    assert summary["saved_bytes"] == sum(len(data) for data in contents(workdir / "prompt").values())
    for text in (
        "scores on the test split",
        "trained prompt",
        "hard prompt",
        "no prompt",
        f"128 ({100 * 128 / (128 + summary['num_frozen']):.4f} %)",
    ):
        assert text in report


def test_a_finished_run_says_the_same_again_and_does_nothing(finished, monkeypatch):
    experiment, workdir, report = finished
    before = contents(workdir)
    for name in ("open_model", "open_task", "train"):
        monkeypatch.delattr(run_module, name)
    assert run(experiment, workdir, progress=False) == report
    assert contents(workdir) == before


def test_another_experiment_in_the_same_directory_is_refused(finished):
    _, workdir, _ = finished
    before = contents(workdir)
    with pytest.raises(ConfigError, match=r"train.steps: there 6, here 8"):
        run(nano.experiment(task={"test_split": "test"}, eval={"baselines": True}, train={"steps": 8}), workdir)
    assert contents(workdir) == before


def test_a_stopped_run_ends_like_one_that_was_not(finished, tmp_path):
    experiment, workdir, _ = finished
    assert run(experiment, tmp_path, progress=False, stop_after=3) == (
        "stopped after step 3 of 6; the same command goes on from there"
    )
    assert not (tmp_path / "summary.json").exists()
    run(experiment, tmp_path, progress=False)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
    prompts = [load_prompt(directory / "prompt") for directory in (workdir, tmp_path)]
    assert nano.bits(prompts[0][0]) == nano.bits(prompts[1][0])
    assert prompts[0][1] == prompts[1][1]
    ours, theirs = (json.loads((directory / "summary.json").read_text()) for directory in (workdir, tmp_path))
    assert ours.keys() == theirs.keys()
    assert {key for key in ours if ours[key] != theirs[key]} <= {"seconds", "saved_bytes"}


def test_json_lines_of_a_known_task(tmp_path, monkeypatch):
    data = nano.write_rte(tmp_path / "data", train=20, validation=9)
    counts, original = [], batches_module.train_batches

    def counting(features, **rest):
        counts.append(len(features))
        return original(features, **rest)

    monkeypatch.setattr(batches_module, "train_batches", counting)
    template = "{soft:1} {premise} {soft:3} claim: {hypothesis}"
    experiment = nano.experiment(
        f"jsonl:{data}",
        task={"name": "rte", "max_train_examples": 7},
        prompt={"template": template, "init": "class_labels"},
        eval={"max_examples": 0, "method": "rank"},
    )
    report = run(experiment, tmp_path / "run", progress=False)
    assert counts == [7]
    assert "scores on the validation split" in report
    _, meta = load_prompt(tmp_path / "run/prompt")
    assert (meta.template, meta.task, meta.labels) == (template, "rte", ("entailment", "not_entailment"))
    scores = json.loads((tmp_path / "run/summary.json").read_text())["scores"]["trained prompt"]
    assert 9 * scores["accuracy"] == pytest.approx(round(9 * scores["accuracy"])), "nine examples, each counted once"


def rte(tmp_path, **splits):
    """RTE's files, with the whole text of some replaced."""
    nano.write_rte(tmp_path / "data")
    for split, text in splits.items():
        (tmp_path / "data" / f"{split}.jsonl").write_text(text)
    return {"source": f"jsonl:{tmp_path / 'data'}", "task": {"name": "rte"}}


def broken_model(tmp_path, damage):
    directory = tmp_path / "model"
    shutil.copytree(nano.model_dir(), directory)
    if damage == "tokenizer":
        for file in directory.glob("tokenizer*"):
            file.unlink()
    elif damage == "weights":
        (directory / "model.safetensors").unlink()
    else:
        os.truncate(directory / "model.safetensors", (directory / "model.safetensors").stat().st_size // 2)
    return {"model": {"path": str(directory)}}


LINE = '{"premise": "a", "hypothesis": "b", "label": 0}\n'
MISTAKES = {
    "unknown task": (lambda _: {"source": "mini:sentimental"}, "no mini task 'sentimental'; the tasks are .*sentiment"),
    "unknown source": (lambda _: {"source": "xml:x"}, "cannot read the source 'xml:x'; write jsonl:DIR"),
    "unknown name": (lambda at: rte(at) | {"task": {"name": "rtx"}}, "no published task 'rtx'"),
    "no directory": (lambda at: {"source": f"jsonl:{at / 'none'}"}, "there is no directory .*none"),
    "empty split": (lambda at: rte(at, validation=""), r"split 'validation' .* is empty .*validation.jsonl, 0 records"),
    "no such split": (lambda at: rte(at) | {"task": {"name": "rte", "train_split": "dev"}}, "no split 'dev'; it has"),
    "malformed line": (lambda at: rte(at, train=LINE + LINE + '{"premise": \n'), r"train.jsonl, line 3: not JSON"),
    "missing field": (
        lambda at: rte(at, validation=LINE + '{"premise": "a", "label": 1}\n'),
        r"validation.jsonl, line 2 is no example of 'rte': .*no field 'hypothesis'",
    ),
    "strange label": (lambda at: rte(at, train=LINE.replace("0", '"maybe"')), "train.jsonl, line 1 .*'maybe' is none"),
    "no answers": (
        lambda at: rte(at, test=LINE.replace("0", "-1")) | {"task": {"name": "rte", "test_split": "test"}},
        "split 'test' of .* has no answers to score by; name others as task.validation_split and task.test_split",
    ),
    "some answers": (
        lambda at: rte(at, test=LINE + LINE.replace("0", "-1")) | {"task": {"name": "rte", "test_split": "test"}},
        "split 'test' of .* has 1 of 2 examples without answers to score by",
    ),
    "transfer to nowhere": (lambda _: {"eval": {"transfer": ["mini:sentimental"]}}, "no mini task 'sentimental'"),
    "transfer to other labels": (lambda _: {"eval": {"transfer": ["mini:topic"]}}, "'topic' .* there must be as many"),
    "transfer to no split": (lambda _: {"eval": {"transfer": ["mini:sentiment/inn@dev"]}}, "no split 'dev'; it has"),
    "transfer to other fields": (
        lambda _: {"prompt": {"template": "{soft:4} {review}"}, "eval": {"transfer": ["mini:entailment"]}},
        r"names unknown fields \['review'\]",
    ),
    "transfer to one name": (
        lambda _: {"eval": {"transfer": ["mini:sentiment/inn", "mini:sentiment/inn@test"]}},
        "names 'sentiment/inn' twice; write NAME=SOURCE",
    ),
    "prompt design of several": (
        lambda _: {"prompt": {"method": "prompt_design"}, "train": {"num_prompts": 2}}, "one text for one task",
    ),
    "unknown metric": (lambda _: {"eval": {"metric": "f1"}}, r"eval.metric is 'f1', but sentiment has \['accuracy'\]"),
    "label word": (
        lambda _: {"prompt": {"init": "class_labels", "labels": ["gut", "größer"]}},
        "the label 'größer' is the unknown token.*write it in words that it knows",
    ),
    "no words": (lambda _: {"prompt": {"init": "string"}}, r"prompt.init='string' needs prompt.text"),
    "length": (lambda _: {"prompt": {"length": -1}}, "prompt.length is -1; a prompt has at least one virtual token"),
    "slots": (lambda _: {"prompt": {"template": "{soft:3} {review}"}}, r"3 .*4"),
    "field": (lambda _: {"prompt": {"template": "{soft:4} {text}"}}, r"'text'.*review"),
    "no model": (lambda _: {"model": {"path": "/nowhere/t5"}}, "no directory /nowhere/t5"),
    "no path": (lambda _: {"model": {"path": ""}}, "model.path"),
    "no tokenizer": (lambda at: broken_model(at, "tokenizer"), "model holds no tokenizer .*give another directory"),
    "no weights": (lambda at: broken_model(at, "weights"), "model holds no weights: looked for model.safetensors"),
    "cut weights": (lambda at: broken_model(at, "cut"), "model.safetensors"),
    "optimiser": (lambda _: {"optim": {"schedule": "cosine", "warmup_steps": 9}}, "warmup_steps.*the run has 6 steps"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_message_and_changes_nothing(tmp_path, mistake):
    make, message = MISTAKES[mistake]
    sections = make(tmp_path)
    inputs = contents(tmp_path)
    with pytest.raises(SystemExit) as exit, clear_errors(traceback=False):
        run(nano.experiment(sections.pop("source", "mini:sentiment"), **sections), tmp_path / "run", progress=False)
    text = exit.value.code
    assert isinstance(text, str), "which Python prints, and exits with 1"
    assert re.search(message, text, re.DOTALL), text
    assert "Traceback" not in text
    assert "\n\n" not in text
    assert len(text) < 1200, text
    after = {path: data for path, data in contents(tmp_path).items() if path.parts[0] != "run"}
    assert after == inputs
    assert set(contents(tmp_path)) - set(after) <= {(tmp_path / "run/config.json").relative_to(tmp_path)}


def test_a_mistake_can_be_corrected_in_the_same_directory(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'sampled_vocab'"):
        run(nano.experiment(prompt={"init": "sample_vocab"}), tmp_path / "run", progress=False)
    assert run(nano.experiment(), tmp_path / "run", progress=False, stop_after=1).startswith("stopped after step 1")
