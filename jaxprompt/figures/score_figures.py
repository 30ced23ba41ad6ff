"""Figures 1 and 3 of Lester et al. (2021): scores over the size of the model, by method and by setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxprompt.evaluation.superglue_score import SUPERGLUE_TASKS
from jaxprompt.figures import published
from jaxprompt.figures.aggregate import Point, is_published, of_method, on_common_tasks, score_points
from jaxprompt.figures.axes import INIT, LENGTH, LM_ADAPTATION, LM_STEPS, METHOD, OBJECTIVE, SENTINEL
from jaxprompt.figures.drawing import Curve, Panel, draw
from jaxprompt.figures.gather import Result
from jaxprompt.figures.rows import Row, write_csv
from jaxprompt.figures.selection import at_defaults

METHODS: Mapping[str, str] = {
    "prompt_tuning": "prompt tuning",
    "model_tuning": "model tuning",
    "prompt_design": "prompt design",
    "multitask_model_tuning": "model tuning (multi-task)",
    "prefix_tuning": "prefix-tuning",
    "p_tuning": "P-tuning",
}
"""What figures call the values of the axis `method`, in the order of their colours."""

SETTINGS: Mapping[str, tuple[str, str]] = {
    "figure3a": (LENGTH, "prompt length"),
    "figure3b": (INIT, "initialisation"),
    "figure3c": (OBJECTIVE, "pre-training objective"),
    "figure3d": (LM_STEPS, "steps of LM adaptation"),
}
"""The ablations: the axis that each varies, and its name."""

_BENCHMARKS = {"superglue": "SuperGLUE tasks", "mini": "mini tasks", "other": "tasks"}
_VALUES = {
    "random": "random uniform",
    "sampled_vocab": "sampled vocabulary",
    LM_ADAPTATION: "LM adaptation",
    SENTINEL: "span corruption, targets with sentinel",
}
_OURS, _THEIRS = "this project", "Vu et al. 2022, table 4"


class NoRuns(LookupError):  # noqa: N818
    """There is nothing among the gathered results that a figure or table could show."""


def figure1(results: Sequence[Result], chosen: Mapping[str, str], output: epath.Path) -> list[epath.Path]:
    """Draws the score of every method over the size of the model, the published curves beside ours.

    A method that was tried on some of the others' tasks only has no mean to be compared, and is left out.

    Ours and the published ones share axes where the models are the published ones and have scores on all tasks; else
    they have panels of their own.

    Args:
        results: gathered ones.
        chosen: see `at_defaults`.
        output: the directory for `figure1.png` and `figure1.csv`.

    Raises:
        NoRuns: no run is on a task of a benchmark.
        Undecided: see `at_defaults`.
    """
    points = score_points(at_defaults(results, (), chosen), METHOD)
    if not points:
        raise NoRuns("no run on a task, with scores")
    panels, rows = [], []
    for benchmark in sorted(points, key=list(_BENCHMARKS).index):
        by_method = points[benchmark]
        order = [*METHODS, *sorted(by_method.keys() - METHODS.keys())]  # a method's style does not hang on the others
        # Hollow where a size lacks tasks; a method that lacks them everywhere is another experiment.
        whole = {method for method, of in by_method.items() if any(point.complete for point in of)} or by_method.keys()
        known = [method for method in order if method in whole]
        curves = [_curve(by_method[method], METHODS.get(method, method), order.index(method)) for method in known]
        ours = [point for method in known for point in by_method[method]]
        sizes = {point.size: point.parameters for point in ours}
        comparable = all(point.complete and is_published(point.size, point.parameters) for point in ours)
        if beside := benchmark == "superglue" and comparable:
            curves += _published_curves()
            sizes |= published.SIZES
        panels.append(Panel(_title(benchmark, ours, beside), _ylabel(benchmark, ours), curves, [*sizes.items()]))
        rows += [_row(benchmark, _OURS, {METHOD: method}, point) for method in known for point in by_method[method]]
    if not any(curve.dashed for panel in panels for curve in panel.curves):
        title = "Published: T5 1.1 and GPT-3 on SuperGLUE"
        panels.append(Panel(title, "SuperGLUE score", _published_curves(), [*published.SIZES.items()]))
    rows += _published_rows()
    return _save("figure1", output, panels, rows, list(points.values()))


def figure3(name: str, results: Sequence[Result], chosen: Mapping[str, str], output: epath.Path) -> list[epath.Path]:
    """Draws the score of prompt tuning over the size of the model for every value of one setting.

    Means are over the tasks that every value was tried on, so that they differ by nothing else.

    Args:
        name: a key of `SETTINGS`.
        results: gathered ones.
        chosen: see `at_defaults`.
        output: the directory for `figure3a.png` and `figure3a.csv`, or another letter's.

    Raises:
        NoRuns: prompts were tuned with fewer than two values of the setting.
        Undecided: see `at_defaults`.
    """
    axis, written = SETTINGS[name]
    results = [result for result in of_method(results, "prompt_tuning") if result.axes[axis] is not None]
    if len({result.axes[axis] for result in results}) < 2:
        raise NoRuns(f"no prompt tuning with more than one {written}")
    results = on_common_tasks(at_defaults(results, (axis,), chosen), axis)
    points = {benchmark: of_value for benchmark, of_value in score_points(results, axis).items() if len(of_value) > 1}
    if not points:
        raise NoRuns(f"no prompt tuning that differs by {written} alone")
    panels, rows = [], []
    values = sorted({value for of_value in points.values() for value in of_value}, key=_order)
    for benchmark, of_value in points.items():
        curves = [
            _curve(of_value[value], _written(value), number) for number, value in enumerate(values) if value in of_value
        ]
        ours = [point for value in of_value.values() for point in value]
        sizes = {point.size: point.parameters for point in ours}
        panels.append(Panel(f"{_BENCHMARKS[benchmark]}: {written}", _ylabel(benchmark, ours), curves, [*sizes.items()]))
        rows += [
            _row(benchmark, _OURS, {METHOD: "prompt_tuning", axis: value}, point)
            for value in values
            for point in of_value.get(value, ())
        ]
    return _save(name, output, panels, rows, list(points.values()))


def _save(
    name: str,
    output: epath.Path,
    panels: Sequence[Panel],
    rows: Sequence[Row],
    points: Sequence[Mapping[Any, list[Point]]],
) -> list[epath.Path]:
    ours = [point for of_value in points for of in of_value.values() for point in of]
    notes = ["bars: one standard deviation over seeds"] if any(point.score.deviation for point in ours) else []
    if any(not point.complete for point in ours):
        notes.append("hollow: some tasks are missing, see the CSV")
    picture, table = output / f"{name}.png", output / f"{name}.csv"
    draw(panels, picture, "; ".join(notes))
    write_csv(table, rows)
    return [picture, table]


def _curve(points: Sequence[Point], label: str, style: int) -> Curve:
    return Curve(
        label,
        [point.parameters for point in points],
        [point.score.mean for point in points],
        [point.score.deviation for point in points],
        hollow=[not point.complete for point in points],
        style=style,
    )


def _published_curves() -> list[Curve]:
    curves = []
    for method, spreads in published.FIGURE_1.items():
        label = "prompt design (GPT-3)" if method == "prompt_design" else METHODS[method]
        means, deviations = zip(*spreads.values(), strict=True)
        sizes = [published.SIZES[size] for size in spreads]
        style = list(METHODS).index(method)
        curves.append(Curve(f"{label}, published", sizes, means, deviations, style=style, dashed=True))
    return sorted(curves, key=lambda curve: curve.style)


def _title(benchmark: str, points: Sequence[Point], beside: bool) -> str:
    tasks = {task for point in points for task in point.tasks}
    return "SuperGLUE, T5 1.1" if beside else f"This project: {len(tasks)} {_BENCHMARKS[benchmark]}"


def _ylabel(benchmark: str, points: Sequence[Point]) -> str:
    tasks = {task for point in points for task in point.tasks}
    if benchmark == "superglue" and all(point.complete for point in points):
        return "SuperGLUE score"
    return f"mean over {len(tasks)} tasks, %" if len(tasks) > 1 else f"{next(iter(tasks))}, %"


def _row(benchmark: str, source: str, setting: Mapping[str, Any], point: Point) -> Row:
    return {
        "benchmark": benchmark,
        "source": source,
        **setting,
        "size": point.size,
        "parameters": point.parameters,
        "mean": round(point.score.mean, 4),
        "sd": None if point.score.deviation is None else round(point.score.deviation, 4),
        "n": point.score.count,
        "complete": point.complete,
        "tasks": " ".join(point.tasks),
    }


def _published_rows() -> list[Row]:
    return [
        {
            "benchmark": "superglue",
            "source": _THEIRS,
            METHOD: method,
            "size": size,
            "parameters": published.SIZES[size],
            "mean": mean,
            "sd": deviation,
            "complete": True,
            "tasks": " ".join(sorted(SUPERGLUE_TASKS)),
        }
        for method, spreads in published.FIGURE_1.items()
        for size, (mean, deviation) in spreads.items()
    ]


def _order(value: Any) -> Any:
    return (0, value, "") if isinstance(value, int | float) else (1, 0, str(value))


def _written(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _VALUES.get(value, str(value).replace("_", " "))
