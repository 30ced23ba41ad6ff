"""Templates: where virtual tokens, context, anchor words and the target stand in a model's input.

Pr(Y | [P; X]) of prompt tuning is `{soft:100} {input}`; the T = {[P_0:i], x, [P_i+1:m], y} of P-tuning
(Liu et al. 2021, section 3) is any interleaving, such as `{soft:3} {subject} {soft:3} <extra_id_0> {soft:3}`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxprompt.data.tokens import end_of_text, fit_runs, tokenize

_TOKENS = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]|[^{}]+")
_FIELD = re.compile(r"\{([A-Za-z_]\w*)\}")
_SOFT = re.compile(r"\{soft:(\d+)\}")


@dataclasses.dataclass(frozen=True)
class Field:
    """The place of one field's text."""

    name: str


@dataclasses.dataclass(frozen=True)
class Slots:
    """`count` virtual tokens, the prompt's numbers `start`, `start + 1`, ..."""

    start: int
    count: int


@dataclasses.dataclass(frozen=True)
class Text:
    """A run of literal words and fields between slots, tokenised as one text.

    Attributes:
        pieces: literal strings and fields, in order.
        spaced: white space separates the run from the slots or target before it.
    """

    pieces: tuple[str | Field, ...]
    spaced: bool = False

    def render(self, fields: Mapping[str, str], boundary: str = "") -> str:
        """The run as text, `boundary` first where the run is `spaced`.

        Raises:
            ValueError: the run names a field that is not among `fields`, or whose value is not text.
        """
        words = []
        for piece in self.pieces:
            if isinstance(piece, str):
                words.append(piece)
            elif piece.name not in fields:
                raise ValueError(f"the template needs the field {piece.name!r}; the example has {sorted(fields)}")
            elif not isinstance(value := fields[piece.name], str):
                raise ValueError(f"field {piece.name!r} should be text, got {type(value).__name__}: {value!r:.80}")
            else:
                words.append(value)
        return (boundary if self.spaced else "") + "".join(words)


@dataclasses.dataclass(frozen=True)
class Target:
    """The place of the target; `spaced` as in `Text`."""

    spaced: bool = False


Part = Slots | Text | Target


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

        `{soft:n}` stands for n virtual tokens, `{target}` for the target, `{name}` for a field; all else is literal
        text, with `{{` and `}}` for braces. White space beside slots and target only separates: a model's boundary
        mark, such as the leading space of GPT-2's words, is put back by `encode_many(boundary=...)`.

        Raises:
            ValueError: unbalanced or nested braces, a name that is no identifier, no or zero slots in `{soft:n}`, two
                targets, or an empty template.
        """
        parts: list[Part] = []
        run: list[str | Field] = []
        slots = 0
        for kind, value in _scan(text):
            if kind in ("literal", "field"):
                run.append(value)
                continue
            parts += _text_part(run, after=bool(parts), before=True)
            spaced, run = bool(run) and _ends_in_space(run[-1]), []
            if kind == "soft":
                parts.append(Slots(slots, value))
                slots += value
            elif any(isinstance(part, Target) for part in parts):
                raise ValueError(f"a template holds one {{target}} at most: {text!r}")
            else:
                parts.append(Target(spaced))
        parts += _text_part(run, after=bool(parts), before=False)
        if not parts:
            raise ValueError("the template is empty; write for example '{soft:100} {input}'")
        return cls(text, tuple(parts))

    def __str__(self) -> str:
        """The text that `parse` reads back."""
        return self.text

    @property
    def num_slots(self) -> int:
        """How many virtual tokens the template holds."""
        return sum(part.count for part in self.parts if isinstance(part, Slots))

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, in order, each once."""
        runs = (part.pieces for part in self.parts if isinstance(part, Text))
        return tuple(dict.fromkeys(piece.name for run in runs for piece in run if isinstance(piece, Field)))

    def check(self, *, num_slots: int | None = None, fields: Sequence[str] | None = None) -> None:
        """Holds the template against the prompt method and the task it is used with.

        Args:
            num_slots: the virtual tokens that the method gives.
            fields: the names that the task's examples have.

        Raises:
            ValueError: the template holds another number of slots, or names a field that is not there.
        """
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
    ) -> list[np.ndarray]:
        """The ids that an encoder reads, the target left to the decoder.

        Slot k becomes id `vocab_size + k`. A run between slots is tokenised as the one text that it is. The end of
        text comes last, where the tokenizer would add it. Of a text that is too long the tail is cut, as T5 does; where
        slots part it into several runs the longest ones give way first, so that short anchors and masks stay.

        Args:
            rows: each example's fields.
            tokenizer: a transformers tokenizer.
            vocab_size: rows of the model's embedding table, V.
            max_length: tokens of text kept, end of text included, virtual tokens not counted.
            boundary: what separates words in this tokenizer's vocabulary, put before a run that white space separates
                from the slots before it: a space for GPT-2, nothing where the tokenizer marks word starts by itself.

        Returns:
            One int32 array an example.

        Raises:
            ValueError: a field is missing, the target stands before other parts, `max_length` leaves no room, or a
                token's id does not fit the model.
        """
        if any(isinstance(part, Target) for part in self.parts[:-1]):
            raise ValueError(f"an encoder's template cannot go on behind its {{target}}: {self.text!r}")
        end = end_of_text(tokenizer)
        if max_length <= len(end):
            raise ValueError(f"max_length {max_length} leaves no room for text besides the end of text")
        runs = [part for part in self.parts if isinstance(part, Text)]
        texts = [run.render(fields, boundary) for fields in rows for run in runs]
        tokens = iter(tokenize(texts, tokenizer, vocab_size))
        encoded = []
        for _ in rows:
            kept = iter(fit_runs([next(tokens) for _ in runs], max_length - len(end)))
            ids: list[int] = []
            for part in self.parts:
                if isinstance(part, Slots):
                    ids += range(vocab_size + part.start, vocab_size + part.start + part.count)
                elif isinstance(part, Text):
                    ids += next(kept)
            encoded.append(np.asarray([*ids, *end], np.int32))
        return encoded


def _scan(text: str) -> Iterator[tuple[str, Any]]:
    for match in _TOKENS.finditer(text):
        token = match.group()
        if token in ("{{", "}}"):
            yield "literal", token[0]
        elif token[0] not in "{}":
            yield "literal", token
        elif soft := _SOFT.fullmatch(token):
            if int(soft[1]) == 0:
                raise ValueError(f"{{soft:0}} in {text!r} holds no virtual token; leave it out or name a number from 1")
            yield "soft", int(soft[1])
        elif token == "{target}":
            yield "target", None
        elif (field := _FIELD.fullmatch(token)) and field[1] != "soft":
            yield "field", Field(field[1])
        else:
            raise ValueError(
                f"cannot read {token!r} at position {match.start()} of template {text!r}; expected {{soft:N}}, "
                "{target}, {field_name}, or {{ and }} for literal braces"
            )


def _ends_in_space(piece: str | Field) -> bool:
    return isinstance(piece, str) and piece[-1:].isspace()


def _text_part(run: Sequence[str | Field], *, after: bool, before: bool) -> list[Part]:
    """The run as a part, or nothing where only white space is left that separates slots.

    Its ends are stripped where it comes after another part and before another one.
    """
    pieces = _join_literals(run)
    spaced = False
    if after and pieces and isinstance(pieces[0], str):
        stripped = pieces[0].lstrip()
        spaced = stripped != pieces[0]
        pieces[0] = stripped
    if before and pieces and isinstance(pieces[-1], str):
        pieces[-1] = pieces[-1].rstrip()
    pieces = [piece for piece in pieces if piece != ""]
    return [Text(tuple(pieces), spaced)] if pieces else []


def _join_literals(run: Sequence[str | Field]) -> list[str | Field]:
    """Neighbouring literals as one, which escaped braces leave in several."""
    pieces: list[str | Field] = []
    for piece in run:
        if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces
