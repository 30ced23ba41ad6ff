"""Which program computes attention: XLA's, or one kernel of the platform's. Axis letters as in `jaxprompt.types`.

Our own kernel is imported where it is taken, for what it is written in takes most of a second to import.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxprompt.config_values import expected
from jaxprompt.models.platforms import platform
from jaxprompt.sharding import MODEL

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "pallas")
"""Values of `model.attention`: `cudnn` is NVIDIA's fused kernel, `pallas` our own for TPUs. `auto` takes XLA's program
wherever no kernel has been measured to be faster on the hardware itself, which today is everywhere."""

# What one core's own memory holds, by the name of the device; Google publishes neither for v5p nor for v6e, and these
# are what `jax.experimental.pallas.tpu.get_tpu_info` says. A v3 has no products of two-byte numbers in kernels.
_CORE_BYTES = {
    "TPU v4": 16 * 2**20,
    "TPU v5 lite": 128 * 2**20,
    "TPU v5": 64 * 2**20,
    "TPU v6 lite": 128 * 2**20,
}

_REGISTER_ROWS = 16  # of two-byte numbers in a TPU's register, which a head's channels must fill
_FEWEST = 64  # queries, and keys: attention of less, such as a decoder's to its own few tokens, is no work for a kernel


@dataclasses.dataclass(frozen=True)
class Call:
    """One use of attention, as far as the choice depends on it.

    Attributes:
        queries: Q.
        keys: K.
        heads: H on one device.
        size: of a head, D.
        dtype: of queries, keys and values.
        has_bias: whether there is one.
        drops_weights: whether dropout acts on the weights, each by itself.
        platform: of the devices, `cpu`, `gpu` or `tpu`.
        kind: of the devices, as JAX names it.
    """

    queries: int
    keys: int
    heads: int
    size: int
    dtype: DTypeLike
    has_bias: bool
    drops_weights: bool
    platform: str
    kind: str = ""


def choose(implementation: str, call: Call) -> str:
    """Which of `xla`, `cudnn` and `pallas` computes this use of attention.

    A kernel that is asked for is used wherever it can be; where it cannot, such as for the single query of a decoding
    step, XLA's program gives the same.

    Args:
        implementation: one of `IMPLEMENTATIONS`.
        call: the use.

    Raises:
        ValueError: there is no such implementation, or it is one of other devices or of another dtype, so that no use
            of attention could be computed by it.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"model.attention is {implementation!r}; {expected(implementation, IMPLEMENTATIONS)}")
    if implementation == "cudnn":
        if call.platform != "gpu" or jnp.dtype(call.dtype).itemsize != 2:
            raise ValueError(
                f"model.attention is 'cudnn', whose kernel is for GPUs and two-byte numbers; here are {call.platform} "
                f"devices and {jnp.dtype(call.dtype)}; set model.dtype to bfloat16, or model.attention to xla"
            )
        return "cudnn" if _fits_cudnn(call) else "xla"
    if implementation == "pallas":
        if call.platform == "gpu" or (call.platform == "tpu" and call.kind not in _CORE_BYTES):
            raise ValueError(
                f"model.attention is 'pallas', whose kernel is for {', '.join(_CORE_BYTES)}; here are "
                f"{call.kind or call.platform} devices; set model.attention to xla"
            )
        return "pallas" if _fits_pallas(call) else "xla"
    return "xla"


def choose_for(
    implementation: str,
    query: Float[Array, "B Q H D"],
    key: Float[Array, "B K H D"],
    *,
    has_bias: bool,
    drops_weights: bool,
    mesh: Mesh | None,
) -> str:
    """`choose` for arrays, and for the devices of a mesh or, without one, the first that there is."""
    device = mesh.devices.flat[0] if mesh else jax.devices()[0]
    heads, size = query.shape[2:]
    if mesh and not heads % mesh.shape[MODEL]:
        heads //= mesh.shape[MODEL]
    call = Call(
        queries=query.shape[1],
        keys=key.shape[1],
        heads=heads,
        size=size,
        dtype=query.dtype,
        has_bias=has_bias,
        drops_weights=drops_weights,
        platform=platform(mesh),
        kind=device.device_kind,
    )
    return choose(implementation, call)


def _fits_cudnn(call: Call) -> bool:
    # As `jax.nn.dot_product_attention` refuses: the mask counts as a bias, which wants even lengths for its gradient.
    shaped = not (call.size % 8 or call.queries % 2 or call.keys % 2) and call.size <= 128
    return shaped and not call.drops_weights and min(call.queries, call.keys) >= _FEWEST


def _fits_pallas(call: Call) -> bool:
    if call.size % _REGISTER_ROWS or call.drops_weights:
        return False
    if call.platform != "tpu":
        return True
    from jaxprompt.models import attention_kernels

    shape = attention_kernels.Shape(1, call.queries, call.keys, call.heads, call.size)
    needed = shape.core_bytes(jnp.dtype(call.dtype).itemsize, has_bias=call.has_bias)
    return min(call.queries, call.keys) >= _FEWEST and needed <= _CORE_BYTES[call.kind]


def attend(
    implementation: str,
    query: Float[Array, "B Q H D"],
    key: Float[Array, "B K H D"],
    value: Float[Array, "B K H D"],
    *,
    mask: Bool[Array, "#B 1 #Q K"],
    bias: Float[Array, "#B H Q K"] | None,
    scale: jax.Array,
    mesh: Mesh | None,
    name: str,
) -> Float[Array, "B Q H D"]:
    """Attention by a kernel, with the arguments of `models.attention.attend`.

    Args:
        implementation: `cudnn` or `pallas`, as `choose` says.
        query: queries.
        key: keys.
        value: values.
        mask: True where a query may see a key.
        bias: added to the scaled scores.
        scale: factor of the scores, which both kernels take into the queries.
        mesh: that rows and heads are split over.
        name: under which `jax.checkpoint` may keep the results.
    """
    if implementation == "pallas":
        from jaxprompt.models import attention_pallas

        interpret = platform(mesh) != "tpu"
        return attention_pallas.attend(
            query, key, value, mask=mask, bias=bias, scale=scale, mesh=mesh, name=name, interpret=interpret
        )
    query = (query * scale).astype(query.dtype)
    bias = None if bias is None else bias.astype(query.dtype)
    whole = jnp.broadcast_to(mask, (*mask.shape[:2], query.shape[1], mask.shape[3]))
    return jax.nn.dot_product_attention(query, key, value, bias, whole, scale=1.0, implementation="cudnn")
