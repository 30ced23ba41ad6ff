"""ReCoRD (Zhang et al. 2018) as text to text: which entity of a news passage belongs in the query's @placeholder?

T5's preprocessing, the leading task name dropped. In training each right answer is an example of its own; at evaluation
a query is one example, and all its answers are references.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxprompt.data.record_fields import text_of, texts_of
from jaxprompt.data.task_format import Example, TaskFormat

_BULLET = "\n@highlight\n"
_BULLET_AFTER_SENTENCE = re.compile(rf"([.?!\"']){_BULLET}")


def _parse(record: Mapping[str, Any]) -> Iterator[Example]:
    """A passage with its queries, as SuperGLUE's files have it, or one query, as TFDS does."""
    passage = record["passage"]
    if not isinstance(passage, Mapping):
        group = f"{record['idx']['passage']}/{record['idx']['query']}"
        answers = texts_of(record, "answers") if "answers" in record else []
        yield from _examples(
            text_of(record, "query"), texts_of(record, "entities"), text_of(record, "passage"), answers, group
        )
        return
    text = text_of(passage, "text")
    entities = sorted({text[place["start"] : place["end"] + 1] for place in passage["entities"]})
    for asked in record["qas"]:
        answers = sorted({text_of(answer, "text") for answer in asked.get("answers", ())})
        yield from _examples(text_of(asked, "query"), entities, text, answers, f"{record['idx']}/{asked['idx']}")


def _examples(
    query: str, entities: Sequence[str], passage: str, answers: Sequence[str], group: str
) -> Iterator[Example]:
    fields = {"query": query, "entities": ", ".join(entities), "passage": _with_highlights(passage)}
    for answer in answers or [""]:
        yield Example(fields, answer, group=group, choices=tuple(entities))


def _with_highlights(passage: str) -> str:
    """The bullet points under an article as sentences of it."""
    return _BULLET_AFTER_SENTENCE.sub(r"\1 ", passage).replace(_BULLET, ". ")


RECORD = TaskFormat(
    "record",
    input="query: {query} entities: {entities} passage: {passage}",
    parse=_parse,
    metrics=("squad",),
    hard_prompt="Read the passage and fill the place of @placeholder with one of the names. Passage: {passage} "
    "Names: {entities} Sentence: {query} The name for @placeholder:",
    max_target_length=62,
    merge_references=True,
    keywords=("commonsense", "reasoning", "reading", "comprehension"),
)
