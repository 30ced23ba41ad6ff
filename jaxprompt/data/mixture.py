"""Several tasks as one: T5's multi-task mixtures (Raffel et al. 2020, 3.5.2), which one model or one prompt learns.

Every example is plain text that begins with its task's name, such as `boolq passage: … question: …`. Tasks are met in
proportion to their numbers of examples, where a larger one than K counts as K.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxprompt.data.plain_text import plain_text
from jaxprompt.data.task_format import Example, TaskFormat
from jaxprompt.data.tasks import Task
from jaxprompt.data.template import Template

LIMIT = 2**19
"""K, the artificial limit of a data set's size, of T5's own mixture."""

PREFIXES: Mapping[str, str] = {"wsc": "wsc:", "dpr": "wsc:", "glue_rte": "rte"}
"""What T5 begins a task's examples with, where that is not its name here."""


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Tasks that train together; made by `mix`.

    Attributes:
        tasks: by name; the field `input` of their examples is the whole text.
        unscored: names of those that are trained on only.
        limit: K.
    """

    tasks: Mapping[str, Task]
    unscored: frozenset[str] = frozenset()
    limit: int = LIMIT

    @property
    def format(self) -> TaskFormat:
        """What the tasks have in common."""
        return common_format({name: task.format for name, task in self.tasks.items()})

    @property
    def source(self) -> str:
        """What was given as the sources."""
        return ", ".join(dict.fromkeys(task.source for task in self.tasks.values()))

    @property
    def scored(self) -> dict[str, Task]:
        """The tasks that are evaluated."""
        return {name: task for name, task in self.tasks.items() if name not in self.unscored}


def mix(tasks: Mapping[str, Task], *, unscored: Sequence[str] = (), limit: int = LIMIT) -> Mixture:
    """Tasks as one mixture.

    Args:
        tasks: by name; the name, or what `PREFIXES` has for it, is put before the text of each example.
        unscored: names of tasks that are trained on and not evaluated, such as those without a validation split.
        limit: see `mixing_rates`.

    Raises:
        ValueError: there are no tasks to evaluate, an unscored one is not among the tasks, the limit is not positive,
            or a task's input holds virtual tokens or a mask.
    """
    if unknown := set(unscored) - tasks.keys():
        raise ValueError(f"unscored are {sorted(unknown)}, but the tasks are {sorted(tasks)}")
    if not tasks.keys() - set(unscored):
        raise ValueError("a mixture needs a task that is evaluated, to choose the best checkpoint by")
    if limit < 1:
        raise ValueError(f"the limit of examples that count is {limit}; it must be at least 1")
    named = {name: _with_prefix(task, PREFIXES.get(name, name)) for name, task in tasks.items()}
    return Mixture(named, frozenset(unscored), limit)


def common_format(formats: Mapping[str, TaskFormat]) -> TaskFormat:
    """What the tasks of a mixture have in common: the input, the longest lengths, words that a prompt may start from.

    Args:
        formats: of the tasks, by name.
    """
    words = dict.fromkeys(word for format in formats.values() for word in format.init_words)
    return TaskFormat(
        "+".join(formats),
        "{input}",
        _no_records,
        metrics=(),
        keywords=tuple(words),
        max_input_length=max(format.max_input_length for format in formats.values()),
        max_target_length=max(format.max_target_length for format in formats.values()),
    )


def scored_tasks(task: Task | Mixture) -> dict[str, Task]:
    """The tasks to evaluate, by name; a task that is no mixture has the empty name."""
    return task.scored if isinstance(task, Mixture) else {"": task}


def mixing_rates(counts: Sequence[int], limit: int = LIMIT) -> list[float]:
    """The share of rows that come from each task: min(e_m, K) / sum over n of min(e_n, K) (Raffel et al. 2020, 3.5.2).

    Args:
        counts: e_m, each task's number of examples.
        limit: K.
    """
    total = sum(min(count, limit) for count in counts)
    return [min(count, limit) / total for count in counts]


def _with_prefix(task: Task, prefix: str) -> Task:
    """The same task; its examples have, besides the fields that metrics may look at, the whole text as `input`."""
    template, everything = Template.parse(task.format.input), task.format.parse
    plain_text(template, dict.fromkeys(template.fields, ""))  # which refuses templates that are no text

    def parse(record: Mapping[str, Any]) -> Iterator[Example]:
        for example in everything(record):
            text = f"{prefix} {plain_text(template, example.fields)}"
            yield dataclasses.replace(example, fields={**example.fields, "input": text})

    format = dataclasses.replace(task.format, input="{input}", parse=parse, hard_prompt=None)
    return dataclasses.replace(task, format=format, _read={})


def _no_records(record: Mapping[str, Any]) -> Iterator[Example]:
    raise TypeError("a mixture reads no records of its own; ask one of its tasks")
