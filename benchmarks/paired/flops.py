"""Operations in a traced program's matrix products."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def matrix_flops(jaxpr: Any) -> float:
    """2 m k n of every m × k by k × n product, loops counted; of the branches of a condition the largest.

    Kernels of their own (Pallas, cuDNN) do not show, and a loop without a fixed count is counted once.

    Args:
        jaxpr: such as `jax.jit(function).trace(…).jaxpr`.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * depth
        elif name == "cond":
            total += max(matrix_flops(branch) for branch in params["branches"])
        elif name != "pallas_call":
            inner = sum(matrix_flops(part) for part in _parts(params))
            total += inner * (params["length"] if name == "scan" else 1)
    return total


def _parts(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else [value]:
            if hasattr(getattr(one, "jaxpr", one), "eqns"):
                yield one
