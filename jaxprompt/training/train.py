"""Tuning a prompt on a task: data, training, the choice of the best checkpoint, and its export."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import jax

from jaxprompt import trees
from jaxprompt.data.features import encode_examples
from jaxprompt.data.pipeline import TrainBatches, train_batches
from jaxprompt.data.tasks import Task
from jaxprompt.evaluation import metrics
from jaxprompt.evaluation.evaluate import eval_set, score
from jaxprompt.experiment import ConfigError, EvalConfig, TrainConfig
from jaxprompt.models.load import load_model
from jaxprompt.models.save import recover_hf, replace_hf
from jaxprompt.patching import PatchedModel, patch
from jaxprompt.prompts.exported import ExportedPrompt
from jaxprompt.prompts.model_tuning import ModelTuning
from jaxprompt.prompts.store import BaseModel, PromptMeta, check_prompt, load_prompt, save_prompt
from jaxprompt.training.loop import Fitted, Score, fit
from jaxprompt.training.optim import FREEZE, OptimConfig, preset
from jaxprompt.types import Params


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What training came to.

    Attributes:
        fitted: steps, the best validation score, parameter counts and time.
        best_dir: the best export: a prompt's directory, or a Hugging Face directory where the model was tuned.
        model: the model with the best export in place, or None where no evaluation took place yet.
        params: its parameters.
    """

    fitted: Fitted
    best_dir: Path
    model: PatchedModel | None
    params: Params | None


def train(
    model: PatchedModel,
    task: Task,
    workdir: str | os.PathLike[str],
    *,
    train: TrainConfig | None = None,
    optim: OptimConfig | None = None,
    eval: EvalConfig | None = None,
    rules: trees.Rules[str] | None = None,
    seed: int = 0,
    train_split: str = "train",
    validation_split: str = "validation",
    max_train_examples: int = 0,
    progress: bool = True,
    stop_after: int | None = None,
) -> TrainResult:
    """Trains a patched model on a task, or goes on with the unfinished run in the same directory.

    Args:
        model: from `patch`; its template must name the task's fields.
        task: from `load_task`.
        workdir: a directory of the run's own; gets `metrics.jsonl`, `checkpoints/` and the best export, `prompt/` or
            `model/`, which replaces one that is there.
        train: steps, batch, loss, checkpoints.
        optim: default: the optimiser of Lester et al. (2021).
        eval: evaluation on the validation split.
        rules: what trains, as ordered (regex, `train` or `freeze`) over paths such as `model/decoder/final_layer_norm`;
            None: the method's. Only model tuning may train weights of the model, for an exported prompt holds none.
        seed: of initialisation, order of the data and dropout.
        train_split: trained on.
        validation_split: chooses the best.
        max_train_examples: the first so many of the split; 0: all.
        progress: whether to show a progress bar.
        stop_after: save and return after this many updates in all.

    Raises:
        ValueError: a split is missing, empty or without answers, a label or the template does not fit.
        RuleError: a parameter that no rule covers, or an unused rule.
        TrainingDiverged: a number is no longer finite.
    """
    directory = Path(workdir)
    train, optim, eval = train or TrainConfig(), optim or preset("lester2021"), eval or EvalConfig()
    rules = model.method.rules if rules is None else rules
    check_scorable(task, validation_split, eval)
    _check_exportable(model, rules)
    validation = eval_set(
        model, task, validation_split, batch_size=eval.batch_size, max_examples=eval.max_examples or None
    )

    def evaluate(params: Params) -> Score:
        scores = score(model, in_model_dtype(model, params), validation, method=eval.method)
        return Score(scores.values, scores.values[eval.metric] if eval.metric else scores.selection)

    def export(params: Params, best: dict[str, Any]) -> None:
        if isinstance(model.method, ModelTuning):
            weights = in_model_dtype(model, params)["model"]
            replace_hf(dataclasses.replace(model.lm, params=weights), directory / "model")
            return
        meta = PromptMeta(
            method=model.method.name,
            base_model=BaseModel.of(model.lm),
            template=str(model.template),
            labels=task.format.labels,
            task=task.format.name,
            score=best["values"],
        )
        save_prompt(directory / "prompt", model.method.export(params["prompt"], model.lm), meta)

    batches = task_batches(model, task, train_split, train.batch_size, seed, max_train_examples)
    with contextlib.closing(batches):
        fitted = fit(
            model,
            batches,
            train=train,
            optim=optim,
            workdir=directory,
            seed=seed,
            eval_every=eval.every,
            evaluate=evaluate,
            export=export,
            rules=rules,
            progress=progress,
            stop_after=stop_after,
        )
    best_dir = directory / ("model" if isinstance(model.method, ModelTuning) else "prompt")
    return TrainResult(fitted, best_dir, *(load_best(model, best_dir) if fitted.best else (None, None)))


def check_scorable(task: Task, split: str, eval: EvalConfig) -> None:
    """Finds out before the training, and not after it, that a split's scores could not be had.

    Raises:
        ValueError: there is no such split, or it is empty.
        ConfigError: it has no answers to compare with, the task has no such metric, or no labels to rank.
    """
    answered = next((one for one in task.examples(split) if one.target or one.references), None)
    if answered is None:
        raise ConfigError(
            f"split {split!r} of {task.source} has no answers to score by; name others as task.validation_split and "
            "task.test_split"
        )
    if eval.method == "rank" and not task.format.labels:
        raise ConfigError(f"eval.method is 'rank', but {task.format.name} has no labels to rank; use 'greedy'")
    known = metrics.score(task.format.metrics, [answered.target], [answered], task.format.labels)
    if eval.metric and eval.metric not in known:
        raise ConfigError(f"eval.metric is {eval.metric!r}, but {task.format.name} has {sorted(known)}")


def _check_exportable(model: PatchedModel, rules: trees.Rules[str]) -> None:
    paths = trees.flatten(jax.eval_shape(model.init_params, jax.random.key(0)))
    labels = trees.match_rules(rules, paths)
    trained = [path for path, label in labels.items() if path.startswith("model/") and label != FREEZE]
    if trained and not isinstance(model.method, ModelTuning):
        raise ConfigError(
            f"the rules train {trained[0]!r} and {len(trained) - 1} more weights of the model, which the export of a "
            f"{model.method.name} prompt does not hold; freeze model/.*, or patch the model with ModelTuning"
        )


def task_batches(
    model: PatchedModel, task: Task, split: str, batch_size: int, seed: int, max_examples: int = 0
) -> TrainBatches:
    """Training batches of a split, without end."""
    examples = task.examples(split)
    if max_examples:
        examples = examples[:max_examples]
    features = encode_examples(examples, model.template, model.tokenizer, model.config.vocab_size, task.format)
    return train_batches(features, batch_size=batch_size, seed=seed, pad_id=model.config.pad_token_id)


def load_best(model: PatchedModel, directory: Path) -> tuple[PatchedModel, Params]:
    """A run's best export, read back from its directory, in a model of its own."""
    if isinstance(model.method, ModelTuning):
        recover_hf(directory)
        tuned = load_model(directory, dtype=model.lm.module.dtype, tokenizer=False)
        best = patch(dataclasses.replace(tuned, tokenizer=model.tokenizer), ModelTuning(), str(model.template))
    else:
        injection, meta = load_prompt(directory)
        check_prompt(injection, meta, model.lm)
        best = patch(model.lm, ExportedPrompt(injection), meta.template)
    return best, best.init_params(jax.random.key(0))


def in_model_dtype(model: PatchedModel, params: Params) -> Params:
    """Weights that trained are kept in fp32; the model computes with them in its own dtype."""
    dtype = model.lm.module.dtype
    return {**params, "model": jax.tree.map(lambda weight: weight.astype(dtype), params["model"])}
