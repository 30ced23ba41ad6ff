"""Several prompts trained in one run: what each has of its own, and how their trees, batches and metrics are stacked.

A member is a run in a run: to rounding, prompt i starts, meets its data and draws its dropout as the only prompt of a
run with its seed and learning rate does, and has its own best step. What they share is the frozen model and the
program. (Under dropout a GPT-2 draws masks that depend on how far rows are padded, and members' rows are padded alike.
A T5's depend on the number of rows only, which is not a member's own at the rare steps where another's examples have no
room in packed rows.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.data.batching import of_one_shape
from jaxprompt.data.pipeline import TrainBatches
from jaxprompt.experiment import TrainConfig
from jaxprompt.patching import PatchedModel
from jaxprompt.training.optim import OptimConfig, split_trainable
from jaxprompt.trees import Rules
from jaxprompt.types import Batch

Number = float | list[float]
"""A metric of one step: a number, or one for each member."""


@dataclasses.dataclass(frozen=True)
class Member:
    """What one prompt of several has of its own.

    Attributes:
        seed: of its initialisation, the order of its data and its dropout.
        learning_rate: its peak rate.
    """

    seed: int
    learning_rate: float


def members_of(train: TrainConfig, optim: OptimConfig, seed: int) -> tuple[Member, ...]:
    """The prompts of a run, in order; empty where there is one, which needs no stacking.

    Args:
        train: names their number and, where they are not the following ones, their seeds and rates.
        optim: has the rate that holds for all unless told.
        seed: of the first; each further one has the next.
    """
    count = train.num_prompts
    if count == 1 and not train.seeds and not train.learning_rates:
        return ()
    seeds = train.seeds or tuple(range(seed, seed + count))
    rates = train.learning_rates or (optim.learning_rate,) * count
    return tuple(Member(*each) for each in zip(seeds, rates, strict=True))


def stack(trees: Sequence[Any]) -> Any:
    """Trees of one structure as one whose leaves have a leading axis N."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def take(tree: Any, member: int) -> Any:
    """The tree of one member."""
    return jax.tree.map(lambda leaf: leaf[member], tree)


def stacked_start(
    model: PatchedModel, rules: Rules[str], members: Sequence[Member]
) -> tuple[dict[str, Any], dict[str, Any], jax.Array]:
    """Initial trainable trees of all members, the frozen tree that they share, and a random key of each.

    Returns:
        (trainable with a leading axis N, frozen, keys [N]).
    """
    keys = [jax.random.split(jax.random.key(member.seed)) for member in members]
    halves = [split_trainable(model.init_params(init_key), rules) for init_key, _ in keys]
    return stack([trainable for trainable, _ in halves]), halves[0][1], jnp.stack([key for _, key in keys])


class MemberBatches(Iterator[tuple[Batch, ...]]):
    """A batch for each member at once, all of one shape; offers what `TrainBatches` does.

    Args:
        streams: the members' own batches.
        pad_id: fills up rows that are shorter than another member's.
    """

    def __init__(self, streams: Sequence[TrainBatches], pad_id: int) -> None:
        self._streams, self._pad_id = list(streams), pad_id

    def __next__(self) -> tuple[Batch, ...]:
        """The next batch of every member, in numpy."""
        return tuple(of_one_shape([next(stream) for stream in self._streams], self._pad_id))

    def get_state(self) -> dict[str, Any]:
        """The positions behind the last batches given, fit for JSON."""
        return {"members": [stream.get_state() for stream in self._streams]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to positions of `get_state`.

        Raises:
            ValueError: they are of another number of members, or of batches of another kind.
        """
        states = state.get("members", [])
        if len(states) != len(self._streams):
            raise ValueError(
                f"the saved data position is one of {len(states)} prompts, the run has {len(self._streams)}"
            )
        for stream, its in zip(self._streams, states, strict=True):
            stream.set_state(its)

    def close(self) -> None:
        """Ends reading ahead."""
        for stream in self._streams:
            stream.close()


class Bests:
    """The best evaluation so far of each member, the first of equals; of the only one where there are no members.

    Args:
        members: several prompts, or none.
        patience: steps without a better score after which a member's best stands, as the end of a run of its own would
            leave it; 0: it never does.
    """

    def __init__(self, members: Sequence[Member], patience: int) -> None:
        self._stacked = bool(members)
        self.each: list[dict[str, Any] | None] = [None] * max(1, len(members))
        self.lost: dict[int, str] = {}
        self._patience = patience

    @property
    def overall(self) -> dict[str, Any] | None:
        """The best of all."""
        found = [best for best in self.each if best is not None]
        return max(found, key=lambda best: best["selection"], default=None)

    def improved(self, member: int, step: int, selection: float, values: Mapping[str, float]) -> dict[str, Any] | None:
        """Takes note of a member's score; what is to be kept of it, or None where it is not the best so far."""
        old = self.each[member]
        if member in self.lost or self._waits(member, step - 1) or (old and selection <= old["selection"]):
            return None
        best = {"step": step, "selection": selection, "values": dict(values)}
        if self._stacked:
            best["member"] = member
        self.each[member] = best
        return best | ({"leads": self.overall is best} if self._stacked else {})

    def wait_in_vain(self, step: int) -> bool:
        """Whether no member that is not lost can still become better."""
        return all(member in self.lost or self._waits(member, step) for member in range(len(self.each)))

    def record(self) -> dict[str, Any]:
        """What a checkpoint holds of it, fit for JSON."""
        if not self._stacked:
            return {"best": self.each[0]}
        return {"best": self.each, "lost": {str(member): how for member, how in self.lost.items()}}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Goes back to a `record`."""
        self.each = list(record["best"]) if self._stacked else [record["best"]]
        self.lost = {int(member): how for member, how in record.get("lost", {}).items()}

    def _waits(self, member: int, step: int) -> bool:
        best = self.each[member]
        return bool(self._patience and best and step >= best["step"] + self._patience)


def numbers(values: Mapping[str, Any]) -> dict[str, Number]:
    """A step's metrics as plain numbers, a list of N where there are N members."""
    return {name: np.asarray(value, np.float64).tolist() for name, value in values.items()}


def broken_members(values: Mapping[str, Number]) -> dict[int, dict[str, float]]:
    """The members of which a metric is not finite, with those metrics; 0 for the only one."""
    found: dict[int, dict[str, float]] = {}
    for name, value in values.items():
        for member, number in enumerate(value if isinstance(value, list) else [value]):
            if not math.isfinite(number):
                found.setdefault(member, {})[name] = number
    return found


def logged(
    rows: Sequence[Mapping[str, Number]], lost: Mapping[int, Any], each: Sequence[str] = ("loss",)
) -> dict[str, float]:
    """Metrics averaged over steps, and over members that are not lost; of those in `each`, also `NAME/i` for member i.

    Args:
        rows: of some steps.
        lost: members that diverged.
        each: names of metrics that are told apart by member.
    """
    values: dict[str, float] = {}
    for name in rows[0]:
        mean = np.mean([row[name] for row in rows], axis=0)
        if np.ndim(mean) == 0:
            values[name] = float(mean)
            continue
        alive = [member for member in range(len(mean)) if member not in lost]
        values[name] = float(np.mean(mean[alive]))
        if name in each:
            values |= {f"{name}/{member}": float(mean[member]) for member in alive}
    return values


def of_members(values: Sequence[Mapping[str, float]]) -> dict[str, Number]:
    """Scores of N members by name, in the form of a step's metrics."""
    return {name: [float(one[name]) for one in values] for name in values[0]}
