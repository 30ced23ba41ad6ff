"""Keys and values of experiments: as sweep files have them, as they are typed, and as flags of `launch/train.py`."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprompt.config_values import ConfigError, check_key, from_dict
from jaxprompt.experiment import Experiment

_TRUTH = {"true": True, "false": False}


def is_key(name: str) -> bool:
    """Whether a name is one of an experiment's values, such as `prompt.length` or `seed`, by its form.

    Any other name is an argument of the config file, such as `size`.
    """
    single = {field.name for field in dataclasses.fields(Experiment) if field.default is not dataclasses.MISSING}
    return "." in name or name in single


def with_settings(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """An experiment with some keys set anew.

    Args:
        experiment: all else.
        settings: {key, such as `train.steps`: value}.

    Raises:
        ConfigError: an unknown key (the message names the near ones), or a value of the wrong kind.
    """
    changed: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        check_key(experiment, key)
        section, _, name = key.rpartition(".")
        changed.setdefault(section, {})[name] = value
    fields = {}
    for section, values in changed.items():  # and no others, for a grid has thousands of runs
        if section:
            own = getattr(experiment, section)
            fields[section] = from_dict(type(own), dataclasses.asdict(own) | values, f"{section}.")
        else:
            read = from_dict(Experiment, values)
            fields |= {name: getattr(read, name) for name in values}
    return dataclasses.replace(experiment, **fields)


def read_axis(text: str) -> tuple[str, list[Any]]:
    """`seed=0,1,2` as ("seed", [0, 1, 2]).

    Raises:
        ConfigError: it is not of this form, the key is unknown, or a value is of the wrong kind.
    """
    key, value = _key_and_text(text, "KEY=VALUE,VALUE,…")
    return key, [_typed(key, part) for part in value.split(",")]


def read_setting(text: str) -> tuple[str, Any]:
    """`train.steps=100` as ("train.steps", 100); the values of a key that has several are separated by commas.

    Raises:
        ConfigError: see `read_axis`.
    """
    key, value = _key_and_text(text, "KEY=VALUE")
    return key, _typed(key, value)


def as_flag(key: str, value: Any) -> str:
    """A key and its value as `launch/train.py` takes them, such as `--config.train.seeds=(0, 1)`.

    Raises:
        ConfigError: there is no way to write the value there.
    """
    if value is None:
        raise ConfigError(f"{key}=None cannot be written as a flag; leave the key to the config file")
    if isinstance(value, list | tuple):
        value = repr(tuple(value))
    return f"--config.{key}={value}"


def _key_and_text(text: str, form: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"{text!r} is not of the form {form}")
    return key, value


def _typed(key: str, text: str) -> Any:
    """The text as a value of the key's kind; of an argument, as the number that it may be."""
    if not is_key(key):
        return _number_or_text(text)
    check_key(Experiment(), key)
    owner: Any = Experiment
    *sections, name = key.split(".")
    for section in sections:
        owner = typing.get_type_hints(owner)[section]
    try:
        return _parse(typing.get_type_hints(owner)[name], text)
    except ValueError as error:
        raise ConfigError(f"{key}={text}: {error}") from error


def _parse(hint: Any, text: str) -> Any:
    if isinstance(hint, types.UnionType):
        if text == "None":
            return None
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        parts: Sequence[str] = text.split(",") if text else ()
        return tuple(_parse(typing.get_args(hint)[0], part) for part in parts)
    if hint is bool:
        if text.lower() not in _TRUTH:
            raise ValueError(f"expected true or false, got {text!r}")
        return _TRUTH[text.lower()]
    return hint(text)


def _number_or_text(text: str) -> int | float | str:
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d+\.\d+", text) else text
