"""Batches whose examples share rows: the same examples, loss and gradient as one example a row, in fewer tokens."""

import collections
import dataclasses
import functools
import itertools
import json

import jax
import numpy as np
import optax
import pytest
import six_pairs
from nano import quick_compilation  # noqa: F401
from six_pairs import AROUND, P
from tiny_batches import relative_difference

import jaxprompt as jp
from jaxprompt.data.batching import choose_lengths, of_one_shape
from jaxprompt.data.collation import Collate
from jaxprompt.data.features import Feature
from jaxprompt.data.packed_shapes import Packing, choose_shapes
from jaxprompt.data.packing import RowShape, first_fit
from jaxprompt.data.pipeline import train_batches
from jaxprompt.models import quantization
from jaxprompt.planning.flops import train_products
from jaxprompt.prompts.p_tuning import PTuning
from jaxprompt.prompts.prefix_tuning import PrefixTuning
from jaxprompt.training.loss import LossConfig, cross_entropy
from jaxprompt.training.row_cost import row_cost

CLOSE = 1e-5


def tokens_and_pairs(shape):
    """A cost: every token, and of every pair of tokens a little."""
    rows, length, target_length = shape
    return rows * (length + target_length + length**2 / 1000)


PACKING = Packing(tokens_and_pairs)


def skewed(count=300, seed=0):
    """Examples of very different lengths, no two with the same ids."""
    rng = np.random.default_rng(seed)
    lengths = 8 + rng.gamma(2.0, 15.0, count).astype(int)
    return [
        Feature(np.full(n, 10 + number), np.full(1 + number % 3, 1000 + number)) for number, n in enumerate(lengths)
    ]


def contents(batch):
    """How often each example is in a batch, whole, by its (ids of input, ids of target)."""
    found = collections.Counter()
    for row in range(len(batch.inputs)):
        for number in range(1, batch.input_segments[row].max() + 1):
            ids = batch.inputs[row][batch.input_segments[row] == number]
            targets = batch.targets[row][batch.target_segments[row] == number]
            found[(tuple(ids), tuple(targets))] += 1
    return found


make = functools.partial(train_batches, batch_size=32, seed=3, pad_id=0, prefetch=0)


def take(batches, count):
    return list(itertools.islice(batches, count))


# Nothing is lost, doubled or torn


def test_packed_batches_hold_the_examples_of_padded_ones_in_fewer_tokens():
    features = skewed()
    padded, packed = (take(make(features, packing=packing), 60) for packing in (None, PACKING))
    whole = {(tuple(row.input_ids), tuple(row.target_ids)) for row in features}
    for one, other in zip(padded, packed, strict=True):
        assert contents(one) == contents(other)
        assert contents(other).keys() <= whole
        assert contents(other).total() == 32
        np.testing.assert_array_equal(other.target_weights, other.target_segments > 0)
    tokens = lambda batches: sum(batch.inputs.size for batch in batches)  # noqa: E731
    assert tokens(packed) < 0.7 * tokens(padded)
    share = np.mean(np.concatenate([batch.input_segments.ravel() == 0 for batch in packed]))
    assert share < 0.2
    shapes = {(batch.inputs.shape, batch.targets.shape[1]) for batch in packed}
    packed_rows = {rows for (rows, _), _ in shapes} - {32}
    assert (len(shapes) <= 4, len(packed_rows)) == (True, 1)


def test_a_position_is_the_same_packed_or_not_and_goes_on_to_the_bit():
    features = skewed()
    packed, padded = make(features, packing=PACKING, prefetch=4), make(features)
    take(packed, 7), take(padded, 7)
    state = json.loads(json.dumps(packed.get_state()))
    assert state == padded.get_state()
    rest, fresh = take(packed, 5), make(features, packing=PACKING)
    fresh.set_state(state)
    for one, other in zip(rest, take(fresh, 5), strict=True):
        for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(left, right)
    packed.close()


def test_processes_share_the_rows_of_the_batch_that_one_would_make():
    features, split = skewed(), Packing(tokens_and_pairs, parts=4)
    whole = take(make(features, packing=split), 9)
    shares = [take(make(features, packing=split, process_index=n, process_count=2), 9) for n in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert len(batch.inputs) % 4 == 0
        for name in ("inputs", "input_segments", "targets", "target_segments", "target_weights"):
            np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(batch, name))


def test_what_no_shape_has_room_for_is_padded():
    collate = Collate(0, (12,), (3,), packed=(RowShape(2, 8, 4), RowShape(2, 10, 4)))
    rows = lambda *lengths: [Feature(np.full(n, n), np.ones(1, int)) for n in lengths]  # noqa: E731
    assert collate(rows(4, 4, 5, 3)).inputs.shape == (2, 8)
    assert collate(rows(5, 5, 5, 5)).inputs.shape == (2, 10)
    batch = collate(rows(12, 1, 1, 1))
    assert (batch.inputs.shape, batch.targets.shape, batch.input_segments.max()) == ((4, 12), (4, 3), 1)
    with pytest.raises(ValueError, match="has 13 ids, more than the longest bucket"):
        collate(rows(13))
    few = collate(rows(2, 2))
    assert few.input_segments.tolist() == [[1, 1, 2, 2, 0, 0, 0, 0], [0] * 8]
    assert (few.target_weights.sum(), few.index.tolist()) == (2, [-1, -1])


def test_batches_of_several_prompts_get_one_shape():
    collate = Collate(7, (12,), (3,), packed=(RowShape(2, 8, 4), RowShape(2, 10, 4)))
    rows = [[Feature(np.full(n, n), np.ones(1, int)) for n in lengths] for lengths in ((4, 4), (5, 5), (11, 2))]
    alone = [collate(each) for each in rows]
    together = of_one_shape(alone, 7)
    assert {batch.inputs.shape for batch in together} == {(2, 12)}
    assert of_one_shape(alone[:2], 7)[0].inputs.tolist() == [[4] * 4 + [4] * 4, [7] * 8]
    assert [contents(batch) for batch in together] == [contents(batch) for batch in alone]
    assert together[0].inputs[1].tolist() == [7] * 12


def test_packing_and_buckets_exclude_each_other():
    with pytest.raises(ValueError, match="give it or buckets"):
        make(skewed(), packing=PACKING, buckets=200)


# The choice of shapes


def test_first_fit_puts_the_largest_first_and_nothing_where_there_is_no_room():
    inputs = np.array([[6, 6, 6, 4, 4, 4], [3, 3, 2, 2, 2, 11]])
    rows = first_fit(inputs, np.ones_like(inputs), 10, 6)
    assert rows.tolist() == [[0, 1, 2, 0, 1, 2], [0, 0, 0, 0, 1, -1]]
    # Room for targets counts as well.
    assert first_fit(inputs[:1], np.ones((1, 6), int), 100, 2).tolist() == [[0, 0, 1, 1, 2, 2]]


def test_first_fit_keeps_within_eleven_ninths_of_the_fewest_rows():
    """Johnson's bound, against rows that are known to be full."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        cuts = [np.diff([0, *np.sort(rng.choice(np.arange(1, 100), 3, replace=False)), 100]) for _ in range(18)]
        inputs = rng.permutation(np.concatenate(cuts))[None]
        rows = first_fit(inputs, np.ones_like(inputs), 100, 99)
        taken = np.bincount(rows[0], inputs[0])
        assert taken.max() <= 100
        assert 18 <= len(taken) <= 11 / 9 * 18 + 1


def test_chosen_lengths_are_the_best_there_are():
    rng = np.random.default_rng(1)
    cost = lambda length: length + length**2 / 50  # noqa: E731
    for count in (1, 2, 3):
        needed = rng.integers(1, 13, 40)
        mean = lambda chosen: sum(cost(min(n for n in chosen if n >= each)) for each in needed)  # noqa: B023, E731
        best = min(
            mean((*some, needed.max()))
            for k in range(count)
            for some in itertools.combinations(range(1, needed.max()), k)
        )
        assert mean(choose_lengths(needed, cost, count=count, saving=0)) == pytest.approx(best)
    assert choose_lengths([5, 5, 5], cost, count=4) == (5,)
    assert choose_lengths([49, 50], cost, count=4) == (50,), "a second length would save less than its compilation"


def test_rows_are_packed_only_where_that_saves_work():
    def chosen(lengths, **options):
        lengths = np.stack([lengths, np.full(len(lengths), 2)], axis=1)
        longest = -(-lengths[:, 0].max() // 8) * 8
        return choose_shapes(lengths, 16, Packing(**options), buckets=(longest,), target_buckets=(2,))

    rng = np.random.default_rng(2)
    uneven, even = rng.choice([10, 120], 500, p=[0.8, 0.2]), rng.integers(110, 121, 500)
    shapes = chosen(uneven, cost=tokens_and_pairs)
    assert {shape.rows for shape in shapes} <= {2, 4, 6, 8}
    assert chosen(even, cost=tokens_and_pairs) == ()
    assert chosen(even, cost=tokens_and_pairs, always=True) != ()
    # Two of these only fit a row that is longer than any of them, where attention may cost more than the padding.
    halves = rng.integers(61, 121, 500)
    assert chosen(halves, cost=tokens_and_pairs) != ()
    assert chosen(halves, cost=lambda shape: shape.rows * shape.length**3) == ()
    assert {shape.rows % 8 for shape in chosen(uneven, cost=tokens_and_pairs, parts=8)} == {0}


# The same loss and gradient

METHODS = {
    "t5, prompt": ("t5", jp.PromptTuning(length=P, init="random"), None),
    "t5, prefix": ("t5", PrefixTuning(length=P, reparametrization="flat", scale=1.0), None),
    "t5, between words": ("t5", PTuning(length=P, encoder="mlp"), AROUND),
    "gpt2, prompt read ahead": ("gpt2", jp.PromptTuning(length=P, init="random"), None),
    "gpt2, infix": ("gpt2", PrefixTuning(length=P, reparametrization="flat", scale=1.0, placement="infix"), None),
    "gpt2, between words": ("gpt2", PTuning(length=P, encoder="mlp"), AROUND),
}
TEXTS = ["the film was good and told with care", "the end", "a story of a house by the sea", "so", "the sea was cold"]
TARGETS = ["positive", "not so good", "the house was cold", "no", "negative"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    return functools.cache(lambda family: six_pairs.load(six_pairs.write_model(f"{family}, 2 layers", home)))


def encoded(model, texts=TEXTS, targets=TARGETS):
    rows = [{"input": text} for text in texts]
    return model.row_encoder.features(rows, targets, range(len(rows)), max_length=64, max_target_length=16)


def collations(features):
    """(one example a row, several) in one shape, so that both are read by one program; some rows are then empty."""
    inputs, targets = ([len(getattr(row, ids)) for row in features] for ids in ("input_ids", "target_ids"))
    shape = RowShape(len(features), max(sum(inputs) // 2, *inputs) + 1, sum(targets))
    return Collate(0, *((length,) for length in shape[1:])), Collate(0, (1,), (1,), packed=(shape,))


@pytest.mark.parametrize("case", METHODS)
def test_loss_and_gradient_are_those_of_one_example_a_row(models, case):
    family, method, template = METHODS[case]
    model = jp.patch(models(family), method, template)
    params = model.init_params(jax.random.key(0))

    def losses(prompt, batch):
        logits = model.apply({"model": params["model"], "prompt": prompt}, batch)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets) * batch.target_weights
        sums = cross_entropy(logits, batch.targets, batch.target_weights, LossConfig(), batch.target_segments)[1]
        return sums.numerator, (sums, each)

    both = jax.jit(jax.value_and_grad(losses, has_aux=True))
    features = encoded(model)
    apart, packed = (collate(features) for collate in collations(features))
    assert apart.inputs.shape == packed.inputs.shape
    assert packed.input_segments.any(axis=1).sum() in (2, 3), "of five examples"
    (_, (sums, _)), gradient = both(params["prompt"], apart)
    (_, (found, each)), its_gradient = both(params["prompt"], packed)
    for normalization in ("sum", "tokens", "examples"):
        one, other = (part.replace(normalization=normalization) for part in (sums, found))
        assert float(other.loss) == pytest.approx(float(one.loss), rel=CLOSE)
    assert np.isfinite(each).all()
    assert (float(found.tokens), float(found.examples)) == (float(sums.tokens), 5) == (apart.target_weights.sum(), 5)
    for ours, theirs in zip(jax.tree.leaves(its_gradient), jax.tree.leaves(gradient), strict=True):
        assert relative_difference(ours, theirs) <= CLOSE

    # Other ids in one example, as many of them, change its own loss and nobody else's.
    changed = features.copy()
    first, vocabulary = features[0], model.config.vocab_size
    other = np.where(first.input_ids < vocabulary, (first.input_ids + 7) % 500 + 3, first.input_ids)
    changed[0] = Feature(other, first.target_ids, target_positions=first.target_positions)
    poisoned = collations(changed)[1](changed)
    assert poisoned.inputs.shape == packed.inputs.shape
    _, (_, its_each) = both(params["prompt"], poisoned)[0]
    at = np.argwhere((np.asarray(packed.inputs) != poisoned.inputs) & (packed.input_segments > 0))[0]
    own = np.zeros(packed.targets.shape, bool)
    own[at[0]] = packed.target_segments[at[0]] == packed.input_segments[tuple(at)]
    np.testing.assert_array_equal(np.asarray(each)[~own], np.asarray(its_each)[~own])
    assert np.abs(each - its_each)[own].max() > 1e-3


# What a shape costs


@pytest.mark.parametrize("case", ["t5, prompt", "t5, prefix", "gpt2, prompt read ahead"])
def test_the_cost_is_that_of_the_products_with_attention_twice(models, case):
    family, method, template = METHODS[case]
    model = jp.patch(models(family), method, template)
    for shape in (RowShape(8, 128, 4), RowShape(3, 512, 16)):
        products = train_products(model, *shape)
        if model.as_prefix:  # the prompt itself is read once, whatever the shape
            once = train_products(model, 0, 0, 0)
            products = type(products)(products.weights - once.weights, products.attention - once.attention)
        expected = 2 * products.weights + 2 * 3 * products.attention
        assert row_cost(model, shape) == pytest.approx(expected, rel=0.05)


def test_quantised_matrices_cost_as_much(models):
    whole = jp.patch(models("t5"), jp.PromptTuning(length=P))
    lm = dataclasses.replace(whole.lm, params=quantization.abstract(whole.lm.params, "int8"))
    shape = RowShape(8, 128, 4)
    assert row_cost(dataclasses.replace(whole, lm=lm), shape) == row_cost(whole, shape)
