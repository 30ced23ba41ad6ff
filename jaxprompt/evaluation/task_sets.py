"""Evaluation of a model on one task, or on each task of a mixture by that task's own metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxprompt.data.mixture import Mixture, scored_tasks
from jaxprompt.data.tasks import Task
from jaxprompt.evaluation.decodable import DecodableModel
from jaxprompt.evaluation.ensemble import EnsembleModel
from jaxprompt.evaluation.eval_set import EvalSet, eval_set
from jaxprompt.evaluation.evaluate import Scores, score, score_members
from jaxprompt.patching import PatchedModel
from jaxprompt.types import Params


@dataclasses.dataclass(frozen=True)
class TaskScores:
    """The outcome of an evaluation.

    Attributes:
        tasks: each task's scores by its name; the empty name is that of a task which is no mixture.
    """

    tasks: Mapping[str, Scores]

    @property
    def values(self) -> dict[str, float]:
        """The metrics by name; in a mixture after the name of their task, such as `boolq/accuracy`."""
        return {
            f"{name}/{metric}" if name else metric: value
            for name, scores in self.tasks.items()
            for metric, value in scores.values.items()
        }

    @property
    def selection(self) -> float:
        """The mean over the tasks of the mean of each one's metrics, as SuperGLUE's score is."""
        return sum(scores.selection for scores in self.tasks.values()) / len(self.tasks)


def eval_sets(
    model: PatchedModel, task: Task | Mixture, split: str, *, batch_size: int = 64, max_examples: int | None = None
) -> dict[str, EvalSet]:
    """Encodes a split of the task, or of each task that a mixture is scored on; see `eval_set`."""
    return {
        name: eval_set(model, each, split, batch_size=batch_size, max_examples=max_examples)
        for name, each in scored_tasks(task).items()
    }


def score_sets(
    model: DecodableModel,
    params: Params,
    sets: Mapping[str, EvalSet],
    *,
    method: str = "greedy",
    search: Mapping[str, Any] | None = None,
) -> TaskScores:
    """Scores a model on each of the sets of `eval_sets`; see `score`."""
    return TaskScores({name: score(model, params, data, method=method, search=search) for name, data in sets.items()})


def score_member_sets(
    model: EnsembleModel,
    params: Params,
    sets: Mapping[str, EvalSet],
    *,
    method: str = "greedy",
    search: Mapping[str, Any] | None = None,
) -> list[TaskScores]:
    """Scores N prompts, each by its own answers, on each of the sets of `eval_sets`; see `score_members`."""
    found = {name: score_members(model, params, data, method=method, search=search) for name, data in sets.items()}
    return [TaskScores({name: scores[member] for name, scores in found.items()}) for member in range(model.size)]


def by_task(values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The values of a mixture, as `TaskScores.values` names them, by task and metric."""
    tasks: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        task, _, metric = name.rpartition("/")
        tasks.setdefault(task, {})[metric] = value
    return tasks
