"""What a grid costs on a slice, in chip-hours, from the times that plans give.

A run is its steps and its evaluations: one every `eval.every` steps and one at the end, each of all examples of the
validation split, answers decoded to their full length; and last the scores of the chosen prompt, on the test split as
if it were as large, on the sets of `eval.transfer`, and of the baselines where those are asked for. Left out are what
plans leave out (docs/planning.md), loading and compiling, and sets whose size is not known here. A run that may end
early for want of better scores is counted in full.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, MutableMapping, Sequence

from jaxprompt.experiment import Experiment
from jaxprompt.sweeps.grid import Run
from jaxprompt.sweeps.scored import scored_batches, trains
from jaxprompt.sweeps.shapes import Times, shape_of

HOUR = 3600.0
"""Seconds."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run costs.

    Attributes:
        run: the run.
        shape: what its programs depend on; None where that is not known.
        times: of the shape.
        train: seconds of training.
        evaluation: seconds of evaluation.
        unknown: sets whose evaluation is not counted, for their size is not known.
    """

    run: Run
    shape: Experiment | None
    times: Times
    train: float = 0.0
    evaluation: float = 0.0
    unknown: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """From start to end."""
        return self.train + self.evaluation

    @property
    def chip_hours(self) -> float:
        """What is paid for."""
        return self.seconds * self.times.chips / HOUR


def cost_runs(
    runs: Sequence[Run],
    everything: Sequence[Run],
    root: str,
    measure: Callable[[Experiment], Times],
    known: MutableMapping[str, Times],
    keep: Callable[[], None] = lambda: None,
) -> list[Cost]:
    """The costs of runs; each shape is measured once.

    Args:
        runs: whose costs.
        everything: all runs of their sweep.
        root: the sweep's directory.
        measure: how long a shape's programs take.
        known: {`shape_key`: times} of shapes that need not be measured; gets the others.
        keep: is called whenever it got one.
    """
    by_name = {run.name: run for run in everything}
    costs = []
    for run in runs:
        try:
            shape = shape_of(run.experiment, by_name, root)
            batches, unknown = scored_batches(run.experiment)
        except ValueError as error:
            costs.append(Cost(run, None, Times(problem=str(error))))
            continue
        key = shape_key(shape)
        if key not in known:
            known[key] = measure(shape)
            keep()
        costs.append(cost_of(run, shape, known[key], batches, unknown))
    return costs


def cost_of(run: Run, shape: Experiment, times: Times, batches: int, unknown: tuple[str, ...] = ()) -> Cost:
    """One run's cost.

    Args:
        run: the run.
        shape: its shape.
        times: of the shape.
        batches: that it scores.
        unknown: sets that it scores besides.
    """
    if times.problem:
        return Cost(run, shape, times)
    steps = run.experiment.train.steps if trains(run.experiment) else 0
    batch = times.prefill + shape.task.max_target_length * times.decode
    return Cost(run, shape, times, steps * times.step, batches * batch, unknown)


def shape_key(shape: Experiment) -> str:
    """A shape as text, the same for equal shapes."""
    return json.dumps(shape.to_dict(), sort_keys=True)
