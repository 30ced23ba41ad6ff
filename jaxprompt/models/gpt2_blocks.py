"""GPT-2's stack of layers, and what decoding keeps of it. Axis letters as in `jaxprompt.types`."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxprompt.models import attention, cached_attention, layers, partition, prefix_attention
from jaxprompt.models.dropout import Dropout
from jaxprompt.models.gpt2_config import GPT2Config
from jaxprompt.models.norms import LayerNorm
from jaxprompt.sharding import DATA, MODEL

# As GPT-2 was initialised: normal of this deviation, residual projections scaled by the depth.
_STDDEV = 0.02


@struct.dataclass
class Cache:
    """What decoding keeps between steps. There are R texts, R/B in a row that continue the same one of B inputs.

    Attributes:
        held: keys and values of the K slots of prefix and inputs, of B rows; see `cached_attention.hold`.
        seen: [B, K], True at slots that hold a token, or a part of the prompt, and not padding.
        keys: [L, R, T, H, D], of the new tokens.
        values: [L, R, T, H, D].
        positions: [R], the position of the next token of each text.
        length: new tokens read so far, a scalar.
    """

    held: cached_attention.Held
    seen: jax.Array
    keys: jax.Array
    values: jax.Array
    positions: jax.Array
    length: jax.Array

    def take_rows(self, rows: Int[Array, " R"], *, same_inputs: bool = False) -> Cache:
        """The cache of the given rows, in that order; rows may repeat.

        Args:
            rows: numbers of rows of this cache.
            same_inputs: a promise that rows stay with their inputs, the first R/B with the first row's and so on, as
                the beams of one input do. What belongs to the inputs is then not moved.
        """
        keys, values = (jnp.take(array, rows, axis=1) for array in (self.keys, self.values))
        moved = dataclasses.replace(self, keys=keys, values=values, positions=jnp.take(self.positions, rows))
        if same_inputs:
            return moved
        inputs = rows // (self.positions.shape[0] // self.seen.shape[0])
        return dataclasses.replace(moved, held=self.held.take_rows(inputs), seen=jnp.take(self.seen, inputs, axis=0))


class Attention(nn.Module):
    """The projections of one attention layer."""

    config: GPT2Config
    dtype: DTypeLike
    deterministic: bool
    mesh: Mesh | None = None
    attention_kernel: str = "auto"

    def setup(self):
        """Declares the parts."""
        cfg = self.config
        self.q, self.k, self.v = (
            layers.projection((cfg.num_heads, cfg.d_kv), self.dtype, _STDDEV, use_bias=True, name=name)
            for name in "qkv"
        )
        stddev = _STDDEV * (2 * cfg.num_layers) ** -0.5
        self.o = layers.projection(cfg.d_model, self.dtype, stddev, axis=(-2, -1), use_bias=True, name="o")
        self.dropout = Dropout(cfg.attention_dropout_rate, deterministic=self.deterministic)

    def keys_values(self, x: Float[Array, "B K E"]) -> tuple[jax.Array, jax.Array]:
        """Keys and values of the positions attended to, each [B, K, H, D]."""
        return self._by_head(self.k(x)), self._by_head(self.v(x))

    def __call__(self, x, keys, values, number, *, mask, prefix=None, prefix_seen=None, held=None):
        """Attends from x, [B, Q, E], to keys and values, with the prompt's in front; `number` is the layer's.

        In decoding, what is `held` stands in front, of which `prefix_seen` marks what the rows may see.
        """
        query, options = self.query(x), self.options(number)
        if held is not None:
            options = {"held_mask": prefix_seen, "mask": mask, "scale": options["scale"]}
            return self.o(self._by_head(cached_attention.attend(query, held, keys, values, **options)))
        attended = prefix_attention.attend(
            query, keys, values, prefix=prefix, prefix_seen=prefix_seen, mask=mask, **options
        )
        return self.o(self._by_head(attended))

    def query(self, x: Float[Array, "B Q E"]) -> Float[Array, "B Q H D"]:
        """What asks."""
        return self._by_head(self.q(x))

    def options(self, number: jax.Array) -> dict[str, Any]:
        """What attention needs to know besides, in the layer of that number."""
        cfg = self.config
        scale = jnp.asarray(cfg.d_kv**-0.5 if cfg.scale_scores else 1.0, jnp.float32)
        if cfg.scale_by_layer:
            scale /= number + 1
        dropout = None if self.deterministic or not cfg.attention_dropout_rate else self.dropout
        return {"scale": scale, "dropout": dropout, "mesh": self.mesh, "implementation": self.attention_kernel}

    def _by_head(self, x: Float[Array, "B S H D"]) -> Float[Array, "B S H D"]:
        return partition.constrain(x, self.mesh, DATA, None, MODEL)


class FeedForward(nn.Module):
    """act(x wi + b) wo + b."""

    config: GPT2Config
    dtype: DTypeLike
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B S E"]) -> Float[Array, "B S E"]:
        """Position by position."""
        cfg = self.config
        inner = layers.projection(cfg.d_ff, self.dtype, _STDDEV, use_bias=True, name="wi")(x)
        hidden = attention.gradients_apart(partition.constrain(inner, self.mesh, DATA, None, MODEL))
        stddev = _STDDEV * (2 * cfg.num_layers) ** -0.5
        hidden = layers.made_again(layers.ACTIVATIONS[cfg.activation])(hidden)
        return layers.projection(cfg.d_model, self.dtype, stddev, use_bias=True, name="wo")(hidden)


class Block(nn.Module):
    """One layer, as `nn.scan` runs it, over whole rows or, with a cache, over the newest token."""

    config: GPT2Config
    dtype: DTypeLike
    deterministic: bool
    mesh: Mesh | None = None
    attention_kernel: str = "auto"

    @nn.compact
    def __call__(self, x, per_layer, mask, prefix_seen, slot, at=None):
        """(hidden [B, S, E], (number, prefix, cache)) -> (hidden, the new tokens' keys and values).

        A cache is what is held, and the keys and values of new tokens.

        Hidden states come out at the places `at`, [B, T], which then are the only ones computed; None: at all.
        """
        cfg = self.config
        number, prefix, cache = per_layer
        # Single tokens are too little to be dealt out between the products.
        residual = lambda x: x if cache is not None else partition.constrain_residual(x, self.mesh)  # noqa: E731
        gathered = lambda x: partition.constrain(residual(x), self.mesh, DATA)  # noqa: E731
        dropout = Dropout(cfg.residual_dropout_rate, deterministic=self.deterministic)
        attend = Attention(cfg, self.dtype, self.deterministic, self.mesh, self.attention_kernel, name="self_attention")
        x = residual(x)
        normed = gathered(layer_norm(cfg, self.dtype, "self_attention_norm")(x))
        new = keys, values = attend.keys_values(normed)
        held = None
        if cache is not None:
            held, *before = cache
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(cached, fresh, slot, axis=1)
                for cached, fresh in zip(before, new, strict=True)
            )
        if at is not None:
            x, normed = (jnp.take_along_axis(array, at[..., None], axis=1) for array in (x, normed))
            mask = rows_at(mask, at)
            prefix_seen = None if prefix_seen is None else rows_at(prefix_seen, at)
        attended = attend(normed, keys, values, number, mask=mask, prefix=prefix, prefix_seen=prefix_seen, held=held)
        x = residual(x + dropout(residual(attended)))
        normed = gathered(layer_norm(cfg, self.dtype, "feed_forward_norm")(x))
        return residual(
            x + dropout(residual(FeedForward(cfg, self.dtype, self.mesh, name="feed_forward")(normed)))
        ), new


def layer_norm(cfg: GPT2Config, dtype: Any, name: str) -> LayerNorm:
    """The norm before a part of a layer, and after the last layer."""
    return LayerNorm(cfg.layer_norm_epsilon, dtype, name=name)


def rows_at(mask: jax.Array, at: Int[Array, "B T"]) -> jax.Array:
    """A mask [#B, 1, #S, K] for the queries at some places only."""
    if mask.shape[2] == 1:
        return mask
    return jnp.take_along_axis(mask, at[:, None, :, None], axis=2)
