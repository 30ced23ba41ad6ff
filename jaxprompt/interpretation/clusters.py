"""Whether a prompt's neighbours are words that belong together (Lester et al. 2021, section 7).

The paper sees that "the top-5 nearest neighbors form tight semantic clusters", that "random vectors drawn from the
embedding space do not", and that in long prompts several tokens have the same nearest neighbours. Here a cluster's
tightness is the mean cosine of the pairs among a vector's neighbours, so that the comparison is one of numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxprompt.interpretation.nearest import nearest_tokens
from jaxprompt.interpretation.similarity import unit

SIZE = 5
"""The paper looks at the top 5."""

_GATHERED = 128
_LEAST_DEVIATION = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
    """The clusters around some vectors.

    Attributes:
        tightness: of each vector's cluster.
        nearest: each vector's cosine with its nearest neighbour.
    """

    tightness: Float[np.ndarray, " P"]
    nearest: Float[np.ndarray, " P"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A prompt's clusters against those around random vectors.

    Attributes:
        z: how many of the random vectors' standard deviations the prompt's mean tightness lies above theirs; None where
            theirs is below 0.001, as around random vectors that all have the same few neighbours.
        percentile: share of random vectors whose cluster is less tight, the mean over the prompt's tokens, in [0, 1];
            0.5 is what chance gives.
    """

    z: float | None
    percentile: float


def clusters(vectors: Float[np.ndarray, "P E"], table: Float[Array | np.ndarray, "V E"], size: int = SIZE) -> Clusters:
    """The clusters of the `size` tokens nearest by cosine to each vector.

    Raises:
        ValueError: the size is below 2, or as in `nearest_tokens`.
    """
    if size < 2:
        raise ValueError(f"the size of a cluster is {size}; expected 2 or more, as its tightness is that of pairs")
    found = nearest_tokens(vectors, table, size)
    return Clusters(_tightness(found.ids, table), found.values[:, 0])


def random_clusters(
    table: Float[Array | np.ndarray, "V E"], draws: int, seed: int, size: int = SIZE
) -> dict[str, Clusters]:
    """The clusters around random vectors of three kinds.

    `any direction` is uniform on the sphere; how long a vector is makes no difference to its cosines, so that these
    are of the prompt's own norms, too. `embedding space` is normal with the mean and the standard deviation that each
    dimension has over the table. `vocabulary tokens` are rows of the table. Each of these is its own nearest neighbour,
    and a word ties those around it together, even where embeddings are random; so does the word that a prompt's token
    started from. Whether training did more than keep the words is seen against these alone.

    Args:
        table: the frozen model's input embeddings.
        draws: vectors of each kind.
        seed: of the draws.
        size: of a cluster.
    """
    rng = np.random.default_rng(seed)
    num_rows, width = table.shape
    mean, deviation = _moments(table)
    ids = rng.choice(num_rows, min(draws, num_rows), replace=False)
    directions = rng.normal(size=(draws, width))
    return {
        "any direction": clusters(directions, table, size),
        "embedding space": clusters(mean + deviation * rng.normal(size=(draws, width)), table, size),
        "vocabulary tokens": clusters(np.asarray(table[ids]).astype(np.float32), table, size),
    }


def compare(prompt: Clusters, random: Clusters) -> Comparison:
    """A prompt's clusters against those around random vectors."""
    deviation = random.tightness.std()
    gap = prompt.tightness.mean() - random.tightness.mean()
    ordered = np.sort(random.tightness)
    # Where both are equally tight, half counts as below.
    below = [np.searchsorted(ordered, prompt.tightness, side=side) for side in ("left", "right")]
    return Comparison(
        float(gap / deviation) if deviation >= _LEAST_DEVIATION else None, float(np.mean(below) / len(ordered))
    )


def shared_neighbours(ids: Int[np.ndarray, "P k"]) -> Mapping[int, tuple[int, ...]]:
    """The tokens that are nearest of all to several of a prompt's tokens: {id: the slots}; the most shared first."""
    slots: dict[int, list[int]] = {}
    for slot, nearest in enumerate(ids[:, 0].tolist()):
        slots.setdefault(nearest, []).append(slot)
    shared = [(token, tuple(of)) for token, of in slots.items() if len(of) > 1]
    return dict(sorted(shared, key=lambda item: (-len(item[1]), item[0])))


def _tightness(ids: np.ndarray, table: Array | np.ndarray) -> np.ndarray:
    parts = []
    for start in range(0, len(ids), _GATHERED):
        rows = unit(np.asarray(table[ids[start : start + _GATHERED]]).astype(np.float64))
        # All pairs of different rows: what the square of the sum has beside the squares.
        together, alone = np.square(rows.sum(axis=1)).sum(axis=-1), np.square(rows).sum(axis=(1, 2))
        parts.append((together - alone) / (ids.shape[1] * (ids.shape[1] - 1)))
    return np.concatenate(parts)


def _moments(table: Array | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = jnp.asarray(table).astype(jnp.float32)
    moments = jax.jit(lambda values: (values.mean(axis=0), values.std(axis=0)))(values)
    return np.asarray(moments[0]), np.asarray(moments[1])
