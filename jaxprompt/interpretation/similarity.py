"""How alike prompts are, and which of several a new task had best start from (SPoT: Vu et al. 2022, section 3).

A task's embedding is its prompt after 10,000 steps of training; the paper found prompts of one fixed age to be better
comparable than each task's best. Two tasks are as similar as their prompts, by either of two measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jaxprompt.types import Injection

Rows = Float[np.ndarray, "P R"]
"""A prompt as one vector a position: a virtual token, or all keys and values of a position of a prefix."""


def prompt_rows(injection: Injection) -> Rows:
    """A prompt as one vector a position, fp64.

    Virtual tokens are what they are, [P, E]. Of a prefix, a position's keys and values of all stacks, layers and heads
    stand one after the other, [P, R]. Of a prompt with both, the virtual tokens.

    Raises:
        ValueError: the prompt is empty, or has a batch of prompts in it.
    """
    if injection.tokens is not None:
        rows = np.asarray(injection.tokens, np.float64)
    elif injection.kv:
        parts = [np.asarray(array, np.float64) for stack in sorted(injection.kv) for array in injection.kv[stack]]
        if any(part.ndim != 4 for part in parts):
            raise ValueError(f"keys and values have shapes {[part.shape for part in parts]}; expected [L, P, H, D]")
        rows = np.concatenate([part.transpose(1, 0, 2, 3).reshape(part.shape[1], -1) for part in parts], axis=1)
    else:
        raise ValueError("the prompt has neither virtual tokens nor keys and values")
    if rows.ndim != 2:
        raise ValueError(f"virtual tokens have shape {rows.shape}; expected those of one prompt, [P, E]")
    return rows


def token_similarities(rows: Rows) -> Float[np.ndarray, "P P"]:
    """Cosines of a prompt's positions with each other."""
    directions = unit(rows)
    return directions @ directions.T


def average_tokens(first: Rows, second: Rows) -> float:
    """SPoT's cosine similarity of average tokens: cos(1/L Σᵢ e¹ᵢ, 1/L Σⱼ e²ⱼ)."""
    directions = unit(np.stack([first.mean(axis=0), second.mean(axis=0)]))
    return float(directions[0] @ directions[1])


def per_token(first: Rows, second: Rows) -> float:
    """SPoT's per-token average cosine similarity: 1/L² Σᵢ Σⱼ cos(e¹ᵢ, e²ⱼ).

    Of a prompt with itself it is below 1 unless all positions point the same way.
    """
    # The mean over pairs of products is the product of the means.
    return float(unit(first).mean(axis=0) @ unit(second).mean(axis=0))


MEASURES: Mapping[str, Callable[[Rows, Rows], float]] = {"average_tokens": average_tokens, "per_token": per_token}
"""SPoT's measures by name. Of the best single source that each retrieves, the paper's Table 3 has 76.2 and 76.7."""


class Source(NamedTuple):
    """A prompt to start from, and how similar it is to the task's own by both measures."""

    name: str
    average_tokens: float
    per_token: float


def closest_sources(
    target: Float[Array | np.ndarray, "P R"],
    sources: Mapping[str, Float[Array | np.ndarray, "P R"]],
    measure: str = "per_token",
) -> list[Source]:
    """The sources in order of their similarity to a target, the most similar first; of equal ones the one given first.

    Args:
        target: the target task's prompt, as `prompt_rows` gives it.
        sources: those of other tasks, by name, of the same model.
        measure: a key of `MEASURES`.

    Raises:
        ValueError: there are no sources, one has another width, or the measure is unknown.
    """
    if measure not in MEASURES:
        raise ValueError(f"the measure is {measure!r}; known: {list(MEASURES)}")
    if not sources:
        raise ValueError("there are no sources to choose from")
    wanted, found = np.asarray(target, np.float64), []
    for name, source in sources.items():
        rows = np.asarray(source, np.float64)
        if rows.ndim != 2 or rows.shape[1:] != wanted.shape[1:]:
            raise ValueError(
                f"the source {name} has shape {rows.shape}, the target {wanted.shape}; similar can only be prompts of "
                "one method on one model"
            )
        found.append(Source(name, average_tokens(wanted, rows), per_token(wanted, rows)))
    return sorted(found, key=lambda source: -getattr(source, measure))


def unit(rows: Rows) -> Rows:
    """Each row at length 1; a row of zeros stays one, and so has cosine 0 with everything."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)
