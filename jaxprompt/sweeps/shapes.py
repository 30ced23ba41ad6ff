"""What a run's programs depend on, and how long one plan says that they take: runs of one shape share it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxprompt.data.template import Template
from jaxprompt.experiment import (
    CorpusConfig,
    EvalConfig,
    Experiment,
    ModelConfig,
    OptimConfig,
    PromptConfig,
    TaskConfig,
    TrainConfig,
)
from jaxprompt.planning.architectures import ARCHITECTURES, read_architecture
from jaxprompt.planning.planner import decode_reports, make_plan
from jaxprompt.planning.step_program import task_format
from jaxprompt.planning.topologies import Slice
from jaxprompt.sweeps.grid import PROMPT_METHODS, Run, source_run
from jaxprompt.sweeps.scored import trains


@dataclasses.dataclass(frozen=True)
class Times:
    """What a plan says of one shape.

    Attributes:
        slice: where it was found to fit: the one that was asked for, or the next larger.
        chips: of that slice.
        mesh: its parts, `data` and `model`.
        changes: {config key: value} that it takes to fit.
        step: seconds of a training step.
        prefill: seconds in which a batch of inputs is read; in pre-training, in which a batch's loss is computed.
        decode: seconds in which one more token of each is written.
        problem: why there is no plan; empty: there is one.
    """

    slice: str = ""
    chips: int = 0
    mesh: tuple[int, int] = (1, 1)
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    problem: str = ""


def shape_of(experiment: Experiment, runs: Mapping[str, Run], root: str) -> Experiment:
    """An experiment with all of it at its defaults that its programs do not depend on.

    N prompts of one run are planned as one prompt over N times the rows, which multiplies the same and holds the same
    but for the prompts themselves. Few-shot prompts, which do not train, are planned as prompts of one token.

    Args:
        experiment: of a run.
        runs: all of the sweep by name: a model that one of them makes has the architecture of the model that it starts
            from.
        root: the sweep's directory.

    Raises:
        ConfigError: the task's lengths are not known.
        CheckpointError: the model's architecture is not known.
    """
    train, eval, model = experiment.train, experiment.eval, experiment.model
    if experiment.corpus.objective:
        corpus, task = _lengths(experiment.corpus), TaskConfig()
    else:
        format = task_format(experiment)
        corpus = CorpusConfig()
        task = TaskConfig(
            source="", max_input_length=format.max_input_length, max_target_length=format.max_target_length
        )
    start = {"init": "", "labels": (), "text": "", "path": "", "scale": 0.0, "vocab_limit": 0}
    prompt = dataclasses.replace(experiment.prompt, **start)  # type: ignore[arg-type]
    if prompt.template:  # of which the number of virtual tokens counts, and not the task's fields
        slots = Template.parse(prompt.template).num_slots
        template = f"{{soft:{slots}}} {{input}} {{target}}" if slots else "{input} {target}"
        prompt = dataclasses.replace(prompt, template=template)
    if not trains(experiment):
        prompt = PromptConfig(length=1)
    elif prompt.method not in PROMPT_METHODS:
        prompt = PromptConfig(method=prompt.method)
    return Experiment(
        model=ModelConfig(
            path=_architecture(model.path, runs, root),
            dtype=model.dtype,
            remat=model.remat,
            shard_data=model.shard_data,
            quantize=model.quantize,
            attention=model.attention,
        ),
        prompt=prompt,
        task=task,
        corpus=corpus,
        train=TrainConfig(
            batch_size=train.batch_size * train.num_prompts,
            accumulate=train.accumulate,
            dropout=train.dropout,
            normalization=train.normalization,
            tune_model=train.tune_model,
        ),
        optim=OptimConfig(name=experiment.optim.name, factored=experiment.optim.factored),
        eval=EvalConfig(
            batch_size=eval.batch_size * train.num_prompts,
            method="beam" if eval.num_beams > 1 else "greedy",
            num_beams=eval.num_beams,
        ),
        mesh=experiment.mesh,
    )


def measure(shape: Experiment, slice: Slice, say: Callable[[str], None]) -> Times:
    """Compiles a shape's programs for a slice.

    Raises:
        ImportError: the TPU compiler is not installed.
    """
    try:
        plan = make_plan(shape, slice, say)
        chosen = plan.chosen
        if not chosen.fits:
            return Times(problem=f"does not fit {slice.name}, and nothing that was tried does")
        reports = decode_reports(chosen)
    except (ValueError, RuntimeError) as error:
        return Times(problem=f"{type(error).__name__}: {error}")
    seconds = {name: report.estimate.seconds if report.estimate else math.nan for name, report in reports.items()}
    if any(math.isnan(value) for value in seconds.values()):
        return Times(problem=f"evaluation does not fit {chosen.slice.name}; lower eval.batch_size")
    mesh = chosen.experiment.mesh
    return Times(
        chosen.slice.name,
        chosen.slice.num_chips,
        (mesh.data, mesh.model),
        dict(chosen.changes),
        chosen.seconds,
        seconds.get("prefill", 0.0) + seconds.get("loss", 0.0),
        seconds.get("decode_step", 0.0),
    )


def _lengths(corpus: CorpusConfig) -> CorpusConfig:
    return CorpusConfig(objective=corpus.objective, row_length=corpus.row_length, row_targets=corpus.row_targets)


def _architecture(path: str, runs: Mapping[str, Run], root: str) -> str:
    """The published model that a model has the architecture of, or where its own stands."""
    while (name := source_run(path, root)) in runs:
        path = runs[name].experiment.model.path
    found = read_architecture(path)
    return next((known for known, values in ARCHITECTURES.items() if values == found), path)
