"""Texts as the rows of ids that a model reads: where inputs and targets stand for either family of models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprompt.data.features import Feature
from jaxprompt.data.task_format import TaskFormat
from jaxprompt.data.template import Template
from jaxprompt.data.template_syntax import MASK
from jaxprompt.data.tokens import end_of_text, tokenize

_CAUSAL_BOUNDARY = " "
"""What separates words in GPT-2's vocabulary; SentencePiece marks the start of words by itself."""


@dataclasses.dataclass(frozen=True)
class RowEncoder:
    """How one model's rows are made of text.

    An encoder-decoder reads the template as its input and writes the target. A causal model reads both in one row:
    template, target, and predicts each token of the target from the one before it.

    Attributes:
        template: the input, virtual tokens and all.
        tokenizer: a transformers tokenizer.
        vocab_size: rows of the model's embedding table, V; slot k of the prompt becomes id V + k.
        eos_id: what every target ends in.
        causal: whether input and target share a row.
        slots_in_rows: whether the virtual tokens stand in the rows; not where the model is given their keys and values.
        prefix_length: positions that the prompt takes outside of the rows.
        max_positions: rows of the model's position table; 0: it has none.
    """

    template: Template
    tokenizer: Any
    vocab_size: int
    eos_id: int
    causal: bool = False
    slots_in_rows: bool = True
    prefix_length: int = 0
    max_positions: int = 0

    @property
    def target_start(self) -> list[int]:
        """What a target begins with before its own text: `<extra_id_0>` where the template says so, else nothing."""
        return [self._mask_id] if self.template.begins_with_sentinel else []

    def target_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text as a target, its end of text included.

        Raises:
            ValueError: a text that is not empty tokenises to nothing, or to an id that the model does not have.
        """
        boundary = _CAUSAL_BOUNDARY if self.causal and self.template.target_spaced else ""
        found = tokenize([boundary + text if text else text for text in texts], self.tokenizer, self.vocab_size)
        for number, (text, ids) in enumerate(zip(texts, found, strict=True)):
            if text and not ids:
                raise ValueError(f"the target {text!r} (number {number} of {len(texts)}) tokenises to nothing")
        return [[*self.target_start, *ids, self.eos_id] for ids in found]

    def features(
        self,
        rows: Sequence[Mapping[str, str]],
        targets: Sequence[str],
        numbers: Sequence[int],
        *,
        max_length: int,
        max_target_length: int,
        for_generation: bool = False,
    ) -> list[Feature]:
        """Examples as rows.

        Args:
            rows: each example's fields.
            targets: each one's target; an empty one is not known.
            numbers: each one's number in its split.
            max_length: tokens of input text kept.
            max_target_length: tokens of target kept, end of text included.
            for_generation: the rows are to be continued: a causal model's hold the input only.

        Raises:
            ValueError: a field is missing, there is no room for text, a row has more positions than the model, or the
                tokenizer does not belong to the model.
        """
        inputs = self.template.encode_many(
            rows,
            self.tokenizer,
            self.vocab_size,
            max_length,
            _CAUSAL_BOUNDARY if self.causal else "",
            slots=self.slots_in_rows,
            end=[] if self.causal else end_of_text(self.tokenizer),
        )
        features = []
        for number, text, input_ids, target in zip(numbers, targets, inputs, self.target_ids(targets), strict=True):
            target_ids = np.asarray([*target[:-1][: max_target_length - 1], self.eos_id], np.int32)
            if self.causal:
                positions = None
                if not len(input_ids):
                    raise ValueError(f"the input of example {number} is empty, so nothing can predict its target")
                # The last token of a target is never read.
                new = (max_target_length if for_generation else len(target_ids)) - 1
                self._check_room(len(input_ids) + new, number)
                if not for_generation:
                    positions = len(input_ids) - 1 + np.arange(len(target_ids), dtype=np.int32)
                    input_ids = np.concatenate([input_ids, target_ids[:-1]])
                features.append(Feature(input_ids, target_ids, number, bool(text), target_positions=positions))
            else:
                features.append(Feature(input_ids, target_ids, number, bool(text)))
        return features

    def longest_row(self, format: TaskFormat, for_generation: bool) -> int:
        """The most ids that a row of a format's examples can have."""
        slots = self.template.num_slots if self.slots_in_rows else 0
        target = format.max_target_length - 1 if self.causal and not for_generation else 0
        return format.max_input_length + slots + target

    @property
    def _mask_id(self) -> int:
        found = self.tokenizer.convert_tokens_to_ids(MASK)
        if found is None or found == self.tokenizer.unk_token_id:
            raise ValueError(f"template {self.template.text!r} needs a mask, but this tokenizer has no {MASK}")
        return found

    def _check_room(self, length: int, number: int) -> None:
        if self.max_positions and length + self.prefix_length > self.max_positions:
            raise ValueError(
                f"example {number} takes {length} positions with its target, and the prompt {self.prefix_length} more, "
                f"but the model has {self.max_positions}; lower prompt.length, task.max_input_length or "
                "task.max_target_length"
            )
