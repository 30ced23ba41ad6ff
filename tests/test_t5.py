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
    relative_difference,
)

import jaxprompt as jp
from jaxprompt import trees
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


# The same by every route


@pytest.mark.parametrize("options", [{"remat": "full"}, {"remat": "dots", "unroll": 1}, {"unroll": 1}], ids=str)
def test_rematerialisation_and_unrolling_change_nothing(tiny_lm, prompted, options):
    batch, injection, logits, gradient = prompted
    found = logits_and_gradient(tiny_lm.module.clone(**options), tiny_lm.params, batch, injection)
    np.testing.assert_allclose(found[0], logits, **EXACT)
    assert relative_difference(found[1].tokens, gradient) <= GRADIENT


def test_unknown_rematerialisation_is_refused(tiny_lm):
    with pytest.raises(ValueError, match=r"'ful'.*'dots', 'full', 'none'"):
        abstract_params(tiny_lm.module.clone(remat="ful"))


def test_bfloat16_is_near_fp32(tiny_directory, prompted):
    batch, injection, logits, gradient = prompted
    lm = jp.load_model(tiny_directory, tokenizer=False, dtype=jnp.bfloat16)
    rounded, its_gradient = logits_and_gradient(lm.module, lm.params, batch, injection)
    assert rounded.dtype == logits.dtype == its_gradient.tokens.dtype == jnp.float32
    # A rounding to 8 bits is off by up to 2^-9, by 2^-9/√3 on average; some 80 of them lie on the way through a small
    # model, so about √80 · 2^-9/√3 = 0.01 of the logits' unit size is to be expected. The bound is twice that.
    assert np.sqrt(np.mean((rounded - logits) ** 2)) < 0.02
    assert relative_difference(its_gradient.tokens, gradient) < 0.05
    # Logits that had been through bf16 would survive the way there and back.
    assert not np.array_equal(rounded, rounded.astype(jnp.bfloat16).astype(jnp.float32))


# Dropout


@functools.partial(jax.jit, static_argnums=0)
def with_dropout(module, params, batch, injection, key):
    """(logits, gradient of their squared sum for the injection)."""

    def loss(injection):
        rngs = {"dropout": jax.random.key(key)}
        logits = module.apply({"params": params}, batch, injection, deterministic=False, rngs=rngs)
        return (logits**2).sum(), logits

    (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(injection)
    return logits, gradient


def test_dropout_acts_when_asked_and_follows_its_key(tiny_lm, prompted):
    batch, injection, undropped, _ = prompted
    module = tiny_lm.module.clone(unroll=1)  # random masks compile slowly
    dropped = lambda key, module=module: with_dropout(module, tiny_lm.params, batch, injection, key)  # noqa: E731
    logits, gradient = dropped(1)
    np.testing.assert_array_equal(dropped(1)[0], logits)
    for other in (dropped(2)[0], undropped):
        assert np.abs(logits - other).mean() > 0.05
    # A rematerialised layer draws the same masks when it is run again for the gradient.
    again = dropped(1, module.clone(remat="full"))
    np.testing.assert_allclose(again[0], logits, **EXACT)
    assert relative_difference(again[1].tokens, gradient.tokens) <= GRADIENT


def test_every_layer_draws_its_own_dropout():
    # All weights are 1 but attention's, which are 0: each branch adds one number wherever its mask lets it. With the
    # embedding's mask and one mask for both layers, features could take four values; with two masks, eight.
    config = T5Config(vocab_size=8, d_model=64, d_kv=4, d_ff=8, num_layers=2, num_decoder_layers=1, num_heads=2,
                      dropout_rate=0.5)  # fmt: skip
    module = T5(config, unroll=1)
    shapes = {path: leaf.shape for path, leaf in trees.flatten(abstract_params(module)).items()}
    params = trees.unflatten({path: jnp.full(shape, "attention/" not in path, float) for path, shape in shapes.items()})
    encode = jax.jit(functools.partial(module.apply, method="encode", deterministic=False))
    ids = np.array([[2, 3]])
    encoded = encode({"params": params}, ids, np.ones_like(ids), rngs={"dropout": jax.random.key(0)})
    assert len(np.unique(encoded[encoded != 0])) > 4


# Parameters and program


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


def program_lines(config, depth, unroll):
    """The length of the lowered program of a loss and its gradient for the prompt."""
    config = dataclasses.replace(config, num_layers=depth, num_decoder_layers=depth)
    module, batch = T5(config, unroll=unroll), random_batch(config.vocab_size)
    loss = lambda prompt, params: module.apply({"params": params}, batch, Injection(prompt)).sum()  # noqa: E731
    prompt = jax.ShapeDtypeStruct((PROMPT, config.d_model), jnp.float32)
    lowered = jax.jit(jax.grad(loss)).lower(prompt, abstract_params(module))
    return len(lowered.as_text().splitlines())


def test_the_program_does_not_grow_with_depth(tiny_lm):
    two = program_lines(tiny_lm.config, 2, unroll=1)
    assert program_lines(tiny_lm.config, 24, unroll=1) == two
    # Few layers are unrolled on CPU by default, many are not.
    assert program_lines(tiny_lm.config, 2, unroll=0) > 1.2 * two
    assert program_lines(tiny_lm.config, 24, unroll=0) == two


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
    kv = {"cross": tuple(jnp.moveaxis(array, 1, 0)[:, :, :3] for array in (cache.cross_keys, cache.cross_values))}
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
