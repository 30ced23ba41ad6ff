"""Where records come from: JSON, tab- and comma-separated files, TFDS and the embedded mini tasks.

A source is a mapping from the names of its splits to openers; opening one gives its records.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of one split, by number.

    Attributes:
        name: what was read, for messages.
        rows: random access to the records; reading one may be lazy.
        unit: what counts the records in messages: `line` of a file or `record`.
        numbers: the number of each record in that unit; None counts from 0.
    """

    name: str
    rows: Sequence[Record]
    unit: str = "record"
    numbers: Sequence[int] | np.ndarray | None = None

    def __len__(self) -> int:
        """How many records there are."""
        return len(self.rows)

    def __getitem__(self, number: int) -> Record:
        """The record of that number."""
        return self.rows[number]

    def where(self, number: int) -> str:
        """The place of a record, for messages."""
        return f"{self.name}, {self.unit} {number if self.numbers is None else int(self.numbers[number])}"


Splits = Mapping[str, Callable[[], Records]]
_SPLIT_NAMES = {
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    # The files of E2E, of its cleaned edition, and of DART.
    "trainset": "train",
    "devset": "validation",
    "testset_w_refs": "test",
    "train-fixed.no-ol": "train",
    "devel-fixed.no-ol": "validation",
    "test-fixed": "test",
    "dart-v1.1.1-full-train": "train",
    "dart-v1.1.1-full-dev": "validation",
    "dart-v1.1.1-full-test": "test",
    # SQuAD's.
    "train-v1.1": "train",
    "dev-v1.1": "validation",
}
_KINDS = ("jsonl:DIR", "json:DIR", "csv:DIR", "tsv:DIR", "tfds:NAME", "mini:NAME", "mrqa:DIR")


def open_source(source: str, data_dir: str | os.PathLike[str] | None = None, task: str | None = None) -> Splits:
    """The splits of a source, none of them read yet.

    Args:
        source: `jsonl:DIR` (a file `SPLIT.jsonl` a split), `json:DIR` (`SPLIT.json`: a list of objects), `csv:DIR`
            (`SPLIT.csv` with a header), `tsv:DIR` (`SPLIT.tsv` with a header, or MRPC's `msr_paraphrase_SPLIT.txt`),
            `tfds:NAME`, `mini:NAME` or `mrqa:DIR` (MRQA's own files, a task each). Splits that publishers call dev, val
            or valid, or E2E's `devset`, are `validation` here.
        data_dir: where TFDS keeps its prepared datasets; None for TFDS's own default.
        task: which of the tasks in the directory, for `mrqa:DIR`.

    Raises:
        ValueError: an unknown kind of source, or `data_dir` with one that has no use for it.
        FileNotFoundError: the directory, or files of this kind in it, are not there.
    """
    kind, _, argument = source.partition(":")
    if kind not in {form.partition(":")[0] for form in _KINDS} or not argument:
        raise ValueError(f"cannot read the source {source!r}; write {', '.join(_KINDS[:-1])} or {_KINDS[-1]}")
    if data_dir is not None and kind != "tfds":
        raise ValueError(f"data_dir is TFDS's directory and means nothing for the source {source!r}")
    if kind == "mini":
        return _mini_splits(argument)
    if kind == "tfds":
        from jaxprompt.data.tfds_source import tfds_splits

        return tfds_splits(argument, data_dir)
    if kind == "mrqa":
        from jaxprompt.data.mrqa import mrqa_splits

        return mrqa_splits(argument, task)
    if kind == "jsonl":
        return _file_splits(argument, {"*.jsonl": ""}, read_jsonl)
    if kind == "json":
        return _file_splits(argument, {"*.json": ""}, read_json)
    if kind == "csv":
        return _file_splits(argument, {"*.csv": ""}, read_csv)
    return _file_splits(argument, {"*.tsv": "", "msr_paraphrase_*.txt": "msr_paraphrase_"}, read_tsv)


def read_jsonl(path: pathlib.Path) -> Records:
    """The records of a JSON-lines file; lines are parsed when they are asked for, blank ones do not count."""
    offsets, numbers, offset = [], [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                offsets.append(offset)
                numbers.append(number)
            offset += len(line)
    lines = _JsonLines(path, np.asarray(offsets, np.int64), np.asarray(numbers, np.int64))
    return Records(str(path), lines, "line", lines.numbers)


def read_tsv(path: pathlib.Path) -> Records:
    """The records of a tab-separated file whose first line names the columns; quotation marks have no meaning.

    Raises:
        ValueError: a line is not UTF-8 or has another number of columns than the first.
    """
    columns: list[str] = []
    rows, numbers = [], []
    for number, raw in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        line = _decode(raw, path, number).rstrip("\r")
        if not line.strip():
            continue
        cells = line.split("\t")
        if not columns:
            columns = cells
        elif len(cells) != len(columns):
            raise ValueError(f"{path}, line {number}: expected the {len(columns)} columns {columns}, got {len(cells)}")
        else:
            rows.append(dict(zip(columns, cells, strict=True)))
            numbers.append(number)
    return Records(str(path), rows, "line", numbers)


def read_csv(path: pathlib.Path) -> Records:
    """The records of a comma-separated file whose first line names the columns, with quotes as RFC 4180 has them.

    Raises:
        ValueError: a line is not UTF-8, its quotes do not match, or it has another number of columns than the first.
    """
    raw = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines(keepends=True)
    reader = csv.reader((_decode(line, path, number) for number, line in enumerate(raw, 1)), strict=True)
    columns: list[str] = []
    rows, numbers = [], []
    number = 1  # a record may span lines, so its first one is the one after the last of the record before
    try:
        for cells in reader:
            if not columns:
                columns = cells
            elif cells and len(cells) != len(columns):
                raise ValueError(
                    f"{path}, line {number}: expected the {len(columns)} columns {columns}, got {len(cells)}"
                )
            elif cells:
                rows.append(dict(zip(columns, cells, strict=True)))
                numbers.append(number)
            number = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {number}: not comma-separated values ({error})") from error
    return Records(str(path), rows, "line", numbers)


def read_json(path: pathlib.Path) -> Records:
    """The records of a JSON file: a list of objects, or an object of which one member is such a list.

    Raises:
        ValueError: the file is not JSON in UTF-8, or holds no such list.
    """
    try:
        content = json.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON in UTF-8 ({error})") from error
    lists = [value for value in content.values() if isinstance(value, list)] if isinstance(content, dict) else [content]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise ValueError(f"{path}: expected a list of objects, or an object that holds one list, got {content!r:.80}")
    for number, record in enumerate(lists[0]):
        if not isinstance(record, dict):
            raise ValueError(f"{path}, record {number}: expected a JSON object, got {record!r:.80}")
    return Records(str(path), lists[0])


class _JsonLines(Sequence[Record]):
    """Lines of a file by number. Each read opens the file anew, so that threads need not share a position."""

    def __init__(self, path: pathlib.Path, offsets: np.ndarray, numbers: np.ndarray) -> None:
        self.path, self.offsets, self.numbers = path, offsets, numbers

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: Any) -> Any:
        number = int(self.numbers[index])
        with self.path.open("rb") as file:
            file.seek(int(self.offsets[index]))
            line = _decode(file.readline().removeprefix(codecs.BOM_UTF8), self.path, number)
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path}, line {number}: not JSON ({error}): {line!r:.80}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{self.path}, line {number}: expected a JSON object, got {line!r:.80}")
        return record


def _decode(line: bytes, path: pathlib.Path, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start})") from error


def _file_splits(
    directory: str, patterns: Mapping[str, str], read: Callable[[pathlib.Path], Records]
) -> dict[str, Callable[[], Records]]:
    """One split a file; `patterns` maps glob patterns to the part of the name before the split's."""
    root = pathlib.Path(directory).expanduser()
    if not root.is_dir():
        near = sorted(path.name for path in root.parent.iterdir()) if root.parent.is_dir() else []
        raise FileNotFoundError(f"there is no directory {str(root)!r}; beside it are {near[:20]}")
    files: dict[str, pathlib.Path] = {}
    for pattern, prefix in patterns.items():
        for path in sorted(root.glob(pattern)):
            stem = path.stem.removeprefix(prefix)
            split = _SPLIT_NAMES.get(stem, stem)
            if split in files:
                raise ValueError(f"{files[split].name} and {path.name} in {root} are both the split {split!r}")
            files[split] = path
    if not files:
        there = sorted(path.name for path in root.iterdir())
        raise FileNotFoundError(f"no {' or '.join(patterns)} in {root}; it has {there[:20]}")
    return {split: functools.partial(read, path) for split, path in files.items()}


def _mini_splits(task: str) -> Splits:
    from jaxprompt.data import mini

    if task not in mini.FORMATS:
        raise ValueError(f"there is no mini task {task!r}; the tasks are {sorted(mini.FORMATS)}")
    return {split: functools.partial(_mini_records, task, split) for split in mini.SPLIT_SIZES}


def _mini_records(task: str, split: str) -> Records:
    from jaxprompt.data import mini

    return Records(f"mini:{task} {split}", mini.records(task, split))
