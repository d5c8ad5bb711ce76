"""What every test is held to."""

import os
from collections.abc import Iterator

import pytest

_SCHEDULING = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None  # none: not Linux


@pytest.fixture(autouse=True)
def ordinary_priority() -> Iterator[None]:
    """No test leaves the process at another priority, which it would hand to all that is started later."""
    yield
    if _SCHEDULING is None or (found := os.sched_getscheduler(0)) == _SCHEDULING:
        return
    os.sched_setscheduler(0, _SCHEDULING, os.sched_param(0))
    pytest.fail(f"the process's scheduling policy became {found}: an encoder does that; see tests/scheduling.py")
