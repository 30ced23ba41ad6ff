"""Attention to a prompt's keys and values in front of a row's own. Axis letters as in `jaxprompt.types`."""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from jaxprompt.models import attention, attention_by_head, fused_attention


def attend(
    query: Float[Array, "B Q H D"],
    key: Float[Array, "B K H D"],
    value: Float[Array, "B K H D"],
    *,
    prefix: attention.Prefix | None,
    mask: Bool[Array, "#B 1 #Q K"],
    prefix_seen: Bool[Array, "#B 1 #Q 1"] | None = None,
    mesh: Mesh | None = None,
    implementation: str = "auto",
    **options: Any,
) -> Float[Array, "B Q H D"]:
    """`attention.attend` with a prompt's keys and values in front, in the cheaper of two equal ways.

    Args:
        query: queries.
        key: the tokens' keys.
        value: the tokens' values.
        prefix: the prompt's part, of this layer, as `attention.with_prefix` takes it.
        mask: True where a query may see a token.
        prefix_seen: True at queries that see the prefix; None: all.
        mesh: see `attention.attend`.
        implementation: see `attention.attend`; a kernel wants the prompt in front of every row.
        options: `scale` and `dropout`, see `attention.attend`.
    """
    drops = options.get("dropout") is not None
    kernel = fused_attention.choose_for(implementation, query, key, has_bias=False, drops_weights=drops, mesh=mesh)
    if prefix is not None and len(prefix) == 2 and prefix[0].ndim == 3 and kernel == "xla":
        keys, values = prefix
        if not attention.takes_parts(query, len(keys) + key.shape[1], mesh):
            options |= {"prefix": (keys, values), "prefix_seen": prefix_seen}
            return attention_by_head.attend(*attention.gradients_apart((query, key, value)), mask=mask, **options)
    key, value, mask = attention.with_prefix(key, value, mask, prefix, prefix_seen)
    return attention.attend(query, key, value, mask=mask, mesh=mesh, implementation=implementation, **options)
