"""The training loss: token cross-entropy with z-loss, kept as sums so that any way of averaging stays exact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

_TokenSums = tuple[jax.Array, jax.Array, jax.Array]

_NORMALIZATIONS = ("sum", "tokens", "examples")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What the loss adds to the cross-entropy, and what it divides by.

    Attributes:
        normalization: `sum`: the sum over the batch's target tokens (T5X; Lester et al. 2021); `tokens`: that, divided
            by the sum of the target weights; `examples`: divided by the number of examples, i.e. the mean over the
            batch of the sum over an example's target tokens (Li and Liang 2021).
        z_loss: weight of log(Z)^2 a token, Z the softmax's normaliser; keeps logits from drifting.
        label_smoothing: probability mass that a target gives evenly to all V ids (Szegedy et al. 2016, section 7).
    """

    normalization: str = "sum"
    z_loss: float = 1e-4
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuses values without a meaning."""
        if self.normalization not in _NORMALIZATIONS:
            raise ValueError(f"unknown normalization {self.normalization!r}; expected one of {_NORMALIZATIONS}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; expected 0 <= label_smoothing < 1")
        if self.z_loss < 0:
            raise ValueError(f"z_loss is {self.z_loss}; expected 0 or more")


@struct.dataclass
class LossSums:
    """Sums over a batch, fp32 scalars. The sums of a batch's parts add up (`+`) to the sums of the whole batch.

    For gradients accumulated over parts, differentiate `numerator` and divide once by the total `denominator`: a mean
    of the parts' means would weigh a short part like a long one.

    Attributes:
        numerator: cross-entropy and z-loss, summed over weighted target tokens.
        cross_entropy: the numerator without its z-loss.
        z_loss: the numerator's z-loss, its weight included.
        correct: weighted target tokens whose logit is the largest.
        tokens: the target weights.
        examples: the number of examples that have a weighted target.
        normalization: see `LossConfig`.
    """

    numerator: Float[Array, ""]
    cross_entropy: Float[Array, ""]
    z_loss: Float[Array, ""]
    correct: Float[Array, ""]
    tokens: Float[Array, ""]
    examples: Float[Array, ""]
    normalization: str = struct.field(pytree_node=False, default="sum")

    def __add__(self, other: LossSums) -> LossSums:
        """The sums of both parts together."""
        return jax.tree.map(jnp.add, self, other)

    @property
    def denominator(self) -> Float[Array, ""]:
        """What `loss` divides by; 1 where a batch holds nothing to divide by."""
        if self.normalization == "sum":
            return jnp.ones_like(self.tokens)
        return _or_one(self.tokens if self.normalization == "tokens" else self.examples)

    @property
    def loss(self) -> Float[Array, ""]:
        """The loss that is minimised."""
        return self.numerator / self.denominator

    def metrics(self) -> dict[str, Float[Array, ""]]:
        """Scalars to log.

        `loss` and `z_loss`, its share of it, follow the normalization; `token_cross_entropy` and `token_accuracy` are
        means over target tokens, comparable whatever the normalization; `num_tokens` and `num_examples` are counts.
        """
        return {
            "loss": self.loss,
            "z_loss": self.z_loss / self.denominator,
            "token_cross_entropy": self.cross_entropy / _or_one(self.tokens),
            "token_accuracy": self.correct / _or_one(self.tokens),
            "num_tokens": self.tokens,
            "num_examples": self.examples,
        }


def cross_entropy(
    logits: Float[Array, "B T V"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    config: LossConfig,
    segments: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, ""], LossSums]:
    """The loss of a batch, and the sums it is made of.

    Args:
        logits: at target positions; computed with in fp32 whatever their type.
        targets: ids to predict, below V wherever the weight is not 0.
        weights: weight of each target; 0 at padding.
        config: see `LossConfig`.
        segments: number of the example each target belongs to, from 1 in every row, 0 at padding; needed only to count
            the examples of rows that pack several. None: a row is one example.

    Returns:
        (loss, sums), in the form that `jax.value_and_grad(..., has_aux=True)` expects.
    """
    weights = jnp.asarray(weights, jnp.float32)
    sums = _sums(_token_sums(logits, targets, weights, config), weights, config, segments)
    return sums.loss, sums


def chunked_cross_entropy(
    hidden: Float[Array, "B T E"],
    logits_of: Callable[[jax.Array], jax.Array],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    config: LossConfig,
    segments: Int[Array, "B T"] | None = None,
    *,
    chunk: int,
) -> tuple[Float[Array, ""], LossSums]:
    """`cross_entropy(logits_of(hidden), …)` without ever holding the logits of more than a few targets a row.

    Each chunk's logits are made for its part of the sums, and again for its part of the gradient.

    Args:
        hidden: what the logits are made of, at target positions.
        logits_of: [B, t, E] to logits [B, t, V]; may close over parameters that are differentiated.
        targets: as for `cross_entropy`, and so are the next three.
        weights: see there.
        config: see there.
        segments: see there.
        chunk: targets of every row taken at once.
    """
    weights = jnp.asarray(weights, jnp.float32)
    missing = -targets.shape[1] % chunk

    def cut(array: jax.Array) -> jax.Array:
        full = jnp.pad(array, ((0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)))
        return full.reshape(full.shape[0], -1, chunk, *full.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def of_chunk(hidden: jax.Array, targets: jax.Array, weights: jax.Array) -> _TokenSums:
        return _token_sums(logits_of(hidden), targets, weights, config)

    def add(total: _TokenSums, part: _TokenSums) -> tuple[_TokenSums, None]:
        return jax.tree.map(jnp.add, total, of_chunk(*part)), None

    total, _ = jax.lax.scan(
        add, (jnp.float32(0), jnp.float32(0), jnp.float32(0)), (cut(hidden), cut(targets), cut(weights))
    )
    sums = _sums(total, weights, config, segments)
    return sums.loss, sums


def _token_sums(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], weights: Float[Array, "B T"], config: LossConfig
) -> _TokenSums:
    """Cross-entropy, z-loss and number of right tokens, summed over weighted targets."""
    logits = jnp.asarray(logits, jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # A masked sum, not a gather: it stays local where V is split over devices, and its gradient is no scatter.
    hit = jnp.arange(logits.shape[-1], dtype=jnp.int32) == targets[..., None]
    target_logits = jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)
    epsilon = config.label_smoothing
    if epsilon:
        target_logits = (1 - epsilon) * target_logits + epsilon * jnp.mean(logits, axis=-1)
    return (
        jnp.sum((log_z - target_logits) * weights),
        config.z_loss * jnp.sum(jnp.square(log_z) * weights),
        jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights),
    )


def _sums(
    of_tokens: _TokenSums,
    weights: Float[Array, "B T"],
    config: LossConfig,
    segments: Int[Array, "B T"] | None,
) -> LossSums:
    nll, z_loss, correct = of_tokens
    present = weights > 0
    own = jnp.ones_like(present, jnp.int32) if segments is None else segments
    # The first weighted target of each of its segments: what a row counts.
    earlier = jnp.tril(own[:, :, None] == own[:, None, :], -1) & present[:, None, :]
    first = present & ~earlier.any(-1)
    return LossSums(
        numerator=nll + z_loss,
        cross_entropy=nll,
        z_loss=z_loss,
        correct=correct,
        tokens=jnp.sum(weights),
        examples=jnp.sum(first).astype(jnp.float32),
        normalization=config.normalization,
    )


def _or_one(count: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(count == 0, 1.0, count)
