"""Prompt design, a baseline of Lester et al. (2021, 3.1): a text prompt on the frozen model, of which nothing trains.

The text is what Brown et al. (2020, section 2) give GPT-3: training examples with their answers, then the question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from jaxtyping import PRNGKeyArray

from jaxprompt.models.language_model import LanguageModel
from jaxprompt.trees import Rules
from jaxprompt.types import Injection, Params


@dataclasses.dataclass(frozen=True)
class PromptDesign:
    """Prompt design's hyperparameters.

    Attributes:
        shots: numbers of examples in the text to try; the one that scores best on the validation split is kept. 0 is
            the question alone.

    Raises:
        ValueError: there are no numbers, or one is negative.
    """

    name: ClassVar[str] = "prompt_design"
    needs_target: ClassVar[bool] = False
    offset: ClassVar[int] = 0
    rules: ClassVar[Rules[str]] = (("model/.*", "freeze"),)

    shots: Sequence[int] = (0, 1, 4, 16)

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 0:
            raise ValueError(
                f"prompt.shots is {tuple(self.shots)}; name one or more numbers of examples, each 0 or more"
            )

    @property
    def num_slots(self) -> int:
        """No virtual tokens."""
        return 0

    def init_params(self, key: PRNGKeyArray, lm: LanguageModel) -> dict[str, Any]:
        """No parameters."""
        return {}

    def injection(self, params: Params, lm: LanguageModel) -> Injection:
        """Nothing to inject."""
        return Injection()

    def export(self, params: Params, lm: LanguageModel) -> Injection:
        """Nothing; the prompt is text."""
        return Injection()
