"""Examples of one task put to a model that was tuned on another: zero-shot transfer and domain shift.

Lester et al. (2021, section 5) train on SQuAD or on one set of paraphrases, and evaluate on others without further
training. What a tuned model can be asked is what it was tuned on: its task's input text, and its task's label words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from jaxprompt.data.task_format import Example, TaskFormat
from jaxprompt.data.tasks import Task
from jaxprompt.data.template import Template


def in_format_of(task: Task, tuned: TaskFormat) -> Task:
    """A task whose examples read as those of another: its first field for the first, its labels by their numbers.

    So MRPC's `sentence1` and `sentence2` become QQP's `question1` and `question2`, and `equivalent` `duplicate`. The
    metrics stay those of the task.

    Args:
        task: to evaluate on.
        tuned: of the task that was trained on.

    Raises:
        ValueError: they differ in the number of fields, or of labels.
    """
    own, theirs = Template.parse(task.format.input).fields, Template.parse(tuned.input).fields
    if len(own) != len(theirs) or len(task.format.labels) != len(tuned.labels):
        raise ValueError(
            f"{task.format.name!r} (fields {list(own)}, labels {list(task.format.labels)}) cannot be asked as "
            f"{tuned.name!r} (fields {list(theirs)}, labels {list(tuned.labels)}): the numbers of both must agree"
        )
    names = dict(zip(own, theirs, strict=True))
    words = dict(zip(task.format.labels, tuned.labels, strict=True))

    def parse(record: Mapping[str, Any]) -> Iterable[Example]:
        for example in task.format.parse(record):
            yield dataclasses.replace(
                example,
                fields={names.get(name, name): text for name, text in example.fields.items()},
                target=words.get(example.target, example.target),
                references=tuple(words.get(text, text) for text in example.references),
            )

    changes: dict[str, Any] = {"input": tuned.input, "parse": parse, "labels": tuned.labels, "hard_prompt": tuned.hard_prompt}
    # Examples that were parsed before are of the old format.
    return dataclasses.replace(task, format=dataclasses.replace(task.format, **changes), _read={})
