"""Attention's kernels against XLA's program on this machine's accelerator: are they equal, and which is faster?

    python benchmarks/attention.py --output=attention.json

Forward and backward pass of one layer, bf16, as training takes it: T5's bias is shared by the rows and frozen, rows are
padded to a length. On a GPU it tries cuDNN's kernel, on a TPU ours; on a CPU there is none. Each is compared with XLA's
program in fp32, and counts as equal where it is off by at most twice as much as XLA's program in bf16 is. Prints a
table and exits with 1 if a kernel is not equal. What it finds on a device says what `model.attention=auto` should be
there (`models/fused_attention.py`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprompt.models import attention, fused_attention

KERNELS = {"gpu": "cudnn", "tpu": "pallas"}


class Layer(NamedTuple):
    """One model's self-attention: rows, positions, the prompt's keys in front, heads, their size."""

    rows: int
    length: int
    prefix: int
    heads: int
    size: int
    has_bias: bool


LAYERS = {
    "t5_small_p100": Layer(32, 612, 0, 6, 64, True),
    "t5_xl_p100": Layer(32, 612, 0, 32, 64, True),
    "t5_xxl_p100": Layer(8, 612, 0, 64, 64, True),
    "gpt2_small_p100": Layer(32, 512, 100, 12, 64, False),
    "gpt2_xl_p100": Layer(32, 512, 100, 25, 64, False),
}


def main() -> int:
    """Compares and times; prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", default=",".join(LAYERS), help="separated by commas")
    parser.add_argument("--repeats", type=int, default=20, help="timed runs of each program")
    parser.add_argument("--output", type=Path, help="a JSON file for the table")
    options = parser.parse_args()
    device = jax.devices()[0]
    kernel = KERNELS.get(device.platform, "")
    cases = {name: compare(LAYERS[name], kernel, options.repeats) for name in options.cases.split(",")}
    print(f"| {device.device_kind}, jax {jax.__version__} | {kernel or 'no kernel'}, ms | XLA, ms | ratio | equal |")
    print("|---|---|---|---|---|")
    for name, case in cases.items():
        shown = ("-" if case[key] is None else f"{case[key]:.2f}" for key in ("ours", "peer", "ratio"))
        print(f"| {name} | {' | '.join(shown)} | {case['equal']} |")
    if options.output:
        found = {"device": device.device_kind, "jax": jax.__version__, "kernel": kernel, "cases": cases}
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(case["equal"] is False for case in cases.values()))


def compare(layer: Layer, kernel: str, repeats: int) -> dict[str, Any]:
    """One layer: milliseconds of the kernel (`ours`) and of XLA's program (`peer`), and whether they agree."""
    keys = jax.random.split(jax.random.key(0), 5)
    B, Q, K, H, D = layer.rows, layer.length, layer.prefix + layer.length, layer.heads, layer.size
    draw = lambda key, *shape: jax.random.normal(key, shape)  # noqa: E731
    inputs = (draw(keys[0], B, Q, H, D) * D**-0.5, draw(keys[1], B, K, H, D), draw(keys[2], B, K, H, D))
    bias = draw(keys[3], 1, H, Q, K) if layer.has_bias else None
    d_out = draw(keys[4], B, Q, H, D)
    lengths = Q - 3 * jnp.arange(B)[:, None]
    segments = (jnp.arange(Q) < lengths).astype(jnp.int32)
    mask = attention.segment_mask(segments, segments, causal=not layer.has_bias)
    mask = jnp.concatenate([jnp.ones((B, 1, Q, layer.prefix), bool), mask], axis=-1)
    d_out = jnp.where(segments[:, :, None, None] > 0, d_out, 0)  # as nobody reads what padding gets

    def passes(implementation: str, dtype: Any) -> tuple[Any, float]:
        """The gradients and the result, and the milliseconds of both passes."""

        @jax.jit
        def run(inputs: Any, bias: Any, d_out: Any) -> Any:
            given = lambda *inputs: attention.attend(*inputs, mask=mask, bias=bias, implementation=implementation)  # noqa: E731
            out, back = jax.vjp(given, *inputs)
            return jnp.where(segments[:, :, None, None] > 0, out, 0), *back(d_out)

        given = jax.tree.map(lambda x: x.astype(dtype), (inputs, bias, d_out))
        found = jax.block_until_ready(run(*given))
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            jax.block_until_ready(run(*given))
            times.append(1e3 * (time.perf_counter() - began))
        return found, statistics.median(times)

    with jax.default_matmul_precision("highest"):
        exact, _ = passes("xla", jnp.float32)
    rounded, peer = passes("xla", jnp.bfloat16)
    case: dict[str, Any] = {"ours": None, "peer": peer, "ratio": None, "unit": "ms", "equal": None, "shape": layer}
    if kernel:
        query, key = (x.astype(jnp.bfloat16) for x in inputs[:2])
        has_bias = layer.has_bias
        chosen = fused_attention.choose_for(kernel, query, key, has_bias=has_bias, drops_weights=False, mesh=None)
        if chosen == kernel:
            found, ours = passes(kernel, jnp.bfloat16)
            equal = all(_error(a, c) <= 2 * _error(b, c) for a, b, c in zip(found, rounded, exact, strict=True))
            case |= {"ours": ours, "ratio": peer / ours, "equal": equal}
    return case


def _error(found: jax.Array, exact: jax.Array) -> float:
    return float(jnp.linalg.norm(found.astype(jnp.float32) - exact) / jnp.linalg.norm(exact))


if __name__ == "__main__":
    sys.exit(main())
