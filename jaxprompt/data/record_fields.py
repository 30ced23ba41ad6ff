"""Texts out of the records of a source, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def text_of(record: Mapping[str, Any], key: str) -> str:
    """The text under a key.

    Raises:
        KeyError: there is no such key.
        ValueError: what it holds is not text.
    """
    if not isinstance(value := record[key], str):
        raise ValueError(f"field {key!r} should be text, got {type(value).__name__}: {value!r:.80}")
    return value


def texts_of(record: Mapping[str, Any], key: str) -> list[str]:
    """The texts in the list under a key.

    Raises:
        KeyError: there is no such key.
        ValueError: what it holds is not a list of texts.
    """
    values = record[key]
    if isinstance(values, str | Mapping) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"field {key!r} should be a list of texts, got {values!r:.80}")
    return list(values)
