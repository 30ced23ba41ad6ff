"""Runs that differ in their seed or learning rate alone, made one run of several prompts.

The prompts share the frozen model and the program, and each comes out as it does by itself (see `training.members`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from jaxprompt.experiment import Experiment
from jaxprompt.sweeps.grid import FOLDED, PROMPT_METHODS, Run
from jaxprompt.sweeps.settings import with_settings


def fold(runs: Sequence[Run]) -> list[Run]:
    """The runs of a grid with those made one that can be, each in the place of its first.

    A run that can be folded has the name of its cell, without what it is folded along, even where it is left alone.
    """
    cells: dict[Hashable, list[Run]] = {}
    for run in runs:
        cells.setdefault(_cell(run), []).append(run)
    return [run for cell in cells.values() for run in _folded(cell)]


def can_fold(experiment: Experiment) -> bool:
    """Whether an experiment trains one prompt on a frozen model that does not depend on its seed."""
    train = experiment.train
    return (
        experiment.prompt.method in PROMPT_METHODS
        and not experiment.corpus.objective
        and not experiment.model.from_scratch
        and not train.tune_model
        and train.num_prompts == 1
        and not train.seeds
        and not train.learning_rates
    )


def _cell(run: Run) -> Hashable:
    """What runs share that are one."""
    if not can_fold(run.experiment):
        return run.name
    rest = run.experiment
    if "seed" in run.fold:
        rest = dataclasses.replace(rest, seed=0)
    if "optim.learning_rate" in run.fold:
        rest = dataclasses.replace(rest, optim=dataclasses.replace(rest.optim, learning_rate=1.0))
    return run.stage, tuple(part for key, part in run.parts.items() if key not in run.fold), rest


def _folded(cell: Sequence[Run]) -> Iterator[Run]:
    first = cell[0]
    if not can_fold(first.experiment):
        yield from cell
        return
    parts = {key: part for key, part in first.parts.items() if key not in first.fold}
    first = dataclasses.replace(first, parts=parts)
    if len(cell) == 1:
        yield first
        return
    experiments = [run.experiment for run in cell]
    seeds = tuple(one.seed for one in experiments)
    rates = tuple(one.optim.learning_rate for one in experiments)
    several: dict[str, Any] = {"train.num_prompts": len(cell), "train.seeds": seeds}
    axes = {key: value for key, value in first.axes.items() if key not in ("seed", "learning_rate")}
    axes["seeds"] = list(seeds)
    if len(set(rates)) > 1:
        several["train.learning_rates"] = rates
        axes["learning_rates"] = list(rates)
    elif "learning_rate" in first.axes:
        axes["learning_rate"] = rates[0]
    yield dataclasses.replace(
        first,
        settings={**first.settings, **several},
        experiment=with_settings(first.experiment, several),
        values={key: value for key, value in first.values.items() if key not in FOLDED},
        axes=axes,
        folded=len(cell),
    )
