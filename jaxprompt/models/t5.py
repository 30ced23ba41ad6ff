"""T5 in Flax Linen (Raffel et al. 2020): 1.0, 1.1, LM-adapted, Flan, mT5, ByT5 and their "efficient" shapes.

The module accepts an `Injection` and knows no prompt method. Layers run under `nn.scan`, their parameters stacked on a
leading axis, so program size and compile time do not grow with depth. Axis letters as in `jaxprompt.types`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxprompt.models import attention, layers, partition, quantization
from jaxprompt.models.cached_attention import hold
from jaxprompt.models.layered import is_apart, layer_of
from jaxprompt.models.t5_config import T5Config
from jaxprompt.models.t5_stacks import Cache, Decoder, Encoder
from jaxprompt.sharding import DATA, MODEL
from jaxprompt.types import Batch, Injection


class T5(nn.Module):
    """A T5 with a place for prompts.

    Attributes:
        config: the architecture.
        dtype: of parameters and computation; logits are fp32 whatever it is.
        remat: a key of `layers.REMAT_POLICIES`.
        unroll: layers in one turn of the compiled loop over them; 0 decides by platform and depth.
        mesh: devices that rows and weights are split over; None: one device.
        attention_kernel: what computes attention, one of `fused_attention.IMPLEMENTATIONS`.
    """

    embedding_path: ClassVar[str] = "shared/embedding"

    config: T5Config
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    unroll: int = 0
    mesh: Mesh | None = None
    attention_kernel: str = "auto"

    def setup(self):
        """Declares the parts."""
        cfg = self.config
        init = nn.initializers.normal(1.0)
        self.shared = nn.Embed(cfg.vocab_size, cfg.d_model, self.dtype, self.dtype, embedding_init=init)
        self.encoder = Encoder(cfg, self.dtype, self.remat, self.unroll, self.mesh, self.attention_kernel)
        self.decoder = Decoder(cfg, self.dtype, self.remat, self.unroll, self.mesh, self.attention_kernel)
        if not cfg.tied_head:
            self.lm_head = layers.Head(cfg.vocab_size, self.dtype)

    def __call__(
        self, batch: Batch, injection: Injection | None = None, *, deterministic: bool = True
    ) -> Float[Array, "B T V"]:
        """Logits at target positions, fp32.

        Args:
            batch: inputs and targets; the decoder reads the targets shifted right by one.
            injection: the prompt; virtual tokens are for the encoder, keys and values for the stacks they name.
            deterministic: False applies dropout, with the rng `dropout`.
        """
        return self.logits(self.hidden(batch, injection, deterministic=deterministic))

    def hidden(
        self, batch: Batch, injection: Injection | None = None, *, deterministic: bool = True
    ) -> Float[Array, "B T E"]:
        """What the logits are made of, at target positions; the arguments are those of the call."""
        encoded = self.encode(batch.inputs, batch.input_segments, injection, deterministic=deterministic)
        kv = attention.prefixes(injection or Injection())
        x, _ = self._read_targets(
            encoded, batch.input_segments, batch.targets, batch.target_segments, kv, deterministic=deterministic
        )
        return x

    def encode(
        self,
        inputs: Int[Array, "B S"],
        input_segments: Int[Array, "B S"],
        injection: Injection | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B S E"]:
        """The encoder's output."""
        injection = injection or Injection()
        x = layers.embed(inputs, self.shared.embedding, injection.tokens)
        encoded, _ = self.encoder(x, input_segments, attention.prefixes(injection), deterministic=deterministic)
        return encoded

    def decode(
        self,
        encoded: Float[Array, "B S E"],
        input_segments: Int[Array, "B S"],
        targets: Int[Array, "B T"],
        target_segments: Int[Array, "B T"],
        injection: Injection | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits of whole targets, given the encoder's output; no dropout."""
        kv = attention.prefixes(injection or Injection())
        x, _ = self._read_targets(encoded, input_segments, targets, target_segments, kv, deterministic=True)
        return self.logits(x)

    def keys_values(self, batch: Batch) -> dict[str, tuple[Float[Array, "B L K H D"], Float[Array, "B L K H D"]]]:
        """The keys and values of a batch's tokens in every layer, by stack: what a prefix holds of virtual ones.

        Those of `encoder` and `cross` are the inputs', those of `decoder` belong to what the decoder reads, the targets
        shifted right by one.
        """
        x = layers.embed(batch.inputs, self.shared.embedding)
        encoded, encoder = self.encoder(x, batch.input_segments, {}, deterministic=True, keep=True)
        _, decoder = self._read_targets(
            encoded, batch.input_segments, batch.targets, batch.target_segments, {}, deterministic=True
        )
        layers_first = {"encoder": encoder, "decoder": decoder, "cross": self._cross_keys_values(encoded)}
        return jax.tree.map(lambda array: jnp.moveaxis(array, 0, 1), layers_first)

    def prefill(
        self, batch: Batch, injection: Injection | None = None, *, max_length: int
    ) -> tuple[Float[Array, "B V"], Cache]:
        """Reads the inputs; returns the logits of the first new token and the cache to go on with.

        Args:
            batch: only its inputs and their segments are read.
            injection: the prompt.
            max_length: how many tokens will be decoded at most; fixes the cache's shape.
        """
        cfg, injection = self.config, injection or Injection()
        encoded = self.encode(batch.inputs, batch.input_segments, injection)
        cross_keys, cross_values = self._cross_keys_values(encoded)
        cross_mask = (batch.input_segments > 0)[:, None, None, :]
        prefixes = attention.prefixes(injection)
        prefix, _ = attention.layers_first(prefixes.get("cross"))
        if prefix is not None:
            put = jax.vmap(attention.with_prefix, in_axes=(0, 0, None, 0))
            cross_keys, cross_values, masks = put(cross_keys, cross_values, cross_mask, prefix)
            cross_mask = masks[0]
        prefix, prefix_length = attention.layers_first(prefixes.get("decoder"))
        shape = (cfg.num_decoder_layers, encoded.shape[0], prefix_length + max_length, cfg.num_heads, cfg.d_kv)
        self_keys = self_values = jnp.zeros(shape, self.dtype)
        if prefix is not None:
            # One prompt for all rows lacks the batch axis.
            rows = (array if array.ndim == 5 else array[:, None] for array in prefix[:2])
            self_keys, self_values = (self_keys.at[:, :, :prefix_length].set(array) for array in rows)
        by_layer = layers.are_written_out(cfg.num_decoder_layers, self.unroll)
        cache = Cache(
            self_keys=self_keys,
            self_values=self_values,
            cross=hold([(cross_keys, cross_values)], by_layer=by_layer),
            cross_mask=cross_mask,
            length=jnp.zeros((), jnp.int32),
            prefix_own=None if prefix is None or len(prefix) == 2 else prefix[2][0],
            prefix_length=prefix_length,
        )
        return self.decode_step(jnp.full(encoded.shape[0], cfg.decoder_start_token_id, jnp.int32), cache)

    def decode_step(self, tokens: Int[Array, " B"], cache: Cache) -> tuple[Float[Array, "B V"], Cache]:
        """Reads one more token a row; returns the logits of the next and the cache that includes it."""
        slot = cache.length + cache.prefix_length
        seen = (jnp.arange(cache.self_keys.shape[2]) <= slot)[None]
        if cache.prefix_own is not None:
            seen &= jnp.pad(cache.prefix_own, ((0, 0), (0, seen.shape[1] - cache.prefix_length)), constant_values=True)
        x, (keys, values) = self.decoder(
            layers.embed(tokens[:, None], self.shared.embedding),
            self_mask=seen[:, None, None],
            cross_mask=cache.cross_mask,
            deterministic=True,
            cache=cache,
        )
        put = jax.lax.dynamic_update_slice_in_dim
        cache = dataclasses.replace(
            cache,
            self_keys=put(cache.self_keys, keys, slot, axis=2),
            self_values=put(cache.self_values, values, slot, axis=2),
            length=cache.length + 1,
        )
        return self.logits(x)[:, 0], cache

    def _read_targets(
        self,
        encoded: Float[Array, "B S E"],
        input_segments: Int[Array, "B S"],
        targets: Int[Array, "B T"],
        target_segments: Int[Array, "B T"],
        kv: Mapping[str, Any],
        *,
        deterministic: bool,
    ) -> tuple[Float[Array, "B T E"], tuple[jax.Array, jax.Array]]:
        """The decoder over whole targets: hidden states, and its tokens' keys and values."""
        tokens = shift_right(targets, target_segments, self.config.decoder_start_token_id)
        # Padding sees its row's last segment: it is never scored, and a row of padding alone stays finite.
        seen_as = jnp.where(target_segments > 0, target_segments, input_segments.max(axis=1, keepdims=True))
        return self.decoder(
            layers.embed(tokens, self.shared.embedding),
            self_mask=attention.segment_mask(seen_as, seen_as, causal=True),
            cross_mask=attention.segment_mask(seen_as, input_segments),
            deterministic=deterministic,
            segments=seen_as,
            encoded=encoded,
            kv=kv,
        )

    def _cross_keys_values(self, encoded: Float[Array, "B S E"]) -> tuple[jax.Array, jax.Array]:
        """What every decoder layer attends to of the encoder's output, [L, B, S, H, D] each."""
        kernels = self.decoder.variables["params"]["block"]["cross_attention"]
        each = (self._of_layers(encoded, kernels[name]["kernel"]) for name in ("k", "v"))
        keys, values = each
        return keys, values

    def _of_layers(self, encoded: Float[Array, "B S E"], kernel: Any) -> Float[Array, "L B S H D"]:
        if not any(map(is_apart, jax.tree.leaves(kernel, is_leaf=is_apart))):
            return quantization.einsum("bse,lehd->lbshd", encoded, kernel)
        layers = range(self.config.num_decoder_layers)
        return jnp.stack([quantization.einsum("bse,ehd->bshd", encoded, layer_of(number, kernel)) for number in layers])

    def logits(self, x: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        """Logits, fp32, of what `hidden` gives."""
        if self.config.scale_decoder_outputs:
            x = x * self.config.d_model**-0.5
        if not self.config.tied_head:
            logits = self.lm_head(x)
        else:
            logits = jnp.einsum("bte,ve->btv", x, self.shared.embedding, preferred_element_type=jnp.float32)
        return partition.constrain(logits, self.mesh, DATA, None, MODEL)


def shift_right(targets: Int[Array, "B T"], segments: Int[Array, "B T"], start_token_id: int) -> Int[Array, "B T"]:
    """What the decoder reads to predict the targets: each segment's start token, then its targets but the last."""
    shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=start_token_id)
    before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)))
    return jnp.where((segments != before) & (segments > 0), start_token_id, shifted)
