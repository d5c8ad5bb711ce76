"""What benchmarks of models share: CPU seconds, peak memory, frames that exist one at a time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tests.parity import synthetic_clip

Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """The result and the CPU seconds it took, of all threads."""
    started = time.process_time()
    return work(), time.process_time() - started


def measured(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """The result, the CPU seconds it took, and the peak memory meanwhile above that before, MiB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _status_mb("VmRSS")
    result, seconds = timed(work)
    return result, seconds, peak_mb() - before


def peak_mb() -> float:
    """Peak memory of this process so far, MiB."""
    # Not ru_maxrss: a new process starts with that of the one that started it.
    return _status_mb("VmHWM")


def _status_mb(name: str) -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) / 1024


class LazyFrames:
    """720p frames that exist one at a time."""

    def __init__(self, n_frames: int) -> None:
        """`n_frames` of them."""
        self.shape = (n_frames, 720, 1280, 3)
        self._frame = synthetic_clip(1, 720, 1280)[0]

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (np.roll(self._frame, t, axis=1) for t in range(len(self)))
