"""The costs of a grid as text for people, and as a file that the next report may start from."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from jaxprompt.experiment import Experiment
from jaxprompt.paths import write_whole
from jaxprompt.sweeps.costs import HOUR, Cost, cost_runs, shape_key
from jaxprompt.sweeps.grid import FOLDED, Run
from jaxprompt.sweeps.shapes import Times


def make_report(
    runs: Sequence[Run],
    everything: Sequence[Run],
    root: str,
    slice: str,
    measure: Callable[[Experiment], Times],
    path: epath.Path | None = None,
) -> str:
    """What runs cost on a slice, as text.

    Args:
        runs: whose costs.
        everything: all runs of their sweep.
        root: the sweep's directory.
        slice: its name.
        measure: how long a shape's programs take there.
        path: of a JSON file for all of it. It is written whenever a shape was measured; shapes that it holds already,
            of the same slice by the same compiler, are not measured.
    """
    compilers = [name for name in ("jax", "libtpu") if importlib.util.find_spec(name)]
    versions = {name: importlib.metadata.version(name) for name in compilers}
    known = read_known(path, slice, versions) if path else {}

    def keep(costs: Sequence[Cost] = ()) -> None:
        if path:
            write_report(path, slice, versions, known, costs)

    costs = cost_runs(runs, everything, root, measure, known, keep)
    keep(costs)
    return to_text(costs, slice)


def read_known(path: epath.Path, slice: str, versions: Mapping[str, str]) -> dict[str, Times]:
    """The shapes that an earlier report holds, if it is of the same slice and the same compiler."""
    if not path.exists():
        return {}
    found = json.loads(path.read_bytes())
    if found.get("slice") != slice or found.get("versions") != dict(versions):
        return {}
    return {
        json.dumps(row["shape"], sort_keys=True): Times(**row["times"] | {"mesh": tuple(row["times"]["mesh"])})
        for row in found["shapes"]
        if not row["times"]["problem"]
    }


def write_report(
    path: epath.Path, slice: str, versions: Mapping[str, str], known: Mapping[str, Times], costs: Sequence[Cost]
) -> None:
    """Writes everything as JSON: totals, runs, and the shapes with their times, which another report may start from."""
    shapes = list(known)
    rows = [
        {
            "name": one.run.name,
            "axes": dict(one.run.axes),
            "runs": one.run.folded,
            "shape": None if one.shape is None else shapes.index(shape_key(one.shape)),
            "train_seconds": one.train,
            "evaluation_seconds": one.evaluation,
            "not_counted": list(one.unknown),
            "chip_hours": one.chip_hours,
            "problem": one.times.problem,
        }
        for one in costs
    ]
    values = {
        "slice": slice,
        "versions": dict(versions),
        "chip_hours": sum(one.chip_hours for one in costs),
        "seconds": sum(one.seconds for one in costs),
        "runs": rows,
        "shapes": [{"shape": json.loads(key), "times": dataclasses.asdict(times)} for key, times in known.items()],
    }
    write_whole(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def to_text(costs: Sequence[Cost], slice: str) -> str:
    """The costs for people: shapes with their times, chip-hours by axis, the total, and what it leaves out."""
    lines = [f"on {slice}, by the TPU compiler's estimates (docs/planning.md)", "", *_shape_lines(costs)]
    for axis, groups in _by_axis(costs).items():
        lines += ["", *_table([axis, "jobs", "runs", "hours", "chip-hours"], [_sums(*item) for item in groups.items()])]
    folded = sum(one.run.folded for one in costs if one.run.folded > 1)
    jobs = f"{len(costs)} jobs" + (f" ({folded} runs are folded into {_count(costs)} of them)" if folded else "")
    total, hours = sum(one.chip_hours for one in costs), sum(one.seconds for one in costs) / HOUR
    lines += ["", f"in all {_hours(total)} chip-hours, {_hours(hours)} hours one after the other: {jobs}"]
    return "\n".join(lines + _left_out(costs))


def _count(costs: Sequence[Cost]) -> int:
    return sum(one.run.folded > 1 for one in costs)


def _shape_lines(costs: Sequence[Cost]) -> list[str]:
    groups: dict[str, list[Cost]] = {}
    for one in costs:
        if one.shape is not None and not one.times.problem:
            groups.setdefault(shape_key(one.shape), []).append(one)
    head = ["model", "method", "rows", "input", "target", "slice", "mesh", "ms a step", "ms a batch", "jobs"]
    rows = []
    for group in groups.values():
        first = group[0]
        shape, times = first.shape, first.times
        assert shape is not None
        method = shape.corpus.objective or first.run.experiment.prompt.method
        if (prompts := first.run.experiment.train.num_prompts) > 1:
            method += f" x {prompts}"
        inputs = shape.corpus.row_length if shape.corpus.objective else shape.task.max_input_length
        targets = shape.corpus.row_targets if shape.corpus.objective else shape.task.max_target_length
        changes = "".join(f" {key}={value}" for key, value in times.changes.items())
        batch = times.prefill + targets * times.decode
        rows.append(
            [shape.model.path, method, shape.train.batch_size, inputs, targets, times.slice,
             f"{times.mesh[0]} x {times.mesh[1]}{changes}", f"{1e3 * times.step:.1f}", f"{1e3 * batch:.0f}", len(group)]
        )  # fmt: skip
    return _table(head, rows)


def _by_axis(costs: Sequence[Cost]) -> dict[str, dict[str, list[Cost]]]:
    """{axis: {value: costs}} of the axes on which the runs differ."""
    axes = dict.fromkeys(axis for one in costs for axis in one.run.values if axis not in FOLDED)
    groups: dict[str, dict[str, list[Cost]]] = {axis: {} for axis in axes}
    for axis in axes:
        for one in costs:
            groups[axis].setdefault(str(one.run.values.get(axis, "-")), []).append(one)
    return {axis: found for axis, found in groups.items() if len(found) > 1}


def _sums(name: str, costs: Sequence[Cost]) -> list[Any]:
    hours, chip_hours = sum(one.seconds for one in costs) / HOUR, sum(one.chip_hours for one in costs)
    return [name, len(costs), sum(one.run.folded for one in costs), _hours(hours), _hours(chip_hours)]


def _left_out(costs: Sequence[Cost]) -> list[str]:
    lines = []
    for problem in dict.fromkeys(one.times.problem for one in costs if one.times.problem):
        names = [one.run.name for one in costs if one.times.problem == problem]
        lines.append(f"left out: {_listed(names)}: {problem}")
    for unknown in dict.fromkeys(one.unknown for one in costs if one.unknown):
        names = [one.run.name for one in costs if one.unknown == unknown]
        lines.append(f"left out: {_listed(names)}: evaluation on {_listed(unknown)}, whose size is not known here")
    return lines


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[number]) for line in cells) for number in range(len(head))]
    left = [not all(_numeric(row[number]) for row in rows) for number in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    ]


def _hours(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2g}"


def _numeric(cell: Any) -> bool:
    return str(cell).replace(",", "").replace(".", "", 1).isdigit()
