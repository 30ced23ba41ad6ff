"""The unlabelled text of the invented world, by random access."""

from __future__ import annotations

import bisect
import itertools

from jaxprompt.data.mini import descriptions, facts, matching, reviews, stories
from jaxprompt.data.mini.world import rng_for

# Reviews and matching are the larger part: a small model learns those skills last, and tasks lean on them most.
_MIXTURE = (
    (reviews.document, 0.48),
    (matching.document, 0.34),
    (descriptions.document, 0.06),
    (facts.document, 0.06),
    (stories.document, 0.06),
)
_KINDS = tuple(make for make, _ in _MIXTURE)
_BORDERS = tuple(itertools.accumulate(share for _, share in _MIXTURE))[:-1]


def document(seed: int, index: int) -> str:
    """Document `index` of the endless text that `seed` names: one paragraph, a pure function of the two."""
    rng = rng_for("document", seed, index)
    return _KINDS[bisect.bisect(_BORDERS, rng.random())](rng)


def documents(seed: int, start: int, count: int) -> list[str]:
    """Documents `start` up to, not including, `start + count`."""
    return [document(seed, index) for index in range(start, start + count)]
