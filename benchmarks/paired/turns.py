"""Sides that take turns: each in a process of its own, timed one directly after the other, round by round."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from paired import memory


class SideFailed(RuntimeError):  # noqa: N818
    """A side could not do its work; the message is its own traceback."""

    @property
    def lacked_memory(self) -> bool:
        """Whether the device was too small."""
        return "RESOURCE_EXHAUSTED" in str(self) or "OutOfMemoryError" in str(self)


@dataclasses.dataclass(frozen=True)
class Work:
    """What one side does over and over.

    Attributes:
        run: does it so many times, and returns when all of it is done.
        facts: what is to be reported of it, fit for JSON.
        device_peak: the most bytes that the accelerator held; None: there is none.
    """

    run: Callable[[int], None]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    device_peak: Callable[[], int] | None = None


Make = Callable[[Any], Work]
"""Makes a side's work of a case. Its module's imports count as what the process held before."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How often a case is timed.

    Attributes:
        rounds: that count.
        times: that each side does its work in a round.
        warm_up: whether a round is run before them.
        settle: whether a side does its work once before it is timed, in every round: what the other held of memory
            and caches is no longer its own, which no run that has the machine to itself would notice.
        together: whether the sides' processes live at the same time and take turns; an accelerator, which nobody else
            slows, has room for one after the other.
    """

    rounds: int
    times: int = 1
    warm_up: bool = True
    settle: bool = True
    together: bool = True


@dataclasses.dataclass
class Measured:
    """What came of one side.

    Attributes:
        facts: its own.
        seconds: of its work done once, by round.
        memory: bytes: `step`, the most that it held while it worked, above what it held after its imports; `made`, what
            it held above that before it began, with model and program ready; `process`, the most that the process ever
            held; `device`, where there is an accelerator.
    """

    facts: dict[str, Any]
    seconds: list[float] = dataclasses.field(default_factory=list)
    memory: dict[str, int] = dataclasses.field(default_factory=dict)


class Participant(Protocol):
    """A side at work."""

    facts: dict[str, Any]

    def run(self, times: int) -> float:
        """Does the work so many times; the seconds that it took."""

    def stop(self) -> dict[str, int]:
        """Ends; returns what `Measured.memory` holds."""

    def abandon(self) -> None:
        """Ends at once."""


class Here:
    """A side in this process, for work that is not compared."""

    def __init__(self, make: Make, case: Any) -> None:
        self._held = memory.resident()
        self._work = make(case)
        self._ever = memory.peak()
        memory.hand_back()
        self._made = memory.resident()
        self.facts = self._work.facts
        self._peak = 0

    def run(self, times: int) -> float:
        """Does the work so many times; the seconds that it took."""
        self._ever = max(self._ever, memory.peak())
        memory.forget_peak()
        began = time.perf_counter()
        self._work.run(times)
        seconds = time.perf_counter() - began
        self._peak = max(self._peak, memory.peak())
        return seconds

    def stop(self) -> dict[str, int]:
        """What `Measured.memory` holds."""
        found = {"step": self._peak - self._held, "made": self._made - self._held}
        found["process"] = max(self._ever, memory.peak())
        if self._work.device_peak is not None:
            found["device"] = self._work.device_peak()
        return found

    def abandon(self) -> None:
        """Nothing is left to end."""


class Apart:
    """A side in a process of its own."""

    def __init__(self, make: Make, case: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, case, far), daemon=True)
        self._process.start()
        far.close()
        self.facts = self._answer()

    def run(self, times: int) -> float:
        """Does the work so many times; the seconds that it took."""
        self._pipe.send(times)
        return self._answer()

    def stop(self) -> dict[str, int]:
        """What `Measured.memory` holds."""
        self._pipe.send(0)
        found = self._answer()
        self._process.join()
        return found

    def abandon(self) -> None:
        """Ends at once."""
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            holds, value = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise SideFailed(f"the process ended with exit code {code} (-9: it was killed, as for memory)") from None
        if not holds:
            self._process.join()
            raise SideFailed(value)
        return value


def _serve(make: Make, case: Any, pipe: Any) -> None:
    try:
        here = Here(make, case)
        pipe.send((True, here.facts))
        while times := pipe.recv():
            pipe.send((True, here.run(times)))
        pipe.send((True, here.stop()))
    except Exception:
        pipe.send((False, traceback.format_exc()))


def measure(
    sides: Mapping[str, Make],
    case: Any,
    plan: Plan,
    *,
    gauges: Mapping[str, Participant] | None = None,
    start: Callable[[Make, Any], Participant] = Apart,
) -> dict[str, Measured]:
    """Times all sides of a case, and the gauges beside them.

    Args:
        sides: by name.
        case: what each makes its work of.
        plan: how often.
        gauges: measures of the machine, already at work, that take part in every round; they go on afterwards.
        start: where a side works.

    Returns:
        By name. Of a side that an accelerator is too small for, `facts["error"]` and no seconds.

    Raises:
        SideFailed: one could not do its work for another reason.
    """
    gauges = dict(gauges or {})
    found = {name: Measured(gauge.facts) for name, gauge in gauges.items()}
    groups = [dict(sides)] if plan.together else [{name: make} for name, make in sides.items()]
    for group in groups:
        working: dict[str, Participant] = {}
        try:
            for name, make in group.items():
                working[name] = start(make, case)
                found[name] = Measured(working[name].facts)
            for round_number in range(plan.rounds + plan.warm_up):
                for name, side in {**working, **gauges}.items():
                    if plan.settle and plan.together:
                        side.run(1)
                    seconds = side.run(plan.times) / plan.times
                    if round_number or not plan.warm_up:
                        found[name].seconds.append(seconds)
            for name, side in working.items():
                found[name].memory = side.stop()
        except BaseException as error:
            for side in working.values():
                side.abandon()
            if not (isinstance(error, SideFailed) and error.lacked_memory and not plan.together):
                raise
            found |= {name: Measured({"error": str(error)}) for name in group}
    return found
