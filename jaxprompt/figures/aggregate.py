"""Means and deviations over seeds: of single tasks, and of benchmarks of several."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from jaxprompt.evaluation.superglue_score import SUPERGLUE_TASKS
from jaxprompt.figures.axes import AXES, METHOD, SEED, SIZE
from jaxprompt.figures.gather import Result, without_repeats
from jaxprompt.figures.published import SIZES
from jaxprompt.figures.rows import Row


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        mean: in the values' own unit.
        deviation: the standard deviation with n - 1 in the denominator; None of fewer than two.
        count: seeds.
    """

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """The mean of one or more values."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclasses.dataclass(frozen=True)
class Point:
    """What a method comes to at one size, over the tasks of a benchmark.

    Attributes:
        size: its name.
        parameters: of the language model.
        score: over seeds, in percent.
        tasks: that the score is the mean over.
        complete: whether these are all that the benchmark has.
    """

    size: str
    parameters: int
    score: Mean
    tasks: tuple[str, ...]
    complete: bool


def benchmark_of(task: str) -> str | None:
    """`superglue`, `mini` or `other`; None of a mini task that is part of another one, as `mini:sentiment/film` is."""
    if task in SUPERGLUE_TASKS:
        return "superglue"
    if task.startswith("mini:"):
        return None if "/" in task else "mini"
    return "other"


def score_points(results: Iterable[Result], key: str) -> dict[str, dict[Any, list[Point]]]:
    """{benchmark: {value of an axis: points, from the smallest model on}}.

    The score of a benchmark is the mean over its tasks, each the mean of its own metrics (Lester et al. 2021, section
    3), of each seed; then the mean over seeds. Seeds that lack a task of the others stay out, unless all do: then tasks
    are averaged over the seeds that each has, and there is no deviation. Tasks of no benchmark count where there are no
    others.

    Args:
        results: main ones.
        key: the axis whose values are told apart.
    """
    results = [result for result in results if result.main and not result.transfer]
    sizes = model_sizes(results)
    cells: dict[Any, list[Result]] = collections.defaultdict(list)
    expected: dict[str, set[str]] = collections.defaultdict(set, superglue=set(SUPERGLUE_TASKS))
    for result in results:
        if benchmark := benchmark_of(result.task):
            cells[benchmark, result.axes.get(key), result.axes[SIZE]].append(result)
            expected[benchmark].add(result.task)
    points: dict[str, dict[Any, list[Point]]] = {}
    for (benchmark, value, size), cell in cells.items():
        tasks = tuple(sorted({result.task for result in cell}))
        point = Point(size, sizes[benchmark, size], _over_tasks(cell, tasks), tasks, expected[benchmark] == set(tasks))
        points.setdefault(benchmark, {}).setdefault(value, []).append(point)
    for of_benchmark in points.values():
        for of_value in of_benchmark.values():
            of_value.sort(key=lambda point: point.parameters)
    if len(points) > 1:
        points.pop("other", None)
    return points


def on_common_tasks(results: Sequence[Result], key: str) -> list[Result]:
    """The results on tasks that every value of an axis has results on, benchmark by benchmark.

    Where a value shares no task with the others, all of the benchmark's results stay.

    Args:
        results: of one method.
        key: the axis.
    """
    tasks: dict[str | None, dict[Any, set[str]]] = collections.defaultdict(lambda: collections.defaultdict(set))
    for result in results:
        tasks[benchmark_of(result.task)][result.axes.get(key)].add(result.task)
    common = {benchmark: set.intersection(*of_value.values()) for benchmark, of_value in tasks.items()}
    return [result for result in results if not (kept := common[benchmark_of(result.task)]) or result.task in kept]


def model_sizes(results: Iterable[Result]) -> dict[tuple[str, str], int]:
    """{(benchmark, size): parameters of the model}, which every method's runs of that size share.

    A prompt's own parameters are not among them where the model is frozen, and are told from them by that.
    """
    sizes: dict[tuple[str, str], int] = {}
    frozen: set[tuple[str, str]] = set()
    for result in results:
        if (benchmark := benchmark_of(result.task)) is None:
            continue
        key = benchmark, result.axes[SIZE]
        if result.frozen:
            sizes[key] = max(result.frozen, sizes[key] if key in frozen else 0)
            frozen.add(key)
        elif key not in frozen:
            sizes[key] = max(result.trainable, sizes.get(key, 0))
    return sizes


def is_published(size: str, parameters: int) -> bool:
    """Whether a model is the T5 1.1 of this size, and not some other that somebody calls by the same name."""
    return size in SIZES and abs(parameters / SIZES[size] - 1) < 0.02


def result_rows(results: Iterable[Result]) -> list[Row]:
    """One row a prompt and task, scores in [0, 1]; each metric is a column."""
    results = list(results)
    axes = _axis_names(results)
    metrics = list(dict.fromkeys(name for result in results for name in result.metrics))
    return [
        {
            "run": result.run,
            **{name: result.axes.get(name) for name in axes},
            "trained_on": result.trained_on,
            "task": result.task,
            "split": result.split,
            "row": result.row,
            "num_prompts": result.num_prompts,
            "score": result.score,
            **{name: result.metrics.get(name) for name in metrics},
            "selection": result.selection,
            "trainable": result.trainable,
            "frozen": result.frozen,
            "best_step": result.best_step,
            "seconds": result.seconds,
            "device": result.device,
        }
        for result in results
    ]


def summary_rows(results: Iterable[Result]) -> list[Row]:
    """One row a setting and task: mean, standard deviation and number of seeds of the score, in [0, 1].

    What is there twice counts once.
    """
    results = without_repeats(result for result in results if result.main)
    axes = [name for name in _axis_names(results) if name != SEED]
    groups: dict[Any, list[Result]] = collections.defaultdict(list)
    for result in results:
        setting = tuple(result.axes.get(name) for name in axes)
        groups[setting, result.trained_on, result.task, result.split].append(result)
    rows: list[Row] = []
    for (setting, *_), group in groups.items():
        first, score = group[0], Mean.of([result.score for result in group])
        rows.append(
            {
                **dict(zip(axes, setting, strict=True)),
                "trained_on": first.trained_on,
                "task": first.task,
                "split": first.split,
                "trainable": first.trainable,
                "frozen": first.frozen,
                "mean": score.mean,
                "sd": score.deviation,
                "n": score.count,
            }
        )
    return rows


def _axis_names(results: Iterable[Result]) -> list[str]:
    return list(dict.fromkeys([*AXES, *(name for result in results for name in result.axes)]))


def _over_tasks(cell: Sequence[Result], tasks: Sequence[str]) -> Mean:
    by_seed: dict[Any, dict[str, float]] = collections.defaultdict(dict)
    for result in cell:
        by_seed[result.axes.get(SEED)][result.task] = 100 * result.score
    whole = [statistics.fmean(scores.values()) for scores in by_seed.values() if len(scores) == len(tasks)]
    if whole:
        return Mean.of(whole)
    of_task = ([scores[task] for scores in by_seed.values() if task in scores] for task in tasks)
    return dataclasses.replace(Mean.of([statistics.fmean(scores) for scores in of_task]), deviation=None, count=1)


def mean_of(results: Iterable[Result], metric: str) -> Mean | None:
    """Over seeds, in percent; None where there is no result with this metric.

    Args:
        results: of one task and setting.
        metric: as published tables name it, see `canonical`.
    """
    values = [100 * value for result in results for name, value in result.metrics.items() if canonical(name) == metric]
    return Mean.of(values) if values else None


def canonical(metric: str) -> str:
    """A metric as published tables name it, which have one name for every kind of F1, exact match and accuracy."""
    return next((known for known in ("f1", "exact_match", "accuracy") if known in metric), metric)


def of_method(results: Iterable[Result], method: str) -> list[Result]:
    """Those of one method."""
    return [result for result in results if result.axes[METHOD] == method]
