"""A verdict on one modality: numbers, faults in words, and the tags that name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Severity = Literal["warn", "fail"]


@dataclass(slots=True)
class Card:
    """What was measured on one modality and what is wrong with it.

    Attributes:
        numbers: name -> raw number.
        faults: (tag, severity, reason in words), in the order found.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    faults: list[tuple[str, Severity, str]] = field(default_factory=list)

    def add(self, tag: str, severity: Severity, reason: str) -> None:
        """Notes a fault."""
        self.faults.append((tag, severity, reason))

    @property
    def status(self) -> Literal["pass", "warn", "fail"]:
        """The worst severity found."""
        severities = {severity for _, severity, _ in self.faults}
        return "fail" if "fail" in severities else "warn" if severities else "pass"

    def as_json(self) -> dict[str, Any]:
        """`status`, `numbers`, `reasons`, `tags`; numbers rounded to five digits, None where not finite."""
        return {
            "status": self.status,
            "numbers": {name: _plain(value) for name, value in self.numbers.items()},
            "reasons": [reason for _, _, reason in self.faults],
            "tags": sorted({tag for tag, _, _ in self.faults}),
        }


def absent(reason: str = "not extracted") -> dict[str, Any]:
    """The card of a modality that is not there."""
    return {"status": "absent", "numbers": {}, "reasons": [reason], "tags": []}


def frames_text(frames: Iterable[int], most: int = 5) -> str:
    """Frame numbers for a reason: "frames 3, 4, 9 and 7 more"."""
    listed = list(frames)
    shown = ", ".join(str(frame) for frame in listed[:most])
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return f"frame{'s' if len(listed) > 1 else ''} {shown}{more}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return value
