"""A sweep as the command line asks for it: from a file or from axes, in whole or in part."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from jaxprompt.config_values import ConfigError
from jaxprompt.sweeps.config_files import read_sweep
from jaxprompt.sweeps.folding import fold
from jaxprompt.sweeps.grid import Run, expand, link
from jaxprompt.sweeps.selection import select, share
from jaxprompt.sweeps.settings import read_axis, read_setting


def open_sweep(
    root: str,
    *,
    sweep: str = "",
    config: str = "",
    axes: Sequence[str] = (),
    settings: Sequence[str] = (),
    only: Sequence[str] = (),
    part: str = "0/1",
    folds: bool = True,
) -> tuple[list[Run], list[Run]]:
    """The runs that are asked for, and all runs of their sweep.

    Args:
        root: the sweep's directory.
        sweep: `configs/sweeps/FILE.py[:ARGUMENT]`.
        config: instead of it, `configs/FILE.py[:ARGUMENT]`, for a grid of `axes`.
        axes: `KEY=VALUE,VALUE,…` each.
        settings: `KEY=VALUE` each, for all runs.
        only: `AXIS=VALUE,VALUE,…` each.
        part: `I/N`, every N-th run.
        folds: whether runs that can be one are made one.

    Raises:
        ConfigError: the sweep, a key or a value means nothing.
    """
    if bool(sweep) == bool(config):
        raise ConfigError("give either a sweep file (--sweep) or a config file (--config) with --axis")
    if sweep and axes:
        raise ConfigError("the axes of a sweep file are its own; leave --axis out, or choose among its runs by --only")
    shared = re.fullmatch(r"(\d+)/(\d+)", part)
    if shared is None or int(shared[1]) >= int(shared[2]):
        raise ConfigError(f"--share is {part!r}; expected I/N, such as 0/2 and 1/2 for two processes")
    grid = {key: values for key, values in map(read_axis, axes)}
    stages = read_sweep(sweep) if sweep else [{"config": config, "axes": grid}]
    runs = expand(stages, root, dict(map(read_setting, settings)))
    chosen = select(runs, {key: values.split(",") for key, _, values in (text.partition("=") for text in only)})
    if folds:
        runs, chosen = fold(runs), fold(chosen)
    runs = link(runs, root)
    needs = {run.name: run.needs for run in runs}
    chosen = [dataclasses.replace(run, needs=needs[run.name]) for run in chosen]
    return share(chosen, int(shared[1]), int(shared[2])), runs
