"""The sections `model`, `train` and `eval` of an experiment: how a model runs."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxprompt.config_values import ConfigError, expected
from jaxprompt.evaluation.ensemble import VOTES
from jaxprompt.models.fused_attention import IMPLEMENTATIONS
from jaxprompt.models.layers import REMAT_POLICIES
from jaxprompt.models.quantization import SCHEMES
from jaxprompt.training.loss import LossConfig

DTYPES = ("float32", "bfloat16")
"""The values of `model.dtype`."""

PACKINGS = ("auto", "never", "always")
"""The values of `train.packing`."""

METHODS_OF_ANSWERING = ("greedy", "beam", "rank", "token")
"""The values of `eval.method`."""

ONLOOKERS = ("train.tensorboard", "train.wandb", "train.profile_from", "train.profile_steps")
"""Keys that may change when a run is resumed, for nothing that comes of it depends on them."""

LAYOUT = ("mesh.data", "mesh.model", "model.shard_data", "model.remat", "model.attention")
"""Keys that may change too, so that a run can go on on other devices. What comes of it then differs by rounding and,
where rows are packed otherwise or a GPT-2 reads its prompt otherwise, by dropout's draws."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The language model.

    Attributes:
        path: a Hugging Face or T5X checkpoint directory, or a hub name such as `google/t5-base-lm-adapt`.
        dtype: of frozen weights and computation, `float32` or `bfloat16`; the prompt stays fp32.
        remat: what the backward pass recomputes, a key of `models.layers.REMAT_POLICIES`.
        tokenizer: where the tokenizer comes from, if not from `path`.
        from_scratch: start from random weights; `path` then needs `config.json` and a tokenizer only.
        shard_data: whether weights are split over the mesh's `data` axis, too: less memory a device, more traffic.
        quantize: `int8` holds the layers' frozen matrices as integers of 8 bits, see `models.quantization`; empty: in
            `dtype`.
        attention: what computes attention, one of `models.fused_attention.IMPLEMENTATIONS`; `auto`: what is known to be
            fastest on the platform.
    """

    path: str = ""
    dtype: str = "float32"
    remat: str = "none"
    tokenizer: str = ""
    from_scratch: bool = False
    shard_data: bool = False
    quantize: str = ""
    attention: str = "auto"

    def __post_init__(self) -> None:
        choices = {
            "dtype": DTYPES, "remat": REMAT_POLICIES, "quantize": ("", *SCHEMES), "attention": IMPLEMENTATIONS,
        }  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"model.{name} is {getattr(self, name)!r}; {expected(getattr(self, name), known)}")
        if self.quantize and self.from_scratch:
            raise ConfigError(
                f"model.quantize={self.quantize!r} holds frozen weights, and with model.from_scratch they train; leave "
                "one of them out"
            )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices take part, and in what.

    Attributes:
        data: parts that the rows of every batch are split into; 0: as many as `model` leaves devices for.
        model: parts that the model's matrices are split into (tensor parallelism).
    """

    data: int = 0
    model: int = 1

    def __post_init__(self) -> None:
        if self.data < 0 or self.model < 1:
            raise ConfigError(
                f"mesh.data={self.data} must be 1 or more, or 0 for all devices, and mesh.model={self.model} at least 1"
            )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop.

    Attributes:
        steps: updates.
        batch_size: examples an update.
        accumulate: parts that a batch is read in, to save memory.
        packing: whether examples of a batch share rows, each seeing only itself: `auto`, where the lengths of the data
            say that it saves a tenth of a step or more; `always`, also where it saves less; `never`. Loss and gradient
            are the same; of dropout, examples in one row share what a T5 draws for a whole row.
        dropout: whether the model's dropout is applied.
        normalization: of the loss, see `LossConfig`.
        z_loss: see `LossConfig`.
        label_smoothing: see `LossConfig`.
        log_every: steps between lines of metrics.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: newest checkpoints kept; they serve to resume, what scored best is exported.
        text_only: whether only a target's own text is learnt, and neither its end of text nor the mask before it, as
            P-tuning does on facts.
        patience: evaluations without a better score after which training ends; 0: it goes on to the last step.
        num_prompts: prompts trained together, each as by itself: with its own start, order of the data, dropout and
            best step. They share the frozen model and the time of a step.
        seeds: of each prompt; empty: the run's `seed` and those behind it.
        learning_rates: of each prompt; empty: `optim.learning_rate` for all.
        tune_model: whether the model's weights train together with the prompt, as P-tuning does on SuperGLUE.
        tensorboard: whether metrics go to `tensorboard/` in the run's directory too.
        wandb: the Weights & Biases project that metrics go to too; empty: none.
        profile_from: the first step that a trace is recorded of, into `profile/` in the run's directory.
        profile_steps: how many steps it records; 0: none.
    """

    steps: int = 1000
    batch_size: int = 32
    accumulate: int = 1
    packing: str = "auto"
    dropout: bool = True
    normalization: str = "sum"
    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    log_every: int = 10
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    text_only: bool = False
    patience: int = 0
    num_prompts: int = 1
    seeds: tuple[int, ...] = ()
    learning_rates: tuple[float, ...] = ()
    tune_model: bool = False
    tensorboard: bool = False
    wandb: str = ""
    profile_from: int = 10
    profile_steps: int = 0

    def __post_init__(self) -> None:
        positive = "steps batch_size accumulate log_every checkpoint_every keep_checkpoints profile_from"
        for name in positive.split():
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("patience", "profile_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"train.{name} is {getattr(self, name)}; it must be 0 or more")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"train.batch_size={self.batch_size} cannot be read in {self.accumulate} equal parts")
        if self.packing not in PACKINGS:
            raise ConfigError(f"train.packing is {self.packing!r}; {expected(self.packing, PACKINGS)}")
        self._check_members()
        _ = self.loss  # which refuses values without a meaning

    def _check_members(self) -> None:
        if self.num_prompts < 1:
            raise ConfigError(f"train.num_prompts is {self.num_prompts}; it must be at least 1")
        for name in ("seeds", "learning_rates"):
            if (given := len(getattr(self, name))) not in (0, self.num_prompts):
                raise ConfigError(
                    f"train.{name} has {given} values for train.num_prompts={self.num_prompts}; give one for each "
                    "prompt, or none"
                )
        if any(not rate > 0 for rate in self.learning_rates):
            raise ConfigError(f"train.learning_rates is {self.learning_rates}; rates are above 0")
        if self.num_prompts > 1 and self.tune_model:
            raise ConfigError("train.num_prompts shares one frozen model, which train.tune_model would train; set one")

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
        method: `greedy` decoding, `beam` search, `rank`: the likeliest of the task's labels, or `token`: the likeliest
            word of the task's vocabulary (P@1).
        num_beams: for `beam`, as are the next three; see `GenerationConfig`.
        length_penalty: exponent of the length.
        min_new_tokens: tokens before the text may end.
        early_stopping: whether a row's search ends with its first `num_beams` texts.
        vote: how several prompts vote, a value of `evaluation.ensemble.VOTES`: `majority` of their answers, or of the
            task's labels the one of largest `mean_probability`, or the best `ranked`.
        transfer: other tasks that what was trained is tried on at the end, asked as the task was, each
            `[NAME=]SOURCE[@SPLIT]`, such as `mini:sentiment/inn`; without a split, on the one that is scored.
        batch_size: rows a batch.
        max_examples: the first so many of the split; 0: all.
        baselines: whether the frozen model is scored too, without a prompt and with the task's hard prompt.
    """

    every: int = 100
    metric: str = ""
    method: str = "greedy"
    num_beams: int = 1
    length_penalty: float = 1.0
    min_new_tokens: int = 0
    early_stopping: bool = False
    vote: str = "majority"
    transfer: tuple[str, ...] = ()
    batch_size: int = 64
    max_examples: int = 0
    baselines: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS_OF_ANSWERING:
            raise ConfigError(f"eval.method is {self.method!r}; {expected(self.method, METHODS_OF_ANSWERING)}")
        if self.vote not in VOTES:
            raise ConfigError(f"eval.vote is {self.vote!r}; {expected(self.vote, VOTES)}")
        if (self.method == "beam") != (self.num_beams > 1):
            raise ConfigError(
                f"eval.method={self.method!r} does not go with eval.num_beams={self.num_beams}; beam search has two or "
                "more beams, every other method one"
            )
        if self.every < 1 or self.batch_size < 1:
            raise ConfigError(f"eval.every={self.every} and eval.batch_size={self.batch_size} must be at least 1")
        if self.max_examples < 0:
            raise ConfigError(f"eval.max_examples is {self.max_examples}; it must be 0 or more")

    @property
    def search(self) -> dict[str, Any]:
        """What generation is given, as fields of `GenerationConfig`."""
        if self.method != "beam":
            return {}
        names = ("num_beams", "length_penalty", "min_new_tokens", "early_stopping")
        return {name: getattr(self, name) for name in names}
