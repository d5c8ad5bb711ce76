"""How many threads the libraries of one episode start: set in this one place, for all that compute or decode.

Two OpenMP threads of CoTracker3 on a busy machine take four times the CPU time of one: some 38,000 small parallel
operations each end in a barrier at which threads spin for one that the system has put aside (docs/performance.md). A
run with an episode per core makes that situation itself, unless each episode gets its share of the cores and no more.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

import cv2
from threadpoolctl import ThreadpoolController

from flows.sources import video
from packers.cores import usable_cpus


def threads_each(workers: int, setting: int = 0, *, deterministic: bool = False) -> int:
    """Threads of one episode where `workers` are worked on at once: `setting`, or its share of the usable cores.

    The sums of a network depend on its number of threads by rounding, so `deterministic` means one.
    """
    if deterministic:
        return 1
    return setting or max(1, usable_cpus() // max(1, workers))


class ThreadBudget:
    """Holds torch, OpenCV, BLAS, OpenMP and video decoders to `each` threads; all as before at the end.

    OpenMP keeps its number per calling thread, so each thread that works calls `apply` once, when it begins.
    """

    def __init__(self, each: int) -> None:
        self.each = each
        self._before = ExitStack()

    def __enter__(self) -> ThreadBudget:
        # Before the libraries are listed: one that is loaded later would not be held to anything.
        import torch

        self._pools = ThreadpoolController()
        self._before.callback(torch.set_num_threads, torch.get_num_threads())
        self._before.callback(cv2.setNumThreads, cv2.getNumThreads())
        self._before.callback(video.set_decoder_threads, video.set_decoder_threads(self.each))
        self._before.enter_context(self._pools.limit(limits=self.each))
        cv2.setNumThreads(self.each)
        self.apply()
        return self

    def apply(self) -> None:
        """Holds the calling thread to the budget."""
        import torch

        torch.set_num_threads(self.each)
        self._pools.limit(limits=self.each)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._before.close()
