"""Config and sweep files: Python files that are loaded by their paths and give plain values."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxprompt.config_values import ConfigError
from jaxprompt.experiment import Experiment


def read_sweep(place: str) -> list[dict[str, Any]]:
    """What a sweep file describes: its stages, in order.

    Args:
        place: `configs/sweeps/FILE.py[:ARGUMENT]`.

    Raises:
        ConfigError: there is no such file, it refuses the argument, or what it gives are no stages.
    """
    path, separator, argument = place.partition(":")
    stages = _call(path, "get_sweep", [argument] if separator else [])
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ConfigError(f"get_sweep of {path} is to give a list of dicts, one a stage, not {stages!r:.200}")
    return stages


def read_config(place: str, arguments: Mapping[str, Any]) -> tuple[str, Experiment]:
    """An experiment from a config file and arguments for it.

    Where the file's `get_config` has a parameter of an argument's name, as in `get_config(task)`, the value alone is
    what it is given (`FILE.py:rte`), else a text of names and values (`FILE.py:size=xl,task=rte`).

    Args:
        place: `configs/FILE.py[:ARGUMENT]`; what follows is appended to the argument.
        arguments: {name: value}.

    Returns:
        What `--config` is to be given, and the experiment.

    Raises:
        ConfigError: there is no such file, or it refuses an argument.
    """
    path, separator, text = place.partition(":")
    parameters = list(inspect.signature(_function(path, "get_config")).parameters)
    alone = [name for name in arguments if name in parameters]
    if alone and (len(arguments) > 1 or text):
        others = [text] if text else [name for name in arguments if name != alone[0]]
        raise ConfigError(
            f"{path} takes {alone[0]} as its whole argument, which leaves no place for {others}; give those as keys "
            "of the experiment, such as prompt.length"
        )
    for name, value in arguments.items():
        if not isinstance(value, str | int | float) or (not alone and "," in str(value)):
            raise ConfigError(f"{name}={value!r} cannot be an argument of {path}: a text without commas, or a number")
    named = [text] if text else []
    named += [str(value) if name in alone else f"{name}={value}" for name, value in arguments.items()]
    if named:
        place = f"{path}:{','.join(named)}"
    config = _call(path, "get_config", [",".join(named)] if named or separator else [])
    return place, Experiment.from_dict(config.to_dict())


def _call(path: str, name: str, arguments: list[str]) -> Any:
    function = _function(path, name)
    if arguments and not inspect.signature(function).parameters:
        raise ConfigError(f"{path} takes no argument, got {arguments[0]!r}")
    try:
        return function(*arguments)
    except (ValueError, LookupError) as error:
        given = f":{arguments[0]}" if arguments else ""
        raise ConfigError(f"{path}{given}: {type(error).__name__}: {error}") from error


def _function(path: str, name: str) -> Any:
    function = getattr(_load(path), name, None)
    if function is None:
        raise ConfigError(f"{path} has no function {name}")
    return function


def _load(path: str) -> ModuleType:
    place = Path(path)
    if not place.is_file() or place.suffix != ".py":
        raise ConfigError(f"there is no Python file {path!r}")
    spec = importlib.util.spec_from_file_location(f"config_file_{place.stem}", place)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be loaded as a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
