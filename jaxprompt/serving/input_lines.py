"""A file of lines, read a window at a time, that a later process goes on reading where an earlier one stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

from jaxprompt.paths import as_path

STANDARD = "-"
"""In place of a file: the standard input, or the standard output."""
_BLOCK = 2**20


@dataclasses.dataclass(frozen=True)
class Position:
    """How far an input was read.

    Attributes:
        bytes: how many bytes.
        lines: how many lines, blank ones among them.
        sha256: of these bytes.
    """

    bytes: int = 0
    lines: int = 0
    sha256: str = hashlib.sha256().hexdigest()


@dataclasses.dataclass(frozen=True)
class Lines:
    """Some lines of an input that follow each other, blank ones left out.

    Attributes:
        numbers: the number of each, from 1.
        texts: each one's bytes.
        end: how far the input was read with them.
    """

    numbers: tuple[int, ...]
    texts: tuple[bytes, ...]
    end: Position


class InputLines(contextlib.AbstractContextManager["InputLines"]):
    """The lines of an input from a position on.

    Attributes:
        name: for messages.
        total_bytes: of the file; None for the standard input.

    Args:
        place: a path, a `gs://` address, or `-` for the standard input.
        start: how far it was read already.

    Raises:
        ValueError: what stands before the position is not what was read then.
        OSError: it cannot be read.
    """

    def __init__(self, place: str | epath.PathLike, start: Position) -> None:
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] = sys.stdin.buffer
        self.name, self.total_bytes = "the standard input", None
        if str(place) != STANDARD:
            path = as_path(place)
            if not path.is_file():
                raise FileNotFoundError(f"there is no file {path} to read lines from")
            self.name, self.total_bytes = str(path), path.stat().length
            self._file = self._stack.enter_context(path.open("rb"))
        self._position, self._digest = start, hashlib.sha256()
        try:
            self._skip(start)
        except BaseException:
            self._stack.close()
            raise

    def windows(self, size: int) -> Iterator[Lines]:
        """The lines that follow, `size` at a time; the last window may hold fewer."""
        position, numbers, texts = self._position, list[int](), list[bytes]()
        for line in self._file:
            self._digest.update(line)
            position = Position(position.bytes + len(line), position.lines + 1)
            if not line.strip():
                continue
            numbers.append(position.lines)
            texts.append(line)
            if len(texts) == size:
                yield self._lines(numbers, texts, position)
                numbers, texts = [], []
        if texts:
            yield self._lines(numbers, texts, position)

    def __exit__(self, *exception: Any) -> None:
        """Closes the file."""
        self._stack.close()

    def _lines(self, numbers: list[int], texts: list[bytes], end: Position) -> Lines:
        return Lines(tuple(numbers), tuple(texts), dataclasses.replace(end, sha256=self._digest.hexdigest()))

    def _skip(self, start: Position) -> None:
        left, last = start.bytes, b"\n"
        while left and (block := self._file.read(min(left, _BLOCK))):
            self._digest.update(block)
            left, last = left - len(block), block[-1:]
        changed = ""
        if left:
            changed = f"{start.bytes:,} bytes of it were answered, and it now has {start.bytes - left:,}"
        elif self._digest.hexdigest() != start.sha256:
            changed = f"its first {start.lines:,} lines are not those that were answered"
        elif last != b"\n":
            rest = self._file.readline()
            self._digest.update(rest)
            self._position = dataclasses.replace(start, bytes=start.bytes + len(rest))
            if rest.strip():
                changed = f"line {start.lines:,}, the last one when it was answered, was continued"
        if changed:
            raise ValueError(
                f"{self.name} has changed: {changed}; go on with the input as it was, or give another --output to "
                "start anew"
            )
