"""The score of the SuperGLUE benchmark (Wang et al. 2019): the mean of its eight tasks' scores."""

from __future__ import annotations

from collections.abc import Mapping

from jaxprompt.evaluation.metrics import selection_score

SUPERGLUE_TASKS = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
"""The tasks that count, in the order of Lester et al. 2021, Table 3."""


def superglue_score(values: Mapping[str, Mapping[str, float]]) -> float:
    """The mean over the tasks of the mean over each task's metrics, in [0, 1].

    Args:
        values: the metrics of each task by name, such as {"cb": {"mean_f1": 0.99, "accuracy": 0.98}, ...}; those of
            other tasks do not count.

    Raises:
        ValueError: a task is missing.
    """
    if missing := [task for task in SUPERGLUE_TASKS if task not in values]:
        raise ValueError(f"the SuperGLUE score is the mean of eight tasks; {missing} are missing from {sorted(values)}")
    return sum(selection_score(values[task]) for task in SUPERGLUE_TASKS) / len(SUPERGLUE_TASKS)
