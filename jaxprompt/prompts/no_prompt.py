"""What methods have in common that give the model nothing but text: the baselines of Lester et al. (2021, 3.1)."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import PRNGKeyArray

from jaxprompt.models.language_model import LanguageModel
from jaxprompt.types import Injection, Params


class NoPrompt:
    """A prompt method without virtual tokens, keys, values or parameters."""

    needs_target: ClassVar[bool] = False
    offset: ClassVar[int] = 0

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
        """Nothing to keep: what a method without a prompt leaves behind is a model, or a text."""
        return Injection()
