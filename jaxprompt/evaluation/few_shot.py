"""Few-shot text prompts (Brown et al. 2020, section 2): k solved examples, then the question, one behind the other.

The examples are drawn once and are the same for every question, those for a small k among those for a larger one. What
does not fit into the model's input together with the whole question is left out, example by example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxprompt.data.plain_text import plain_text
from jaxprompt.data.row_encoder import RowEncoder
from jaxprompt.data.task_format import Example, TaskFormat
from jaxprompt.data.tasks import Task
from jaxprompt.data.template import Template
from jaxprompt.data.tokens import end_of_text, tokenize
from jaxprompt.evaluation.eval_set import EvalSet, encoded_set
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.patching import PatchedModel, patch
from jaxprompt.prompts.prompt_design import PromptDesign

SHOTS = "solved_examples"
"""The field, first in the input, that holds the solved examples."""

SEPARATOR = "\n\n"
"""Between two examples, as in GPT-3's prompts; to a tokenizer without line breaks, T5's, it is a space."""


def draw_shots(task: Task, split: str, count: int, seed: int, max_examples: int = 0) -> list[Example]:
    """So many examples of a split, drawn without replacement.

    Args:
        task: from `load_task`.
        split: to draw from.
        count: how many.
        seed: of the draw; a smaller count gives the first of a larger one.
        max_examples: only from the first so many; 0: all.

    Raises:
        ValueError: the split has fewer examples with an answer.
    """
    examples = task.examples(split, for_training=True)
    if max_examples:
        examples = examples[:max_examples]
    drawn: list[Example] = []
    for number in np.random.default_rng(seed).permutation(len(examples)):
        if len(drawn) == count:
            break
        example = examples[int(number)]
        if example.target:
            drawn.append(example)
    if len(drawn) < count:
        raise ValueError(
            f"split {split!r} of {task.source} has {len(drawn)} solved examples, not {count}; lower prompt.shots"
        )
    return drawn


def few_shot_model(lm: LanguageModel, template: str) -> PatchedModel:
    """The frozen model with room for solved examples before a question.

    Args:
        lm: from `load_model`.
        template: the question as words and fields, such as a task's `hard_prompt`.

    Raises:
        ValueError: the template holds virtual tokens or a mask.
    """
    parsed = Template.parse(template)
    plain_text(parsed, dict.fromkeys(parsed.fields, ""))  # which refuses templates that are no text
    return patch(lm, PromptDesign(), f"{{{SHOTS}}}{template}")


def few_shot_set(
    model: PatchedModel,
    task: Task,
    split: str,
    shots: Sequence[Example],
    *,
    batch_size: int = 64,
    max_examples: int | None = None,
) -> tuple[EvalSet, float]:
    """A split with solved examples before each question, ready for `score`.

    Args:
        model: from `few_shot_model`.
        task: from `load_task`.
        split: to be asked.
        shots: the solved examples, in their order in the text.
        batch_size: rows decoded at once.
        max_examples: the first so many of the split.

    Returns:
        The set, and how many solved examples a question has on average.

    Raises:
        ValueError: there is no such split, or a field of the question is missing.
    """
    examples = task.examples(split, for_training=False)
    if max_examples is not None:
        examples = examples[:max_examples]
    template = Template.parse(str(model.template).removeprefix(f"{{{SHOTS}}}"))
    texts = [plain_text(template, shot.fields, shot.target) + SEPARATOR for shot in shots]
    questions = [plain_text(template, example.fields) for example in examples]
    encoder = model.row_encoder
    chosen = _that_fit(texts, questions, encoder, _room(encoder, task.format))
    asked = [
        dataclasses.replace(example, fields={**example.fields, SHOTS: "".join(texts[number] for number in numbers)})
        for example, numbers in zip(examples, chosen, strict=True)
    ]
    return encoded_set(model, asked, task.format, batch_size=batch_size), sum(map(len, chosen)) / len(chosen)


def _room(encoder: RowEncoder, format: TaskFormat) -> int:
    """Tokens that examples and question may take together."""
    if not encoder.causal:
        return format.max_input_length - len(end_of_text(encoder.tokenizer))
    # The last token of an answer is never read.
    positions = encoder.max_positions - (format.max_target_length - 1) if encoder.max_positions else None
    return format.max_input_length if positions is None else min(format.max_input_length, positions)


def _that_fit(texts: Sequence[str], questions: Sequence[str], encoder: RowEncoder, room: int) -> list[list[int]]:
    """For each question, the numbers of the examples that go before it."""
    lengths = lambda of: [len(ids) for ids in tokenize(of, encoder.tokenizer, encoder.vocab_size)]  # noqa: E731
    sizes, chosen = lengths(texts), []
    for size in lengths(questions):
        free, numbers = room - size, []
        for number, needed in enumerate(sizes):
            if needed <= free:
                numbers.append(number)
                free -= needed
        chosen.append(numbers)
    # Texts that are joined can take another number of tokens than each for itself.
    unsure = [number for number, numbers in enumerate(chosen) if numbers]
    while unsure:
        joined = ["".join(texts[shot] for shot in chosen[number]) + questions[number] for number in unsure]
        unsure = [number for number, size in zip(unsure, lengths(joined), strict=True) if size > room]
        for number in unsure:
            chosen[number].pop()
        unsure = [number for number in unsure if chosen[number]]
    return chosen
