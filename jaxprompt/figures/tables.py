"""Tables 1 to 3 of Lester et al. (2021): prompts on other sets than they were trained on, and ensembles of prompts."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from jaxprompt.evaluation.superglue_score import SUPERGLUE_TASKS
from jaxprompt.figures import published
from jaxprompt.figures.aggregate import Mean, benchmark_of, canonical, is_published, mean_of, of_method
from jaxprompt.figures.axes import METHOD, SIZE
from jaxprompt.figures.gather import Result
from jaxprompt.figures.rows import NOTHING, Row, difference, spread, to_markdown, write_csv
from jaxprompt.figures.score_figures import NoRuns
from jaxprompt.figures.selection import at_defaults
from jaxprompt.paths import write_whole
from jaxprompt.training.scoring import AVERAGE, BEST, ENSEMBLE

_TITLES = {
    "table1": "Zero-shot F1 on other question answering sets, trained on SQuAD (Lester et al. 2021, table 1)",
    "table2": "Zero-shot transfer to other sets of the same task (Lester et al. 2021, table 2)",
    "table3": "Ensembles of prompts for one frozen model (Lester et al. 2021, table 3)",
}
_SPREAD = "mean ± standard deviation over seeds where there are several"
_NOTES = {"table1": _SPREAD, "table2": _SPREAD, "table3": "the average prompt, the best by validation, and their vote"}
_TUNINGS = ("model_tuning", "prompt_tuning")
_VOTES = (AVERAGE, BEST, ENSEMBLE)

_Cell = tuple[str, str, str, str]  # size, trained on, evaluated on, metric


def shift_table(
    name: str, results: Sequence[Result], chosen: Mapping[str, str], output: epath.Path
) -> list[epath.Path]:
    """Writes table 1 (trained on SQuAD) or 2 (on anything else, the miniature's tasks included) with all sizes.

    Args:
        name: `table1` or `table2`.
        results: gathered ones.
        chosen: see `at_defaults`.
        output: the directory for the table as Markdown and CSV.

    Raises:
        NoRuns: no run was evaluated on another set than it was trained on.
        Undecided: see `at_defaults`.
    """
    squad = name == "table1"
    shifted = {result.trained_on for result in results if result.transfer and result.main}
    trained_on = {task for task in shifted if (task == "squad") == squad}
    wanted = [result for result in results if result.trained_on in trained_on and result.axes[METHOD] in _TUNINGS]
    cells = _shift_cells(at_defaults(wanted, (), chosen), lambda metric: not squad or metric == "f1")
    if not cells:
        raise NoRuns(f"no run on {'SQuAD' if squad else 'one set'} that was evaluated on others")
    theirs = {
        (published.SHIFT_SIZE, *key): spreads
        for key, spreads in published.SHIFT.items()
        if (key[0] == "squad") == squad
    }
    parameters = {result.axes[SIZE]: result.parameters for result in wanted if result.frozen} or {
        result.axes[SIZE]: result.parameters for result in wanted
    }
    rows = []
    for key in _in_order([*cells, *theirs], parameters):
        size, train, other, metric = key
        is_theirs = size not in parameters or is_published(size, parameters[size])
        ours, printed = cells.get(key, {}), theirs.get(key) if is_theirs else None
        rows.append(_shift_row(size, train, other, metric, [ours.get(tuning) for tuning in _TUNINGS], printed))
    return _save(name, output, rows, _shift_markdown)


def table3(results: Sequence[Result], chosen: Mapping[str, str], output: epath.Path) -> list[epath.Path]:
    """Writes table 3: the average prompt, the best prompt and the vote of all, by size and task.

    Of a size and task with ensembles of several numbers of prompts, the largest are shown.

    Args:
        results: gathered ones.
        chosen: see `at_defaults`.
        output: the directory for `table3.md` and `table3.csv`.

    Raises:
        NoRuns: no run trained several prompts together.
        Undecided: see `at_defaults`.
    """
    tuned = [result for result in of_method(results, "prompt_tuning") if not result.transfer and result.num_prompts > 1]
    kept = [result for result in at_defaults(tuned, (), chosen) if result.row in _VOTES]
    if not kept:
        raise NoRuns("no run with several prompts and their vote")
    cells: dict[tuple[str, str], list[Result]] = collections.defaultdict(list)
    for result in kept:
        cells[result.axes[SIZE], result.task].append(result)
    sizes = {result.axes[SIZE]: result.parameters for result in kept}
    rows = []
    for size in sorted(
        {published.ENSEMBLE_SIZE, *sizes}, key=lambda size: sizes.get(size, published.SIZES.get(size, 0))
    ):
        is_theirs = size == published.ENSEMBLE_SIZE and is_published(size, sizes.get(size, published.SIZES[size]))
        theirs = published.ENSEMBLE if is_theirs else {}
        of_size = {task: _most_prompts(cell) for (its, task), cell in cells.items() if its == size}
        keys = [*theirs, *((task, metric) for task in sorted(of_size) for metric in _metrics(of_size[task]))]
        for task, metric in dict.fromkeys(keys):
            cell = of_size.get(task, [])
            ours = [_value(mean_of([one for one in cell if one.row == row], metric)) for row in _VOTES]
            rows.append(_vote_row(size, task, metric, _prompts(cell), ours, theirs.get((task, metric))))
        rows += _benchmark_rows(size, of_size, is_theirs)
    return _save("table3", output, rows, lambda rows: [{**row, "task": _named(row["task"])} for row in rows])


def _shift_cells(results: Iterable[Result], shows: Callable[[str], bool]) -> dict[_Cell, dict[str, Mean]]:
    """{cell: {method: mean}} of results on the sets trained on and on others."""
    groups: dict[tuple[Any, ...], list[Result]] = collections.defaultdict(list)
    for result in results:
        if result.main:
            groups[result.axes[SIZE], result.trained_on, result.task, result.axes[METHOD]].append(result)
    cells: dict[_Cell, dict[str, Mean]] = collections.defaultdict(dict)
    for (size, train, task, method), group in groups.items():
        for metric in filter(shows, _metrics(group)):
            if (mean := mean_of(group, metric)) is not None:
                cells[size, train, task, metric][method] = mean
    return cells


def _in_order(keys: Iterable[_Cell], parameters: Mapping[str, int]) -> list[_Cell]:
    """By size, by what was trained on, the set itself first, then as published tables have them."""
    known = [*published.DOMAINS, *(train for train, _, _ in published.SHIFT)]

    def order(key: _Cell) -> Any:
        size, train, other, metric = key
        place = {task: number for number, task in enumerate(known)}
        at = parameters.get(size, published.SIZES.get(size, 0))
        return at, size, train, other != train, place.get(other, len(place)), other, metric

    return sorted(set(keys), key=order)


def _shift_row(
    size: str,
    train: str,
    other: str,
    metric: str,
    ours: Sequence[Mean | None],
    theirs: tuple[published.Spread, published.Spread] | None,
) -> Row:
    row: dict[str, Any] = {"size": size, "train": train, "eval": other, "domain": published.DOMAINS.get(other)}
    row["metric"] = metric
    for tuning, mean in zip(("model", "prompt"), ours, strict=True):
        deviation = None if mean is None or mean.deviation is None else round(mean.deviation, 4)
        row |= {tuning: _value(mean), f"{tuning} sd": deviation, f"{tuning} n": mean.count if mean else None}
    for tuning, (printed, around) in zip(("model", "prompt"), theirs or ((None, None),) * 2, strict=True):
        row |= {f"{tuning}, published": printed, f"{tuning} sd, published": around}
    return row


def _shift_markdown(rows: Sequence[Row]) -> list[Row]:
    several = any(row["domain"] for row in rows)
    shown: list[Row] = []
    for row in rows:
        values = {"size": row["size"], "train": _named(row["train"]), "eval": _named(row["eval"])}
        if several:
            values["domain"] = row["domain"]
        values["metric"] = row["metric"]
        for behind in ("", ", published"):
            for tuning in ("model", "prompt"):
                values[f"{tuning}{behind}"] = spread(row[f"{tuning}{behind}"], row[f"{tuning} sd{behind}"])
            values[f"Δ{behind}"] = difference(row[f"prompt{behind}"], row[f"model{behind}"])
        shown.append(values)
    return shown


def _benchmark_rows(size: str, of_size: Mapping[str, Sequence[Result]], is_theirs: bool) -> list[Row]:
    """The mean over the tasks of each benchmark, where there is more than one."""
    tasks: dict[str, list[str]] = collections.defaultdict(list)
    for task in sorted(of_size):
        tasks[benchmark_of(task) or "other"].append(task)
    if is_theirs:
        tasks.setdefault("superglue", [])
    rows = []
    for benchmark, its in tasks.items():
        whole = benchmark == "superglue" and set(its) == set(SUPERGLUE_TASKS)
        theirs = published.ENSEMBLE_SCORE if is_theirs and benchmark == "superglue" else None
        if len(its) < 2 and theirs is None:
            continue
        ours = [
            round(
                statistics.fmean(statistics.fmean(one.score for one in of_size[task] if one.row == row) for task in its)
                * 100,
                4,
            )
            if its
            else None
            for row in _VOTES
        ]
        label = "SuperGLUE" if whole or not its else f"mean over {len(its)} tasks"
        prompts = max((_prompts(of_size[task]) or 0 for task in its), default=None)
        if theirs and its and not whole:  # of which there is no mean over these tasks alone
            rows.append(_vote_row(size, label, "mean", prompts, ours, None))
            label, ours, prompts = "SuperGLUE", [None] * 3, None
        rows.append(_vote_row(size, label, "mean", prompts, ours, theirs))
    return rows


def _vote_row(
    size: str, task: str, metric: str, prompts: int | None, ours: Sequence[float | None], theirs: Sequence[float] | None
) -> Row:
    row: dict[str, Any] = {"size": size, "task": task, "metric": metric, "prompts": prompts}
    row |= dict(zip(_VOTES, ours, strict=True))
    return row | dict(zip((f"{vote}, published" for vote in _VOTES), theirs or (None,) * 3, strict=True))


def _most_prompts(cell: Sequence[Result]) -> list[Result]:
    most = max(result.num_prompts for result in cell)
    return [result for result in cell if result.num_prompts == most]


def _prompts(cell: Sequence[Result]) -> int | None:
    return cell[0].num_prompts if cell else None


def _metrics(results: Iterable[Result]) -> list[str]:
    return list(dict.fromkeys(canonical(name) for result in results for name in result.metrics))


def _value(mean: Mean | None) -> float | None:
    return None if mean is None else round(mean.mean, 4)


def _named(task: str) -> str:
    names = {"squad": "SQuAD", "textbookqa": "TextbookQA", "bioasq": "BioASQ", "duorc": "DuoRC", "boolq": "BoolQ"}
    names |= {name: name.upper() for name in ("race", "re", "drop", "qqp", "mrpc", "cb", "copa", "rte", "wsc")}
    return (names | {"multirc": "MultiRC", "record": "ReCoRD", "wic": "WiC"}).get(task, task)


def _save(
    name: str, output: epath.Path, rows: Sequence[Row], shown: Callable[[Sequence[Row]], list[Row]]
) -> list[epath.Path]:
    text, table = output / f"{name}.md", output / f"{name}.csv"
    note = f"In percent: {_NOTES[name]}; {NOTHING}: no run. What is published is T5 1.1 XXL's."
    write_whole(text, f"# {_TITLES[name]}\n\n{note}\n\n{to_markdown(shown(rows))}")
    write_csv(table, rows)
    return [text, table]
