"""Rows of named values as files: CSV for programs, Markdown for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxprompt.paths import write_whole

Row = Mapping[str, Any]

NOTHING = "\u2013"
"""What a table shows where there is no number: a dash."""


def write_csv(path: epath.Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV, in one piece; None is an empty cell.

    Args:
        path: of the file; its directory is there.
        rows: their columns are those of all of them, in the order in which they first occur.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def to_markdown(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table: texts to the left, numbers to the right, `NOTHING` for None."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numeric = [all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns]
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(3, *(len(line[number]) for line in cells)) for number in range(len(columns))]

    def line(texts: Sequence[str]) -> str:
        padded = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, numeric, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])]) + "\n"


def spread(mean: float | None, deviation: float | None) -> str | None:
    """`91.1 ± 0.3`, without the latter where there is none; None for no number."""
    if mean is None:
        return None
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def difference(value: float | None, base: float | None) -> str | None:
    """`+1.2`, of two numbers that are there; a true minus sign, as tables have it."""
    if value is None or base is None:
        return None
    rounded = round(value - base, 1) + 0.0  # which has no negative zero
    return f"{rounded:+.1f}".replace("-", "\u2212")


def _cell(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
