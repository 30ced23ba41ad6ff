"""Nested dataclasses of plain values, and the dicts and overrides that users write them as."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

_PLURALS: dict[Any, str] = {str: "texts", int: "whole numbers", float: "numbers"}


class ConfigError(ValueError):
    """A config that names something unknown, or gives it a value of the wrong kind."""


def from_dict(cls: type, values: Mapping[str, Any], path: str = "") -> Any:
    """A dataclass out of nested plain values.

    Args:
        cls: its fields are sections (dataclasses), numbers, texts, truth values, tuples of texts or numbers, or None.
        values: what differs from the defaults.
        path: of this section, with a dot behind it; for messages.

    Raises:
        ConfigError: an unknown key (the message names the near ones) or a value of the wrong kind.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    if unknown := [key for key in values if key not in known]:
        raise ConfigError("; ".join(f"unknown config key {path + key!r}: {expected(key, known)}" for key in unknown))
    return cls(**{key: _value(hints[key], value, path + key) for key, value in values.items()})


def with_placeholders(section: Any) -> dict[str, Any]:
    """A section as a dict in which a value of None can still be overridden by one of its type."""
    from ml_collections import config_dict

    hints = typing.get_type_hints(type(section))
    values: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        value, hint = getattr(section, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            values[field.name] = with_placeholders(value)
        elif isinstance(hint, types.UnionType):
            kind = next(part for part in typing.get_args(hint) if part is not types.NoneType)
            values[field.name] = config_dict.placeholder(kind)
            if value is not None:
                values[field.name] = value
        else:
            values[field.name] = value
    return values


def check_key(section: Any, path: str) -> None:
    """Makes sure that a dotted path such as `train.steps` names a value in a tree of dataclasses.

    Raises:
        ConfigError: it does not; the message lists what it could have been.
    """
    names = path.split(".")
    for depth, name in enumerate(names):
        if not dataclasses.is_dataclass(section):
            raise ConfigError(f"unknown config key {path!r}: {'.'.join(names[:depth])} is a value, not a section")
        known = [field.name for field in dataclasses.fields(section)]
        if name not in known:
            raise ConfigError(f"unknown config key {'.'.join(names[: depth + 1])!r}: {expected(name, known)}")
        section = getattr(section, name)
    if dataclasses.is_dataclass(section):
        known = [field.name for field in dataclasses.fields(section)]
        raise ConfigError(f"{path!r} is a section; set one of its keys, {known}")


def expected(name: str, known: Iterable[str]) -> str:
    """The end of a message about a wrong name: what there is, and what was probably meant."""
    options = list(known)
    near = difflib.get_close_matches(str(name), options, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"expected one of {options}{hint}"


def _value(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} is a section with keys of its own, got {value!r}")
        return from_dict(typing.cast(type, hint), value, path + ".")
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple) or not all(_is(kind, part) for part in value):
            raise ConfigError(f"{path} should be a list of {_PLURALS[kind]}, got {value!r}")
        return tuple(map(kind, value))
    if not _is(hint, value):
        raise ConfigError(f"{path} should be of type {hint.__name__}, got {value!r}")
    return float(value) if hint is float else value


def _is(kind: Any, value: Any) -> bool:
    """Whether a plain value is of a kind; whole numbers are numbers, truth values are not."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)
