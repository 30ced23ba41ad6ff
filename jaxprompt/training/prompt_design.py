"""Prompt design: text prompts with solved examples on the frozen model, of which the best is kept."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from etils import epath

from jaxprompt.data.task_format import Example
from jaxprompt.data.tasks import Task
from jaxprompt.evaluation.evaluate import Scores, evaluate, score
from jaxprompt.evaluation.few_shot import draw_shots, few_shot_model, few_shot_set
from jaxprompt.experiment import EvalConfig, Experiment
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.patching import patch
from jaxprompt.prompts.model_tuning import ModelTuning
from jaxprompt.prompts.prompt_design import PromptDesign
from jaxprompt.training.metric_writers import MetricWriters
from jaxprompt.training.scoring import HARD_PROMPT, NO_PROMPT, final_split
from jaxprompt.training.workdir import write_json

FEW_SHOT = "few-shot"
TEXT_PROMPT = "text_prompt"
"""The directory, in a run's, of what prompt design chose."""


@dataclasses.dataclass(frozen=True)
class Designed:
    """What prompt design came to.

    Attributes:
        best: `{"step": 0, "shots": …, "selection": …, "values": {…}}` on the validation split.
        summary: `split`; `scores` on it, of the question alone, without and with words that ask it, and of the best
            number of solved examples; and `shots`, by number of solved examples that was tried, how many found room on
            average, and the values on the validation split.
        seconds: wall time.
    """

    best: dict[str, Any]
    summary: dict[str, Any]
    seconds: float


def design_prompt(
    lm: LanguageModel, method: PromptDesign, experiment: Experiment, task: Task, directory: epath.Path
) -> Designed:
    """Tries text prompts with different numbers of solved examples, and keeps the best.

    The question is `prompt.template` or, where that is empty, the task's words for a frozen model, or else its input.

    Args:
        lm: the frozen model.
        method: says which numbers of examples are tried.
        experiment: the run's; its seed decides which examples are drawn.
        task: what is asked.
        directory: the run's; gets `metrics.jsonl`, where the number of solved examples stands for the step, and the
            chosen examples as `text_prompt/text_prompt.json`.

    Raises:
        ValueError: a split is missing, has too few examples, or the question is not plain text.
    """
    began, config, options = time.monotonic(), experiment.task, experiment.eval
    question = config.template(experiment.prompt.template or task.format.hard_prompt or task.format.input)
    model, numbers = few_shot_model(lm, question), sorted(set(method.shots))
    drawn = draw_shots(task, config.train_split, numbers[-1], experiment.seed, config.max_train_examples)

    def assess(count: int, split: str) -> tuple[Scores, float]:
        data, used = few_shot_set(
            model, task, split, drawn[:count], batch_size=options.batch_size, max_examples=options.max_examples or None
        )
        return score(model, {"model": lm.params}, data, method=options.method, search=options.search), used

    shots: dict[str, dict[str, Any]] = {}
    best: dict[str, Any] = {}
    with MetricWriters(directory, -1, experiment.train) as log:
        for count in numbers:
            scores, used = assess(count, config.validation_split)
            log.write(count, "validation", scores.values)
            shots[str(count)] = {"used": used, "values": scores.values}
            selection = scores.values[options.metric] if options.metric else scores.selection
            if not best or selection > best["selection"]:
                best = {"step": 0, "shots": count, "selection": selection, "values": scores.values}
    final = final_split(experiment)
    plain = config.template(task.format.input)
    templates = {NO_PROMPT: plain, HARD_PROMPT: question if question != plain else ""}
    rows = {name: _bare(lm, template, task, final, options) for name, template in templates.items() if template}
    known = best["values"] if final == config.validation_split else assess(best["shots"], final)[0].values
    chosen = [_plain(example) for example in drawn[: best["shots"]]]
    (directory / TEXT_PROMPT).mkdir(parents=True, exist_ok=True)
    write_json(
        directory / TEXT_PROMPT / f"{TEXT_PROMPT}.json",
        {"question": question, "shots": best["shots"], "examples": chosen, "task": task.format.name, "model": lm.name},
    )
    summary = {"split": final, "scores": {**rows, FEW_SHOT: known}, "shots": shots}
    return Designed(best, summary, time.monotonic() - began)


def _bare(lm: LanguageModel, template: str, task: Task, split: str, options: EvalConfig) -> dict[str, float]:
    return evaluate(
        patch(lm, ModelTuning(), template),
        {"model": lm.params},
        task,
        split,
        batch_size=options.batch_size,
        method=options.method,
        search=options.search,
        max_examples=options.max_examples or None,
    ).values


def _plain(example: Example) -> dict[str, Any]:
    return {"fields": dict(example.fields), "target": example.target}
