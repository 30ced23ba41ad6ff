"""Examples as token ids: what a row encoder and a format make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.data.task_format import Example, TaskFormat
from jaxprompt.data.tokens import check_labels

if TYPE_CHECKING:
    from jaxprompt.data.row_encoder import RowEncoder

_BLOCK = 1024  # examples tokenised in one call: fast tokenizers spread a block over their threads


@dataclasses.dataclass(frozen=True, slots=True)
class Feature:
    """One example as token ids.

    Attributes:
        input_ids: Int[ndarray, "S"], virtual tokens from the vocabulary size on.
        target_ids: Int[ndarray, "T"], at least one; the end of text alone where the example has no target.
        index: the example's number in its split; None: its place in the sequence.
        labelled: false where `target_ids` are a stand-in, which gets no weight and cannot be trained on.
        input_segments: where several examples share the row, which one each id belongs to, from 1; None: one example.
        target_segments: the same for the targets.
        target_positions: causal models: for each target, the place in `input_ids` of the id that predicts it.
        prompt: the number of its prompt, where examples of one batch have prompts of their own.
    """

    input_ids: np.ndarray
    target_ids: np.ndarray
    index: int | None = None
    labelled: bool = True
    input_segments: np.ndarray | None = None
    target_segments: np.ndarray | None = None
    target_positions: np.ndarray | None = None
    prompt: int | None = None


def as_feature(element: Any) -> Feature:
    """The element itself, or the feature that a tuple (input_ids, target_ids, ...) stands for."""
    return element if isinstance(element, Feature) else Feature(*element)


@dataclasses.dataclass(frozen=True)
class LazyFeatures(Sequence[Feature]):
    """Examples tokenised when they are asked for, for splits too large to keep as ids.

    Attributes:
        examples: the examples, by number.
        encoder: how their texts become rows.
        format: gives the longest input and target.
        for_generation: see `RowEncoder.features`.
    """

    examples: Sequence[Example]
    encoder: RowEncoder
    format: TaskFormat
    for_generation: bool = False

    @property
    def max_lengths(self) -> tuple[int, int]:
        """The most input ids, virtual tokens included, and the most target ids that an example can have."""
        return self.encoder.longest_row(self.format, self.for_generation), self.format.max_target_length

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        """The feature of that number, or a list of them for a slice."""
        numbers = range(len(self))[index]
        return self._encode(numbers) if isinstance(numbers, range) else self._encode([numbers])[0]

    def _encode(self, numbers: Sequence[int]) -> list[Feature]:
        examples = [self.examples[number] for number in numbers]
        return self.encoder.features(
            [example.fields for example in examples],
            [example.target for example in examples],
            numbers,
            max_length=self.format.max_input_length,
            max_target_length=self.format.max_target_length,
            for_generation=self.for_generation,
        )


def encode_examples(
    examples: Sequence[Example],
    encoder: RowEncoder,
    format: TaskFormat,
    *,
    for_generation: bool = False,
    cache_limit: int = 100_000,
) -> Sequence[Feature]:
    """Examples as token ids: the templated input, and the target with the end of text behind it.

    Args:
        examples: what to encode.
        encoder: a model's `row_encoder`; its template must name fields that the examples have.
        format: gives the labels to check, and the most tokens kept of input (`max_input_length`, end of text included,
            virtual tokens not counted) and target.
        for_generation: see `RowEncoder.features`.
        cache_limit: up to so many examples are encoded once and kept; more are encoded each time they are asked for.

    Returns:
        One feature an example, by number: a list, or `LazyFeatures`.

    Raises:
        ValueError: there are no examples, the template does not fit them, a label is nothing or unknown to the
            tokenizer, or the tokenizer has no end of text or does not belong to the model.
    """
    if not len(examples):
        raise ValueError(f"there are no examples of {format.name!r} to encode")
    if encoder.tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-text token (eos_token), which every target ends in")
    encoder.template.check(fields=tuple(examples[0].fields))
    own = format.max_target_length - len(encoder.target_start)
    check_labels(format.labels, encoder.tokenizer, encoder.vocab_size, own)
    lazy = LazyFeatures(examples, encoder, format, for_generation)
    if len(examples) > cache_limit:
        return lazy
    return [feature for start in range(0, len(examples), _BLOCK) for feature in lazy[start : start + _BLOCK]]
