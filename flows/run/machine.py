"""What a run uses of this machine."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True, eq=False)
class Peak:
    """Peak resident memory of the process while something was measured, MiB; NaN where Linux's /proc is missing."""

    mb: float = math.nan


_CONTAINER_LIMITS = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")

_measured: set[Peak] = set()
_lock = threading.Lock()


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measures the process's peak meanwhile; with several threads each gets the peak of all during its own time.

    Linux keeps one peak for the process, which has to be set back for the next measurement. Whoever sets it back first
    hands the peak so far to all that are being measured: with one worker setting it back under another, 600 MiB were
    reported as 162.
    """
    peak = Peak()
    with _lock:
        _hand_out()
        _measured.add(peak)
    try:
        yield peak
    finally:
        with _lock:
            _hand_out()
            _measured.discard(peak)


def memory_gb() -> float | None:
    """Memory of this machine, or of the container that the process is in, GB; None where the system does not say."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return None
    limits = [machine]
    for file in _CONTAINER_LIMITS:
        # "max", or a number near 2^63, without a limit.
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(file.read_text()) / 1e9)
    return min(limits)


def _hand_out() -> None:
    now = _high_water_mb()
    for peak in _measured:
        peak.mb = now if math.isnan(peak.mb) else max(peak.mb, now)
    with contextlib.suppress(OSError):
        # 5 sets VmHWM back to what is resident now (proc(5), Linux 4.0 and later).
        Path("/proc/self/clear_refs").write_text("5")


def _high_water_mb() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return math.nan
