"""How one kind of example is read as text, and how answers to it are scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Example:
    """One example as text.

    Attributes:
        fields: the named pieces of input text that a template may use.
        target: the text to produce; empty where the source withholds it, as the test sets of benchmarks do.
        references: every text that counts as right at evaluation; empty means `(target,)`.
        group: what the source counts the example to, such as its question: metrics may judge a group as a whole, and
            `TaskFormat.merge_references` makes one example of it. Empty: the example stands by itself.
        choices: the answers to choose from, where they are this example's own and not the task's labels.
        wrong: the target is an answer to avoid: it is not trained on, and what is right is any other.
    """

    fields: Mapping[str, str]
    target: str
    references: tuple[str, ...] = ()
    group: str = ""
    choices: tuple[str, ...] = ()
    wrong: bool = False


@dataclasses.dataclass(frozen=True)
class TaskFormat:
    """A kind of task, apart from where its records come from.

    Attributes:
        name: the field's name for it, such as `rte`.
        input: the input text as a template over the fields, such as `hypothesis: {hypothesis} premise: {premise}`.
        parse: turns one record of the source into examples (none, one, or several).
        labels: the answers of a classification task, in the order of its label numbers; empty for free text.
        metrics: names of metrics in `jaxprompt.evaluation.metrics`.
        hard_prompt: an input template that asks the question in words, for the baseline without training.
        max_input_length: tokens of input text kept (end of text included), virtual tokens not counted.
        max_target_length: tokens of target kept, end of text included.
        vocabulary: the words of one token that an answer may be, for P@1 (Petroni et al. 2019); empty: any text.
        merge_references: examples of the same group, or without one with the same fields, are one at evaluation, with
            all their targets as references.
        keywords: words that a prompt may start from in place of labels, where the task has none.
    """

    name: str
    input: str
    parse: Callable[[Mapping[str, Any]], Iterable[Example]]
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    hard_prompt: str | None = None
    max_input_length: int = 512
    max_target_length: int = 16
    vocabulary: tuple[str, ...] = ()
    merge_references: bool = False
    keywords: tuple[str, ...] = ()

    @property
    def init_words(self) -> tuple[str, ...]:
        """What a prompt with `init=class_labels` starts from: the labels or, without any, the keywords."""
        return self.labels or self.keywords
