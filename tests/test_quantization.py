"""Frozen weights as integers: what they are, what is computed with them, where they lie, whose prompts they take."""

import dataclasses
import importlib.util
import tracemalloc

import gpt2_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5_files
from jax.sharding import NamedSharding, PartitionSpec
from nano import quick_compilation  # noqa: F401
from tiny_batches import EXACT, PROMPT, call, logits_and_gradient, random_tokens, relative_difference
from tiny_families import CONTEXTS, batch_for

import jaxprompt as jp
from jaxprompt import trees
from jaxprompt.experiment import ConfigError, Experiment
from jaxprompt.models import quantization
from jaxprompt.models.assemble import assemble
from jaxprompt.models.families import FAMILIES
from jaxprompt.models.fingerprint import fingerprint
from jaxprompt.models.load import abstract_params
from jaxprompt.models.quantized_load import Quantizer
from jaxprompt.models.save import save_hf
from jaxprompt.models.weight_files import open_weights
from jaxprompt.prompts.store import BaseModel, PromptMeta, check_prompt
from jaxprompt.sharding import make_mesh
from jaxprompt.training.optim import split_trainable
from jaxprompt.types import Injection

pytest.importorskip("qwix")

# What a product sums over, in the stacked kernels: of the attention's output heads and their width, else the input.
SUMMED = {"q": (1,), "k": (1,), "v": (1,), "o": (1, 2), "wi": (1,), "wi_0": (1,), "wi_1": (1,), "wo": (1,)}
CONFIGS = {
    "t5": t5_files.CONFIG | {"vocab_size": 1792, "num_decoder_layers": 2},
    "gpt2": gpt2_files.CONFIG | {"vocab_size": 1792, "n_positions": 64},
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("quantised")
    files = {"t5": t5_files, "gpt2": gpt2_files}
    return {family: files[family].write(root / family, config) for family, config in CONFIGS.items()}


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def pair(request, directories):
    """A model as it is stored, and in 8 bits."""
    directory = directories[request.param]
    return tuple(_one_loop(load(directory, **options)) for options in ({}, {"quantize": "int8"}))


def load(directory, **options):
    return jp.load_model(directory, tokenizer=False, **options)


def _one_loop(lm):
    return dataclasses.replace(lm, module=lm.module.clone(unroll=1))


def dequantized(lm):
    """The same model with its integers written out as floats."""
    made = lambda leaf: quantization.dequantized(leaf, jnp.float32) if quantization.is_quantized(leaf) else leaf  # noqa: E731
    return dataclasses.replace(lm, params=jax.tree.map(made, lm.params, is_leaf=quantization.is_quantized))


# What they are


def test_each_channel_has_its_own_scale_and_the_nearest_integers(pair):
    plain, small = (trees.flatten(lm.params) for lm in pair)
    assert plain.keys() == small.keys()
    kernels = {path for path in plain if "/block/" in path and path.endswith("kernel")}
    assert {path for path, leaf in small.items() if quantization.is_quantized(leaf)} == kernels
    for path in plain.keys() - kernels:
        np.testing.assert_array_equal(small[path], plain[path])
    for path in kernels:
        weights, axes = np.asarray(plain[path]), SUMMED[path.split("/")[-2]]
        scale = np.abs(weights).max(axis=axes, keepdims=True) / np.float32(127.5)
        np.testing.assert_allclose(small[path].scale, scale, rtol=1e-6)
        assert small[path].qvalue.dtype == jnp.int8
        off = np.abs(weights - np.asarray(small[path].qvalue, np.float32) * np.asarray(small[path].scale))
        assert (off <= scale / 2 * (1 + 1e-3)).all()


def test_kernels_take_a_quarter_of_fp32(pair):
    plain, small = (trees.flatten(lm.params) for lm in pair)
    for path, leaf in small.items():
        if quantization.is_quantized(leaf):
            assert leaf.qvalue.nbytes * 4 == plain[path].nbytes
            per_scale = np.prod([plain[path].shape[axis] for axis in SUMMED[path.split("/")[-2]]])
            assert leaf.scale.nbytes == plain[path].nbytes // per_scale
    assert pair[1].num_params == pair[0].num_params


def test_abstract_parameters_are_those_that_loading_makes(pair):
    abstract = quantization.abstract(abstract_params(pair[1].module), "int8")
    assert jax.tree.structure(abstract) == jax.tree.structure(pair[1].params)
    jax.tree.map(
        lambda shape, leaf: np.testing.assert_equal((leaf.shape, leaf.dtype), (shape.shape, shape.dtype)),
        abstract,
        pair[1].params,
    )


def test_the_fingerprint_is_that_of_the_stored_weights(pair):
    plain, small = pair
    assert small.fingerprint == plain.fingerprint
    assert dequantized(small).fingerprint != plain.fingerprint  # the rounding alone would show
    with pytest.raises(TypeError, match="without the checksum"):
        fingerprint(small.params)


# What is computed with them


def prompted(lm):
    """A batch whose rows begin with virtual tokens, and the prompt."""
    slots = range(lm.config.vocab_size, lm.config.vocab_size + PROMPT)
    return batch_for(lm, [(*slots, *context) for context in CONTEXTS]), Injection(random_tokens(lm.config))


def answers(lm):
    """Logits at the targets, and the gradient of the prompt."""
    batch, injection = prompted(lm)
    logits, gradient = logits_and_gradient(lm.module, lm.params, batch, injection)
    return np.asarray(logits)[batch.target_weights > 0], gradient.tokens


def test_logits_gradients_and_decoding_are_those_of_the_written_out_weights(pair):
    plain, small = pair
    (logits, gradient), (want, wanted), (stored, _) = (answers(lm) for lm in (small, dequantized(small), plain))
    np.testing.assert_allclose(logits, want, **EXACT)
    assert relative_difference(gradient, wanted) < 1e-5
    assert np.abs(gradient).max() > 1e-2
    assert 1e-4 < relative_difference(logits, stored) < 5e-2  # near what is stored, and not it

    batch, injection = prompted(small)
    rows, segments = batch.inputs, batch.input_segments
    if small.config.is_causal:  # which has the targets in its rows
        ends = np.asarray(batch.target_positions)[:, :1] + 1
        segments = np.where(np.arange(rows.shape[1]) < ends, segments, 0)
    batch = batch.replace(inputs=rows, input_segments=segments)
    firsts = np.concatenate([[0], np.cumsum(batch.target_weights.sum(axis=1).astype(int))[:-1]])
    found, cache = call(small.module, small.params, batch, injection, method="prefill", max_length=2)
    np.testing.assert_allclose(found, want[firsts], **EXACT)
    found, _ = call(small.module, small.params, batch.targets[:, 0], cache, method="decode_step")
    np.testing.assert_allclose(found, want[firsts + 1], **EXACT)


def test_products_stay_in_the_dtype_of_what_is_multiplied():
    rng = np.random.default_rng(0)
    kernel = quantization.quantize(jnp.asarray(rng.normal(size=(6, 4)), jnp.float32), (0,), "int8")
    x = jnp.asarray(rng.normal(size=(3, 6)), jnp.bfloat16)
    found = quantization.einsum("be,ef->bf", x, kernel)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, x @ quantization.dequantized(kernel, jnp.bfloat16))
    cast = quantization.in_dtype({"kernel": kernel, "bias": jnp.zeros(4)}, jnp.bfloat16)
    assert (cast["kernel"].qvalue.dtype, cast["kernel"].scale.dtype) == (jnp.int8, jnp.float32)
    assert cast["bias"].dtype == jnp.bfloat16


def test_no_program_holds_all_layers_kernels_as_floats(pair, monkeypatch):
    def program(lm):
        batch, injection = prompted(lm)
        loss = lambda injection, params: lm.module.apply({"params": params}, batch, injection).sum()  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss))(injection, lm.params))

    plain, small = pair
    stacks = [
        leaf.shape for path, leaf in trees.flatten(plain.params).items() if path.endswith(("q/kernel", "wo/kernel"))
    ]
    written = [f"f32[{','.join(map(str, shape))}]" for shape in stacks]
    assert all(shape in program(plain) for shape in written)
    assert not any(shape in program(small) for shape in written)
    monkeypatch.setattr(jax, "checkpoint", lambda function: function)
    assert any(shape in program(small) for shape in written)  # what the checkpoint is for


# Where they lie


def test_on_a_mesh_they_are_the_same_and_each_device_holds_its_part(pair, directories):
    alone, mesh = pair[1], make_mesh(2, 4, jax.devices())
    directory = directories[alone.family]
    stored, spread = (load(directory, mesh=mesh, shard_data=True, quantize=scheme) for scheme in ("", "int8"))
    jax.tree.map(np.testing.assert_array_equal, spread.params, alone.params)
    assert spread.fingerprint == alone.fingerprint
    small, shardings = trees.flatten(spread.params), trees.flatten(stored.params)
    for path, leaf in small.items():
        if quantization.is_quantized(leaf):
            sharding = shardings[path].sharding
            assert leaf.qvalue.sharding.is_equivalent_to(sharding, leaf.ndim)
            axes = [*sharding.spec, *[None] * leaf.ndim][: leaf.ndim]
            whole = SUMMED[path.split("/")[-2]]
            want = PartitionSpec(*(None if at in whole else axis for at, axis in enumerate(axes)))
            assert leaf.scale.sharding.is_equivalent_to(NamedSharding(mesh, want), leaf.ndim)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), stored.params
    )
    same = lambda shape, leaf: shape.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)  # noqa: E731
    assert jax.tree.all(jax.tree.map(same, quantization.abstract(abstract, "int8"), spread.params))
    split = [path for path in small if not shardings[path].sharding.is_fully_replicated and path.endswith("/o/kernel")]
    assert split  # of which the columns are split
    if alone.family == "t5":
        for found, want in zip(answers(_one_loop(spread)), answers(alone), strict=True):
            assert relative_difference(found, want) < 1e-5


def test_full_precision_is_there_one_layer_at_a_time(tmp_path):
    config = t5_files.TIED | {"d_model": 128, "d_ff": 512, "num_layers": 6, "num_decoder_layers": 6}
    source = open_weights(t5_files.write(tmp_path, config))
    abstract = abstract_params(FAMILIES["t5"].module(FAMILIES["t5"].configure(config, source)))
    read = lambda: assemble(abstract, FAMILIES["t5"].names, source, creator=Quantizer("int8").create)  # noqa: E731
    read()  # compiled and imported: what is counted next is data
    peaks = []
    for _ in range(3):  # other threads' memory is counted, too; it comes and goes
        tracemalloc.start()
        try:
            params = read()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        del params
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(read()))
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves(abstract))
    layer = 128 * 512 * 4
    assert min(peaks) < held + 2 * layer < whole / 2


# Whose prompts they take


def test_prompts_pass_between_stored_and_quantised_weights(pair):
    for trained, used in (pair, pair[::-1]):
        check_prompt(prompted(trained)[1], PromptMeta("prompt_tuning", BaseModel.of(trained)), used)


# What is refused


def test_integers_do_not_train(pair):
    params = {"model": pair[1].params, "prompt": {"embedding": jnp.zeros((2, 3))}}
    with pytest.raises(ValueError, match=r"'model/.*kernel' and \d+ more weights that are quantised.*`quantize`"):
        split_trainable(params, (("model/.*", "train"), ("prompt/.*", "train")))
    norms = ((".*norm/.*", "train"), ("model/.*", "freeze"), ("prompt/.*", "train"))
    trainable, frozen = split_trainable(params, norms)
    assert jax.tree.structure(trees.merge(trainable, frozen)) == jax.tree.structure(params)


def test_integers_are_not_written_as_a_hugging_face_model(pair, tmp_path):
    with pytest.raises(ValueError, match="load it without `quantize`"):
        save_hf(pair[1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_schemes_and_the_missing_library_are_named(directories, monkeypatch):
    with pytest.raises(ValueError, match=r"quantize is 'int7'; known are \['int8'\]"):
        load(directories["t5"], quantize="int7")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "qwix" else found(name))
    with pytest.raises(ImportError, match="pip install 'qwix"):
        load(directories["t5"], quantize="int8")


def test_what_an_experiment_may_ask_for():
    assert Experiment.from_dict({"model": {"quantize": "int8"}}).model.quantize == "int8"
    with pytest.raises(ConfigError, match=r"model.quantize is 'int9'; expected one of .*did you mean 'int8'"):
        Experiment.from_dict({"model": {"quantize": "int9"}})
    with pytest.raises(ConfigError, match=r"model\.from_scratch they train"):
        Experiment.from_dict({"model": {"quantize": "int8", "from_scratch": True}})
