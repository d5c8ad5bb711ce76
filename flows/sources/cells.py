"""Single values of tables that others wrote: whole numbers, numbers and text, whatever type they came in.

pandas stores whole numbers as float64 as soon as one is missing, spreadsheets as text, and missing ones as NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

MOST = 2**40
"""Largest whole number that is taken: rows, frames and indices stay far below it."""

MAX_TEXT = 10_000
"""Longest instruction that is kept, in characters; the longest published ones have some 500."""


def whole(value: Any) -> int | None:
    """`value` as a whole number from 0, None for null and NaN.

    Raises:
        ValueError: it is something else.
    """
    if _is_missing(value):
        return None
    try:
        given = int(value) if isinstance(value, int) else float(value)
        if not isinstance(value, bool) and given == int(given) and 0 <= given < MOST:
            return int(given)
    except (ValueError, TypeError, OverflowError):
        pass
    raise ValueError(f"should be a whole number from 0, got {_shown(value)}")


def number(value: Any) -> float | None:
    """`value` as a finite number, None for null and NaN.

    Raises:
        ValueError: it is something else.
    """
    if _is_missing(value):
        return None
    try:
        given = float(value)
        if not isinstance(value, bool) and math.isfinite(given):
            return given
    except (ValueError, TypeError, OverflowError):
        pass
    raise ValueError(f"should be a finite number, got {_shown(value)}")


def text(value: Any) -> str:
    """`value` as one line of text that a terminal can show; "" for null, NaN and anything but text."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    shown = value[:MAX_TEXT]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else " " for c in shown)
    return " ".join(shown.split())


def tasks(value: Any) -> tuple[str | int, ...]:
    """The instructions in a cell: a list of text or of task numbers, one text, or a list written as text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value.replace("'", '"') if '"' not in value else value)
        except (ValueError, RecursionError):
            return (text(value),)
    if isinstance(value, Mapping):
        value = value.get("task", value.get("language_instruction"))
    if isinstance(value, (list, tuple)):
        return tuple(task for item in value[:1000] for task in tasks(item) if not isinstance(item, (list, tuple)))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (int(value),) if 0 <= value < MOST and value == int(value) else ()
    return (text(value),) if text(value) else ()


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _shown(value: Any) -> str:
    shown = repr(value)[:60] if not isinstance(value, int) or abs(value) < 10**50 else "a very large number"
    return f"{shown} ({type(value).__name__})"
