"""Templates: where virtual tokens, context, anchor words and the target stand in a model's input.

Pr(Y | [P; X]) of prompt tuning is `{soft:100} {input}`; the T = {[P_0:i], x, [P_i+1:m], y} of P-tuning
(Liu et al. 2021, section 3) is any interleaving, such as `{soft:3} {subject} {soft:3} {target}`. For a bidirectional
model a target inside the text, `{soft:3} {subject} {soft:3} {target} {soft:3}`, is a mask, T5's `<extra_id_0>`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprompt.data.template_syntax import MASK, Part, Slots, Target, Text, read_parts
from jaxprompt.data.tokens import end_of_text, fit_fields, fit_runs, tokenize


@dataclasses.dataclass(frozen=True)
class Template:
    """A parsed template; make one with `Template.parse`.

    Attributes:
        text: what was parsed.
        parts: slots, runs of text and at most one target, in order. Without a target its place is the end.
    """

    text: str
    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Reads a template.

        `{soft:n}` stands for n virtual tokens, `{target}` for the target, `{name}` for a field, `<extra_id_0>` for the
        target as a mask; all else is literal text, with `{{` and `}}` for braces. `{target:sentinel}` at the end is a
        target that begins with `<extra_id_0>` though none stands in the input. White space beside slots and target
        only separates: a model's boundary mark, such as the leading space of GPT-2's words, is put back by
        `encode_many(boundary=...)`.

        Raises:
            ValueError: unbalanced or nested braces, a name that is no identifier, no or zero slots in `{soft:n}`, two
                targets, something behind `{target:sentinel}`, or an empty template.
        """
        return cls(text, read_parts(text))

    def __str__(self) -> str:
        """The text that `parse` reads back."""
        return self.text

    @property
    def num_slots(self) -> int:
        """How many virtual tokens the template holds."""
        return sum(part.count for part in self.parts if isinstance(part, Slots))

    def without_slots(self) -> str:
        """The text of the same template with no virtual tokens, for a model that is to be asked without a prompt."""
        text = ""
        for part in self.parts:
            if isinstance(part, Slots):
                continue
            text += " " if part.spaced and text else ""
            # Without what stood behind it, a mask at the end would read as a place for a continuation.
            text += MASK if isinstance(part, Target) and self.masked else str(part)
        return text

    @property
    def target(self) -> Target | None:
        """The target's place, where the template names it."""
        return next((part for part in self.parts if isinstance(part, Target)), None)

    @property
    def masked(self) -> bool:
        """Whether the target fills a mask in the input, and is not its continuation."""
        return self.target is not None and (self.target.masked or self.target is not self.parts[-1])

    @property
    def begins_with_sentinel(self) -> bool:
        """Whether targets begin with `<extra_id_0>`, as those do that fill a mask."""
        return self.masked or (self.target is not None and self.target.sentinel)

    def with_sentinel(self) -> str:
        """The text of the same template whose targets begin with `<extra_id_0>`."""
        if self.begins_with_sentinel:
            return self.text
        return f"{self.text if self.target is None else self.text.rstrip()[: -len('{target}')]} {{target:sentinel}}"

    @property
    def target_spaced(self) -> bool:
        """Whether white space separates the target from what stands before it."""
        return self.target is None or self.target.spaced

    @property
    def slots_lead(self) -> bool:
        """Whether all virtual tokens stand in front, with text behind them."""
        runs = [isinstance(part, Slots) for part in self.parts]
        return runs[0] and not any(runs[1:]) and any(isinstance(part, Text) for part in self.parts)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, in order, each once."""
        return tuple(dict.fromkeys(name for part in self.parts if isinstance(part, Text) for name in part.fields))

    def check(
        self,
        *,
        num_slots: int | None = None,
        fields: Sequence[str] | None = None,
        causal: bool = False,
        needs_target: bool = False,
    ) -> None:
        """Holds the template against the prompt method, the task and the model it is used with.

        Args:
            num_slots: the virtual tokens that the method gives.
            fields: the names that the task's examples have.
            causal: whether the model sees only what stands before a token.
            needs_target: whether the method is defined for templates that name the target's place.

        Raises:
            ValueError: the template holds another number of slots, names a field that is not there, goes on behind a
                target that a causal model predicts, or begins it with a sentinel, or lacks a target.
        """
        if needs_target and self.target is None:
            raise ValueError(
                f"template {self.text!r} names no place for the target; write {{target}} where the answer belongs, as "
                "in '{soft:3} {subject} {soft:3} {target}'"
            )
        if causal and self.masked:
            raise ValueError(
                f"template {self.text!r} goes on behind its target, or masks it, but a causal model sees only what "
                "stands before; put {target} at the end"
            )
        if causal and self.begins_with_sentinel:
            raise ValueError(
                f"template {self.text!r} has its target begin with T5's {MASK}, which a causal model does not know; "
                "write {target}"
            )
        if num_slots is not None and num_slots != self.num_slots:
            raise ValueError(
                f"template {self.text!r} holds {self.num_slots} virtual tokens, the method gives {num_slots}; "
                "make the numbers in its {soft:n} add up to the method's length"
            )
        if fields is not None and (unknown := [name for name in self.fields if name not in fields]):
            raise ValueError(f"template {self.text!r} names unknown fields {unknown}; known are {sorted(fields)}")

    def encode(self, fields: Mapping[str, str], tokenizer: Any, vocab_size: int, max_length: int) -> np.ndarray:
        """The ids of one example's encoder input; see `encode_many`."""
        return self.encode_many([fields], tokenizer, vocab_size, max_length)[0]

    def encode_many(
        self,
        rows: Sequence[Mapping[str, str]],
        tokenizer: Any,
        vocab_size: int,
        max_length: int,
        boundary: str = "",
        *,
        slots: bool = True,
        end: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """The ids that a model reads before or, in an encoder, around the target.

        Slot k becomes id `vocab_size + k`, a target inside the text its mask. A run between slots is tokenised as the
        one text that it is. The end of text comes last, where the tokenizer would add it. Of a text that is too long
        the tail is cut, as T5 does. But where slots part it into several runs, the longest ones give way first; and in
        a run that ends in literal words, or that other parts follow, the longest fields give way, so that anchors stay.

        Args:
            rows: each example's fields.
            tokenizer: a transformers tokenizer.
            vocab_size: rows of the model's embedding table, V.
            max_length: tokens of text kept, mask and end of text included, virtual tokens not counted.
            boundary: what separates words in this tokenizer's vocabulary, put before a run that white space separates
                from the slots before it: a space for GPT-2, nothing where the tokenizer marks word starts by itself.
            slots: whether the virtual tokens are among the ids.
            end: what ends the text; None: what the tokenizer would add.

        Returns:
            One int32 array an example.

        Raises:
            ValueError: a field is missing, `max_length` leaves no room, or a token's id does not fit the model.
        """
        end = end_of_text(tokenizer) if end is None else list(end)
        mask = [tokenizer.convert_tokens_to_ids(MASK)] if self.masked else []
        room = max_length - len(end) - len(mask)
        if room < 1:
            raise ValueError(f"max_length {max_length} leaves no room for text besides the end of text")
        runs = [part for part in self.parts if isinstance(part, Text)]
        # The sentinel is the target's, so that texts are cut as they are without it.
        final = next((part for part in reversed(self.parts) if not getattr(part, "sentinel", False)), None)
        texts = [run.render(fields, boundary) for fields in rows for run in runs]
        tokens = iter(tokenize(texts, tokenizer, vocab_size))
        encoded = []
        for fields in rows:
            whole = [next(tokens) for _ in runs]
            cut = fit_runs(whole, room)
            for number, run in enumerate(runs):
                if len(cut[number]) < len(whole[number]) and (run is not final or run.ends_in_words):
                    written = functools.partial(run.render, boundary=boundary)
                    ids_of = lambda text: tokenize([text], tokenizer, vocab_size)[0]  # noqa: E731
                    used = {name: fields[name] for name in run.fields}
                    cut[number] = fit_fields(used, lambda kept: ids_of(written(kept)), len(cut[number]))  # noqa: B023
            kept = iter(cut)
            ids: list[int] = []
            for part in self.parts:
                if isinstance(part, Text):
                    ids += next(kept)
                elif isinstance(part, Target):
                    ids += mask
                elif slots:
                    ids += range(vocab_size + part.start, vocab_size + part.start + part.count)
            encoded.append(np.asarray([*ids, *end], np.int32))
        return encoded
