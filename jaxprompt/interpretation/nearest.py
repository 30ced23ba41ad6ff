"""The vocabulary's nearest neighbours of a prompt's tokens (Lester et al. 2021, section 7)."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

METRICS = ("cosine", "euclidean")
"""Ways to be near: the cosine of the angle, as in the paper, and the Euclidean distance."""

# How many rows of the table, and vectors, are compared at once: 8192 rows of XXL's width take 128 MiB in fp32.
_ROWS = 8192
_QUERIES = 512
# Of what comes out nearest in fp32, this many more than asked for are compared again in fp64.
_SPARE = 32
_GATHERED = 16


class Neighbours(NamedTuple):
    """The k nearest rows of an embedding table, for each of P vectors; the nearest first.

    Attributes:
        ids: their numbers.
        values: their cosines, or their distances; fp64.
    """

    ids: Int[np.ndarray, "P k"]
    values: Float[np.ndarray, "P k"]


def nearest_tokens(
    prompt: Float[Array | np.ndarray, "P E"],
    table: Float[Array | np.ndarray, "V E"],
    k: int = 10,
    metric: str = "cosine",
) -> Neighbours:
    """The tokens whose embeddings are nearest to each of a prompt's (section 7: "nearest neighbors … cosine distance").

    The table is read in pieces, in whatever type it has. Rows that are exactly as near come in the order of their ids.
    A row or a prompt token of zeros has cosine 0 with everything.

    Args:
        prompt: virtual tokens, such as `load_prompt(…)[0].tokens`.
        table: the frozen model's input embeddings, such as `lm.embedding_table`.
        k: how many of each; at most V.
        metric: one of `METRICS`.

    Returns:
        Their ids, the nearest first, and how near they are.

    Raises:
        ValueError: the shapes do not match, k or the metric is none that there is, or the prompt is not finite.
    """
    queries = np.asarray(prompt, np.float32)
    if queries.ndim != 2 or table.ndim != 2 or queries.shape[1] != table.shape[1]:
        raise ValueError(
            f"the prompt has shape {queries.shape}, the embedding table {tuple(table.shape)}; expected [P, E] and "
            "[V, E] of one width E: give the model that the prompt was trained on"
        )
    if not 1 <= k <= table.shape[0]:
        raise ValueError(f"k is {k}; expected 1 to {table.shape[0]}, the rows of the embedding table")
    if metric not in METRICS:
        raise ValueError(f"the metric is {metric!r}; known: {list(METRICS)}")
    if not np.isfinite(queries).all():
        raise ValueError("the prompt holds numbers that are not finite, which have no neighbours")
    parts = [
        _nearest(queries[start : start + _QUERIES], table, k, metric) for start in range(0, len(queries), _QUERIES)
    ]
    return Neighbours(np.concatenate([ids for ids, _ in parts]), np.concatenate([values for _, values in parts]))


def _nearest(queries: np.ndarray, table: Array | np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest_tokens`, for as many vectors as are compared at once."""
    wanted = min(k + _SPARE, table.shape[0])
    scores, ids = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start in range(0, table.shape[0], _ROWS):
        rows = table[start : start + _ROWS]
        found = _best(queries, rows, count=min(wanted, len(rows)), metric=metric)
        scores = np.concatenate([scores, np.asarray(found[0])], axis=1)
        ids = np.concatenate([ids, np.asarray(found[1], np.int64) + start], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :wanted]
        scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
    # In fp32 rows that are equal can differ by where they stand in the table, and small distances vanish in the
    # rounding of large norms.
    values = np.concatenate(
        [
            _exact(queries[start : start + _GATHERED], table, ids[start : start + _GATHERED], metric)
            for start in range(0, len(queries), _GATHERED)
        ]
    )
    order = np.lexsort((ids, values if metric == "euclidean" else -values), axis=-1)[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1)


@functools.partial(jax.jit, static_argnames=("count", "metric"))
def _best(queries: Array, rows: Array, *, count: int, metric: str) -> tuple[Array, Array]:
    """Scores, by which rows can be ordered, and indices of the best ones; of equal scores the first."""
    rows = rows.astype(jnp.float32)
    products = jnp.einsum("pe,re->pr", queries, rows, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.square(rows).sum(axis=1)
    if metric == "cosine":
        scores = products * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))
    else:
        scores = 2 * products - squares
    best = jax.lax.top_k(scores, count)
    return best[0], best[1]


def _exact(queries: np.ndarray, table: Array | np.ndarray, ids: np.ndarray, metric: str) -> np.ndarray:
    rows = np.asarray(table[ids]).astype(np.float64)
    vectors = queries[:, None].astype(np.float64)
    if metric == "euclidean":
        return np.sqrt(np.square(rows - vectors).sum(axis=-1))
    lengths = np.sqrt(np.square(rows).sum(axis=-1) * np.square(vectors).sum(axis=-1))
    return (rows * vectors).sum(axis=-1) / np.where(lengths > 0, lengths, 1)
