"""Attention with heads in front, and one prompt for all rows without a copy for each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_batches import EXACT

from jaxprompt.models import attention, attention_by_head

B, Q, K, P, H, D = 3, 5, 7, 4, 2, 8
RNG = np.random.default_rng(0)
QUERY, KEY, VALUE = (jnp.asarray(RNG.normal(size=(B, n, H, D)), jnp.float32) for n in (Q, K, K))
PREFIX = tuple(jnp.asarray(RNG.normal(size=(P, H, D)), jnp.float32) for _ in range(2))
MASK = jnp.asarray(RNG.random((B, 1, Q, K)) < 0.6)
SEEN = jnp.asarray(RNG.random((B, 1, Q, 1)) < 0.5) | ~MASK.any(-1, keepdims=True)  # every query sees something


def in_front(query, prefix, key, value, seen=None, **options):
    """The reference: the prompt's keys and values copied in front of every row's, and a plain softmax."""
    keys, values, mask = attention.with_prefix(key, value, MASK, prefix, seen)
    return plainly(query, keys, values, mask, **options)


def plainly(query, key, value, mask, scale=1.0, bias=0.0):
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) * scale + bias
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def shared(query, prefix, key, value, seen=None, **options):
    return attention_by_head.attend(query, key, value, prefix=prefix, mask=MASK, prefix_seen=seen, **options)


@pytest.mark.parametrize("seen", [None, SEEN], ids=["all", "some"])
def test_values_and_gradients_are_those_of_copies(seen):
    arrays = QUERY, PREFIX, KEY, VALUE
    d_out = jnp.asarray(RNG.normal(size=QUERY.shape), jnp.float32)
    found, expected = (jax.vjp(functools.partial(way, seen=seen, scale=0.3), *arrays) for way in (shared, in_front))
    np.testing.assert_allclose(found[0], expected[0], **EXACT)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **EXACT), found[1](d_out), expected[1](d_out))


@pytest.mark.parametrize("rows", [1, B])
def test_a_bias_and_its_gradient(rows):
    mask = MASK | ~MASK.any(-1, keepdims=True)
    bias = jnp.asarray(RNG.normal(size=(rows, H, Q, K)), jnp.float32)
    d_out = jnp.asarray(RNG.normal(size=QUERY.shape), jnp.float32)
    way = lambda *a: attention_by_head.attend(*a[:3], mask=mask, bias=a[3], scale=0.3)  # noqa: E731
    found, back = jax.vjp(way, QUERY, KEY, VALUE, bias)
    expected, plain_back = jax.vjp(lambda *a: plainly(*a[:3], mask, 0.3, a[3]), QUERY, KEY, VALUE, bias)
    np.testing.assert_allclose(found, expected, **EXACT)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **EXACT), back(d_out), plain_back(d_out))


def test_half_precision_stays_as_near_as_copies_do():
    exact = in_front(QUERY, PREFIX, KEY, VALUE)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (QUERY, PREFIX, KEY, VALUE))
    error = lambda way: float(jnp.abs(way(*half).astype(jnp.float32) - exact).mean())  # noqa: E731
    assert shared(*half).dtype == jnp.bfloat16
    assert 0 < error(shared) < 1.2 * error(in_front)


def test_dropped_weights_carry_no_value_and_no_gradient():
    """What is kept of the weights is what the values are mixed by, and what gradients return through."""
    halves = iter([jnp.zeros((B, H, Q, K)), jnp.full((B, H, Q, P), 2.0)])
    found, back = jax.vjp(lambda value, prefix: shared(QUERY, prefix, KEY, value, dropout=lambda _: next(halves)),
                          VALUE, PREFIX)  # fmt: skip
    keys, values, mask = attention.with_prefix(KEY, VALUE, MASK, PREFIX)
    scores = jnp.where(mask, jnp.einsum("bqhd,bkhd->bhqk", QUERY, keys), -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1)[..., :P]
    np.testing.assert_allclose(found, 2 * jnp.einsum("bhqp,bphd->bqhd", weights, values[:, :P]), **EXACT)
    d_value, d_prefix = back(jnp.ones_like(found))
    assert not d_value.any()
    assert d_prefix[1].any()


def test_no_row_gets_a_copy():
    text = jax.jit(jax.grad(lambda *a: shared(*a).sum(), argnums=1)).lower(QUERY, PREFIX, KEY, VALUE).as_text()
    assert f"tensor<{B}x{P + K}x{H}x{D}xf32>" not in text
    copies = jax.jit(jax.grad(lambda *a: in_front(*a).sum(), argnums=1)).lower(QUERY, PREFIX, KEY, VALUE).as_text()
    assert f"tensor<{B}x{P + K}x{H}x{D}xf32>" in copies
