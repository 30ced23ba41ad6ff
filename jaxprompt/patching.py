"""The patch: a frozen language model and a prompt method as one model with params {'model': …, 'prompt': …}."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxprompt.data.batching import make_batch
from jaxprompt.data.features import Feature
from jaxprompt.data.template import Template
from jaxprompt.data.tokens import tokenize
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.prompts.method import PromptMethod
from jaxprompt.types import Batch, Injection, Params

FREE_TEXT = "{input}"
"""The template of models that are not patched for a task: the whole text is one field."""


@dataclasses.dataclass(frozen=True, eq=False)
class PatchedModel:
    """A language model that reads a prompt; made by `patch`.

    Attributes:
        lm: the frozen model.
        method: the prompt method's hyperparameters.
        template: where the virtual tokens stand in the input.
    """

    lm: LanguageModel
    method: PromptMethod
    template: Template

    @property
    def config(self) -> Any:
        """The language model's architecture."""
        return self.lm.config

    @property
    def tokenizer(self) -> Any:
        """The language model's tokenizer."""
        return self.lm.tokenizer

    def init_params(self, key: PRNGKeyArray) -> dict[str, Any]:
        """`{'model': the frozen weights, 'prompt': initial prompt parameters in fp32}`.

        Raises:
            ValueError: the method's initialisation lacks what it needs.
        """
        return {"model": self.lm.params, "prompt": self.method.init_params(key, self.lm)}

    def injection(self, params: Params) -> Injection:
        """What the prompt's parameters give to the model."""
        return self.method.injection(params.get("prompt", {}), self.lm)

    def apply(
        self,
        params: Params,
        batch: Batch,
        *,
        deterministic: bool = True,
        rngs: dict[str, PRNGKeyArray] | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits at target positions, fp32.

        Args:
            params: `{'model': …, 'prompt': …}`.
            batch: rows of ids, virtual tokens among them.
            deterministic: False applies the model's dropout.
            rngs: `{'dropout': key}` where dropout is applied.
        """
        logits: Any = self.lm.module.apply(
            {"params": params["model"]}, batch, self.injection(params), deterministic=deterministic, rngs=rngs
        )
        return logits

    def prefill(self, params: Params, batch: Batch, max_length: int) -> tuple[Float[Array, "B V"], Any]:
        """Reads the inputs; logits of the first new token, and a cache with room for `max_length` tokens."""
        return self.lm.module.apply(
            {"params": params["model"]}, batch, self.injection(params), max_length=max_length, method="prefill"
        )

    def decode_step(self, params: Params, tokens: Int[Array, " B"], cache: Any) -> tuple[Float[Array, "B V"], Any]:
        """Reads one more token a row; logits of the next, and the cache that includes it."""
        return self.lm.module.apply({"params": params["model"]}, tokens, cache, method="decode_step")

    def encode_text(
        self, texts: Sequence[str | Mapping[str, str]], targets: Sequence[str] | None = None, *, max_length: int = 512
    ) -> Batch:
        """Texts, or mappings of the template's fields, as one batch with the prompt's slots in place.

        Args:
            texts: B inputs.
            targets: B texts to score or learn; without them the batch serves generation.
            max_length: tokens of text kept in a row, virtual tokens not counted.

        Raises:
            TypeError: texts or targets are one string.
            ValueError: there are no texts, their number is not that of the targets, a field of the template is missing,
                or the model has no tokenizer.
        """
        if isinstance(texts, str) or isinstance(targets, str):
            raise TypeError("texts and targets are lists of strings, one a row, but one of them is a single string")
        if self.tokenizer is None:
            raise ValueError(f"{self.lm.name} was loaded without a tokenizer, so it cannot encode text")
        if not len(texts):
            raise ValueError("there are no texts to encode")
        if targets is not None and len(targets) != len(texts):
            raise ValueError(f"got {len(texts)} texts but {len(targets)} targets")
        rows = [{"input": text} if isinstance(text, str) else text for text in texts]
        inputs = self.template.encode_many(rows, self.tokenizer, self.config.vocab_size, max_length)
        answers = tokenize(list(targets or [""] * len(rows)), self.tokenizer, self.config.vocab_size)
        eos = self.config.eos_token_id
        features = [
            Feature(input_ids, np.asarray([*ids, eos], np.int32), number, labelled=targets is not None)
            for number, (input_ids, ids) in enumerate(zip(inputs, answers, strict=True))
        ]
        return make_batch(
            features,
            pad_id=self.config.pad_token_id,
            length=max(len(feature.input_ids) for feature in features),
            target_length=max(len(feature.target_ids) for feature in features),
        )


def patch(lm: LanguageModel, method: PromptMethod, template: str | None = None) -> PatchedModel:
    """A frozen model with a place for a trainable prompt.

    Args:
        lm: from `load_model`.
        method: such as `PromptTuning(length=100)`.
        template: the input as text with fields and slots, such as `{soft:100} question: {question}`. One without
            slots gets all of the method's in front. Default: the prompt, then `{input}`.

    Raises:
        ValueError: the template cannot be read, or holds another number of slots than the method gives.
    """
    text = FREE_TEXT if template is None else template
    parsed = Template.parse(text)
    if parsed.num_slots == 0 and method.num_slots:
        parsed = Template.parse(f"{{soft:{method.num_slots}}} {text}")
    parsed.check(num_slots=method.num_slots)
    return PatchedModel(lm, method, parsed)
