"""T5's objectives against the arithmetic of its released preprocessors and the published example, and GPT-2's."""

import functools

import numpy as np
import pytest

from jaxprompt.data import mini, objectives

SENTINEL = 1999  # <extra_id_0>; the text's own ids stay far below the sentinels
EOS = 1


def reassemble(inputs, targets):
    """The text that a corrupted pair stands for: each sentinel of the inputs replaced by what follows it in targets."""
    assert inputs[-1] == EOS
    assert targets[-1] == EOS
    spans, current = {}, None
    for token in targets[:-1]:
        if token > 1000:
            current = int(token)
            assert current not in spans
            spans[current] = []
        else:
            spans[current].append(int(token))
    text, used = [], []
    for token in inputs[:-1]:
        if token > 1000:
            used.append(int(token))
            text.extend(spans[int(token)])
        else:
            text.append(int(token))
    assert used == list(spans) == [SENTINEL - k for k in range(len(used))]
    return text


@pytest.mark.parametrize("length", [2, 3, 7, 40, 568])
@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.5, 3.0), (0.5, 1.0), (0.9, 2.0)])
def test_span_corruption_loses_nothing(length, density, mean):
    tokens = np.random.default_rng(0).integers(2, 800, length)
    for seed in range(10):
        inputs, targets = objectives.span_corruption(
            tokens,
            np.random.default_rng(seed),
            sentinel_start=SENTINEL,
            eos=EOS,
            noise_density=density,
            mean_noise_span_length=mean,
        )
        assert reassemble(inputs, targets) == tokens.tolist()


@pytest.mark.parametrize(
    ("inputs_length", "density", "mean", "raw", "targets_length"),
    [
        (512, 0.15, 3.0, 568, 114),  # the lengths that T5 is pre-trained at
        (256, 0.15, 3.0, 284, 58),
    ],
)
def test_lengths_are_those_of_t5(inputs_length, density, mean, raw, targets_length):
    kind = {"noise_density": density, "mean_noise_span_length": mean}
    assert objectives.span_corruption_lengths(inputs_length, **kind) == (raw, targets_length)
    inputs, targets = objectives.span_corruption(
        np.arange(2, raw + 2) % 700 + 2, np.random.default_rng(0), sentinel_start=SENTINEL, eos=EOS, **kind
    )
    assert (len(inputs), len(targets)) == (inputs_length, targets_length)


def test_lengths_hold_for_every_input_length():
    for inputs_length in range(4, 200):
        raw, targets_length = objectives.span_corruption_lengths(inputs_length)
        tokens = np.arange(raw) % 700 + 2
        inputs, targets = objectives.span_corruption(tokens, np.random.default_rng(0), sentinel_start=SENTINEL, eos=EOS)
        assert len(inputs) <= inputs_length
        assert len(targets) == targets_length


def test_noise_mask_counts_and_order():
    masks = np.stack([objectives.noise_mask(100, np.random.default_rng(seed)) for seed in range(300)])
    assert (masks.sum(axis=1) == 15).all()
    starts = masks[:, 1:] & ~masks[:, :-1]
    assert (starts.sum(axis=1) == 5).all()  # 15 noise tokens in spans of 3 on average
    assert not masks[:, 0].any()
    assert masks[:, -1].all()
    # Every partition is equally likely, so the last token is noise always and each earlier one about equally often.
    assert masks[:, 5:85].mean() == pytest.approx(0.13, abs=0.02)


def test_segmentation_draws_every_partition_equally_often():
    rng = np.random.default_rng(0)
    draws = [tuple(objectives._random_segmentation(rng, 5, 2)) for _ in range(4000)]
    for partition in [(1, 4), (2, 3), (3, 2), (4, 1)]:
        assert draws.count(partition) == pytest.approx(1000, abs=100)


def test_same_generator_same_corruption():
    tokens = np.arange(2, 90)
    first, second = (
        objectives.span_corruption(tokens, np.random.default_rng(7), sentinel_start=SENTINEL, eos=EOS) for _ in range(2)
    )
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_prefix_lm_splits_anywhere_inside():
    tokens = np.arange(10, 20)
    splits = []
    for seed in range(500):
        inputs, targets = objectives.prefix_lm(tokens, np.random.default_rng(seed), eos=EOS)
        assert inputs[-1] == targets[-1] == EOS
        np.testing.assert_array_equal(np.concatenate([inputs[:-1], targets[:-1]]), tokens)
        splits.append(len(inputs) - 1)
    assert set(splits) == set(range(1, 10))
    assert np.bincount(splits)[1:] == pytest.approx(500 / 9, abs=30)


def test_prefix_lm_splits_at_borders_and_bounds_targets():
    tokens = np.array([10, 11, 5, 12, 13, 6, 14, 15, 16, 5])
    for seed in range(50):
        rng = np.random.default_rng(seed)
        inputs, _ = objectives.prefix_lm(tokens, rng, eos=EOS, split_after={5, 6})
        assert len(inputs) - 1 in (3, 6)
        inputs, targets = objectives.prefix_lm(tokens, rng, eos=EOS, split_after={5, 6}, max_targets=5)
        assert len(inputs) - 1 == 6
        _, targets = objectives.prefix_lm(tokens, rng, eos=EOS, max_targets=3)
        assert len(targets) <= 3
        # Without a border in reach the split falls anywhere.
        inputs, _ = objectives.prefix_lm(tokens, rng, eos=EOS, split_after={77})
        assert 1 <= len(inputs) - 1 <= 9


def test_causal_lm_predicts_every_token_from_those_before_it():
    tokens = np.arange(10, 15)
    opened = 0
    for seed in range(400):
        inputs, targets = objectives.causal_lm(tokens, np.random.default_rng(seed), eos=EOS)
        assert (inputs.dtype, targets.dtype) == (np.int32, np.int32)
        opened += inputs[0] == EOS
        assert inputs.tolist() == [EOS] * int(inputs[0] == EOS) + tokens.tolist()
        assert targets.tolist() == [*inputs[1:], EOS]
    assert opened == pytest.approx(200, abs=40)


@pytest.mark.parametrize(("opened", "inputs", "targets"), [(0.0, [7], [EOS]), (1.0, [EOS, 7], [7, EOS])])
def test_causal_lm_of_one_token(opened, inputs, targets):
    given = objectives.causal_lm([7], np.random.default_rng(0), eos=EOS, opened=opened)
    assert [ids.tolist() for ids in given] == [inputs, targets]


def test_join_keeps_every_text_in_order():
    texts = [np.full(3 + k % 4, 10 + k) for k in range(12)]
    expected = [token for text in texts for token in text]
    counts = []
    for seed in range(100):
        joined = objectives.join(texts, np.random.default_rng(seed), eos=EOS, share=0.5, length=20)
        assert [token for text in joined for token in text if token != EOS] == expected
        assert max(len(text) for text in joined) <= 20
        for text in joined:
            inside = text[text != EOS]
            assert (text == EOS).sum() == len(set(inside)) - 1, "one end of text between two texts, none elsewhere"
            assert EOS not in (text[0], text[-1])
        counts.append(len(joined))
    assert 5 < np.mean(counts) < 9


@pytest.mark.parametrize(("share", "length", "count"), [(0.0, 100, 4), (1.0, 100, 1), (1.0, 11, 2), (1.0, 10, 4)])
def test_join_by_share_and_length(share, length, count):
    texts = [np.arange(5)] * 4
    assert len(objectives.join(texts, np.random.default_rng(0), eos=EOS, share=share, length=length)) == count


@pytest.mark.parametrize("tokens", [[], [4]])
def test_too_short_texts_are_refused(tokens):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="cannot be corrupted"):
        objectives.span_corruption(tokens, rng, sentinel_start=SENTINEL, eos=EOS)
    with pytest.raises(ValueError, match="cannot be split"):
        objectives.prefix_lm(tokens, rng, eos=EOS)


def test_bad_settings_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="nothing to predict"):
        objectives.causal_lm([], rng, eos=EOS)
    with pytest.raises(ValueError, match="noise_density"):
        objectives.noise_mask(10, rng, noise_density=1.5)
    with pytest.raises(ValueError, match="max_targets"):
        objectives.prefix_lm([3, 4, 5], rng, eos=EOS, max_targets=1)
    with pytest.raises(ValueError, match="at least 3"):
        objectives.span_corruption_lengths(2)


def letters(text):
    return [ord(letter) for letter in text]


def test_chunks_join_documents_and_cut():
    source = objectives.Chunks(lambda i: "abc"[i % 3] * 4, letters, eos=EOS, count=5, length=7, documents_per_chunk=2)
    assert len(source) == 5
    assert source[0].tolist() == [97] * 4 + [EOS] + [98] * 2
    assert source[1].tolist() == [99] * 4 + [EOS] + [97] * 2
    with pytest.raises(IndexError):
        source[5]
    single = objectives.Chunks(lambda i: "abc"[i % 3] * 4, letters, eos=EOS, count=5, length=7)
    assert single[2].tolist() == [99] * 4


def test_chunks_feed_grain():
    grain = pytest.importorskip("grain")
    source = objectives.Chunks(functools.partial(mini.document, 3), letters, eos=EOS, count=20, length=60)
    corrupt = functools.partial(objectives.span_corruption, sentinel_start=SENTINEL, eos=EOS)
    first, second = (grain.MapDataset.source(source).seed(1).random_map(corrupt) for _ in range(2))
    for index in (0, 7, 19, 3):
        for one, other in zip(first[index], second[index], strict=True):
            np.testing.assert_array_equal(one, other)
        assert reassemble(*first[index]) == source[index].tolist()
