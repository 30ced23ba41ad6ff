"""Runs as commands for whatever starts them: a batch system's arrays, machines by ssh."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from jaxprompt.paths import as_path
from jaxprompt.sweeps.grid import Run
from jaxprompt.sweeps.runner import AXES, write_axes
from jaxprompt.sweeps.settings import as_flag


def train_command(run: Run, root: str) -> str:
    """The command that makes a run, quoted for a shell.

    Args:
        run: of a sweep.
        root: the sweep's directory.

    Raises:
        ConfigError: one of its settings cannot be written as a flag.
    """
    flags = [f"--config={run.config}", f"--workdir={root.rstrip('/')}/{run.name}"]
    flags += [as_flag(key, value) for key, value in run.settings.items()]
    return shlex.join(["python", "launch/train.py", *flags])


def describe(runs: Sequence[Run], root: str) -> str:
    """Writes `axes.json` into the runs' directories, for `launch/train.py` does not know it.

    Returns:
        What keeps it from being written, as on a machine that does not have the directory; empty: nothing did.
    """
    try:
        for run in runs:
            write_axes(run, as_path(root) / run.name)
    except OSError as error:
        return f"no {AXES} is written below {root} ({error}); figures will read each run's own config instead"
    return ""
