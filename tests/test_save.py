import contextlib
import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import t5_files

from jaxprompt.models import save
from jaxprompt.models.load import load_model
from jaxprompt.models.save import replace_hf, save_hf
from jaxprompt.models.weight_files import SafetensorsFile
from jaxprompt.patching import patch
from jaxprompt.prompts.model_tuning import ModelTuning
from jaxprompt.training.train import load_best
from jaxprompt.types import Batch


def load(directory, **kwargs):
    return load_model(directory, tokenizer=False, **kwargs)


@pytest.mark.parametrize("shard", [10**9, 10_000])
@pytest.mark.parametrize("config", [t5_files.CONFIG, t5_files.TIED], ids=["untied", "tied"])
def test_saving_is_the_inverse_of_loading(tmp_path, config, shard):
    lm = load(t5_files.write(tmp_path / "first", config))
    save_hf(lm, tmp_path / "second", max_shard_bytes=shard)
    again = load(tmp_path / "second")
    assert again.config == lm.config
    jax.tree.map(np.testing.assert_array_equal, lm.params, again.params)
    files = sorted((tmp_path / "second").glob("*.safetensors"))
    assert (len(files) > 1) == (shard == 10_000)
    stored = {name: array for file in files for name, array in safetensors.numpy.load_file(file).items()}
    expected = t5_files.tensors(config)
    assert stored.keys() == expected.keys()
    for name, array in stored.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    with pytest.raises(FileExistsError, match="already holds"):
        save_hf(lm, tmp_path / "second")


def test_bfloat16_is_saved_as_it_is(tmp_path):
    lm = load(t5_files.write(tmp_path / "first", t5_files.TIED), dtype=jnp.bfloat16)
    save_hf(lm, tmp_path / "second")
    info = SafetensorsFile(tmp_path / "second" / "model.safetensors").tensors
    assert {tensor.dtype for tensor in info.values()} == {"bfloat16"}
    again = load(tmp_path / "second", dtype=jnp.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, lm.params, again.params)


class Killed(BaseException):
    """Ends a process, as far as what it was at can tell."""


@pytest.mark.parametrize("spared", [0, 1, 2], ids=["first", "second", "none"])
def test_a_kill_while_replacing_a_model_loses_none(tmp_path, monkeypatch, spared):
    directory = tmp_path / "model"
    old = load(t5_files.write(tmp_path / "source", t5_files.TIED))
    new = dataclasses.replace(old, params=jax.tree.map(lambda leaf: leaf + 1, old.params))
    replace_hf(old, directory)
    renames = []

    def rename_or_die(*paths, rename=os.replace):
        if len(renames) == spared:
            raise Killed
        renames.append(rename(*paths))

    def die(*_):
        raise Killed

    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        patched.setattr(os, "replace", rename_or_die)
        replace_hf(new, directory)
    assert directory.exists() == (spared != 1)
    with monkeypatch.context() as patched:  # a second time, before the new model is complete
        patched.setattr(save, "save_hf", die)
        with pytest.raises(Killed):
            replace_hf(new, directory)
    expected = new if spared == 2 else old
    jax.tree.map(np.testing.assert_array_equal, load(directory).params, expected.params)

    replace_hf(new, directory)
    jax.tree.map(np.testing.assert_array_equal, load(directory).params, new.params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "source"]


def test_a_best_model_that_was_being_replaced_is_read_back(tmp_path):
    lm = load(t5_files.write(tmp_path / "model.old", t5_files.TIED))
    _, params = load_best(patch(lm, ModelTuning()), tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, params["model"], lm.params)


# transformers is the reference, for what we load and for what we save.


def batch_of(lm):
    rng = np.random.default_rng(1)
    inputs = rng.integers(2, lm.config.vocab_size, (2, 9)).astype(np.int32)
    targets = rng.integers(2, lm.config.vocab_size, (2, 5)).astype(np.int32)
    ones = np.ones_like
    return Batch(inputs, ones(inputs), targets, ones(targets), ones(targets, np.float32), np.arange(2))


def torch_logits(directory, batch, model_class="T5ForConditionalGeneration"):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = getattr(transformers, model_class).from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        start = np.concatenate([np.zeros((2, 1), np.int64), batch.targets[:, :-1].astype(np.int64)], axis=1)
        return model(
            input_ids=torch.from_numpy(batch.inputs.astype(np.int64)), decoder_input_ids=torch.from_numpy(start)
        ).logits.numpy()


VARIANTS = {
    "tied_relu": t5_files.TIED,
    "untied_gated": t5_files.CONFIG,
    "tied_gated": t5_files.TIED | {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 1},
    "untied_by_weights_alone": t5_files.SILENT,
    "tied_unscaled": t5_files.TIED | {"scale_decoder_outputs": False},
    "mt5": t5_files.CONFIG | {"model_type": "mt5"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_agrees_before_and_after_a_round_trip(tmp_path, variant):
    weights = t5_files.tensors(t5_files.CONFIG if VARIANTS[variant] is t5_files.SILENT else VARIANTS[variant])
    lm = load(t5_files.write(tmp_path / "first", VARIANTS[variant], weights))
    batch = batch_of(lm)
    ours = np.asarray(lm.module.apply({"params": lm.params}, batch))
    model_class = "MT5ForConditionalGeneration" if variant == "mt5" else "T5ForConditionalGeneration"
    np.testing.assert_allclose(ours, torch_logits(tmp_path / "first", batch, model_class), atol=2e-5, rtol=2e-5)
    save_hf(lm, tmp_path / "second")
    np.testing.assert_allclose(ours, torch_logits(tmp_path / "second", batch), atol=2e-5, rtol=2e-5)
