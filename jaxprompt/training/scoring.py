"""What a finished run is scored by: its prompt, its ensemble and the baselines, on its task and on others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from jaxprompt.data.mixture import Mixture
from jaxprompt.data.named_source import NamedSource
from jaxprompt.data.tasks import Task, load_task
from jaxprompt.data.template import Template
from jaxprompt.data.transfer import in_words_of
from jaxprompt.evaluation.ensemble import by_score, ensemble_vote
from jaxprompt.evaluation.eval_set import EvalSet
from jaxprompt.evaluation.evaluate import label_scores, score_predictions
from jaxprompt.evaluation.task_sets import TaskScores, by_task, eval_sets, score_member_sets, score_sets
from jaxprompt.experiment import ConfigError, EvalConfig, Experiment
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.patching import PatchedModel, patch
from jaxprompt.prompts.model_tuning import ModelTuning
from jaxprompt.training.members import members_of
from jaxprompt.training.open_tasks import within_lengths
from jaxprompt.training.train import TrainResult, check_scorable, load_members
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


def open_transfer(experiment: Experiment, task: Task | Mixture) -> dict[str, tuple[Task, str]]:
    """The tasks of `eval.transfer` by name, worded as the one that is trained on, each with the split to be scored.

    That they can be asked and scored is made sure of here, which is before the training and not after it.

    Args:
        experiment: names them.
        task: that is trained on.

    Raises:
        ConfigError: the experiment trains on a mixture, or two entries have one name.
        ValueError: a task cannot be had, or cannot be asked as the one that is trained on; or a split has no answers.
    """
    found: dict[str, tuple[Task, str]] = {}
    for entry in experiment.eval.transfer:
        named = NamedSource.of_source(entry)
        split = named.split or final_split(experiment)
        other = load_task(named.name or None, named.source, experiment.task.data_dir or None)
        other = within_lengths(in_words_of(other, one_task(task, "eval.transfer").format), experiment.task)
        if (name := named.name or other.format.name) in found:
            raise ConfigError(f"eval.transfer names {name!r} twice; write NAME=SOURCE to tell them apart")
        check_scorable(other, split, dataclasses.replace(experiment.eval, metric=""))
        template = Template.parse(experiment.prompt.template or other.format.input)
        template.check(fields=tuple(other.examples(split, for_training=False)[0].fields))
        found[name] = other, split
    return found


def summarize_scores(
    experiment: Experiment,
    task: Task | Mixture,
    lm: LanguageModel,
    result: TrainResult,
    transfer: Mapping[str, tuple[Task, str]],
) -> dict[str, Any]:
    """A finished run's scores, as its summary holds them.

    Args:
        experiment: what was run.
        task: that was trained on, or the mixture.
        lm: the frozen model.
        result: what training came to.
        transfer: from `open_transfer`.

    Returns:
        `split`, `scores`; of a mixture also `tasks`, the trained prompt's metrics by task; where asked for `transfer`,
        the same as `scores` for other tasks by name; of several prompts `members`.

    Raises:
        ValueError: the run stopped before its first evaluation.
    """
    split = final_split(experiment)
    scored = _scored(experiment, task, split, lm, result, baselines=experiment.eval.baselines)
    summary: dict[str, Any] = {"split": split, "scores": scored.rows}
    if isinstance(task, Mixture):
        summary["tasks"] = by_task(scored.rows[TRAINED])
    members: dict[int, dict[str, Any]] = {number: {"scores": values} for number, values in scored.members.items()}
    for name, (other, at) in transfer.items():
        found = _scored(experiment, other, at, lm, result, baselines=False)
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


def _scored(
    experiment: Experiment, task: Task | Mixture, split: str, lm: LanguageModel, result: TrainResult, *, baselines: bool
) -> Scored:
    if result.model is None or result.params is None:
        raise ValueError("there is no best export to score: the run stopped before its first evaluation")
    options = experiment.eval
    rows = _baselines(experiment, task, split, lm) if baselines else {}
    if not result.fitted.members:
        rows[TRAINED] = _evaluated(_asking(experiment, result.model, task), result.params, task, split, options)
        return Scored(rows)
    found = {number: best["selection"] for number, best in enumerate(result.fitted.members) if best}
    order = by_score(found)
    ensemble, params = load_members(result.model, result.best_dir.parent, order)
    ensemble = dataclasses.replace(ensemble, model=_asking(experiment, ensemble.model, task))
    sets = eval_sets(
        ensemble.model, task, split, batch_size=options.batch_size, max_examples=options.max_examples or None
    )
    each = score_member_sets(ensemble, params, sets, method=options.method, search=options.search)
    votes = {
        name: _votes(options.vote, ensemble, params, data, [scores.tasks[name].predictions for scores in each])
        for name, data in sets.items()
    }
    names = each[0].values
    rows[TRAINED] = rows[BEST] = each[0].values
    rows[AVERAGE] = {name: sum(scores.values[name] for scores in each) / len(each) for name in names}
    rows[ENSEMBLE] = TaskScores({name: score_predictions(votes[name], data) for name, data in sets.items()}).values
    return Scored(rows, {number: scores.values for number, scores in sorted(zip(order, each, strict=True))})


def _asking(experiment: Experiment, model: PatchedModel, task: Task | Mixture) -> PatchedModel:
    """What was trained, reading a task's own text; a template that the experiment names holds for every task."""
    if experiment.prompt.template:
        return model
    return patch(model.lm, model.method, experiment.task.template(task.format.input), prepend=not model.as_prefix)


def _votes(rule: str, ensemble: Any, params: Params, data: EvalSet, answers: list[list[str]]) -> list[str]:
    if rule == "majority":
        return ensemble_vote(answers)
    scores = label_scores(ensemble, params, data)
    return ensemble_vote(answers, scores, rule=rule, labels=data.format.labels)


def _baselines(experiment: Experiment, task: Task | Mixture, split: str, lm: LanguageModel) -> dict[str, Values]:
    """The frozen model without a prompt, and with one in words."""
    template = Template.parse(experiment.prompt.template or task.format.input)
    templates: Mapping[str, str | None] = {NO_PROMPT: template.without_slots(), HARD_PROMPT: task.format.hard_prompt}
    return {
        name: _evaluated(bare, bare.init_params(jax.random.key(0)), task, split, experiment.eval)
        for name, text in templates.items()
        if text
        for bare in [patch(lm, ModelTuning(), experiment.task.template(text))]
    }


def _evaluated(model: PatchedModel, params: Params, task: Task | Mixture, split: str, options: EvalConfig) -> Values:
    sets = eval_sets(model, task, split, batch_size=options.batch_size, max_examples=options.max_examples or None)
    return score_sets(model, params, sets, method=options.method, search=options.search).values


def one_task(task: Task | Mixture, why: str) -> Task:
    """The task, for what is not defined for several.

    Args:
        task: what a run trains on.
        why: what is not, for the message.

    Raises:
        ConfigError: it is a mixture.
    """
    if isinstance(task, Mixture):
        raise ConfigError(f"{why} is for one task, but task.mixture names {list(task.tasks)}; leave one of them out")
    return task
