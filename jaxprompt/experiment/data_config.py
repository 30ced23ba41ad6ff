"""The sections `task` and `corpus` of an experiment: what a model reads."""

from __future__ import annotations

import dataclasses

from jaxprompt.config_values import ConfigError, expected


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """The task and where its examples come from.

    Attributes:
        name: a known format such as `rte`; empty where the source says it.
        source: `mini:NAME`, `tfds:NAME`, or files: `jsonl:DIR`, `json:DIR`, `csv:DIR`, `tsv:DIR`.
        data_dir: where prepared TFDS data stands; empty: TFDS's own default.
        max_input_length: tokens of text an input keeps; 0: the task's.
        max_target_length: tokens a target keeps; 0: the task's.
        train_split: trained on.
        validation_split: chooses the checkpoint.
        test_split: scored once, with the chosen checkpoint; empty: none.
        max_train_examples: the first so many; 0: all.
        metrics: names of metrics (see `evaluation.metrics`) to score by; empty: the task's.
        vocabulary: a file of the words that an answer may be, for `eval.method=token`; empty: the task's.
    """

    name: str = ""
    source: str = "mini:sentiment"
    data_dir: str = ""
    max_input_length: int = 0
    max_target_length: int = 0
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str = ""
    max_train_examples: int = 0
    metrics: tuple[str, ...] = ()
    vocabulary: str = ""

    def __post_init__(self) -> None:
        for name in ("max_input_length", "max_target_length", "max_train_examples"):
            if getattr(self, name) < 0:
                raise ConfigError(f"task.{name} is {getattr(self, name)}; it must be 0 or more")


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Unlabelled text and an objective on it; for pre-training, where `objective` is set.

    Attributes:
        objective: empty: train on the task; `span_corruption` (Raffel et al. 2020) or `prefix_lm` (the LM adaptation of
            Lester et al. 2021) for T5, `causal_lm` (Radford et al. 2019) for GPT-2.
        source: `mini`, the embedded world's text.
        mixture: which kinds of documents come how often, a key of `data.mini.corpus.MIXTURES`.
        documents: of them; more than are read in one run where none should be read twice.
        max_length: tokens kept of a document.
        max_targets: for `prefix_lm`, tokens to predict at most; 0: as many as there are.
        split_after: for `prefix_lm`, split documents behind one of these tokens only, such as `.`; empty: anywhere.
        documents_per_row: each has the objective applied to it, and as many share a row as fit.
        row_length: ids of input in a row.
        row_targets: ids of target in a row; for `causal_lm` they are as many as of input.
        joined: for `causal_lm`, how often a document goes on in the context of the one before it.
        validation_documents: others, for the validation loss.
    """

    objective: str = ""
    source: str = "mini"
    mixture: str = "understanding"
    documents: int = 10_000_000
    max_length: int = 80
    max_targets: int = 0
    split_after: tuple[str, ...] = ()
    documents_per_row: int = 4
    row_length: int = 152
    row_targets: int = 64
    joined: float = 0.0
    validation_documents: int = 2048

    def __post_init__(self) -> None:
        objectives = ("", "span_corruption", "prefix_lm", "causal_lm")
        mixtures = ("understanding", "miniature", "writing")
        for name, known in (("objective", objectives), ("source", ("mini",)), ("mixture", mixtures)):
            if getattr(self, name) not in known:
                raise ConfigError(f"corpus.{name} is {getattr(self, name)!r}; {expected(getattr(self, name), known)}")
        if not 0.0 <= self.joined <= 1.0:
            raise ConfigError(f"corpus.joined is {self.joined}; it is a share, from 0 to 1")
        if self.joined and self.objective != "causal_lm":
            raise ConfigError(f"corpus.joined is {self.joined}, but only causal_lm has contexts of several documents")
