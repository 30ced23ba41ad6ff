"""SQuAD 1.1 (Rajpurkar et al. 2016) as text to text, with T5's preprocessing: spaces around all punctuation.

T5 puts no task name before these texts, so there is none to drop.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxprompt.data.record_fields import text_of, texts_of
from jaxprompt.data.task_format import Example, TaskFormat

INPUT = "question: {question} context: {context}"
HARD_PROMPT = "Answer the question in words of the text. Text: {context} Question: {question} Answer:"
_PUNCTUATION = re.compile(f"([{re.escape(string.punctuation)}])")
_SPACES = re.compile(r"[\t\n\f\r ]+")  # what TensorFlow's \s is; Python's is more


def pad_punctuation(text: str) -> str:
    """The text with a space on either side of each ASCII punctuation mark, and no two spaces in a row.

    A text that begins or ends in a mark begins or ends in a space, as T5's does; SentencePiece overlooks it.
    """
    return _SPACES.sub(" ", _PUNCTUATION.sub(r" \1 ", text))


def question_example(question: str, context: str, answers: Sequence[str], target: str | None = None) -> Example:
    """A question on a context.

    Args:
        question: as published.
        context: as published.
        answers: all that count as right; none where they are withheld.
        target: what is trained on; None: the first answer.
    """
    padded = tuple(pad_punctuation(answer) for answer in answers)
    target = (padded or ("",))[0] if target is None else pad_punctuation(target)
    fields = {"question": pad_punctuation(question).strip(" "), "context": pad_punctuation(context).lstrip(" ")}
    return Example(fields, target, padded if padded != (target,) else ())


def _parse(record: Mapping[str, Any]) -> Iterator[Example]:
    """An article of SQuAD's own file with its paragraphs, or one question, as TFDS and Hugging Face have it."""
    if "paragraphs" not in record:
        answers = texts_of(record["answers"], "text") if "answers" in record else []
        yield question_example(text_of(record, "question"), text_of(record, "context"), answers)
        return
    for paragraph in record["paragraphs"]:
        for asked in paragraph["qas"]:
            answers = [text_of(answer, "text") for answer in asked.get("answers", ())]
            yield question_example(text_of(asked, "question"), text_of(paragraph, "context"), answers)


SQUAD = TaskFormat(
    "squad", input=INPUT, parse=_parse, metrics=("squad",), hard_prompt=HARD_PROMPT, max_target_length=62
)
FORMATS: dict[str, TaskFormat] = {SQUAD.name: SQUAD}
TFDS: dict[str, str] = {SQUAD.name: "squad/v1.1"}
"""Where TFDS keeps the task."""
