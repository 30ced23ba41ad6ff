"""Generation beside PEFT's: greedy and by beam search, a batch with one prompt.

    python benchmarks/generate.py --output=generate.json [--quick] [--cases=t5_small_greedy]

Reading the inputs and writing exactly 16 tokens (no text may end before), on models of random weights. The ratio is how
many times as long PEFT takes. Both sides are compiled or warmed up before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from paired import report
from paired.shapes import Case
from paired.turns import Apart, measure

_SMALL = {"t5_small": 128, "gpt2_small": 64}
CASES = {
    **{f"{model}_greedy": Case(model, input=length, target=16) for model, length in _SMALL.items()},
    **{f"{model}_beam5": Case(model, input=length, target=16, beams=5) for model, length in _SMALL.items()},
    "gpt2_nano_beam2": Case("gpt2_nano", prompt=4, batch=2, input=6, target=3, beams=2),
}
DEFAULT = [name for name in CASES if "nano" not in name]


def main(arguments: Sequence[str] | None = None, start: Callable[..., Any] = Apart) -> int:
    """Measures the cases, prints a table, writes JSON."""
    chosen = report.options(__doc__, CASES).parse_args(arguments)
    report.prepare(chosen)
    from paired import ours_decoding

    sides = {"ours": ours_decoding.generation}
    if "peer" in chosen.sides:
        from paired import peft_decoding

        sides["peer"] = peft_decoding.generation
    plan, found = report.plan(chosen, rounds=7, times=2), {}
    report.show("case", "ours", "peer", "ratio", "tokens/s")
    for name, case in report.select(chosen, CASES, DEFAULT).items():
        measured = measure(sides, case, plan, start=start)
        found[name] = result = report.compare(measured, case)
        result["tokens_per_s"] = case.batch * case.target / result["ours"]
        both = report.seconds(result["ours"]), report.seconds(result["peer"])
        report.show(name, *both, report.times(result["ratio"]), f"{result['tokens_per_s']:,.0f}")
    report.write(chosen.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
