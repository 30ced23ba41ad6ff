"""Model tuning, the baseline of Lester et al. (2021, 3.1): no prompt, every weight of the model trains."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxprompt.prompts.no_prompt import NoPrompt
from jaxprompt.trees import Rules


@dataclasses.dataclass(frozen=True)
class ModelTuning(NoPrompt):
    """No prompt; what trains is the model. Untrained, it is the bare frozen model."""

    name: ClassVar[str] = "model_tuning"
    rules: ClassVar[Rules[str]] = (("model/.*", "train"),)
