"""GPT-2's stack of layers. Axis letters as in `jaxprompt.types`."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.models import attention, layers
from jaxprompt.models.dropout import Dropout
from jaxprompt.models.gpt2_blocks import Block, Cache, layer_norm
from jaxprompt.models.gpt2_config import GPT2Config
from jaxprompt.models.gpt2_joint import JointBlock


class Stack(nn.Module):
    """All layers and the final norm."""

    config: GPT2Config
    dtype: DTypeLike
    remat: str
    unroll: int
    mesh: Mesh | None = None
    attention_kernel: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S E"],
        *,
        mask: Bool[Array, "B 1 #S K"] | Bool[Array, " K"],
        deterministic: bool,
        prefix: attention.Prefix | None = None,
        prefix_seen: Bool[Array, "B 1 S 1"] | Bool[Array, "B K"] | None = None,
        cache: Cache | None = None,
        at: Int[Array, "B T"] | None = None,
        prompt_length: int = 0,
    ) -> tuple[Float[Array, "B T E"], Any]:
        """Hidden states before the head, and the new tokens' keys and values, [L, B, S, H, D] each.

        Args:
            x: embedded tokens.
            mask: True where a token may see a key; with a cache, at new tokens that are there.
            deterministic: False applies dropout.
            prefix: the prompt's keys and values, layers first; a cache holds them already.
            prefix_seen: True at tokens that see the prefix; None: all. With a cache, True at what is seen of it.
            cache: keys and values of earlier tokens.
            at: the places whose hidden states are asked for; None: all.
            prompt_length: P, where x is one row of a prompt and all rows behind it, as `gpt2_joint` takes them; new
                keys and values are not kept then.
        """
        cfg = self.config
        cached = None if cache is None else (cache.held, cache.keys, cache.values)
        x = Dropout(cfg.embedding_dropout_rate, deterministic=deterministic)(x)
        if prompt_length:
            joint = layers.stacked(self, JointBlock, cfg.num_layers, 1, self.remat, self.unroll)
            x, new = joint(
                cfg, self.dtype, deterministic, mask.shape[0], prompt_length, self.attention_kernel, name="block"
            )(x, jnp.arange(cfg.num_layers), mask, at=at)
            return layer_norm(cfg, self.dtype, "final_layer_norm")(x), new
        block = layers.stacked(self, Block, cfg.num_layers, 3, self.remat, self.unroll)
        x, new = block(cfg, self.dtype, deterministic, self.mesh, self.attention_kernel, name="block")(
            x,
            (jnp.arange(cfg.num_layers), prefix, cached),
            mask,
            prefix_seen,
            None if cache is None else cache.length,
            at=at,
        )
        return layer_norm(cfg, self.dtype, "final_layer_norm")(x), new
