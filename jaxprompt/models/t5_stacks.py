"""A T5's encoder and decoder stacks, and what decoding keeps. Axis letters as in `jaxprompt.types`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.models import attention, layers
from jaxprompt.models.cached_attention import Held
from jaxprompt.models.relative_position import RelativePositionBias
from jaxprompt.models.t5_blocks import DecoderBlock, EncoderBlock
from jaxprompt.models.t5_config import T5Config


@struct.dataclass
class Cache:
    """What decoding keeps between steps. M is the number of slots: the prefix, then one a token.

    Attributes:
        self_keys: [L, B, M, H, D].
        self_values: [L, B, M, H, D].
        cross: keys and values of cross-attention, computed once from the encoder's output.
        cross_mask: [B, 1, 1, K], True at the encoder positions a row may see.
        length: tokens read so far, a scalar.
        prefix_own: [B, P], which of the prompt's slots are a row's own; None: all.
        prefix_length: slots that the prompt's keys and values take, static.
    """

    self_keys: jax.Array
    self_values: jax.Array
    cross: Held
    cross_mask: jax.Array
    length: jax.Array
    prefix_own: jax.Array | None = None
    prefix_length: int = struct.field(pytree_node=False, default=0)

    def take_rows(self, rows: Int[Array, " R"], *, same_inputs: bool = False) -> Cache:
        """The cache of the given rows, in that order; rows may repeat.

        Args:
            rows: numbers of rows of this cache.
            same_inputs: a promise that rows stay with their inputs, the first R/B with the first row's and so on, as
                the beams of one input do. What belongs to the inputs is then not moved.
        """
        at = lambda array, rows, axis: jnp.take(array, rows, axis=axis)  # noqa: E731
        own = (self.self_keys, self.self_values)
        if same_inputs and rows.shape[0] == self.self_keys.shape[1]:
            # The prompt's slots are the inputs', too.
            new = slice(self.prefix_length, None)
            self_keys, self_values = (array.at[:, :, new].set(at(array[:, :, new], rows, 1)) for array in own)
            return dataclasses.replace(self, self_keys=self_keys, self_values=self_values)
        self_keys, self_values = (at(array, rows, 1) for array in own)
        prefix_own = None if self.prefix_own is None else at(self.prefix_own, rows, 0)
        moved = dataclasses.replace(self, self_keys=self_keys, self_values=self_values, prefix_own=prefix_own)
        if same_inputs:
            return moved
        inputs = rows // (self.self_keys.shape[1] // self.cross_mask.shape[0])
        cross_mask = at(self.cross_mask, inputs, 0)
        return dataclasses.replace(moved, cross=self.cross.take_rows(inputs), cross_mask=cross_mask)


class Encoder(nn.Module):
    """The encoder stack."""

    config: T5Config
    dtype: DTypeLike
    remat: str
    unroll: int
    mesh: Mesh | None = None
    attention_kernel: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S E"],
        segments: Int[Array, "B S"],
        kv: Mapping[str, Any],
        *,
        deterministic: bool,
        keep: bool = False,
    ) -> tuple[Float[Array, "B S E"], tuple[jax.Array, jax.Array] | None]:
        """Encodes embedded input; `kv["encoder"]` is the prompt's part of every self-attention.

        The second result is the tokens' keys and values, [L, B, S, H, D] each, or None unless `keep`.
        """
        cfg = self.config
        prefix, prefix_length = attention.layers_first(kv.get("encoder"))
        bias = _bias_of_rows(_relative_bias(cfg, self.dtype, bidirectional=True), segments, prefix_length)
        mask = attention.segment_mask(segments, segments)
        dropout = layers.dropout(cfg.dropout_rate, deterministic)
        block = layers.stacked(self, EncoderBlock, cfg.num_layers, 2, self.remat, self.unroll)
        x, new = block(
            cfg, self.dtype, deterministic, keep, mesh=self.mesh, attention_kernel=self.attention_kernel, name="block"
        )(dropout(x), prefix, mask, bias)
        return dropout(layers.RMSNorm(cfg.layer_norm_epsilon, self.dtype, name="final_layer_norm")(x)), new


class Decoder(nn.Module):
    """The decoder stack, over whole targets or, given a cache, over each row's newest token."""

    config: T5Config
    dtype: DTypeLike
    remat: str
    unroll: int
    mesh: Mesh | None = None
    attention_kernel: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T E"],
        *,
        self_mask: Bool[Array, "#B 1 T K"],
        cross_mask: Bool[Array, "B 1 #T K"],
        deterministic: bool,
        segments: Int[Array, "B T"] | None = None,
        encoded: Float[Array, "B S E"] | None = None,
        kv: Mapping[str, Any] | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T E"], tuple[jax.Array, jax.Array]]:
        """Hidden states before the head, and the new tokens' keys and values, [L, B, T, H, D] each.

        Without a cache, `kv` holds the prompt's part of self- and cross-attention, `encoded` the encoder's output and
        `segments` what example each token is of; a cache holds all of these already.
        """
        cfg = self.config
        if cache is None:
            self_prefix, prefix_length = attention.layers_first((kv or {}).get("decoder"))
            cross_prefix, _ = attention.layers_first((kv or {}).get("cross"))
            per_layer: tuple[Any, ...] = (self_prefix, cross_prefix, None, None)
            slot = None
        else:
            cached = (cache.self_keys, cache.self_values), cache.cross
            per_layer = (None, None, *cached)
            slot = cache.length + cache.prefix_length
        relative = _relative_bias(cfg, self.dtype, bidirectional=False)
        if cache is None:
            bias = _bias_of_rows(relative, segments, prefix_length)
        else:
            bias = relative(cache.length[None], jnp.arange(cache.self_keys.shape[2]) - cache.prefix_length)
        if encoded is not None:
            encoded = attention.copy_for_heads(encoded, cfg.num_heads, self.mesh)
        dropout = layers.dropout(cfg.dropout_rate, deterministic)
        block = layers.stacked(self, DecoderBlock, cfg.num_decoder_layers, 5, self.remat, self.unroll)
        x, new = block(
            cfg, self.dtype, deterministic, mesh=self.mesh, attention_kernel=self.attention_kernel, name="block"
        )(dropout(x), per_layer, encoded, self_mask, cross_mask, bias, slot)
        return dropout(layers.RMSNorm(cfg.layer_norm_epsilon, self.dtype, name="final_layer_norm")(x)), new


def _relative_bias(cfg: T5Config, dtype: DTypeLike, *, bidirectional: bool) -> RelativePositionBias:
    return RelativePositionBias(
        cfg.num_heads,
        cfg.relative_attention_num_buckets,
        cfg.relative_attention_max_distance,
        bidirectional,
        cfg.d_model**-0.5,
        dtype,
        name="relative_attention_bias",
    )


def _bias_of_rows(
    relative: RelativePositionBias, segments: Int[Array, "B S"] | None, prefix_length: int
) -> Float[Array, "#B H S K"]:
    """The bias of self-attention over whole rows, the prompt's keys in front.

    Those stand directly before the first token of every example, wherever in the row that is, so where there is a
    prompt each row has a bias of its own.
    """
    assert segments is not None
    at = jnp.arange(segments.shape[1])
    tokens = relative(at, at)
    if not prefix_length:
        return tokens
    prefix = relative(layers.within_segments(segments), jnp.arange(-prefix_length, 0))
    return jnp.concatenate([prefix, jnp.broadcast_to(tokens, (prefix.shape[0], *tokens.shape[1:]))], axis=-1)
