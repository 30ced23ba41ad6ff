"""Examples of one task put to a model that was tuned on another: zero-shot transfer and domain shift."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from jaxprompt.data.task_format import Example, TaskFormat
from jaxprompt.data.tasks import Task


def in_words_of(task: Task, tuned: TaskFormat) -> Task:
    """A task whose answers are worded as those of another, label by label in the order of their numbers.

    A model that was tuned on QQP says `duplicate` where MRPC says `equivalent`. The input stays the task's own text,
    and so do the metrics, as in the released code of Lester et al. (2021, section 5).

    Args:
        task: to evaluate on.
        tuned: of the task that was trained on.

    Raises:
        ValueError: the tasks differ in the number of labels.
    """
    if len(task.format.labels) != len(tuned.labels):
        raise ValueError(
            f"{task.format.name!r} with the labels {list(task.format.labels)} cannot be answered in those of "
            f"{tuned.name!r}, {list(tuned.labels)}: there must be as many"
        )
    words = dict(zip(task.format.labels, tuned.labels, strict=True))

    def parse(record: Mapping[str, Any]) -> Iterable[Example]:
        for example in task.format.parse(record):
            references = tuple(words.get(text, text) for text in example.references)
            yield dataclasses.replace(example, target=words.get(example.target, example.target), references=references)

    # Examples that were parsed before are worded as the task's own.
    return dataclasses.replace(
        task, format=dataclasses.replace(task.format, parse=parse, labels=tuned.labels), _read={}
    )
