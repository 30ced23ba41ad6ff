"""A loaded language model: module, parameters, tokenizer and configuration in one value."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from jaxprompt.models.fingerprint import fingerprint
from jaxprompt.models.layered import apart
from jaxprompt.sharding import DATA
from jaxprompt.trees import flatten
from jaxprompt.types import Params


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
    """What `load_model` returns.

    Attributes:
        module: the Flax module; its class says in `embedding_path` where the embedding table stands.
        params: its parameters, a nested dict; layers are stacked on a leading axis.
        tokenizer: a transformers tokenizer, or None where none was asked for.
        config: the architecture; always has `vocab_size`, `d_model`, `pad_token_id`, `eos_token_id`,
            `is_causal`.
        name: the directory or hub name it came from.
        family: `t5` or `gpt2`.
        mesh: the devices that the parameters are split over, and rows are to be; None: one device.
        checksums: of quantised parameters by path, what the fingerprint takes in their place.
    """

    module: nn.Module
    params: Params
    tokenizer: Any
    config: Any
    name: str
    family: str
    mesh: Mesh | None = None
    checksums: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)

    @property
    def embedding_table(self) -> jax.Array:
        """The input embedding table, [V, E]."""
        return flatten(self.params)[self.module.embedding_path]

    @property
    def num_params(self) -> int:
        """The number of parameters."""
        return sum(math.prod(leaf.shape) for leaf in flatten(self.params).values())

    @property
    def shard_data(self) -> bool:
        """Whether parameters are split over the mesh's `data` axis, too."""
        return self.mesh is not None and any(
            DATA in jax.tree.leaves(list(leaf.sharding.spec)) for leaf in jax.tree.leaves(self.params)
        )

    @functools.cached_property
    def layers_apart(self) -> Params:
        """The parameters as programs read them fastest (`models.layered`), in the same memory."""
        return apart(self.params)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hash of the weights, the same for every dtype they are loaded in (see `models.fingerprint`).

        Quantised weights have that of what they were made from.
        """
        return fingerprint(self.params, self.checksums)
