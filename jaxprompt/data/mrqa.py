"""The six out-of-domain sets of MRQA 2019 (Fisch et al. 2019), for prompts of SQuAD (Lester et al. 2021, Table 1).

Their texts are made as SQuAD's are, with white space unified first, as the released code of Lester et al. does. It
keeps the first question of each context alone, though; here all count, as in MRQA.
"""

from __future__ import annotations

import functools
import gzip
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxprompt.data.record_fields import text_of, texts_of
from jaxprompt.data.sources import Record, Records
from jaxprompt.data.squad import HARD_PROMPT, INPUT, question_example
from jaxprompt.data.task_format import Example, TaskFormat

SETS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "mrqa_bioasq": ("bio_asq", ("BioASQ",)),
    "mrqa_drop": ("drop", ("DROP",)),
    "mrqa_duorc": ("duo_rc", ("DuoRC", "DuoRC.ParaphraseRC")),
    "mrqa_race": ("race", ("RACE",)),
    "mrqa_relation_extraction": ("relation_extraction", ("RelationExtraction",)),
    "mrqa_textbookqa": ("textbook_qa", ("TextbookQA",)),
}
"""By task: TFDS's name for the set, and the names that its file has where it is published."""

_SPLIT = "test"
"""What TFDS calls the one split of each set, and so do we; MRQA's own word for it is dev."""


def mrqa_splits(directory: str, task: str | None) -> dict[str, Callable[[], Records]]:
    """The one split, `test`, of one of the sets, out of a directory with MRQA's files.

    Args:
        directory: holds `BioASQ.jsonl.gz`, `DROP.jsonl.gz`, ... or the same without `.gz`.
        task: a key of `SETS`.

    Raises:
        ValueError: there is no such set.
        FileNotFoundError: the set's file is not there.
    """
    if task is None or task not in SETS:
        raise ValueError(f"mrqa: sources hold the tasks {sorted(SETS)}; name one of them, not {task!r}")
    root = pathlib.Path(directory).expanduser()
    names = [f"{name}.jsonl{ending}" for name in SETS[task][1] for ending in (".gz", "")]
    for name in names:
        if (root / name).is_file():
            return {_SPLIT: functools.partial(read_mrqa, root / name)}
    there = sorted(path.name for path in root.iterdir()) if root.is_dir() else "no such directory"
    raise FileNotFoundError(f"none of {names} is in {root}: {there}")


def read_mrqa(path: pathlib.Path) -> Records:
    """The records of one of MRQA's files, a context with its questions each; the header is not among them.

    Raises:
        ValueError: the file is not JSON lines, compressed if its name says so, or its first line is no header.
    """
    rows: list[Record] = []
    number = 1
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007
                rows.append(json.loads(line))
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}, line {number}: not one of MRQA's JSON lines ({error})") from error
    if not rows or "header" not in rows[0]:
        raise ValueError(f"{path}: expected MRQA's header in the first line, got {rows[:1]!r:.80}")
    return Records(str(path), rows[1:], "line", range(2, len(rows) + 1))


def _parse(record: Mapping[str, Any]) -> Iterator[Example]:
    """A context with its questions, as MRQA's files have it, or one question, as TFDS does."""
    if "qas" in record:
        for asked in record["qas"]:
            detected = [text_of(answer, "text") for answer in asked.get("detected_answers", ())]
            yield _example(asked, text_of(record, "context"), detected)
    else:
        detected = texts_of(record["detected_answers"], "text") if "detected_answers" in record else []
        yield _example(record, text_of(record, "context"), detected)


def _example(asked: Mapping[str, Any], context: str, detected: list[str]) -> Example:
    answers = [_unify(answer) for answer in texts_of(asked, "answers")] if "answers" in asked else []
    target = _unify(detected[0]) if detected else None
    return question_example(_unify(text_of(asked, "question")), _unify(context), answers, target)


def _unify(text: str) -> str:
    return re.sub(r"\s+", " ", text)


FORMATS: dict[str, TaskFormat] = {
    name: TaskFormat(name, input=INPUT, parse=_parse, metrics=("squad",), hard_prompt=HARD_PROMPT, max_target_length=62)
    for name in SETS
}
TFDS: dict[str, str] = {name: f"mrqa/{dataset}" for name, (dataset, _) in SETS.items()}
"""Where TFDS keeps each task."""
