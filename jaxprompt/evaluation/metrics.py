"""Scores of predicted texts. Values lie in [0, 1], but for the metrics in `UNBOUNDED`; tables multiply for percent.

A metric maps (predictions, examples, labels) to named values. Predictions are compared as text, as T5 does (Raffel
et al. 2020, section 2.4): a text that is none of a task's labels is a wrong answer, never an error.
"""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence

from jaxprompt.data.task_format import Example
from jaxprompt.evaluation.superglue_metrics import SUPERGLUE_METRICS
from jaxprompt.evaluation.text_metrics import TEXT_METRICS, UNBOUNDED, references

Metric = Callable[[Sequence[str], Sequence[Example], Sequence[str]], dict[str, float]]


def score(
    names: Sequence[str], predictions: Sequence[str], examples: Sequence[Example], labels: Sequence[str] = ()
) -> dict[str, float]:
    """The values of several metrics over one set of predictions.

    Args:
        names: keys of `METRICS`, such as `TaskFormat.metrics`.
        predictions: one text an example, in the order of `examples`.
        examples: what was asked.
        labels: the answers of a classification task, in the order of their numbers; empty for free text.

    Raises:
        ValueError: an unknown metric, no examples, or another number of predictions than of examples.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"unknown metrics {unknown}; choose from {sorted(METRICS)}")
    if len(predictions) != len(examples) or not examples:
        raise ValueError(f"expected one prediction an example, got {len(predictions)} for {len(examples)} examples")
    values: dict[str, float] = {}
    for name in names:
        values |= METRICS[name](predictions, examples, labels)
    return values


def selection_score(values: Mapping[str, float]) -> float:
    """The number that picks the best checkpoint: the mean of a task's metrics (Lester et al. 2021, section 3).

    Metrics that do not lie in [0, 1] stay out of it, unless there are no others.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("cannot select by an empty set of metric values: name at least one metric for the task")
    bounded = [value for name, value in values.items() if name not in UNBOUNDED] or list(values.values())
    return sum(bounded) / len(bounded)


def accuracy(predictions: Sequence[str], examples: Sequence[Example], labels: Sequence[str]) -> dict[str, float]:
    """The share of predictions that equal a reference, surrounding white space aside."""
    del labels
    hits = [_strip(text) in map(_strip, references(ex)) for text, ex in zip(predictions, examples, strict=True)]
    return {"accuracy": sum(hits) / len(hits)}


def f1(predictions: Sequence[str], examples: Sequence[Example], labels: Sequence[str]) -> dict[str, float]:
    """F1 of the second of two labels, which GLUE and SuperGLUE number 1.

    A prediction that is no label counts as the opposite of what is right, as T5 counts it: a false positive where the
    answer is negative, a miss where it is positive.

    Raises:
        ValueError: the task does not have two labels.
    """
    from sklearn.metrics import f1_score

    if len(labels) != 2:
        raise ValueError(f"f1 needs a task with two labels, the second of them positive; got {list(labels)}")
    targets, predicted = _label_numbers(predictions, examples, labels)
    predicted = [1 - target if guess < 0 else guess for target, guess in zip(targets, predicted, strict=True)]
    return {"f1": float(f1_score(targets, predicted, zero_division=0.0))}


def mean_f1(predictions: Sequence[str], examples: Sequence[Example], labels: Sequence[str]) -> dict[str, float]:
    """The unweighted mean over the labels of each label's F1, as SuperGLUE scores CommitmentBank.

    Raises:
        ValueError: the task has no labels.
    """
    from sklearn.metrics import f1_score

    if not labels:
        raise ValueError("mean_f1 needs a task with labels")
    targets, predicted = _label_numbers(predictions, examples, labels)
    numbers = list(range(len(labels)))
    return {"mean_f1": float(f1_score(targets, predicted, labels=numbers, average="macro", zero_division=0.0))}


def exact_match(predictions: Sequence[str], examples: Sequence[Example], labels: Sequence[str]) -> dict[str, float]:
    """SQuAD's exact match: the share of predictions that equal a reference after `normalize_answer`."""
    del labels
    return {"exact_match": _best_over_references(lambda answer, text: float(answer == text), predictions, examples)}


def token_f1(predictions: Sequence[str], examples: Sequence[Example], labels: Sequence[str]) -> dict[str, float]:
    """SQuAD's F1: overlap of the words of prediction and reference, the best over references, averaged."""
    del labels
    return {"token_f1": _best_over_references(_overlap_f1, predictions, examples)}


def squad(predictions: Sequence[str], examples: Sequence[Example], labels: Sequence[str]) -> dict[str, float]:
    """SQuAD's `exact_match` and, under the name `f1`, its `token_f1`."""
    (overlap,) = token_f1(predictions, examples, labels).values()
    return {**exact_match(predictions, examples, labels), "f1": overlap}


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces (Rajpurkar et al. 2016, the official script)."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "mean_f1": mean_f1,
    "exact_match": exact_match,
    "token_f1": token_f1,
    "squad": squad,
    **SUPERGLUE_METRICS,
    **TEXT_METRICS,
}


def _strip(text: str) -> str:
    return text.strip()


def _label_numbers(
    predictions: Sequence[str], examples: Sequence[Example], labels: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Label numbers of the right answers and of the predictions; -1 for a prediction that is no label."""
    numbers = {_strip(label): number for number, label in enumerate(labels)}
    targets = [_strip(example.target) for example in examples]
    if strange := sorted(set(targets) - numbers.keys()):
        raise ValueError(f"targets {strange[:5]} are not among the task's labels {list(labels)}")
    return [numbers[target] for target in targets], [numbers.get(_strip(text), -1) for text in predictions]


def _best_over_references(
    compare: Callable[[str, str], float], predictions: Sequence[str], examples: Sequence[Example]
) -> float:
    best = []
    for text, example in zip(predictions, examples, strict=True):
        guess = normalize_answer(text)
        best.append(max(compare(normalize_answer(reference), guess) for reference in references(example)))
    return sum(best) / len(best)


def _overlap_f1(answer: str, guess: str) -> float:
    answer_words, guess_words = answer.split(), guess.split()
    common = sum((collections.Counter(answer_words) & collections.Counter(guess_words)).values())
    return 2 * common / (len(answer_words) + len(guess_words)) if common else 0.0
