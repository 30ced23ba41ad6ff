"""The patch: a frozen language model and a prompt method as one model with params {'model': …, 'prompt': …}."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxprompt.data.batching import make_batch
from jaxprompt.data.features import Feature
from jaxprompt.data.row_encoder import RowEncoder
from jaxprompt.data.template import Template
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
        as_prefix: whether virtual tokens that stand first are left out of the rows, and reach a causal model as keys
            and values that are computed once for a batch.
    """

    lm: LanguageModel
    method: PromptMethod
    template: Template
    as_prefix: bool = False

    @property
    def config(self) -> Any:
        """The language model's architecture."""
        return self.lm.config

    @property
    def tokenizer(self) -> Any:
        """The language model's tokenizer."""
        return self.lm.tokenizer

    @property
    def mesh(self) -> Mesh | None:
        """The devices that rows and weights are split over; None: one."""
        return self.lm.mesh

    @property
    def prefix_length(self) -> int:
        """Positions of a causal model that the prompt takes outside of the rows."""
        return self.method.num_slots if self.as_prefix else self.method.offset

    @functools.cached_property
    def row_encoder(self) -> RowEncoder:
        """How texts become this model's rows.

        Raises:
            ValueError: the model has no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError(f"{self.lm.name} was loaded without a tokenizer, so it cannot encode text")
        return RowEncoder(
            self.template,
            self.tokenizer,
            self.config.vocab_size,
            self.config.eos_token_id,
            causal=self.config.is_causal,
            slots_in_rows=not self.as_prefix,
            prefix_length=self.prefix_length,
            max_positions=getattr(self.config, "max_positions", 0),
        )

    def init_params(self, key: PRNGKeyArray) -> dict[str, Any]:
        """`{'model': the frozen weights, 'prompt': initial prompt parameters in fp32}`.

        Raises:
            ValueError: the method's initialisation lacks what it needs.
        """
        return {"model": self.lm.params, "prompt": self.method.init_params(key, self.lm)}

    def for_programs(self, params: Params) -> Params:
        """The parameters in the form that generation reads fastest; frozen ones in memory that is there already."""
        return {**params, "model": self.lm.layers_apart} if params["model"] is self.lm.params else params

    def injection(self, params: Params) -> Injection:
        """What the prompt's parameters give: virtual tokens, keys and values."""
        return self.method.injection(params.get("prompt", {}), self.lm)

    def injected(
        self,
        params: Params,
        injection: Injection,
        deterministic: bool = True,
        rngs: dict[str, PRNGKeyArray] | None = None,
    ) -> Injection:
        """An injection in the form that the rows of this model leave it to.

        Args:
            params: `{'model': …, …}`.
            injection: of the prompt, or of several with a leading axis N.
            deterministic: see `apply`.
            rngs: see `apply`.
        """
        if not self.as_prefix:
            return injection
        # Dropout of its own, which must not repeat what the rows draw.
        rngs = {name: jax.random.fold_in(key, 1) for name, key in (rngs or {}).items()}
        prefix: Any = self.lm.module.apply(
            {"params": params["model"]},
            injection.tokens,
            deterministic=deterministic,
            rngs=rngs,
            method="prompt_prefix",
        )
        return prefix

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
        return self.logits(params, self.hidden(params, batch, deterministic=deterministic, rngs=rngs))

    def hidden(
        self,
        params: Params,
        batch: Batch,
        *,
        deterministic: bool = True,
        rngs: dict[str, PRNGKeyArray] | None = None,
    ) -> Float[Array, "B T E"]:
        """What `logits` makes the logits of, at target positions; the arguments are those of `apply`."""
        weights, injection = {"params": params["model"]}, self.injection(params)
        read: Any
        # Where masks are drawn they have to be those of any mesh, so prompt and rows draw theirs apart.
        still = self.as_prefix and (deterministic or not self.config.has_dropout)
        tokens = injection.tokens
        if still and self.mesh is None and tokens is not None and tokens.ndim == 2:
            read = self.lm.module.apply(
                weights, batch, tokens, deterministic=deterministic, rngs=rngs, method="hidden_behind"
            )
            return read
        injection = self.injected(params, injection, deterministic, rngs)
        read = self.lm.module.apply(weights, batch, injection, deterministic=deterministic, rngs=rngs, method="hidden")
        return read

    def logits(self, params: Params, hidden: Float[Array, "B T E"]) -> Float[Array, "B T V"]:
        """Logits, fp32, of what `hidden` gives."""
        logits: Any = self.lm.module.apply({"params": params["model"]}, hidden, method="logits")
        return logits

    def prefill(self, params: Params, batch: Batch, max_length: int) -> tuple[Float[Array, "B V"], Any]:
        """Reads the inputs; logits of the first new token, and a cache with room for `max_length` tokens."""
        return self.prefill_with(params, self.injected(params, self.injection(params)), batch, max_length)

    def prefill_with(
        self, params: Params, injection: Injection, batch: Batch, max_length: int
    ) -> tuple[Float[Array, "B V"], Any]:
        """The same with what `injected` gives, or with a leading axis B on it: each row has a prompt of its own."""
        return self.lm.module.apply(
            {"params": params["model"]}, batch, injection, max_length=max_length, method="prefill"
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
        features = self.text_features(texts, targets, max_length=max_length)
        return make_batch(
            features,
            pad_id=self.config.pad_token_id,
            length=max(len(feature.input_ids) for feature in features),
            target_length=max(len(feature.target_ids) for feature in features),
        )

    def text_features(
        self, texts: Sequence[str | Mapping[str, str]], targets: Sequence[str] | None = None, *, max_length: int = 512
    ) -> list[Feature]:
        """The same, one row at a time and not padded to one length; arguments and errors as for `encode_text`."""
        if isinstance(texts, str) or isinstance(targets, str):
            raise TypeError("texts and targets are lists of strings, one a row, but one of them is a single string")
        if not len(texts):
            raise ValueError("there are no texts to encode")
        if targets is not None and len(targets) != len(texts):
            raise ValueError(f"got {len(texts)} texts but {len(targets)} targets")
        rows = [{"input": text} if isinstance(text, str) else text for text in texts]
        features = self.row_encoder.features(
            rows,
            list(targets or [""] * len(rows)),
            range(len(rows)),
            max_length=max_length,
            max_target_length=max_length if targets is not None else 1,
            for_generation=targets is None,
        )
        if targets is not None:  # an empty text is a target of its own here, and not one that is withheld
            features = [dataclasses.replace(feature, labelled=True) for feature in features]
        return features

    @property
    def target_start(self) -> list[int]:
        """What every target begins with before its own text; see `RowEncoder`."""
        return self.row_encoder.target_start

    def target_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text as a target of this model, its end of text included; see `RowEncoder`."""
        return self.row_encoder.target_ids(texts)


def patch(
    lm: LanguageModel, method: PromptMethod, template: str | None = None, *, prepend: bool = False
) -> PatchedModel:
    """A frozen model with a place for a trainable prompt.

    Args:
        lm: from `load_model`.
        method: such as `PromptTuning(length=100)`.
        template: the input as text with fields and slots, such as `{soft:100} question: {question}`. One without
            slots gets all of the method's in front. Default: the prompt, then `{input}`.
        prepend: keep virtual tokens that stand first in the rows of a causal model, as ones between words must be.
            By default their keys and values are computed once for a batch, which gives the same loss and gradient for
            less work.

    Raises:
        ValueError: the template cannot be read, does not suit the method or the model, or holds more slots than the
            model has positions.
    """
    text = FREE_TEXT if template is None else template
    parsed = Template.parse(text)
    if parsed.num_slots == 0 and method.num_slots:
        parsed = Template.parse(f"{{soft:{method.num_slots}}} {text}")
    causal = lm.config.is_causal
    parsed.check(num_slots=method.num_slots, causal=causal, needs_target=method.needs_target)
    positions = getattr(lm.config, "max_positions", 0)
    if positions and (taken := method.num_slots + method.offset) >= positions:
        raise ValueError(
            f"the prompt takes {taken} positions, and {lm.name} has {positions} in all, so no text would fit behind "
            "it; lower prompt.length"
        )
    return PatchedModel(lm, method, parsed, as_prefix=causal and parsed.slots_lead and not prepend)
