"""`metrics.jsonl`: one JSON object an event, {"step": …, "split": …, "values": {…}}."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


class MetricsLog:
    """Appends events to a file, on from the step that a run resumes at.

    Args:
        path: the file; created if absent.
        resume_step: events of later steps, which an interrupted run wrote after its last checkpoint, are dropped: the
            resumed run writes them again.

    Raises:
        ValueError: a whole line is no event.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        kept = []
        if path.exists():
            # An interrupted write can leave a last line without its end.
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            kept = [line for number, line in enumerate(lines, 1) if _step(line, path, number) <= resume_step]
        fresh = path.with_suffix(".tmp")
        fresh.write_text("".join(kept))
        os.replace(fresh, path)
        self._file = path.open("a")

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Adds one event, and makes sure that it is in the file."""
        event = {"step": step, "split": split, "values": {name: float(value) for name, value in values.items()}}
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _step(line: str, path: Path, number: int) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}, line {number}: not an event of a run: {line!r:.80}; use a new workdir") from error
