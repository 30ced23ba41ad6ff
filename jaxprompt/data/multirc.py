"""MultiRC (Khashabi et al. 2018) as text to text: is this answer to the question about the paragraph right?

T5's preprocessing, the leading task name dropped. Each answer is an example; those to one question are a group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxprompt.data.labelled import label_name
from jaxprompt.data.record_fields import text_of
from jaxprompt.data.task_format import Example, TaskFormat

_LABELS = ("False", "True")
_BOLD = re.compile("</?b>")


def _parse(record: Mapping[str, Any]) -> Iterator[Example]:
    """A paragraph with its questions and their answers, as SuperGLUE's files have it, or one answer, as TFDS does."""
    passage = record.get("passage")
    if not isinstance(passage, Mapping):
        idx = record["idx"]
        paragraph, question, answer = text_of(record, "paragraph"), text_of(record, "question"), record
        yield _example(paragraph, question, text_of(answer, "answer"), answer, f"{idx['paragraph']}/{idx['question']}")
        return
    for asked in passage["questions"]:
        group = f"{record['idx']}/{asked['idx']}"
        for answer in asked["answers"]:
            yield _example(text_of(passage, "text"), text_of(asked, "question"), text_of(answer, "text"), answer, group)


def _example(paragraph: str, question: str, answer: str, labelled: Mapping[str, Any], group: str) -> Example:
    fields = {"question": question, "answer": answer, "paragraph": paragraph}
    target = label_name(labelled.get("label"), _LABELS)
    return Example({name: _without_html(text) for name, text in fields.items()}, target, group=group)


def _without_html(text: str) -> str:
    return _BOLD.sub("", text.replace("<br>", " "))


MULTIRC = TaskFormat(
    "multirc",
    input="question: {question} answer: {answer} paragraph: {paragraph}",
    parse=_parse,
    labels=_LABELS,
    metrics=("group_exact_match", "f1"),
    hard_prompt="Read the paragraph and say whether the answer to the question is right, True or False. "
    "Paragraph: {paragraph} Question: {question} Answer to check: {answer} True or False:",
)
