"""Pre-training objectives on token ids, T5's and GPT-2's, and a random-access source of text to apply them to.

The arithmetic of T5's is that of Raffel et al. (2020, section 3.1.4 and the released preprocessors). Every random
choice comes from the generator that is passed in, so that grain's `random_map` makes example i a pure function of seed
and i.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence

import numpy as np

Tokens = np.ndarray
"""Token ids of one text, Int[ndarray, "length"]."""


def _noise_counts(length: int, noise_density: float, mean_noise_span_length: float) -> tuple[int, int]:
    """Noise tokens and noise spans in a text of `length` >= 2 tokens, rounded as T5 rounds them."""
    noise_tokens = min(max(round(length * noise_density), 1), length - 1)
    noise_spans = max(round(noise_tokens / mean_noise_span_length), 1)
    # Short dense texts can ask for more spans than there are tokens to keep them apart.
    return noise_tokens, min(noise_spans, length - noise_tokens)


def _random_segmentation(rng: np.random.Generator, items: int, segments: int) -> Tokens:
    """Lengths of `segments` non-empty runs that partition `items`, each partition equally likely."""
    borders = np.sort(rng.choice(np.arange(1, items), size=segments - 1, replace=False))
    return np.diff(np.concatenate([[0], borders, [items]]))


def noise_mask(
    length: int, rng: np.random.Generator, *, noise_density: float = 0.15, mean_noise_span_length: float = 3.0
) -> np.ndarray:
    """T5's `random_spans_noise_mask`: alternating kept and noise spans, the first one kept and the last one noise.

    Args:
        length: tokens of the text, at least 2.
        rng: the source of the random segmentation.
        noise_density: the share of tokens to drop.
        mean_noise_span_length: the mean length of a dropped run.

    Returns:
        Bool[ndarray, "length"], true at noise.

    Raises:
        ValueError: for a text of fewer than 2 tokens, or a density outside (0, 1).
    """
    if length < 2:
        raise ValueError(
            f"A text of {length} token(s) cannot be corrupted: it needs one token to keep and one to drop."
        )
    if not 0.0 < noise_density < 1.0:
        raise ValueError(f"noise_density must lie between 0 and 1, not {noise_density}.")
    noise_tokens, spans = _noise_counts(length, noise_density, mean_noise_span_length)
    noise = _random_segmentation(rng, noise_tokens, spans)
    kept = _random_segmentation(rng, length - noise_tokens, spans)
    return np.repeat(np.tile([False, True], spans), np.stack([kept, noise], axis=1).reshape(-1))


def _spans_to_sentinels(tokens: Tokens, mask: np.ndarray, sentinel_start: int) -> Tokens:
    """Each run of masked tokens as one sentinel, numbered downwards from `sentinel_start`."""
    follows_masked = np.concatenate([[False], mask[:-1]])
    first = mask & ~follows_masked
    sentinels = sentinel_start + 1 - np.cumsum(first)
    return np.where(first, sentinels, tokens)[~(mask & follows_masked)].astype(np.int32)


def span_corruption(
    tokens: Sequence[int] | Tokens,
    rng: np.random.Generator,
    *,
    sentinel_start: int,
    eos: int,
    noise_density: float = 0.15,
    mean_noise_span_length: float = 3.0,
) -> tuple[Tokens, Tokens]:
    """Drops random spans: the inputs keep the rest, the targets give the spans back (Raffel et al. 2020, Figure 2).

    As in T5's released code a text ends in noise, so the targets close with their last span and not, as in the
    paper's figure, with one more sentinel.

    Args:
        tokens: Int[ndarray, "length"], a text without end-of-sequence token at its end; length >= 2.
        rng: the source of the noise.
        sentinel_start: the id of `<extra_id_0>`; `<extra_id_k>` is `sentinel_start - k`.
        eos: the id set at the end of inputs and targets.
        noise_density: the share of tokens to drop.
        mean_noise_span_length: the mean length of a dropped run.

    Returns:
        (inputs, targets), int32.

    Raises:
        ValueError: for a text of fewer than 2 tokens, or a density outside (0, 1).
    """
    tokens = np.asarray(tokens, np.int32)
    mask = noise_mask(len(tokens), rng, noise_density=noise_density, mean_noise_span_length=mean_noise_span_length)
    inputs = _spans_to_sentinels(tokens, mask, sentinel_start)
    targets = _spans_to_sentinels(tokens, ~mask, sentinel_start)
    return np.append(inputs, np.int32(eos)), np.append(targets, np.int32(eos))


def span_corruption_lengths(
    inputs_length: int, *, noise_density: float = 0.15, mean_noise_span_length: float = 3.0
) -> tuple[int, int]:
    """T5's `random_spans_helper`: the raw text that fills `inputs_length` without padding.

    Args:
        inputs_length: wanted tokens of corrupted input, sentinels and end of sequence included; at least 4.
        noise_density: the share of tokens to drop.
        mean_noise_span_length: the mean length of a dropped run.

    Returns:
        (raw tokens, tokens of the targets they give), such as (568, 114) for 512.

    Raises:
        ValueError: if not even the shortest text fits.
    """
    lengths = functools.partial(_corrupted_lengths, noise_density, mean_noise_span_length)
    if inputs_length < lengths(2)[0]:
        raise ValueError(f"inputs_length {inputs_length} holds no corrupted text; it must be at least {lengths(2)[0]}.")
    raw = 2
    while lengths(raw + 1)[0] <= inputs_length:
        raw += 1
    targets_length = lengths(raw)[1]
    if noise_density == 0.5 and targets_length > inputs_length:
        # As in T5: at even odds, inputs and targets are to be of one length.
        raw, targets_length = raw - 1, targets_length - 1
    return raw, targets_length


def _corrupted_lengths(noise_density: float, mean_noise_span_length: float, raw: int) -> tuple[int, int]:
    noise_tokens, spans = _noise_counts(raw, noise_density, mean_noise_span_length)
    return raw - noise_tokens + spans + 1, noise_tokens + spans + 1


def prefix_lm(
    tokens: Sequence[int] | Tokens,
    rng: np.random.Generator,
    *,
    eos: int,
    split_after: Collection[int] = (),
    max_targets: int | None = None,
) -> tuple[Tokens, Tokens]:
    """Splits a text in two: the model reads the first part and continues it (the LM adaptation of Lester et al. 2021).

    Args:
        tokens: Int[ndarray, "length"], a text without end-of-sequence token at its end; length >= 2.
        rng: the source of the split point, uniform over 1 .. length - 1 as T5's `random_prefix_noise_mask`.
        eos: the id set at the end of inputs and targets.
        split_after: where not empty, split only after one of these ids (such as the full stop's), if the text has one.
        max_targets: where given, never leave more than this many tokens to predict, `eos` included.

    Returns:
        (inputs, targets), int32; without their two `eos`, their concatenation is the text.

    Raises:
        ValueError: for a text of fewer than 2 tokens, or `max_targets` below 2.
    """
    tokens = np.asarray(tokens, np.int32)
    if len(tokens) < 2:
        raise ValueError(f"A text of {len(tokens)} token(s) cannot be split into a prefix and a continuation.")
    if max_targets is not None and max_targets < 2:
        raise ValueError(f"max_targets must leave room for one token and the end of sequence, not {max_targets}.")
    first = 1 if max_targets is None else max(1, len(tokens) - max_targets + 1)
    points = np.arange(first, len(tokens))
    if split_after:
        borders = points[np.isin(tokens[points - 1], list(split_after))]
        points = borders if len(borders) else points
    split = rng.choice(points)
    end = np.int32(eos)
    return np.append(tokens[:split], end), np.append(tokens[split:], end)


def causal_lm(
    tokens: Sequence[int] | Tokens, rng: np.random.Generator, *, eos: int, opened: float = 0.5
) -> tuple[Tokens, Tokens]:
    """Every token from those before it, and the end of text from the last (Radford et al. 2019).

    Args:
        tokens: Int[ndarray, "length"], a text without end-of-sequence token at its end; length >= 1.
        rng: decides whether the text is opened.
        eos: the id at the end of the targets.
        opened: how often the inputs begin with `eos` too, as a GPT-2 meets a text behind another one's end. Such a text
            has its first token among the targets.

    Returns:
        (inputs, targets), int32, equally long: input i predicts target i.

    Raises:
        ValueError: for a text without tokens.
    """
    if not len(tokens):
        raise ValueError("A text of 0 tokens has nothing to predict its end from.")
    first, end = [np.int32(eos)] if rng.random() < opened else [], np.int32(eos)
    inputs = np.concatenate([first, np.asarray(tokens, np.int32)]).astype(np.int32)
    return inputs, np.append(inputs[1:], end)


def join(texts: Sequence[Tokens], rng: np.random.Generator, *, eos: int, share: float, length: int) -> list[Tokens]:
    """Puts texts behind one another, `eos` between them, as GPT-2 was trained on contexts of several documents.

    Args:
        texts: in order.
        rng: decides which are joined.
        eos: the id between two texts.
        share: how often a text goes on behind the one before it instead of standing alone.
        length: tokens that a joined text may have; one that would have more stays apart.
    """
    joined: list[Tokens] = []
    for text in texts:
        wanted = rng.random() < share  # drawn for each text, so that lengths do not shift later draws
        if joined and wanted and len(joined[-1]) + 1 + len(text) <= length:
            joined[-1] = np.concatenate([joined[-1], [eos], text]).astype(np.int32)
        else:
            joined.append(np.asarray(text, np.int32))
    return joined


def longest_example(objective: str, length: int, max_targets: int = 0) -> tuple[int, int]:
    """The most ids of input and of target, ends included, that an objective makes of a text of `length` >= 2 tokens.

    Span corruption is that at T5's density; `max_targets` of `prefix_lm` is as there, 0 for None.
    """
    if objective == "causal_lm":
        return length + 1, length + 1
    if objective == "prefix_lm":
        return length, min(length, max_targets or length)
    return _corrupted_lengths(0.15, 3.0, length)


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Raw texts for an objective, by random access: chunk i is made of documents k·i … k·i + k - 1.

    With `__len__` and `__getitem__` it is a source for `grain.MapDataset.source`; put `random_map` with an objective
    behind it.

    Attributes:
        document: the text of document i; for a reproducible chunk it must be a pure function of i.
        encode: text to ids, without an end of sequence.
        eos: the id that joins documents.
        count: the number of chunks.
        length: tokens kept of a chunk at most. Longer chunks lose their end.
        documents_per_chunk: k. One document a chunk teaches to continue a text up to its end; many, with a `length`
            that they surely fill, give T5's unpadded chunks.
    """

    document: Callable[[int], str]
    encode: Callable[[str], Sequence[int]]
    eos: int
    count: int
    length: int
    documents_per_chunk: int = 1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tokens:
        """Chunk `index`, Int[ndarray, "<=length"]; raises IndexError outside 0 … count - 1."""
        if not 0 <= index < self.count:
            raise IndexError(f"chunk {index} of {self.count}")
        ids: list[int] = []
        for k in range(self.documents_per_chunk * index, self.documents_per_chunk * (index + 1)):
            if ids:
                ids.append(self.eos)
            ids.extend(self.encode(self.document(k)))
            if len(ids) >= self.length:
                break
        return np.asarray(ids[: self.length], np.int32)


def chunks(
    document: Callable[[int], str],
    tokenizer: Callable[..., dict[str, list[int]]],
    *,
    eos: int,
    count: int,
    length: int,
    documents_per_chunk: int = 1,
) -> Chunks:
    """`Chunks` over a Hugging Face tokenizer: documents encoded without special tokens.

    Args:
        document: the text of document i, such as `functools.partial(mini.document, seed)`.
        tokenizer: a tokenizer as `transformers` loads it.
        eos: the id that joins documents.
        count: the number of chunks.
        length: tokens kept of a chunk at most.
        documents_per_chunk: see `Chunks`.
    """
    return Chunks(document, functools.partial(_encode, tokenizer), eos, count, length, documents_per_chunk)


def _encode(tokenizer: Callable[..., dict[str, list[int]]], text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]
