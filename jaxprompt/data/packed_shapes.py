"""Whether training batches are packed, and into which shapes: chosen from the lengths of the data before training.

Every shape costs a compilation, so there are few: all packed batches of a run have the same number of rows and the same
room for targets, and one of at most three lengths. What does not fit the longest is padded instead. That the number of
rows does not change from batch to batch also keeps prompts that train together as they are apart: dropout's draws
depend on it, and for a T5 not on the rows' length.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxprompt.data.batching import choose_lengths
from jaxprompt.data.packing import RowShape, first_fit

_SAVED = 0.1
"""The share of a step's work that packing has to save to be chosen."""

_NEVER = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class Packing:
    """How batches may be packed.

    Attributes:
        cost: the estimated work of a training step over a shape, in any unit.
        parts: rows come in multiples of this: the devices and the parts of a batch that they are split over.
        always: whether to pack even where it saves little or nothing.
    """

    cost: Callable[[RowShape], float]
    parts: int = 1
    always: bool = False


def choose_shapes(
    lengths: Int[np.ndarray, "M 2"],
    batch_size: int,
    packing: Packing,
    *,
    buckets: Sequence[int],
    target_buckets: Sequence[int],
    shares: Float[np.ndarray, " M"] | None = None,
) -> tuple[RowShape, ...]:
    """The shapes that batches of this data are packed into, from few ids to many; none where padding serves as well.

    Batches are drawn from the lengths and packed into every number of rows that comes into question; each number has
    the lengths at which its batches have room. What costs least on average is chosen.

    Args:
        lengths: ids of input and of target of the examples, or of a sample of them.
        batch_size: examples in a batch, B.
        packing: what a shape costs, and how rows are split.
        buckets: the lengths that batches are padded to where they are not packed.
        target_buckets: the same for the targets.
        shares: how often each example is met, summing to 1; None: all alike.
    """
    inputs, targets = _drawn(lengths, batch_size, shares)
    padded = np.array([
        packing.cost(RowShape(batch_size, _at_least(buckets, longest), _at_least(target_buckets, target)))
        for longest, target in zip(inputs.max(axis=1), targets.max(axis=1), strict=True)
    ])  # fmt: skip
    fallback = packing.cost(RowShape(batch_size, max(buckets), max(target_buckets)))
    best, found = math.inf if packing.always else (1 - _SAVED) * padded.mean(), tuple[RowShape, ...]()
    limit = fallback * (2 if packing.always else 1)
    for rows in _row_counts(batch_size, packing.parts):
        for target_length in _target_lengths(targets, rows):
            cost = lambda length, rows=rows, room=target_length: packing.cost(RowShape(rows, length, room))  # noqa: E731
            needed = _lengths_needed(inputs, targets, rows, target_length, cost, limit)
            fitting = needed[needed < _NEVER]
            if not fitting.size:
                continue
            chosen = choose_lengths(fitting, cost, count=3)
            mean = sum(cost(_at_least(chosen, length)) for length in fitting) + fallback * (len(needed) - len(fitting))
            if mean / len(needed) < best:
                best = mean / len(needed)
                found = tuple(RowShape(rows, length, target_length) for length in chosen)
    return found


def _drawn(
    lengths: Int[np.ndarray, "M 2"], batch_size: int, shares: Float[np.ndarray, " M"] | None
) -> tuple[Int[np.ndarray, "N B"], Int[np.ndarray, "N B"]]:
    """Lengths of inputs and of targets in some batches, the same on every call."""
    rng = np.random.default_rng(0)
    count = int(np.clip(8192 // batch_size, 16, 256))
    again = batch_size > len(lengths)
    drawn = np.stack([rng.choice(len(lengths), batch_size, again, shares) for _ in range(count)])
    return lengths[drawn, 0], lengths[drawn, 1]


def _row_counts(batch_size: int, parts: int) -> range:
    """Numbers of rows below B: multiples of about B/8, so that a mesh of few devices changes nothing."""
    divisors = [size for size in range(1, max(2, batch_size // 8) + 1) if batch_size % size == 0]
    step = math.lcm(max(divisors), parts)
    return range(step, batch_size, step)


def _target_lengths(targets: Int[np.ndarray, "N B"], rows: int) -> set[int]:
    """Room for targets in a row: enough for the even half of the batches, or for all, were it for the targets alone."""
    even = -(-targets.sum(axis=1) // rows)
    least = np.maximum(targets.max(axis=1), even)
    # A row holds whole examples, and by chance those with long targets.
    spare = targets.mean() + targets.std()
    rounded = lambda length: int(math.ceil(length) if length <= 32 else -(-length // 8) * 8)  # noqa: E731
    return {rounded(np.median(least) + spare / 4), rounded(np.median(least) + spare), rounded(least.max() + 2 * spare)}


def _lengths_needed(
    inputs: Int[np.ndarray, "N B"],
    targets: Int[np.ndarray, "N B"],
    rows: int,
    target_length: int,
    cost: Callable[[int], float],
    limit: float,
) -> Int[np.ndarray, " N"]:
    """The shortest length at which each batch fits the rows; `_NEVER` where that costs more than the limit."""
    needed = np.full(len(inputs), _NEVER)
    length = -(-int(np.maximum(inputs.max(axis=1), inputs.sum(axis=1) // rows).min()) // 8) * 8
    longest = inputs.sum(axis=1).max()  # that holds a whole batch; targets may have no room in any
    while (left := np.flatnonzero(needed == _NEVER)).size and length < longest + 8 and cost(length) <= limit:
        found = first_fit(inputs[left], targets[left], length, target_length)
        needed[left[(found.min(axis=1) >= 0) & (found.max(axis=1) < rows)]] = length
        length += max(8, length // 32 // 8 * 8)
    return needed


def _at_least(lengths: Sequence[int], length: int) -> int:
    return min(each for each in lengths if each >= length)
