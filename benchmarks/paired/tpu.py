"""A case's training step as the TPU compiler sees it."""

from __future__ import annotations

from typing import Any

from paired.shapes import NANO, PUBLISHED, Case


def estimated(case: Case, slice: str) -> dict[str, Any]:
    """Time, utilisation and memory of a device, by `jaxprompt.planning`, on the mesh that is fastest.

    Raises:
        ValueError: there is no such slice, or the model has no published shape.
        ImportError: the TPU compiler is not installed.
    """
    from jaxprompt.experiment import Experiment
    from jaxprompt.planning import environment
    from jaxprompt.planning.planner import make_plan
    from jaxprompt.planning.topologies import find_slice

    if case.model in NANO:
        raise ValueError(f"{case.model} has no published shape, which an estimate is made of; choose another case")
    environment.prepare()
    experiment = Experiment.from_dict(
        {
            "model": {"path": PUBLISHED[case.model], "dtype": case.dtype},
            "prompt": {"length": case.prompt},
            "task": {"name": "text", "max_input_length": case.input, "max_target_length": case.target},
            "train": {"batch_size": case.batch},
        }
    )
    step = make_plan(experiment, find_slice(slice)).chosen
    mesh = step.experiment.mesh
    return {
        "ours": step.seconds,
        "peer": None,
        "ratio": None,
        "unit": "s, estimated",
        "shapes": case.shapes | {"device": slice},
        "mesh": f"{mesh.data} x {mesh.model}",
        "changes": dict(step.changes),
        "utilisation": step.utilisation,
        "device_bytes": step.step.needed_bytes,
    }
