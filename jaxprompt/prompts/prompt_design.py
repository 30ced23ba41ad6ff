"""Prompt design, a baseline of Lester et al. (2021, 3.1): a text prompt on the frozen model, of which nothing trains.

The text is what Brown et al. (2020, section 2) give GPT-3: training examples with their answers, then the question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from jaxprompt.prompts.no_prompt import NoPrompt
from jaxprompt.trees import Rules


@dataclasses.dataclass(frozen=True)
class PromptDesign(NoPrompt):
    """Prompt design's hyperparameters.

    Attributes:
        shots: numbers of examples in the text to try; the one that scores best on the validation split is kept. 0 is
            the question alone.

    Raises:
        ValueError: there are no numbers, or one is negative.
    """

    name: ClassVar[str] = "prompt_design"
    rules: ClassVar[Rules[str]] = (("model/.*", "freeze"),)

    shots: Sequence[int] = (0, 1, 4, 16)

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 0:
            raise ValueError(
                f"prompt.shots is {tuple(self.shots)}; name one or more numbers of examples, each 0 or more"
            )
