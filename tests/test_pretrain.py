"""Pre-training on the mini world's text: span corruption, then LM adaptation, of a small T5, and a small GPT-2."""

import dataclasses
import json
import shutil

import jax
import nano
import numpy as np
import pytest
from model_directories import logits_of_both
from nano import quick_compilation  # noqa: F401

from jaxprompt.evaluation.curves import read_curves
from jaxprompt.experiment import ConfigError, Experiment
from jaxprompt.models.initialize import new_model
from jaxprompt.models.load import load_model
from jaxprompt.training.pretrain import corpus_batches, corpus_stream
from jaxprompt.training.run import run

CORPUS = {
    "documents": 2000, "max_length": 40, "documents_per_row": 2, "row_length": 64, "row_targets": 32,
    "validation_documents": 24,
}  # fmt: skip


SIZES = {"n_embd": 32, "n_inner": 48, "n_head": 2, "n_layer": 1, "n_positions": 64}


def write_gpt2(directory):
    """`config.json` and the tokenizer of a small GPT-2, without weights."""
    assets = nano.ROOT / "jaxprompt/assets/nano-gpt2"
    directory.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(assets / file, directory / file)
    config = json.loads((assets / "config.json").read_text()) | SIZES
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def stage(objective, path, *, steps=24, scratch=False, **corpus):
    return Experiment.from_dict(
        {
            "model": {"path": str(path), "from_scratch": scratch},
            "prompt": {"method": "model_tuning"},
            "corpus": CORPUS | {"objective": objective} | corpus,
            "train": {
                "steps": steps, "batch_size": 4, "dropout": False, "normalization": "tokens", "z_loss": 0.0,
                "log_every": 8, "checkpoint_every": 10,
            },
            "optim": {"name": "adamw", "learning_rate": 0.01, "clip_norm": 1.0},
            "eval": {"every": 12, "batch_size": 12},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """All objectives, run to their ends: {objective: (experiment, workdir)}."""
    root = tmp_path_factory.mktemp("pretraining")
    span = stage("span_corruption", nano.write_architecture(root / "architecture"), scratch=True)
    run(span, root / "span", progress=False)
    lm = stage("prefix_lm", root / "span/model", max_targets=16, split_after=[".", "?"])
    run(lm, root / "lm", progress=False)
    causal = stage("causal_lm", write_gpt2(root / "gpt2"), scratch=True, mixture="writing", joined=0.5)
    run(causal, root / "causal", progress=False)
    return {
        "span_corruption": (span, root / "span"),
        "prefix_lm": (lm, root / "lm"),
        "causal_lm": (causal, root / "causal"),
    }


@pytest.mark.parametrize("objective", ["span_corruption", "prefix_lm", "causal_lm"])
def test_the_validation_loss_falls(stages, objective):
    _, workdir = stages[objective]
    curves = read_curves(workdir / "metrics.jsonl")
    losses = dict(curves["validation", "token_cross_entropy"])
    assert list(losses) == [12, 24]
    first = curves["train", "loss"][0][1]
    assert losses[24] < losses[12] < first
    summary = json.loads((workdir / "summary.json").read_text())
    assert (summary["step"], summary["best"]["step"], summary["export"]) == (24, 24, "model")
    assert summary["best"]["selection"] == -losses[24]
    assert summary["num_frozen"] == 0


def test_the_second_stage_starts_where_the_first_ended(stages):
    """Its first loss is far below that of random weights, though the objective is another."""
    workdirs = [stages[objective][1] for objective in ("span_corruption", "prefix_lm")]
    first = [read_curves(workdir / "metrics.jsonl")["train", "loss"][0][1] for workdir in workdirs]
    assert first[1] < first[0]


def test_the_result_is_an_ordinary_model_directory(stages):
    wanted, workdir = stages["prefix_lm"]
    ours, theirs = logits_of_both(workdir / "model", wanted.corpus, rows=4)
    assert len(ours) > 0
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(workdir / "model", local_files_only=True)
    text = "The river is cold."
    assert tokenizer(text)["input_ids"] == load_model(workdir / "model").tokenizer(text)["input_ids"]


def test_a_pretrained_gpt2_is_an_ordinary_model_directory(stages):
    experiment, workdir = stages["causal_lm"]
    torch = pytest.importorskip("torch")
    import transformers

    ours = load_model(workdir / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(workdir / "model", local_files_only=True).eval()
    batch = next(iter(corpus_batches(ours, experiment.corpus, 4, 0)))
    logits = jax.jit(lambda params, batch: ours.module.apply({"params": params}, batch))(ours.params, batch)
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(batch.inputs, dtype=torch.long),
            attention_mask=torch.tensor(batch.input_segments, dtype=torch.long),
        ).logits.numpy()
    real = batch.target_weights > 0
    assert real.sum() > 40
    # Every position is a target's, so rows of logits stand where torch has them.
    np.testing.assert_allclose(np.asarray(logits)[real], expected[:, : real.shape[1]][real], rtol=0, atol=1e-4)


def test_rows_of_a_causal_model_hold_contexts_of_several_documents(stages):
    experiment, workdir = stages["causal_lm"]
    lm = load_model(workdir / "model")
    eos, joined, opened, segments = lm.config.eos_token_id, 0, 0, 0
    corpus = dataclasses.replace(experiment.corpus, documents_per_row=6, row_length=128)
    stream = corpus_stream(lm, corpus, 16, 0)
    batch = next(stream)
    stream.close()
    assert batch.inputs.shape == batch.targets.shape == batch.target_positions.shape == (16, 128)
    np.testing.assert_array_equal(batch.input_segments, batch.target_segments)
    np.testing.assert_array_equal(batch.target_weights, batch.target_segments > 0)
    for inputs, targets, numbers, positions in zip(
        batch.inputs, batch.targets, batch.input_segments, batch.target_positions, strict=True
    ):
        real = numbers > 0
        np.testing.assert_array_equal(positions[real], np.arange(real.sum()))
        for number in range(1, numbers.max() + 1):
            read, wanted = inputs[numbers == number], targets[numbers == number]
            np.testing.assert_array_equal(wanted, [*read[1:], eos])
            segments, opened, joined = segments + 1, opened + (read[0] == eos), joined + (eos in read[1:])
    assert 0.3 < opened / segments < 0.7
    assert 0.2 < joined / segments < 0.8


def test_an_objective_of_the_other_family_is_refused(stages, tmp_path):
    with pytest.raises(ConfigError, match=r"corpus.objective is 'causal_lm', but .* is of the family t5"):
        corpus_batches(nano.language_model(), stage("causal_lm", "x").corpus, 4, 0)
    gpt2 = new_model(write_gpt2(tmp_path / "gpt2"), jax.random.key(0))
    with pytest.raises(ConfigError, match=r"corpus.objective is 'prefix_lm', but .* is of the family gpt2"):
        corpus_batches(gpt2, stage("prefix_lm", "x").corpus, 4, 0)
    with pytest.raises(ConfigError, match="only causal_lm has contexts"):
        stage("prefix_lm", "x", joined=0.5)
    with pytest.raises(ConfigError, match="it is a share"):
        stage("causal_lm", "x", joined=1.5)
    with pytest.raises(
        ConfigError, match=r"corpus.mixture is 'wirting'; did you mean|corpus.mixture is 'wirting'; exp"
    ):
        stage("causal_lm", "x", mixture="wirting")


def test_a_stopped_stage_goes_on_and_ends_the_same(stages, tmp_path):
    experiment, whole = stages["span_corruption"]
    assert run(experiment, tmp_path, progress=False, stop_after=14).startswith("stopped after step 14 of 24")
    assert not (tmp_path / "summary.json").exists()
    assert (tmp_path / "model").exists(), "the best so far"
    report = run(experiment, tmp_path, progress=False)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    weights = [(workdir / "model/model.safetensors").read_bytes() for workdir in (whole, tmp_path)]
    assert weights[0] == weights[1]
    before = (tmp_path / "summary.json").read_bytes()
    assert run(experiment, tmp_path, progress=False) == report
    assert (tmp_path / "summary.json").read_bytes() == before


def test_validation_text_is_fixed_and_held_out():
    lm, corpus = nano.language_model(), stage("span_corruption", "x", validation_documents=8).corpus
    once, again = ([np.array(batch.inputs) for batch in corpus_batches(lm, corpus, 4, 0)] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    stream = corpus_stream(lm, corpus, 4, 0)
    first, second = next(stream), next(stream)
    stream.close()
    assert first.inputs.shape == (4, 64)
    assert first.targets.shape == (4, 32)
    assert first.input_segments.max() == 2, "rows are packed"
    assert not np.array_equal(first.inputs, second.inputs)
