"""Every figure and table of Lester et al. (2021), from gathered results to files."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence

from etils import epath

from jaxprompt.config_values import expected
from jaxprompt.figures import parameter_counts
from jaxprompt.figures.aggregate import result_rows, summary_rows
from jaxprompt.figures.gather import Result
from jaxprompt.figures.rows import write_csv
from jaxprompt.figures.score_figures import SETTINGS, NoRuns, figure1, figure3
from jaxprompt.figures.selection import Undecided, check_chosen
from jaxprompt.figures.tables import shift_table, table3

Make = Callable[[Sequence[Result], Mapping[str, str], epath.Path], list[epath.Path]]

_FROM_RUNS: Mapping[str, Make] = {
    "figure1": figure1,
    **{name: functools.partial(figure3, name) for name in SETTINGS},
    "table1": functools.partial(shift_table, "table1"),
    "table2": functools.partial(shift_table, "table2"),
    "table3": table3,
}
_FROM_SHAPES: Mapping[str, Callable[[epath.Path], list[epath.Path]]] = {
    "figure4": parameter_counts.figure4,
    "table4": parameter_counts.table4,
}
NAMES = tuple(sorted([*_FROM_RUNS, *_FROM_SHAPES]))
"""All figures and tables."""


@dataclasses.dataclass(frozen=True)
class Produced:
    """What came of it.

    Attributes:
        files: that were written.
        missing: {figure or table: why it was not made}.
    """

    files: tuple[epath.Path, ...]
    missing: Mapping[str, str]


def produce(
    results: Sequence[Result], output: epath.Path, only: Collection[str] = (), chosen: Mapping[str, str] | None = None
) -> Produced:
    """Writes `results.csv`, `summary.csv`, and the figures and tables; one that cannot be made does not stop others.

    Args:
        results: gathered ones; none if figures that need none are wanted alone.
        output: the directory; it is made if it is missing.
        only: figures and tables that are wanted; empty: all.
        chosen: {axis: default value}, where runs do not show which of their settings is the default one.

    Raises:
        ValueError: there is no such figure, or no run with a chosen value.
    """
    for name in only:
        if name not in NAMES:
            raise ValueError(f"there is no figure or table {name!r} here; {expected(name, NAMES)}")
    chosen = chosen or {}
    check_chosen(results, chosen)
    output.mkdir(parents=True, exist_ok=True)
    files: list[epath.Path] = []
    if results:
        for name, rows in (("results", result_rows(results)), ("summary", summary_rows(results))):
            write_csv(output / f"{name}.csv", rows)
            files.append(output / f"{name}.csv")
    missing: dict[str, str] = {}
    for name in only or NAMES:
        try:
            files += _FROM_SHAPES[name](output) if name in _FROM_SHAPES else _FROM_RUNS[name](results, chosen, output)
        except NoRuns as reason:
            missing[name] = f"{reason}; make some with\n    {command(name)}"
        except Undecided as reason:
            missing[name] = str(reason)
    return Produced(tuple(files), missing)


def command(name: str) -> str:
    """The command that makes the runs of a figure or table."""
    return f"python launch/sweep.py --sweep=configs/sweeps/lester.py:{name} --root=runs/lester"
