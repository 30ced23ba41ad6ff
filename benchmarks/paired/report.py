"""Command line, table and JSON, the same for every benchmark."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paired.shapes import Case
from paired.turns import Measured, Plan

_LIBRARIES = ("jax", "flax", "optax", "numpy", "torch", "transformers", "peft")


def options(doc: str | None, cases: Iterable[str]) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="a JSON file")
    parser.add_argument("--quick", action="store_true", help="the first case alone, and few rounds")
    parser.add_argument("--cases", help=f"separated by commas, of {', '.join(cases)}; default: those for the device")
    parser.add_argument("--rounds", type=int, help="that count, of each case")
    parser.add_argument("--times", type=int, help="that a side does its work in a round")
    parser.add_argument("--sides", choices=("both", "ours"), default="both", help="ours: leave PEFT out")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="auto: a GPU if jax finds one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU, else float32")
    return parser


def prepare(chosen: argparse.Namespace) -> None:
    """Settles the device and the precision, for the processes to come, too."""
    if chosen.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    # Two libraries share the card, and memory that one takes beforehand the other would lack.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if chosen.device == "auto":
        import jax

        chosen.device = "gpu" if jax.default_backend() == "gpu" else "cpu"
    chosen.dtype = chosen.dtype or ("bfloat16" if chosen.device == "gpu" else "float32")
    with_peer = chosen.sides == "both" and importlib.util.find_spec("peft") is not None
    chosen.sides = ("ours", "peer") if with_peer else ("ours",)


def select(chosen: argparse.Namespace, cases: Mapping[str, Case], default: Sequence[str]) -> dict[str, Any]:
    """The cases to be run, on the device and in the precision chosen.

    Args:
        chosen: after `prepare`.
        cases: all there are.
        default: those that run where none are named; with `--quick` the first.

    Raises:
        ValueError: there is no such case.
    """
    names = chosen.cases.split(",") if chosen.cases else list(default)[: 1 if chosen.quick else None]
    if unknown := [name for name in names if name not in cases]:
        raise ValueError(f"there are no cases {unknown}; expected some of {list(cases)}")
    where = {"device": chosen.device, "dtype": chosen.dtype, "compiled": chosen.device == "gpu"}
    return {name: cases[name].resolved(**where) for name in names}


def plan(chosen: argparse.Namespace, rounds: int, times: int, **others: Any) -> Plan:
    """How often, where the command line does not say otherwise."""
    if chosen.quick:
        rounds, times = min(rounds, 2), min(times, 2)
    return Plan(chosen.rounds or rounds, chosen.times or times, together=chosen.device == "cpu", **others)


def compare(
    found: Mapping[str, Measured],
    case: Case,
    *,
    peer: str = "peer",
    scale: float = 1.0,
    combine: Callable[[Sequence[float]], float] = statistics.median,
) -> dict[str, Any]:
    """What the report says of a case.

    Args:
        found: what came of the sides, `ours` and perhaps the peer.
        case: what they did.
        peer: the peer's name in `found`.
        scale: how often the peer has to do its work for what we do once.
        combine: of the rounds' seconds, the number reported: the median; or the sum, where rounds are parts of a whole,
            and the ratio is then that of the sums.

    Returns:
        `ours` and `peer` in seconds (None: there is none, or it lacked memory), `ratio` (how many times as long the
        peer takes, or None) and its quartiles over the rounds, the shapes, each side's facts and memory in MB, and
        `memory_of_peer`, ours by the peer's, of all that a step holds, and `added_memory_of_peer`, of what it adds to
        the model and the program.
    """
    ours, other = found["ours"], found.get(peer)
    result: dict[str, Any] = {"ours": None, "peer": None, "ratio": None, "unit": "s", "shapes": case.shapes}
    if ours.seconds:
        result["ours"] = combine(ours.seconds)
    if other is not None and other.seconds:
        result["peer"] = scale * combine(other.seconds)
    if result["ours"] and other is not None and other.seconds:
        by_round = [scale * theirs / our for our, theirs in zip(ours.seconds, other.seconds, strict=True)]
        of_rounds = combine is statistics.median
        result["ratio"] = statistics.median(by_round) if of_rounds else result["peer"] / result["ours"]
        result["ratio_quartiles"] = quartiles(by_round)
    sides = {"ours": ours} | ({} if other is None else {"peer": other})
    result["rounds"] = {name: side.seconds for name, side in sides.items()}
    result["facts"] = {name: side.facts for name, side in sides.items()}
    result["memory_mb"] = {
        name: {what: size / 1e6 for what, size in side.memory.items()} for name, side in sides.items()
    }
    if ours.memory and other is not None and other.memory:
        kind = "device" if "device" in other.memory else "step"
        result["memory_of_peer"] = ours.memory[kind] / other.memory[kind]
        added = [side.memory["step"] - side.memory["made"] for side in (ours, other)]
        result["added_memory_of_peer"] = added[0] / added[1] if added[1] > 0 else None
    return result


def quartiles(values: Sequence[float]) -> list[float]:
    """The first and the third."""
    if len(values) < 2:
        return list(values) * 2
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def peak_of(gauge: Measured) -> float:
    """Operations a second in the best round of a gauge."""
    return float(gauge.facts["flops"]) / min(gauge.seconds)


def show(first: str, *others: str) -> None:
    """Prints a line of the table."""
    print(f"{first:<26}" + "".join(f"{cell:>14}" for cell in others), flush=True)


def seconds(value: float | None) -> str:
    """A time for the table."""
    if value is None:
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def times(value: float | None) -> str:
    """A ratio for the table."""
    return "-" if value is None else f"{value:.2f} x"


def write(output: Path | None, cases: Mapping[str, Any], **others: Any) -> None:
    """Writes the JSON file, if one is wanted."""
    if output is None:
        return
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES if importlib.util.find_spec(name)}
    report = {"cases": dict(cases), **others, "versions": versions, "machine": machine()}
    output.write_text(json.dumps(report, indent=2, default=_plain) + "\n")


def machine() -> dict[str, Any]:
    """What it ran on."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return float(value)
