"""Batches from features: shuffled for ever for training, once and in order for evaluation. Grain does the reading.

Rows are padded to one of a few lengths, the buckets, since every new shape costs a compilation. With several
processes each yields its rows of the same global batch, in the same shape: put one behind the other in the order of the
processes they are the batch that one process on its own would make. A position in the data is a number of batches, the
same for any number of processes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.data.collation import Collate, Lengths, plan_collation
from jaxprompt.data.features import Feature, as_feature
from jaxprompt.data.packed_shapes import Packing
from jaxprompt.types import Batch

if TYPE_CHECKING:
    import grain

Transform = Callable[[Any, np.random.Generator], Any]


class TrainBatches(Iterator[Batch]):
    """Batches without end, whose position can be saved and restored; made by `train_batches`."""

    def __init__(self, batches: grain.MapDataset[Batch], prefetch: int, identity: Mapping[str, Any]) -> None:
        self._iterator = _read(batches, prefetch)
        self._identity = dict(identity)

    def __next__(self) -> Batch:
        """The next batch, its arrays in numpy."""
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """The position behind the last batch given, fit for JSON; what was read ahead does not count."""
        return {"reader": self._iterator.get_state(), **self._identity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to a position of `get_state`: what follows is, to the bit, what would have followed there.

        Raises:
            ValueError: the state belongs to batches of another size, seed or number of examples.
        """
        identity = {key: state.get(key) for key in self._identity}
        if identity != self._identity or "reader" not in state:
            raise ValueError(f"the saved data position is one of {identity}, but these batches are {self._identity}")
        self._iterator.set_state(dict(state["reader"]))

    def close(self) -> None:
        """Ends reading ahead."""
        self._iterator.close()


class EvalBatches(Sequence[Batch]):
    """The batches of one pass, by number; iterating reads ahead. Made by `eval_batches`."""

    def __init__(self, batches: grain.MapDataset[Batch], prefetch: int) -> None:
        self._batches, self._prefetch = batches, prefetch

    def __len__(self) -> int:
        """How many batches the pass has."""
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        """The batch of that number."""
        return self._batches[range(len(self))[index]]

    def __iter__(self) -> Iterator[Batch]:
        """All batches, in order; may be asked for again."""
        return _read(self._batches, self._prefetch)


def train_batches(
    features: Sequence[Any] | grain.MapDataset[Any],
    *,
    batch_size: int,
    seed: int,
    pad_id: int,
    weights: Sequence[float] | None = None,
    buckets: Lengths | None = None,
    target_buckets: Lengths | None = None,
    packing: Packing | None = None,
    transform: Transform | None = None,
    window: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 4,
) -> TrainBatches:
    """Full batches for ever, every epoch in a new order that `seed` alone decides.

    A batch that the end of an epoch leaves short goes on with the next epoch: no example is dropped or favoured.

    Args:
        features: `Feature`s or (input_ids, target_ids), by number; or what `transform` turns into them.
        batch_size: examples of the global batch, over all processes.
        seed: of the order and of `transform`.
        pad_id: the id that fills rows.
        weights: the shares of examples from each of several sequences, of which `features` is then a list; they are met
            evenly, in a fixed turn, and each goes through its epochs by itself. None: one sequence.
        buckets: allowed lengths of the inputs, virtual tokens included; None: chosen from the features' lengths.
        target_buckets: the same for the targets.
        packing: several examples may share a row where that saves work, which the lengths of the features decide;
            batches hold the same examples either way. None: one example a row.
        transform: turns an element into a feature at random, anew every epoch; for pre-training objectives.
        window: features are shuffled within runs of so many neighbours, one run after the other, for sources that are
            read in order; 0: all of them with each other.
        process_index: this process's number; or of its share, where several processes read the same.
        process_count: the number of processes, or shares; each gets an equal part of the rows, in a row.
        prefetch: batches made ahead, by a thread of their own; 0: none.

    Raises:
        ValueError: no features, some of them without target, a row longer than the longest bucket, buckets left out
            where lengths cannot be known, or given with packing, processes that do not divide the batch, or not one
            weight above 0 a sequence.
    """
    parts = [features] if weights is None else list(features)
    if weights is not None and (len(weights) != len(parts) or not all(weight > 0 for weight in weights)):
        raise ValueError(f"expected a weight above 0 for each of {len(parts)} sequences, got {list(weights)}")
    collate = plan_collation(
        parts,
        batch_size=batch_size,
        pad_id=pad_id,
        weights=weights,
        buckets=buckets,
        target_buckets=target_buckets,
        packing=packing,
        process_index=process_index,
        process_count=process_count,
        known=transform is None,
    )
    import grain

    data = _shuffled(parts[0], seed, transform, window)
    if weights is not None:
        others = (_shuffled(part, _seed_of(seed, n), transform, window) for n, part in enumerate(parts[1:], start=1))
        data = grain.MapDataset.mix([data, *others], list(weights))
    rows = batch_size
    if collate.one_shape and process_count > 1:  # the other processes' rows need not be looked at
        data = grain.MapDataset.source(_Share(data, batch_size, process_index, process_count))
        rows = batch_size // process_count
        collate = dataclasses.replace(collate, process_index=0, process_count=1)
    # How rows lie in batches is no part of a position.
    identity: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "examples": sum(map(len, parts))}
    if weights is not None:
        identity["weights"] = [float(weight) for weight in weights]
    return TrainBatches(data.batch(rows, drop_remainder=True, batch_fn=collate), prefetch, identity)


def eval_batches(
    features: Sequence[Any] | grain.MapDataset[Any],
    *,
    batch_size: int,
    pad_id: int,
    buckets: Lengths | None = None,
    target_buckets: Lengths | None = None,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 4,
) -> EvalBatches:
    """One pass over the features in order, every one once.

    The last batch is filled up with copies of its last example, whose index is -1 and whose weights are 0: rows that a
    model reads without ado and that nothing may count.

    Args and errors are those of `train_batches`; examples without target are welcome here, their weights are 0.
    """
    collate = plan_collation(
        [features],
        batch_size=batch_size,
        pad_id=pad_id,
        buckets=buckets,
        target_buckets=target_buckets,
        process_index=process_index,
        process_count=process_count,
    )
    data = _dataset(features).map_with_index(functools.partial(_numbered, count=len(features), trainable=False))
    fill = functools.partial(_filled, batch_size=batch_size, collate=collate)
    return EvalBatches(data.batch(batch_size, drop_remainder=False, batch_fn=fill), prefetch)


def _shuffled(features: Any, seed: int, transform: Transform | None, window: int) -> grain.MapDataset[Feature]:
    """The features for ever, every epoch in a new order."""
    import grain

    count, data = len(features), _dataset(features).seed(seed)
    if transform is not None:
        data = data.random_map(transform)
    elif isinstance(features, list):
        for number, element in enumerate(features):
            _numbered(number, element, count=count, trainable=True)
    data = data.map_with_index(functools.partial(_numbered, count=count, trainable=True))
    if window:  # over the ends of epochs, for every run has to be whole
        return grain.experimental.WindowShuffleMapDataset(data.repeat(), window_size=window, seed=seed)
    return data.shuffle().repeat()


def _seed_of(seed: int, number: int) -> int:
    """A seed of its own for the sequence of that number, so that sequences of one length have orders of their own."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


class _Share(Sequence[Feature]):
    """One process's rows of every batch, one after the other, by number: the other rows are never made."""

    def __init__(self, rows: grain.MapDataset[Feature], batch_size: int, process_index: int, process_count: int):
        self._rows, self._batch_size = rows, batch_size
        self._size = batch_size // process_count
        self._first = process_index * self._size

    def __len__(self) -> int:
        return len(self._rows) // self._batch_size * self._size

    def __getitem__(self, number: Any) -> Any:
        batch, row = divmod(number, self._size)
        return self._rows[batch * self._batch_size + self._first + row]


def _dataset(features: Any) -> grain.MapDataset[Any]:
    import grain

    return features if isinstance(features, grain.MapDataset) else grain.MapDataset.source(features)


def _read(batches: grain.MapDataset[Batch], prefetch: int) -> Any:
    import grain

    options = grain.ReadOptions(num_threads=min(prefetch, 1), prefetch_buffer_size=prefetch)
    return iter(batches.to_iter_dataset(options))


def _numbered(number: int, element: Any, *, count: int, trainable: bool) -> Feature:
    """The element as a feature that knows its number, which Grain goes on counting from epoch to epoch."""
    feature = as_feature(element)
    index = number % count if feature.index is None else feature.index
    if not len(feature.input_ids) or not len(feature.target_ids):
        raise ValueError(f"example {index} has {len(feature.input_ids)} input and {len(feature.target_ids)} target ids")
    if trainable and not feature.labelled:
        raise ValueError(f"example {index} has no target, so it cannot be trained on; is this a test set?")
    return dataclasses.replace(feature, index=index)


def _filled(rows: Sequence[Feature], *, batch_size: int, collate: Collate) -> Batch:
    filler = dataclasses.replace(rows[-1], index=-1, labelled=False)
    return collate([*rows, *[filler] * (batch_size - len(rows))])
