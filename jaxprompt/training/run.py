"""An experiment from its config to its summary: what `launch/train.py` runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from jaxprompt.evaluation.curves import plot_learning_curve
from jaxprompt.evaluation.probing import restrict
from jaxprompt.evaluation.text_metrics import UNBOUNDED
from jaxprompt.experiment import ConfigError, Experiment
from jaxprompt.models.initialize import new_model
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.models.load import load_model
from jaxprompt.patching import patch
from jaxprompt.paths import as_path, total_bytes
from jaxprompt.processes import is_main, main_says
from jaxprompt.prompts.prompt_design import PromptDesign
from jaxprompt.sharding import DATA, MODEL, check_rows, make_mesh
from jaxprompt.training.loop import Fitted
from jaxprompt.training.members import members_of
from jaxprompt.training.open_tasks import open_task
from jaxprompt.training.pretrain import pretrain
from jaxprompt.training.prompt_design import TEXT_PROMPT, design_prompt
from jaxprompt.training.scoring import BEST, ENSEMBLE, TRAINED, final_split, one_task, open_transfer, summarize_scores
from jaxprompt.training.train import MEMBERS, check_scorable, train
from jaxprompt.training.workdir import open_workdir, write_json

SUMMARY = "summary.json"


def run(
    experiment: Experiment,
    workdir: str | epath.PathLike,
    *,
    progress: bool = True,
    stop_after: int | None = None,
) -> str:
    """Runs or resumes an experiment; of one that is finished, says again what came of it.

    Args:
        experiment: all that the run depends on.
        workdir: the run's directory.
        progress: whether to show a progress bar.
        stop_after: save and return after this many updates in all.

    Returns:
        What came of it, as text for people.

    Raises:
        ConfigError: the experiment is inconsistent, or the directory holds another one.
    """
    if main_says((as_path(workdir) / SUMMARY).exists()):  # file systems may show it to some processes later
        directory = open_workdir(workdir, experiment)
        return _report(json.loads((directory / SUMMARY).read_bytes()), directory)
    task = None if experiment.corpus.objective else open_task(experiment)
    lm = open_model(experiment)
    if task is None:
        directory = open_workdir(workdir, experiment)
        fitted = pretrain(lm, experiment, directory, progress=progress, stop_after=stop_after)
        if not fitted.finished:
            return _stopped(fitted, experiment)
        return _finish(_summary(fitted, lm), directory, directory / "model")

    check_scorable(task, final_split(experiment), experiment.eval)
    transfer = open_transfer(experiment, task)
    method = experiment.prompt.build(task.format.init_words)
    text = experiment.task.template(experiment.prompt.template or task.format.input)
    model = patch(lm, method, text, prepend=experiment.prompt.prepend)
    left_out: dict[str, int] = {}
    if experiment.eval.method == "token":
        task, left_out = restrict(one_task(task, "eval.method='token'"), model)
    if isinstance(method, PromptDesign):
        task = one_task(task, "prompt.method='prompt_design'")
        if transfer or members_of(experiment.train, experiment.optim, experiment.seed):
            raise ConfigError(
                "prompt.method='prompt_design' has one text for one task; leave eval.transfer, train.num_prompts, "
                "train.seeds and train.learning_rates as they are by default"
            )
        directory = open_workdir(workdir, experiment)
        designed = design_prompt(lm, method, experiment, task, directory)
        fitted = Fitted(0, True, {}, designed.best, designed.seconds, 0, lm.num_params)
        return _finish(_summary(fitted, lm) | designed.summary, directory, directory / TEXT_PROMPT)
    directory = open_workdir(workdir, experiment)
    result = train(
        model,
        task,
        directory,
        train=experiment.train,
        optim=experiment.optim,
        eval=experiment.eval,
        seed=experiment.seed,
        train_split=experiment.task.train_split,
        validation_split=experiment.task.validation_split,
        max_train_examples=experiment.task.max_train_examples,
        progress=progress,
        stop_after=stop_after,
    )
    if not result.fitted.finished:
        return _stopped(result.fitted, experiment)
    found = summarize_scores(experiment, task, lm, result, transfer)
    split = found["split"]
    rows = {name: values for name, values in found["scores"].items() if name not in (TRAINED, BEST)}
    drawn = {name: _drawn(values, experiment.eval.metric) for name, values in rows.items()}
    lines = {f"{name}, {metric}, {split}": value for name, of in drawn.items() for metric, value in of.items()}
    if is_main():
        plot_learning_curve(directory / "metrics.jsonl", directory / "learning_curve.png", references=lines)
    summary = _summary(result.fitted, lm) | found
    if any(left_out.values()):
        summary["left_out"] = left_out
    return _finish(summary, directory, result.best_dir)


def open_model(experiment: Experiment) -> LanguageModel:
    """The language model that an experiment names.

    Raises:
        ConfigError: it names none.
        ValueError: the devices, or the batch, cannot be split as `mesh` says.
        CheckpointError: it cannot be loaded.
    """
    config = experiment.model
    if not config.path:
        raise ConfigError("model.path is empty; name a checkpoint directory, or a hub name such as google/t5-base")
    tokenizer = config.tokenizer or True
    options: dict[str, Any] = {
        "dtype": config.dtype,
        "remat": config.remat,
        "tokenizer": tokenizer,
        "mesh": make_mesh(experiment.mesh.data, experiment.mesh.model),
        "shard_data": config.shard_data,
        "attention": config.attention,
    }
    train = experiment.train  # looked at before anything is loaded
    check_rows(train.batch_size // train.accumulate, options["mesh"], "train.batch_size / train.accumulate")
    if config.from_scratch:
        return new_model(config.path, jax.random.key(experiment.seed), **options)
    return load_model(config.path, quantize=config.quantize, **options)


def _summary(fitted: Fitted, lm: LanguageModel) -> dict[str, Any]:
    data, model = (1, 1) if lm.mesh is None else lm.mesh.devices.shape
    return {
        "step": fitted.step,
        "best": fitted.best,
        "num_trainable": fitted.num_trainable,
        "num_frozen": fitted.num_frozen,
        "seconds": fitted.seconds,
        "device": f"{data * model} x {jax.devices()[0].device_kind}",
        "mesh": {DATA: data, MODEL: model},
        "jax": jax.__version__,
    }


def _finish(summary: dict[str, Any], directory: epath.Path, best_dir: epath.Path) -> str:
    """Writes the summary, which marks the run as finished and so comes last."""
    exports = {best_dir, *(directory / name for name in ("prompt", MEMBERS, "model") if (directory / name).exists())}
    saved = sum(map(total_bytes, exports))
    summary = summary | {"export": best_dir.name, "saved_bytes": saved}
    write_json(directory / SUMMARY, summary)
    return _report(summary, directory)


def _stopped(fitted: Fitted, experiment: Experiment) -> str:
    return f"stopped after step {fitted.step} of {experiment.train.steps}; the same command goes on from there"


def _drawn(values: Mapping[str, float], metric: str) -> Mapping[str, float]:
    """The scores of a baseline that are drawn beside the curves: the one that chooses, or all."""
    return {metric: values[metric]} if metric else values


def _written(metric: str, value: float) -> str:
    return f"{metric} {value:.3f}" if metric in UNBOUNDED else f"{metric} {100 * value:.1f} %"


def _all_written(values: Mapping[str, float]) -> str:
    return "  ".join(_written(metric, value) for metric, value in values.items())


def _report(summary: dict[str, Any], directory: epath.Path) -> str:
    best_dir = directory / summary["export"]
    if "scores" not in summary:
        return f"step {summary['step']}, best validation {summary['best']}\nmodel: {best_dir}"
    total = summary["num_trainable"] + summary["num_frozen"]
    rows = [(name, _all_written(values)) for name, values in summary["scores"].items()]
    for other, found in summary.get("transfer", {}).items():
        said = {name: values for name, values in found["rows"].items() if name in (TRAINED, ENSEMBLE)}
        rows += [(f"{other}, {name}", _all_written(values)) for name, values in said.items()]
    if left_out := summary.get("left_out"):
        facts = ", ".join(f"{count} of {split}" for split, count in left_out.items())
        rows.append(("left out", f"{facts}: their answers are not one token of the vocabulary"))
    if shots := summary.get("shots"):
        best = summary["best"]["shots"]
        used = f"{shots[str(best)]['used']:.1f} on average had room"
        rows.append(("solved examples", f"{best}, the best of {', '.join(shots)}; {used}"))
    rows += [
        ("trainable numbers", f"{summary['num_trainable']:,} ({100 * summary['num_trainable'] / total:.4f} %)"),
        ("frozen numbers", f"{summary['num_frozen']:,}"),
        ("saved export", f"{summary['saved_bytes'] / 1024:.0f} KiB in {best_dir}"),
        ("best step", f"{summary['best']['step']} of {summary['step']}"),
        ("training time", f"{summary['seconds']:.0f} s on {summary['device']}"),
        *([] if shots else [("learning curve", str(directory / "learning_curve.png"))]),
        ("all of it", str(directory / SUMMARY)),
    ]
    width = max(len(name) for name, _ in rows)
    title = f"scores on the {summary['split']} split"
    return "\n".join(["", title, "-" * len(title), *(f"{name:<{width}}  {text}" for name, text in rows)])
