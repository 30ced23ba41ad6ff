"""Tuning a prompt on a task: data, training, the choice of the best checkpoint, and its export."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from jaxprompt import trees
from jaxprompt.data.mixture import Mixture, scored_tasks
from jaxprompt.data.tasks import Task
from jaxprompt.evaluation import metrics
from jaxprompt.evaluation.ensemble import EnsembleModel
from jaxprompt.evaluation.task_sets import TaskScores, eval_sets, score_member_sets, score_sets
from jaxprompt.experiment import ConfigError, EvalConfig, TrainConfig
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.models.load import load_model
from jaxprompt.models.quantization import in_dtype
from jaxprompt.models.save import recover_hf, replace_hf
from jaxprompt.patching import PatchedModel, patch
from jaxprompt.paths import absolute, as_path
from jaxprompt.prompts.exported import ExportedPrompt
from jaxprompt.prompts.model_tuning import ModelTuning
from jaxprompt.prompts.store import BaseModel, PromptMeta, check_prompt, load_prompt, save_prompt
from jaxprompt.sharding import replicate
from jaxprompt.training.loop import Fitted, Score, fit
from jaxprompt.training.members import MemberBatches, members_of, stack
from jaxprompt.training.optim import FREEZE, TUNE_MODEL, OptimConfig, preset
from jaxprompt.training.task_batches import task_batches
from jaxprompt.types import Params

MEMBERS = "prompts"
"""Where a run that trains several prompts keeps the best of each, by number."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What training came to.

    Attributes:
        fitted: steps, the best validation score, parameter counts and time.
        best_dir: the best export: a prompt's directory, or a Hugging Face directory where only the model was tuned.
        model: the model with the best export in place, or None where no evaluation took place yet.
        params: its parameters.
    """

    fitted: Fitted
    best_dir: epath.Path
    model: PatchedModel | None
    params: Params | None


def train(
    model: PatchedModel,
    task: Task | Mixture,
    workdir: str | epath.PathLike,
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
        task: from `load_task`; or a mixture of tasks, that one prompt or model learns together.
        workdir: a directory of the run's own; gets `metrics.jsonl`, `checkpoints/` and the best export, `prompt/` or
            `model/` (with `train.tune_model` both), which replaces one that is there. Of several prompts, `prompts/0`,
            `prompts/1`, … hold each one's best, and `prompt/` the best of them.
        train: steps, batch, loss, checkpoints, whether the model's weights train beside the prompt.
        optim: default: the optimiser of Lester et al. (2021).
        eval: evaluation on the validation split.
        rules: what trains, as ordered (regex, `train`, `model` or `freeze`) over paths such as
            `model/decoder/final_layer_norm`; None: the method's, or with `train.tune_model` everything. Weights of the
            model may train with model tuning or `train.tune_model` only, for an exported prompt holds none.
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
    directory = as_path(workdir)
    train, optim, eval = train or TrainConfig(), optim or preset("lester2021"), eval or EvalConfig()
    if rules is None:
        rules = TUNE_MODEL if train.tune_model and not _is_bare(model) else model.method.rules
    check_scorable(task, validation_split, eval)
    _check_exportable(model, rules, train)
    validation = eval_sets(
        model, task, validation_split, batch_size=eval.batch_size, max_examples=eval.max_examples or None
    )

    members = members_of(train, optim, seed)
    if members:
        _check_stackable(model, rules, train)
    ensemble = EnsembleModel(model, len(members))

    def evaluate(params: Params) -> Score | list[Score]:
        weights = in_model_dtype(model, params)
        if members:
            each = score_member_sets(ensemble, weights, validation, method=eval.method, search=eval.search)
            return [as_score(scores) for scores in each]
        return as_score(score_sets(model, weights, validation, method=eval.method, search=eval.search))

    def as_score(scores: TaskScores) -> Score:
        return Score(scores.values, scores.values[eval.metric] if eval.metric else scores.selection)

    # Compiled, as it is within the training steps, so that the export is what was trained to the last bit.
    exported = jax.jit(lambda prompt: model.method.export(prompt, model.lm))

    def export(params: Params, best: dict[str, Any]) -> None:
        lm = model.lm
        if train.tune_model or _is_bare(model):
            weights = in_model_dtype(model, params)["model"]
            lm = dataclasses.replace(lm, params=weights, name=str(absolute(directory / "model")))
            replace_hf(lm, directory / "model")
        if not _is_bare(model):
            meta = PromptMeta(
                method=model.method.name,
                base_model=BaseModel.of(lm),
                template=str(model.template),
                labels=task.format.labels,
                task=task.format.name,
                score=best["values"],
            )
            prompt, number = exported(params["prompt"]), best.get("member")
            if number is not None:
                save_prompt(directory / MEMBERS / str(number), prompt, meta)
            if number is None or best["leads"]:
                save_prompt(directory / "prompt", prompt, meta)

    seeds = [member.seed for member in members] or [seed]
    streams, epoch = task_batches(
        model,
        task,
        train_split,
        batch_size=train.batch_size,
        seeds=seeds,
        max_examples=max_train_examples,
        packing=train.packing,
        accumulate=train.accumulate,
    )
    if not optim.schedule_every:
        optim = dataclasses.replace(optim, schedule_every=max(1, epoch // train.batch_size))
    batches = MemberBatches(streams, model.config.pad_token_id) if members else streams[0]
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
            members=members,
            progress=progress,
            stop_after=stop_after,
        )
    best_dir = directory / ("model" if _is_bare(model) else "prompt")
    best = load_best(model, best_dir, model_tuned=train.tune_model) if fitted.best else (None, None)
    return TrainResult(fitted, best_dir, *best)


def check_scorable(task: Task | Mixture, split: str, eval: EvalConfig) -> None:
    """Finds out before the training, and not after it, that a split's scores could not be had.

    Raises:
        ValueError: there is no such split, or it is empty.
        ConfigError: it has no answers to compare with, the task has no such metric, or no labels to rank.
    """
    named = {name: _metrics_of(each, split, eval) for name, each in scored_tasks(task).items()}
    known = {f"{name}/{metric}" if name else metric for name, values in named.items() for metric in values}
    if eval.metric and eval.metric not in known:
        raise ConfigError(f"eval.metric is {eval.metric!r}, but {task.format.name} has {sorted(known)}")


def _metrics_of(task: Task, split: str, eval: EvalConfig) -> list[str]:
    """The names of the values that scoring the split will give; raises what `check_scorable` does."""
    asked = task.examples(split, for_training=False)[: eval.max_examples or None]
    answered = [one for one in asked if one.target or one.references]
    if len(answered) < len(asked):
        number = f"{len(asked) - len(answered)} of {len(asked)} examples without" if answered else "no"
        raise ConfigError(
            f"split {split!r} of {task.source} has {number} answers to score by; name others as task.validation_split "
            "and task.test_split"
        )
    if eval.method == "rank" and not (task.format.labels or all(one.choices for one in answered)):
        raise ConfigError(f"eval.method is 'rank', but {task.format.name} has no labels to rank; use 'greedy'")
    if eval.vote != "majority" and not task.format.labels:
        raise ConfigError(
            f"eval.vote is {eval.vote!r}, but {task.format.name} has no labels to vote on; use 'majority'"
        )
    if eval.method == "token" and not task.format.vocabulary:
        raise ConfigError(
            f"eval.method is 'token', but {task.format.name} has no vocabulary to choose from; name a file of words as "
            "task.vocabulary, or use 'greedy'"
        )
    return list(metrics.score(task.format.metrics, [answered[0].target], answered[:1], task.format.labels))


def _is_bare(model: PatchedModel) -> bool:
    """Whether there is no prompt, so that what trains is the model alone."""
    return isinstance(model.method, ModelTuning)


def _check_exportable(model: PatchedModel, rules: trees.Rules[str], train: TrainConfig) -> None:
    paths = trees.flatten(jax.eval_shape(model.init_params, jax.random.key(0)))
    labels = trees.match_rules(rules, paths)
    trained = [path for path, label in labels.items() if path.startswith("model/") and label != FREEZE]
    if trained and not (train.tune_model or _is_bare(model)):
        raise ConfigError(
            f"the rules train {trained[0]!r} and {len(trained) - 1} more weights of the model, which the export of a "
            f"{model.method.name} prompt does not hold; freeze model/.*, set train.tune_model=True to export the model "
            "as well, or patch the model with ModelTuning"
        )


def _check_stackable(model: PatchedModel, rules: trees.Rules[str], train: TrainConfig) -> None:
    """Makes sure that all of a prompt trains, which several have of their own, and none of the model, which they share.

    Raises:
        ConfigError: it is otherwise.
    """
    if train.tune_model or _is_bare(model):
        raise ConfigError(
            f"train.num_prompts={train.num_prompts} prompts share one frozen model, and with {model.method.name} every "
            "weight of it trains; set train.num_prompts=1, and neither train.seeds nor train.learning_rates"
        )
    labels = trees.match_rules(rules, trees.flatten(jax.eval_shape(model.init_params, jax.random.key(0))))
    if frozen := [path for path, label in labels.items() if path.startswith("prompt/") and label == FREEZE]:
        raise ConfigError(
            f"the rules freeze {frozen[0]!r} and {len(frozen) - 1} more parts of the prompt, but of several prompts "
            "that train together all parts must; leave the rules out, or train one prompt at a time"
        )


def load_best(model: PatchedModel, directory: epath.Path, *, model_tuned: bool = False) -> tuple[PatchedModel, Params]:
    """A run's best export, read back from its directory, in a model of its own.

    Args:
        model: what was trained.
        directory: the prompt's, or the model's where that alone was tuned.
        model_tuned: whether the model's weights trained beside the prompt; they are in `model/` beside it.
    """
    lm = model.lm
    if model_tuned or _is_bare(model):
        weights = directory.with_name("model") if model_tuned else directory
        recover_hf(weights)
        tuned = load_model(weights, dtype=lm.module.dtype, tokenizer=False, mesh=lm.mesh, shard_data=lm.shard_data)
        lm = dataclasses.replace(tuned, tokenizer=model.tokenizer)
    bare = _is_bare(model)
    best = patch(lm, ModelTuning(), str(model.template)) if bare else read_back(model, lm, directory)
    params = best.init_params(jax.random.key(0))
    return best, {**params, "prompt": replicate(params["prompt"], lm.mesh)}


def load_members(model: PatchedModel, directory: epath.Path, members: Sequence[int]) -> tuple[EnsembleModel, Params]:
    """The best exports of several prompts of a run, read back, as one ensemble in this order.

    Args:
        model: what was trained.
        directory: the run's.
        members: numbers of prompts.
    """
    loaded = [read_back(model, model.lm, directory / MEMBERS / str(number)) for number in members]
    prompts = stack([one.init_params(jax.random.key(0))["prompt"] for one in loaded])
    params = {"model": model.lm.params, "prompt": replicate(prompts, model.lm.mesh)}
    return EnsembleModel(loaded[0], len(loaded)), params


def read_back(model: PatchedModel, lm: LanguageModel, directory: epath.Path) -> PatchedModel:
    """A saved prompt on a language model, in the template that it was trained in."""
    injection, meta = load_prompt(directory)
    check_prompt(injection, meta, lm)
    return patch(lm, ExportedPrompt(injection), meta.template, prepend=not model.as_prefix)


def in_model_dtype(model: PatchedModel, params: Params) -> Params:
    """Weights that trained are kept in fp32; the model computes with them in its own dtype."""
    return {**params, "model": in_dtype(params["model"], model.lm.module.dtype)}
