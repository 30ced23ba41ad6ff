"""GPT-2 in Flax Linen (Radford et al. 2019): every size, and distilgpt2.

The module accepts an `Injection` and knows no prompt method. Layers run under `nn.scan`, their parameters stacked on a
leading axis, so program size and compile time do not grow with depth. Axis letters as in `jaxprompt.types`.

Positions are counted inside each segment, so padding on either side and several examples in a row change nothing.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.models import attention, cached_attention, layers, partition
from jaxprompt.models.gpt2_blocks import Cache
from jaxprompt.models.gpt2_config import GPT2Config
from jaxprompt.models.gpt2_stack import Stack
from jaxprompt.sharding import DATA, MODEL
from jaxprompt.types import Batch, Injection


class GPT2(nn.Module):
    """A GPT-2 with a place for prompts.

    Attributes:
        config: the architecture.
        dtype: of parameters and computation; logits are fp32 whatever it is.
        remat: a key of `layers.REMAT_POLICIES`.
        unroll: layers in one turn of the compiled loop over them; 0 decides by platform and depth.
        mesh: devices that rows and weights are split over; None: one device.
        attention_kernel: what computes attention, one of `fused_attention.IMPLEMENTATIONS`.
    """

    embedding_path: ClassVar[str] = "token_embedding/embedding"

    config: GPT2Config
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    unroll: int = 0
    mesh: Mesh | None = None
    attention_kernel: str = "auto"

    def setup(self):
        """Declares the parts."""
        cfg = self.config
        table = lambda rows, stddev: nn.Embed(  # noqa: E731
            rows, cfg.d_model, self.dtype, self.dtype, embedding_init=nn.initializers.normal(stddev)
        )
        self.token_embedding = table(cfg.vocab_size, 0.02)
        self.position_embedding = table(cfg.max_positions, 0.01)
        self.decoder = Stack(cfg, self.dtype, self.remat, self.unroll, self.mesh, self.attention_kernel)
        if not cfg.tied_head:
            self.lm_head = layers.Head(cfg.vocab_size, self.dtype)

    def __call__(
        self, batch: Batch, injection: Injection | None = None, *, deterministic: bool = True
    ) -> Float[Array, "B T V"]:
        """Logits at target positions, fp32.

        Args:
            batch: inputs with the targets in them, and where each target is predicted.
            injection: the prompt.
            deterministic: False applies dropout, with the rng `dropout`.
        """
        return self.logits(self.hidden(batch, injection, deterministic=deterministic))

    def hidden(
        self, batch: Batch, injection: Injection | None = None, *, deterministic: bool = True
    ) -> Float[Array, "B T E"]:
        """What the logits are made of, at target positions; the arguments are those of the call."""
        injection = injection or Injection()
        seen = None
        if injection.infix or injection.infixes is not None:
            # A token sees the infix from the one on that predicts its own segment's first target.
            at = jnp.arange(batch.inputs.shape[1])[None, :, None]
            own = batch.input_segments[:, :, None] == batch.target_segments[:, None, :]
            seen = _or_prefix(jnp.any(own & (batch.target_positions[:, None, :] <= at), axis=-1), injection)
        hidden, _, _ = self._read(
            batch.inputs, batch.input_segments, injection, seen, at=batch.target_positions, deterministic=deterministic
        )
        return hidden

    def hidden_behind(
        self, batch: Batch, tokens: Float[Array, "P E"], *, deterministic: bool = True
    ) -> Float[Array, "B T E"]:
        """The same behind one prompt that stands in front of every row, both in one pass (`gpt2_joint`).

        Args:
            batch: rows without the prompt.
            tokens: the prompt's virtual tokens.
            deterministic: False applies dropout, at the prompt the same for all rows.
        """
        P, (B, S) = tokens.shape[0], batch.inputs.shape
        prompt = tokens.astype(self.dtype) + self._positions(jnp.arange(P))
        positions = jnp.where(batch.input_segments > 0, layers.within_segments(batch.input_segments) + P, 0)
        rows = layers.embed(batch.inputs, self.token_embedding.embedding) + self._positions(positions)
        at = P + S * jnp.arange(B)[:, None] + batch.target_positions
        hidden, _ = self.decoder(
            jnp.concatenate([prompt, rows.reshape(B * S, -1)])[None],
            mask=attention.segment_mask(batch.input_segments, batch.input_segments, causal=True),
            deterministic=deterministic,
            prompt_length=P,
            at=at.reshape(1, -1),
        )
        return hidden.reshape(*batch.targets.shape, -1)

    def prompt_prefix(self, tokens: Float[Array, "*B P E"], *, deterministic: bool = True) -> Injection:
        """Virtual tokens that stand first, as the keys and values that they have in every layer.

        A causal model's states at the prompt do not depend on what comes behind it. So they are computed once and
        serve a whole batch; loss and gradients are those of prepending the tokens to every row.

        Args:
            tokens: one prompt, or one a row.
            deterministic: False applies dropout, the same for all rows.

        Returns:
            Keys and values [L, P, H, D], or [B, L, P, H, D], for positions 0 to P - 1.
        """
        rows = tokens if tokens.ndim == 3 else tokens[None]
        length = rows.shape[1]
        x = rows.astype(self.dtype) + self._positions(jnp.arange(length))
        segments = jnp.ones((1, length), jnp.int32)
        _, kv = self.decoder(
            x, mask=attention.segment_mask(segments, segments, causal=True), deterministic=deterministic
        )
        keys, values = (jnp.moveaxis(array, 1, 0) if tokens.ndim == 3 else array[:, 0] for array in kv)
        return Injection(kv={"decoder": (keys, values)}, offset=length)

    def prefill(self, batch: Batch, injection: Injection | None, max_length: int) -> tuple[Float[Array, "B V"], Cache]:
        """Reads the inputs, padded on either side; logits of the first new token, and the cache.

        Args:
            batch: only its inputs are read, one example a row.
            injection: the prompt.
            max_length: how many tokens will be decoded at most; fixes the cache's shape.
        """
        injection = injection or Injection()
        rows, length = batch.inputs.shape
        real = batch.input_segments > 0
        last = length - 1 - jnp.argmax(real[:, ::-1], axis=1)
        seen = None
        if injection.infix or injection.infixes is not None:
            seen = _or_prefix(jnp.arange(length) >= last[:, None], injection)
        hidden, (keys, values), positions = self._read(
            batch.inputs, batch.input_segments, injection, seen, at=last[:, None]
        )
        parts, held = [(keys, values)], [real]
        if (prefix := attention.layers_first(attention.prefixes(injection).get("decoder"))[0]) is not None:
            # One prompt for all rows lacks the batch axis.
            whole = [array if array.ndim == 5 else array[:, None] for array in prefix[:2]]
            shape = (keys.shape[0], rows, *whole[0].shape[2:])
            prefix_keys, prefix_values = (jnp.broadcast_to(array, shape).astype(keys.dtype) for array in whole)
            parts.insert(0, (prefix_keys, prefix_values))
            held.insert(0, prefix[2][0] if len(prefix) == 3 else jnp.ones((rows, shape[2]), bool))
        empty = jnp.zeros((*keys.shape[:2], max_length, *keys.shape[3:]), keys.dtype)
        at_last = lambda array: jnp.take_along_axis(array, last[:, None], axis=1)[:, 0]  # noqa: E731
        by_layer = layers.are_written_out(self.config.num_layers, self.unroll)
        cache = Cache(
            held=cached_attention.hold(parts, by_layer=by_layer),
            seen=jnp.concatenate(held, axis=1),
            keys=empty,
            values=empty,
            positions=at_last(positions) + 1,
            length=jnp.int32(0),
        )
        return self.logits(hidden)[:, 0], cache

    def decode_step(self, tokens: Int[Array, " B"], cache: Cache) -> tuple[Float[Array, "B V"], Cache]:
        """Reads one more token a row; returns the logits of the next and the cache that includes it."""
        x = layers.embed(tokens[:, None], self.token_embedding.embedding) + self._positions(cache.positions[:, None])
        there = jnp.arange(cache.keys.shape[2]) <= cache.length
        x, (keys, values) = self.decoder(x, mask=there, prefix_seen=cache.seen, deterministic=True, cache=cache)
        put = jax.lax.dynamic_update_slice_in_dim
        cache = dataclasses.replace(
            cache,
            keys=put(cache.keys, keys, cache.length, axis=2),
            values=put(cache.values, values, cache.length, axis=2),
            positions=cache.positions + 1,
            length=cache.length + 1,
        )
        return self.logits(x)[:, 0], cache

    def _read(
        self,
        inputs: Int[Array, "B S"],
        segments: Int[Array, "B S"],
        injection: Injection,
        prefix_seen: Bool[Array, "B S"] | None,
        *,
        at: Int[Array, "B T"],
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B T E"], tuple[jax.Array, jax.Array], Int[Array, "B S"]]:
        """Whole rows: hidden states at some places, keys and values, and the position of every token."""
        positions = layers.within_segments(segments)
        offset = injection.offset if injection.offsets is None else injection.offsets[:, None]
        shift = offset if prefix_seen is None else offset * prefix_seen
        positions = jnp.where(segments > 0, positions + shift, 0)
        x = layers.embed(inputs, self.token_embedding.embedding, injection.tokens) + self._positions(positions)
        prefix, _ = attention.layers_first(attention.prefixes(injection).get("decoder"))
        hidden, kv = self.decoder(
            x,
            mask=attention.segment_mask(segments, segments, causal=True),
            deterministic=deterministic,
            prefix=prefix,
            prefix_seen=None if prefix_seen is None else prefix_seen[:, None, :, None],
            at=at,
        )
        return hidden, kv, positions

    def _positions(self, positions: Int[Array, "..."]) -> Float[Array, "... E"]:
        """Their embeddings; NaN past the table's end, where a model without that place would read another's."""
        return layers.rows(self.position_embedding.embedding, positions)

    def logits(self, x: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        """Logits, fp32, of what `hidden` gives."""
        if not self.config.tied_head:
            logits = self.lm_head(x)
        else:
            logits = jnp.einsum("bte,ve->btv", x, self.token_embedding.embedding, preferred_element_type=jnp.float32)
        return partition.constrain(logits, self.mesh, DATA, None, MODEL)


def _or_prefix(behind: Bool[Array, "B S"], injection: Injection) -> Bool[Array, "B S"]:
    """True at tokens that see the prompt: those behind an infix, and all of a row whose prompt stands in front."""
    return behind if injection.infixes is None else behind | ~injection.infixes[:, None]
