"""Who may work now: places on the CPU, memory and devices, handed out to the episode that comes first.

A thread that waits for memory or a device gives its CPU place to another meanwhile, so nothing waits for a thread that
waits itself. Code that runs outside a shard has a turn without limits.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


class Budget:
    """So much of something, handed out in order: the lowest number that waits is served first.

    Nobody overtakes, so that a large part is not put off for ever by small ones; who wants more than there is gets it
    when nobody else holds any.
    """

    def __init__(self, total: float) -> None:
        self.total = total
        self._used = 0.0
        self._waiting: list[tuple[int, int]] = []
        self._tickets = 0
        self._changed = threading.Condition()

    def take(self, amount: float, order: int, *, unless: Callable[[], bool] = lambda: False) -> bool:
        """Waits until `amount` is free and nobody before `order` waits; False, with nothing taken, once `unless`."""
        with self._changed:
            self._tickets += 1
            place = order, self._tickets
            self._waiting.append(place)
            try:
                self._changed.wait_for(lambda: unless() or (min(self._waiting) == place and self._has(amount)))
                if unless():
                    return False
                self._used += amount
                return True
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()

    def give(self, amount: float) -> None:
        """Gives back what was taken."""
        with self._changed:
            self._used -= amount
            self._changed.notify_all()

    def look_again(self) -> None:
        """Has everybody who waits ask their `unless` again."""
        with self._changed:
            self._changed.notify_all()

    def _has(self, amount: float) -> bool:
        return self._used == 0 or self._used + amount <= self.total


@dataclass(slots=True)
class Spent:
    """What one stage of one episode took, beside its own seconds on the CPU.

    Attributes:
        device_s: seconds of a device; of a batch, the share of the episode's frames.
        waited_device_s, waited_cpu_s, waited_memory_s: seconds waited for each.
        padding: share of the device's work that was for frames which nobody sees, in [0, 1]; None without a batch.
    """

    device_s: float = 0.0
    waited_device_s: float = 0.0
    waited_cpu_s: float = 0.0
    waited_memory_s: float = 0.0
    padding: float | None = None

    @property
    def waited_s(self) -> float:
        """Seconds waited in all."""
        return self.waited_device_s + self.waited_cpu_s + self.waited_memory_s


class Turn:
    """What one episode holds while it is worked on: a place on the CPU, and memory for its frames.

    Attributes:
        order: who comes first; lower is earlier.
        spent: of the stage that runs.
        memory: what the memory is taken from.
    """

    def __init__(
        self,
        order: int = 0,
        cpus: Budget | None = None,
        memory: Budget | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` raises where the work is to stop; it is asked after each wait."""
        self.order = order
        self.spent = Spent()
        self.memory = memory or Budget(math.inf)
        self.check = check
        self._cpus = cpus or Budget(math.inf)
        self._reserved = 0.0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds a CPU place; gives back memory too at the end. Code that runs meanwhile finds it as `current_turn`."""
        self._take_place()
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)
            self._cpus.give(1)
            self.memory.give(self._reserved)
            self._reserved = 0.0

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Gives the CPU place to another meanwhile."""
        self._cpus.give(1)
        try:
            yield
        finally:
            self._take_place()
        self.check()

    def reserve(self, size: float) -> None:
        """Waits for `size` bytes of the memory budget, which are given back when the episode is over."""
        with self.aside():
            started = time.perf_counter()
            self.memory.take(size, self.order)
            self._reserved += size
            self.spent.waited_memory_s += time.perf_counter() - started

    def _take_place(self) -> None:
        started = time.perf_counter()
        self._cpus.take(1, self.order)
        self.spent.waited_cpu_s += time.perf_counter() - started


_current: ContextVar[Turn | None] = ContextVar("turn", default=None)


def current_turn() -> Turn:
    """The turn of the episode that this thread works on; one without limits outside a shard."""
    return _current.get() or Turn()
