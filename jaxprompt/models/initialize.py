"""A model of random weights, for pre-training and for measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from jaxprompt.models.families import FAMILIES
from jaxprompt.models.hub import locate
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.models.load import abstract_params, dummy_batch, family_of, load_tokenizer, shardings_of
from jaxprompt.models.weight_source import read_json


def new_model(
    name: str | Path,
    key: PRNGKeyArray,
    *,
    dtype: DTypeLike = jnp.float32,
    remat: str = "none",
    tokenizer: bool | str | Path = True,
    mesh: Mesh | None = None,
    shard_data: bool = False,
    attention: str = "auto",
) -> LanguageModel:
    """A model with the architecture of a directory's `config.json` and fresh weights, as T5X initialises them.

    Args:
        name: a directory or name as `load_model` takes it, with `config.json` and, unless another is given, a
            tokenizer; weights are not looked at.
        key: of the weights.
        dtype: of parameters and computation.
        remat: what the backward pass recomputes.
        tokenizer: True: from the same directory; a path: from there; False: none.
        mesh: devices to split the parameters over, as for `load_model`.
        shard_data: whether they are split over the mesh's `data` axis, too.
        attention: what computes attention, as for `load_model`.

    Raises:
        CheckpointError: the directory lacks something, or holds a model of an unsupported kind.
    """
    directory = locate(str(name))
    raw = read_json(directory / "config.json")
    family = family_of(raw, str(directory))
    config = family.configure(raw, None)
    options = {"remat": remat, "mesh": mesh, "attention_kernel": attention}
    module = family.module(config, dtype=jnp.dtype(dtype), **options)
    reader = (
        load_tokenizer(str(directory if tokenizer is True else tokenizer), raw["model_type"]) if tokenizer else None
    )
    return random_model(family.name, module, key, tokenizer=reader, name=str(name), shard_data=shard_data)


def random_model(
    family: str,
    module: Any,
    key: PRNGKeyArray,
    *,
    tokenizer: Any = None,
    name: str = "random",
    shard_data: bool = False,
) -> LanguageModel:
    """Fresh weights for a module.

    Args:
        family: `t5` or `gpt2`.
        module: such as `T5(config)`.
        key: of the weights.
        tokenizer: a transformers tokenizer, if texts are to be read.
        name: what the model is called.
        shard_data: whether the parameters are split over the `data` axis of the module's mesh, too.
    """
    shardings = None
    if module.mesh is not None:
        # Made in their places: no device ever holds all of them.
        shardings = shardings_of(FAMILIES[family], abstract_params(module), module.mesh, shard_data=shard_data)
    init = jax.jit(lambda key: module.init(key, dummy_batch())["params"], out_shardings=shardings)
    return LanguageModel(module, init(key), tokenizer, module.config, name, family, module.mesh)
