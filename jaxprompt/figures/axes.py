"""What a run is a point of: size, method, seed and settings, as its sweep wrote them down or its config has them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxprompt.data import mini, tasks
from jaxprompt.experiment import METHODS
from jaxprompt.training.workdir import CONFIG

AXES_FILE = "axes.json"
"""Where a sweep writes down what a run is a point of."""

METHOD, SIZE, SEED, LEARNING_RATE = "method", "size", "seed", "learning_rate"
LENGTH, INIT, OBJECTIVE, LM_STEPS = "length", "init", "objective", "lm_steps"

AXES = (METHOD, SIZE, LENGTH, INIT, OBJECTIVE, LM_STEPS, LEARNING_RATE, SEED)
"""The axes that every run has a place on; a sweep may have others."""

LM_ADAPTATION, SPAN_CORRUPTION, SENTINEL = "lm_adaptation", "span_corruption", "span_corruption_sentinel"

_WITHOUT_PROMPT = ("model_tuning", "multitask_model_tuning", "prompt_design")
_RENAMED = {"mrqa_relation_extraction": "re", "wsc.fixed": "wsc"}
# What a sweep writes down besides: its own order, where models and data are, what follows from the objective, and what
# was folded into a run and stands with its members.
_NO_AXES = (
    "task",
    "stage",
    "seeds",
    "learning_rates",
    "task.source",
    "task.name",
    "task.target_sentinel",
    "model",
    "model.tokenizer",
)

MIXTURES = ("superglue", "mini")
"""What stands in a task's place where a run is trained on many."""


def read_axes(run: epath.Path) -> tuple[dict[str, Any], str]:
    """A run's axes, and the task that it was trained on.

    What `axes.json` does not say, or a run without it, is read off `config.json`. Methods without a prompt have None
    for its length and initialisation, and a model that was never LM-adapted has 0 steps of it.

    Raises:
        ValueError: neither file says the task or the method.
    """
    axes: dict[str, Any] = dict.fromkeys(AXES)
    task = ""
    for name, read in ((CONFIG, _from_config), (AXES_FILE, _from_file)):
        if (file := run / name).exists():
            found, its_task = read(json.loads(file.read_bytes()))
            axes |= found
            task = its_task or task
    if not axes[METHOD] or not task:
        raise ValueError(f"neither its {AXES_FILE} nor its {CONFIG} names a method and a task")
    if axes[METHOD] == "model_tuning" and task in MIXTURES:
        axes[METHOD] = "multitask_model_tuning"
    if axes[METHOD] in _WITHOUT_PROMPT:
        axes |= {LENGTH: None, INIT: None}
    if axes[OBJECTIVE] not in (None, LM_ADAPTATION):
        axes[LM_STEPS] = 0
    return axes, task


def task_name(name: str) -> str:
    """A task by the one name that figures have for it.

    That is `boolq` for `super_glue/boolq`, `mini:topic` for `topic`, `textbookqa` for `mrqa_textbookqa`, and `mrpc` for
    `mrpc_from_qqp`, whose answers are worded as QQP's.

    Args:
        name: as configs, sources and sweeps have it.
    """
    if name in MIXTURES or name.startswith("mini:"):
        return name
    if name in mini.FORMATS and name not in tasks.FORMATS:
        return f"mini:{name}"
    last = re.split("[/:]", name.rstrip("/"))[-1]
    return _RENAMED.get(last) or last.removeprefix("mrqa_").partition("_from_")[0]


def _from_file(values: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    task = str(values.get("task", ""))
    axes = {key: _hashable(value) for key, value in values.items() if key not in _NO_AXES and not key.endswith(".path")}
    return axes, task and task_name(task)


def _from_config(values: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    prompt, method = values.get("prompt", {}), values.get("prompt", {}).get("method", "")
    kind = METHODS.get(method)
    fields = {} if kind is None else {field.name: field.default for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    size, objective, steps = _model(values.get("model", {}).get("path", ""))
    axes = {
        METHOD: method,
        SIZE: size,
        LENGTH: prompt.get("length") or fields.get("length"),
        INIT: prompt.get("init") or fields.get("init"),
        OBJECTIVE: SENTINEL if values.get("task", {}).get("target_sentinel") else objective,
        LM_STEPS: steps,
        LEARNING_RATE: values.get("optim", {}).get("learning_rate"),
        SEED: values.get("seed"),
    }
    task = values.get("task", {})
    source = task.get("source", "")
    name = source if source.startswith("mini:") else task.get("name") or source
    return axes, name and task_name(name)


def _model(path: str) -> tuple[str, str | None, int | None]:
    """(size, pre-training objective, steps of LM adaptation) of what `model.path` names."""
    parts = [part for part in path.split("/") if part]
    last = parts[-1] if parts else ""
    if published := re.fullmatch(r"t5-(v1_1-)?(\w+?)(-lm-adapt)?", last):
        fresh, size, adapted = published.groups()
        if bool(fresh) != bool(adapted):
            return (size, LM_ADAPTATION, 100_000) if adapted else (size, SPAN_CORRUPTION, 0)
    # A run's export is `RUN/model`, or `RUN/model-STEP` on the way; the run's name is what tells models apart.
    if len(parts) > 1 and (export := re.fullmatch(r"model(-(\d+))?", last)):
        return parts[-2], None, int(export[2]) if export[2] else None
    return last, None, None


def _hashable(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value
