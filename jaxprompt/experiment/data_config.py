"""The sections `task` and `corpus` of an experiment: what a model reads."""

from __future__ import annotations

import dataclasses

from jaxprompt.config_values import ConfigError, expected
from jaxprompt.data import corpus, objectives
from jaxprompt.data.mixture import LIMIT
from jaxprompt.data.template import Template


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """The task and where its examples come from.

    Attributes:
        name: a known format such as `rte`; empty where the source says it.
        source: `mini:NAME`, `tfds:NAME`, or files: `jsonl:DIR`, `json:DIR`, `csv:DIR`, `tsv:DIR`. Of a mixture, the
            pattern of its tasks' sources, such as `tfds:super_glue/{name}`.
        mixture: tasks that train together, each's text after its name; `NAME`, or `NAME=SOURCE` where the pattern does
            not hold, and `NAME=SOURCE@` for one that is trained on but not scored. Empty: the one task.
        mixture_limit: K of `data.mixture.mixing_rates`, the most examples that a task of a mixture counts as having.
        data_dir: where prepared TFDS data stands; empty: TFDS's own default.
        max_input_length: tokens of text an input keeps; 0: the task's.
        max_target_length: tokens a target keeps, end of text and sentinel included; 0: the task's.
        target_sentinel: whether every target begins with `<extra_id_0>`, for a T5 that has been trained on span
            corruption alone and so has never met another beginning (Lester et al. 2021, section 3.2). The prompt's
            template says so as `{target:sentinel}`, and a saved prompt keeps it.
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
    target_sentinel: bool = False
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str = ""
    max_train_examples: int = 0
    metrics: tuple[str, ...] = ()
    vocabulary: str = ""
    mixture: tuple[str, ...] = ()
    mixture_limit: int = LIMIT

    def __post_init__(self) -> None:
        if self.mixture_limit < 1:
            raise ConfigError(f"task.mixture_limit is {self.mixture_limit}; it must be at least 1")
        if self.mixture and (of_one := [name for name in ("name", "metrics", "vocabulary") if getattr(self, name)]):
            raise ConfigError(f"task.{of_one[0]} is one task's, but task.mixture names several; leave one of them out")
        for name in ("max_input_length", "max_target_length", "max_train_examples"):
            if getattr(self, name) < 0:
                raise ConfigError(f"task.{name} is {getattr(self, name)}; it must be 0 or more")

    def template(self, text: str) -> str:
        """A template's text with what this section asks for: that targets begin with the sentinel."""
        return Template.parse(text).with_sentinel() if self.target_sentinel else text


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Unlabelled text and an objective on it; for pre-training, where `objective` is set.

    Attributes:
        objective: empty: train on the task; `span_corruption` (Raffel et al. 2020) or `prefix_lm` (the LM adaptation of
            Lester et al. 2021) for T5, `causal_lm` (Radford et al. 2019) for GPT-2.
        source: `mini`, the embedded world's text; `text:DIR`, files `*.txt` whose documents are separated by blank
            lines; `jsonl:DIR`, files of one JSON object a line; or `tfds:NAME`, such as `tfds:c4/en:3.0.1`. See
            `data.corpus`.
        data_dir: where prepared TFDS data stands; empty: TFDS's own default.
        field: the text's name in the records of `jsonl` and `tfds`.
        train_split: trained on; of files those with this word in their names, or all if none has it. Not of `mini`, as
            the next two.
        validation_split: for the validation loss; empty: documents of the other split, which are held out of it.
        max_documents: the first so many; 0: all.
        mixture: of `mini`, which kinds of documents come how often, a key of `data.mini.corpus.MIXTURES`.
        documents: of `mini`; more than are read in one run where none should be read twice.
        max_length: tokens kept of a document. Of a longer one of `mini` the rest is lost; of another source's a random
            piece is read each time, of the consecutive ones it is cut into.
        max_targets: for `prefix_lm`, tokens to predict at most; 0: as many as there are.
        split_after: for `prefix_lm`, split documents behind one of these tokens only, such as `.`; empty: anywhere.
        documents_per_row: each has the objective applied to it, and as many share a row as fit.
        row_length: ids of input in a row.
        row_targets: ids of target in a row; for `causal_lm` they are as many as of input.
        joined: for `causal_lm`, how often a document goes on in the context of the one before it.
        validation_documents: others, for the validation loss.
        export_steps: steps after which the model as it then is stays in `model-STEP/`, beside the best one in `model/`;
            each costs a compilation of the training step.
    """

    objective: str = ""
    source: str = "mini"
    data_dir: str = ""
    field: str = "text"
    train_split: str = "train"
    validation_split: str = ""
    max_documents: int = 0
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
    export_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        known_objectives = ("", "span_corruption", "prefix_lm", "causal_lm")
        mixtures = ("understanding", "miniature", "writing")
        for name, known in (("objective", known_objectives), ("mixture", mixtures)):
            if getattr(self, name) not in known:
                raise ConfigError(f"corpus.{name} is {getattr(self, name)!r}; {expected(getattr(self, name), known)}")
        if not 0.0 <= self.joined <= 1.0:
            raise ConfigError(f"corpus.joined is {self.joined}; it is a share, from 0 to 1")
        if self.joined and self.objective != "causal_lm":
            raise ConfigError(f"corpus.joined is {self.joined}, but only causal_lm has contexts of several documents")
        for name in ("max_length", "documents_per_row", "row_length", "row_targets", "validation_documents"):
            if getattr(self, name) < 1:
                raise ConfigError(f"corpus.{name} is {getattr(self, name)}; it must be at least 1")
        if any(step < 1 for step in self.export_steps):
            raise ConfigError(f"corpus.export_steps is {self.export_steps}; steps count from 1")
        if self.source == "mini":
            for name in ("data_dir", "field", "train_split", "validation_split", "max_documents"):
                if getattr(self, name) != getattr(CorpusConfig, name):
                    raise ConfigError(f"corpus.{name} means nothing for the embedded text (corpus.source='mini')")
        else:
            self._check_source()

    def _check_source(self) -> None:
        kind, _, place = self.source.partition(":")
        if kind not in corpus.KINDS or not place:
            raise ConfigError(f"corpus.source is {self.source!r}; write mini, text:DIR, jsonl:DIR or tfds:NAME")
        if self.data_dir and kind != "tfds":
            raise ConfigError(f"corpus.data_dir is TFDS's directory and means nothing for {self.source!r}")
        if self.max_documents < 0:
            raise ConfigError(f"corpus.max_documents is {self.max_documents}; it must be 0 or more")
        if self.objective:
            inputs, targets = objectives.longest_example(self.objective, self.max_length, self.max_targets)
            if inputs > self.row_length or (targets > self.row_targets and self.objective != "causal_lm"):
                raise ConfigError(
                    f"corpus.max_length={self.max_length} tokens make {inputs} ids of input and {targets} of target by "
                    f"{self.objective}, which rows of corpus.row_length={self.row_length} and "
                    f"corpus.row_targets={self.row_targets} do not hold"
                )
