"""Features of different lengths as one batch, in one of a few shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

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
    return Batch(inputs, input_segments, targets, target_segments, weights, index, positions)


def of_one_shape(batches: Sequence[Batch], pad_id: int) -> list[Batch]:
    """Batches of as many rows, those of shorter ones padded on the right to the longest lengths among them.

    Args:
        batches: in numpy.
        pad_id: the id that fills rows.
    """
    widths = {
        field.name: max(getattr(batch, field.name).shape[1] for batch in batches)
        for field in dataclasses.fields(Batch)
        if field.name != "index" and getattr(batches[0], field.name) is not None
    }

    def widened(batch: Batch) -> Batch:
        changes = {}
        for name, width in widths.items():
            array, fill = getattr(batch, name), pad_id if name in ("inputs", "targets") else 0
            changes[name] = np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)
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


@dataclasses.dataclass(frozen=True)
class Collate:
    """Makes the process's part of a global batch, in a shape that the whole of it decides.

    Attributes:
        pad_id: the id that fills rows.
        buckets: allowed lengths of the inputs, in order.
        target_buckets: allowed lengths of the targets, in order.
        process_index: this process's number.
        process_count: the number of processes; the first takes the first rows, and so on.
    """

    pad_id: int
    buckets: tuple[int, ...]
    target_buckets: tuple[int, ...]
    process_index: int = 0
    process_count: int = 1

    @property
    def one_shape(self) -> bool:
        """Whether the shape is the same whatever the rows."""
        return len(self.buckets) == 1 and len(self.target_buckets) == 1

    def __call__(self, rows: Sequence[Feature]) -> Batch:
        """The process's batch out of the rows of the global one; raises ValueError for a row that fits no bucket."""
        share = len(rows) // self.process_count
        return make_batch(
            rows[self.process_index * share : (self.process_index + 1) * share],
            pad_id=self.pad_id,
            length=_bucket(self.buckets, [(len(row.input_ids), row.index) for row in rows], "input"),
            target_length=_bucket(self.target_buckets, [(len(row.target_ids), row.index) for row in rows], "target"),
        )


def _bucket(buckets: Sequence[int], lengths: Sequence[tuple[int, int | None]], what: str) -> int:
    longest, index = max(lengths)
    for length in buckets:
        if longest <= length:
            return length
    raise ValueError(f"the {what} of example {index} has {longest} ids, more than the longest bucket of {buckets}")
