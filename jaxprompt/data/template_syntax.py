"""The syntax of templates: from text to slots, runs of words and fields, and the target's place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MASK = "<extra_id_0>"
"""T5's first sentinel, which stands where a bidirectional model is to fill in the target."""

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

    def __str__(self) -> str:
        """As it is written in a template."""
        return "".join(
            f"{{{piece.name}}}" if isinstance(piece, Field) else piece.replace("{", "{{").replace("}", "}}")
            for piece in self.pieces
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its fields, in order."""
        return tuple(piece.name for piece in self.pieces if isinstance(piece, Field))

    @property
    def ends_in_words(self) -> bool:
        """Whether literal words come last."""
        return isinstance(self.pieces[-1], str) and not self.pieces[-1].isspace()

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
    """The place of the target.

    Attributes:
        spaced: as in `Text`.
        masked: literally `<extra_id_0>`, it is a mask even at the end.
        sentinel: it is a continuation that begins with `<extra_id_0>` all the same, `{target:sentinel}`.
    """

    spaced: bool = False
    masked: bool = False
    sentinel: bool = False

    def __str__(self) -> str:
        """As it is written in a template."""
        return MASK if self.masked else "{target:sentinel}" if self.sentinel else "{target}"


Part = Slots | Text | Target


def read_parts(text: str) -> tuple[Part, ...]:
    """The parts of a template's text; see `Template.parse`.

    Raises:
        ValueError: it cannot be read.
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
            parts.append(Target(spaced, masked=kind == "mask", sentinel=kind == "sentinel"))
    parts += _text_part(run, after=bool(parts), before=False)
    if any(isinstance(part, Target) and part.sentinel for part in parts[:-1]):
        raise ValueError(
            f"template {text!r} goes on behind {{target:sentinel}}, where the target fills a mask, which begins with "
            "the sentinel as it is; write {target}"
        )
    if not parts:
        raise ValueError("the template is empty; write for example '{soft:100} {input}'")
    return tuple(parts)


def _scan(text: str) -> Iterator[tuple[str, Any]]:
    for match in _TOKENS.finditer(text):
        token = match.group()
        if token in ("{{", "}}"):
            yield "literal", token[0]
        elif token[0] not in "{}":
            before, *after = token.split(MASK)
            yield "literal", before
            for piece in after:
                yield "mask", None
                yield "literal", piece
        elif soft := _SOFT.fullmatch(token):
            if int(soft[1]) == 0:
                raise ValueError(f"{{soft:0}} in {text!r} holds no virtual token; leave it out or name a number from 1")
            yield "soft", int(soft[1])
        elif token == "{target}":
            yield "target", None
        elif token == "{target:sentinel}":
            yield "sentinel", None
        elif (field := _FIELD.fullmatch(token)) and field[1] != "soft":
            yield "field", Field(field[1])
        else:
            raise ValueError(
                f"cannot read {token!r} at position {match.start()} of template {text!r}; expected {{soft:N}}, "
                "{target}, {target:sentinel}, {field_name}, or {{ and }} for literal braces"
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
