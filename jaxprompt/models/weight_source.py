"""What a source of weights is: named tensors with known shapes, of which any slice can be read.

Nothing is read before it is asked for, so a model larger than the host's memory can be loaded shard by shard.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

Index = tuple[slice, ...]
"""A slice an axis, with explicit bounds and unit steps."""

FLOAT_DTYPES = ("bfloat16", "float16", "float32", "float64")
"""What a weight may be stored as. Integers would be quantised weights, whose values are not the stored numbers."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded as it is; the message names the file and what to do."""


class TensorInfo(NamedTuple):
    """What is known of a stored tensor before it is read."""

    shape: tuple[int, ...]
    dtype: str


class TensorSource(Protocol):
    """Tensors by name."""

    @property
    def location(self) -> str:
        """Where they are, for messages."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """All of them."""

    @property
    def problems(self) -> Sequence[str]:
        """What is wrong with the files as such, for instance that a tensor is stored twice."""

    def read(self, name: str, index: Index) -> np.ndarray:
        """The slice of a tensor; perhaps a view of the mapped file, so copy what is to be kept."""
        ...


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: there is no such file, or it holds no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; a checkpoint directory needs it beside its weights") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); get the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def same_values(source: TensorSource, first: str, second: str, *, rows: int = 4096) -> bool:
    """Whether two stored tensors are equal. Reads them some rows at a time, up to the first difference."""
    shape = source.tensors[first].shape
    if shape != source.tensors[second].shape:
        return False
    for start in range(0, shape[0], rows):
        index = (slice(start, min(start + rows, shape[0])), *(slice(0, size) for size in shape[1:]))
        if not np.array_equal(source.read(first, index), source.read(second, index)):
            return False
    return True
