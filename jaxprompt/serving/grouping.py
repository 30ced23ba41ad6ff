"""Which rows share a batch: those that the same program answers, of like length, so that few padded tokens are read.

Each shape of a batch is compiled once, so there are to be few of them: lengths are rounded up to one of eight steps an
octave, and a batch has fewer rows than asked for only where there are few of its kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence

_MULTIPLE = 8
_MANY = 4  # batches of a kind beside which one more, filled up, is no great waste


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows that are answered together.

    Attributes:
        key: what they have in common.
        rows: their numbers.
        size: rows of the batch, B; beyond its own it is filled up.
        length: of its inputs, S.
    """

    key: Hashable
    rows: tuple[int, ...]
    size: int
    length: int

    @property
    def filled(self) -> list[int]:
        """The numbers of all B rows, the last one repeated."""
        return [*self.rows, *[self.rows[-1]] * (self.size - len(self.rows))]


def group_rows(keys: Sequence[Hashable], lengths: Sequence[int], batch_size: int, *, parts: int = 1) -> Iterator[Group]:
    """Every row in one group.

    Args:
        keys: of each row; rows of different keys do not mix.
        lengths: of each row.
        batch_size: rows of a group at most, a multiple of `parts`.
        parts: what the number of rows has to be a multiple of.
    """
    members: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        members.setdefault(key, []).append(number)
    for key, rows in members.items():
        rows = sorted(rows, key=lambda number: lengths[number])  # stable: the same rows make the same batches
        # What does not fill a batch are the shortest ones, whose fillers cost least.
        first = len(rows) % batch_size
        cuts = [rows[start : start + batch_size] for start in range(first, len(rows), batch_size)]
        for cut in [rows[:first], *cuts] if first else cuts:
            length = round_up(max(lengths[number] for number in cut))
            size = batch_size
            if len(rows) < _MANY * batch_size:
                size = min(batch_size, parts * _power_of_two(-(-len(cut) // parts)))
            yield Group(key, tuple(cut), size, length)


def round_up(length: int) -> int:
    """The least of 8, 16, 24, … 128, 144, 160, … 256, 288, … that is at least as large."""
    step = max(_MULTIPLE, _power_of_two(length) // 16)
    return max(_MULTIPLE, -(-length // step) * step)


def _power_of_two(least: int) -> int:
    """The smallest power of two that is at least as large."""
    return 1 << max(least - 1, 0).bit_length()
