"""Unlabelled text for pre-training, by random access: files, and datasets of the TFDS catalogue."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxprompt.data.corpus_files import open_files

KINDS = ("text", "jsonl", "tfds")
"""What `open_corpus` reads: `text:DIR`, `jsonl:DIR` and `tfds:NAME`."""

_LONGEST = 2**16  # characters tokenised at once

Sequenced = TypeVar("Sequenced", str, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Documents to train on, and others to validate with.

    Attributes:
        train: texts by number.
        validation: texts by number.
        window: how many neighbours of `train` are read at once, where single ones cannot be: they are best asked for
            window after window. 0: any document by itself.
    """

    train: Sequence[str]
    validation: Sequence[str]
    window: int = 0


def open_corpus(
    source: str,
    *,
    train_split: str = "train",
    validation_split: str = "",
    validation_documents: int,
    max_documents: int = 0,
    field: str = "text",
    data_dir: str = "",
) -> Corpus:
    """Opens a corpus; what of it is read into memory is at most a window.

    Args:
        source: `text:DIR` or `jsonl:DIR` (see `corpus_files.open_files`), or `tfds:NAME` such as `tfds:c4/en:3.0.1`
            (see `tfds_source.open_rows`).
        train_split: to train on.
        validation_split: to validate with; empty: documents of `train_split`, which are then held out: evenly spread
            ones, or the first where they are read by windows.
        validation_documents: how many, or as many as the split has.
        max_documents: of the documents to train on, the first so many; 0: all.
        field: the text's name in a record.
        data_dir: where TFDS keeps its prepared datasets.

    Raises:
        FileNotFoundError: there are no such files.
        ValueError: the source or split is unknown or empty, or holds too little text to validate with a part of it.
    """
    kind, _, argument = source.partition(":")
    if kind not in KINDS or not argument:
        raise ValueError(f"cannot read the corpus {source!r}; write text:DIR, jsonl:DIR or tfds:NAME")

    def read(split: str, other: str) -> tuple[Sequence[str], int]:
        if kind != "tfds":
            return open_files(kind, argument, split, [other], field), 0
        from jaxprompt.data.tfds_source import open_rows

        rows, window = open_rows(argument, split, data_dir or None)
        return _Fields(rows, field, f"{source}, split {split!r}"), window

    train, window = read(train_split, validation_split)
    if validation_split:
        validation = _first(read(validation_split, train_split)[0], validation_documents)
    else:
        train, validation = hold_out(train, validation_documents, spread=not window, name=source)
    return Corpus(_first(train, max_documents) if max_documents else train, validation, window)


def hold_out(
    texts: Sequence[str], count: int, *, spread: bool = True, name: str = "the corpus"
) -> tuple[Sequence[str], Sequence[str]]:
    """(all texts but some, those): `count` of them, evenly spread or the first ones.

    Raises:
        ValueError: there are fewer than two texts for each that is held out.
    """
    if len(texts) < 2 * count:
        raise ValueError(
            f"{name} has {len(texts)} documents, of which corpus.validation_documents={count} would be held out; lower "
            "that, or name a corpus.validation_split"
        )
    held = np.arange(count) * (len(texts) if spread else count) // max(count, 1)
    before = held - np.arange(count)  # so many of the others come before each that is held out

    def kept(number: int) -> int:
        return number + int(np.searchsorted(before, number, side="right"))

    return _Chosen(texts, kept, len(texts) - count), _Chosen(texts, lambda number: int(held[number]), count)


def reader(tokenizer: Callable[..., Any], vocab_size: int, length: int) -> Callable[[str, np.random.Generator], Any]:
    """What makes a document tokens: all of it, or a random one of its pieces of `length` tokens.

    A text of more than 65,536 characters is first cut to a random piece of so many, for it takes long to tokenise.

    Args:
        tokenizer: a tokenizer as `transformers` loads it.
        vocab_size: rows of the model's embedding table.
        length: tokens kept at most, without an end of sequence.
    """
    return functools.partial(_read, tokenizer, vocab_size, length)


def random_piece(sequence: Sequenced, rng: np.random.Generator, length: int) -> Sequenced:
    """One of the consecutive pieces of `length` that a sequence is cut into, each as likely, the last one shorter.

    It is what T5's `select_random_chunk` takes. A last piece of one element alone, of which no example could be made,
    is not among them.
    """
    pieces = max(1, -(-(len(sequence) - 1) // length))
    start = length * int(rng.integers(pieces)) if pieces > 1 else 0
    return sequence[start : start + length]


def _read(
    tokenizer: Callable[..., Any], vocab_size: int, length: int, text: str, rng: np.random.Generator
) -> np.ndarray:
    text = random_piece(text, rng, _LONGEST)
    ids = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    tokens = random_piece(np.asarray(ids, np.int32), rng, length)
    if len(tokens) and tokens.max() >= vocab_size:
        raise ValueError(
            f"the tokenizer gives id {tokens.max()} in {text!r:.80}, but the model's vocabulary has {vocab_size} rows: "
            "they do not belong together"
        )
    return tokens


def _first(texts: Sequence[str], count: int) -> Sequence[str]:
    return texts if count >= len(texts) else _Chosen(texts, lambda number: number, count)


class _Chosen(Sequence[str]):
    """Some of the texts of another sequence: `number_of` gives the number there."""

    def __init__(self, texts: Sequence[str], number_of: Callable[[int], int], count: int) -> None:
        self._texts, self._number_of, self._count = texts, number_of, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._texts[self._number_of(range(self._count)[index])]


class _Fields(Sequence[str]):
    """One field of each record."""

    def __init__(self, rows: Sequence[Any], field: str, name: str) -> None:
        self._rows, self._field, self._name = rows, field, name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        record = self._rows[range(len(self))[index]]
        if not isinstance(text := record.get(self._field), str):
            raise ValueError(
                f"record {index} of {self._name} has no text {self._field!r}; its fields are {sorted(record)} "
                "(corpus.field names another)"
            )
        return text
