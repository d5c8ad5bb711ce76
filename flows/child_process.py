"""For processes that cuepack starts for itself: gone when the one that started them is."""

from __future__ import annotations

import os
import signal
import threading
import time

LOOK_S = 0.5
"""Seconds between two looks at the parent."""

GRACE_S = 5.0
"""Seconds for which what is under way may keep a process from ending."""


def end_with(parent: int) -> None:
    """Has this process end once its parent is another than `parent`: that one is gone, even by SIGKILL.

    Looked at from a thread: the kernel's own signal for it (PR_SET_PDEATHSIG) is sent when the *thread* ends that
    started this process.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)
