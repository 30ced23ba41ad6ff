"""Unlabelled text in files that need not fit into memory: documents by number, found by where they begin.

What is kept of a file is the place of each document, eight bytes; the text is read when it is asked for. Opening reads
every file once from end to end, to find the documents and to make sure that they are UTF-8.
"""

from __future__ import annotations

import array
import codecs
import functools
import json
import mmap
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

LONGEST_TEXT = 2**16
"""Bytes of plain text in a document; a longer text without a blank line is several documents."""

_PATTERNS = {"text": ("*.txt",), "jsonl": ("*.jsonl", "*.json")}
_LINE = re.compile(rb"\n\s*")
_BLANK_LINE = re.compile(rb"\n[ \t\r\f\v]*\n\s*")
_LEADING = re.compile(rb"(?:\xef\xbb\xbf)?\s*")
_BLOCK = 2**24  # bytes decoded at once


class FileDocuments(Sequence[str]):
    """The documents of several files, one file after the other.

    Args:
        starts: {file: the bytes at which its documents begin}.
        read: a document's text out of its bytes, file and first byte.
    """

    def __init__(self, starts: dict[pathlib.Path, np.ndarray], read: Callable[[bytes, pathlib.Path, int], str]) -> None:
        self._files, self._starts, self._read = list(starts), list(starts.values()), read
        self._ends = np.cumsum([len(one) for one in self._starts], dtype=np.int64)

    def __len__(self) -> int:
        """How many documents there are."""
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Any:
        """The document of that number. Each read opens its file anew, so that threads need not share a position."""
        number = range(len(self))[index]
        at = int(np.searchsorted(self._ends, number, side="right"))
        starts, path = self._starts[at], self._files[at]
        place = number - (int(self._ends[at - 1]) if at else 0)
        start = int(starts[place])
        with path.open("rb") as file:
            file.seek(start)
            raw = file.read(int(starts[place + 1]) - start if place + 1 < len(starts) else -1)
        return self._read(raw, path, start)


def open_files(kind: str, directory: str, split: str, others: Sequence[str] = (), field: str = "text") -> FileDocuments:
    """The documents of one split of a directory.

    Args:
        kind: `text`: files `*.txt`, whose documents are separated by blank lines, and cut at white space where they
            are longer than `LONGEST_TEXT`; `jsonl`: files `*.jsonl` and `*.json` of one JSON object a line.
        directory: with all directories in it.
        split: the files that have this word in their names, such as `train` in `c4-train.00000-of-01024.json`. Where
            none has, or it is empty, all that have no word of `others` in theirs.
        others: the other splits.
        field: for `jsonl`, the object's text.

    Raises:
        FileNotFoundError: the directory, or files of this kind and split in it, are not there.
        ValueError: they hold no document, or bytes that are not UTF-8.
    """
    paths = _files_of(kind, directory, split, others)
    separator, longest = (_BLANK_LINE, LONGEST_TEXT) if kind == "text" else (_LINE, 0)
    starts = {path: _starts(path, separator, longest) for path in paths}
    documents = FileDocuments(starts, _as_text if kind == "text" else functools.partial(_as_json, field=field))
    if not len(documents):
        raise ValueError(f"the files of {directory} hold no document ({[path.name for path in paths][:20]})")
    return documents


def _files_of(kind: str, directory: str, split: str, others: Sequence[str]) -> list[pathlib.Path]:
    root, patterns = pathlib.Path(directory).expanduser(), _PATTERNS[kind]
    if not root.is_dir():
        raise FileNotFoundError(f"there is no directory {str(root)!r}")
    paths = sorted({path for pattern in patterns for path in root.rglob(pattern)})
    words = {path: set(re.split(r"[^a-z]+", str(path.relative_to(root)).lower())) for path in paths}
    named = [path for path in paths if split and split.lower() in words[path]]
    rest = [path for path in paths if not {other.lower() for other in others if other} & words[path]]
    if found := named or ([] if split in others else rest):
        return found
    there = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    unpack = "; unpack compressed files, which cannot be read from their middle" if _packed(there) else ""
    raise FileNotFoundError(f"no {' or '.join(patterns)} of {split!r} in {root}; it has {there[:20]}{unpack}")


def _packed(names: Sequence[str]) -> bool:
    return any(name.endswith((".gz", ".zst", ".bz2", ".xz", ".zip")) for name in names)


def _starts(path: pathlib.Path, separator: re.Pattern[bytes], longest: int) -> np.ndarray:
    """Where documents begin, Int64[ndarray, "documents"]."""
    found = array.array("q")
    size = path.stat().st_size
    if size:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _check_encoding(content, path)
            found.append(_LEADING.match(content).end())  # type: ignore[union-attr]  # it matches nothing, too
            found.extend(match.end() for match in separator.finditer(content, found[0]))
            starts = np.asarray(found, np.int64)
            starts = starts[starts < size]  # what separates may also come last
            if longest:
                lengths = np.diff(starts, append=size)
                cuts = [cut for number in np.flatnonzero(lengths > longest)
                        for cut in _cuts(content, int(starts[number]), int(lengths[number]), longest)]  # fmt: skip
                starts = np.sort(np.concatenate([starts, np.asarray(cuts, np.int64)]))
            return starts
    return np.asarray(found, np.int64)


def _cuts(content: mmap.mmap, start: int, length: int, longest: int) -> Iterator[int]:
    """Where the further parts of a text begin: behind a line, else behind a word, else behind a character."""
    end = start + length
    while end - start > longest:
        low, high = start + longest // 2, start + longest
        border = max(content.rfind(b"\n", low, high), -1)
        border = border if border >= 0 else content.rfind(b" ", low, high)
        if border >= 0:
            start = border + 1
        else:
            start = high
            while content[start] & 0xC0 == 0x80:  # within a character
                start -= 1
        yield start


def _check_encoding(content: mmap.mmap, path: pathlib.Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(content), _BLOCK):
        block = content[start : start + _BLOCK]
        held = len(decoder.getstate()[0])
        try:
            decoder.decode(block, final=start + _BLOCK >= len(content))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {start - held + error.start})") from error


def _as_text(raw: bytes, path: pathlib.Path, start: int) -> str:
    del path, start
    return raw.decode("utf-8").strip()


def _as_json(raw: bytes, path: pathlib.Path, start: int, *, field: str) -> str:
    try:
        record = json.loads(raw)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, at byte {start}: not a line of JSON ({error}): {raw!r:.80}") from error
    if not isinstance(record, dict) or not isinstance(record.get(field), str):
        raise ValueError(f"{path}, at byte {start}: expected a JSON object with text in {field!r}, got {raw!r:.80}")
    return record[field]
