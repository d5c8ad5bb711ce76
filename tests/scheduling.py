"""Keeps the scheduler's policy: SVT-AV1 changes it.

When root encodes AV1 with libsvtav1, the encoder gives the calling process the highest real-time priority and leaves it
so. Threads that spin while they wait (OpenMP's do) then keep everything else from running, in child processes too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def kept_scheduling() -> Iterator[None]:
    """The calling thread is scheduled afterwards as it was before."""
    if not hasattr(os, "sched_setscheduler"):  # not Linux
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)
