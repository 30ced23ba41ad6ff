"""Some runs of a grid: those of chosen values, and the shares of several processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxprompt.config_values import ConfigError, expected
from jaxprompt.sweeps.grid import Run, written


def select(runs: Sequence[Run], only: Mapping[str, Sequence[str]]) -> list[Run]:
    """The runs that have one of the wanted values on each axis; a run without that axis is kept.

    Args:
        runs: before any are folded.
        only: {axis: values as text}; the axis `stage` is the stage's name.

    Raises:
        ConfigError: no run has such an axis, or such a value.
    """
    for axis, wanted in only.items():
        known = list(dict.fromkeys(written(run.values[axis]) for run in runs if axis in run.values))
        if not known:
            axes = dict.fromkeys(name for run in runs for name in run.values)
            raise ConfigError(f"no run has the axis {axis!r}; {expected(axis, axes)}")
        for value in wanted:
            if value not in known:
                raise ConfigError(f"no run has {axis}={value}; {expected(value, known)}")
    return [
        run
        for run in runs
        if all(axis not in run.values or written(run.values[axis]) in wanted for axis, wanted in only.items())
    ]


def share(runs: Sequence[Run], index: int, count: int) -> list[Run]:
    """Every n-th run; a run is in the share of those that it needs.

    Args:
        runs: linked.
        index: which share, from 0.
        count: of shares.
    """
    chain: dict[str, int] = {}  # run -> the first run of those that hang together with it
    for number, run in enumerate(runs):
        joined = {chain[name] for name in run.needs if name in chain}
        chain[run.name] = first = min(joined, default=number)
        chain = {name: first if at in joined else at for name, at in chain.items()}
    order = {first: number for number, first in enumerate(sorted(set(chain.values())))}
    return [run for run in runs if order[chain[run.name]] % count == index]
