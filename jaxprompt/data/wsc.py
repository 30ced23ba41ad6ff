"""WSC (Levesque et al. 2012) as text to text: what does the marked pronoun stand for?

T5's preprocessing, the leading task name dropped. A record offers a candidate and says whether the pronoun refers to
it. The candidate is the target; those that are wrong are not trained on, and evaluation asks whether the model's own
answer is the candidate (the metric `referent_accuracy`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxprompt.data.labelled import label_name
from jaxprompt.data.record_fields import text_of
from jaxprompt.data.task_format import Example, TaskFormat

_LABELS = ("False", "True")
# Candidates whose words do not stand together in their text, so that no spelling of them is the text's.
_SCATTERED = ("Kamenev and Zinoviev", "Kamenev, Zinoviev, and Stalin")


def _parse(record: Mapping[str, Any]) -> Iterator[Example]:
    """A record of SuperGLUE's files, whose spans are under `target`, or one of TFDS's `wsc.fixed` (or `wsc`)."""
    spans = record["target"] if isinstance(record.get("target"), Mapping) else record
    text = text_of(record, "text")
    candidate = _as_in_text(text, text_of(spans, "span1_text"), spans["span1_index"])
    pronoun = _as_in_text(text, text_of(spans, "span2_text"), spans["span2_index"])
    label = label_name(record.get("label"), _LABELS)
    fields = {"text": _marked(text, pronoun, spans["span2_index"]), "pronoun": pronoun, "candidate": candidate}
    yield Example(fields, candidate if label else "", wrong=label == "False")


def _as_in_text(text: str, span: str, index: int) -> str:
    """The span as the text spells it, which SuperGLUE's files do not always do; TFDS's `wsc.fixed` does the same.

    Args:
        text: the whole text.
        span: words of it.
        index: the place of its first word.
    """
    if span in text or span in _SCATTERED or not span:
        return span
    first = span[0].lower() if _word(text.split(), index)[0].islower() else span[0].upper()
    return (first + span[1:]).rstrip(".").replace("\n", " ")


def _word(words: Sequence[str], index: int) -> str:
    if not 0 <= index < len(words):
        raise ValueError(f"there is no word number {index} among the {len(words)} of {' '.join(words)!r:.200}")
    return words[index]


def _marked(text: str, pronoun: str, index: int) -> str:
    """The text with its pronoun between asterisks.

    Two texts of the benchmark point beside their pronoun, to `him,"` and to the word before; T5 writes out by hand what
    the same rules give here.
    """
    words = text.split(" ")
    if (word := _word(words, index)) != pronoun:
        tail = word.removeprefix(pronoun)
        if tail != word and not tail[0].isalnum():
            words = " ".join([*words[:index], pronoun, tail, *words[index + 1 :]]).rstrip().split(" ")
        elif pronoun in words:
            index = min((n for n, one in enumerate(words) if one == pronoun), key=lambda n: abs(n - index))
        else:
            raise ValueError(f"the pronoun {pronoun!r} is none of the words of {text!r:.200}")
    before = "".join(f"{word} " for word in words[:index])
    return f"{before}*{pronoun}* {' '.join(words[index + 1 :])}"


WSC = TaskFormat(
    "wsc",
    input="{text}",
    parse=_parse,
    metrics=("referent_accuracy",),
    hard_prompt="{text} In this text, the word *{pronoun}* stands for",
    max_target_length=62,
    keywords=("commonsense", "pronoun", "resolution"),
)
