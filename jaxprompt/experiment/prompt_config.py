"""The section `prompt` of an experiment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxprompt.config_values import ConfigError, expected
from jaxprompt.data.template import Template
from jaxprompt.prompts.method import PromptMethod
from jaxprompt.prompts.model_tuning import ModelTuning
from jaxprompt.prompts.p_tuning import PTuning
from jaxprompt.prompts.prefix_tuning import PrefixTuning
from jaxprompt.prompts.prompt_design import PromptDesign
from jaxprompt.prompts.prompt_tuning import PromptTuning

METHODS: Mapping[str, type[PromptMethod]] = {
    "prompt_tuning": PromptTuning,
    "prefix_tuning": PrefixTuning,
    "p_tuning": PTuning,
    "model_tuning": ModelTuning,
    "prompt_design": PromptDesign,
}
"""The values of `prompt.method`."""


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """The prompt method and its hyperparameters, under the names that its class has for them.

    What is empty or 0 is left to the method's own default. What is not, the method must know; model tuning and prompt
    design, which have no soft prompt, take no notice.

    Attributes:
        method: a key of `METHODS`.
        template: the input as text with fields, `{soft:n}` slots and `{target}`; empty: the prompt, then the task's own
            input.
        prepend: see `patch`.
        length: virtual tokens; 0: as many as the template has slots, or the method's default.
        init: how the prompt starts; see the method.
        labels: label words for `init=class_labels`; empty: the task's.
        text: for `init=string` and `init=activations`.
        path: for `init=saved` and `init=npy`.
        scale: for `init=random`.
        vocab_limit: for sampled tokens.
        stacks: Prefix-Tuning's, as are the next five.
        reparametrization: `mlp` or `flat`.
        depth: tanh layers of the MLP.
        placement: `prefix` or `infix`.
        embedding_only: whether only virtual tokens train.
        shift_positions: whether a causal model counts positions from behind the prefix.
        hidden_size: width of the MLP (Prefix-Tuning) or of the prompt encoder (P-tuning).
        encoder: P-tuning's prompt encoder.
        num_layers: of its LSTM.
        shots: prompt design's: numbers of solved examples to try in the text.
    """

    method: str = "prompt_tuning"
    template: str = ""
    prepend: bool = False
    length: int = 0
    init: str = ""
    labels: tuple[str, ...] = ()
    text: str = ""
    path: str = ""
    scale: float = 0.0
    vocab_limit: int = 0
    stacks: tuple[str, ...] = ()
    reparametrization: str = ""
    depth: int = 0
    placement: str = ""
    embedding_only: bool = False
    shift_positions: bool = True
    hidden_size: int = 0
    encoder: str = ""
    num_layers: int = 0
    shots: tuple[int, ...] = ()

    def build(self, task_labels: tuple[str, ...] = ()) -> PromptMethod:
        """The method object.

        Raises:
            ConfigError: the method is unknown, or knows nothing of a value that is set.
        """
        if self.method not in METHODS:
            raise ConfigError(f"prompt.method is {self.method!r}; {expected(self.method, METHODS)}")
        kind = METHODS[self.method]
        known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        default, values = PromptConfig(), dataclasses.asdict(self)
        shared = {"method", "template", "prepend"}
        for name in () if kind in (ModelTuning, PromptDesign) else values.keys() - known - shared:
            if getattr(self, name) != getattr(default, name):
                raise ConfigError(
                    f"prompt.{name} is {getattr(self, name)!r}, of which {self.method} knows nothing; "
                    f"set it to {getattr(default, name)!r}, which leaves it out"
                )
        values["labels"] = tuple(filter(None, self.labels)) or task_labels
        if not self.length and self.template:
            values["length"] = Template.parse(self.template).num_slots
        return kind(**{name: values[name] for name in known if values[name] or isinstance(values[name], bool)})
