"""From an experiment's names to the task, or the mixture of tasks, that it trains on."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxprompt.config_values import ConfigError
from jaxprompt.data.lama import read_vocabulary
from jaxprompt.data.mixture import Mixture, mix
from jaxprompt.data.named_source import NamedSource
from jaxprompt.data.tasks import FORMATS, Task, load_task
from jaxprompt.experiment import Experiment, TaskConfig


def open_task(experiment: Experiment) -> Task | Mixture:
    """What an experiment trains on, with the experiment's lengths, metrics and vocabulary.

    Raises:
        ValueError: there is no such task or source.
    """
    config = experiment.task
    if not config.mixture:
        return _adjusted(load_task(config.name or None, config.source or None, config.data_dir or None), config)
    entries = [NamedSource.parse(text) for text in config.mixture]
    if len({entry.name for entry in entries}) < len(entries):
        raise ConfigError(f"task.mixture names a task twice: {list(config.mixture)}")
    if odd := [entry.name for entry in entries if entry.split]:
        raise ConfigError(
            f"task.mixture asks for a split of {odd[0]!r}; all tasks are scored on task.validation_split, and one that "
            f"is not to be scored is written {odd[0]}=SOURCE@"
        )
    tasks = {}
    for entry in entries:
        source = entry.source or config.source.replace("{name}", entry.name)
        name = entry.name if entry.name in FORMATS else None
        tasks[entry.name] = _adjusted(load_task(name, source, config.data_dir or None), config)
    unscored = [entry.name for entry in entries if entry.split == ""]
    return mix(tasks, unscored=unscored, limit=config.mixture_limit)


def within_lengths(task: Task, config: TaskConfig) -> Task:
    """The task with the lengths that the experiment asks for."""
    lengths = {key: getattr(config, key) for key in ("max_input_length", "max_target_length") if getattr(config, key)}
    return dataclasses.replace(task, format=dataclasses.replace(task.format, **lengths))


def _adjusted(task: Task, config: TaskConfig) -> Task:
    task, changes = within_lengths(task, config), dict[str, Any]()
    if config.metrics:
        changes["metrics"] = config.metrics
    if config.vocabulary:
        changes["vocabulary"] = read_vocabulary(config.vocabulary)
    return dataclasses.replace(task, format=dataclasses.replace(task.format, **changes))
