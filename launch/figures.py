"""Gathers finished runs into CSV, and draws the figures and tables of Lester et al. (2021) from them.

    python launch/figures.py --runs=runs/lester --output=figures
    python launch/figures.py --runs=runs/miniature,gs://bucket/runs --output=figures --only=figure1,table3
    python launch/figures.py --output=figures --only=figure4,table4

--runs are directories; every run in them, however deep, that has a `summary.json` counts. `results.csv` has one row a
prompt and task, `summary.csv` means and standard deviations over seeds, both with scores in [0, 1]; every figure's and
table's own numbers, in percent, lie in a CSV beside it. What no run was made for is left out, with the command that
would make one. `figure4` and `table4` need no runs.

Where runs do not show which of their settings is the default one, which figures hold the others at, --defaults says it:
--defaults=length=20,init=class_labels.
"""

import os
import sys
from collections.abc import Sequence

from absl import app, flags

# Nothing here computes, so no accelerator is taken from those that do. Read when jax is imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxprompt.cli import clear_errors, no_arguments, parse_flags

RUNS = flags.DEFINE_list("runs", "", "Directories with runs, separated by commas.")
OUTPUT = flags.DEFINE_string("output", None, "The directory for CSV, pictures and tables.")
ONLY = flags.DEFINE_list("only", "", "Figures and tables, such as figure1,table3; empty: all.")
DEFAULTS = flags.DEFINE_list("defaults", "", "AXIS=VALUE of the default setting, separated by commas.")
TRACEBACK = flags.DEFINE_bool("traceback", False, "On an error, show where it was raised.")


def main(arguments: Sequence[str]) -> None:
    """Gathers, draws, says what is missing."""
    no_arguments(arguments)
    with clear_errors(TRACEBACK.value):
        from jaxprompt.figures.gather import gather
        from jaxprompt.figures.produce import produce
        from jaxprompt.paths import as_path

        chosen = dict(part.partition("=")[::2] for part in DEFAULTS.value)
        if not all(chosen.values()):
            raise ValueError(f"--defaults is {','.join(DEFAULTS.value)!r}; expected AXIS=VALUE, such as length=20")
        gathered = gather(RUNS.value)
        for notice in gathered.notices:
            print(notice, file=sys.stderr)
        produced = produce(gathered.results, as_path(OUTPUT.value), ONLY.value, chosen)
        for name, reason in produced.missing.items():
            print(f"no {name}: {reason}", file=sys.stderr)
        print(f"{len(gathered.results)} results of {len({result.run for result in gathered.results})} runs")
        print("\n".join(map(str, produced.files)))


if __name__ == "__main__":
    flags.mark_flags_as_required(["output"])
    app.run(main, flags_parser=parse_flags)
