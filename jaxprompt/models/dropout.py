"""Dropout that draws a quarter of the random words that Flax's does."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

_LEVELS = 2**8


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) by four decisions a random word, as FlashAttention draws.

    The rate is the nearest of 1/256, 2/256 … 255/256 (of 0.1, it is 0.1016). What is kept is divided by the exact
    probability of that, so the mean does not change.

    Attributes:
        rate: of elements that become 0, in [0, 1).
        deterministic: leave everything as it is.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Draws from the rng `dropout`, for every element by itself."""
        # A rate above 0 drops something, and one below 1 keeps something.
        kept = min(max(round((1 - self.rate) * _LEVELS), 1), _LEVELS - 1)
        if self.deterministic or not self.rate:
            return x
        words = jax.random.bits(self.make_rng("dropout"), (-(-x.size // 4),), jnp.uint32)
        drawn = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: x.size].reshape(x.shape)
        return jnp.where(drawn < kept, x * (_LEVELS / kept), jnp.zeros_like(x))
