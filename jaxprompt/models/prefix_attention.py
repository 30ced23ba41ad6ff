"""Attention to one prompt that all rows share, beside each row's own tokens. Axis letters as in `jaxprompt.types`.

Li and Liang (2021), Eq. 3, without giving every row a copy of the prompt: queries of all rows meet the P shared keys in
one product a head, and the gradient of the prompt is summed over the rows inside of the products. Only the softmax's
normaliser joins both parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from jaxprompt.models import attention, fused_attention
from jaxprompt.models.attention import KEPT, gradients_apart


def attend(
    query: Float[Array, "B Q H D"],
    key: Float[Array, "B K H D"],
    value: Float[Array, "B K H D"],
    *,
    prefix: attention.Prefix | None,
    mask: Bool[Array, "#B 1 #Q K"],
    prefix_seen: Bool[Array, "#B 1 #Q 1"] | None = None,
    mesh: Mesh | None = None,
    implementation: str = "auto",
    **options: Any,
) -> Float[Array, "B Q H D"]:
    """`attention.attend` with a prompt's keys and values in front, in the cheaper of two equal ways.

    Args:
        query: queries.
        key: the tokens' keys.
        value: the tokens' values.
        prefix: the prompt's part, of this layer, as `attention.with_prefix` takes it.
        mask: True where a query may see a token.
        prefix_seen: True at queries that see the prefix; None: all.
        mesh: see `attention.attend`.
        implementation: see `attention.attend`; a kernel wants the prompt in front of every row.
        options: `scale` and `dropout`, see `attention.attend`.
    """
    drops = options.get("dropout") is not None
    kernel = fused_attention.choose_for(implementation, query, key, has_bias=False, drops_weights=drops, mesh=mesh)
    if prefix is not None and len(prefix) == 2 and prefix[0].ndim == 3 and kernel == "xla":
        keys, values = prefix
        if not attention.takes_parts(query, len(keys) + key.shape[1], mesh):
            return attend_shared(query, (keys, values), key, value, mask=mask, prefix_seen=prefix_seen, **options)
    key, value, mask = attention.with_prefix(key, value, mask, prefix, prefix_seen)
    return attention.attend(query, key, value, mask=mask, mesh=mesh, implementation=implementation, **options)


def attend_shared(
    query: Float[Array, "B Q H D"],
    prefix: tuple[Float[Array, "P H D"], Float[Array, "P H D"]],
    key: Float[Array, "B K H D"],
    value: Float[Array, "B K H D"],
    *,
    mask: Bool[Array, "#B 1 #Q K"],
    prefix_seen: Bool[Array, "#B 1 #Q 1"] | None = None,
    scale: float | jax.Array = 1.0,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
) -> Float[Array, "B Q H D"]:
    """What `attend` gives with the prefix put in front of every row's keys and values.

    Args:
        query: queries.
        prefix: the prompt's keys and values, for all rows.
        key: the tokens' keys.
        value: the tokens' values.
        mask: True where a query may see a token.
        prefix_seen: True at queries that see the prefix; None: all.
        scale: factor of the scores. No gradient flows to it.
        dropout: applied to the attention weights.
    """
    (B, Q, H, _), P = query.shape, prefix[0].shape[0]
    kept = None
    if dropout is not None:
        kept = tuple(dropout(jnp.ones((H, B, Q, size), value.dtype)) for size in (P, key.shape[1]))
    query, key, value = (_by_head(array) for array in gradients_apart((query, key, value)))
    prefix_keys, prefix_values = (array.astype(key.dtype).swapaxes(0, 1) for array in prefix)
    seen = None if prefix_seen is None else prefix_seen.swapaxes(0, 1)
    scale = jnp.asarray(scale, jnp.float32)
    out = _attend(query, key, value, prefix_keys, prefix_values, mask.swapaxes(0, 1), seen, kept, scale)
    return out.transpose(1, 2, 0, 3)


def _by_head(x: Float[Array, "B S H D"]) -> Float[Array, "H B S D"]:
    """Heads in front: for each one, the tokens of all rows are a matrix."""
    return x.transpose(2, 0, 1, 3)


# The gradient by hand, as in `jaxprompt.models.attention`. All arrays have heads in front, so that one product a head
# takes the prefix to the queries of all rows, and each array is moved once.
@jax.custom_vjp
def _attend(query, key, value, prefix_keys, prefix_values, mask, seen, kept, scale):
    return _forward(query, key, value, prefix_keys, prefix_values, mask, seen, kept, scale)[0]


def _forward(query, key, value, prefix_keys, prefix_values, mask, seen, kept, scale):
    least = jnp.finfo(jnp.float32).min
    scores = jnp.where(mask, _product("hbqd,hbkd->hbqk", query, key) * scale, least)
    prefix_scores = _product("hbqd,hpd->hbqp", query, prefix_keys) * scale
    if seen is not None:
        prefix_scores = jnp.where(seen, prefix_scores, least)
    top = checkpoint_name(jnp.maximum(_over_keys(jnp.max, scores), _over_keys(jnp.max, prefix_scores)), KEPT)
    weights = jnp.exp(scores - top).astype(value.dtype)
    prefix_weights = jnp.exp(prefix_scores - top).astype(value.dtype)
    sums = (_over_keys(jnp.sum, x.astype(jnp.float32)) for x in (weights, prefix_weights))
    total = checkpoint_name(sum(sums), KEPT)
    prefix_used, used = _dropped(prefix_weights, weights, kept)
    mixed = _product("hbqk,hbkd->hbqd", used, value) + _product("hbqp,hpd->hbqd", prefix_used, prefix_values)
    out = checkpoint_name((mixed / total).astype(value.dtype), KEPT)
    return out, (query, key, value, prefix_keys, prefix_values, kept, scale, weights, prefix_weights, total, out)


def _backward(saved, d_out):
    query, key, value, prefix_keys, prefix_values, kept, scale, weights, prefix_weights, total, out = saved
    d_out = (d_out / total).astype(d_out.dtype)
    prefix_used, used = _dropped(prefix_weights, weights, kept)
    d_value = _product("hbqk,hbqd->hbkd", used, d_out).astype(value.dtype)
    d_prefix_values = _product("hbqp,hbqd->hpd", prefix_used, d_out).astype(value.dtype)
    d_weights = _product("hbqd,hbkd->hbqk", d_out, value)
    d_prefix_weights = _product("hbqd,hpd->hbqp", d_out, prefix_values)
    d_prefix_weights, d_weights = _dropped(d_prefix_weights, d_weights, kept)
    # The sum of weights x d_weights over all keys.
    mean = _product("hbqd,hbqd->hbq", d_out, out)[..., None]
    d_scores = (weights * (d_weights - mean) * scale).astype(query.dtype)
    d_prefix_scores = (prefix_weights * (d_prefix_weights - mean) * scale).astype(query.dtype)
    d_query = _product("hbqk,hbkd->hbqd", d_scores, key) + _product("hbqp,hpd->hbqd", d_prefix_scores, prefix_keys)
    d_key = _product("hbqk,hbqd->hbkd", d_scores, query).astype(key.dtype)
    d_prefix_keys = _product("hbqp,hbqd->hpd", d_prefix_scores, query).astype(key.dtype)
    return d_query.astype(query.dtype), d_key, d_value, d_prefix_keys, d_prefix_values, None, None, None, None


_attend.defvjp(_forward, _backward)


def _product(subscripts: str, *arrays: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, *arrays, preferred_element_type=jnp.float32)


def _over_keys(function: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
    return function(x, axis=-1, keepdims=True)


def _dropped(
    prefix: jax.Array, own: jax.Array, kept: tuple[jax.Array, jax.Array] | None
) -> tuple[jax.Array, jax.Array]:
    return (prefix, own) if kept is None else (prefix * kept[0], own * kept[1])
