"""LM adaptation on a corpus of one's own: exports on the way, stops and resumes, meshes, and what other code reads."""

import dataclasses
import importlib.util
import json

import jax
import nano
import numpy as np
import pytest
from model_directories import logits_of_both
from nano import quick_compilation  # noqa: F401

from jaxprompt import sharding
from jaxprompt.evaluation.curves import read_curves
from jaxprompt.experiment import Experiment
from jaxprompt.models.load import load_model
from jaxprompt.planning.step_program import build_programs
from jaxprompt.training import pretrain as pretraining
from jaxprompt.training.pretrain import pretrain
from jaxprompt.training.run import run

WEIGHTS = "model.safetensors"


def lm_adaptation():
    """The module of the config."""
    spec = importlib.util.spec_from_file_location("lm_adaptation", nano.ROOT / "configs/lm_adaptation.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A directory of plain text."""
    directory = tmp_path_factory.mktemp("text")
    texts = [" ".join(text for text, _ in nano.texts(1 + number % 5, number)) for number in range(60)]
    (directory / "all.txt").write_text("\n\n".join(texts))
    return directory


def experiment(corpus, path, *, steps=6, export_steps=(), **sections):
    values = {
        "model": {"path": str(path)},
        "prompt": {"method": "model_tuning"},
        "corpus": {
            "objective": "prefix_lm", "source": f"text:{corpus}", "max_length": 24, "documents_per_row": 2,
            "row_length": 32, "row_targets": 24, "validation_documents": 8,
        },
        "train": {
            "steps": steps, "batch_size": 4, "dropout": False, "normalization": "tokens", "log_every": 1,
            "checkpoint_every": 2,
        },
        "optim": {
            "name": "adafactor", "learning_rate": 0.02, "multiply_by_parameter_scale": True,
            "min_dim_size_to_factor": 16,
        },
        "eval": {"every": 3, "batch_size": 8},
    }  # fmt: skip
    built = Experiment.from_dict({name: value | sections.get(name, {}) for name, value in values.items()})
    return dataclasses.replace(built, corpus=dataclasses.replace(built.corpus, export_steps=export_steps))


@pytest.fixture(scope="module")
def adapted(corpus, tmp_path_factory):
    """(experiment, workdir) of a run of 6 steps that kept its models after steps 3 and 6."""
    workdir = tmp_path_factory.mktemp("adapted")
    wanted = experiment(corpus, nano.model_dir(), export_steps=(6, 3))
    run(wanted, workdir, progress=False)
    return wanted, workdir


def weights(directory):
    return (directory / WEIGHTS).read_bytes()


def test_exports_change_nothing_of_a_run(adapted, corpus, tmp_path):
    _, workdir = adapted
    run(experiment(corpus, nano.model_dir()), tmp_path, progress=False)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
    assert weights(tmp_path / "model") == weights(workdir / "model")
    assert not list(tmp_path.glob("model-*"))
    assert sorted(path.name for path in workdir.glob("model-*")) == ["model-3", "model-6"]
    summary = json.loads((workdir / "summary.json").read_text())
    assert (summary["step"], summary["export"], summary["num_frozen"]) == (6, "model", 0)
    assert summary["best"]["step"] == 6, "the validation loss falls to the last step"
    assert weights(workdir / "model-6") == weights(workdir / "model") != weights(workdir / "model-3")


def test_a_run_that_dies_at_an_export_makes_it_when_it_goes_on(adapted, tmp_path, monkeypatch):
    wanted, whole = adapted

    def dies(lm, directory):
        if directory.name == "model-3":
            raise KeyboardInterrupt
        replaced(lm, directory)

    replaced = pretraining.replace_hf
    with monkeypatch.context() as patched:
        patched.setattr(pretraining, "replace_hf", dies)
        with pytest.raises(KeyboardInterrupt):
            run(wanted, tmp_path, progress=False)
    assert not (tmp_path / "model-3").exists()
    assert run(wanted, tmp_path, progress=False, stop_after=5).startswith("stopped after step 5 of 6")
    assert [path.name for path in tmp_path.glob("model-*")] == ["model-3"]
    before = (tmp_path / "model-3" / WEIGHTS).stat().st_mtime_ns
    run(wanted, tmp_path, progress=False)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for name in ("model", "model-3", "model-6"):
        assert weights(tmp_path / name) == weights(whole / name)
    assert (tmp_path / "model-3" / WEIGHTS).stat().st_mtime_ns == before, "it is not made again"


def test_an_export_starts_another_run_with_the_loss_it_had(adapted, corpus, tmp_path):
    _, workdir = adapted
    recorded = dict(read_curves(workdir / "metrics.jsonl")["validation", "token_cross_entropy"])
    assert list(recorded) == [3, 6]
    # At a rate too small to move it, what the second run begins with is what it ends with.
    second = experiment(corpus, workdir / "model-3", steps=1, optim={"learning_rate": 1e-12})
    run(second, tmp_path, progress=False)
    found = dict(read_curves(tmp_path / "metrics.jsonl")["validation", "token_cross_entropy"])
    assert found[1] == pytest.approx(recorded[3], rel=1e-6)


def test_an_export_is_what_transformers_reads(adapted, tmp_path):
    wanted, workdir = adapted
    ours, theirs = logits_of_both(workdir / "model-6", wanted.corpus, rows=8)
    assert len(ours) > 30
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_a_mesh_adapts_as_one_device_does(adapted, corpus, tmp_path):
    _, workdir = adapted
    mesh = sharding.make_mesh(2, 2, jax.devices()[:4])
    lm = load_model(nano.model_dir(), mesh=mesh, shard_data=True)
    split = [leaf for leaf in jax.tree.leaves(lm.params) if not leaf.sharding.is_fully_replicated]
    assert sum(leaf.size for leaf in split) > 0.9 * sum(leaf.size for leaf in jax.tree.leaves(lm.params))
    pretrain(lm, experiment(corpus, "x", steps=3), tmp_path, progress=False)
    losses, expected = (read_curves(path / "metrics.jsonl")["train", "loss"] for path in (tmp_path, workdir))
    assert [step for step, _ in losses] == [1, 2, 3]
    np.testing.assert_allclose([loss for _, loss in losses], [loss for _, loss in expected[:3]], rtol=1e-5)
    ours, theirs = load_model(tmp_path / "model").params, load_model(workdir / "model-3").params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), ours, theirs)


def test_the_programs_of_a_full_size_can_be_made():
    """Those of T5 XL, whose weights are more than 32 bits count, as shapes."""
    asked = Experiment.from_dict(lm_adaptation().get_config("size=xl").to_dict())
    programs = build_programs(asked, jax.devices()[:8])
    assert programs.batch.inputs.shape == programs.batch.targets.shape == (2048, 512)
    assert sum(leaf.size for leaf in jax.tree.leaves(programs.state.trainable)) == 2_849_757_184
    assert not jax.tree.leaves(programs.frozen)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(programs.state.trainable)} == {"float32"}
    _, metrics = programs.lower_train_step().out_info
    assert metrics["update_rms"].shape == ()
    assert programs.lower_loss().out_info.numerator.shape == ()


@pytest.mark.parametrize(
    ("argument", "message"),
    [("size=huge", "size=small|base"), ("steps=1e5", "takes steps=NUMBER"), ("task=rte", "not \\['task'\\]")],
)
def test_arguments_of_the_config(argument, message):
    with pytest.raises(ValueError, match=message):
        lm_adaptation().get_config(argument)
    assert lm_adaptation().get_config("steps=60000").corpus.export_steps == (10_000, 50_000)
    assert lm_adaptation().get_config().model.path == "google/t5-v1_1-small"
