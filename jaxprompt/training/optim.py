"""Optimisers: what trains, with which rule, at which rate.

Ordered path rules give every parameter a label. `freeze` leaves a parameter out of training altogether; every other
label names an optimiser. `split_trainable` cuts the frozen leaves away before anything else sees the tree, so that
gradients, optimiser state and checkpoints never hold them.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprompt import trees
from jaxprompt.models.quantization import is_quantized
from jaxprompt.prompts.method import TRAIN_PROMPT
from jaxprompt.types import Params

FREEZE = "freeze"
MODEL = "model"
TUNE_MODEL: trees.Rules[str] = (("prompt/.*", "train"), ("model/.*", MODEL))
"""Prompt and model both train, as in P-tuning on SuperGLUE (Liu et al. 2021)."""
_DECAY_MODES = {"adafactor": "absolute", "adamw": "learning_rate", "adam": "gradient", "sgd": "gradient"}
_SCHEDULES = ("constant", "linear", "cosine", "rsqrt", "exponential")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """One optimiser and its learning-rate schedule.

    Attributes:
        name: `adafactor` (Shazeer and Stern 2018), `adamw`, `adam` or `sgd`.
        learning_rate: the peak rate. For Adafactor with `multiply_by_parameter_scale=False`, the RMS of a full update.
        schedule: what follows the warm-up. `constant`; `linear` and `cosine` fall to 0 at the last step; `rsqrt` falls
            with the square root of the step, from the peak at the end of the warm-up; `exponential` multiplies by
            `schedule_factor` every `schedule_every` steps.
        warmup_steps: steps over which the rate rises linearly from 0.
        schedule_factor: see `schedule`.
        schedule_every: see `schedule`; steps. 0: an epoch, whose length a run on a task knows.
        model_learning_rate: of weights of the model that train beside a prompt (the label `model`); 0: `learning_rate`.
        weight_decay: strength of the decay towards 0.
        weight_decay_mode: `absolute`: p <- (1 - weight_decay) p at every step whatever the rate (T5X Adafactor);
            `learning_rate`: that, times the rate (AdamW); `gradient`: weight_decay * p is added to the gradient (L2, as
            in torch's Adam and SGD). None: `absolute` for adafactor, `learning_rate` for adamw, else `gradient`.
        clip_norm: global norm at which gradients are clipped, or None.
        momentum: of sgd; for adafactor the decay of an average of its updates. None: none.
        b1: Adam's decay of the gradient's average.
        b2: Adam's decay of the squared gradient's average.
        eps: Adam's addition to the denominator.
        decay_rate: Adafactor's exponent c in beta2(t) = 1 - t^-c (its section 7.2).
        start_step: Adafactor counts its first update as t = start_step + 1. T5 prompt tuning resumes from step
            1,100,000 of pre-training with second moments at 0: beta2 is then about 0.9999853 from the first update on,
            statistics grow so slowly that every update is clipped, and each moves the prompt by RMS `learning_rate`.
            (optax calls the negative of this number `step_offset`.)
        factored: keep row and column statistics instead of a full second moment where a parameter is large enough.
        min_dim_size_to_factor: large enough means that its two longest axes are at least this long, so with 128 a
            [100, E] prompt is not factored and a [150, E] prompt is.
        clipping_threshold: Adafactor's bound on the RMS of each parameter's update before the rate, or None.
        multiply_by_parameter_scale: scale updates by the parameter's own RMS (at least 1e-3).
        epsilon: Adafactor's addition to the squared gradient.
    """

    name: str = "adafactor"
    learning_rate: float = 0.3
    schedule: str = "constant"
    warmup_steps: int = 0
    schedule_factor: float = 0.98
    schedule_every: int = 1
    model_learning_rate: float = 0.0
    weight_decay: float = 0.0
    weight_decay_mode: str | None = None
    clip_norm: float | None = None
    momentum: float | None = None
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    decay_rate: float = 0.8
    start_step: int = 0
    factored: bool = True
    min_dim_size_to_factor: int = 128
    clipping_threshold: float | None = 1.0
    multiply_by_parameter_scale: bool = False
    epsilon: float = 1e-30

    def __post_init__(self) -> None:
        """Refuses unknown names and values without a meaning."""
        _check_known("optimiser", self.name, _DECAY_MODES)
        _check_known("schedule", self.schedule, _SCHEDULES)
        if self.weight_decay_mode is not None:
            _check_known("weight_decay_mode", self.weight_decay_mode, sorted(set(_DECAY_MODES.values())))
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected a number above 0")
        for field in ("warmup_steps", "start_step", "weight_decay", "schedule_every", "model_learning_rate"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} is {getattr(self, field)}; expected 0 or more")


def split_trainable(params: Params, rules: trees.Rules[str] = TRAIN_PROMPT) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cuts a tree in two: the leaves that train, and the leaves that the rules label `freeze`.

    Args:
        params: {'model': ..., 'prompt': ...}, of arrays or of abstract values.
        rules: ordered (regex, label) over paths such as `prompt/embedding`.

    Returns:
        (trainable, frozen); `trees.merge` puts them together again.

    Raises:
        RuleError: a path is not covered, or a rule is unused.
        ValueError: nothing is left to train, or something is to that is quantised.
    """
    labels = trees.match_rules(rules, trees.flatten(params))
    trainable, frozen = trees.split(params, {path: label != FREEZE for path, label in labels.items()})
    if not trainable:
        raise ValueError(f"the rules {list(rules)} freeze every parameter; label at least one path for training")
    if quantized := [path for path, leaf in trees.flatten(trainable).items() if is_quantized(leaf)]:
        raise ValueError(
            f"the rules train {quantized[0]!r} and {len(quantized) - 1} more weights that are quantised, and integers "
            "do not train; load the model without `quantize`, or label them freeze"
        )
    return trainable, frozen


def make_schedule(config: OptimConfig, num_steps: int | None = None) -> optax.Schedule:
    """The learning rate as a function of the update's number, counted from 0.

    Args:
        config: see `OptimConfig`.
        num_steps: updates in the whole run; needed by the `linear` and `cosine` schedules.

    Raises:
        ValueError: the schedule needs `num_steps`, its warm-up leaves no step to decay over, or an epoch is still to be
            put into steps.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    steps = 0
    if config.schedule in ("linear", "cosine"):
        if num_steps is None or num_steps <= warmup:
            raise ValueError(
                f"schedule {config.schedule!r} decays from step {warmup} (warmup_steps) to the last step, but the run "
                f"has {num_steps} steps; give num_steps above warmup_steps, or choose schedule='constant'"
            )
        steps = num_steps - warmup
    if config.schedule == "exponential" and not config.schedule_every:
        raise ValueError(
            "schedule_every is 0, for an epoch, but only a run on a task knows how long that is; give steps"
        )
    decay: optax.Schedule = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, 0.0, steps),
        "cosine": lambda: optax.cosine_decay_schedule(peak, steps),
        "rsqrt": lambda: _rsqrt_schedule(peak, max(warmup, 1)),
        "exponential": lambda: optax.exponential_decay(
            peak, config.schedule_every, config.schedule_factor, staircase=True
        ),
    }[config.schedule]()
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def make_optimizer(
    config: OptimConfig | Mapping[str, OptimConfig],
    rules: trees.Rules[str],
    trainable: Params,
    num_steps: int | None = None,
    *,
    rated: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """The optimiser of a trainable tree.

    Its state maps cleanly under `jax.vmap`: with N prompts, map `init` and `update` over the leading axis, and every
    prompt has its own statistics, its own clipping and its own choice of factoring.

    Args:
        config: one configuration, for the labels `train` and `model`; or {label: configuration} for several groups.
        rules: ordered (regex, label) over paths; rules that only concern leaves outside `trainable` are fine here, for
            `split_trainable` has checked the whole list.
        trainable: the tree to optimise, of arrays or of abstract values; without the leading axis of N prompts.
        num_steps: updates in the whole run, for schedules that end.
        rated: whether `update` takes `rate`, by which it multiplies the learning rate: that of one prompt of several.

    Returns:
        An optax transformation. Leaves labelled `freeze` get updates of exactly 0 and no state. (`optax.masked` would
        hand their raw gradients on, and the step would apply them.)

    Raises:
        RuleError: a path is not covered.
        ValueError: a label has no configuration.
    """
    if isinstance(config, OptimConfig):
        rate = config.model_learning_rate or config.learning_rate
        configs = {"train": config, MODEL: dataclasses.replace(config, learning_rate=rate)}
    else:
        configs = dict(config)
    labels = trees.match_rules(rules, trees.flatten(trainable), unused_ok=True)
    groups: dict[Any, optax.GradientTransformation] = {}
    for path, label in labels.items():
        if label == FREEZE:
            groups[label] = optax.set_to_zero()
        elif label not in configs:
            raise ValueError(
                f"{path!r} has the label {label!r}, but there are optimisers only for {sorted(configs)}; "
                f"use one of these labels or {FREEZE!r} in the rules"
            )
        elif label not in groups:
            groups[label] = _transformation(configs[label], num_steps, rated)
    return optax.partition(groups, trees.unflatten(labels))


def _transformation(config: OptimConfig, num_steps: int | None, rated: bool) -> optax.GradientTransformation:
    mode = config.weight_decay_mode or _DECAY_MODES[config.name]
    decay = [optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []
    chain: list[optax.GradientTransformation] = []
    if config.clip_norm is not None:
        chain.append(optax.clip_by_global_norm(config.clip_norm))
    if mode == "gradient":
        chain += decay
    chain += _direction(config)
    if mode == "learning_rate":
        chain += decay
    chain.append(optax.scale_by_schedule(make_schedule(config, num_steps)))
    if rated:
        chain.append(_scale_by_rate())
    if config.name == "adafactor":
        if config.multiply_by_parameter_scale:
            chain.append(optax.scale_by_param_block_rms())
        if config.momentum is not None:
            chain.append(optax.ema(config.momentum, debias=False))
    if mode == "absolute":
        chain += decay
    return optax.chain(*chain, optax.scale(-1.0))


def _scale_by_rate() -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: Any, params: Any = None, *, rate: Any, **others: Any) -> tuple[Any, Any]:
        del params, others
        return jax.tree.map(lambda leaf: leaf * rate, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _direction(config: OptimConfig) -> list[optax.GradientTransformation]:
    """The update before the learning rate."""
    if config.name == "sgd":
        return [] if config.momentum is None else [optax.trace(config.momentum)]
    if config.name != "adafactor":
        return [optax.scale_by_adam(config.b1, config.b2, config.eps)]
    chain = [
        optax.scale_by_factored_rms(
            factored=config.factored,
            decay_rate=config.decay_rate,
            step_offset=-config.start_step,
            min_dim_size_to_factor=config.min_dim_size_to_factor,
            epsilon=config.epsilon,
        )
    ]
    if config.clipping_threshold is not None:
        chain.append(optax.clip_by_block_rms(config.clipping_threshold))
    return chain


def _rsqrt_schedule(peak: float, warmup: int) -> optax.Schedule:
    return lambda count: peak * jnp.sqrt(warmup / (warmup + jnp.asarray(count, jnp.float32)))


def _check_known(kind: str, name: str, known: Iterable[str]) -> None:
    options = list(known)
    if name not in options:
        near = difflib.get_close_matches(str(name), options, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {kind} {name!r}; expected one of {', '.join(map(repr, options))}{hint}")


PRESETS: Mapping[str, OptimConfig] = {
    # Lester et al. 2021, section 3 and the released configuration, the resumed step counter included.
    "lester2021": OptimConfig(name="adafactor", learning_rate=0.3, weight_decay=1e-5, start_step=1_100_000),
    # Same step size as the paper's, in the vocabulary of today's trainers: warm-up, decay to 0, a bound on outliers.
    "modern": OptimConfig(
        name="adamw", learning_rate=0.3, schedule="cosine", warmup_steps=100, weight_decay=1e-5, clip_norm=1.0
    ),
}


def preset(name: str, **overrides: Any) -> OptimConfig:
    """A named configuration from `PRESETS`, with some fields replaced.

    Raises:
        ValueError: no preset, or no field, has that name.
    """
    _check_known("preset", name, PRESETS)
    fields = [field.name for field in dataclasses.fields(OptimConfig)]
    for key in overrides:
        _check_known("field of OptimConfig", key, fields)
    return dataclasses.replace(PRESETS[name], **overrides)
