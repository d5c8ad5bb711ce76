"""Calls that do not depend on each other, in threads: of use where most of their time goes by outside of Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

First = TypeVar("First")
Second = TypeVar("Second")
Item = TypeVar("Item")


def side_by_side(first: Callable[[], First], second: Callable[[], Second], *, at_once: int) -> tuple[First, Second]:
    """What both calls give; one after the other where `at_once` is 1.

    `second` runs in a thread of its own, and says nothing to `advance`: whoever listens hears of `first` alone.
    An error of `first` comes before one of `second`, once both have ended.
    """
    if at_once < 2:
        return first(), second()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(second)
        return first(), other.result()


def map_side_by_side(call: Callable[[Item], First], items: Sequence[Item], *, at_once: int) -> list[First]:
    """What `call` gives for each of `items`, up to `at_once` of them at the same time, said to nobody."""
    if at_once < 2 or len(items) < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(at_once, len(items))) as pool:
        return list(pool.map(call, items))
