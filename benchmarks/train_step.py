"""Time, throughput, share of the peak and memory of one training step, beside PEFT's on the same shape.

    python benchmarks/train_step.py --output=train_step.json [--quick] [--cases=t5_small_p100,gpt2_small_p100]
    python benchmarks/train_step.py --device=gpu --cases=t5_xl,gpt2_xl,t5_xxl --output=gpu.json
    python benchmarks/train_step.py --estimate=v5e-8 --cases=t5_large,t5_xl

Each side trains a prompt on a model of random weights, with dropout, as both do by default, Adafactor without momentum,
fp32 on a CPU. A third and a fourth process take turns with them and multiply square matrices, in jax and in torch:
their best round is the machine's peak. Columns:

- **ratio**: how many times as long PEFT takes, the median over rounds.
- **floor**: the program's matrix products at jax's peak; **peak**: what share of that peak the step reaches.
- **memory**: the most that a side held in the timed steps above what its process held after its imports, that is
  weights, prompt, activations and what compiling left behind (on a GPU, of the card); **of peer**: ours by PEFT's.

`--estimate` compiles the step for a TPU slice instead, and prints the compiler's own estimate (no TPU is needed). With
a GPU the defaults are bf16, torch.compile for PEFT, and one side after the other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from paired import report
from paired.shapes import Case
from paired.turns import Apart, measure

CASES = {
    "t5_small_p100": Case("t5_small", prompt=100, input=128),
    "gpt2_small_p100": Case("gpt2_small", prompt=100, input=64),
    "t5_small_p20": Case("t5_small", prompt=20, input=128),
    "gpt2_small_p20": Case("gpt2_small", prompt=20, input=64),
    **{
        f"{model}_p{prompt}_i{length}": Case(model, prompt=prompt, input=length)
        for model, lengths in {"t5_small": (64, 512), "gpt2_small": (128, 512)}.items()
        for prompt in (100, 20)
        for length in lengths
    },
    **{model: Case(model, prompt=100, batch=32, input=512, target=16) for model in ("t5_xl", "gpt2_xl", "t5_xxl")},
    "t5_large": Case("t5_large", prompt=100, batch=32, input=512, target=16),
    "t5_nano": Case("t5_nano", prompt=4, batch=2, input=6, target=3),
    "gpt2_nano": Case("gpt2_nano", prompt=4, batch=2, input=6, target=3),
}
ON_CPU = [name for name in CASES if "_p" in name]
ON_GPU = ["t5_xl", "gpt2_xl", "t5_xxl"]


def main(arguments: Sequence[str] | None = None, start: Callable[..., Any] = Apart) -> int:
    """Measures the cases, prints a table, writes JSON."""
    parser = report.options(__doc__, CASES)
    parser.add_argument("--estimate", metavar="SLICE", help="of Cloud TPU, such as v5e-8: no measurement")
    chosen = parser.parse_args(arguments)
    if chosen.estimate:
        return estimate(chosen)
    report.prepare(chosen)
    cases = report.select(chosen, CASES, ON_GPU if chosen.device == "gpu" else ON_CPU)
    from paired import ours

    sides, gauges = {"ours": ours.train_step}, {"peak_jax": ours.matrix_products}
    if "peer" in chosen.sides:
        from paired import peft_training

        sides["peer"], gauges["peak_torch"] = peft_training.train_step, peft_training.matrix_products
    plan, found = report.plan(chosen, rounds=8, times=2), {}
    working = {name: start(make, next(iter(cases.values()))) for name, make in gauges.items()}
    report.show("case", "ours", "peer", "ratio", "tokens/s", "floor", "peak", "memory", "of peer")
    for name, case in cases.items():
        measured = measure(sides, case, plan, gauges=working, start=start)
        found[name] = result = report.compare(measured, case)
        for side in chosen.sides:
            if "error" in measured[side].facts:
                print(f"{name}: the device is too small for {side}", file=sys.stderr)
        if result["ours"] is None:
            continue
        result |= utilisation(measured, case, result["ours"])
        share = result.get("memory_of_peer")
        report.show(
            name,
            report.seconds(result["ours"]),
            report.seconds(result["peer"]),
            report.times(result["ratio"]),
            f"{result['tokens_per_s']:,.0f}",
            report.seconds(result["floor_s"]),
            f"{result['share_of_peak']:.0%}",
            f"{result['memory_mb']['ours'].get('device', result['memory_mb']['ours']['step']):,.0f} MB",
            "-" if share is None else f"{share:.2f}",
        )
    for gauge in working.values():
        gauge.stop()
    report.write(chosen.output, found)
    return 0


def utilisation(measured: Any, case: Case, taken: float) -> dict[str, Any]:
    """What our step makes of the machine's peak.

    `share_of_peak` is of the products that the program makes, `model_utilisation` of those that the shapes ask for
    (`planning.flops`), which a program may save some of; both of jax's own peak.
    """
    facts = measured["ours"].facts
    peaks = {name: report.peak_of(one) for name, one in measured.items() if name.startswith("peak_")}
    return {
        "tokens_per_s": case.batch * (case.prompt + case.input + case.target) / taken,
        "peak_flops": peaks,
        "floor_s": facts["matrix_flops"] / peaks["peak_jax"],
        "share_of_peak": facts["matrix_flops"] / taken / peaks["peak_jax"],
        "model_utilisation": facts["needed_flops"] / taken / peaks["peak_jax"],
    }


def estimate(chosen: Any) -> int:
    """The TPU compiler's estimate of the cases' steps."""
    from paired.tpu import estimated

    names = chosen.cases.split(",") if chosen.cases else ["t5_large"]
    found = {}
    report.show("case", "mesh", "step", "of peak", "memory")
    for name in names:
        found[name] = result = estimated(CASES[name].resolved(dtype=chosen.dtype or "bfloat16"), chosen.estimate)
        memory = f"{result['device_bytes'] / 2**30:.1f} GiB"
        report.show(name, result["mesh"], report.seconds(result["ours"]), f"{result['utilisation']:.0%}", memory)
    report.write(chosen.output, found, slice=chosen.estimate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
