"""Prompts as they are found on disk, with what their runs left beside them."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxprompt.evaluation.curves import Curves, read_curves
from jaxprompt.experiment.prompt_config import METHODS
from jaxprompt.interpretation.similarity import Rows, prompt_rows
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.models.load import load_model
from jaxprompt.models.weight_source import CheckpointError
from jaxprompt.paths import as_path
from jaxprompt.prompts.store import PromptMeta, PromptMismatch, check_prompt, load_npy, load_prompt
from jaxprompt.types import Injection

_RECORD, _CONFIG, _METRICS = "prompt.json", "config.json", "metrics.jsonl"
_NO_MODEL = "neighbours need the model's embeddings: give --model"
_PREFIX = "keys and values of a prefix are not embeddings, and have no neighbours among words"


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedPrompt:
    """A prompt and what is known of it.

    Attributes:
        name: short, for tables.
        place: what it was opened from: a prompt's directory, or an array file of the original release.
        injection: the prompt.
        meta: what its `prompt.json` says; None: it is an array file.
        init: how it started, if that is known.
        labels: its task's answers, or those it started from.
        curves: of its run, if there is one beside it.
    """

    name: str
    place: str
    injection: Injection
    meta: PromptMeta | None
    init: str
    labels: tuple[str, ...]
    curves: Curves

    @functools.cached_property
    def rows(self) -> Rows:
        """One vector a position; see `prompt_rows`."""
        return prompt_rows(self.injection)

    @property
    def is_prefix(self) -> bool:
        """Whether it has keys and values alone."""
        return self.injection.tokens is None

    def comparable(self, other: OpenedPrompt) -> bool:
        """Whether the two can be similar: of one method's kind, one width and, as far as is known, one model."""
        if self.is_prefix != other.is_prefix or self.rows.shape[1] != other.rows.shape[1]:
            return False
        known = [prompt.meta.base_model for prompt in (self, other) if prompt.meta]
        return len({(model.fingerprint, model.family) for model in known}) < 2


def open_prompts(places: Sequence[str], inits: Sequence[str] = (), labels: Sequence[str] = ()) -> list[OpenedPrompt]:
    """Opens prompts: directories of prompts or of runs, or array files of the original release (`.npy`).

    Args:
        places: where they are.
        inits: how each started, where its run's configuration does not stand beside it, or to say otherwise.
        labels: label words, where a prompt does not name its own, or to say otherwise; the same for all.

    Raises:
        FileNotFoundError: there is no prompt in a place.
        ValueError: a prompt or what stands beside it cannot be understood, holds numbers that are not finite, or
            `inits` has another length than `places`.
    """
    if inits and len(inits) != len(places):
        raise ValueError(f"there are {len(places)} prompts but {len(inits)} ways to start: {list(inits)}")
    directories = [_prompt_in(as_path(place)) for place in places]
    names = [_name(directory) for directory in directories]
    if len(set(names)) < len(names):
        names = [str(directory) for directory in directories]
    return [
        _open(name, directory, init, tuple(labels))
        for name, directory, init in zip(names, directories, inits or [""] * len(names), strict=True)
    ]


class Models:
    """The models that prompts are compared to, each loaded once.

    Args:
        name: of the one model for all prompts; empty: the one that each prompt names.
        dtype: to load in.
        tokenizer: where the tokenizer is, if not with the model.
    """

    def __init__(self, name: str = "", dtype: str = "float32", tokenizer: str = ""):
        self._name, self._dtype, self._tokenizer = name, dtype, tokenizer
        self._found: dict[str, LanguageModel | str] = {}

    def of(self, prompt: OpenedPrompt) -> LanguageModel | str:
        """A prompt's model, or why there is none to look for neighbours in.

        Raises:
            CheckpointError: the model that was asked for cannot be loaded.
            PromptMismatch: it is not the one that the prompt was trained on.
            ValueError: its width is not that of an array file.
        """
        if prompt.is_prefix:
            return _PREFIX
        name = self._name or (prompt.meta.base_model.name if prompt.meta else "")
        if not name:
            return _NO_MODEL
        if name not in self._found:
            self._found[name] = self._load(name)
        lm = self._found[name]
        if isinstance(lm, str):
            return lm
        try:
            if prompt.meta is not None:
                check_prompt(prompt.injection, prompt.meta, lm)
            elif prompt.rows.shape[1] != lm.config.d_model:
                raise PromptMismatch(
                    f"the prompt {prompt.place} has width {prompt.rows.shape[1]}, but {name} has {lm.config.d_model}; "
                    "give the model that it was trained on as --model"
                )
        except PromptMismatch as error:
            if self._name:
                raise
            return f"{_NO_MODEL} ({error})"
        return lm

    def _load(self, name: str) -> LanguageModel | str:
        try:
            return load_model(name, dtype=self._dtype, tokenizer=self._tokenizer or True)
        except CheckpointError as error:
            if self._name:
                raise
            return f"{_NO_MODEL} ({str(error).splitlines()[0]})"


def _prompt_in(place: epath.Path) -> epath.Path:
    """A run's directory stands for the prompt in it."""
    return place / "prompt" if not (place / _RECORD).exists() and (place / "prompt" / _RECORD).exists() else place


def _name(place: epath.Path) -> str:
    """`runs/boolq/prompt` -> `boolq`, `runs/boolq/prompts/3` -> `boolq/3`, `sst2.npy` -> `sst2`."""
    if place.name == "prompt" and place.parent.name:
        return place.parent.name
    if place.parent.name == "prompts":
        return f"{place.parent.parent.name}/{place.name}"
    return place.stem if place.suffix == ".npy" else place.name


def _open(name: str, place: epath.Path, init: str, labels: tuple[str, ...]) -> OpenedPrompt:
    if place.suffix == ".npy" or place.is_file():
        injection, meta, run = load_npy(place), None, None
    else:
        injection, meta = load_prompt(place)
        run = place.parent.parent if place.parent.name == "prompts" else place.parent
    section = {} if run is None else _prompt_section(run / _CONFIG)
    if not init and section:
        # What a configuration leaves open is the method's own default.
        init = str(section.get("init") or getattr(METHODS.get(section.get("method", "")), "init", ""))
    has_curves = run is not None and section and (run / _METRICS).exists()
    opened = OpenedPrompt(
        name,
        str(place),
        injection,
        meta,
        init,
        labels or tuple(filter(None, section.get("labels", ()))) or (meta.labels if meta else ()),
        read_curves(run / _METRICS) if has_curves and run is not None else {},
    )
    if not np.isfinite(opened.rows).all():
        raise ValueError(f"the prompt in {place} holds numbers that are not finite: its training diverged")
    return opened


def _prompt_section(config: epath.Path) -> dict[str, Any]:
    """The section `prompt` of a run's configuration; empty where there is no run."""
    if not config.exists():
        return {}
    try:
        section = json.loads(config.read_bytes()).get("prompt")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"cannot understand {config}, which stands beside a prompt: {error}") from error
    return section if isinstance(section, dict) else {}  # a `config.json` can be a model's as well
