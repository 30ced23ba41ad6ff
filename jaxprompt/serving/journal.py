"""The file of answers, and beside it the record of how far it has come, which survive a kill at any moment.

The answers of a window are on the disk before the record says so, and the record is replaced in one piece. What the
file holds beyond the record, be it torn, is dropped by the next process, which makes it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import IO, Any

from etils import epath

from jaxprompt.paths import as_path, is_remote, write_whole
from jaxprompt.processes import barrier, is_main
from jaxprompt.serving.input_lines import STANDARD, Position
from jaxprompt.trees import flatten

SUMMARY_SUFFIX = ".summary.json"
_VERSION = 1


class Journal(contextlib.AbstractContextManager["Journal"]):
    """Answers in a file, from where an earlier process stopped.

    On several processes, every process makes the same calls; the first one writes.

    Attributes:
        position: how far the input was answered.
        counts: what was counted up to there, as it was given.

    Args:
        output: a path, a `gs://` address, or `-` for the standard output, which keeps no record.
        settings: all that the answers depend on besides the input, as plain values.

    Raises:
        ValueError: the file's answers were made with other settings, it is shorter than its record says, or the record
            cannot be understood.
        FileExistsError: the file holds something that no record speaks of.
    """

    def __init__(self, output: str | epath.PathLike, settings: Mapping[str, Any]) -> None:
        self.position, self.counts = Position(), dict[str, Any]()
        self._settings = json.loads(json.dumps(settings))
        self._sink: _Stream | _Appended | _Parts
        if str(output) == STANDARD:
            self._record, self._sink = None, _Stream()
            return
        path = as_path(output)
        self._record = path.with_name(path.name + SUMMARY_SUFFIX)
        size = parts = 0
        if self._record.exists():
            found = self._read()
            self.position, self.counts = Position(**found["position"]), found["counts"]
            size, parts = found["output"]["bytes"], found["output"]["parts"]
        elif path.exists() and path.stat().length:
            raise FileExistsError(
                f"{path} holds something already, but there is no {self._record.name} beside it that would say what; "
                "remove it, or give another --output"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._sink = _Parts(path, size, parts) if is_remote(path) else _Appended(path, size)
        barrier(f"journal {path}")  # before the first process goes on to change what others still read
        if not self.position.bytes:
            self._write(finished=False)

    def add(self, lines: Iterable[str], position: Position, counts: Mapping[str, Any]) -> None:
        """Adds the answers to a window, after which the input was answered up to a position."""
        if is_main():
            self._sink.add("".join(f"{line}\n" for line in lines).encode())
        self.position, self.counts = position, dict(counts)
        self._write(finished=False)

    def finish(self, counts: Mapping[str, Any]) -> None:
        """All lines that there are have been answered."""
        self.counts = dict(counts)
        if is_main():
            self._sink.finish()
        self._write(finished=True)
        if is_main():
            self._sink.tidy()
        barrier("journal finished")

    def __exit__(self, *exception: Any) -> None:
        """Closes the file."""
        self._sink.close()

    def _read(self) -> dict[str, Any]:
        assert self._record is not None
        try:
            found = json.loads(self._record.read_bytes())
            if found["format_version"] != _VERSION:
                raise ValueError(f"format {found['format_version']}; this jaxprompt reads format {_VERSION}")
            Position(**found["position"]), dict(found["counts"]), found["output"]["bytes"], found["output"]["parts"]
            there, here = flatten(found["settings"]), flatten(self._settings)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"cannot understand {self._record} ({type(error).__name__}: {error}); remove it and the answers beside "
                "it, or give another --output"
            ) from error
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        if keys and found["position"]["bytes"]:  # nothing is lost with settings that brought no answer
            differing = "".join(f"\n  {key}: there {there.get(key)!r}, here {here.get(key)!r}" for key in keys)
            raise ValueError(
                f"{self._record} is of answers made with other settings:{differing}\nGive the same settings to go on, "
                "or another --output to start anew"
            )
        return found

    def _write(self, *, finished: bool) -> None:
        if self._record is None or not is_main():
            return
        record = {
            "format_version": _VERSION,
            "finished": finished,
            "counts": self.counts,
            "position": dataclasses.asdict(self.position),
            "output": {"bytes": self._sink.size, "parts": self._sink.parts},
            "settings": self._settings,
        }
        write_whole(self._record, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


class _Stream:
    """The standard output."""

    size = parts = 0

    def add(self, text: bytes) -> None:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()

    def finish(self) -> None:
        """Every line has gone out."""

    def tidy(self) -> None:
        """There is nothing to remove."""

    def close(self) -> None:
        """It is not ours to close."""


class _Appended:
    """A file on this machine that grows, cut to the size that its record speaks of."""

    parts = 0

    def __init__(self, path: epath.Path, size: int) -> None:
        there = path.stat().length if path.exists() else 0
        if there < size:
            raise ValueError(_cut_short(path, there, size))
        self.size = size
        self._path = path
        self._file: IO[bytes] | None = None

    def add(self, text: bytes) -> None:
        file = self._open()
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        self.size += len(text)

    def finish(self) -> None:
        self._open()

    def tidy(self) -> None:
        """There is nothing to remove."""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._file = self._path.open("ab")
            self._file.truncate(self.size)
        return self._file


class _Parts:
    """An object in a bucket, to which nothing can be appended: each window is one of its own until all are done."""

    def __init__(self, path: epath.Path, size: int, parts: int) -> None:
        self._path, self.size, self.parts = path, size, parts
        there = path.stat().length if path.exists() else 0
        # After a kill between the two last writes the object is longer, but begins with what it was.
        if there < size:
            raise ValueError(_cut_short(path, there, size))
        if missing := [part for part in map(self._part, range(parts)) if not part.exists()]:
            raise ValueError(_cut_short(missing[0], 0, 1))

    def add(self, text: bytes) -> None:
        self._part(self.parts).write_bytes(text)
        self.parts += 1

    def finish(self) -> None:
        if not self.parts:
            return
        with self._path.open("wb") as whole:
            if self.size:
                with self._path.open("rb") as before:
                    whole.write(before.read(self.size))
            for number in range(self.parts):
                with self._part(number).open("rb") as part:
                    shutil.copyfileobj(part, whole)
        self.size = self._path.stat().length
        self.parts = 0

    def tidy(self) -> None:
        for part in self._path.parent.glob(f"{self._path.name}.part-*"):
            part.unlink()

    def close(self) -> None:
        """Every object is closed as soon as it is written."""

    def _part(self, number: int) -> epath.Path:
        return self._path.with_name(f"{self._path.name}.part-{number:06d}")


def _cut_short(path: epath.Path, there: int, size: int) -> str:
    return (
        f"{path} has {there:,} bytes of the {size:,} or more that were written; remove it and the {SUMMARY_SUFFIX} "
        "beside it, or give another --output"
    )
