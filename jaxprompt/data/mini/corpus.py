"""The unlabelled text of the invented world, by random access."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable, Mapping

from jaxprompt.data.mini import descriptions, facts, matching, reviews, stories
from jaxprompt.data.mini.world import rng_for

MIXTURES: Mapping[str, tuple[tuple[Callable[[random.Random], str], float], ...]] = {
    # Reviews and matching are the larger part: a small model learns those skills last, and tasks lean on them most.
    "understanding": (
        (reviews.document, 0.48),
        (matching.document, 0.34),
        (descriptions.document, 0.06),
        (facts.document, 0.06),
        (stories.document, 0.06),
    ),
    # What the tasks of the miniature of Lester et al. (2021) lean on, `configs/miniature.py`.
    "miniature": (
        (reviews.document, 0.50),
        (facts.document, 0.30),
        (matching.document, 0.10),
        (stories.document, 0.05),
        (descriptions.document, 0.05),
    ),
    # What to know by heart and what to write: facts often enough to be remembered, and tables with their descriptions.
    "writing": (
        (facts.document, 0.40),
        (descriptions.document, 0.30),
        (reviews.document, 0.15),
        (stories.document, 0.10),
        (matching.document, 0.05),
    ),
}
"""Kinds of documents and how often each comes, by name; the shares of a mixture sum to 1."""


def document(seed: int, index: int, mixture: str = "understanding") -> str:
    """Document `index` of the endless text that `seed` and `mixture` name: one paragraph, a pure function of the three.

    Raises:
        ValueError: there is no such mixture.
    """
    if mixture not in MIXTURES:
        raise ValueError(f"mini has no mixture {mixture!r}; its mixtures are {', '.join(MIXTURES)}.")
    rng = rng_for("document", seed, index)
    shares = MIXTURES[mixture]
    borders = list(itertools.accumulate(share for _, share in shares))[:-1]
    make, _ = shares[bisect.bisect(borders, rng.random())]
    return make(rng)


def documents(seed: int, start: int, count: int, mixture: str = "understanding") -> list[str]:
    """Documents `start` up to, not including, `start + count`."""
    return [document(seed, index, mixture) for index in range(start, start + count)]
