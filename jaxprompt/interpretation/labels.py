"""How often a task's answers stand among the neighbours of its prompt, by the prompt's start (Lester et al. 2021, 7).

The paper finds that labels a prompt started from "persist through training", and that prompts which started otherwise
have them as neighbours, too, but then "to multiple prompt tokens".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from jaxprompt.interpretation.nearest import Neighbours
from jaxprompt.interpretation.similarity import unit
from jaxprompt.interpretation.vocabulary import Vocabulary

CLASS_LABELS = "class_labels"


@dataclasses.dataclass(frozen=True)
class LabelNeighbours:
    """Where a label is among the k nearest neighbours of a prompt's tokens, by cosine.

    Attributes:
        label: the answer.
        subwords: its tokens.
        slots: of the prompt's tokens that have one of the subwords among their neighbours.
        whole_slots: of those to which the mean of the subwords, from which `init=class_labels` starts, is at least as
            near as their k-th neighbour.
        kept: for a prompt that started from its labels, whether this one's own slot is among `whole_slots`; else None.
    """

    label: str
    subwords: tuple[int, ...]
    slots: tuple[int, ...]
    whole_slots: tuple[int, ...]
    kept: bool | None


@dataclasses.dataclass(frozen=True)
class LabelsFound:
    """What a prompt has of its labels.

    Attributes:
        init: how it started.
        num_tokens: virtual tokens P.
        labels: each that the tokenizer knows.
        chance: share of tokens that would have a label's subword among their neighbours if those were any k rows.
    """

    init: str
    num_tokens: int
    labels: tuple[LabelNeighbours, ...]
    chance: float

    @property
    def slots(self) -> set[int]:
        """The tokens that have some label among their neighbours."""
        return {slot for label in self.labels for slot in label.slots}


def find_labels(
    prompt: Float[np.ndarray, "P E"],
    neighbours: Neighbours,
    vocabulary: Vocabulary,
    labels: Sequence[str],
    init: str = "",
) -> LabelsFound:
    """Looks for labels among a prompt's neighbours.

    Args:
        prompt: its tokens.
        neighbours: their k nearest by cosine.
        vocabulary: whose tokens those are.
        labels: the task's answers in the order in which `init=class_labels` took them. One that the tokenizer has no
            token for is left out.
        init: how the prompt started.
    """
    found, directions = [], unit(prompt)
    for number, label in enumerate(labels):
        if not (subwords := vocabulary.ids(label)):
            continue
        slots = np.flatnonzero(np.isin(neighbours.ids, subwords).any(axis=1))
        mean = np.asarray(vocabulary.table[np.asarray(subwords)]).astype(np.float64).mean(axis=0)
        near = directions @ unit(mean) >= neighbours.values[:, -1] - 1e-9  # a row of the table counts as its own equal
        own = bool(near[number]) if init == CLASS_LABELS and number < len(prompt) else None
        found.append(LabelNeighbours(label, subwords, tuple(slots.tolist()), tuple(np.flatnonzero(near).tolist()), own))
    words = len({token for label in found for token in label.subwords})
    return LabelsFound(init, len(prompt), tuple(found), _chance(words, neighbours.ids.shape[1], len(vocabulary.norms)))


def labels_by_init(found: Iterable[LabelsFound]) -> dict[str, dict[str, float | int | None]]:
    """A row for every way to start, of what the prompts that started so have of their labels.

    Returns:
        For each start: `prompts` and `tokens`, how many there are; `prompts_with_label` and `tokens_with_label`, the
        shares that have a label's subword among their neighbours; `labels_found`, the share of labels that are anyone's
        neighbour; `tokens_per_label`, of how many tokens such a label is the neighbour on average (None: of no label);
        `kept`, the share of slots that started from a label and have it still (None: no slot did); `chance`, what
        `tokens_with_label` were if neighbours were any rows.
    """
    groups: dict[str, list[LabelsFound]] = {}
    for one in found:
        if one.labels:
            groups.setdefault(one.init, []).append(one)
    return {init: _row(groups[init]) for init in sorted(groups)}


def _row(group: Sequence[LabelsFound]) -> dict[str, float | int | None]:
    tokens = sum(one.num_tokens for one in group)
    labels = [label for one in group for label in one.labels]
    near = [len(label.slots) for label in labels if label.slots]
    kept = [label.kept for label in labels if label.kept is not None]
    return {
        "prompts": len(group),
        "tokens": tokens,
        "prompts_with_label": sum(bool(one.slots) for one in group) / len(group),
        "tokens_with_label": sum(len(one.slots) for one in group) / tokens,
        "labels_found": len(near) / len(labels),
        "tokens_per_label": sum(near) / len(near) if near else None,
        "kept": sum(kept) / len(kept) if kept else None,
        "chance": sum(one.chance * one.num_tokens for one in group) / tokens,
    }


def _chance(words: int, k: int, size: int) -> float:
    """The probability that k of `size` rows, drawn without replacement, hold one of some words."""
    missed = 1.0
    for drawn in range(k):
        missed *= max(0, size - words - drawn) / (size - drawn)
    return 1 - missed
