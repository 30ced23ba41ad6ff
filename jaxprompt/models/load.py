"""From a directory or hub name to a `LanguageModel`, every parameter straight into its place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from jaxprompt import trees
from jaxprompt.models import t5_names
from jaxprompt.models.assemble import Placement, assemble
from jaxprompt.models.families import FAMILIES, Family
from jaxprompt.models.hub import embedded, locate
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.models.name_table import NameTable
from jaxprompt.models.partition import param_shardings
from jaxprompt.models.quantized_load import Quantizer
from jaxprompt.models.weight_files import open_weights
from jaxprompt.models.weight_source import CheckpointError, TensorSource, read_json
from jaxprompt.types import Batch, Params

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "spiece.model", "vocab.json")


def load_model(
    name: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    sharding: Placement = None,
    mesh: Mesh | None = None,
    shard_data: bool = False,
    remat: str = "none",
    tokenizer: bool | str | Path = True,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
    quantize: str = "",
    attention: str = "auto",
) -> LanguageModel:
    """Loads a model: a hub name, or a Hugging Face directory or T5X checkpoint, each on disk or at a `gs://` address.

    The checkpoint must hold exactly the model's tensors. No pickle is executed, and no code that comes with a model.

    Args:
        name: directory, hub name such as `google/t5-base-lm-adapt`, or `gs://bucket/checkpoint_STEP`. A Hugging Face
            directory in a bucket is copied to this machine while it is read.
        dtype: of parameters and computation; by default bfloat16 on accelerators and float32 on CPU.
        sharding: one `jax.sharding.Sharding`, or a function from a parameter's path and shape to one; None is the
            default device. Of every parameter each process reads only the slices that its devices hold.
        mesh: devices to split the parameters over by the family's rules (see `models.partition`), instead of
            `sharding`; the model then also splits its rows over them.
        shard_data: whether parameters are split over the mesh's `data` axis, too.
        remat: what the backward pass recomputes; a key of `jaxprompt.models.layers.REMAT_POLICIES`.
        tokenizer: True: from the same directory; a path: from there, as T5X checkpoints need; False: none.
        revision: branch, tag or commit of a hub name.
        config: entries that replace those of `config.json`. T5X writes no such file; its checkpoints' shapes tell the
            architecture, and `config`, or a `config.json` put beside them, what shapes do not tell.
        quantize: a key of `jaxprompt.models.quantization.SCHEMES`, such as `int8`, to hold the layers' matrices as
            integers; they are quantised as they are read. Such weights cannot train. Empty: as they are.
        attention: what computes attention, one of `jaxprompt.models.fused_attention.IMPLEMENTATIONS`.

    Returns:
        The model, with `params` a nested dict of `jax.Array`.

    Raises:
        CheckpointError: something is missing, damaged or of an unsupported kind, or checkpoint and model do not agree;
            the message says what, in which file, and what to do.
        ValueError: both `sharding` and `mesh` are given, or `quantize` names no known scheme.
        ImportError: `quantize` needs a library that is not installed.
    """
    if sharding is not None and mesh is not None:
        raise ValueError("give `mesh`, by which the family's rules place the parameters, or `sharding`, not both")
    name = str(name)
    quantizer = Quantizer(quantize) if quantize else None
    directory, source, raw, table = _open(name, revision)
    raw = raw | dict(config or {})
    family = family_of(raw, directory)
    try:
        settings = family.configure(raw, source)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"the configuration of {directory} cannot be used: {error}") from error
    dtype = dtype or (jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    options = {"remat": remat, "mesh": mesh, "attention_kernel": attention}
    module = family.module(settings, dtype=jnp.dtype(dtype), **options)
    # Before the weights: it is the quicker to fail.
    where = directory if tokenizer is True else str(tokenizer)
    reader = load_tokenizer(where, raw["model_type"]) if tokenizer else None
    abstract = abstract_params(module)
    if mesh is not None:
        shardings = trees.flatten(shardings_of(family, abstract, mesh, shard_data=shard_data))
        sharding = lambda path, shape: shardings[path]  # noqa: E731
    creator, checksums = (quantizer.create, quantizer.checksums) if quantizer else (None, {})
    params = assemble(abstract, table or family.names_in(source), source, sharding, creator)
    return LanguageModel(module, params, reader, settings, name, family.name, mesh, checksums)


def abstract_params(module: nn.Module) -> Params:
    """The shapes and dtypes of a model's parameters, as a nested dict of `jax.ShapeDtypeStruct`; allocates nothing."""
    return jax.eval_shape(module.init, jax.random.key(0), dummy_batch())["params"]


def shardings_of(family: Family, abstract: Params, mesh: Mesh, *, shard_data: bool = False) -> Params:
    """Where each parameter lies on a mesh, as a tree like theirs; see `models.partition.param_shardings`."""
    shapes = {path: leaf.shape for path, leaf in trees.flatten(abstract).items()}
    return trees.unflatten(param_shardings(family.partition, shapes, mesh, shard_data=shard_data))


def dummy_batch() -> Batch:
    """One row of one token, for a module's initialisation."""
    ids = jnp.zeros((1, 1), jnp.int32)
    return Batch(
        inputs=ids,
        input_segments=ids,
        targets=ids,
        target_segments=ids,
        target_weights=jnp.zeros((1, 1)),
        index=ids[0],
        target_positions=ids,
    )


def _open(name: str, revision: str | None) -> tuple[str, TensorSource, dict[str, Any], NameTable | None]:
    """Where the checkpoint is, its tensors, its configuration, and its table of names if that is not the family's."""
    remote = name.startswith("gs://")
    if remote and revision is not None:
        raise CheckpointError(
            f"{name} is a bucket's directory, which has no revision {revision!r}; leave `revision` out"
        )
    directory = name.rstrip("/") if remote else str(locate(name, revision))
    if not remote and not (Path(directory) / "checkpoint").is_file():
        raw = read_json(Path(directory) / "config.json")
        family_of(raw, directory)  # an unsupported model is better refused than its files
        return directory, open_weights(Path(directory)), raw, None

    from jaxprompt.models.t5x import NoStateFile, T5XCheckpoint, read_file  # takes tensorstore

    try:
        source = T5XCheckpoint(directory)
    except NoStateFile:
        if not remote or read_file(directory, "config.json", optional=True) is None:
            raise
        from jaxprompt.models.bucket import fetch

        local, weights = fetch(directory)
        return str(local), weights, read_json(local / "config.json"), None
    derived = t5_names.hf_config_of_t5x(source)
    raw = derived | source.stated_config()
    return directory, source, raw | {"tie_word_embeddings": derived["tie_word_embeddings"]}, t5_names.T5X


def family_of(raw: Mapping[str, Any], directory: str) -> Family:
    """The family of a `config.json`; raises CheckpointError for one that is not supported."""
    model_type = raw.get("model_type")
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"{directory} holds a model of type {model_type!r} (model_type in config.json); supported are "
            f"{', '.join(map(repr, sorted(FAMILIES)))}"
        )
    return FAMILIES[model_type]


def load_tokenizer(directory: str, model_type: str) -> Any:
    """The transformers tokenizer in a directory.

    Args:
        directory: holds the tokenizer's files; or the name of a model that comes with the package.
        model_type: whose tokenizer it is, where the files do not say.

    Raises:
        CheckpointError: there is none, or it cannot be loaded.
    """
    remedy = "give another directory as `tokenizer`, or False for none"
    if not Path(directory).is_dir():
        directory = str(embedded(directory) or directory)
    if not any((Path(directory) / file).is_file() for file in _TOKENIZER_FILES):
        raise CheckpointError(f"{directory} holds no tokenizer (none of {', '.join(_TOKENIZER_FILES)}); {remedy}")

    import transformers

    # Where nothing in the directory says whose vocabulary this is, it is the model's.
    alone = not (Path(directory) / "config.json").is_file()
    kind = {"config": transformers.AutoConfig.for_model(model_type)} if alone else {}
    try:
        return transformers.AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, **kind
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise CheckpointError(f"the tokenizer in {directory} cannot be loaded ({error}); {remedy}") from error
