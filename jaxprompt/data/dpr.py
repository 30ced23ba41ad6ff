"""Definite Pronoun Resolution (Rahman and Ng 2012) as text to text, which T5 mixes with SuperGLUE for WSC's sake.

The pronoun is marked as in WSC, and the answer is what it stands for (Raffel et al. 2020, 2.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxprompt.data.task_format import Example, TaskFormat


def _parse(record: Mapping[str, Any]) -> Iterator[Example]:
    sentence, pronoun, candidates, label = (record[key] for key in ("sentence", "pronoun", "candidates", "label"))
    if len(candidates) != 2 or int(label) not in (-1, 0, 1):
        raise ValueError(f"expected two candidates and the number of one of them, got {candidates!r} and {label!r}")
    # Of several places of the pronoun the first is meant; one within a longer word is none.
    marked = re.sub(rf" ({re.escape(pronoun)})([ .,])", r" *\1*\2", sentence, count=1)
    yield Example({"text": marked}, candidates[int(label)] if int(label) >= 0 else "")


FORMATS: dict[str, TaskFormat] = {"dpr": TaskFormat("dpr", "{text}", _parse, max_target_length=32)}
TFDS: dict[str, str] = {"dpr": "definite_pronoun_resolution"}
"""Where TFDS keeps it; there is no validation split."""
