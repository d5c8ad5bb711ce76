"""Gripper opening of a LeRobot episode, 1 open and 0 closed, from whatever convention the dataset has.

LeRobot fixes neither unit nor sense, so both are inferred, and what was inferred is recorded:

* which number: the element whose name contains "gripper", of `observation.state` before `action`; of several (two
  arms) the one that moves most in this episode. A name with "delta" is a change, not an opening.
* unit: values of the dataset (its statistics, else this episode) that lie in [-0.1, 1.1] and reach 0.2 are taken to
  be an opening already, as WidowX and BridgeData give it (0.1 closed to 1.01 open); everything else (0..100, metres,
  -1..1) is scaled from the dataset's range to 0..1.
* sense: larger is more open, unless the name contains "close".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Range = tuple[NDArray[np.float64], NDArray[np.float64]]
_SLACK = 0.1  # BridgeData's opening reaches 1.01; other normalised ones overshoot as little
_METRES = 0.2  # a normalised opening gets farther than this somewhere in a dataset; the widest fingers here do not


def gripper_opening(
    columns: Mapping[str, tuple[tuple[str, ...], NDArray[np.float32] | None]],
    dataset_range: Callable[[str], Range | None],
) -> tuple[NDArray[np.float32] | None, dict[str, Any] | None]:
    """The opening and what it was made from.

    Args:
        columns: by key (`observation.state`, `action`, in order of preference) the names of its N elements and its
            (T, N) values.
        dataset_range: smallest and largest value of each element of a column over the dataset, None where unknown.

    Returns:
        (T,) float32 in [0, 1], 1 open, and {from, convention}; (None, None) where no element is named a gripper,
        (None, {...}) where one is but it never moves and its unit is unknown.
    """
    for key, (names, values) in columns.items():
        elements = [i for i, name in enumerate(names) if "gripper" in name.lower() and "delta" not in name.lower()]
        if values is None or not elements or len(names) != values.shape[1]:
            continue
        limits = dataset_range(key)
        if limits is not None and len(limits[0]) != len(names):
            limits = None
        made = [_opening(values[:, i], names[i], limits and (limits[0][i], limits[1][i])) for i in elements]
        moved = [float(np.ptp(opening)) if opening is not None else -1.0 for opening, _ in made]
        best = int(np.argmax(moved))
        opening, convention = made[best]
        return opening, {"from": f"{key}[{names[elements[best]]}]", "convention": convention}
    return None, None


def _opening(
    values: NDArray[np.float32], name: str, limits: tuple[float, float] | None
) -> tuple[NDArray[np.float32] | None, str]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None, "no finite value"
    known = limits is not None and bool(np.isfinite(limits).all())
    low, high = limits if limits is not None and known else (float(finite.min()), float(finite.max()))
    inverted = "close" in name.lower()
    sense = "name says larger is closed" if inverted else "larger is taken as more open"
    normalised = low >= -_SLACK and high <= 1 + _SLACK and (high >= _METRES or not known)
    if not normalised and high - low < 1e-6:
        return None, f"constant {low:g}, unit unknown"
    if normalised:
        opening, unit = values, "already 0..1"
    else:
        opening, unit = (values - low) / (high - low), f"{'dataset' if known else 'episode'} range {low:g}..{high:g}"
    opening = np.clip(1 - opening if inverted else opening, 0, 1).astype(np.float32)
    if len(finite) < len(values):
        # The opening is finite in a packet; actions may have gaps.
        rows, known_rows = np.arange(len(values)), np.flatnonzero(np.isfinite(values))
        opening = np.interp(rows, known_rows, opening[known_rows]).astype(np.float32)
        unit = f"{unit}, gaps interpolated"
    return opening, f"{unit}, {sense}"
