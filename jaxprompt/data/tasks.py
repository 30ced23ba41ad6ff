"""Tasks: a format, and the examples that a source holds in it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from jaxprompt.data import dpr, glue, lama, mrqa, squad, summarization, superglue, table2text
from jaxprompt.data.sources import Record, Records, Splits, open_source
from jaxprompt.data.task_format import Example, TaskFormat

FORMATS: dict[str, TaskFormat] = {
    **superglue.FORMATS,
    **glue.FORMATS,
    **squad.FORMATS,
    **mrqa.FORMATS,
    **dpr.FORMATS,
    **table2text.FORMATS,
    **summarization.FORMATS,
    **lama.FORMATS,
}
"""Published tasks by name; the embedded ones are in `jaxprompt.data.mini.FORMATS`."""

_TFDS = {**superglue.TFDS, **glue.TFDS, **squad.TFDS, **mrqa.TFDS, **dpr.TFDS, **table2text.TFDS, **summarization.TFDS}
# Other tasks read the same files, so these are theirs only by name.
_NAMED_ONLY = frozenset({"glue_rte", *mrqa.FORMATS})
_EAGER_RECORDS = 200_000
_HEAD = 500  # records of a file that show its task: enough to meet every label


@dataclasses.dataclass(frozen=True)
class Task:
    """A task as `load_task` finds it.

    Attributes:
        format: how records read as text, and how answers are scored.
        source: what was given as the source.
        eager_records: splits of up to this many records are parsed, and so checked, as a whole; larger ones example by
            example as they are asked for.
    """

    format: TaskFormat
    source: str
    eager_records: int = _EAGER_RECORDS
    _openers: Splits = dataclasses.field(default_factory=dict, repr=False)
    _read: dict[tuple[str, bool], Sequence[Example]] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that the source has."""
        return tuple(self._openers)

    def examples(self, split: str, *, for_training: bool | None = None) -> Sequence[Example]:
        """The examples of one split, by number, in the order of the source.

        Args:
            split: one of `splits`.
            for_training: whether each of several right texts of one input (`TaskFormat.merge_references`) is an example
                of its own, and wrong ones are left out; or all of them are the references of one example, and wrong
                ones are asked too. None: the former in the split `train` alone.

        Raises:
            ValueError: there is no such split, it is empty, or a record is not what the format expects; the message
                names the record's file and line.
        """
        if split not in self._openers:
            raise ValueError(f"{self.source} has no split {split!r}; it has {sorted(self._openers)}")
        training = split == "train" if for_training is None else for_training
        if (split, training) not in self._read:
            self._read[split, training] = self._as_asked(split, training)
        return self._read[split, training]

    def _as_asked(self, split: str, training: bool) -> Sequence[Example]:
        records = self._openers[split]()
        merges = self.format.merge_references and not training
        if len(records) > self.eager_records and not merges:
            return _LazyExamples(self.format, records, training)
        examples = [one for one in _parse_all(self.format, records) if not (training and one.wrong)]
        if not examples:
            raise ValueError(f"split {split!r} of {self.source} is empty ({records.name}, {len(records)} records)")
        return _merged(examples) if merges else examples


def load_task(
    name: str | None = None,
    source: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Task:
    """A task by its name, from a source.

    Args:
        name: a published task such as `rte`, a mini task, or a name of your own for files of `input` and `target`.
            Empty: taken from the source, which for files means from their fields and labels.
        source: `mini:NAME`, `tfds:NAME`, `jsonl:DIR`, `json:DIR`, `csv:DIR`, `tsv:DIR` or `mrqa:DIR` (see
            `open_source`). Empty: the embedded task of that name, or the TFDS dataset of that published task.
        data_dir: where TFDS keeps its prepared datasets.

    Raises:
        ValueError: neither name nor source, an unknown task or source, or files that are no known task's.
        FileNotFoundError: the source's directory is not there or holds no such files.
    """
    source = source or _default_source(name)
    kind, _, argument = source.partition(":")
    if kind == "tfds":
        # Told apart by name alone, before anything is downloaded.
        dataset = argument.partition(":")[0]
        name = name or {known: task for task, known in _TFDS.items()}.get(dataset) or dataset.rpartition("/")[2]
        if name not in FORMATS:
            raise ValueError(f"no format is known for {source!r} under the name {name!r}; known are {sorted(FORMATS)}")
    openers = open_source(source, data_dir, name)
    if kind in ("tfds", "mrqa"):
        format = FORMATS[name or ""]
    elif kind == "mini":
        from jaxprompt.data import mini

        format = mini.FORMATS[argument]
    else:
        format = _format_of_files(name, source, openers)
        if format is FORMATS["lama"]:
            format = lama.format_for(argument)  # whose name says which relation this is
    return Task(format, source, _openers=openers)


def _default_source(name: str | None) -> str:
    if not name:
        raise ValueError("name a task or a source; for example load_task('rte'), load_task(source='jsonl:DIR')")
    from jaxprompt.data import mini

    if name in mini.FORMATS:
        return f"mini:{name}"
    if name in _TFDS:
        return f"tfds:{_TFDS[name]}"
    raise ValueError(
        f"there is no task {name!r}; published tasks are {sorted(FORMATS)}, embedded ones {sorted(mini.FORMATS)}; "
        "for files of your own give the source jsonl:DIR as well"
    )


def _format_of_files(name: str | None, source: str, openers: Splits) -> TaskFormat:
    """The format that files are in: plain `input` and `target`, or a published task's own fields."""
    split = "train" if "train" in openers else min(openers)
    records = openers[split]()
    if not len(records):
        raise ValueError(f"split {split!r} of {source} is empty ({records.name})")
    head = [records[number] for number in range(min(len(records), _HEAD))]
    known = FORMATS.get(name or "")
    if known is not None and _problem(known, records, head) is None:
        return known
    if "input" in head[0]:
        plain = TaskFormat(name or "text", "{input}", _parse_plain)
        if known is None:
            return plain
        return dataclasses.replace(known, input=plain.input, parse=plain.parse, hard_prompt=None)
    if known is not None:
        raise ValueError(f"{source} does not hold the task {name!r}: {_problem(known, records, head)}")
    if name:
        raise ValueError(
            f"there is no published task {name!r} (known are {sorted(FORMATS)}), and {records.name} has no fields "
            f"'input' and 'target', only {sorted(head[0])}"
        )
    problems = {task.name: _problem(task, records, head) for task in FORMATS.values()}
    fits = [task for task, problem in problems.items() if problem is None and task not in _NAMED_ONLY]
    if len(fits) != 1:
        reasons = "".join(f"\n  {task}: {problem or 'fits'}" for task, problem in problems.items())
        raise ValueError(f"cannot tell which task {source} holds; name it (task.name). The known ones:{reasons}")
    return FORMATS[fits[0]]


def _problem(task: TaskFormat, records: Records, head: Sequence[Record]) -> ValueError | None:
    """What keeps the format from reading the first records, if anything."""
    try:
        for number, record in enumerate(head):
            _parse_record(task, record, records.where(number))
    except ValueError as error:
        return error
    return None


def _parse_plain(record: Record) -> Iterator[Example]:
    references = record.get("references", [])
    texts = {"input": record.get("input"), "target": record.get("target", "")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(f"expected text in {key!r}, got {value!r:.80}; the record's fields are {sorted(record)}")
    if not isinstance(references, list) or not all(isinstance(text, str) for text in references):
        raise ValueError(f"expected a list of texts in 'references', got {references!r:.80}")
    yield Example({"input": texts["input"]}, texts["target"], tuple(references))


def _parse_record(task: TaskFormat, record: Record, where: str) -> tuple[Example, ...]:
    try:
        examples = tuple(task.parse(record))
        for example in examples:
            if task.labels and example.target and example.target not in task.labels:
                raise ValueError(f"the target {example.target!r} is none of the labels {list(task.labels)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # the latter of nested records of another shape
        reason = f"no field {error}; its fields are {sorted(record)}" if isinstance(error, KeyError) else error
        raise ValueError(f"{where} is no example of {task.name!r}: {reason}") from error
    return examples


def _parse_all(task: TaskFormat, records: Records) -> Iterator[Example]:
    for number in range(len(records)):
        yield from _parse_record(task, records[number], records.where(number))


def _merged(examples: Sequence[Example]) -> list[Example]:
    """One example a group or input, in the order in which they first occur, with all right texts as references."""
    groups: dict[Any, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group or tuple(sorted(example.fields.items())), []).append(example)
    merged = []
    for group in groups.values():
        texts = tuple(text for example in group for text in example.references or (example.target,) if text)
        merged.append(dataclasses.replace(group[0], references=texts if len(texts) > 1 else ()))
    return merged


class _LazyExamples(Sequence[Example]):
    """Examples parsed when they are asked for; every record must give exactly one."""

    def __init__(self, task: TaskFormat, records: Records, training: bool) -> None:
        self._task, self._records, self._training = task, records, training

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        examples = _parse_record(self._task, self._records[number], self._records.where(number))
        examples = tuple(one for one in examples if not (self._training and one.wrong))
        if len(examples) != 1:
            raise ValueError(
                f"{self._records.where(number)} gives {len(examples)} examples; a split of {len(self)} records is read "
                "one example a record: raise the task's eager_records to parse it as a whole"
            )
        return examples[0]
