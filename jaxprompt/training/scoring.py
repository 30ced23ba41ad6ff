"""What a finished run is scored by: its prompt, its ensemble and the baselines, on its task and on others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from jaxprompt.data.tasks import Task, load_task
from jaxprompt.data.template import Template
from jaxprompt.data.transfer import in_format_of
from jaxprompt.evaluation.ensemble import by_score, ensemble_vote
from jaxprompt.evaluation.evaluate import (
    EvalSet,
    eval_set,
    evaluate,
    label_scores,
    score_members,
    score_predictions,
)
from jaxprompt.experiment import EvalConfig, Experiment
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.patching import PatchedModel, patch
from jaxprompt.prompts.model_tuning import ModelTuning
from jaxprompt.training.members import members_of
from jaxprompt.training.train import TrainResult, load_members
from jaxprompt.types import Params

Values = dict[str, float]
NO_PROMPT, HARD_PROMPT, TRAINED = "no prompt", "hard prompt", "trained prompt"
AVERAGE, BEST, ENSEMBLE = "average", "best", "ensemble"


@dataclasses.dataclass(frozen=True)
class Scored:
    """Scores on one split of one task.

    Attributes:
        rows: metrics by who answered: the trained prompt, the baselines where asked for, and of several prompts their
            average, the best by validation, and the ensemble (Lester et al. 2021, Table 3).
        members: of several prompts, the metrics of each by number.
    """

    rows: dict[str, Values]
    members: dict[int, Values] = dataclasses.field(default_factory=dict)


def final_split(experiment: Experiment) -> str:
    """The split that a finished run is scored on."""
    return experiment.task.test_split or experiment.task.validation_split


def summarize_scores(experiment: Experiment, task: Task, lm: LanguageModel, result: TrainResult) -> dict[str, Any]:
    """A finished run's scores, as its summary holds them.

    Args:
        experiment: what was run.
        task: that was trained on.
        lm: the frozen model.
        result: what training came to.

    Returns:
        `split`, `scores`; where asked for `transfer`, the same for other tasks by name; of several prompts `members`.

    Raises:
        ValueError: the run stopped before its first evaluation; a task cannot be had, or cannot be asked as the one
            that was trained on.
    """
    split = final_split(experiment)
    scored = _scored(experiment, task, split, lm, result, baselines=experiment.eval.baselines)
    summary: dict[str, Any] = {"split": split, "scores": scored.rows}
    members: dict[int, dict[str, Any]] = {number: {"scores": values} for number, values in scored.members.items()}
    for other in experiment.eval.transfer:
        name, source, at = transfer_of(other, split)
        elsewhere = in_format_of(load_task(name or None, source, experiment.task.data_dir or None), task.format)
        found = _scored(experiment, elsewhere, at, lm, result, baselines=False)
        name = name or elsewhere.format.name
        summary.setdefault("transfer", {})[name] = {"split": at, "rows": found.rows}
        for number, values in found.members.items():
            members[number].setdefault("transfer", {})[name] = values
    if result.fitted.members:
        summary["members"] = [
            dataclasses.asdict(member)
            | ({"best": best} if (best := result.fitted.members[number]) else {})
            | ({"diverged": result.fitted.lost[number]} if number in result.fitted.lost else {})
            | members.get(number, {})
            for number, member in enumerate(members_of(experiment.train, experiment.optim, experiment.seed))
        ]
    return summary


def transfer_of(entry: str, split: str) -> tuple[str, str, str]:
    """The parts of an entry of `eval.transfer`, `[NAME=]SOURCE[@SPLIT]`: name or empty, source, split.

    Args:
        entry: such as `mrpc=tfds:glue/mrpc@validation` or `mini:sentiment/inn`.
        split: that of an entry without one.
    """
    head, equals, source = entry.partition("=")
    name, source = (head, source) if equals and ":" not in head else ("", entry)
    where, at, of = source.rpartition("@")
    return (name, where, of) if at and "/" not in of else (name, source, split)


def _scored(
    experiment: Experiment, task: Task, split: str, lm: LanguageModel, result: TrainResult, *, baselines: bool
) -> Scored:
    if result.model is None or result.params is None:
        raise ValueError("there is no best export to score: the run stopped before its first evaluation")
    options = experiment.eval
    rows = _baselines(experiment, task, split, lm) if baselines else {}
    if not result.fitted.members:
        rows[TRAINED] = _evaluated(result.model, result.params, task, split, options)
        return Scored(rows)
    found = {number: best["selection"] for number, best in enumerate(result.fitted.members) if best}
    order = by_score(found)
    ensemble, params = load_members(result.model, result.best_dir.parent, order)
    data = eval_set(
        ensemble.model, task, split, batch_size=options.batch_size, max_examples=options.max_examples or None
    )
    each = score_members(ensemble, params, data, method=options.method, search=options.search)
    votes = _votes(options.vote, ensemble, params, data, [scores.predictions for scores in each])
    names = each[0].values
    rows[TRAINED] = rows[BEST] = each[0].values
    rows[AVERAGE] = {name: sum(scores.values[name] for scores in each) / len(each) for name in names}
    rows[ENSEMBLE] = score_predictions(votes, data).values
    return Scored(rows, {number: scores.values for number, scores in sorted(zip(order, each, strict=True))})


def _votes(rule: str, ensemble: Any, params: Params, data: EvalSet, answers: list[list[str]]) -> list[str]:
    if rule == "majority":
        return ensemble_vote(answers)
    scores = label_scores(ensemble, params, data)
    return ensemble_vote(answers, scores, rule=rule, labels=data.format.labels)


def _baselines(experiment: Experiment, task: Task, split: str, lm: LanguageModel) -> dict[str, Values]:
    """The frozen model without a prompt, and with one in words."""
    template = Template.parse(experiment.prompt.template or task.format.input)
    templates: Mapping[str, str | None] = {NO_PROMPT: template.without_slots(), HARD_PROMPT: task.format.hard_prompt}
    return {
        name: _evaluated(bare, bare.init_params(jax.random.key(0)), task, split, experiment.eval)
        for name, text in templates.items()
        if text
        for bare in [patch(lm, ModelTuning(), text)]
    }


def _evaluated(model: PatchedModel, params: Params, task: Task, split: str, options: EvalConfig) -> Values:
    return evaluate(
        model,
        params,
        task,
        split,
        batch_size=options.batch_size,
        method=options.method,
        search=options.search,
        max_examples=options.max_examples or None,
    ).values
