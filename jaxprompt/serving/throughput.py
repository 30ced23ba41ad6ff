"""How fast lines are answered, and what share of the work is padding: on a bar while it goes on, and in figures."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Mapping
from typing import Any

import tqdm

_SECONDS_BETWEEN_LINES = 30  # in a file; on a terminal the bar moves


@dataclasses.dataclass
class Counts:
    """What was done, by this process and earlier ones.

    Attributes:
        lines: answered, those with an error among them.
        errors: lines that could not be answered.
        batches: batches that were computed.
        input_tokens: ids of the rows, virtual tokens among them; without padding and fillers.
        computed_tokens: ids that were read for them: rows times length of every batch.
        new_tokens: generated, the end of text counted.
        seconds: from the first line read to the last one written, compilation included.
        sittings: processes that it took.
        by_prompt: lines by the name of their prompt.
    """

    lines: int = 0
    errors: int = 0
    batches: int = 0
    input_tokens: int = 0
    computed_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    sittings: int = 0
    by_prompt: dict[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Counts:
        """The counts of `to_dict`, or new ones from an empty dict."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def to_dict(self) -> dict[str, Any]:
        """The counts, and the rates and shares that follow from them."""
        rates = {
            f"{what}_per_second": count / self.seconds if self.seconds else 0.0
            for what, count in (
                ("lines", self.lines), ("input_tokens", self.input_tokens), ("new_tokens", self.new_tokens),
            )
        }  # fmt: skip
        padding = 1 - self.input_tokens / self.computed_tokens if self.computed_tokens else 0.0
        return dataclasses.asdict(self) | rates | {"padding_share": padding}


class Throughput(contextlib.AbstractContextManager["Throughput"]):
    """Counts, and shows on the standard error how it goes.

    Attributes:
        counts: so far.

    Args:
        counts: of earlier processes.
        done: bytes of the input that were answered by them.
        total: bytes of the input; None: nobody knows.
        shown: whether there is a bar.
    """

    def __init__(self, counts: Counts, done: int, total: int | None, *, shown: bool = True) -> None:
        self.counts = dataclasses.replace(counts, sittings=counts.sittings + 1, by_prompt=dict(counts.by_prompt))
        self._earlier, self._lines, self._tokens = counts.seconds, counts.lines, counts.input_tokens + counts.new_tokens
        self._began = time.monotonic()
        self._bar = tqdm.tqdm(
            total=total,
            initial=done,
            unit="B",
            unit_scale=True,
            disable=not shown,
            file=sys.stderr,
            smoothing=0,
            mininterval=0.1 if sys.stderr.isatty() else _SECONDS_BETWEEN_LINES,
            dynamic_ncols=True,
        )

    def batch(self, real: int, computed: int, new: int) -> None:
        """Counts a batch: the ids of its rows, those that were read, and those that were generated."""
        counts = self.counts
        counts.batches += 1
        counts.input_tokens += real
        counts.computed_tokens += computed
        counts.new_tokens += new

    def line(self, prompt: str, *, failed: bool = False) -> None:
        """Counts a line; one that names no known prompt has none."""
        self.counts.lines += 1
        self.counts.errors += failed
        if prompt:
            self.counts.by_prompt[prompt] = self.counts.by_prompt.get(prompt, 0) + 1

    def window(self, position: int) -> None:
        """Takes the time, and moves the bar to a byte of the input; the rates behind it are this process's."""
        counts, seconds = self.counts, max(time.monotonic() - self._began, 1e-9)
        counts.seconds = self._earlier + seconds
        lines, tokens = counts.lines - self._lines, counts.input_tokens + counts.new_tokens - self._tokens
        shown = {"lines": f"{counts.lines:,}", "lines/s": f"{lines / seconds:,.1f}"}
        shown |= {"tokens/s": f"{tokens / seconds:,.0f}", "padding": f"{counts.to_dict()['padding_share']:.0%}"}
        self._bar.set_postfix(shown | ({"errors": f"{counts.errors:,}"} if counts.errors else {}), refresh=False)
        self._bar.update(position - self._bar.n)

    def __exit__(self, *exception: object) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()
