"""The saved prompts that a command names: where they lie, whose they are, and what tells them from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprompt.paths import absolute
from jaxprompt.prompts.store import load_prompt


def named(entries: Sequence[str], what: str) -> dict[str, str]:
    """Values by name, of entries such as `rte=runs/rte/prompt`.

    Args:
        entries: each NAME=VALUE.
        what: is given, for messages.

    Raises:
        ValueError: an entry is written in another way, or two have one name.
    """
    values: dict[str, str] = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        if not name or not value:
            raise ValueError(f"cannot read {what}={entry}; write NAME=VALUE, such as --prompt=rte=runs/rte/prompt")
        if name in values:
            raise ValueError(f"{what} is given twice for {name!r}: {values[name]} and {value}; names are for one each")
        values[name] = value
    return values


def common_model(directories: Mapping[str, str]) -> str:
    """The directory or hub name of the model that all of the prompts were trained on.

    Raises:
        ValueError: they name several, or one cannot be understood.
        FileNotFoundError: a directory holds no prompt.
    """
    models: dict[str, str] = {}
    for name, directory in directories.items():
        try:
            models.setdefault(json.loads(_record(directory))["base_model"]["name"], name)
        except (ValueError, LookupError, TypeError):
            load_prompt(directory)  # which says what is wrong with it
            raise
    if len(models) > 1:
        listed = ", ".join(f"{model} ({name!r})" for model, name in models.items())
        raise ValueError(
            f"the prompts name several models: {listed}; if that is one model in several places, give --model where it "
            "is now, else answer the lines of each model by themselves"
        )
    return next(iter(models))


def identities(directories: Mapping[str, str]) -> dict[str, Any]:
    """What differs as soon as one of the prompts was saved anew: `{"saved": {name: digest}}`.

    Raises:
        FileNotFoundError: a directory holds no prompt.
    """
    # The record names the tensors, which get a new name each time that they are saved.
    return {"saved": {name: hashlib.sha256(_record(where)).hexdigest()[:16] for name, where in directories.items()}}


def _record(directory: str) -> bytes:
    record = absolute(directory) / "prompt.json"
    if not record.exists():
        load_prompt(directory)  # which says what is there instead
    return record.read_bytes()
