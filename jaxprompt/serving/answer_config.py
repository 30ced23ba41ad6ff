"""How the lines of each prompt are answered, as its task was, unless it is said otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprompt.config_values import expected
from jaxprompt.data.task_format import TaskFormat
from jaxprompt.data.tasks import FORMATS
from jaxprompt.data.template import Template
from jaxprompt.evaluation.generation_config import GenerationConfig

if TYPE_CHECKING:
    from jaxprompt.serving.bank import PromptBank

METHODS = ("greedy", "beam", "rank")


@dataclasses.dataclass(frozen=True)
class AnswerConfig:
    """How the lines of one prompt are answered.

    Attributes:
        method: `greedy` and `beam` generate; `rank` takes the likeliest of the line's own choices or, without any, of
            the prompt's labels.
        max_new_tokens: to generate at most, the end of text counted.
        max_input_length: tokens of text kept of a line, virtual tokens not counted.
        num_beams: for `beam`.
        length_penalty: for `beam`; see `GenerationConfig`.
        labels: for `rank`.

    Raises:
        ValueError: an unknown method, or a number out of its range.
    """

    method: str = "greedy"
    max_new_tokens: int = 16
    max_input_length: int = 512
    num_beams: int = 5
    length_penalty: float = 1.0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; choose from {METHODS}")
        if self.method == "beam" and self.num_beams < 2:
            raise ValueError(f"beam search takes at least 2 beams, got {self.num_beams}; one is method 'greedy'")
        if self.max_input_length < 1:
            raise ValueError(f"max_input_length must be at least 1, got {self.max_input_length}")
        self.generation()

    def generation(self) -> GenerationConfig:
        """What generates its answers."""
        if self.method != "beam":
            return GenerationConfig(self.max_new_tokens)
        return GenerationConfig(self.max_new_tokens, num_beams=self.num_beams, length_penalty=self.length_penalty)


def answer_configs(
    bank: PromptBank,
    *,
    method: Mapping[str, str] | str = "greedy",
    max_new_tokens: Mapping[str, int] | int = 0,
    max_input_length: Mapping[str, int] | int = 0,
    num_beams: int = 5,
    length_penalty: float = 1.0,
) -> dict[str, AnswerConfig]:
    """How to answer for each prompt of a bank.

    Args:
        bank: the prompts; the labels are those that they were saved with.
        method: for all prompts, or by name; `greedy` where there is none.
        max_new_tokens: the same; 0, or none: as the prompt's task has it, 16 where that is not a published one.
        max_input_length: the same; 0, or none: as the prompt's task has it, else 512, but no more than leave room for
            the prompt and the answer among a causal model's positions.
        num_beams: for `beam`.
        length_penalty: for `beam`.

    Raises:
        ValueError: values of a prompt that is not there, out of their range, or that leave no room for text.
    """
    methods = _by_name(method, bank.names, "method")
    new, kept = (
        _by_name(max_new_tokens, bank.names, "max_new_tokens"),
        _by_name(max_input_length, bank.names, "max_input_length"),
    )
    configs = {}
    for name, prefix in zip(bank.names, np.asarray(bank.prefix_length).tolist(), strict=True):
        meta = bank.metas.get(name)
        form = known_format(meta.task) if meta else None
        tokens = new.get(name) or (form.max_target_length if form else AnswerConfig.max_new_tokens)
        length = kept.get(name) or (form.max_input_length if form else AnswerConfig.max_input_length)
        if (limit := getattr(bank.config, "max_positions", 0)) and not kept.get(name):
            # A causal model's virtual tokens stand in the rows or in front of them, and are counted in one of the two.
            taken = max(Template.parse(bank.templates[name]).num_slots, prefix)
            if (room := limit - taken - tokens + 1) < 1:
                raise ValueError(
                    f"the prompt {name!r} takes {taken} and its answers {tokens} of the model's {limit} positions, "
                    "which leaves no room for text; lower max_new_tokens"
                )
            length = min(length, room)
        labels = meta.labels if meta else ()
        configs[name] = AnswerConfig(
            methods.get(name, "greedy"), tokens, length, num_beams, length_penalty, tuple(labels)
        )
    return configs


def per_prompt(
    entries: Sequence[str], names: Sequence[str], what: str, kind: Callable[[str], Any] = str
) -> dict[str, Any]:
    """Values by the prompts' names, of entries such as `greedy` (for all) and `rte=rank` (for one).

    Args:
        entries: at most one for all, and one for each prompt.
        names: of the prompts.
        what: is given, for messages.
        kind: what makes a value of its text.

    Raises:
        ValueError: a prompt that is not there, two values for one, or a value of another kind.
    """
    values: dict[str, Any] = {}
    for entry in entries:
        name, named, value = entry.rpartition("=")
        if named and name not in names:
            raise ValueError(f"{what} is given for {name!r}, but there is no such prompt; {expected(name, names)}")
        if name in values:
            raise ValueError(f"{what} is given twice for {f'the prompt {name!r}' if named else 'all prompts'}")
        try:
            values[name] = kind(value)
        except ValueError as error:
            raise ValueError(f"cannot read {what}={entry}: {error}") from error
    of_all = {name: values[""] for name in names if "" in values}
    return of_all | {name: value for name, value in values.items() if name}


def known_format(task: str) -> TaskFormat | None:
    """The format of a published or embedded task, or None for another."""
    if task in FORMATS:
        return FORMATS[task]
    from jaxprompt.data import mini

    return mini.FORMATS.get(task)


def _by_name(values: Mapping[str, Any] | Any, names: Sequence[str], what: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        return dict.fromkeys(names, values)
    for name in values:
        if name not in names:
            raise ValueError(f"{what} is given for {name!r}, but there is no such prompt; {expected(name, names)}")
    return dict(values)
