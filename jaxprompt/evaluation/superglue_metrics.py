"""Scores that only one task of SuperGLUE has: MultiRC's exact match of a question, and whether WSC's referent is right.

As T5 computes them (Raffel et al. 2020). A metric maps (predictions, examples, labels) to named values, as in
`jaxprompt.evaluation.metrics`.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence

from jaxprompt.data.task_format import Example
from jaxprompt.evaluation.text_metrics import references

_DETERMINERS = frozenset((
    "a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our", "some", "that", "the", "their",
    "these", "this", "those", "which", "whose", "your",
))  # fmt: skip


def group_exact_match(
    predictions: Sequence[str], examples: Sequence[Example], labels: Sequence[str]
) -> dict[str, float]:
    """The share of groups, such as the answers to one question, whose predictions are all right.

    Raises:
        ValueError: an example belongs to no group.
    """
    del labels
    right: dict[str, bool] = collections.defaultdict(lambda: True)
    for text, example in zip(predictions, examples, strict=True):
        if not example.group:
            raise ValueError("group_exact_match needs examples with a group, which MultiRC's have; use accuracy")
        right[example.group] &= text.strip() in {reference.strip() for reference in references(example)}
    return {"exact_match": sum(right.values()) / len(right)}


def referent_accuracy(
    predictions: Sequence[str], examples: Sequence[Example], labels: Sequence[str]
) -> dict[str, float]:
    """The share of examples whose target the prediction names where it is right, and does not where it is `wrong`.

    It names the target if the words of one contain those of the other, cases and determiners aside, and if both or
    neither have an apostrophe: "Bob" is not "Bob's hat". An empty prediction is never right.
    """
    del labels
    hits = 0
    for text, example in zip(predictions, examples, strict=True):
        guess, target = _bare(text), _bare(example.target)
        guessed, meant = set(guess.split(" ")), set(target.split(" "))
        named = ("'" in guess) == ("'" in target) and (guessed <= meant or meant <= guessed)
        hits += bool(guess) and named != example.wrong
    return {"accuracy": hits / len(examples)}


def _bare(text: str) -> str:
    return " ".join(word for word in text.strip().lower().split(" ") if word not in _DETERMINERS)


SUPERGLUE_METRICS: Mapping[str, Callable[[Sequence[str], Sequence[Example], Sequence[str]], dict[str, float]]] = {
    "group_exact_match": group_exact_match,
    "referent_accuracy": referent_accuracy,
}
