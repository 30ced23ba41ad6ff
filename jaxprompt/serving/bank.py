"""Many prompts on one frozen model, of which every row of a batch names its own.

A frozen model serves any number of tasks (Lester et al. 2021, section 1 and Figure 2: "mixed-task batches"). All
prompts lie on the device, so a batch costs the same whichever of them its rows name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxprompt.config_values import expected
from jaxprompt.data.batching import make_batch
from jaxprompt.data.features import Feature
from jaxprompt.evaluation.decode import to_texts
from jaxprompt.evaluation.ranking import PADDING
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.patching import PatchedModel, patch
from jaxprompt.prompts.exported import ExportedPrompt
from jaxprompt.prompts.store import BaseModel, PromptMeta, check_prompt, load_prompt
from jaxprompt.serving.prompt_tables import prompt_tables, rows_of
from jaxprompt.types import Batch, Injection, Params


class PromptBank:
    """Prompts of one frozen model, by name: virtual tokens and prefixes of any length, and no prompt at all.

    `generate`, `generate_scored`, `rank_choices` and `probe` take a bank and its `params` where they take a patched
    model and its own. What is compiled for a shape of inputs serves every choice of prompts.

    Attributes:
        lm: the frozen model.
        names: the prompts' names; a row of a batch holds a number that counts them from 0.
        templates: by name, how each prompt's inputs are written.
        metas: by name, what a prompt's directory says of it; empty where it came from memory.
        params: `{'model': the frozen weights, 'prompt': the arrays of all prompts}`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: Mapping[str, tuple[Injection, str | None]],
        *,
        metas: Mapping[str, PromptMeta] | None = None,
    ) -> None:
        """Checks the prompts and lays them out on the device; a causal model reads those that stand first.

        Args:
            lm: the frozen model.
            prompts: each one's injection, as its method's `export` gives it, and its template; without one, the prompt
                and then `{input}`. An empty `Injection()` is the model asked without a prompt.
            metas: what is known of them.

        Raises:
            ValueError: there are no prompts, or a prompt does not fit the model or its template.
        """
        if not prompts:
            raise ValueError("a bank needs at least one prompt; give {name: (injection, template)}")
        here, models, injections = PromptMeta("", BaseModel.of(lm)), [], []
        for name, (injection, template) in prompts.items():
            try:
                check_prompt(injection, here, lm)
                models.append(_model(lm, injection, template))
            except ValueError as error:
                raise type(error)(f"prompt {name!r}: {error}") from error
            injections.append(injection)
        tables, self._starts = prompt_tables(lm, models, injections)
        self.lm = lm
        self.names = tuple(prompts)
        self.templates = {name: str(model.template) for name, model in zip(prompts, models, strict=True)}
        self.metas = dict(metas or {})
        self.params: dict[str, Any] = {"model": lm.layers_apart, "prompt": tables}
        self._models = models
        self._numbers = {name: number for number, name in enumerate(prompts)}

    @classmethod
    def load(
        cls,
        lm: LanguageModel,
        directories: Mapping[str, epath.PathLike],
        templates: Mapping[str, str] | None = None,
        *,
        allow_other_model: bool = False,
    ) -> PromptBank:
        """A bank of saved prompts.

        Args:
            lm: the model that they were trained on.
            directories: by name, where `save_prompt` put them: paths or `gs://` addresses.
            templates: by name, how inputs are written, where that is not what the prompt was trained with.
            allow_other_model: see `check_prompt`.

        Raises:
            ValueError: a template of a name that is not loaded, or as for `PromptBank`. Others as for `load_prompt` and
                `check_prompt`.
        """
        templates = templates or {}
        for name in templates:
            if name not in directories:
                raise ValueError(f"there is a template of {name!r}, but no such prompt; {expected(name, directories)}")
        prompts, metas = {}, {}
        for name, directory in directories.items():
            injection, metas[name] = load_prompt(directory)
            check_prompt(injection, metas[name], lm, allow_other_model=allow_other_model)
            prompts[name] = injection, templates.get(name, metas[name].template or None)
        return cls(lm, prompts, metas=metas)

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
    def prefix_length(self) -> Int[np.ndarray, " N"]:
        """Positions of a causal model that each prompt takes outside of the rows."""
        return np.array([model.prefix_length for model in self._models], np.int32)

    @property
    def target_start(self) -> Sequence[int]:
        """What the targets of all prompts begin with before their own text.

        Raises:
            ValueError: that differs from prompt to prompt; see `to_texts`.
        """
        return self._alike("to_texts").target_start

    def target_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text as a target of any of the prompts, its end of text included.

        Raises:
            ValueError: that differs from prompt to prompt; see `choice_ids`.
        """
        return self._alike("choice_ids").target_ids(texts)

    def encode(
        self,
        names: Sequence[str],
        rows: Sequence[str | Mapping[str, str]],
        *,
        max_length: int = 512,
        targets: Sequence[str] | None = None,
    ) -> Batch:
        """Texts as one batch, each written by its own prompt's template.

        Args:
            names: each row's prompt.
            rows: B texts, or mappings of the fields that their templates name.
            max_length: tokens of text kept in a row, virtual tokens not counted.
            targets: B texts to score; without them the batch serves generation.

        Raises:
            TypeError: names or rows are one string.
            ValueError: there are no rows, names or targets are not as many, a name is unknown, a field of a template is
                missing, or the model has no tokenizer.
        """
        features = self.features(names, rows, max_length=max_length, targets=targets)
        return make_batch(
            features,
            pad_id=self.config.pad_token_id,
            length=max(len(feature.input_ids) for feature in features),
            target_length=max(len(feature.target_ids) for feature in features),
        )

    def features(
        self,
        names: Sequence[str],
        rows: Sequence[str | Mapping[str, str]],
        *,
        max_length: int = 512,
        targets: Sequence[str] | None = None,
    ) -> list[Feature]:
        """The same row by row, for `make_batch` to lay out; arguments and errors as for `encode`."""
        if isinstance(names, str) or isinstance(rows, str):
            raise TypeError("names and rows are lists, an entry a row, but one of them is a single string")
        if targets is not None and (isinstance(targets, str) or len(targets) != len(rows)):
            raise ValueError(f"targets are a list with a text for each of the {len(rows)} rows; got {targets!r:.80}")
        if len(names) != len(rows) or not names:
            raise ValueError(f"got {len(names)} names of prompts for {len(rows)} rows; give one for each, at least one")
        alike: dict[Any, list[int]] = {}
        for number, (name, row) in enumerate(zip(names, rows, strict=True)):
            model = self._models[self._number(name)]
            given = {"input"} if isinstance(row, str) else row.keys()
            if missing := [field for field in model.template.fields if field not in given]:
                raise ValueError(
                    f"row {number} names the prompt {name!r}, whose template {model.template.text!r} needs the fields "
                    f"{missing}; the row has {sorted(given)}"
                )
            # Prompts whose rows differ in no more than the numbers of their slots are tokenised together.
            alike.setdefault((model.template.text, model.as_prefix, model.prefix_length), []).append(number)
        found: dict[int, Feature] = {}
        for numbers in alike.values():
            made = self._models[self._number(names[numbers[0]])].text_features(
                [rows[number] for number in numbers],
                None if targets is None else [targets[number] for number in numbers],
                max_length=max_length,
            )
            found |= {number: self._moved(of, number, names[number]) for number, of in zip(numbers, made, strict=True)}
        return [found[number] for number in range(len(rows))]

    def to_texts(self, names: Sequence[str], ids: Int[np.ndarray, "B T"]) -> list[str]:
        """The text of each row of generated ids, read as its prompt writes targets; see `decode.to_texts`."""
        models = [self._models[self._number(name)] for name in names]
        return [to_texts(model, row[None])[0] for model, row in zip(models, np.asarray(ids), strict=True)]

    def choice_ids(self, names: Sequence[str], choices: Sequence[Sequence[str]]) -> Int[np.ndarray, "B C T"]:
        """Choices that each row has for itself, written as its prompt writes targets; for `rank_choices`.

        A row with fewer choices than another is filled up with its first one, which among equals wins.

        Args:
            names: each row's prompt.
            choices: each row's, at least one.

        Raises:
            ValueError: a row has no choices, a name is unknown, or a choice is nothing to the tokenizer.
        """
        known: dict[tuple[str, tuple[str, ...]], list[list[int]]] = {}
        keys = [(name, tuple(texts)) for name, texts in zip(names, choices, strict=True)]
        for name, texts in keys:
            if not texts:
                raise ValueError(f"a row of the prompt {name!r} has no choices to rank")
            if (name, texts) not in known:
                known[name, texts] = self._models[self._number(name)].target_ids(texts)
        most, width = max(map(len, known.values())), max(len(ids) for rows in known.values() for ids in rows)
        found = np.full((len(keys), most, width), PADDING, np.int32)
        for row, key in enumerate(keys):
            for choice, ids in enumerate([*known[key], *known[key][:1] * (most - len(known[key]))]):
                found[row, choice, : len(ids)] = ids
        return found

    def apply(self, params: Params, batch: Batch) -> Float[Array, "B T V"]:
        """Logits at target positions, fp32, of a batch that `encode` made with targets."""
        logits: Any = self.lm.module.apply({"params": params["model"]}, batch, self._injection(params, batch))
        return logits

    def for_programs(self, params: Params) -> Params:
        """As they are: the bank's own are laid out for programs."""
        return params

    def prefill(self, params: Params, batch: Batch, max_length: int) -> tuple[Float[Array, "B V"], Any]:
        """Reads the inputs; logits of the first new token, and a cache with room for `max_length` tokens."""
        injection, weights = self._injection(params, batch), {"params": params["model"]}
        return self.lm.module.apply(weights, batch, injection, max_length=max_length, method="prefill")

    def decode_step(self, params: Params, tokens: Int[Array, " B"], cache: Any) -> tuple[Float[Array, "B V"], Any]:
        """Reads one more token a row; logits of the next, and the cache that includes it."""
        return self.lm.module.apply({"params": params["model"]}, tokens, cache, method="decode_step")

    def _injection(self, params: Params, batch: Batch) -> Injection:
        if batch.prompts is None:
            raise ValueError("the batch does not say which prompt each row has; make it with PromptBank.encode")
        return rows_of(self.lm, params["prompt"], batch.prompts)

    def _moved(self, feature: Feature, number: int, name: str) -> Feature:
        """A row whose slots are its prompt's part of all virtual tokens."""
        prompt, ids, vocab_size = self._numbers[name], feature.input_ids, self.config.vocab_size
        if start := self._starts[prompt]:
            ids = np.where(ids >= vocab_size, ids + start, ids).astype(np.int32)
        return dataclasses.replace(feature, input_ids=ids, index=number, prompt=prompt)

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            raise ValueError(f"there is no prompt {name!r} in this bank; {expected(name, self.names)}")
        return self._numbers[name]

    def _alike(self, instead: str) -> PatchedModel:
        """Any of the models, where all of them write targets alike."""
        first, *others = self._models
        written = lambda of: (of.template.begins_with_sentinel, of.template.target_spaced)  # noqa: E731
        for name, other in zip(self.names[1:], others, strict=True):
            if written(other) != written(first):
                raise ValueError(
                    f"the templates of {self.names[0]!r} and {name!r} write targets differently "
                    f"({first.template.text!r} and {other.template.text!r}); use PromptBank.{instead}"
                )
        return first


def _model(lm: LanguageModel, injection: Injection, template: str | None) -> PatchedModel:
    """How one of the prompts reaches the model; of its arrays it knows the shapes alone."""
    shapes: Injection = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), injection)
    # Virtual tokens that come with keys and values stay in the rows, behind them.
    return patch(lm, ExportedPrompt(shapes), template, prepend=bool(injection.kv))
