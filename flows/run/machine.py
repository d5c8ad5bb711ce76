"""What a run may use of this machine, and what it does use."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUP_2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def usable_cpus() -> int:
    """CPU cores that this process may use: its affinity, and a container's share of time, rounded up; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _container_cpus()
    # A quota of 1.5 CPUs is two workers: with one, half a CPU would stay idle.
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _container_cpus() -> float | None:
    """CPUs' worth of time that a container may use, None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        # "max 100000" without a limit, "150000 100000" for 1.5 CPUs: microseconds of CPU time per period.
        quota, period = _CGROUP_2.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota_us, period_us = (int(path.read_text()) for path in _CGROUP_1)
        return quota_us / period_us if quota_us > 0 else None
    return None


@dataclass(slots=True, eq=False)
class Peak:
    """Peak resident memory of the process while something was measured, MiB; NaN where Linux's /proc is missing."""

    mb: float = math.nan


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
