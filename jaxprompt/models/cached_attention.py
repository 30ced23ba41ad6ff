"""Attention from the newest token of a text to what was read before it. Axis letters as in `jaxprompt.types`.

What decoding keeps has two parts. Of the prompt and the inputs every step reads all and changes nothing, so they lie as
the products want them, heads in front, and are shared by texts that continue the same inputs, such as beams. The new
tokens, T of them at most, are written one a step. Only the softmax joins both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.models.layered import Apart


@struct.dataclass
class Held:
    """Keys and values that decoding reads and does not change.

    Attributes:
        keys: [B, H, D, K] of one layer; of a stack, each layer's apart or all in one array with L in front.
        values: [B, H, K, D], likewise.
    """

    keys: Any
    values: Any

    def take_rows(self, rows: Int[Array, " R"]) -> Held:
        """Those of the given rows."""
        return jax.tree.map(lambda array: jnp.take(array, rows, axis=array.ndim - 4), self)


def hold(parts: Sequence[tuple[Float[Array, "L B K H D"], Float[Array, "L B K H D"]]], *, by_layer: bool) -> Held:
    """Keys and values of a stack, in parts that follow each other, as they are held.

    Args:
        parts: such as the prompt's and the inputs'.
        by_layer: keep layers apart (see `Apart`), where programs write them out.
    """
    keys, values = zip(*parts, strict=True)

    def joined(arrays: Sequence[jax.Array], axis: int) -> jax.Array:
        return jnp.concatenate([jnp.moveaxis(array, -3, axis) for array in arrays], axis=axis)

    if not by_layer:
        return Held(joined(keys, -1), joined(values, -2))
    layers = range(keys[0].shape[0])
    each = lambda arrays, axis: Apart(joined([array[layer] for array in arrays], axis) for layer in layers)  # noqa: E731
    return Held(each(keys, -1), each(values, -2))


def attend_held(
    query: Float[Array, "R 1 H D"], held: Held, *, mask: Bool[Array, "#B 1 1 K"], scale: float | jax.Array = 1.0
) -> Float[Array, "R 1 H D"]:
    """`attention.attend` to what is held alone, such as a decoder's inputs; see `attend`.

    Args:
        query: of each text's newest token.
        held: keys and values.
        mask: True at what a row may see of them.
        scale: factor of the scores.
    """
    (R, _, H, D), B = query.shape, held.keys.shape[0]
    product = lambda *args: jnp.einsum(*args, preferred_element_type=jnp.float32)  # noqa: E731
    scores = product("bkhd,bhdm->bhkm", query.reshape(B, R // B, H, D), held.keys) * scale
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)
    mixed = product("bhkm,bhmd->bkhd", weights.astype(held.values.dtype), held.values)
    return mixed.astype(held.values.dtype).reshape(query.shape)


def attend(
    query: Float[Array, "R 1 H D"],
    held: Held,
    key: Float[Array, "R T H D"],
    value: Float[Array, "R T H D"],
    *,
    held_mask: Bool[Array, "B K"],
    mask: Bool[Array, " T"],
    scale: float | jax.Array = 1.0,
) -> Float[Array, "R 1 H D"]:
    """`attention.attend` over both parts. Texts R/B that stand one behind the other continue one row of what is held.

    Args:
        query: of each text's newest token.
        held: the prompt and the inputs.
        key: of the new tokens.
        value: of the new tokens.
        held_mask: True at what a row may see of its prompt and inputs.
        mask: True at new tokens that are there by now.
        scale: factor of the scores.
    """
    (R, _, H, D), B = query.shape, held.keys.shape[0]
    asked = query.reshape(B, R // B, H, D)
    fresh = lambda array: array.reshape(B, R // B, -1, H, D)  # noqa: E731
    product = lambda *args: jnp.einsum(*args, preferred_element_type=jnp.float32)  # noqa: E731
    least = jnp.finfo(jnp.float32).min
    held_scores = jnp.where(held_mask[:, None, None], product("bkhd,bhdm->bhkm", asked, held.keys) * scale, least)
    scores = jnp.where(mask, product("bkhd,bkthd->bhkt", asked, fresh(key)) * scale, least)
    top = jnp.maximum(held_scores.max(-1, keepdims=True), scores.max(-1, keepdims=True))
    held_weights, weights = (jnp.exp(part - top) for part in (held_scores, scores))
    total = held_weights.sum(-1) + weights.sum(-1)
    sums = product("bhkm,bhmd->bkhd", held_weights.astype(value.dtype), held.values)
    sums += product("bhkt,bkthd->bkhd", weights.astype(value.dtype), fresh(value))
    return (sums / total.swapaxes(1, 2)[..., None]).astype(value.dtype).reshape(query.shape)
