"""Says whether a run fits a TPU slice, and how fast it should be, before one is rented.

    python launch/plan.py --config=configs/lester.py:size=xxl,task=boolq --topology=v5e-16 --output=plan.json
    python launch/plan.py --config=configs/quickstart.py --topology=v5e:1x1 --config.model.path=gpt2-xl

The run's own training step, and the two programs that decode, are compiled by the TPU compiler (`pip install
"jax[tpu]"`, on any Linux x86-64 machine) for the slice: a Cloud TPU type (v3-8, v4-8, v5e-16, v5p-8, v6e-8) or a
topology (v5e:4x4). Needs neither a TPU nor the model's weights; takes a minute or two for each setting. The mesh is
chosen unless --config.mesh names one. What does not fit is followed by the nearest setting that does.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from jaxprompt.cli import clear_errors, no_arguments, parse_flags, read_experiment

CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment: configs/FILE.py[:ARGUMENT].", lock_config=True)
TOPOLOGY = flags.DEFINE_string("topology", None, "A slice, such as v5e-16 or v4-8, or a topology, such as v5e:4x4.")
DECODE = flags.DEFINE_bool("decode", True, "Compile what evaluation decodes with, too.")
COSTLIEST = flags.DEFINE_integer("costliest", 0, "List so many of the step's costliest operations.", lower_bound=0)
OUTPUT = flags.DEFINE_string("output", None, "A JSON file for all of it.")
TRACEBACK = flags.DEFINE_bool("traceback", False, "On an error, show where it was raised.")


def main(arguments: Sequence[str]) -> None:
    """Compiles, prints, writes."""
    no_arguments(arguments)
    with clear_errors(TRACEBACK.value):
        from jaxprompt.planning import environment
        from jaxprompt.planning.planner import decode_reports, make_plan
        from jaxprompt.planning.report import to_text, to_values
        from jaxprompt.planning.topologies import find_slice
        from jaxprompt.training.workdir import write_json

        environment.prepare()
        experiment = read_experiment(CONFIG.value)
        plan = make_plan(experiment, find_slice(TOPOLOGY.value), lambda line: print(line, file=sys.stderr, flush=True))
        decode = decode_reports(plan.chosen) if DECODE.value and plan.chosen.fits else {}
        print(to_text(plan, decode, COSTLIEST.value))
        if OUTPUT.value:
            write_json(Path(OUTPUT.value), to_values(plan, decode))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "topology"])
    app.run(main, flags_parser=parse_flags)
