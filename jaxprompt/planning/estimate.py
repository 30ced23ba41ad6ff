"""From the optimised program to time: the compiler's cycles, loops counted, collectives laid beside them.

A device is taken as three workers: its core runs one instruction after the other and takes the cycles that the compiler
estimates; its memory copies what is prefetched; its links carry collectives. An asynchronous copy or collective runs
beside the core from its start on, behind others of its worker, and the core waits at its `done` for what is left. A
synchronous collective is waited for as a whole.

What the compiler gives no estimate for (gathers, scatters, sorts) is counted at the memory's full bandwidth, which is
too little, and listed.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping

from jaxprompt.planning.collectives import Collective, Interconnect, read_collective
from jaxprompt.planning.hlo import Instruction, Module, trip_count

_FREE = frozenset(
    [
        "parameter",
        "constant",
        "get-tuple-element",
        "tuple",
        "bitcast",
        "after-all",
        "partition-id",
        "replica-id",
        "opt-barrier",
        "iota",
    ]
)
_FREE_CALLS = frozenset(
    {"AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked"}
)
# A collective that is fused with computations runs from the first of these names to the second, under one number; what
# carries it on in between holds a copy of it.
_FUSED_START, _FUSED_DONE, _CARRIERS = "async-collective-start", "async-collective-done", "async_collective_fusion"
_COPIES = ("copy", "slice", "dynamic-slice", "dynamic-update-slice")


@dataclasses.dataclass
class Traffic:
    """Collectives of one kind among groups of one size, over the whole program.

    Attributes:
        count: how many are run.
        num_bytes: what they reduce, gather or exchange in all.
        seconds: their time on the links.
        exposed_seconds: what of it the core waits for.
    """

    count: float = 0
    num_bytes: float = 0
    seconds: float = 0.0
    exposed_seconds: float = 0.0


@dataclasses.dataclass
class Estimate:
    """What a program comes to on one device.

    Attributes:
        seconds: from start to end.
        cycles: of the core, as the compiler estimates them.
        copy_seconds: that the core waits for its memory's prefetches.
        traffic: collectives by (kind, group size).
        unestimated: {traced operation, or opcode: bytes moved} of what the compiler gives no estimate for.
        unestimated_seconds: what that is counted at.
        costs: {(where in the traced function, opcode): seconds}, loops counted.
        unknown_loops: loops whose trip count the program does not tell; counted once.
    """

    seconds: float = 0.0
    cycles: float = 0.0
    copy_seconds: float = 0.0
    traffic: dict[tuple[str, int], Traffic] = dataclasses.field(default_factory=dict)
    unestimated: dict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    unestimated_seconds: float = 0.0
    costs: dict[tuple[str, str], float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    unknown_loops: list[str] = dataclasses.field(default_factory=list)

    @property
    def exposed_seconds(self) -> float:
        """The time that the core waits for collectives."""
        return sum(one.exposed_seconds for one in self.traffic.values())

    @property
    def collective_seconds(self) -> float:
        """The time that collectives take on the links."""
        return sum(one.seconds for one in self.traffic.values())

    def add(self, other: Estimate, times: int = 1) -> None:
        """Counts another part of the program, run so many times; time apart, which the caller keeps."""
        self.cycles += times * other.cycles
        self.copy_seconds += times * other.copy_seconds
        self.unestimated_seconds += times * other.unestimated_seconds
        for key, one in other.traffic.items():
            own = self.traffic.setdefault(key, Traffic())
            for field in dataclasses.fields(Traffic):
                setattr(own, field.name, getattr(own, field.name) + times * getattr(one, field.name))
        for name, value in other.unestimated.items():
            self.unestimated[name] += times * value
        for place, value in other.costs.items():
            self.costs[place] += times * value
        self.unknown_loops += other.unknown_loops


@dataclasses.dataclass
class _Pending:
    """An asynchronous operation under way: when it ends, and the collective if it is one."""

    end: float
    collective: tuple[Collective, float] | None = None


def estimate(module: Module, links: Interconnect) -> Estimate:
    """What a program comes to on one device of a slice.

    Args:
        module: compiled for the devices of `links`.
        links: what joins them.

    Raises:
        ValueError: a collective whose groups cannot be read.
    """
    return _Walk(module, links).run(module.entry)


class _Walk:
    """Runs computations on the three workers; a computation that is called twice is looked at once."""

    def __init__(self, module: Module, links: Interconnect):
        self.module, self.links, self.chip = module, links, links.slice.chip
        self.known: dict[str, Estimate] = {}

    def run(self, computation: str) -> Estimate:
        """One computation from its first instruction to its last."""
        if computation not in self.known:
            self.known[computation] = self._run(computation)
        return self.known[computation]

    def _run(self, computation: str) -> Estimate:
        result = Estimate()
        now = memory_free = 0.0
        links_free = [0.0, 0.0]  # in either direction
        pending: dict[str, _Pending] = {}
        for one in self.module.computations[computation]:
            wrapped = self._wrapped(computation, one)
            if wrapped is not None:
                collective, is_async = wrapped
                took = self.links.seconds(collective)
                end = max(now, *(links_free[way] for way in collective.ways)) + took
                for way in collective.ways:
                    links_free[way] = end
                if is_async:
                    pending[one.name] = _Pending(end, (collective, took))
                else:
                    self._count(result, collective, took, end - now)
                    result.costs[one.op_name, one.opcode] += end - now
                    now = end
            elif one.opcode.endswith("-start") and one.opcode.removesuffix("-start") in (*_COPIES, "async"):
                memory_free = max(now, memory_free) + self._copied(one) / self.chip.memory_bytes_per_second
                pending[one.name] = _Pending(memory_free)
            elif (begun := _begun(one)) in pending:
                started = pending.pop(begun)
                if one.opcode.endswith("-update"):
                    pending[one.name] = started
                    continue
                waited = max(0.0, started.end - now)
                if started.collective:
                    self._count(result, *started.collective, waited)
                else:
                    result.copy_seconds += waited
                result.costs[one.op_name or one.name, one.opcode] += waited
                now += waited
            else:
                now += self._core(result, computation, one)
        result.seconds = max([now, *(one.end for one in pending.values())])
        return result

    def _core(self, result: Estimate, computation: str, one: Instruction) -> float:
        """The time that an instruction takes on the core, and its count."""
        if one.opcode == "while":
            body, count = self.run(one.callee("body")), trip_count(self.module, computation, one)
            if count is None:
                result.unknown_loops.append(one.op_name or one.name)
                count = 1
            result.add(body, count)
            return count * body.seconds
        if one.opcode == "conditional":
            branch = max((self.run(name) for name in one.branches), key=lambda part: part.seconds)
            result.add(branch)
            return branch.seconds
        if one.opcode == "call":
            called = self.run(one.callee("to_apply", "calls"))
            result.add(called)
            return called.seconds
        if one.cycles is not None:
            took = self.chip.seconds(one.cycles)
            result.cycles += one.cycles
        elif one.opcode in _FREE or one.opcode.endswith("-done") or one.target in _FREE_CALLS:
            return 0.0
        else:
            moved = 2 * self._written(one)
            took = moved / self.chip.memory_bytes_per_second
            result.unestimated[one.op_name.rpartition("/")[2] or one.target or one.opcode] += moved
            result.unestimated_seconds += took
        result.costs[one.op_name or one.name, one.opcode] += took
        return took

    def _wrapped(self, computation: str, one: Instruction) -> tuple[Collective, bool] | None:
        """The collective that an instruction is, starts, or has fused into it, and whether it runs beside the core."""
        size = len(self.links.places)
        if (found := read_collective(self.module, computation, one, size)) is not None:
            return found, one.opcode.endswith("-start")
        if one.opcode not in ("fusion", "async-start"):
            return None
        called = one.callee("calls")
        if called.startswith(_CARRIERS) or one.name.startswith(_FUSED_DONE):
            return None
        for inner in self.module.computations.get(called, ()):
            if (found := read_collective(self.module, called, inner, size)) is not None:
                if found.kind == "all-reduce" and one.opcode == "fusion" and one.num_bytes < found.num_bytes:
                    found = dataclasses.replace(found, kind="reduce-scatter")  # each keeps its own part alone
                return found, one.opcode == "async-start" or one.name.startswith(_FUSED_START)
        return None

    def _count(self, result: Estimate, collective: Collective, took: float, waited: float) -> None:
        own = result.traffic.setdefault((collective.kind, len(collective.group)), Traffic())
        own.count += 1
        own.num_bytes += collective.num_bytes
        own.seconds += took
        own.exposed_seconds += waited

    def _copied(self, one: Instruction) -> float:
        """What an asynchronous copy moves: its result stands beside its operand and a token."""
        return one.num_bytes / 2

    def _written(self, one: Instruction) -> int:
        if one.opcode == "dynamic-update-slice":
            return 0  # in place; what is written is made elsewhere
        return one.num_bytes


def _begun(one: Instruction) -> str:
    """The name of the asynchronous operation that an instruction ends or passes on; empty for any other instruction."""
    if one.name.startswith(_FUSED_DONE):
        return one.name.replace(_FUSED_DONE, _FUSED_START)
    return one.operands[0] if one.operands and one.opcode.endswith(("-done", "-update")) else ""


def by_place(costs: Mapping[tuple[str, str], float], most: int) -> list[tuple[str, str, float]]:
    """The costliest places in the traced function: (where, opcode, seconds), the costliest first."""
    ordered = sorted(costs.items(), key=lambda item: item[1], reverse=True)
    return [(where, opcode, seconds) for (where, opcode), seconds in ordered[:most]]
