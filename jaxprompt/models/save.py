"""A model as a Hugging Face directory: the inverse of loading one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from jaxprompt import trees
from jaxprompt.models.families import FAMILIES
from jaxprompt.models.language_model import LanguageModel
from jaxprompt.models.name_table import Shape, Stored
from jaxprompt.models.weight_files import WEIGHT_FILES

_Piece = tuple[jax.Array, int | None, Stored]  # a parameter, the layer of it, and where that is stored


def save_hf(lm: LanguageModel, directory: str | Path, *, max_shard_bytes: int = 5 * 10**9) -> None:
    """Writes config.json, safetensors under Hugging Face's names, and the tokenizer, as transformers reads them.

    Parameters keep their dtype. Host memory holds one shard at a time.

    Args:
        lm: the model.
        directory: made if it is not there.
        max_shard_bytes: a model larger than this is written as several files and an index; a single tensor may exceed
            it.

    Raises:
        FileExistsError: the directory already holds weights; a stale file could be read in place of the new ones.
    """
    directory = Path(directory)
    if stale := [name for name in WEIGHT_FILES if (directory / name).exists()]:
        raise FileExistsError(f"{directory} already holds {stale}; remove them or choose another directory")
    directory.mkdir(parents=True, exist_ok=True)
    pieces, shapes = _pieces(lm)
    dtype = np.dtype(jax.tree.leaves(lm.params)[0].dtype)
    sizes = {name: int(np.prod(shape)) * dtype.itemsize for name, shape in shapes.items()}
    shards = _divide(sizes, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        tensors = {name: _tensor(pieces[name], shapes[name], dtype) for name in names}
        safetensors.numpy.save_file(tensors, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index)
    if lm.tokenizer is not None:
        lm.tokenizer.save_pretrained(directory)
    _write_json(directory / "config.json", lm.config.to_hf() | {"dtype": dtype.name})


def replace_hf(lm: LanguageModel, directory: Path) -> None:
    """Like `save_hf`, but where another model may stand already, which goes only once the new one is complete.

    Whoever reads the model calls `recover_hf` first, for a kill may come while neither bears the name.
    """
    recover_hf(directory)
    fresh, old = directory.with_name(directory.name + ".new"), _replaced(directory)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    save_hf(lm, fresh)
    if directory.exists():
        os.replace(directory, old)
    os.replace(fresh, directory)
    shutil.rmtree(old, ignore_errors=True)


def recover_hf(directory: Path) -> None:
    """Puts the old model back where a `replace_hf` was killed between moving it away and moving the new one there."""
    old = _replaced(directory)
    if old.exists() and not directory.exists():
        os.replace(old, directory)


def _replaced(directory: Path) -> Path:
    return directory.with_name(directory.name + ".old")


def _pieces(lm: LanguageModel) -> tuple[dict[str, list[_Piece]], dict[str, Shape]]:
    """What makes up each stored tensor, and its shape."""
    params = trees.flatten(lm.params)
    pieces: dict[str, list[_Piece]] = {}
    shapes: dict[str, Shape] = {}
    for path, stored in FAMILIES[lm.family].names.resolve(params).items():
        for layer, (name, shape) in enumerate(stored.tensors(params[path].shape).items()):
            pieces.setdefault(name, []).append((params[path], layer if stored.stacked else None, stored))
            shapes[name] = shape
    return pieces, shapes


def _divide(sizes: dict[str, int], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = limit
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards


def _tensor(pieces: list[_Piece], shape: Shape, dtype: np.dtype) -> np.ndarray:
    tensor = np.empty(shape, dtype)
    for param, layer, stored in pieces:
        # A slice of its own: converting the whole parameter would keep a copy of it on the host.
        part = param[...] if layer is None else param[layer]
        stored.layout.view(tensor, part.shape)[...] = np.asarray(part)
    return tensor


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
