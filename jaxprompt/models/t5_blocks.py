"""The layers of a T5's stacks, one at a time, as `nn.scan` runs them. Axis letters as in `jaxprompt.types`."""

from __future__ import annotations

import flax.linen as nn
import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxprompt.models import attention, cached_attention, layers, partition
from jaxprompt.models.t5_config import T5Config
from jaxprompt.sharding import DATA, MODEL


class Attention(nn.Module):
    """The projections of one attention layer. Head size is `d_kv`, which need not be d_model / heads."""

    config: T5Config
    dtype: DTypeLike
    deterministic: bool
    mesh: Mesh | None = None
    attention_kernel: str = "auto"

    def setup(self):
        """Declares the parts."""
        cfg = self.config
        E, H, D = cfg.d_model, cfg.num_heads, cfg.d_kv
        self.q = layers.projection((H, D), self.dtype, (E * D) ** -0.5, name="q")
        self.k = layers.projection((H, D), self.dtype, E**-0.5, name="k")
        self.v = layers.projection((H, D), self.dtype, E**-0.5, name="v")
        self.o = layers.projection(E, self.dtype, (H * D) ** -0.5, axis=(-2, -1), name="o")
        self.dropout = layers.dropout(cfg.dropout_rate, self.deterministic)

    def keys_values(self, x: Float[Array, "B K E"]) -> tuple[jax.Array, jax.Array]:
        """Keys and values of the positions attended to, each [B, K, H, D]."""
        return self._by_head(self.k(x)), self._by_head(self.v(x))

    def __call__(self, x, keys, values, *, mask, bias=None, prefix=None) -> Float[Array, "B Q E"]:
        """Attends from x, [B, Q, E], to keys and values, with the prompt's in front."""
        keys, values, mask = attention.with_prefix(keys, values, mask, prefix)
        if dropout := self._active_dropout():
            values = attention.drop_keys(values, dropout)
        return self.o(
            self._by_head(
                attention.attend(
                    self._by_head(self.q(x)),
                    keys,
                    values,
                    mask=mask,
                    bias=bias,
                    mesh=self.mesh,
                    implementation=self.attention_kernel,
                )
            )
        )

    def to_source(self, x, source, *, mask, prefix=None) -> Float[Array, "B Q E"]:
        """Attends from x, [B, Q, E], to what is made of a source, [G, B, K, E], in the cheaper of two equal ways."""
        if self.is_initializing():
            return self(x, *self.keys_values(source[0]), mask=mask, prefix=prefix)
        kernels = [part.variables["params"]["kernel"] for part in (self.k, self.v)]
        if prefix is not None or x.shape[1] >= self.config.d_kv:
            keys, values = (self._by_head(attention.project_copies(source, kernel)) for kernel in kernels)
            return self(x, keys, values, mask=mask, prefix=prefix)
        query, dropout = self._by_head(self.q(x)), self._active_dropout()
        return self.o(self._by_head(attention.attend_unprojected(query, source, *kernels, mask=mask, dropout=dropout)))

    def to_held(self, x, held, *, mask) -> Float[Array, "R 1 E"]:
        """Attends from the newest tokens, [R, 1, E], to what decoding holds of their inputs."""
        return self.o(self._by_head(cached_attention.attend_held(self._by_head(self.q(x)), held, mask=mask)))

    def _by_head(self, x: Float[Array, "B S H D"]) -> Float[Array, "B S H D"]:
        return partition.constrain(x, self.mesh, DATA, None, MODEL)

    def _active_dropout(self):
        return None if self.deterministic or not self.config.dropout_rate else self.dropout


class EncoderBlock(nn.Module):
    """One encoder layer, as `nn.scan` runs it; on demand it keeps the tokens' keys and values."""

    config: T5Config
    dtype: DTypeLike
    deterministic: bool
    keep: bool = False
    mesh: Mesh | None = None
    attention_kernel: str = "auto"

    @nn.compact
    def __call__(self, x, prefix, mask, bias):
        """(hidden [B, S, E], this layer's prefix) -> (hidden, keys and values or nothing to stack)."""
        cfg = self.config
        residual = lambda x: partition.constrain_residual(x, self.mesh)  # noqa: E731
        dropout = layers.dropout(cfg.dropout_rate, self.deterministic)
        norm = lambda name: layers.RMSNorm(cfg.layer_norm_epsilon, self.dtype, name=name)  # noqa: E731
        attend = Attention(cfg, self.dtype, self.deterministic, self.mesh, self.attention_kernel, name="self_attention")

        x = residual(x)
        normed = partition.constrain(residual(norm("self_attention_norm")(x)), self.mesh, DATA)
        new = attend.keys_values(normed)
        x = residual(x + dropout(residual(attend(normed, *new, mask=mask, bias=bias, prefix=prefix))))
        normed = partition.constrain(residual(norm("feed_forward_norm")(x)), self.mesh, DATA)
        feed_forward = _feed_forward(cfg, self.dtype, self.mesh)
        x = residual(x + dropout(residual(feed_forward(normed, deterministic=self.deterministic))))
        return x, new if self.keep else None


class DecoderBlock(nn.Module):
    """One decoder layer, as `nn.scan` runs it, over whole targets or, with a cache, over the newest token."""

    config: T5Config
    dtype: DTypeLike
    deterministic: bool
    mesh: Mesh | None = None
    attention_kernel: str = "auto"

    @nn.compact
    def __call__(self, x, per_layer, encoded, self_mask, cross_mask, bias, slot):
        """(hidden [B, T, E], (prefixes, cached keys and values)) -> (hidden, keys and values of the new tokens)."""
        cfg = self.config
        x = partition.constrain(x, self.mesh, DATA)
        self_prefix, cross_prefix, self_cache, cross_cache = per_layer
        dropout = layers.dropout(cfg.dropout_rate, self.deterministic)
        norm = lambda name: layers.RMSNorm(cfg.layer_norm_epsilon, self.dtype, name=name)  # noqa: E731

        attend = Attention(cfg, self.dtype, self.deterministic, self.mesh, self.attention_kernel, name="self_attention")
        normed = norm("self_attention_norm")(x)
        new = keys, values = attend.keys_values(normed)
        if self_cache is not None:
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(cached, fresh, slot, axis=1)
                for cached, fresh in zip(self_cache, new, strict=True)
            )
        x += dropout(attend(normed, keys, values, mask=self_mask, bias=bias, prefix=self_prefix))

        attend = Attention(
            cfg, self.dtype, self.deterministic, self.mesh, self.attention_kernel, name="cross_attention"
        )
        normed = norm("cross_attention_norm")(x)
        if cross_cache is None:
            x += dropout(attend.to_source(normed, encoded, mask=cross_mask, prefix=cross_prefix))
        else:
            x += dropout(attend.to_held(normed, cross_cache, mask=cross_mask))
        feed_forward = _feed_forward(cfg, self.dtype, self.mesh)
        return x + dropout(feed_forward(norm("feed_forward_norm")(x), deterministic=self.deterministic)), new


def _feed_forward(cfg: T5Config, dtype: DTypeLike, mesh: Mesh | None) -> layers.FeedForward:
    """The feed-forward layer; a function so that both blocks name its parameters alike."""
    return layers.FeedForward(
        cfg.d_ff, cfg.feed_forward_activation, cfg.is_gated, cfg.dropout_rate, dtype, mesh, name="feed_forward"
    )
