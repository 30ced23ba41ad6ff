"""Finished runs as results: every score in every `summary.json` under some directories, with what it is a score of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from jaxprompt.evaluation.metrics import selection_score
from jaxprompt.figures.axes import LEARNING_RATE, METHOD, SEED, read_axes, task_name
from jaxprompt.paths import as_path
from jaxprompt.training.run import SUMMARY
from jaxprompt.training.scoring import HARD_PROMPT, TRAINED
from jaxprompt.training.workdir import CONFIG

FEW_SHOT = "few-shot"
"""The row of `summary.json` that holds the scores of prompt design; its name may go on behind this."""


@dataclasses.dataclass(frozen=True)
class Result:
    """The scores of one prompt, or of one way to answer, on one task.

    Attributes:
        run: the run's directory.
        axes: what the run is a point of: method, size, seed and others, see `figures.axes`.
        trained_on: the task that it was trained on, or the name of a mixture.
        task: the task of these scores.
        transfer: whether the task is another one than it was trained on.
        split: of the task.
        row: whose scores they are, as `summary.json` calls it: `trained prompt`, `few-shot`, `ensemble`, …
        main: whether they are what the run is for; the others are what it is compared with, or made of it.
        num_prompts: prompts that were trained together.
        metrics: {metric: value}; values in [0, 1].
        selection: the validation score that chose the checkpoint.
        trainable: parameters of one prompt, or of what else was trained.
        frozen: the other parameters.
        best_step: of the checkpoint.
        seconds: of training, of all prompts together.
        device: that the run was made on.
    """

    run: str
    axes: Mapping[str, Any]
    trained_on: str
    task: str
    transfer: bool
    split: str
    row: str
    main: bool
    num_prompts: int
    metrics: Mapping[str, float]
    selection: float | None
    trainable: int
    frozen: int
    best_step: int | None
    seconds: float | None
    device: str

    @property
    def score(self) -> float:
        """The mean of the task's metrics, in [0, 1] (Lester et al. 2021, section 3)."""
        return selection_score(self.metrics)

    @property
    def parameters(self) -> int:
        """Parameters of the language model: what is frozen or, where nothing is, what was trained."""
        return self.frozen or self.trainable


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What was found.

    Attributes:
        results: in the order of the directories.
        notices: lines about runs that are not finished, cannot be read, or are there twice.
    """

    results: tuple[Result, ...]
    notices: tuple[str, ...]


def gather(roots: Iterable[str | epath.PathLike]) -> Gathered:
    """The results of all finished runs in some directories and the directories in them.

    Args:
        roots: paths, or `gs://` addresses.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    results: list[Result] = []
    notices: list[str] = []
    unfinished: list[epath.Path] = []
    for root in roots:
        directory = as_path(root).expanduser()
        if not directory.is_dir():
            raise FileNotFoundError(f"there is no directory {directory} to gather runs from")
        for run in _runs_under(directory):
            if not (run / SUMMARY).exists():
                unfinished += [run] if (run / "metrics.jsonl").exists() else []
                continue
            try:
                results += list(_read_run(run, notices))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                kind = f"no {error}" if isinstance(error, KeyError) else error
                notices.append(f"{run} is left out: its {SUMMARY} or its axes cannot be read ({kind})")
    if unfinished:
        notices.append(f"not finished, and left out: {len(unfinished)} runs, such as {unfinished[0]}")
    kept = set(map(id, without_repeats(results)))
    if repeated := [result for result in results if id(result) not in kept]:
        notices.append(
            f"{len(repeated)} results have the setting, seed and task of an earlier one, which counts in their place, "
            f"such as {repeated[0].task} in {repeated[0].run}"
        )
    return Gathered(tuple(results), tuple(notices))


def without_repeats(results: Iterable[Result]) -> list[Result]:
    """The first of all results of the same setting, seed, task and row, as sweeps that share settings make them."""
    found: dict[Any, Result] = {}
    for result in results:
        together = None if result.main else result.num_prompts  # a prompt is the same, alone or beside others
        axes = tuple(sorted((key, repr(value)) for key, value in result.axes.items()))
        key = axes, result.trained_on, result.task, result.row, result.split, together
        found.setdefault(key, result)
    return list(found.values())


def _runs_under(directory: epath.Path) -> Iterator[epath.Path]:
    """Directories that runs are or were made in, in order; one within another is none."""
    if any((directory / name).exists() for name in (SUMMARY, CONFIG)):
        yield directory
        return
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            yield from _runs_under(path)


def _read_run(run: epath.Path, notices: list[str]) -> Iterator[Result]:
    """The results of one run; none of one that trained on no task, such as pre-training.

    Args:
        run: its directory.
        notices: gets a line for every prompt that has no scores.
    """
    summary = json.loads((run / SUMMARY).read_bytes())
    if "scores" not in summary and "tasks" not in summary:
        return
    axes, trained_on = read_axes(run)
    members: list[Any] = summary.get("members") or []
    best = summary.get("best") or {}
    whole = Result(
        run=str(run),
        axes=axes,
        trained_on=trained_on,
        task=trained_on,
        transfer=False,
        split=str(summary.get("split", "")),
        row=TRAINED,
        main=True,
        num_prompts=max(1, len(members)),
        metrics={},
        selection=best.get("selection"),
        trainable=int(summary["num_trainable"]),
        frozen=int(summary["num_frozen"]),
        best_step=best.get("step"),
        seconds=summary.get("seconds"),
        device=str(summary.get("device", "")),
    )
    for result, is_chief in _results(whole, summary):
        if not (is_chief and members):  # which are the best member's, who follows
            yield dataclasses.replace(result, main=is_chief)
    for member in members:
        if "scores" not in member and "tasks" not in member:
            why = member.get("diverged", "it was never evaluated")
            notices.append(f"{run}: the prompt with seed {member.get('seed')} has no scores ({why})")
            continue
        best = member.get("best") or {}
        own = {key: member[key] for key in (SEED, LEARNING_RATE) if member.get(key) is not None}
        one = dataclasses.replace(
            whole, axes={**axes, **own}, selection=best.get("selection"), best_step=best.get("step")
        )
        yield from (result for result, is_chief in _results(one, member) if is_chief)


def _results(whole: Result, summary: Mapping[str, Any]) -> Iterator[tuple[Result, bool]]:
    """Each row of scores in a summary, or of a member in it, and whether it is the one that the run is made for."""
    for task, transfer, scores in _scored(summary, whole.trained_on):
        rows = _rows(scores)
        chief = _chief(rows, whole.axes[METHOD])
        split = str(scores.get("split", whole.split))
        for row, metrics in rows.items():
            result = dataclasses.replace(whole, task=task, transfer=transfer, split=split, row=row, metrics=metrics)
            yield result, row == chief


def _scored(summary: Mapping[str, Any], trained_on: str) -> Iterator[tuple[str, bool, Mapping[str, Any]]]:
    """(task, whether it is another one than that trained on, its scores) for every task of a summary or a member."""
    if "tasks" in summary:
        for name, scores in summary["tasks"].items():
            yield task_name(name), False, scores
    else:
        yield trained_on, False, summary["scores"]
    for name, scores in (summary.get("transfer") or {}).items():
        yield task_name(name), True, scores


def _rows(scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """{row: {metric: value}}, however a summary has it: under `rows`, at once, or with the metrics of one row alone."""
    rows = scores.get("rows", scores)
    if not all(isinstance(values, Mapping) for values in rows.values()):
        rows = {TRAINED: {name: value for name, value in rows.items() if name != "split"}}
    return {row: {name: float(value) for name, value in values.items()} for row, values in rows.items() if values}


def _chief(rows: Mapping[str, Any], method: str) -> str:
    """The row that a run is made for."""
    if method != "prompt_design":
        return TRAINED
    few_shot = [row for row in rows if row.startswith(FEW_SHOT)]
    return next(iter([*few_shot, *(row for row in rows if row == HARD_PROMPT), TRAINED]))
