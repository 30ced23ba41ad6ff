"""Evaluation of a patched model on a split of a task: every example counted exactly once."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.data.task_format import Example
from jaxprompt.data.tasks import Task
from jaxprompt.evaluation import metrics
from jaxprompt.evaluation.decodable import DecodableModel
from jaxprompt.evaluation.decode import generate, to_texts
from jaxprompt.evaluation.ensemble import EnsembleModel
from jaxprompt.evaluation.eval_set import EvalSet, eval_set
from jaxprompt.evaluation.generation_config import GenerationConfig
from jaxprompt.evaluation.probing import probe, vocabulary_ids
from jaxprompt.evaluation.ranking import choice_ids, own_choice_ids, rank_choices
from jaxprompt.sharding import to_host
from jaxprompt.types import Batch, Params

if TYPE_CHECKING:
    from jaxprompt.patching import PatchedModel

METHODS = ("greedy", "beam", "rank", "token")


@dataclasses.dataclass(frozen=True)
class Scores:
    """The outcome of an evaluation.

    Attributes:
        values: the task's metrics by name, in [0, 1]; empty where a split's right answers are not public.
        predictions: the predicted text of each example, in their order.
    """

    values: dict[str, float]
    predictions: list[str]

    @property
    def num_examples(self) -> int:
        """How many examples were scored."""
        return len(self.predictions)

    @property
    def selection(self) -> float:
        """The mean of the metrics, which picks the best checkpoint."""
        return metrics.selection_score(self.values)


def evaluate(
    model: PatchedModel,
    params: Params,
    task: Task,
    split: str = "validation",
    *,
    batch_size: int = 64,
    method: str = "greedy",
    search: Mapping[str, Any] | None = None,
    max_examples: int | None = None,
    predictions_path: str | os.PathLike[str] | None = None,
) -> Scores:
    """Scores a model on a split of a task.

    Args:
        model: a patched model whose template reads the task's fields.
        params: its {'model': ..., 'prompt': ...}.
        task: from `load_task`.
        split: such as `validation`.
        batch_size: rows decoded at once.
        method: `greedy` and `beam` decode an answer; `rank` takes the likeliest of the task's labels, or of
            an example's own choices, `token` the likeliest word of its vocabulary.
        search: for `beam`, fields of `GenerationConfig`; by default 5 beams.
        max_examples: score only the first so many.
        predictions_path: where to write the predictions, one JSON object a line; see `write_predictions`.

    Raises:
        ValueError: no such split, a template that does not fit, an unknown method, `rank` without labels, or `token`
            without a vocabulary.
    """
    data = eval_set(model, task, split, batch_size=batch_size, max_examples=max_examples)
    scores = score(model, params, data, method=method, search=search)
    if predictions_path is not None:
        write_predictions(predictions_path, scores.predictions, data.examples)
    return scores


def score(
    model: DecodableModel,
    params: Params,
    data: EvalSet,
    *,
    method: str = "greedy",
    search: Mapping[str, Any] | None = None,
) -> Scores:
    """Predicts the answers to the examples of an `EvalSet` and scores them.

    Args:
        model: a patched model.
        params: its {'model': ..., 'prompt': ...}.
        data: from `eval_set`.
        method: as for `evaluate`.
        search: as for `evaluate`.

    Raises:
        ValueError: an unknown method, `rank` for a task without labels or choices, `token` for one without a
            vocabulary, or batches that do not hold every example once.
    """
    answer = _answering(model, params, data, method, search)
    return score_predictions(answer.texts(_answers(data, answer.results)), data)


def score_members(
    model: EnsembleModel,
    params: Params,
    data: EvalSet,
    *,
    method: str = "greedy",
    search: Mapping[str, Any] | None = None,
) -> list[Scores]:
    """Scores N prompts, each by its own answers, in one forward pass over the replicated batch.

    Args:
        model: N prompts on one frozen model.
        params: its `{'model': …, 'prompt': …}`, the prompt's leaves with a leading axis N.
        data: from `eval_set`.
        method: as for `evaluate`.
        search: as for `evaluate`.

    Raises:
        ValueError: as for `score`.
    """
    answer = _answering(model, params, data, method, search)

    def by_example(batch: Batch) -> jax.Array:
        rows = answer.results(model.replicated(batch))
        return rows.reshape(-1, model.size, *rows.shape[1:])

    rows = _answers(data, by_example)
    return [score_predictions(answer.texts(rows[:, member]), data) for member in range(model.size)]


def label_scores(model: EnsembleModel, params: Params, data: EvalSet) -> np.ndarray:
    """Log likelihoods of a task's labels under N prompts, for each of M examples: Float[ndarray, "N M C"], in nats.

    Args:
        model: N prompts on one frozen model.
        params: as for `score_members`.
        data: from `eval_set`.

    Raises:
        ValueError: the task has no labels.
    """
    if not data.format.labels:
        raise ValueError(f"the task {data.format.name!r} has no labels to vote for by probability; use 'majority'")
    choices = choice_ids(model, data.format.labels)

    def by_example(batch: Batch) -> jax.Array:
        rows = rank_choices(model, params, model.replicated(batch), choices)
        return rows.reshape(-1, model.size, len(choices))

    return _answers(data, by_example).swapaxes(0, 1)


def _answers(data: EvalSet, results: Callable[[Batch], jax.Array]) -> np.ndarray:
    """What each example's row comes to, in the order of the examples."""
    # Results stay on the device until the end, so that the host prepares batches while the device works.
    numbers, rows = [], []
    for batch in data.batches:
        numbers.append(np.asarray(batch.index))
        rows.append(results(batch))
    return _in_order(numbers, to_host(rows), len(data.examples))


def score_predictions(predictions: list[str], data: EvalSet) -> Scores:
    """Scores answers that are already there, one an example, such as those that an ensemble voted for.

    Args:
        predictions: in the order of the examples.
        data: from `eval_set`.

    Raises:
        ValueError: some of the examples have right answers, and some do not.
    """
    examples, task_format = data.examples, data.format
    answered = [bool(example.target or example.references) for example in examples]
    if not any(answered):
        return Scores({}, predictions)
    if not all(answered):
        raise ValueError(f"{answered.count(False)} of {len(answered)} examples of {task_format.name!r} have no answer")
    return Scores(metrics.score(task_format.metrics, predictions, examples, task_format.labels), predictions)


class _Answering(NamedTuple):
    """A way of answering: what a batch comes to on the device, and what texts the rows of all batches mean."""

    results: Callable[[Batch], jax.Array]
    texts: Callable[[np.ndarray], list[str]]


def _answering(
    model: DecodableModel, params: Params, data: EvalSet, method: str, search: Mapping[str, Any] | None
) -> _Answering:
    task = data.format
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {METHODS}")
    if method in ("greedy", "beam"):
        options = {} if method == "greedy" else {"num_beams": 5} | dict(search or {})
        config = GenerationConfig(max_new_tokens=task.max_target_length, **options)
        return _Answering(lambda batch: generate(model, params, batch, config), lambda ids: to_texts(model, ids))
    if method == "token":
        if not task.vocabulary:
            raise ValueError(f"the task {task.name!r} has no vocabulary of one-token answers; use method='greedy'")
        known = vocabulary_ids(model, task.vocabulary)
        words = list(known)
        return _Answering(
            lambda batch: probe(model, params, batch, list(known.values())), lambda rows: [words[row] for row in rows]
        )
    best = lambda batch, choices: jnp.argmax(rank_choices(model, params, batch, choices), axis=-1)  # noqa: E731
    if task.labels:
        labels = choice_ids(model, task.labels)
        return _Answering(lambda batch: best(batch, labels), lambda rows: [task.labels[row] for row in rows])
    own = [example.choices for example in data.examples]
    if not any(own):
        raise ValueError(f"the task {task.name!r} has no labels or choices to rank; use method='greedy'")
    choices = own_choice_ids(model, own)
    return _Answering(
        lambda batch: best(batch, choices[np.asarray(batch.index)]),
        # Beyond an example's own choices stands its first one again.
        lambda rows: [texts[row] if row < len(texts) else texts[0] for texts, row in zip(own, rows, strict=True)],
    )


def write_predictions(path: str | os.PathLike[str], predictions: Sequence[str], examples: Sequence[Example]) -> None:
    """Writes one JSON object a line: the example's number, its fields, the prediction and the answers it is held to."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", encoding="utf-8") as lines:
        for number, (prediction, example) in enumerate(zip(predictions, examples, strict=True)):
            answers = example.references or (example.target,)
            row = {"index": number, "prediction": prediction, "answers": answers, "fields": dict(example.fields)}
            row |= {"wrong": True} if example.wrong else {}  # what stands as the answer is one to avoid
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _in_order(numbers: Sequence[np.ndarray], results: Sequence[np.ndarray], count: int) -> np.ndarray:
    """The rows of all batches by their examples' numbers, fillers dropped."""
    if not numbers:
        raise ValueError("there are no batches to evaluate")
    index, rows = np.concatenate(numbers), np.concatenate(results)
    rows, index = rows[index >= 0], index[index >= 0]
    times = np.bincount(index, minlength=count)
    if len(times) > count or (times != 1).any():
        wrong = [number for number, n in enumerate(times) if n != 1 or number >= count][:10]
        raise ValueError(f"the batches must hold each of {count} examples once; they do not for numbers {wrong}")
    return rows[np.argsort(index)]
