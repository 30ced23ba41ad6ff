"""Texts of real lengths: those of a directory, or others of the lengths that such texts were found to have.

The tables hold how long the inputs and targets of a task are: tokens of T5's own vocabulary, end of text included and
virtual tokens not, inputs cut at 512, at 33 levels from the shortest to the longest. They are facts about texts, and
hold none.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from paired.shapes import EpochCase


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long a task's examples are.

    Attributes:
        count: examples.
        inputs: quantiles of their inputs' lengths.
        targets: of their targets'.
    """

    count: int
    inputs: tuple[int, ...]
    targets: tuple[int, ...]


SOURCES = {
    "rte": ("tsv:{data}/rte", "", "train"),
    "cb": ("jsonl:{data}/fewglue/CB", "", "test"),
    "boolq": ("jsonl:{data}/fewglue/BoolQ", "", "test"),
    "e2e": ("csv:{data}/e2e", "", "validation"),
}
"""(source, task, split) of each task in a directory of data: RTE in full, the validation sets of CB and BoolQ (which
FewGLUE calls test) and of E2E."""


def _levels(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


LENGTHS = {
    "rte": Lengths(
        2490,
        _levels(
            "16 31 36 39 41 44 46 49 50 52 54 56 57 60 61 63 65 67 70 72 75 78 83 89 99 109 124 135 145 155 168 191 312"
        ),
        _levels("5 5 5 5 5 5 5 5 5 5 5 5 5 5 5 5 5 6 6 6 6 6 6 6 6 6 6 6 6 6 6 6 6"),
    ),
    "cb": Lengths(
        56,
        _levels(
            "32 43 49 54 57 64 64 65 74 75 77 77 78 78 85 90 94 97 102 103 103 107 109 112 113 124 133 135 145"
            " 183 195 254 298"
        ),
        _levels("2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 5 5 5 5 5 5 5 5 5 5 5 5 5 5"),
    ),
    "boolq": Lengths(
        3270,
        _levels(
            "32 56 67 74 80 86 92 97 103 108 113 117 122 127 132 136 141 146 151 157 162 168 174 182 190 198 210"
            " 222 235 253 278 317 512"
        ),
        _levels("2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 4 4 4 4 4 4 4 4 4 4 4 4 4"),
    ),
    "e2e": Lengths(
        4672,
        _levels("16 20 23 24 27 28 31 32 35 38 39 39 40 40 41 41 42 42 43 44 46 47 48 48 49 50 50 51 52 52 53 54 57"),
        _levels("7 16 17 19 20 21 22 23 24 24 25 26 27 28 28 29 30 30 31 32 32 33 34 34 35 36 37 38 39 41 42 45 91"),
    ),
}
"""Of the texts that `SOURCES` name."""

WORD = "the"
"""One token of the embedded T5's vocabulary."""


def in_directory(case: EpochCase, name: str, data: Path) -> EpochCase:
    """The case on the texts of a task in a directory of data, read with the tokenizer there."""
    source, task, split = SOURCES[name]
    tokenizer = str(data / "tokenizers" / "t5")
    return dataclasses.replace(case, source=source.format(data=data), task=task, split=split, tokenizer=tokenizer)


def of_table(case: EpochCase, name: str, directory: Path) -> EpochCase:
    """The case on texts that are written to a directory, of lengths drawn from a task's table.

    Args:
        case: `examples` of it says how many are made, at most as many as the task has.
        name: of the task.
        directory: gets `train.jsonl`.
    """
    table = LENGTHS[name]
    count = min(case.examples or table.count, table.count)
    rng = np.random.default_rng(0)
    drawn = (_drawn(rng, column, count) for column in (table.inputs, table.targets))
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "train.jsonl").open("w") as file:
        for input, target in zip(*drawn, strict=True):
            # The end of text is one of the tokens.
            texts = {"input": " ".join([WORD] * (input - 1)), "target": " ".join([WORD] * (target - 1))}
            file.write(json.dumps(texts) + "\n")
    # Labels are short; a task whose targets are not allows for as long ones as it has.
    task = name if max(table.targets) > 16 else ""
    return dataclasses.replace(case, source=f"jsonl:{directory}", task=task, split="train", tokenizer="nano-t5")


def with_rows(case: EpochCase) -> EpochCase:
    """The case with every example's ids for the peer, as our own encoder makes them."""
    from jaxprompt.data.features import encode_examples
    from paired.ours import epoch_task

    model, task = epoch_task(case, abstract=True)
    examples = task.examples(case.split, for_training=True)[: case.examples or None]
    features: Any = encode_examples(examples, model.row_encoder, task.format)
    rows = tuple((one.input_ids[case.prompt :], one.target_ids) for one in features)
    return dataclasses.replace(case, rows=rows)


def table_of(case: EpochCase) -> Lengths:
    """The table of a case that has its rows."""
    levels = np.linspace(0, 1, 33)
    columns = ([len(row[part]) for row in case.rows] for part in (0, 1))
    found = (tuple(np.quantile(column, levels, method="nearest").astype(int).tolist()) for column in columns)
    return Lengths(len(case.rows), *found)


def _drawn(rng: np.random.Generator, quantiles: tuple[int, ...], count: int) -> list[int]:
    """As many lengths, evenly spaced in likelihood, in random order."""
    at = rng.permutation((np.arange(count) + 0.5) / count * (len(quantiles) - 1))
    return [round(length) for length in np.interp(at, range(len(quantiles)), quantiles)]
