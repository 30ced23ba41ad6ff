"""An epoch over texts of real lengths: our pipeline beside PEFT with batches padded to their longest row.

    python benchmarks/epoch.py --output=epoch.json [--data=DIR] [--quick] [--cases=rte] [--examples=512]

The first so many examples of RTE, CB, BoolQ and E2E's references (`--examples=0`: all), batches of 32, a prompt of 100.
Ours is the stream that a run reads, `task_batches`, with all that it decides by itself: lengths to pad to, examples
that share a row. PEFT gets the same ids in random order, as transformers' collators pad them. `--data` is a directory
with `rte/`, `fewglue/`, `e2e/` and `tokenizers/t5/`; without it, texts are made of the lengths that those have
(`paired/texts.py`). All shapes are compiled before. The sides take turns, half of the epoch at a time; times are
those of the whole, and the ratio is how many times as long PEFT takes.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paired import report, texts
from paired.shapes import EpochCase
from paired.turns import Apart, Plan, measure

CASES = {name: EpochCase("t5_small", batch=32, prompt=100, examples=512) for name in texts.SOURCES}
CASES["rte_nano"] = EpochCase("t5_nano", batch=4, prompt=4, examples=16)
PARTS = 2


def main(arguments: Sequence[str] | None = None, start: Callable[..., Any] = Apart) -> int:
    """Measures the cases, prints a table, writes JSON."""
    parser = report.options(__doc__, CASES)
    parser.add_argument("--data", type=Path, help="a directory with the texts")
    parser.add_argument("--examples", type=int, help="the first so many; 0: all")
    chosen = parser.parse_args(arguments)
    report.prepare(chosen)
    from paired import ours

    sides = {"ours": ours.epoch}
    if "peer" in chosen.sides:
        from paired import peft_training

        sides["peer"] = peft_training.epoch
    found = {}
    report.show("case", "ours", "peer", "ratio", "examples/s", "padding", "peer's", "of memory")
    with tempfile.TemporaryDirectory() as home:
        for name, case in report.select(chosen, CASES, list(texts.SOURCES)).items():
            wanted = chosen.examples if chosen.examples is not None else 64 if chosen.quick else case.examples
            case = with_texts(case.resolved(examples=wanted), name, chosen.data, Path(home))
            plan = parts_of(case, chosen)
            measured = measure(sides, case, plan, start=start)
            found[name] = result = report.compare(measured, case, combine=functools.partial(whole, plan.times))
            examples = plan.rounds * plan.times * case.batch
            shares = [f"{measured[side].facts['padding_share']:.0%}" for side in sides]
            result |= {"examples": examples, "examples_per_s": examples / result["ours"]}
            report.show(
                name,
                report.seconds(result["ours"]),
                report.seconds(result["peer"]),
                report.times(result["ratio"]),
                f"{result['examples_per_s']:.1f}",
                *(shares if len(shares) == 2 else [*shares, "-"]),
                f"{result['memory_of_peer']:.2f}" if "memory_of_peer" in result else "-",
            )
    report.write(chosen.output, found, texts="of --data" if chosen.data else "of the recorded lengths")
    return 0


def with_texts(case: EpochCase, name: str, data: Path | None, home: Path) -> EpochCase:
    """The case with its source, and with the ids that the peer reads."""
    task = name.removesuffix("_nano")
    case = texts.in_directory(case, task, data) if data else texts.of_table(case, task, home / name)
    return texts.with_rows(case)


def whole(steps: int, seconds: Sequence[float]) -> float:
    """The time of the whole, of a step's in parts of so many steps."""
    return steps * sum(seconds)


def parts_of(case: EpochCase, chosen: Any) -> Plan:
    """The epoch in parts that the sides do in turn; the steps that are left over are left out."""
    steps = len(case.rows) // case.batch
    if not steps:
        raise ValueError(f"{len(case.rows)} examples make no batch of {case.batch}; raise --examples")
    rounds = min(PARTS, steps)
    return Plan(rounds, steps // rounds, warm_up=False, settle=False, together=chosen.device == "cpu")


if __name__ == "__main__":
    sys.exit(main())
