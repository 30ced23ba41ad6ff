"""Attention as one kernel of a TPU's core, which its scores never leave. Axis letters as in `jaxprompt.types`.

All keys of a row are in the core's memory at once, which they fit for the lengths that prompts are tuned at; so the
softmax is a plain one, in fp32, and the backward pass makes the weights again from the scores' log-sum-exp (Dao et al.
2022, appendix B). A bias that rows share is read once for all of them, and a mask once for several heads.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from jaxprompt.models import attention_kernels
from jaxprompt.sharding import DATA, MODEL


@dataclasses.dataclass(frozen=True)
class _Setting:
    """What is known when the program is traced.

    Attributes:
        mesh: that rows and heads are split over.
        interpret: whether the kernel is run as plain JAX operations, as it is where there is no TPU.
        name: under which `jax.checkpoint` may keep the results.
    """

    mesh: Mesh | None
    interpret: bool
    name: str


def attend(
    query: Float[Array, "B Q H D"],
    key: Float[Array, "B K H D"],
    value: Float[Array, "B K H D"],
    *,
    mask: Bool[Array, "#B 1 #Q K"],
    bias: Float[Array, "#B H Q K"] | None = None,
    scale: float | jax.Array = 1.0,
    mesh: Mesh | None = None,
    name: str = "attention",
    interpret: bool = False,
) -> Float[Array, "B Q H D"]:
    """Softmax attention; scores, bias and softmax in fp32, products in the inputs' dtype.

    Args:
        query: queries; D is a multiple of 16.
        key: keys.
        value: values.
        mask: True where a query may see a key. A query that may see none gets a finite, meaningless mean.
        bias: added to the scaled scores.
        scale: factor of the scores, taken into the queries. No gradient flows to it.
        mesh: that rows and heads are split over.
        name: for `jax.checkpoint`, of what the backward pass needs besides the arguments.
        interpret: whether the kernel is run as plain JAX operations, for machines without a TPU.
    """
    setting = _Setting(mesh, interpret, name)
    positions_last = [x.transpose(0, 2, 3, 1) for x in (query, key, value)]
    scale = jnp.asarray(scale, jnp.float32).reshape(1)
    return _attend(*positions_last, bias, mask, scale, setting).transpose(0, 3, 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attend(query, key, value, bias, mask, scale, setting):
    return _attend_forward(query, key, value, bias, mask, scale, setting)[0]


def _attend_forward(query, key, value, bias, mask, scale, setting):
    operands = {"query": query, "key": key, "value": value, "mask": mask, "scale": scale}
    if bias is not None:
        operands["bias"] = bias
    run = _on_devices(attention_kernels.forward, operands, ("out", "sums"), setting)
    out, sums = (checkpoint_name(array, setting.name) for array in run(operands))
    return out, (operands, out, sums)


def _attend_backward(setting, saved, d_out):
    operands, out, sums = saved
    operands = operands | {"out": out, "sums": sums, "d_out": d_out}
    run = _on_devices(attention_kernels.backward, operands, ("query", "key", "value"), setting)
    d_bias = None
    if "bias" in operands:
        # A kernel of its own, which the compiler drops where the bias does not train.
        d_bias = _on_devices(attention_kernels.bias_gradient, operands, ("bias",), setting)(operands)
    return *run(operands), d_bias, None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _on_devices(
    kernel: Callable[..., Any], operands: dict[str, jax.Array], results: Sequence[str], setting: _Setting
) -> Callable[[dict[str, jax.Array]], Any]:
    """Runs a kernel on every device, with its own rows over `data` and heads over `model`, as these divide them."""
    rows, heads = operands["query"].shape[:2]
    mesh = setting.mesh
    by_row = DATA if mesh and not rows % mesh.shape[DATA] else None
    by_head = MODEL if mesh and not heads % mesh.shape[MODEL] else None

    def on_device(operands: dict[str, jax.Array]) -> Any:
        rows, heads, size, queries = operands["query"].shape
        shape = attention_kernels.Shape(rows, queries, operands["key"].shape[3], heads, size)
        result = kernel(operands, shape, setting.interpret)
        # A bias that rows share has a part of its gradient on every device that has rows.
        is_part = results == ("bias",) and by_row and specs["bias"][0] is None
        return jax.lax.psum(result, by_row) if is_part else result

    def spec(name: str) -> PartitionSpec:
        if name == "scale":
            return PartitionSpec()
        if name in ("bias", "mask"):
            own = operands[name].shape[0] == rows
            return PartitionSpec(by_row if own else None, by_head if name == "bias" else None)
        return PartitionSpec(by_row, by_head)

    specs = {name: spec(name) for name in operands}
    if mesh is None:
        return on_device
    outs = tuple(spec(name) for name in results)
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(specs,), out_specs=outs if len(outs) > 1 else outs[0], check_vma=False
    )
