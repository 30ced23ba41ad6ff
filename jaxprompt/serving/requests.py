"""What a line of a file asks: which prompt it names, and what that prompt's template is to read."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprompt.data.record_fields import text_of, texts_of

PROMPT, INPUT, CHOICES = "prompt", "input", "choices"
PREDICTION, SCORE, ERROR = "prediction", "score", "error"
_SHOWN = 20  # names in a message


class RequestError(ValueError):
    """A line that cannot be answered.

    Attributes:
        carried: the line's other keys, as far as it could be read.
    """

    def __init__(self, message: str, carried: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.carried = dict(carried or {})


@dataclasses.dataclass(frozen=True)
class Request:
    """One line.

    Attributes:
        place: the file and line, for messages.
        prompt: the name of its prompt.
        fields: the texts that the prompt's template reads.
        choices: the answers to choose from, where they are this line's own.
        carried: all else that the line holds, which is handed on to the answer.
    """

    place: str
    prompt: str
    fields: Mapping[str, str]
    choices: tuple[str, ...] = ()
    carried: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_request(line: bytes, templates: Mapping[str, Sequence[str]], place: str = "") -> Request:
    """The request on a line.

    A line is a JSON object. `prompt` names the prompt, and may be left out where there is but one. `input` is the text,
    for a template with one field, or an object with the texts of all fields; without it the fields are the line's own
    keys, so that a task's file can be asked as it is. `choices` are answers to choose from.

    Args:
        line: UTF-8.
        templates: the names of the fields of each prompt's template.
        place: where the line stands, for messages.

    Raises:
        RequestError: the line is something else, names an unknown prompt, lacks a field, or holds a key that the answer
            is to add.
    """
    record = _record(line)
    used = {INPUT, CHOICES}
    try:
        name = _prompt(record, templates)
        fields, read = _fields(record, name, templates[name])
        used |= read
        choices = tuple(texts_of(record, CHOICES)) if CHOICES in record else ()
        if CHOICES in record and not (choices and all(choices)):
            raise RequestError(f"{CHOICES!r} needs at least one text, none of them empty; got {record[CHOICES]!r:.80}")
        if taken := [key for key in (PREDICTION, SCORE, ERROR) if key in record and key not in used]:
            raise RequestError(f"the keys {taken} are the answer's own; give them another name")
    except ValueError as error:
        raise RequestError(str(error), _without(record, {*used, PREDICTION, SCORE, ERROR})) from error
    return Request(place, name, fields, choices, _without(record, used))


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"), parse_constant=_no_number)
        if b"\\ud" in line.lower():  # an escaped half of a pair is JSON, but no text
            json.dumps(record, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON in UTF-8 ({error}): {line[:80]!r}") from error
    if not isinstance(record, dict):
        raise RequestError(f'expected an object such as {{"prompt": "rte", "input": "…"}}, got {record!r:.80}')
    return record


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _prompt(record: Mapping[str, Any], templates: Mapping[str, Sequence[str]]) -> str:
    if PROMPT not in record and len(templates) == 1:
        return next(iter(templates))
    known = list(templates)
    listed = f"{known[:_SHOWN]}{f' and {len(known) - _SHOWN} more' if len(known) > _SHOWN else ''}"
    if PROMPT not in record:
        raise RequestError(f"it names no prompt; add {PROMPT!r}, one of {listed}")
    name = text_of(record, PROMPT)
    if name not in templates:
        near = difflib.get_close_matches(name, known, n=3)
        raise RequestError(f"there is no prompt {name!r}; {f'near are {near}' if near else f'there are {listed}'}")
    return name


def _fields(record: Mapping[str, Any], prompt: str, names: Sequence[str]) -> tuple[dict[str, str], set[str]]:
    """The texts of a template's fields, and the keys of the line that they were."""
    given = record.get(INPUT)
    if isinstance(given, dict):
        source, read = dict[str, Any](given), set[str]()
    elif INPUT in record and INPUT not in names:
        if len(names) != 1:
            wanted = ", ".join(f'"{name}": "…"' for name in names)
            raise RequestError(
                f"the template of the prompt {prompt!r} has the fields {list(names)}, and one text does not say which "
                f'is which; write "input": {{{wanted}}}'
            )
        return {names[0]: text_of(record, INPUT)}, set()
    else:
        source, read = dict(record), set(names)
    if missing := [name for name in names if name not in source]:
        raise RequestError(
            f"the template of the prompt {prompt!r} reads the fields {list(names)}, of which {missing} are missing; "
            f'give them as keys of the line or of "input"; the keys there are {sorted(source)}'
        )
    return {name: text_of(source, name) for name in names}, read


def _without(record: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}
