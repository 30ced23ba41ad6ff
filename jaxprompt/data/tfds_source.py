"""Datasets of the TensorFlow Datasets catalogue. TensorFlow itself only reads files here, and never an accelerator."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxprompt.data.sources import Record, Records

_WINDOW = 2**16  # records; of C4 a fifth of a file, some 150 MB
_KEPT_WINDOWS = 4  # a shuffled one may begin and end within others, and the data begin anew within it


def tfds_splits(name: str, data_dir: str | os.PathLike[str] | None) -> dict[str, Callable[[], Records]]:
    """The splits of `name`, such as `super_glue/boolq` or `super_glue/boolq:1.0.2`.

    A dataset that `data_dir` does not hold yet is downloaded and prepared there as ArrayRecord files, which are read
    at random; those prepared in TFDS's usual format are read into memory.

    Raises:
        ModuleNotFoundError: tensorflow or tensorflow_datasets is not installed.
        RuntimeError: the dataset is not there and cannot be downloaded, or is made by a pipeline of its own.
    """
    tfds, builder = _prepared(name, data_dir)
    return {split: functools.partial(_read, tfds, builder, name, split) for split in builder.info.splits}


def open_rows(
    name: str, split: str, data_dir: str | os.PathLike[str] | None = None, *, window: int = _WINDOW
) -> tuple[Sequence[Record], int]:
    """The records of a split that may be larger than memory, and how many neighbours are read at once.

    Of a dataset prepared as ArrayRecord files any record can be read by itself: 0. TFDS's usual format, TFRecord, can
    only be read on from the beginning of a file, so a window of neighbours is read at once and the newest few stay in
    memory: who asks for them window after window reads each once. Every window costs going through what stands before
    it in its file, so for many epochs it pays to convert the dataset
    (`tfds convert_format --out_file_format=array_record`).

    Args:
        name: as for `tfds_splits`.
        split: such as `train`.
        data_dir: where TFDS keeps its prepared datasets.
        window: how many records, where they cannot be read one by one.

    Raises:
        ModuleNotFoundError: tensorflow or tensorflow_datasets is not installed.
        RuntimeError: the dataset is not there and cannot be downloaded, or is made by a pipeline of its own.
        ValueError: there is no such split.
    """
    tfds, builder = _prepared(name, data_dir)
    if split not in builder.info.splits:
        raise ValueError(f"tfds:{name} has no split {split!r}; it has {sorted(builder.info.splits)}")
    if builder.info.file_format in tfds.core.FileFormat.with_random_access():
        return _TextRows(builder.as_data_source(split=split)), 0

    def read(start: int, end: int) -> list[Any]:
        part = tfds.core.ReadInstruction(split, from_=start, to=end, unit="abs")
        return _in_order(tfds, builder, part)

    return _TextRows(_Windows(read, builder.info.splits[split].num_examples, window)), window


def _prepared(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[Any, Any]:
    """The library and the builder of a dataset that is there."""
    tfds = _import_tfds()
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except AssertionError as error:  # a version that this TFDS cannot make any more could still be read
        raise RuntimeError(
            f"TFDS dataset {name!r} is not prepared in {data_dir or 'its default directory'}, and {error}"
        ) from error
    if not builder.is_prepared():
        if isinstance(builder, tfds.core.BeamBasedBuilder):
            raise RuntimeError(
                f"TFDS dataset {name!r} is not prepared in {builder.data_path}, and making it takes a pipeline on many "
                f"machines: prepare it there (tfds build {name} --file_format=array_record, with Apache Beam's "
                "options), or name the data_dir that holds it"
            )
        builder = tfds.builder(name, data_dir=data_dir, file_format=tfds.core.FileFormat.ARRAY_RECORD)
        try:
            builder.download_and_prepare()
        except (OSError, AssertionError, tfds.download.DownloadError) as error:  # the second: not fetched by hand
            raise RuntimeError(
                f"TFDS dataset {name!r} is not prepared in {builder.data_path} and its files could not be downloaded "
                f"({type(error).__name__}: {error}); prepare it where there is a network and name its data_dir, or "
                "read the published files with a jsonl: source"
            ) from error
    return tfds, builder


def _read(tfds: Any, builder: Any, name: str, split: str) -> Records:
    if builder.info.file_format in tfds.core.FileFormat.with_random_access():
        rows: Sequence[Any] = builder.as_data_source(split=split)
    else:
        rows = _in_order(tfds, builder, split)
    return Records(f"tfds:{name} {split}", _TextRows(rows))


def _in_order(tfds: Any, builder: Any, split: Any) -> list[Any]:
    # One shard after the other: the order that the files have, whatever the number of shards.
    one_by_one = tfds.ReadConfig(interleave_cycle_length=1)
    return list(tfds.as_numpy(builder.as_dataset(split=split, read_config=one_by_one)))


class _Windows(Sequence[Any]):
    """Records of which a run of neighbours is read at once, where one alone cannot be; the newest runs are kept."""

    def __init__(self, read: Callable[[int, int], list[Any]], count: int, size: int) -> None:
        self._count, self._size = count, size
        self._window = functools.lru_cache(maxsize=_KEPT_WINDOWS)(
            lambda number: read(number * size, min((number + 1) * size, count))
        )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        window, place = divmod(range(self._count)[index], self._size)
        return self._window(window)[place]


class _TextRows(Sequence[Record]):
    """Records with their texts as str; TFDS keeps bytes."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return _as_text(self._rows[index])


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype.kind in "OS"):  # several texts
        return [_as_text(item) for item in value]
    return value


def _import_tfds() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"tfds: sources need tensorflow (tensorflow-cpu is enough) and tensorflow_datasets; {error}"
        ) from error
    # TensorFlow would take all memory of a GPU that JAX needs; a program that already gave it one has decided itself.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
    return tfds
