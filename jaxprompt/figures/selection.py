"""Which of the gathered results a figure shows: those in which all but what it varies is as in the default setting."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from jaxprompt.config_values import expected
from jaxprompt.figures.axes import (
    INIT,
    LEARNING_RATE,
    LENGTH,
    LM_ADAPTATION,
    LM_STEPS,
    METHOD,
    OBJECTIVE,
    SEED,
    SIZE,
    SPAN_CORRUPTION,
)
from jaxprompt.figures.gather import Result

DEFAULTS: Mapping[str, Any] = {LENGTH: 100, INIT: "class_labels", OBJECTIVE: LM_ADAPTATION, LM_STEPS: 100_000}
"""The default configuration of Lester et al. (2021, section 3)."""

_FOLDED = (METHOD, SIZE, SEED, LEARNING_RATE)  # what every figure varies, or averages over, or chooses


class Undecided(ValueError):  # noqa: N818
    """Runs with several settings, of which none can be told to be the default one."""


def at_defaults(results: Iterable[Result], free: Collection[str], chosen: Mapping[str, str]) -> list[Result]:
    """Results of each method whose axes, except the free ones, are at that method's default setting.

    The miniature's tasks and others have defaults of their own.

    The default of an axis with several values is the chosen one, else the paper's, else that with which most settings
    were tried, as the other axes are varied around it. Of several learning rates the best is taken.

    Args:
        results: of any methods, sizes, tasks and seeds.
        free: axes that the figure varies.
        chosen: {axis: value as text}; methods that were not run with the value take no notice.

    Raises:
        Undecided: there is no telling which value of an axis is the default.
    """
    groups: dict[tuple[str, bool], list[Result]] = collections.defaultdict(list)
    for result in results:
        groups[result.axes[METHOD], result.trained_on.startswith("mini")].append(result)
    kept = []
    for (method, _), group in groups.items():
        defaults = {
            axis: _default(method, axis, group, chosen.get(axis)) for axis in axes_of(group) if axis not in free
        }
        kept += [result for result in group if _is_at(result.axes, defaults, free)]
    first: dict[Any, Result] = {}
    for result in _at_best_rate(kept, free):  # a sweep may have come by the default setting on more than one way
        key = (result.axes[METHOD], result.axes[SIZE], *(result.axes.get(axis) for axis in free))
        seed = result.axes.get(SEED) if result.main else (result.run, result.num_prompts)
        first.setdefault((key, result.trained_on, result.task, result.split, result.row, seed), result)
    return list(first.values())


def check_chosen(results: Iterable[Result], chosen: Mapping[str, str]) -> None:
    """Refuses choices that no result has.

    Raises:
        ValueError: there is no such axis, or no run with the value.
    """
    results = list(results)
    for axis, value in chosen.items():
        known = axes_of(results)
        if axis not in known:
            raise ValueError(
                f"the runs have no axis {axis!r} that a default could be chosen of; {expected(axis, known)}"
            )
        values = sorted({str(result.axes[axis]) for result in results if result.axes.get(axis) is not None})
        if value not in values:
            raise ValueError(f"no run has {axis}={value}; {expected(value, values)}")


def axes_of(results: Iterable[Result]) -> list[str]:
    """The axes that a default can be chosen of."""
    return list(dict.fromkeys(axis for result in results for axis in result.axes if axis not in _FOLDED))


def _default(method: str, axis: str, results: Sequence[Result], chosen: str | None) -> Any:
    names = axes_of(results)
    settings = {
        tuple(result.axes.get(name) for name in names): result.axes[axis]
        for result in results
        if result.axes.get(axis) is not None
    }
    counts = collections.Counter(settings.values())
    if chosen is not None and (named := [value for value in counts if str(value) == chosen]):
        return named[0]
    if axis in DEFAULTS and DEFAULTS[axis] in counts:
        return DEFAULTS[axis]
    ranked = counts.most_common()
    if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
        values = sorted(counts, key=lambda value: (str(type(value)), value))
        raise Undecided(
            f"{method} was run with {axis} {', '.join(map(str, values))}, and none of these stands out as the default; "
            f"name one, as in --defaults={axis}={values[-1]}"
        )
    return ranked[0][0] if ranked else None


def _is_at(axes: Mapping[str, Any], defaults: Mapping[str, Any], free: Collection[str]) -> bool:
    """Whether axes are at the defaults; what an axis says nothing of is.

    Objective and steps of LM adaptation hang together: without adaptation there are no steps, and no steps of it leave
    span corruption. Where one varies, what follows of the other does.
    """
    for axis, default in defaults.items():
        value = axes.get(axis)
        if axis == LM_STEPS and OBJECTIVE in free and axes.get(OBJECTIVE) not in (None, LM_ADAPTATION):
            continue
        if axis == OBJECTIVE and LM_STEPS in free and value == SPAN_CORRUPTION and axes.get(LM_STEPS) == 0:
            continue
        if value is not None and default is not None and value != default:
            return False
    return True


def _at_best_rate(results: Sequence[Result], free: Collection[str]) -> list[Result]:
    """Of results that differ by learning rate, those at the rate with the best validation scores on average."""

    def group(result: Result) -> Any:
        return (*(result.axes.get(axis) for axis in (METHOD, SIZE, *free)), result.trained_on)

    scores: dict[Any, dict[Any, list[float]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for result in results:
        if result.main and not result.transfer and result.selection is not None:
            scores[group(result)][result.axes.get(LEARNING_RATE)].append(result.selection)
    best = {key: max(rates, key=lambda rate: sum(rates[rate]) / len(rates[rate])) for key, rates in scores.items()}

    def is_best(result: Result) -> bool:
        rate = result.axes.get(LEARNING_RATE)
        return rate == best.get(group(result), rate)

    runs = {result.run for result in results if result.main and is_best(result)}
    # What several prompts came to together has the rate of its run, which need not be theirs.
    return [result for result in results if (is_best(result) if result.main else result.run in runs)]
