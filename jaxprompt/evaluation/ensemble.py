"""N prompts on one frozen model: evaluated in one forward pass over the replicated batch, and their votes.

Prompt ensembling of Lester et al. (2021, section 6): an input stands in the batch once for each prompt, so that N
models cost one forward pass of N rows and no more weights than one. Their table 3 has the average of the prompts, the
best of them, and their majority vote.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxprompt.types import Batch, Params

if TYPE_CHECKING:
    from jaxprompt.patching import PatchedModel

VOTES = ("majority", "mean_probability", "ranked")
"""The values of `eval.vote`."""


@dataclasses.dataclass(frozen=True, eq=False)
class EnsembleModel:
    """A patched model with N prompts, as generation and ranking see it: rows b·N … b·N + N-1 are those of input b.

    Its parameters are `{'model': …, 'prompt': …}` with a leading axis N on the prompt's leaves.

    Attributes:
        model: reads any one of the prompts.
        size: N.
    """

    model: PatchedModel
    size: int

    @property
    def config(self) -> Any:
        """The language model's architecture."""
        return self.model.config

    @property
    def tokenizer(self) -> Any:
        """The language model's tokenizer."""
        return self.model.tokenizer

    @property
    def mesh(self) -> Mesh | None:
        """The devices that rows and weights are split over; None: one."""
        return self.model.mesh

    @property
    def prefix_length(self) -> int:
        """Positions of a causal model that a prompt takes outside of the rows."""
        return self.model.prefix_length

    @property
    def target_start(self) -> Sequence[int]:
        """What every target begins with before its own text."""
        return self.model.target_start

    def target_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text as a target, its end of text included."""
        return self.model.target_ids(texts)

    def for_programs(self, params: Params) -> Params:
        """See `PatchedModel.for_programs`."""
        return self.model.for_programs(params)

    def replicated(self, batch: Batch) -> Batch:
        """A batch of B rows in numpy as one of B·N, each input N times in a row; without targets."""
        fields = ("inputs", "input_segments", "targets", "target_segments", "target_weights", "index")
        repeated = {name: np.repeat(getattr(batch, name), self.size, axis=0) for name in fields}
        if batch.target_positions is not None:
            repeated["target_positions"] = np.repeat(batch.target_positions, self.size, axis=0)
        return dataclasses.replace(batch, **repeated)

    def prefill(self, params: Params, batch: Batch, max_length: int) -> tuple[Float[Array, "R V"], Any]:
        """Reads the inputs, of which prompt n belongs to every N-th row from n on; see `PatchedModel.prefill`."""
        injections = jax.vmap(lambda prompt: self.model.injection({**params, "prompt": prompt}))(params["prompt"])
        prompts = self.model.injected(params, injections)  # run through the model once each, where they are prefixes
        times = batch.inputs.shape[0] // self.size
        rows = jax.tree.map(lambda leaf: jnp.tile(leaf, (times, *[1] * (leaf.ndim - 1))), prompts)
        return self.model.prefill_with(params, rows, batch, max_length)

    def decode_step(self, params: Params, tokens: Int[Array, " R"], cache: Any) -> tuple[Float[Array, "R V"], Any]:
        """Reads one token a row; see `PatchedModel.decode_step`."""
        return self.model.decode_step(params, tokens, cache)


def ensemble_vote(
    answers: Sequence[Sequence[str]],
    scores: Float[np.ndarray, "N M C"] | None = None,
    *,
    rule: str = "majority",
    labels: Sequence[str] = (),
) -> list[str]:
    """One answer to each of M questions out of N members' (Lester et al. 2021, section 6 and Table 3).

    `majority`: the answer that most members give. Of answers given equally often wins the one that the earliest member
    gives, so members should stand in the order of their validation scores, best first. (The paper does not say how it
    breaks ties.)

    `mean_probability`: the label with the largest mean over members of its probability among the labels.

    `ranked`: each member ranks the labels, the likeliest gets C - 1 points and the unlikeliest 0 (Borda's count;
    equally likely ones share theirs), and most points win. Here and under the rule before, the first of equal labels
    wins.

    Args:
        answers: N members' answers to the M questions; needed by `majority`.
        scores: log likelihoods of the C labels; needed by the other rules.
        rule: one of `VOTES`.
        labels: the C labels; needed by the other rules.

    Raises:
        ValueError: an unknown rule, members that answered different numbers of questions, or what the rule needs is
            missing.
    """
    if rule not in VOTES:
        raise ValueError(f"unknown rule {rule!r} of voting; choose from {VOTES}")
    if rule == "majority":
        if not len(answers) or len({len(member) for member in answers}) != 1:
            raise ValueError(
                f"a vote needs as many answers of each member, at least one member's; got {[len(m) for m in answers]}"
            )
        # The first of the most common, and `Counter` keeps the order in which answers were first met.
        return [collections.Counter(ballot).most_common(1)[0][0] for ballot in zip(*answers, strict=True)]
    if scores is None or scores.ndim != 3 or scores.shape[2] != len(labels):
        found = None if scores is None else scores.shape
        raise ValueError(f"the rule {rule!r} needs scores [N, M, {len(labels)}], one a label; got {found}")
    points = _probabilities(scores) if rule == "mean_probability" else _borda(scores)
    return [labels[winner] for winner in points.mean(axis=0).argmax(axis=-1)]


def _probabilities(scores: Float[np.ndarray, "N M C"]) -> Float[np.ndarray, "N M C"]:
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _borda(scores: Float[np.ndarray, "N M C"]) -> Float[np.ndarray, "N M C"]:
    """For each label, how many others are less likely, and half of those that are equally likely."""
    own, others = scores[..., :, None], scores[..., None, :]
    return (own > others).sum(-1) + 0.5 * ((own == others).sum(-1) - 1)


def by_score(selections: Mapping[int, float]) -> list[int]:
    """Members by validation score, best first, the earlier of equals first."""
    return sorted(selections, key=lambda member: (-selections[member], member))
