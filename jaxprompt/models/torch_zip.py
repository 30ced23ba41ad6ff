"""Weights that torch saved, read without torch and without running what a pickle asks for.

A `.bin` file of torch 1.6 or later is a zip archive: `data.pkl` pickles the dict of tensors, each a view (offset,
shape, strides) of a storage, and `data/KEY` holds a storage's bytes, uncompressed. The pickle is interpreted with a
short list of names that it may use; none of them is torch's own code, and any other name ends the reading. The bytes
are mapped, and read when a tensor is.
"""

from __future__ import annotations

import collections
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxprompt.models.weight_source import CheckpointError, Index, TensorInfo

_STORAGE_DTYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_LOCAL_HEADER_SIZE = 30  # of a zip member, before its name and extra field


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int  # in elements


class _View(NamedTuple):
    """A tensor, as the pickle describes it; offset and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchZip:
    """The tensors of one file; see `jaxprompt.models.weight_source.TensorSource`.

    Raises:
        CheckpointError: the file is damaged, of the older format without zip, compressed or big-endian, uses a name
            outside the list, or does not hold a flat dict of tensors.
    """

    def __init__(self, path: Path):
        self.location = str(path)
        self.problems: list[str] = []
        try:
            with zipfile.ZipFile(path) as archive:
                self._open(path, archive)
        except zipfile.BadZipFile as error:
            raise CheckpointError(_not_a_zip(path)) from error

    def read(self, name: str, index: Index) -> np.ndarray:
        """A read-only view of the mapped file."""
        storage, offset, shape, strides = self._views[name]
        start = self._starts[storage.key] + offset * storage.dtype.itemsize
        first = np.empty((), storage.dtype) if 0 in shape else np.ndarray((), storage.dtype, self._bytes, start)
        byte_strides = [stride * storage.dtype.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(first, shape, byte_strides, writeable=False)[index]

    def _open(self, path: Path, archive: zipfile.ZipFile) -> None:
        members = {member.filename: member for member in archive.infolist()}
        root = next((name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")), None)
        if root is None:
            raise CheckpointError(f"{path} is a zip archive without data.pkl: not a file that torch.save wrote")
        byte_order = f"{root}byteorder"
        if byte_order in members and archive.read(byte_order) != b"little":
            raise CheckpointError(f"{path} holds big-endian tensors; load and save it again on a little-endian machine")
        with archive.open(f"{root}data.pkl") as file:
            self._views = _read_pickle(file, path)
        self.tensors = {name: TensorInfo(v.shape, v.storage.dtype.name) for name, v in self._views.items()}
        self._bytes = np.memmap(path, np.uint8, mode="r")
        self._starts: dict[str, int] = {}
        for name, view in self._views.items():
            key, dtype, size = view.storage
            member = members.get(f"{root}data/{key}")
            last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
            if member is None:
                raise CheckpointError(f"{path} holds no data for {name}: it is damaged; get it again")
            # Out of these bounds a view would read whatever lies in memory behind the file.
            if member.file_size < size * dtype.itemsize or (0 not in view.shape and last >= size):
                raise CheckpointError(f"{path}: {name} reaches beyond its {member.file_size} stored bytes")
            if member.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{path} is compressed; zip it again with compression off (zip -0)")
            if key not in self._starts:
                self._starts[key] = self._data_start(member)
                if self._starts[key] + member.file_size > self._bytes.size:
                    raise CheckpointError(f"{path} was cut short: {name} is not all there; get it again")

    def _data_start(self, member: zipfile.ZipInfo) -> int:
        """Where a member's bytes begin. Its local header may be longer than the directory says: torch pads it."""
        at = member.header_offset
        header = self._bytes[at : at + _LOCAL_HEADER_SIZE].tobytes()
        if len(header) < _LOCAL_HEADER_SIZE:
            raise CheckpointError(f"{self.location} is damaged: {member.filename} is outside of it; get it again")
        name_size, extra_size = struct.unpack("<HH", header[26:])
        return at + _LOCAL_HEADER_SIZE + name_size + extra_size


def _read_pickle(file: Any, path: Path) -> dict[str, _View]:
    try:
        state = _Unpickler(file, path).load()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise CheckpointError(
            f"{path} holds a damaged pickle ({type(error).__name__}: {error}); get it again"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, _View) for name, value in state.items()
    ):
        found = {k: type(v).__name__ for k, v in state.items()} if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(
            f"{path} should hold one flat dict of tensors by name (a state_dict), but holds {str(found)[:300]}"
        )
    return dict(state)


class _Unpickler(pickle.Unpickler):
    """Interprets a pickle of tensors; every name it may use is one of the stand-ins below."""

    def __init__(self, file: Any, path: Path):
        super().__init__(file, encoding="utf-8")
        self._path = path

        # Made anew for each file: a pickle can set attributes of what it gets hold of.
        def rebuild_tensor(storage, offset, shape, strides, *unused) -> _View:
            return _checked_view(storage, offset, shape, strides)

        def rebuild_parameter(data, *unused) -> _View:
            return data

        self._allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        }
        self._allowed |= {("torch", name): _storage_type(name) for name in _STORAGE_DTYPES}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; refuses what is not on the list."""
        if (module, name) not in self._allowed:
            raise CheckpointError(
                f"{self._path} asks for {module}.{name}, which a file of weights has no need of and which could run "
                "code; it was not run. If you trust the file, convert it where torch is installed: "
                "safetensors.torch.save_model, or save_pretrained of the model's transformers class"
            )
        return self._allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage: ('storage', type, key, device, number of elements)."""
        kind, storage_type, key, _, size = pid
        dtype = _STORAGE_DTYPES[storage_type.__name__]
        if kind != "storage" or not isinstance(key, str) or not isinstance(size, int):
            raise CheckpointError(f"{self._path}: persistent id {pid!r} is not a storage")
        return _Storage(key, dtype, size)


def _storage_type(name: str) -> type:
    return type(name, (), {})


def _checked_view(storage: Any, offset: Any, shape: Any, strides: Any) -> _View:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(f"not a tensor: storage {storage!r}, offset {offset!r}, shape {shape!r}, strides {strides!r}")
    if len(shape) != len(strides):
        raise ValueError(f"not a tensor: shape {shape!r} with strides {strides!r}")
    return _View(storage, offset, tuple(shape), tuple(strides))


def _not_a_zip(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(2)
    if head[:1] == b"\x80":
        return (
            f"{path} is in torch's older format (before 1.6), which only torch reads. Convert it where torch is "
            "installed: torch.save(torch.load(FILE, weights_only=True), FILE)"
        )
    if head == b"PK":
        return f"{path} is a zip archive that was cut short or damaged; get it again"
    return f"{path} is not a file that torch.save wrote; it begins with {head!r}"
