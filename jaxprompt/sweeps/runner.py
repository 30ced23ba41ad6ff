"""The runs of a sweep, one after the other: what is finished is left, what fails is reported, and the others go on."""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from jaxprompt.experiment import Experiment
from jaxprompt.paths import as_path, is_remote, write_whole
from jaxprompt.processes import count, is_main, main_says
from jaxprompt.sweeps.grid import Run
from jaxprompt.training.run import SUMMARY
from jaxprompt.training.workdir import open_workdir

AXES, REPORT = "axes.json", "sweep.json"
FINISHED, BEFORE, FAILED, SKIPPED = "finished", "was finished", "failed", "skipped"
STOPPED, LEFT = "stopped", "not begun"
_DONE = (FINISHED, BEFORE)
_SHOWN = 160  # letters of a message in the table


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Attributes:
        run: the run.
        state: `finished` now, `was finished` before, `failed`, `skipped` since what it needs is not there, `stopped` by
            a signal, `not begun`.
        message: why, if it did not finish; else its best score.
        seconds: that it took now.
    """

    run: Run
    state: str = LEFT
    message: str = ""
    seconds: float = 0.0


def run_all(
    runs: Sequence[Run],
    root: str,
    make: Callable[[Experiment, epath.Path], str],
    *,
    report: str = REPORT,
    fail_fast: bool = False,
    tracebacks: bool = False,
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Makes the runs of a sweep, in order; called again, it goes on.

    An error ends its run, not the sweep. Processes of one job cannot tell an error of one of them from one of all, so
    there it does. A signal ends the sweep, and lets the run that is under way save.

    Args:
        runs: linked; those that one needs come before it.
        root: gets a directory for each run, with `axes.json` in it, and the report.
        make: makes or resumes one run in its directory, and gives its report.
        report: name of the file that holds the outcomes, written after each run.
        fail_fast: whether the first error ends the sweep; the runs that are left are `not begun`.
        tracebacks: whether errors are printed with where they were raised.
        say: is told of each run.

    Raises:
        Preempted: a signal came; the same sweep goes on from there.
    """
    directory = as_path(root)
    outcomes = {run.name: Outcome(run) for run in runs}
    for number, run in enumerate(runs, 1):
        say(f"[{number}/{len(runs)}] {run.name}" + (f", {run.folded} runs in one" if run.folded > 1 else ""))
        began = time.monotonic()
        state, message = STOPPED, "by a signal; the same sweep goes on with it"
        try:
            if missing := _missing(run, directory, outcomes):
                state, message = SKIPPED, missing
            elif _is_finished(run, directory / run.name):
                state, message = BEFORE, _best(directory / run.name)
            else:
                say(make(run.experiment, directory / run.name))
                state, message = FINISHED, _best(directory / run.name)
        except Exception as error:
            state, message = FAILED, f"{type(error).__name__}: {_text(error)}"
            if count() > 1:
                raise
            if tracebacks:
                print(traceback.format_exc(), file=sys.stderr)
        finally:
            outcomes[run.name] = Outcome(run, state, message, time.monotonic() - began)
            if is_main():
                _write(directory / report, {"runs": [_values(one) for one in outcomes.values()]})
        if state != FINISHED:
            say(f"{state}: {message}")
        if state == FAILED and fail_fast:
            break
        if state in (FINISHED, FAILED):
            gc.collect()  # what the run held, its model above all, before the next one is loaded
    return list(outcomes.values())


def succeeded(outcomes: Sequence[Outcome]) -> bool:
    """Whether all runs are finished."""
    return all(one.state in _DONE for one in outcomes)


def to_text(outcomes: Sequence[Outcome]) -> str:
    """A line for each run: what came of it, after how long, and its score or error."""
    width = max([len(one.run.name) for one in outcomes], default=0)
    lines = []
    for one in outcomes:
        first = one.message.partition("\n")[0]
        shown = first if len(first) <= _SHOWN else f"{first[:_SHOWN]} …"
        lines.append(f"{one.run.name:<{width}}  {one.state:<12}  {one.seconds:>8.0f} s  {shown}".rstrip())
    counts = {state: sum(one.state == state for one in outcomes) for state in dict.fromkeys(o.state for o in outcomes)}
    return "\n".join([*lines, ", ".join(f"{number} {state}" for state, number in counts.items())])


def write_axes(run: Run, workdir: epath.Path) -> None:
    """Writes what the run is of the grid into its directory, where figures look for it."""
    _write(workdir / AXES, run.axes)


def _is_finished(run: Run, workdir: epath.Path) -> bool:
    """Claims the directory for the run, describes it, and says whether there is nothing left to do."""
    open_workdir(workdir, run.experiment)
    if is_main():
        write_axes(run, workdir)
    return _has_summary(workdir)


def _missing(run: Run, root: epath.Path, outcomes: Mapping[str, Outcome]) -> str:
    """Why a run cannot start, if it cannot: what it starts from is not there."""
    for name in run.needs:
        if name in outcomes:
            if outcomes[name].state not in _DONE:
                return f"it starts from {name}, which {_was(outcomes[name].state)}"
        elif not _has_summary(root / name):
            return f"it starts from {name}, which is neither finished nor among the runs that were chosen"
    return ""


def _was(state: str) -> str:
    return {FAILED: "failed", SKIPPED: "was skipped"}.get(state, f"is {state}")


def _has_summary(workdir: epath.Path) -> bool:
    return main_says((workdir / SUMMARY).exists())  # file systems may show it to some processes later


def _best(workdir: epath.Path) -> str:
    if not _has_summary(workdir):
        return ""
    best = json.loads((workdir / SUMMARY).read_bytes()).get("best") or {}
    values: Mapping[str, float] = best.get("values", {})
    scores = ", ".join(f"{metric} {value:.3f}" for metric, value in values.items())
    return f"best validation {scores}, step {best['step']}" if scores else ""


def _text(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _values(outcome: Outcome) -> dict[str, Any]:
    values = {name: getattr(outcome, name) for name in ("state", "message", "seconds")}
    return {"name": outcome.run.name} | values | {"axes": dict(outcome.run.axes)}


def _write(path: epath.Path, values: Mapping[str, Any]) -> None:
    if not is_remote(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
