"""Episodes through their stages, each by itself: while one waits for a device or memory, others decode and compress.

Every episode has a thread, and no more than `workers` of them compute at once; a thread that waits leaves its place to
the next (flows/models/turns.py). Earlier episodes come first, so that they end before many others have begun.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from flows.models.device_queue import MOST_CLIPS
from flows.models.turns import Budget, Turn
from flows.run.threads import ThreadBudget

AHEAD = 2 * MOST_CLIPS
"""Episodes under way beside the `workers` that compute, where there is a device: one batch on it, and one that gathers.
Without a device each would only be another thread with an arena of memory of its own."""


class Interrupted(BaseException):
    """The run was asked to stop; what is finished is kept. A BaseException, so that no handler takes it for a fault."""


class UnderWay(Protocol):
    """What goes through the stages."""

    @property
    def is_over(self) -> bool:
        """Whether no stage is left to do, because all are done or one failed."""
        ...


Item = TypeVar("Item", bound=UnderWay)


class Stream(Generic[Item]):
    """Items on their way through named stages.

    Use as a context manager: work begins with it; what is under way ends its stage, and no other, where the block is
    left early.
    """

    def __init__(
        self,
        items: Sequence[Item],
        stages: Sequence[str],
        work: Callable[[str, Item, Turn], None],
        *,
        workers: int,
        threads: int | None,
        memory_bytes: float,
        stop: threading.Event,
        ahead: int = 0,
    ) -> None:
        """`work(stage, item, turn)` takes an item through a stage; what it raises ends all items' work.

        Args:
            items: in the order in which they are served.
            stages: in the order in which each item goes through them.
            work: called from several threads.
            workers: items that compute at once.
            threads: of libraries, for each item that computes; None where other processes compute.
            memory_bytes: of the frames of all items under way.
            stop: set to end the work where each item ends its stage.
            ahead: items under way beside the `workers`, while others wait for a device.
        """
        self._items, self._stages, self._work, self._stop = items, tuple(stages), work, stop
        self._under_way = workers + ahead
        self._threads = None if threads is None else ThreadBudget(threads)
        self._cpus, self._memory = Budget(workers), Budget(memory_bytes)
        self._left = dict.fromkeys(self._stages, 0)
        self._error: BaseException | None = None
        self._closing = False
        self._moved = threading.Condition()
        self._running = ExitStack()

    def __enter__(self) -> Stream[Item]:
        if self._threads is not None:
            self._running.enter_context(self._threads)
        if self._items:
            begin = None if self._threads is None else self._threads.apply
            pool = ThreadPoolExecutor(min(len(self._items), self._under_way), "episode", initializer=begin)
            self._running.callback(pool.shutdown, cancel_futures=True)
            for order, item in enumerate(self._items):
                # Each thread gets the caller's context, so that Prefect knows which run its log lines belong to.
                pool.submit(copy_context().run, self._go, order, item)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._running.close()

    def wait(self, stage: str) -> None:
        """Returns when every item has left `stage`.

        Raises:
            Interrupted: `stop` was set.
            Whatever `work` raised first.
        """
        with self._moved:
            self._moved.wait_for(lambda: self._error is not None or self._left[stage] == len(self._items))
        if self._error is not None:
            raise self._error

    def _go(self, order: int, item: Item) -> None:
        turn = Turn(order, self._cpus, self._memory, self._check)
        try:
            with turn.held():
                for stage in self._stages:
                    if not item.is_over:
                        self._check()
                        self._work(stage, item, turn)
                    self._leave(stage)
        except BaseException as error:  # raised again by `wait`, in the thread that asked for the work
            with self._moved:
                self._error = self._error or error
                self._moved.notify_all()

    def _leave(self, stage: str) -> None:
        with self._moved:
            self._left[stage] += 1
            self._moved.notify_all()

    def _check(self) -> None:
        if self._closing or self._error is not None or self._stop.is_set():
            raise Interrupted
