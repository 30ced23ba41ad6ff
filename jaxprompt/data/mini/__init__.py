"""The `mini` world: an invented world whose text, tasks and held-out splits are generated here, from seeds alone.

Unlabelled documents (`documents`) name entities and use templates of their own; each split of each task has others.
So nothing of a task's records, of any split, occurs in the text that models are pre-trained on, and what a prompt
learns on train is tried, on validation and test, on entities and wordings that it never met. There are two exceptions:
the subjects of `facts` must occur in the unlabelled text for their facts to be known, and the splits of `table2text`
share a style of their own, which that text does not have and a prompt has to bring about for places it never met.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping

from jaxprompt.data.mini import descriptions, facts, matching, relations, reviews, stories
from jaxprompt.data.mini.corpus import document, documents
from jaxprompt.data.mini.formats import FORMATS
from jaxprompt.data.mini.world import PEOPLE, SPLIT_SIZES, TITLES

__all__ = ["FORMATS", "SPLIT_SIZES", "document", "documents", "entities", "records", "templates"]

_RECORDS: Mapping[str, Callable[[str], list[dict[str, str]]]] = {
    "sentiment": reviews.records,
    **{f"sentiment/{thing}": functools.partial(reviews.records, thing=thing) for thing in reviews.TOPICS},
    "topic": reviews.topic_records,
    "entailment": matching.entailment_records,
    "paraphrase": matching.paraphrase_records,
    "table2text": descriptions.records,
    "facts": facts.records,
    "summarize": stories.records,
    **{f"facts/{relation}": functools.partial(facts.records, relation=relation) for relation in facts.RELATIONS},
}


@functools.lru_cache(maxsize=32)
def _cached_records(task: str, split: str) -> tuple[dict[str, str], ...]:
    return tuple(_RECORDS[task](split))


def _check(task: str, split: str) -> None:
    if task not in _RECORDS:
        raise ValueError(f"mini has no task {task!r}; its tasks are {', '.join(_RECORDS)}.")
    if split not in SPLIT_SIZES:
        raise ValueError(f"mini has no split {split!r}; its splits are {', '.join(SPLIT_SIZES)}.")


def records(task: str, split: str) -> list[dict[str, str]]:
    """The examples of one split of a task, as flat text fields; the same on every call and machine.

    Args:
        task: `sentiment` or one kind of reviews such as `sentiment/film`, `topic`, `entailment`, `paraphrase`,
            `table2text`, `summarize`, `facts`, or one relation of it such as `facts/country`.
        split: `train`, `validation` or `test`.

    Raises:
        ValueError: for an unknown task or split.
    """
    _check(task, split)
    return [dict(row) for row in _cached_records(task, split)]


def entities(task: str, split: str) -> frozenset[str]:
    """The names (people and titles, or the subjects of facts) that the records of a split draw on."""
    _check(task, split)
    if task.startswith("facts"):
        return facts.entities(split)
    if _is_review(task):
        return frozenset(PEOPLE[split] + TITLES[split])
    return frozenset(TITLES[split] if task == "table2text" else PEOPLE[split])


def templates(task: str, split: str) -> frozenset[str]:
    """The sentence templates that the records of a classification task's split are written in."""
    _check(task, split)
    if _is_review(task):
        return frozenset(reviews.INTROS[split] + reviews.OPINIONS[split])
    if task in ("entailment", "paraphrase"):
        statements = (relation.statements[split] for relation in relations.RELATIONS.values())
        return frozenset(itertools.chain(*statements, relations.DENIALS[split]))
    raise ValueError(f"Only the classification tasks of mini hold whole templates apart, not {task!r}.")


def _is_review(task: str) -> bool:
    return task.partition("/")[0] in ("sentiment", "topic")
