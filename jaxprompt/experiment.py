"""An experiment as typed data: what `launch/` builds from a config file, and what the library takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxprompt.config_values import ConfigError, expected, from_dict, with_placeholders
from jaxprompt.models.layers import REMAT_POLICIES
from jaxprompt.prompts.method import PromptMethod
from jaxprompt.prompts.model_tuning import ModelTuning
from jaxprompt.prompts.prompt_tuning import PromptTuning
from jaxprompt.training.loss import LossConfig
from jaxprompt.training.optim import OptimConfig

METHODS: Mapping[str, type[PromptMethod]] = {"prompt_tuning": PromptTuning, "model_tuning": ModelTuning}
"""The values of `prompt.method`."""


DTYPES = ("float32", "bfloat16")
"""The values of `model.dtype`."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The language model.

    Attributes:
        path: a Hugging Face or T5X checkpoint directory, or a hub name such as `google/t5-base-lm-adapt`.
        dtype: of frozen weights and computation, `float32` or `bfloat16`; the prompt stays fp32.
        remat: what the backward pass recomputes, a key of `models.layers.REMAT_POLICIES`.
        tokenizer: where the tokenizer comes from, if not from `path`.
        from_scratch: start from random weights; `path` then needs `config.json` and a tokenizer only.
    """

    path: str = ""
    dtype: str = "float32"
    remat: str = "none"
    tokenizer: str = ""
    from_scratch: bool = False

    def __post_init__(self) -> None:
        for name, known in (("dtype", DTYPES), ("remat", REMAT_POLICIES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"model.{name} is {getattr(self, name)!r}; {expected(getattr(self, name), known)}")


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """The prompt method; every method reads the fields that it has.

    Attributes:
        method: a key of `METHODS`.
        template: the input as text with fields and `{soft:n}` slots; empty: the prompt, then the task's own input.
        length: virtual tokens.
        init: see `prompts.initializers`.
        labels: label words for `init=class_labels`; empty: the task's.
        text: for `init=string`.
        path: for `init=saved` and `init=npy`.
        scale: for `init=random`.
        vocab_limit: for sampled tokens.
    """

    method: str = "prompt_tuning"
    template: str = ""
    length: int = 100
    init: str = "sampled_vocab"
    labels: tuple[str, ...] = ()
    text: str = ""
    path: str = ""
    scale: float = 0.5
    vocab_limit: int = 5000

    def build(self, task_labels: tuple[str, ...] = ()) -> PromptMethod:
        """The method object.

        Raises:
            ConfigError: the method is unknown.
        """
        if self.method not in METHODS:
            raise ConfigError(f"prompt.method is {self.method!r}; {expected(self.method, METHODS)}")
        kind = METHODS[self.method]
        values = dataclasses.asdict(self) | {"labels": self.labels or task_labels}
        return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """The task and where its examples come from.

    Attributes:
        name: a known format such as `rte`; empty where the source says it.
        source: `mini:NAME`, `tfds:NAME` or `jsonl:DIR`.
        data_dir: where prepared TFDS data stands; empty: TFDS's own default.
        max_input_length: tokens of text an input keeps; 0: the task's.
        max_target_length: tokens a target keeps; 0: the task's.
        train_split: trained on.
        validation_split: chooses the checkpoint.
        test_split: scored once, with the chosen checkpoint; empty: none.
        max_train_examples: the first so many; 0: all.
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

    def __post_init__(self) -> None:
        for name in ("max_input_length", "max_target_length", "max_train_examples"):
            if getattr(self, name) < 0:
                raise ConfigError(f"task.{name} is {getattr(self, name)}; it must be 0 or more")


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Unlabelled text and an objective on it; for pre-training, where `objective` is set.

    Attributes:
        objective: empty: train on the task; `span_corruption` (Raffel et al. 2020) or `prefix_lm` (the LM adaptation of
            Lester et al. 2021).
        source: `mini`, the embedded world's text.
        documents: of them; more than are read in one run where none should be read twice.
        max_length: tokens kept of a document.
        max_targets: for `prefix_lm`, tokens to predict at most; 0: as many as there are.
        split_after: for `prefix_lm`, split documents behind one of these tokens only, such as `.`; empty: anywhere.
        documents_per_row: each has the objective applied to it, and as many share a row as fit.
        row_length: ids of input in a row.
        row_targets: ids of target in a row.
        validation_documents: others, for the validation loss.
    """

    objective: str = ""
    source: str = "mini"
    documents: int = 10_000_000
    max_length: int = 80
    max_targets: int = 0
    split_after: tuple[str, ...] = ()
    documents_per_row: int = 4
    row_length: int = 152
    row_targets: int = 64
    validation_documents: int = 2048

    def __post_init__(self) -> None:
        for name, known in (("objective", ("", "span_corruption", "prefix_lm")), ("source", ("mini",))):
            if getattr(self, name) not in known:
                raise ConfigError(f"corpus.{name} is {getattr(self, name)!r}; {expected(getattr(self, name), known)}")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop.

    Attributes:
        steps: updates.
        batch_size: examples an update.
        accumulate: parts that a batch is read in, to save memory.
        dropout: whether the model's dropout is applied.
        normalization: of the loss, see `LossConfig`.
        z_loss: see `LossConfig`.
        label_smoothing: see `LossConfig`.
        log_every: steps between lines of metrics.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: newest checkpoints kept; they serve to resume, what scored best is exported.
    """

    steps: int = 1000
    batch_size: int = 32
    accumulate: int = 1
    dropout: bool = True
    normalization: str = "sum"
    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    log_every: int = 10
    checkpoint_every: int = 100
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"train.batch_size={self.batch_size} cannot be read in {self.accumulate} equal parts")
        _ = self.loss  # which refuses values without a meaning

    @property
    def loss(self) -> LossConfig:
        """The loss's part of this."""
        return LossConfig(self.normalization, self.z_loss, self.label_smoothing)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Evaluation on the validation split.

    Attributes:
        every: steps between evaluations.
        metric: chooses the best checkpoint; empty: the mean of the task's metrics.
        method: `greedy` decoding, or `rank`: the likeliest of the task's labels.
        batch_size: rows a batch.
        max_examples: the first so many of the split; 0: all.
        baselines: whether the frozen model is scored too, without a prompt and with the task's hard prompt.
    """

    every: int = 100
    metric: str = ""
    method: str = "greedy"
    batch_size: int = 64
    max_examples: int = 0
    baselines: bool = False

    def __post_init__(self) -> None:
        if self.method not in ("greedy", "rank"):
            raise ConfigError(f"eval.method is {self.method!r}; {expected(self.method, ('greedy', 'rank'))}")
        if self.every < 1 or self.batch_size < 1:
            raise ConfigError(f"eval.every={self.every} and eval.batch_size={self.batch_size} must be at least 1")
        if self.max_examples < 0:
            raise ConfigError(f"eval.max_examples is {self.max_examples}; it must be 0 or more")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a run depends on."""

    seed: int = 0
    model: ModelConfig = ModelConfig()
    prompt: PromptConfig = PromptConfig()
    task: TaskConfig = TaskConfig()
    corpus: CorpusConfig = CorpusConfig()
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    eval: EvalConfig = EvalConfig()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Experiment:
        """Reads nested plain values, such as `config.json`'s.

        Raises:
            ConfigError: an unknown key (the message names the near ones) or a value of the wrong kind.
        """
        return from_dict(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values that `from_dict` reads back."""
        return dataclasses.asdict(self)

    def to_config(self, **overrides: Any) -> Any:
        """The same as a locked `ml_collections.ConfigDict`, for config files.

        Args:
            **overrides: sections as dicts of the values that differ, or `seed`.
        """
        import ml_collections

        config = ml_collections.ConfigDict(with_placeholders(self))
        with config.ignore_type():  # `from_dict` says better what is of the wrong kind
            for key, value in overrides.items():
                config.update({key: value})
        return config.lock()
