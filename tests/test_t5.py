import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5_files
import t5_parity
from tiny_batches import (
    EXACT,
    LENGTH,
    PROMPT,
    ROWS,
    batch_of,
    call,
    logits_and_gradient,
    random_batch,
    random_kv,
)

import jaxprompt as jp
from jaxprompt import trees
from jaxprompt.models.layered import layer_of
from jaxprompt.models.load import abstract_params
from jaxprompt.models.t5 import T5, shift_right
from jaxprompt.models.t5_config import T5Config
from jaxprompt.types import Injection

LOGITS, GRADIENT = 1e-4, 1e-5  # largest difference at unit scale; relative difference in norm

GOLDEN = Path(__file__).parent / "golden" / "t5.npz"


# The same values and gradients as transformers' PyTorch T5


@pytest.fixture(scope="module")
def parity(tmp_path_factory):
    """A function from a variant's name to (its directory, what we compute for it)."""

    @functools.cache
    def of(name):
        config = t5_parity.VARIANTS[name]
        directory = t5_files.write(tmp_path_factory.mktemp(name), config, t5_parity.weights(config))
        data, lm = t5_parity.case(config), jp.load_model(directory, tokenizer=False)
        slots = np.broadcast_to(lm.config.vocab_size + np.arange(t5_parity.PROMPT), (t5_parity.ROWS, t5_parity.PROMPT))
        inputs = np.concatenate([slots, data["inputs"]], axis=1)
        segments = np.concatenate([np.ones_like(slots), data["mask"]], axis=1)
        batch = batch_of(inputs, data["targets"], segments)
        logits, gradient = logits_and_gradient(lm.module, lm.params, batch, Injection(data["prompt"]))
        return directory, {"logits": np.asarray(logits), "gradient": np.asarray(gradient.tokens)}

    return of


def assert_close(ours, theirs):
    logits, gradient, scale = t5_parity.differences(ours, theirs)
    assert 0.5 < scale < 2, "the bound on logits is meant for logits of unit size"
    assert logits <= LOGITS
    assert gradient <= GRADIENT


@pytest.mark.parametrize("name", t5_parity.VARIANTS)
def test_stored_results_of_transformers(parity, name):
    with np.load(GOLDEN) as stored:
        assert_close(parity(name)[1], {key: stored[f"{name}/{key}"] for key in ("logits", "gradient")})


@pytest.mark.parametrize("name", t5_parity.VARIANTS)
def test_transformers_live(parity, name):
    pytest.importorskip("torch")
    directory, ours = parity(name)
    assert_close(ours, t5_parity.torch_pass(directory, t5_parity.case(t5_parity.VARIANTS[name])))


# Parameters and targets


def test_parameters_are_the_documented_tree():
    V, E, H, D, F, L, M, K = 50, 16, 4, 6, 24, 2, 3, 8  # L encoder layers, M decoder layers, K buckets

    def attention(stack, layer, depth):
        path = f"{stack}/block/{layer}"
        kernels = {f"{path}/{x}/kernel": (depth, E, H, D) for x in "qkv"}
        return kernels | {f"{path}/o/kernel": (depth, H, D, E), f"{path}_norm/scale": (depth, E)}

    def stack(name, depth, kernels):
        path = f"{name}/block/feed_forward"
        return attention(name, "self_attention", depth) | {
            f"{name}/relative_attention_bias/embedding": (K, H),
            f"{name}/final_layer_norm/scale": (E,),
            f"{path}_norm/scale": (depth, E),
            f"{path}/wo/kernel": (depth, F, E),
            **{f"{path}/{kernel}/kernel": (depth, E, F) for kernel in kernels},
        }

    def tree(*kernels):
        decoder = stack("decoder", M, kernels) | attention("decoder", "cross_attention", M)
        return {"shared/embedding": (V, E)} | stack("encoder", L, kernels) | decoder

    def shapes(config):
        return {path: leaf.shape for path, leaf in trees.flatten(abstract_params(T5(config))).items()}

    config = T5Config.from_hf(t5_files.CONFIG)
    assert shapes(config) == tree("wi_0", "wi_1") | {"lm_head/kernel": (E, V)}
    assert shapes(T5Config.from_hf(t5_files.TIED)) == tree("wi")
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(abstract_params(T5(config, dtype=jnp.bfloat16)))}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}


def test_shift_right_starts_every_segment():
    targets = np.array([[5, 6, 1, 7, 1, 0], [8, 9, 4, 3, 2, 1]])
    segments = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    shifted = np.array([[99, 5, 6, 99, 7, 1], [99, 8, 9, 4, 3, 2]])
    found = shift_right(targets, segments, 99)
    np.testing.assert_array_equal(found[segments > 0], shifted[segments > 0])


# A prefix of real tokens' keys and values is those tokens, at the positions just before


def test_decoder_prefix(tiny_lm):
    batch = random_batch(tiny_lm.config.vocab_size, slots=0)
    apply = functools.partial(call, tiny_lm.module, tiny_lm.params)
    # The decoder reads start, a, b, c; the same start again, and the rest of the targets.
    first = np.array([[11, 12, 13], [21, 22, 23], [31, 32, 33]], np.int32)
    _, cache = apply(batch, method="prefill", max_length=4)
    for tokens in first.T:
        _, cache = apply(tokens, cache, method="decode_step")
    again = np.full((ROWS, 1), tiny_lm.config.decoder_start_token_id)
    whole = batch_of(batch.inputs, np.concatenate([first, again, batch.targets], axis=1), batch.input_segments)
    rest = batch_of(batch.inputs, batch.targets, batch.input_segments)
    kv = {"decoder": tuple(jnp.moveaxis(array, 1, 0) for array in (cache.self_keys, cache.self_values))}
    np.testing.assert_allclose(apply(rest, Injection(kv=kv)), apply(whole)[:, 4:], **EXACT)


def test_cross_prefix(tiny_lm):
    batch = jax.tree.map(lambda leaf: leaf[:2], random_batch(tiny_lm.config.vocab_size, slots=0))
    apply = functools.partial(call, tiny_lm.module, tiny_lm.params)
    encoded = apply(batch.inputs, batch.input_segments, method="encode")
    _, cache = apply(batch, method="prefill", max_length=1)
    # The first three positions, which are real in both rows.
    held = jax.tree.map(lambda *layers: jnp.stack(layers, axis=1), *(layer_of(n, cache.cross) for n in range(2)))
    # [B, L, H, D, K] and [B, L, H, K, D], as they are held.
    kv = {"cross": (jnp.moveaxis(held.keys, -1, 2)[:, :, :3], jnp.moveaxis(held.values, -2, 2)[:, :, :3])}
    targets = batch.targets, batch.target_segments
    found = apply(encoded[:, 3:], batch.input_segments[:, 3:], *targets, Injection(kv=kv), method="decode")
    np.testing.assert_allclose(found, apply(encoded, batch.input_segments, *targets, method="decode"), **EXACT)


def test_encoder_prefix(tiny_lm):
    # Of one layer, whose keys and values are easily had from the embeddings.
    flat = trees.flatten(tiny_lm.params)
    flat = {path: leaf[:1] if path.startswith("encoder/block") else leaf for path, leaf in flat.items()}
    module = T5(dataclasses.replace(tiny_lm.config, num_layers=1))
    encode = functools.partial(call, module, trees.unflatten(flat), method="encode")
    ids = np.random.default_rng(8).integers(2, 1000, (1, LENGTH))
    x = flat["shared/embedding"][ids[0, :PROMPT]]
    x = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * flat["encoder/block/self_attention_norm/scale"]
    keys, values = (jnp.einsum("pe,lehd->lphd", x, flat[f"encoder/block/self_attention/{n}/kernel"]) for n in "kv")
    rest = ids[:, PROMPT:]
    found = encode(rest, np.ones_like(rest), Injection(kv={"encoder": (keys, values)}))
    np.testing.assert_allclose(found, encode(ids, np.ones_like(ids))[:, PROMPT:], **EXACT)


def test_every_layers_keys_and_values_get_a_gradient(tiny_lm):
    # In PEFT a T5's prefixes reach the decoder alone, and half of their parameters reach nothing.
    batch = random_batch(tiny_lm.config.vocab_size, slots=0)
    injection = Injection(kv=random_kv(tiny_lm.config))
    _, gradient = logits_and_gradient(tiny_lm.module, tiny_lm.params, batch, injection)
    assert gradient.kv.keys() == {"encoder", "decoder", "cross"}
    for leaf in jax.tree.leaves(gradient.kv):
        norms = np.linalg.norm(leaf, axis=(2, 3))  # [L, P]
        assert norms.shape == (2, PROMPT)
        assert (norms > 1e-4).all()
