"""Five seeds of one task: one vmapped run beside five PEFT runs, one after the other.

    python benchmarks/seeds.py --output=seeds.json [--quick] [--cases=gpt2_small_x5]

Ours is one step of five prompts, each with a batch, dropout and statistics of its own; PEFT's is one step of one
prompt, five times over. Both as in `train_step.py`. The ratio is how many times as long PEFT takes for all five.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from paired import report
from paired.shapes import Case
from paired.turns import Apart, measure

CASES = {
    "gpt2_small_x5": Case("gpt2_small", prompt=100, input=64, prompts=5),
    "t5_small_x5": Case("t5_small", prompt=100, input=128, prompts=5),
    "gpt2_nano_x2": Case("gpt2_nano", prompt=4, batch=2, input=6, target=3, prompts=2),
}
DEFAULT = ["gpt2_small_x5", "t5_small_x5"]


def main(arguments: Sequence[str] | None = None, start: Callable[..., Any] = Apart) -> int:
    """Measures the cases, prints a table, writes JSON."""
    chosen = report.options(__doc__, CASES).parse_args(arguments)
    report.prepare(chosen)
    from paired import ours

    sides = {"ours": ours.seeds}
    if "peer" in chosen.sides:
        from paired import peft_training

        sides["peer"] = peft_training.train_step
    plan, found = report.plan(chosen, rounds=6, times=2), {}
    report.show("case", "ours", "peer", "ratio", "of peer's memory")
    for name, case in report.select(chosen, CASES, DEFAULT).items():
        measured = measure(sides, case, plan, start=start)
        found[name] = result = report.compare(measured, case, scale=case.prompts)
        share = f"{result['memory_of_peer']:.2f}" if "memory_of_peer" in result else "-"
        both = report.seconds(result["ours"]), report.seconds(result["peer"])
        report.show(name, *both, report.times(result["ratio"]), share)
    report.write(chosen.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
