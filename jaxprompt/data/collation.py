"""Global batches of features as arrays: in which shape, and which part of them is this process's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxprompt.data.batching import choose_buckets, make_batch
from jaxprompt.data.features import Feature, LazyFeatures, as_feature
from jaxprompt.data.packed_shapes import Packing, choose_shapes
from jaxprompt.data.packing import RowShape, pack_batch
from jaxprompt.types import Batch

Lengths = int | Sequence[int]
_SAMPLE = 4096  # lazily encoded examples looked at to choose shapes


@dataclasses.dataclass(frozen=True)
class Collate:
    """Makes the process's part of a global batch, in a shape that the whole of it decides.

    Attributes:
        pad_id: the id that fills rows.
        buckets: allowed lengths of the inputs, in order.
        target_buckets: allowed lengths of the targets, in order.
        process_index: this process's number.
        process_count: the number of processes; the first takes the first rows, and so on.
        packed: shapes to pack the examples into, in order; what none has room for is padded to a bucket.
    """

    pad_id: int
    buckets: tuple[int, ...]
    target_buckets: tuple[int, ...]
    process_index: int = 0
    process_count: int = 1
    packed: tuple[RowShape, ...] = ()

    @property
    def one_shape(self) -> bool:
        """Whether the shape is the same whatever the rows."""
        return len(self.buckets) == 1 and len(self.target_buckets) == 1 and not self.packed

    def __call__(self, rows: Sequence[Feature]) -> Batch:
        """The process's batch out of the rows of the global one; raises ValueError for a row that fits no bucket."""
        if self.packed and (found := pack_batch(rows, self.packed)) is not None:
            (_, length, target_length), rows = found
        else:
            length = _bucket(self.buckets, [(len(row.input_ids), row.index) for row in rows], "input")
            target_length = _bucket(self.target_buckets, [(len(row.target_ids), row.index) for row in rows], "target")
        share = len(rows) // self.process_count
        own = rows[self.process_index * share : (self.process_index + 1) * share]
        return make_batch(own, pad_id=self.pad_id, length=length, target_length=target_length)


def plan_collation(
    parts: Sequence[Any],
    *,
    batch_size: int,
    pad_id: int,
    weights: Sequence[float] | None = None,
    buckets: Lengths | None = None,
    target_buckets: Lengths | None = None,
    packing: Packing | None = None,
    process_index: int = 0,
    process_count: int = 1,
    known: bool = True,
) -> Collate:
    """Chooses the shapes of batches from the lengths of the features; raises what `train_batches` says of them.

    Args:
        parts: the sequences of features that batches are drawn from.
        batch_size: examples of the global batch.
        pad_id: the id that fills rows.
        weights: the share of examples from each part; None: there is one.
        buckets: allowed lengths of the inputs; None: chosen.
        target_buckets: the same for the targets.
        packing: see `train_batches`.
        process_index: this process's number.
        process_count: the number of processes.
        known: whether the features are those that batches are made of, and not what a transform changes.
    """
    if not parts or not all(map(len, parts)):
        raise ValueError("there are no features to make batches of")
    if batch_size < 1 or batch_size % process_count or not 0 <= process_index < process_count:
        raise ValueError(
            f"a batch of {batch_size} rows cannot be split evenly for process {process_index} of {process_count}"
        )
    if packing is not None and (buckets, target_buckets) != (None, None):
        raise ValueError("packing chooses the lengths of rows; give it or buckets, and not both")
    packed: tuple[RowShape, ...] = ()
    if buckets is None or target_buckets is None:
        if not known or not all(isinstance(features, Sequence) for features in parts):
            raise ValueError("lengths of rows made on the fly are not known: give buckets and target_buckets")
        lengths, longest, shares = _lengths(parts, weights)
        inputs, targets = _default_buckets(lengths, batch_size, longest)
        buckets = inputs if buckets is None else buckets
        target_buckets = targets if target_buckets is None else target_buckets
        if packing is not None:
            packed = choose_shapes(lengths, batch_size, packing, buckets=inputs, target_buckets=targets, shares=shares)
        if packed:  # a bucket is then for the few batches that have no room, which are not worth a second
            buckets, target_buckets = inputs[-1:], targets[-1:]
    return Collate(pad_id, _ordered(buckets), _ordered(target_buckets), process_index, process_count, packed)


def _lengths(
    parts: Sequence[Sequence[Any]], weights: Sequence[float] | None
) -> tuple[Int[np.ndarray, "M 2"], tuple[int, int], np.ndarray | None]:
    """Ids of input and target of the examples that are looked at, the most of any, and how often each is met."""
    longest, lengths, shares = [0, 0], list[tuple[int, int]](), list[np.ndarray]()
    for number, features in enumerate(parts):
        sample: Any = features
        if isinstance(features, LazyFeatures):
            longest = list(map(max, longest, features.max_lengths))
            sample = features[:: -(-len(features) // _SAMPLE)]
        its = [(len(row.input_ids), len(row.target_ids)) for row in map(as_feature, sample)]
        lengths += its
        shares.append(np.full(len(its), (weights[number] if weights else 1.0) / len(its)))
    found = np.array(lengths)
    inputs, targets = map(max, longest, found.max(axis=0).tolist())
    every = np.concatenate(shares)
    return found, (inputs, targets), every / every.sum() if weights else None


def _default_buckets(
    lengths: Int[np.ndarray, "M 2"], batch_size: int, longest: tuple[int, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    inputs, targets = lengths.T
    # Short targets, labels above all, are not worth a second shape.
    short = longest[1] <= 32
    return (
        choose_buckets(inputs, batch_size, longest=longest[0]),
        choose_buckets(targets, batch_size, count=1 if short else 4, multiple=1 if short else 8, longest=longest[1]),
    )


def _ordered(lengths: Lengths) -> tuple[int, ...]:
    buckets = (lengths,) if isinstance(lengths, int) else tuple(sorted(set(lengths)))
    if not buckets or buckets[0] < 1:
        raise ValueError(f"buckets are lengths from 1 on, got {lengths}")
    return buckets


def _bucket(buckets: Sequence[int], lengths: Sequence[tuple[int, int | None]], what: str) -> int:
    longest, index = max(lengths)
    for length in buckets:
        if longest <= length:
            return length
    raise ValueError(f"the {what} of example {index} has {longest} ids, more than the longest bucket of {buckets}")
