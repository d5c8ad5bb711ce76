"""How many threads are in one place at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class AtOnce:
    """A number that threads raise and lower, and the `most` that it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = self.most = 0

    def add(self, change: int) -> None:
        """Raises it, or lowers it by a negative change."""
        with self._lock:
            self._now += change
            self.most = max(self.most, self._now)

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """One more for as long as the block runs."""
        self.add(1)
        try:
            yield
        finally:
            self.add(-1)
