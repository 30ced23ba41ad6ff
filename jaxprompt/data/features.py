"""Examples as token ids: what a template, a tokenizer and a format make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprompt.data.task_format import Example, TaskFormat
from jaxprompt.data.template import Template
from jaxprompt.data.tokens import check_labels, tokenize

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
    """

    input_ids: np.ndarray
    target_ids: np.ndarray
    index: int | None = None
    labelled: bool = True
    input_segments: np.ndarray | None = None
    target_segments: np.ndarray | None = None


def as_feature(element: Any) -> Feature:
    """The element itself, or the feature that a tuple (input_ids, target_ids, ...) stands for."""
    return element if isinstance(element, Feature) else Feature(*element)


@dataclasses.dataclass(frozen=True)
class LazyFeatures(Sequence[Feature]):
    """Examples tokenised when they are asked for, for splits too large to keep as ids.

    Attributes:
        examples: the examples, by number.
        template: how they become input.
        tokenizer: a transformers tokenizer.
        vocab_size: rows of the model's embedding table.
        format: gives the longest input and target.
        boundary: see `Template.encode_many`.
    """

    examples: Sequence[Example]
    template: Template
    tokenizer: Any
    vocab_size: int
    format: TaskFormat
    boundary: str = ""

    @property
    def max_lengths(self) -> tuple[int, int]:
        """The most input ids, virtual tokens included, and the most target ids that an example can have."""
        return self.format.max_input_length + self.template.num_slots, self.format.max_target_length

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        """The feature of that number, or a list of them for a slice."""
        numbers = range(len(self))[index]
        return self._encode(numbers) if isinstance(numbers, range) else self._encode([numbers])[0]

    def _encode(self, numbers: Sequence[int]) -> list[Feature]:
        examples = [self.examples[number] for number in numbers]
        inputs = self.template.encode_many(
            [example.fields for example in examples],
            self.tokenizer,
            self.vocab_size,
            self.format.max_input_length,
            self.boundary,
        )
        targets = tokenize([example.target for example in examples], self.tokenizer, self.vocab_size)
        features = []
        for number, example, input_ids, target in zip(numbers, examples, inputs, targets, strict=True):
            if example.target and not target:
                raise ValueError(f"the target {example.target!r} of example {number} tokenises to nothing")
            kept = target[: self.format.max_target_length - 1]
            target_ids = np.asarray([*kept, self.tokenizer.eos_token_id], np.int32)
            features.append(Feature(input_ids, target_ids, number, bool(example.target)))
        return features


def encode_examples(
    examples: Sequence[Example],
    template: Template,
    tokenizer: Any,
    vocab_size: int,
    format: TaskFormat,
    *,
    boundary: str = "",
    cache_limit: int = 100_000,
) -> Sequence[Feature]:
    """Examples as token ids for an encoder-decoder: templated input, and the target with the end of text behind it.

    Args:
        examples: what to encode.
        template: the input, virtual tokens and all; it must name fields that the examples have.
        tokenizer: a transformers tokenizer.
        vocab_size: rows of the model's embedding table, V; slot k of the prompt becomes id V + k.
        format: gives the labels to check, and the most tokens kept of input (`max_input_length`, end of text included,
            virtual tokens not counted) and target.
        boundary: see `Template.encode_many`.
        cache_limit: up to so many examples are encoded once and kept; more are encoded each time they are asked for.

    Returns:
        One feature an example, by number: a list, or `LazyFeatures`.

    Raises:
        ValueError: there are no examples, the template does not fit them, a label is nothing or unknown to the
            tokenizer, or the tokenizer has no end of text or does not belong to the model.
    """
    if not len(examples):
        raise ValueError(f"there are no examples of {format.name!r} to encode")
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-text token (eos_token), which every target ends in")
    template.check(fields=tuple(examples[0].fields))
    check_labels(format.labels, tokenizer, vocab_size, format.max_target_length)
    lazy = LazyFeatures(examples, template, tokenizer, vocab_size, format, boundary)
    if len(examples) > cache_limit:
        return lazy
    return [feature for start in range(0, len(examples), _BLOCK) for feature in lazy[start : start + _BLOCK]]
