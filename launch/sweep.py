"""Runs a grid of experiments, writes it as commands, or says what it costs.

    python launch/sweep.py --sweep=configs/sweeps/lester.py:figure1 --root=runs/lester --only=size=small,base
    python launch/sweep.py --config=configs/quickstart.py --axis=task=sentiment,entailment --axis=seed=0,1,2 \
        --axis=optim.learning_rate=0.1,0.3 --set=train.steps=200 --root=runs/grid

Every run has a directory of its own below --root. The same command again skips what is finished, resumes what was
interrupted and tries again what failed; a run that fails leaves the others alone, and the exit code is 1 at the end.
Runs that differ in their seed or learning rate alone are one run of several prompts (--nofold: they are not).

--print writes a command for each run instead, and its axes.json. --plan=v5e-16 says what the grid costs on that slice,
without a TPU (`pip install "jax[tpu]"`); shapes that --output=costs.json holds are not compiled again. --share=0/2
takes every second run, for two processes that share a grid. SIGTERM, Ctrl-C and several machines: as with
launch/train.py. More in docs/sweeps.md.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from jaxprompt.cli import clear_errors, no_arguments, parse_flags, session

SWEEP = flags.DEFINE_string("sweep", "", "A grid: configs/sweeps/FILE.py[:ARGUMENT].")
CONFIG = flags.DEFINE_string("config", "", "Instead of --sweep, an experiment: configs/FILE.py[:ARGUMENT].")
AXIS = flags.DEFINE_multi_string("axis", [], "KEY=VALUE,VALUE,…: a key of the experiment, or an argument of --config.")
SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE for all runs.")
ONLY = flags.DEFINE_multi_string("only", [], "AXIS=VALUE,VALUE,…: only these of the runs.")
ROOT = flags.DEFINE_string("root", None, "Gets a directory for each run.")
PRINT = flags.DEFINE_bool("print", False, "Print a command for each run, and run nothing.")
PLAN = flags.DEFINE_string("plan", "", "A slice, such as v5e-16: say what the runs cost there, and run nothing.")
OUTPUT = flags.DEFINE_string("output", "", "For --plan: a JSON file for all of it.")
SHARE = flags.DEFINE_string("share", "0/1", "I/N: only every N-th run, from run I on.")
FOLD = flags.DEFINE_bool("fold", True, "Train runs that differ in seed or learning rate alone as one.")
FAIL_FAST = flags.DEFINE_bool("fail_fast", False, "End with the first run that fails.")
PROGRESS = flags.DEFINE_bool("progress", True, "Show a progress bar.")
CACHE = flags.DEFINE_bool("compilation_cache", True, "Keep compiled programs for the next start (XDG_CACHE_HOME).")
TRACEBACK = flags.DEFINE_bool("traceback", False, "On an error, show where it was raised.")


def main(arguments: Sequence[str]) -> None:
    """Expands the grid, and does with it what was asked for."""
    no_arguments(arguments)
    if PRINT.value or PLAN.value:
        with clear_errors(TRACEBACK.value):
            (print_plan if PLAN.value else print_commands)(*read_runs())
        return
    with session(traceback=TRACEBACK.value, compilation_cache=CACHE.value) as speaks:
        from jaxprompt.sweeps import runner
        from jaxprompt.training.run import run

        make = functools.partial(run, progress=speaks and PROGRESS.value)
        say = functools.partial(print, flush=True) if speaks else lambda line: None
        name = runner.REPORT if SHARE.value == "0/1" else f"sweep-{SHARE.value.replace('/', '-of-')}.json"
        options: dict[str, Any] = {"report": name, "fail_fast": FAIL_FAST.value, "tracebacks": TRACEBACK.value}
        outcomes = runner.run_all(read_runs()[0], ROOT.value, make, say=say, **options)
        say(f"\n{runner.to_text(outcomes)}")
        if not runner.succeeded(outcomes):
            sys.exit(1)


def read_runs() -> tuple[list[Any], list[Any]]:
    """The runs that were asked for, and all runs of their sweep."""
    from jaxprompt.sweeps.sweep import open_sweep

    return open_sweep(
        ROOT.value, sweep=SWEEP.value, config=CONFIG.value, axes=AXIS.value, settings=SET.value, only=ONLY.value,
        part=SHARE.value, folds=FOLD.value,
    )  # fmt: skip


def print_commands(runs: list[Any], _: list[Any]) -> None:
    """A command for each run; what launch/train.py does not know of it goes into its directory."""
    from jaxprompt.sweeps.commands import describe, train_command

    print("\n".join(train_command(run, ROOT.value) for run in runs))
    if problem := describe(runs, ROOT.value):
        print(problem, file=sys.stderr)


def print_plan(runs: list[Any], everything: list[Any]) -> None:
    """What the runs cost."""
    from jaxprompt.paths import as_path
    from jaxprompt.planning import environment
    from jaxprompt.planning.topologies import find_slice
    from jaxprompt.sweeps import cost_report, shapes

    environment.prepare()
    slice, say = find_slice(PLAN.value), functools.partial(print, file=sys.stderr, flush=True)
    measure = functools.partial(shapes.measure, slice=slice, say=say)
    output = as_path(OUTPUT.value) if OUTPUT.value else None
    print(cost_report.make_report(runs, everything, ROOT.value, slice.name, measure, output))


if __name__ == "__main__":
    flags.mark_flags_as_required(["root"])
    app.run(main, flags_parser=parse_flags)
