"""Several examples in one row, kept apart by segments: attention sees only its own, and positions mean the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxprompt.data.features import Feature


class RowShape(NamedTuple):
    """The shape of a packed batch.

    Attributes:
        rows: R.
        length: of the inputs, S.
        target_length: of the targets, T.
    """

    rows: int
    length: int
    target_length: int


@dataclasses.dataclass(frozen=True)
class Grouped:
    """A source whose element i is the list of elements k·i … k·i + k - 1 of another one.

    Attributes:
        source: anything with a length and elements by number.
        size: k; what is left over at the end is not used.
    """

    source: Any
    size: int

    def __len__(self) -> int:
        """The number of whole groups."""
        return len(self.source) // self.size

    def __getitem__(self, index: int) -> list[Any]:
        """Group `index`."""
        return [self.source[self.size * index + k] for k in range(self.size)]


def pack(features: Sequence[Feature], length: int, target_length: int) -> Feature:
    """One row of the features in order, as far as they fit; the ones that do not fit are left out.

    Args:
        features: at least one; the first must fit.
        length: ids of input that the row may hold.
        target_length: ids of target that the row may hold.

    Raises:
        ValueError: not even the first fits.
    """
    kept: list[Feature] = []
    for feature in features:
        room = length - sum(len(row.input_ids) for row in kept)
        target_room = target_length - sum(len(row.target_ids) for row in kept)
        if len(feature.input_ids) <= room and len(feature.target_ids) <= target_room:
            kept.append(feature)
    if not kept:
        first = features[0]
        raise ValueError(
            f"an example of {len(first.input_ids)} input and {len(first.target_ids)} target ids does not fit a row of "
            f"{length} and {target_length}"
        )
    return _one_row(kept)


def pack_batch(features: Sequence[Feature], shapes: Sequence[RowShape]) -> tuple[RowShape, list[Feature]] | None:
    """All examples of a batch in the rows of the first shape that has room for them.

    Args:
        features: at least one.
        shapes: to try, in order.

    Returns:
        The shape and its rows, empty ones last; or None where no shape has room.
    """
    inputs = np.array([[len(row.input_ids) for row in features]])
    targets = np.array([[len(row.target_ids) for row in features]])
    for shape in shapes:
        (rows,) = first_fit(inputs, targets, shape.length, shape.target_length)
        if rows.min() >= 0 and rows.max() < shape.rows:
            return shape, _rows(features, rows, shape.rows)
    return None


def first_fit(
    inputs: Int[np.ndarray, "N B"], targets: Int[np.ndarray, "N B"], length: int, target_length: int
) -> Int[np.ndarray, "N B"]:
    """Which row each example of N batches goes to: the largest first, each to the first row with room for it.

    First-fit decreasing (Johnson 1973), which takes at most 11/9 of the fewest rows and a constant; here in two
    dimensions, with examples in the order of the larger share that they take of a row.

    Args:
        inputs: ids of input.
        targets: ids of target.
        length: ids of input that a row holds.
        target_length: ids of target that a row holds.

    Returns:
        Numbers of rows from 0 in every batch; -1 for an example that is longer than a row.
    """
    batches = np.arange(len(inputs))
    order = np.argsort(-np.maximum(inputs / length, targets / target_length), axis=1, kind="stable")
    room, target_room = np.full_like(inputs, length), np.full_like(targets, target_length)
    rows = np.full_like(inputs, -1)
    for at in order.T:
        taken, target_taken = inputs[batches, at], targets[batches, at]
        fits = (room >= taken[:, None]) & (target_room >= target_taken[:, None])
        first = fits.argmax(axis=1)
        found = fits[batches, first]
        rows[batches, at] = np.where(found, first, -1)
        room[batches, first] -= taken * found
        target_room[batches, first] -= target_taken * found
    return rows


def _rows(features: Sequence[Feature], rows: Int[np.ndarray, " B"], count: int) -> list[Feature]:
    """Features in the rows that they were given; what is left of `count` rows is empty."""
    causal = features[0].target_positions is not None
    nothing = np.zeros(0, np.int32)
    empty = Feature(nothing, nothing, target_positions=nothing if causal else None)
    held = [[features[at] for at in np.flatnonzero(rows == number).tolist()] for number in range(rows.max() + 1)]
    return [*map(_one_row, held), *[empty] * (count - len(held))]


def _one_row(features: Sequence[Feature]) -> Feature:
    starts = np.cumsum([0, *(len(row.input_ids) for row in features)])
    positions = [row.target_positions + start for row, start in zip(features, starts, strict=False)
                 if row.target_positions is not None]  # fmt: skip
    return Feature(
        np.concatenate([row.input_ids for row in features]),
        np.concatenate([row.target_ids for row in features]),
        input_segments=_numbers([row.input_ids for row in features]),
        target_segments=_numbers([row.target_ids for row in features]),
        target_positions=np.concatenate(positions).astype(np.int32) if positions else None,
    )


def _numbers(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(1, len(rows) + 1), [len(row) for row in rows]).astype(np.int32)
