"""The memory that a process holds, and the most that it held since it was last asked to forget."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> int:
    """Bytes that this process holds now; away from Linux, the most that it ever held."""
    return _status("VmRSS")


def peak() -> int:
    """The most bytes that it held since the last `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> bool:
    """Starts counting the peak anew; returns False where the system cannot, and `peak` counts from the start."""
    if not _CLEAR.exists():
        return False
    try:
        _CLEAR.write_text("5")
    except PermissionError:
        return False
    return True


def hand_back() -> None:
    """Gives the system what the allocator keeps of memory that is no longer used, as after compiling (glibc alone)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(name: str) -> int:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024
