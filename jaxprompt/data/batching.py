"""Features of different lengths as one batch, in one of a few shapes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from jaxprompt.data.features import Feature
from jaxprompt.types import Batch


def make_batch(rows: Sequence[Feature], *, pad_id: int, length: int, target_length: int) -> Batch:
    """The features as a batch of one shape, padded on the right.

    Args:
        rows: at least one feature; none longer than the lengths given.
        pad_id: the id that fills rows.
        length: of the inputs, S.
        target_length: of the targets, T.
    """
    shape, target_shape = (len(rows), length), (len(rows), target_length)
    inputs, targets = np.full(shape, pad_id, np.int32), np.full(target_shape, pad_id, np.int32)
    input_segments, target_segments = np.zeros(shape, np.int32), np.zeros(target_shape, np.int32)
    target_positions = np.zeros(target_shape, np.int32)
    for number, row in enumerate(rows):
        inputs[number, : len(row.input_ids)] = row.input_ids
        input_segments[number, : len(row.input_ids)] = 1 if row.input_segments is None else row.input_segments
        targets[number, : len(row.target_ids)] = row.target_ids
        target_segments[number, : len(row.target_ids)] = 1 if row.target_segments is None else row.target_segments
        if row.target_positions is not None:
            target_positions[number, : len(row.target_ids)] = row.target_positions
    labelled = np.array([row.labelled for row in rows])[:, None]
    weights = ((target_segments > 0) * labelled).astype(np.float32)
    index = np.array([-1 if row.index is None else row.index for row in rows], np.int32)
    positions = None if rows[0].target_positions is None else target_positions
    prompts = None if rows[0].prompt is None else np.array([row.prompt for row in rows], np.int32)
    return Batch(inputs, input_segments, targets, target_segments, weights, index, positions, prompts)


def of_one_shape(batches: Sequence[Batch], pad_id: int) -> list[Batch]:
    """Batches with their rows padded on the right to the longest lengths among them, and rows of padding behind.

    Args:
        batches: in numpy.
        pad_id: the id that fills rows.
    """
    names = [field.name for field in dataclasses.fields(Batch) if getattr(batches[0], field.name) is not None]
    shapes = {name: np.max([getattr(batch, name).shape for batch in batches], axis=0) for name in names}
    fills = {"inputs": pad_id, "targets": pad_id, "index": -1}

    def widened(batch: Batch) -> Batch:
        changes = {}
        for name, shape in shapes.items():
            array = getattr(batch, name)
            room = [(0, width) for width in shape - array.shape]
            changes[name] = np.pad(array, room, constant_values=fills.get(name, 0))
        return dataclasses.replace(batch, **changes)

    return [widened(batch) for batch in batches]


def choose_buckets(
    lengths: Sequence[int], batch_size: int, *, count: int = 4, multiple: int = 8, longest: int = 0
) -> tuple[int, ...]:
    """Lengths to pad batches to, each met about equally often by batches of this data.

    A batch has the length of its longest row, which of B rows drawn at random is at most l with probability F(l)^B; the
    buckets are where that is 1/count, 2/count, ... 1.

    Args:
        lengths: of the examples, or of a sample of them.
        batch_size: B.
        count: buckets at most.
        multiple: buckets are rounded up to multiples of this.
        longest: a length that must fit, though the sample may lack it.
    """
    levels = (np.arange(1, count) / count) ** (1 / batch_size)
    chosen = [*np.quantile(np.asarray(lengths), levels, method="higher"), max(longest, *lengths, 1)]
    return tuple(sorted({-(-max(int(length), 1) // multiple) * multiple for length in chosen}))


def choose_lengths(
    needed: Sequence[int] | np.ndarray, cost: Callable[[int], float], *, count: int, saving: float = 0.03
) -> tuple[int, ...]:
    """Lengths to pad to, of which each batch takes the shortest that suffices, at the least cost for all of them.

    Args:
        needed: the length that each batch needs.
        cost: of a batch of that length.
        count: lengths at most.
        saving: the share of the cost that each further length has to save, for each is a compilation.

    Returns:
        Some of the lengths needed, in order, the longest of them among them.
    """
    lengths, batches = np.unique(np.asarray(needed), return_counts=True)
    below = np.cumsum([0, *batches])
    costs = [cost(int(length)) for length in lengths]
    # best[j]: the cost and the choice for the batches that need one of the first j lengths.
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ()), *[(math.inf, ())] * len(lengths)]
    chosen: tuple[int, ...] = ()
    least = math.inf
    for _ in range(count):
        best = [
            best[0],
            *(
                min(
                    (best[i][0] + float(below[j] - below[i]) * costs[j - 1], (*best[i][1], int(lengths[j - 1])))
                    for i in range(j)
                )
                for j in range(1, len(lengths) + 1)
            ),
        ]
        if best[-1][0] > (1 - saving) * least:
            break
        least, chosen = best[-1]
    return chosen
