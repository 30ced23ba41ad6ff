"""Attention with heads in front: the order in which CPUs are fast, and in which a shared prompt costs no copies.

All arrays are turned to [H, B, S, D] once, and back once. Keys and values that all rows share then meet the queries of
all rows in one product a head (Li and Liang 2021, Eq. 3, without giving every row a copy of the prompt), and the
gradient of the prompt is summed over the rows inside of the products; only the softmax's normaliser joins the two
parts. Axis letters as in `jaxprompt.types`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

KEPT = "attention"
"""The name, for `jax.checkpoint`, of results by which attention's weights, which are larger, are made again."""


def attend(
    query: Float[Array, "B Q H D"],
    key: Float[Array, "B K H D"],
    value: Float[Array, "B K H D"],
    *,
    mask: Bool[Array, "#B #H #Q K"],
    bias: Float[Array, "#B H Q K"] | None = None,
    prefix: tuple[Float[Array, "P H D"], Float[Array, "P H D"]] | None = None,
    prefix_seen: Bool[Array, "#B 1 #Q 1"] | None = None,
    scale: float | jax.Array = 1.0,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
) -> Float[Array, "B Q H D"]:
    """What `attention.attend` gives, the prefix in front of every row's keys and values if there is one.

    Args:
        query: queries.
        key: the tokens' keys.
        value: the tokens' values.
        mask: True where a query may see a token.
        bias: added to the scaled scores of tokens.
        prefix: a prompt's keys and values, the same for all rows.
        prefix_seen: True at queries that see the prefix; None: all.
        scale: factor of the scores. No gradient flows to it.
        dropout: applied to the attention weights.
    """
    B, Q, H, _ = query.shape
    sizes = [key.shape[1]] + ([] if prefix is None else [len(prefix[0])])
    kept = dropout and [dropout(jnp.ones((B, H, Q, size), value.dtype)).swapaxes(0, 1) for size in sizes]
    query, key, value = (x.transpose(2, 0, 1, 3) for x in (query, key, value))
    keys, values = [key], [value]
    if prefix is not None:
        prefix_keys, prefix_values = (x.astype(key.dtype).swapaxes(0, 1) for x in prefix)
        keys, values = [key, prefix_keys], [value, prefix_values]
    seen = [mask.swapaxes(0, 1), None if prefix_seen is None else prefix_seen.swapaxes(0, 1)]
    bias = None if bias is None else bias.swapaxes(0, 1)
    out = _attend(query, keys, values, bias, seen[: len(keys)], kept, jnp.asarray(scale, jnp.float32))
    return out.transpose(1, 2, 0, 3)


# The gradient by hand, as in `jaxprompt.models.attention`. Keys and values come in parts, the tokens' [H, B, K, D] and,
# where there is one, the prefix's [H, P, D]; so do scores and weights.
@jax.custom_vjp
def _attend(query, keys, values, bias, seen, kept, scale):
    return _forward(query, keys, values, bias, seen, kept, scale)[0]


def _forward(query, keys, values, bias, seen, kept, scale):
    scores = [_to_keys(query, part) * scale for part in keys]
    if bias is not None:
        scores[0] += bias.astype(jnp.float32)
    least = jnp.finfo(jnp.float32).min
    scores = [part if of is None else jnp.where(of, part, least) for part, of in zip(scores, seen, strict=True)]
    top = checkpoint_name(_joined(jnp.maximum, [part.max(-1, keepdims=True) for part in scores]), KEPT)
    weights = [jnp.exp(part - top).astype(values[0].dtype) for part in scores]
    total = _joined(jnp.add, [part.sum(-1, keepdims=True, dtype=jnp.float32) for part in weights])
    total = checkpoint_name(total, KEPT)
    sums = _joined(jnp.add, [_mixed(part, of) for part, of in zip(_dropped(weights, kept), values, strict=True)])
    out = checkpoint_name((sums / total).astype(values[0].dtype), KEPT)
    return out, (query, keys, values, bias, kept, scale, weights, total, out)


def _backward(saved, d_out):
    query, keys, values, bias, kept, scale, weights, total, out = saved
    d_out = (d_out / total).astype(d_out.dtype)
    d_values = [_summed(part, d_out, of) for part, of in zip(_dropped(weights, kept), values, strict=True)]
    d_weights = _dropped([_to_keys(d_out, part) for part in values], kept)
    # The sum of weights x d_weights over all keys.
    mean = _product("hbqd,hbqd->hbq", d_out, out)[..., None]
    d_scores = [part * (d_part - mean) for part, d_part in zip(weights, d_weights, strict=True)]
    d_bias = None
    if bias is not None:
        shared = [axis for axis, size in enumerate(bias.shape) if size != d_scores[0].shape[axis]]
        d_bias = d_scores[0].sum(axis=shared, keepdims=True).astype(bias.dtype)
    d_scores = [(part * scale).astype(query.dtype) for part in d_scores]
    d_query = _joined(jnp.add, [_mixed(part, of) for part, of in zip(d_scores, keys, strict=True)])
    d_keys = [_summed(part, query, of) for part, of in zip(d_scores, keys, strict=True)]
    return d_query.astype(query.dtype), d_keys, d_values, d_bias, None, None, None


_attend.defvjp(_forward, _backward)


def _to_keys(x: Float[Array, "H B Q D"], part: jax.Array) -> Float[Array, "H B Q K"]:
    return _product("hbqd,hbkd->hbqk" if part.ndim == 4 else "hbqd,hkd->hbqk", x, part)


def _mixed(weights: Float[Array, "H B Q K"], part: jax.Array) -> Float[Array, "H B Q D"]:
    return _product("hbqk,hbkd->hbqd" if part.ndim == 4 else "hbqk,hkd->hbqd", weights, part)


def _summed(weights: Float[Array, "H B Q K"], x: Float[Array, "H B Q D"], part: jax.Array) -> jax.Array:
    """The gradient of a part: of the prefix, a sum over rows."""
    return _product("hbqk,hbqd->hbkd" if part.ndim == 4 else "hbqk,hbqd->hkd", weights, x).astype(part.dtype)


def _product(subscripts: str, *arrays: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, *arrays, preferred_element_type=jnp.float32)


def _joined(function: Callable[..., jax.Array], parts: list[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else function(*parts)


def _dropped(parts: list[jax.Array], kept: list[jax.Array] | None) -> list[jax.Array]:
    return [part * of for part, of in zip(parts, kept, strict=True)] if kept else parts
