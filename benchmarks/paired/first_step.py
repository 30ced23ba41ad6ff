"""A process that makes one training step and says so; what `startup.py` starts.

python -m paired.first_step SIDE CASE_AS_JSON
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from paired.shapes import Case

DONE = "first step"


def main(arguments: Sequence[str]) -> None:
    """Imports, makes the model, compiles, steps, says so."""
    side, text = arguments
    case = Case(**json.loads(text))
    if side == "ours":
        from jaxprompt.cli import use_compilation_cache
        from paired import ours

        use_compilation_cache()
        work = ours.train_step(case)
    else:
        from paired import peft_training

        work = peft_training.train_step(case)
    work.run(1)
    print(DONE, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
