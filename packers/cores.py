"""How many CPU cores this process may use."""

from __future__ import annotations

import contextlib
import math
import os
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
