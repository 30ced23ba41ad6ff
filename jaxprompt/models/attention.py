"""Attention with a prompt's keys and values in front. Axis letters as in `jaxprompt.types`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.models import attention_by_head, fused_attention, partition, platforms, quantization
from jaxprompt.models.attention_by_head import KEPT
from jaxprompt.sharding import DATA, MODEL
from jaxprompt.types import Injection

Prefix = tuple[jax.Array, ...]
"""A prompt's keys and values and, where rows have prompts of different lengths, which of them are a row's, [B, P]."""

_FAST_BYTES = 2**26
"""Of scores, that a TPU core can hold in its own memory beside the weights that it waits for."""


def segment_mask(
    query_segments: Int[Array, "B Q"], key_segments: Int[Array, "B K"], *, causal: bool = False
) -> Bool[Array, "B 1 Q K"]:
    """True where a query may see a key: same segment, not padding and, if causal, not later in the row."""
    mask = (query_segments[:, :, None] == key_segments[:, None, :]) & (key_segments[:, None, :] > 0)
    if causal:
        mask &= jnp.tril(jnp.ones((query_segments.shape[1], key_segments.shape[1]), bool))
    return mask[:, None]


def attend(
    query: Float[Array, "B Q H D"],
    key: Float[Array, "B K H D"],
    value: Float[Array, "B K H D"],
    *,
    mask: Bool[Array, "#B #H #Q K"],
    bias: Float[Array, "#B H Q K"] | None = None,
    scale: float | jax.Array = 1.0,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
    mesh: Mesh | None = None,
    implementation: str = "auto",
) -> Float[Array, "B Q H D"]:
    """Softmax attention; scores, bias and softmax in fp32, products in the inputs' dtype.

    Args:
        query: queries.
        key: keys; a prompt's keys stand in front of the tokens' (see `with_prefix`).
        value: values.
        mask: True where a query may see a key. A query that may see none gets a finite, meaningless mean.
        bias: added to the scaled scores.
        scale: factor of the scores; T5 uses 1. No gradient flows to it.
        dropout: applied to the attention weights; one that is the same for all queries costs less on the values
            (`drop_keys`).
        mesh: that rows and heads are split over. On TPUs, scores too large for a core are made a few rows at a time.
        implementation: one of `fused_attention.IMPLEMENTATIONS`.
    """
    has_bias, drops = bias is not None, dropout is not None
    kernel = fused_attention.choose_for(implementation, query, key, has_bias=has_bias, drops_weights=drops, mesh=mesh)
    if kernel != "xla":
        scale = jnp.asarray(scale, jnp.float32)
        return fused_attention.attend(
            kernel, query, key, value, mask=mask, bias=bias, scale=scale, mesh=mesh, name=KEPT
        )
    if platforms.platform(mesh) == "cpu":
        arrays = gradients_apart((query, key, value))
        return attention_by_head.attend(*arrays, mask=mask, bias=bias, scale=scale, dropout=dropout)
    kept = None
    if dropout is not None:
        kept = dropout(jnp.ones((query.shape[0], query.shape[2], query.shape[1], key.shape[1]), value.dtype))
    query, key, value = gradients_apart((query, key, value))
    scale = jnp.asarray(scale, jnp.float32)
    parts, count = _row_parts(query, key.shape[1], mesh)
    if count == 1:
        return _attend(query, key, value, bias, mask, kept, scale, True)
    # Each device's rows one part after the other, so that what lies between a part's products stays near the core; the
    # loop is written out, for a compiled one would move every part in and out of larger arrays.
    rows = query.shape[0]

    def cut(x: jax.Array | None) -> Sequence[jax.Array | None]:
        if x is None or x.shape[0] != rows:
            return [x] * count
        pieces = jax.lax.split(x.reshape(parts, count, -1, *x.shape[1:]), (1,) * count, axis=1)
        return [piece.reshape(rows // count, *x.shape[1:]) for piece in pieces]

    done = [_attend(*x, scale, False) for x in zip(*map(cut, (query, key, value, bias, mask, kept)), strict=True)]
    out = jnp.stack([x.reshape(parts, -1, *x.shape[1:]) for x in done], axis=1)
    return out.reshape(query.shape)


def takes_parts(query: Float[Array, "B Q H D"], num_keys: int, mesh: Mesh | None) -> bool:
    """Whether `attend` takes the rows of a device part by part."""
    return _row_parts(query, num_keys, mesh)[1] > 1


def _row_parts(query: Float[Array, "B Q H D"], num_keys: int, mesh: Mesh | None) -> tuple[int, int]:
    """How many devices split the rows, and how many parts the rows of each are taken in."""
    if platforms.platform(mesh) != "tpu":
        return 1, 1
    split = lambda size, axis: mesh.shape[axis] if mesh and not size % mesh.shape[axis] else 1  # noqa: E731
    devices = split(query.shape[0], DATA)
    rows, heads = query.shape[0] // devices, query.shape[2] // split(query.shape[2], MODEL)
    row_bytes = 4 * heads * query.shape[1] * num_keys
    fitting = (count for count in range(1, rows + 1) if not rows % count and rows // count * row_bytes <= _FAST_BYTES)
    return devices, next(fitting, rows)


# The gradient by hand, as FlashAttention takes it (Dao et al. 2022, appendix B.2). Automatic differentiation of a
# softmax sums over [B, H, Q, K] once more, in fp32, where a sum over the result's [B, Q, H, D] does; normalising the
# result instead of the weights saves as much again.
@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _attend(query, key, value, bias, mask, kept, scale, keeps_weights):
    return _attend_forward(query, key, value, bias, mask, kept, scale, keeps_weights)[0]


def _attend_forward(query, key, value, bias, mask, kept, scale, keeps_weights):
    scores = _scores(query, key, bias, mask, scale)
    top = checkpoint_name(scores.max(axis=-1, keepdims=True), KEPT)
    weights = jnp.exp(scores - top).astype(value.dtype)
    apply = lambda weights, value: jnp.einsum(  # noqa: E731
        "bhqk,bkhd->bqhd", weights, value, preferred_element_type=jnp.float32
    )
    ones = jnp.ones_like(value[..., :1])
    if kept is None:
        # A column of ones sums the weights in passing, in the half of a TPU's matrix unit that heads of 64 leave idle.
        sums = apply(weights, jnp.concatenate([value, ones], axis=-1))
    else:
        sums = jnp.concatenate([apply(weights * kept, value), apply(weights, ones)], axis=-1)
    total = checkpoint_name(sums[..., -1:], KEPT)
    out = checkpoint_name((sums[..., :-1] / total).astype(value.dtype), KEPT)
    return out, (query, key, value, bias, mask, kept, scale, weights if keeps_weights else None, top, total, out)


def _attend_backward(keeps_weights, saved, d_out):
    query, key, value, bias, mask, kept, scale, weights, top, total, out = saved
    if not keeps_weights:
        weights = jnp.exp(_scores(query, key, bias, mask, scale) - top).astype(value.dtype)
    d_out = (d_out / total).astype(d_out.dtype)
    d_value = jnp.einsum("bhqk,bqhd->bkhd", weights if kept is None else weights * kept, d_out)
    d_weights = jnp.einsum("bqhd,bkhd->bhqk", d_out, value, preferred_element_type=jnp.float32)
    if kept is not None:
        d_weights *= kept
    # The sum of weights x d_weights over the keys.
    mean = jnp.einsum("bqhd,bqhd->bhq", d_out, out, preferred_element_type=jnp.float32)[..., None]
    d_scores = weights * (d_weights - mean)
    d_bias = None
    if bias is not None:
        shared = [axis for axis, size in enumerate(bias.shape) if size != d_scores.shape[axis]]
        d_bias = d_scores.sum(axis=shared, keepdims=True).astype(bias.dtype)
    d_scores = (d_scores * scale).astype(query.dtype)
    d_query = jnp.einsum("bhqk,bkhd->bqhd", d_scores, key)
    d_key = jnp.einsum("bhqk,bqhd->bkhd", d_scores, query)
    return d_query, d_key, d_value, d_bias, None, None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _scores(query, key, bias, mask, scale):
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) * scale
    if bias is not None:
        scores += bias.astype(jnp.float32)
    return jnp.where(mask, scores, jnp.finfo(jnp.float32).min)


@jax.custom_vjp
def gradients_apart(tree):
    """The arrays themselves. Their gradients are computed by themselves, before the products that read them.

    A TPU's compiler would compute them inside of these products, and anew for each tile of the result.
    """
    return tree


gradients_apart.defvjp(lambda tree: (tree, None), lambda _, grads: (jax.lax.optimization_barrier(grads),))


def drop_keys(value: Float[Array, "B K H D"], dropout: Callable[[jax.Array], jax.Array]) -> Float[Array, "B K H D"]:
    """The values of attention whose weights are dropped alike for all queries (`dropout`), which is the same."""
    batch, length, heads, _ = value.shape
    # Positions lead, so that a row's draws are the same however far it is padded.
    return value * dropout(jnp.ones((length, batch, 1, heads), value.dtype)).transpose(1, 0, 3, 2)


def attend_unprojected(
    query: Float[Array, "B Q H D"],
    source: Float[Array, "G B K E"],
    key_kernel: Any,  # Float[Array, "E H D"], or quantised
    value_kernel: Any,  # Float[Array, "E H D"], or quantised
    *,
    mask: Bool[Array, "#B 1 #Q K"],
    dropout: Callable[[jax.Array], jax.Array] | None = None,
) -> Float[Array, "B Q H D"]:
    """Attention to keys and values that are linear maps of a source, without ever computing them.

    q·(source W_k) = (q W_kᵀ)·source, and likewise for the values: the maps act on Q queries instead of K sources, which
    for Q below D takes Q/D of the work. A decoder that learns short targets from long inputs gains most of its
    cross-attention this way.

    Args:
        query: queries.
        source: what keys and values are made from, such as the encoder's output, in G copies (`copy_for_heads`).
        key_kernel: W_k.
        value_kernel: W_v.
        mask: True where a query may see a source position.
        dropout: applied to the attention weights, alike for all queries.
    """
    groups, batch, length, _ = source.shape
    grouped = lambda x: x.reshape(*x.shape[:-2], groups, -1, x.shape[-1])  # noqa: E731
    ask = lambda query, kernel: jnp.einsum("bqghd,eghd->gbhqe", grouped(query), grouped(kernel))  # noqa: E731
    asked = quantization.product(ask, query, key_kernel)
    scores = jnp.einsum("gbhqe,gbke->gbhqk", asked, source, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)
    if dropout is not None:
        kept = dropout(jnp.ones((length, batch, 1, query.shape[2]), jnp.float32)).transpose(1, 3, 2, 0)
        weights *= jnp.moveaxis(kept.reshape(batch, groups, -1, 1, length), 1, 0)
    mixed = jnp.einsum("gbhqk,gbke->gbhqe", weights.astype(source.dtype), source)
    tell = lambda mixed, kernel: jnp.einsum("gbhqe,eghd->bqghd", mixed, grouped(kernel))  # noqa: E731
    return quantization.product(tell, mixed, value_kernel).reshape(query.shape)


def copy_for_heads(source: Float[Array, "B K E"], num_heads: int, mesh: Mesh | None) -> Float[Array, "G B K E"]:
    """A source of attention, a copy for every group of heads that the mesh puts on devices of their own.

    No device holds more than one copy. But each copy has a gradient of its own, so devices sum what all layers add to
    it once, in the end; a source that they share they would have to sum in every layer.
    """
    groups = 1 if mesh is None or num_heads % mesh.shape[MODEL] else mesh.shape[MODEL]
    return partition.constrain(jnp.broadcast_to(source, (groups, *source.shape)), mesh, MODEL, DATA)


def project_copies(source: Float[Array, "G B K E"], kernel: Any) -> Float[Array, "B K H D"]:
    """Keys or values of every head, from its group's copy of the source; the kernel may be quantised."""

    def project(source: jax.Array, kernel: jax.Array) -> jax.Array:
        grouped = kernel.reshape(kernel.shape[0], source.shape[0], -1, kernel.shape[-1])
        heads = jnp.einsum("gbke,eghd->bkghd", source, grouped)
        return heads.reshape(*heads.shape[:2], *kernel.shape[1:])

    return quantization.product(project, source, kernel)


def with_prefix(
    key: Float[Array, "B K H D"],
    value: Float[Array, "B K H D"],
    mask: Bool[Array, "#B 1 Q K"],
    prefix: Prefix | None,
    prefix_seen: Bool[Array, "#B 1 #Q 1"] | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Puts a prompt's keys and values, [P, H, D] or [B, P, H, D], in front.

    Li & Liang (2021), Eq. 3: the prefix's activations are free parameters that all later positions attend to. They are
    seen by every query, or by those that `prefix_seen` marks; but for those that are not the row's own.
    """
    if prefix is None:
        return key, value, mask
    shape = (key.shape[0], prefix[0].shape[-3], *key.shape[2:])
    keys, values = (jnp.broadcast_to(array.astype(key.dtype), shape) for array in prefix[:2])
    seen = jnp.asarray(True) if prefix_seen is None else prefix_seen
    if len(prefix) == 3:
        seen = seen & prefix[2][:, None, None, :]
        mask = jnp.broadcast_to(mask, (key.shape[0], *mask.shape[1:]))
    seen = jnp.broadcast_to(seen, (*mask.shape[:-1], shape[1]))
    return (
        jnp.concatenate([keys, key], axis=1),
        jnp.concatenate([values, value], axis=1),
        jnp.concatenate([seen, mask], axis=-1),
    )


def prefixes(injection: Injection) -> dict[str, Prefix]:
    """What each stack gets of an injection."""
    found: dict[str, Prefix] = dict(injection.kv)
    for stack, lengths in injection.lengths.items():
        keys, values = injection.kv[stack]
        P = keys.shape[-3]
        found[stack] = (keys, values, jnp.arange(P) >= P - lengths[:, None])
    return found


def layers_first(prefix: Prefix | None) -> tuple[Prefix | None, int]:
    """A stack's prompt keys and values with the layer axis in front, and their number P.

    [L, P, H, D] stays; one prompt a row, [B, L, P, H, D], becomes [L, B, P, H, D]. Which of them are a row's own is the
    same in all layers.
    """
    if prefix is None:
        return None, 0
    keys, values = (jnp.moveaxis(array, 1, 0) if array.ndim == 5 else array for array in prefix[:2])
    own = (jnp.broadcast_to(array, (keys.shape[0], *array.shape)) for array in prefix[2:])
    return (keys, values, *own), keys.shape[-3]
