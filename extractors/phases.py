"""The names of what a robot is doing, and the stretches of a clip in which it does it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

PHASES = ("unknown", "idle", "approach", "grasp", "transport", "release", "retract", "push", "pour")
"""Names by code, as `extractors.motion.find_phases` gives them."""

ACTING = ("grasp", "transport", "release", "push", "pour")
"""The phases in which the robot acts on the object."""


def phase_ends(codes: NDArray[Any], names: Sequence[str] = PHASES) -> list[tuple[str, int, int]]:
    """(name, first frame, last frame) of each phase of `codes` (T,): its start and its sub-goal; "unknown" left out."""
    edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    return [(names[codes[start]], start, stop - 1) for start, stop in pairwise(edges) if start < stop and codes[start]]
