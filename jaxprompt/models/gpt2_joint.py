"""GPT-2's layers over a prompt and the rows behind it in one pass. Axis letters as in `jaxprompt.types`.

Of a prompt that stands in front of every row, each layer computes P tokens once, not B times. Here they run beside the
rows' own tokens, as one matrix of P + B·S, so that every weight is read once and no product is as small as the prompt.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxprompt.models import attention, prefix_attention
from jaxprompt.models.dropout import Dropout
from jaxprompt.models.gpt2_blocks import Attention, FeedForward, layer_norm, rows_at
from jaxprompt.models.gpt2_config import GPT2Config


class JointBlock(nn.Module):
    """One layer, its parameters those of `gpt2_blocks.Block`.

    Attributes:
        num_rows: B.
        length: P.
        attention_kernel: what computes attention, one of `fused_attention.IMPLEMENTATIONS`.
    """

    config: GPT2Config
    dtype: DTypeLike
    deterministic: bool
    num_rows: int
    length: int
    attention_kernel: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "1 N E"],
        number: Int[Array, ""],
        mask: Bool[Array, "B 1 S S"],
        at: Int[Array, "1 R"] | None = None,
    ) -> tuple[Float[Array, "1 R E"], None]:
        """Hidden states of the prompt and, one row behind the other, of the rows: N = P + B·S.

        They come out at the places `at`, as many of each row and none of the prompt, and are computed at no others;
        None: at all.
        """
        cfg = self.config
        dropout = Dropout(cfg.residual_dropout_rate, deterministic=self.deterministic)
        attend = Attention(
            cfg, self.dtype, self.deterministic, attention_kernel=self.attention_kernel, name="self_attention"
        )
        normed = layer_norm(cfg, self.dtype, "self_attention_norm")(x)
        (prompt_keys, keys), (prompt_values, values) = map(self._split, attend.keys_values(normed))
        if at is None:
            prompt_query, query = self._split(attend.query(normed))
        else:
            x, normed = (jnp.take_along_axis(array, at[..., None], axis=1) for array in (x, normed))
            query = self._by_row(attend.query(normed))
            mask = rows_at(mask, (at.reshape(self.num_rows, -1) - self.length) % mask.shape[2])
        options = attend.options(number)
        prefix = prompt_keys[0], prompt_values[0]
        attended = prefix_attention.attend(query, keys, values, prefix=prefix, mask=mask, **options)
        attended = attended.reshape(1, -1, *attended.shape[2:])
        if at is None:
            causal = jnp.tril(jnp.ones((self.length, self.length), bool))[None, None]
            own = attention.attend(prompt_query, prompt_keys, prompt_values, mask=causal, **options)
            attended = jnp.concatenate([own, attended], axis=1)
        x = x + dropout(attend.o(attended))
        normed = layer_norm(cfg, self.dtype, "feed_forward_norm")(x)
        return x + dropout(FeedForward(cfg, self.dtype, name="feed_forward")(normed)), None

    def _split(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The prompt's part, [1, P, ...], and the rows', [B, S, ...]."""
        return x[:, : self.length], self._by_row(x[:, self.length :])

    def _by_row(self, x: jax.Array) -> jax.Array:
        return x.reshape(self.num_rows, -1, *x.shape[2:])
