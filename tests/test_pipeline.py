"""Batches: nothing lost or doubled, positions exact, shapes few."""

import collections
import functools
import itertools
import json

import grain
import numpy as np
import pytest

from jaxprompt.data.batching import choose_buckets
from jaxprompt.data.features import Feature
from jaxprompt.data.objectives import span_corruption
from jaxprompt.data.pipeline import eval_batches, train_batches

FIELDS = ("inputs", "input_segments", "targets", "target_segments", "target_weights", "index")


def make_features(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Feature(rng.integers(3, 90, rng.integers(2, 40)), rng.integers(3, 90, rng.integers(1, 6)), number)
        for number in range(count)
    ]


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def indices(batches):
    return [int(index) for batch in batches for index in batch.index]


def test_rows_hold_their_features():
    features = make_features(23)
    for batch in take(train_batches(features, batch_size=5, seed=1, pad_id=0), 9):
        for row, index in enumerate(batch.index):
            feature = features[index]
            n, t = len(feature.input_ids), len(feature.target_ids)
            np.testing.assert_array_equal(batch.inputs[row, :n], feature.input_ids)
            np.testing.assert_array_equal(batch.targets[row, :t], feature.target_ids)
            np.testing.assert_array_equal(batch.input_segments[row], np.arange(batch.inputs.shape[1]) < n)
            np.testing.assert_array_equal(batch.target_segments[row], np.arange(batch.targets.shape[1]) < t)
            assert not batch.inputs[row, n:].any()
            assert not batch.targets[row, t:].any()
        np.testing.assert_array_equal(batch.target_weights, batch.target_segments)
        assert batch.target_weights.dtype == np.float32
        assert batch.inputs.dtype == batch.targets.dtype == batch.index.dtype == np.int32


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (23, 5), (7, 16)])
def test_every_epoch_has_every_example_once_in_a_new_order(count, batch_size):
    seen = indices(take(train_batches(make_features(count), batch_size=batch_size, seed=1, pad_id=0), 3 * count))
    epochs = [seen[start : start + count] for start in range(0, 3 * count, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = train_batches(make_features(count), batch_size=batch_size, seed=1, pad_id=0, prefetch=0)
    assert indices(take(again, 3 * count)) == seen
    other = train_batches(make_features(count), batch_size=batch_size, seed=2, pad_id=0)
    assert indices(take(other, 3 * count)) != seen


@pytest.mark.parametrize("stop", [0, 1, 7])
@pytest.mark.parametrize("prefetch", [0, 4])
def test_restored_position_goes_on_to_the_bit(stop, prefetch):
    make = functools.partial(
        train_batches, make_features(10), batch_size=4, seed=3, pad_id=0, prefetch=prefetch, transform=_noisy,
        buckets=(16, 64), target_buckets=8,
    )  # fmt: skip
    batches = make()
    take(batches, stop)
    state = json.loads(json.dumps(batches.get_state()))
    rest = take(batches, 8)
    fresh = make()
    take(fresh, 5)
    fresh.set_state(state)
    assert fresh.get_state() == state
    assert_same(take(fresh, 8), rest)
    batches.close()


def _noisy(feature, rng):
    return Feature(np.append(feature.input_ids, rng.integers(3, 90, rng.integers(1, 9))), feature.target_ids)


def test_a_position_of_other_batches_is_refused():
    features = make_features(10)
    state = train_batches(features, batch_size=4, seed=3, pad_id=0).get_state()
    for other in (
        train_batches(features, batch_size=5, seed=3, pad_id=0),
        train_batches(features, batch_size=4, seed=4, pad_id=0),
        train_batches(features[:9], batch_size=4, seed=3, pad_id=0),
    ):
        with pytest.raises(ValueError, match="saved data position"):
            other.set_state(state)
    with pytest.raises(ValueError, match="saved data position"):
        train_batches(features, batch_size=4, seed=3, pad_id=0).set_state({})


@pytest.mark.parametrize("buckets", [None, 48])
def test_the_shares_of_processes_are_one_batch_cut_in_pieces(buckets):
    read = []

    def looked_at(feature, rng):
        read.append(feature.index)
        return _noisy(feature, rng)

    make = functools.partial(
        train_batches, make_features(21), batch_size=6, seed=5, pad_id=0, buckets=buckets or (40, 44, 48),
        target_buckets=6, transform=looked_at, prefetch=0,
    )  # fmt: skip
    whole = take(make(), 8)
    assert (len({batch.inputs.shape for batch in whole}) == 1) == bool(buckets)
    parts = []
    for number in range(3):
        read.clear()
        parts.append(take(make(process_index=number, process_count=3), 8))
        assert len(read) == (8 * 2 if buckets else 8 * 6), "rows of other processes matter for the shape alone"
    for batch, *shares in zip(whole, *parts, strict=True):
        for field in FIELDS:
            pieces = [getattr(share, field) for share in shares]
            assert all(len(piece) == 2 for piece in pieces)
            np.testing.assert_array_equal(np.concatenate(pieces), getattr(batch, field))
    with pytest.raises(ValueError, match="cannot be split evenly"):
        make(process_index=0, process_count=4)
    with pytest.raises(ValueError, match="cannot be split evenly"):
        make(process_index=3, process_count=3)


@pytest.mark.parametrize("buckets", [None, 48])
@pytest.mark.parametrize("prefetch", [0, 4])
def test_a_position_is_the_same_for_any_number_of_processes(buckets, prefetch):
    make = functools.partial(
        train_batches, make_features(21), batch_size=6, seed=5, pad_id=0, buckets=buckets, target_buckets=6,
        prefetch=prefetch,
    )  # fmt: skip
    several = [make(process_index=number, process_count=2) for number in range(2)]
    alone = make()
    for batches in (*several, alone):
        take(batches, 5)
    states = [json.dumps(batches.get_state(), sort_keys=True) for batches in (*several, alone)]
    assert len(set(states)) == 1
    rest = take(alone, 6)
    for number, batches in enumerate(several):
        fresh = make(process_index=number, process_count=2)
        fresh.set_state(json.loads(states[2]))
        assert_same(take(fresh, 6), take(batches, 6))
    fresh = make()
    fresh.set_state(json.loads(states[1]))
    assert_same(take(fresh, 6), rest)


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (13, 4), (3, 8), (1, 1)])
def test_evaluation_sees_every_example_once_and_in_order(count, batch_size):
    features = make_features(count)
    batches = eval_batches(features, batch_size=batch_size, pad_id=0)
    assert len(batches) == -(-count // batch_size)
    for _ in range(2):
        seen = list(batches)
        assert [index for index in indices(seen) if index >= 0] == list(range(count))
        assert all(batch.inputs.shape[0] == batch_size for batch in seen)
    fillers = seen[-1].index == -1
    assert fillers.sum() == -count % batch_size
    assert not seen[-1].target_weights[fillers].any()
    assert seen[-1].input_segments.any(axis=1).all()
    assert seen[-1].target_segments.any(axis=1).all()
    assert_same([batches[0], batches[-1]], [seen[0], seen[-1]])
    with pytest.raises(IndexError):
        batches[len(batches)]


def test_evaluation_over_processes_sees_every_example_once():
    make = functools.partial(eval_batches, make_features(13), batch_size=4, pad_id=0)
    parts = [list(make(process_index=number, process_count=2)) for number in range(2)]
    assert [batch.inputs.shape for batch in parts[0]] == [batch.inputs.shape for batch in parts[1]]
    for batch, *shares in zip(make(), *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([share.inputs for share in shares]), batch.inputs)
        np.testing.assert_array_equal(np.concatenate([share.index for share in shares]), batch.index)


def test_padding_goes_to_the_smallest_bucket_that_holds_the_longest_row():
    features = make_features(50)
    batches = train_batches(features, batch_size=2, seed=0, pad_id=0, buckets=(10, 20, 40), target_buckets=[3, 5])
    for batch in take(batches, 60):
        longest = max(len(features[index].input_ids) for index in batch.index)
        assert batch.inputs.shape[1] == next(length for length in (10, 20, 40) if longest <= length)
        assert batch.targets.shape[1] in (3, 5)


def test_chosen_buckets_are_few_and_all_used():
    lengths = np.random.default_rng(0).gamma(4.0, 40.0, 5000).astype(int) + 1
    buckets = choose_buckets(lengths, 32)
    assert len(buckets) <= 4
    assert list(buckets) == sorted(buckets)
    assert buckets[-1] == -(-lengths.max() // 8) * 8
    maxima = np.random.default_rng(1).choice(lengths, (2000, 32)).max(axis=1)
    shares = np.bincount(np.searchsorted(buckets, maxima), minlength=len(buckets)) / 2000
    assert np.all(shares > 0.15)
    assert choose_buckets([3, 3, 3], 8) == (8,)
    assert choose_buckets([3], 8, longest=17) == (8, 24)
    assert choose_buckets([3], 8, count=1, multiple=1, longest=5) == (5,)


def test_a_row_that_fits_no_bucket_is_named():
    features = [Feature(np.ones(5, int), np.ones(1, int)), Feature(np.ones(9, int), np.ones(1, int))]
    with pytest.raises(ValueError, match="input of example 1 has 9 ids, more than the longest bucket"):
        list(eval_batches(features, batch_size=1, pad_id=0, buckets=8))


def test_bad_requests():
    features = make_features(3)
    with pytest.raises(ValueError, match="no features"):
        train_batches([], batch_size=1, seed=0, pad_id=0)
    with pytest.raises(ValueError, match="lengths from 1 on"):
        train_batches(features, batch_size=1, seed=0, pad_id=0, buckets=())
    with pytest.raises(ValueError, match="give buckets"):
        train_batches(features, batch_size=1, seed=0, pad_id=0, transform=_noisy)
    with pytest.raises(ValueError, match="give buckets"):
        eval_batches(grain.MapDataset.source(features), batch_size=1, pad_id=0)
    with pytest.raises(ValueError, match="example 0 has no target"):
        train_batches([Feature(np.ones(2, int), np.ones(1, int), labelled=False)], batch_size=1, seed=0, pad_id=0)
    with pytest.raises(ValueError, match="example 0 has 0 input"):
        train_batches([(np.ones(0, int), np.ones(1, int))], batch_size=1, seed=0, pad_id=0)


@pytest.mark.parametrize("own", [False, True], ids=["transform", "random_map"])
def test_span_corruption_is_drawn_anew_each_epoch(own):
    texts = [np.arange(100 * n + 3, 100 * n + 93) for n in range(5)]

    def corrupt(tokens, rng):
        return span_corruption(tokens, rng, sentinel_start=9999, eos=1)

    source = grain.MapDataset.source(texts)
    features = source.seed(4).random_map(corrupt) if own else source
    batches = train_batches(
        features, batch_size=5, seed=4, pad_id=0, buckets=88, target_buckets=24, transform=None if own else corrupt
    )
    rows = collections.defaultdict(set)
    for batch in take(batches, 4):
        assert sorted(batch.index) == [0, 1, 2, 3, 4]
        for index, inputs, targets in zip(batch.index, batch.inputs, batch.targets, strict=True):
            kept = np.concatenate([inputs, targets])
            np.testing.assert_array_equal(np.sort(kept[(kept > 1) & (kept < 9000)]), texts[index])
            rows[int(index)].add(inputs.tobytes())
    assert all(len(seen) == 4 for seen in rows.values())
