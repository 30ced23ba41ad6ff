"""32 tasks in one batch of 32 rows, each row with a prompt of its own, beside PEFT and beside a batch of one task.

    python benchmarks/serving.py --output=serving.json [--quick] [--cases=mixed32]

Every prompt has 100 virtual tokens, every answer exactly 16 tokens, by greedy decoding. Ours is a `PromptBank`, one
pass over the batch; **single** is our own batch of one task, without a bank. PEFT has the prompts as adapters of one
model, of which one is active at a time: it makes each the active one in turn and gives it its rows. The ratio is how
many times as long PEFT takes; `of single` is how many times as long as our single-task batch the mixed one takes.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from paired import report
from paired.shapes import Case
from paired.turns import Apart, measure

CASES = {
    "mixed32": Case("t5_small", batch=32, input=128, target=16, prompts=32),
    "mixed32_gpt2": Case("gpt2_small", batch=32, input=64, target=16, prompts=32),
    "mixed3_nano": Case("t5_nano", prompt=4, batch=4, input=6, target=3, prompts=3),
    "mixed3_gpt2_nano": Case("gpt2_nano", prompt=4, batch=4, input=6, target=3, prompts=3),
}
DEFAULT = ["mixed32", "mixed32_gpt2"]


def main(arguments: Sequence[str] | None = None, start: Callable[..., Any] = Apart) -> int:
    """Measures the cases, prints a table, writes JSON."""
    chosen = report.options(__doc__, CASES).parse_args(arguments)
    report.prepare(chosen)
    from paired import ours_decoding

    sides = {"ours": ours_decoding.mixed, "single": ours_decoding.single}
    if "peer" in chosen.sides:
        from paired import peft_decoding

        sides["peer"] = peft_decoding.switching
    plan, found = report.plan(chosen, rounds=6, times=1), {}
    report.show("case", "ours", "peer", "ratio", "single", "of single")
    for name, case in report.select(chosen, CASES, DEFAULT).items():
        measured = measure(sides, case, plan, start=start)
        found[name] = result = report.compare(measured, case)
        single = measured["single"].seconds
        by_round = [mixed / alone for mixed, alone in zip(measured["ours"].seconds, single, strict=True)]
        result |= {"single": statistics.median(single), "of_single": statistics.median(by_round)}
        result["of_single_quartiles"] = report.quartiles(by_round)
        result["rounds"]["single"] = single
        both = report.seconds(result["ours"]), report.seconds(result["peer"])
        alone = report.seconds(result["single"]), report.times(result["of_single"])
        report.show(name, *both, report.times(result["ratio"]), *alone)
    report.write(chosen.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
