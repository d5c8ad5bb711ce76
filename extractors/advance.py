"""How far a long computation has come: said by the loops that take long, heard by whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class _Heard:
    """The passes of one computation, one after another, whose number nobody knows beforehand.

    Each fills half of what the passes before it left, so that the share only grows and one is never said too early.
    """

    def __init__(self, hear: Callable[[float], None]) -> None:
        self._hear = hear
        self._base, self._last = 0.0, 0.0

    def advance(self, share: float) -> None:
        if share < self._last:
            self._base += (1 - self._base) / 2
        self._last = share
        self._hear(self._base + (1 - self._base) / 2 * share)


_heard: ContextVar[_Heard | None] = ContextVar("advance", default=None)


@contextmanager
def advance_heard(hear: Callable[[float], None]) -> Iterator[None]:
    """Calls `hear` with the share of this block's work that is done, in [0, 1), as its loops go on."""
    token = _heard.set(_Heard(hear))
    try:
        yield
    finally:
        _heard.reset(token)


def advance(done: float, total: float) -> None:
    """Says that `done` of the `total` steps of a loop are over; of no effect where nobody listens."""
    heard = _heard.get()
    if heard is not None and total > 0:
        heard.advance(done / total)
