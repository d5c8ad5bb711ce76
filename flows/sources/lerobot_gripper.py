"""Gripper opening of a LeRobot episode, 1 open and 0 closed, from whatever convention the dataset has.

LeRobot fixes neither unit nor sense, so both are inferred, and what was inferred is recorded:

* which number: the element whose name contains "gripper", of a column of its own before `observation.state` before
  `action`; of several (two arms) the one that moves most in this episode. A name with "delta" is a change, not an
  opening.
* unit: values of the dataset (its statistics, else this episode) that stay in [-0.1, 1.1] and reach 0.2 are taken to
  be an opening already, as WidowX and BridgeData give it (0.1 closed to 1.01 open); everything else (0..100, metres,
  -1..1) is scaled from the dataset's range to 0..1.
* sense: `source.gripper_open` where it is set; else what the element's name or the robot says; else a look at the
  data, as a hand is open before its first contact, which is a guess and tagged "gripper-sense-guessed".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.sources.lerobot_tables import Range

_SLACK = 0.1  # BridgeData's opening reaches 1.01; other normalised ones overshoot as little
_METRES = 0.2  # a normalised opening gets farther than this somewhere in a dataset; the widest fingers here do not
_END = 0.25  # an episode begins at one end of the range where it begins within this share of it
_MOST = 0.8  # share of the episodes that must begin at the same end for the data to say which end is open

_CLOSED_NAME = re.compile(r"close", re.IGNORECASE)
_OPEN_NAME = re.compile(r"open|width|apert", re.IGNORECASE)
_ZERO_OPEN = re.compile(r"droid|robotiq|2f-?85|2f-?140", re.IGNORECASE)
"""DROID's `gripper_position` and Robotiq's own register count closing: 0 open, 1 (or 255) closed."""
_ZERO_CLOSED = re.compile(
    r"so-?10[01]|so_?(follower|leader)|koch|aloha|viperx|widowx|wx250|bridge|lekiwi|moss|xarm|umi|sawyer", re.IGNORECASE
)
"""Robots whose driver counts opening. Those of LeRobot's own arms rest with the hand closed, which a look at the
data would take for the open end."""


@dataclass(frozen=True, slots=True)
class Sense:
    """Which end of a gripper's numbers is open.

    Attributes:
        inverted: whether smaller is more open.
        why: how it is known, in words.
        guessed: whether it is only likely.
    """

    inverted: bool
    why: str
    guessed: bool = False

    @classmethod
    def from_episodes(cls, episodes: Iterable[NDArray[np.float32]]) -> Sense:
        """What the data suggest: the end where most episodes begin is open, as the first contact is yet to come.

        Args:
            episodes: (T,) values of the gripper in some episodes.
        """
        begins = []
        moved = [values[np.isfinite(values)] for values in episodes]
        moved = [values for values in moved if len(values) and np.ptp(values) > 0]
        if moved:
            low, high = min(values.min() for values in moved), max(values.max() for values in moved)
            # Only episodes whose hand moves far say anything: one that grips nothing begins anywhere.
            begins = [
                float((values[0] - low) / (high - low)) for values in moved if np.ptp(values) > 0.5 * (high - low)
            ]
        at_low = sum(value < _END for value in begins)
        if begins and at_low >= _MOST * len(begins):
            return cls(True, f"guessed: {at_low} of {len(begins)} episodes begin at the low end", guessed=True)
        return cls(False, "guessed: larger is taken as more open", guessed=True)


def sense_of(name: str, robot: str) -> Sense | None:
    """What an element's name or the robot says about the sense, None where neither does."""
    if _CLOSED_NAME.search(name):
        return Sense(True, "name says larger is closed")
    if _OPEN_NAME.search(name):
        return Sense(False, "name says larger is more open")
    if _ZERO_OPEN.search(robot):
        return Sense(True, f"0 is open for {_ZERO_OPEN.search(robot)[0]}")  # type: ignore[index]
    if _ZERO_CLOSED.search(robot):
        return Sense(False, f"0 is closed for {_ZERO_CLOSED.search(robot)[0]}")  # type: ignore[index]
    return None


def gripper_opening(
    columns: Mapping[str, tuple[tuple[str, ...], NDArray[np.float32] | None, Range | None]],
    sense: Callable[[str, int, str], Sense],
) -> tuple[NDArray[np.float32] | None, dict[str, Any] | None, tuple[str, ...]]:
    """The opening, what it was made from, and tags.

    Args:
        columns: by signal ("gripper", "state", "action", in order of preference) the names of its N elements, its
            (T, N) values, and the smallest and largest value of each element over the dataset, None where unknown.
        sense: which end is open, for a signal's element of that number and name.

    Returns:
        (T,) float32 in [0, 1], 1 open, and {from, convention}; (None, None) where no element is named a gripper,
        (None, {...}) where one is but it never moves and its unit is unknown.
    """
    for signal, (names, values, limits) in columns.items():
        named = [i for i, name in enumerate(names) if "gripper" in name.lower() and "delta" not in name.lower()]
        elements = list(range(len(names))) if signal == "gripper" else named
        if values is None or not elements or len(names) != values.shape[1]:
            continue
        if limits is not None and len(limits[0]) != len(names):
            limits = None
        scaled = [_scaled(values[:, i], limits and (limits[0][i], limits[1][i])) for i in elements]
        moved = [float(np.ptp(opening)) if opening is not None else -1.0 for opening, _ in scaled]
        best = int(np.argmax(moved))
        opening, unit = scaled[best]
        element = elements[best]
        record = {"from": f"{_KEYS.get(signal, signal)}[{names[element]}]", "convention": unit}
        if opening is None:
            return None, record, ()
        convention = sense(signal, element, names[element])
        record["convention"] = f"{unit}, {convention.why}"
        tags = ("gripper-sense-guessed",) if convention.guessed else ()
        return (np.float32(1) - opening if convention.inverted else opening), record, tags
    return None, None, ()


_KEYS = {"state": "observation.state"}


def _scaled(values: NDArray[np.float32], limits: tuple[float, float] | None) -> tuple[NDArray[np.float32] | None, str]:
    """The values put into 0..1, and how."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None, "no finite value"
    has_limits = limits is not None and bool(np.isfinite(limits).all())
    low, high = limits if limits is not None and has_limits else (float(finite.min()), float(finite.max()))
    normalised = low >= -_SLACK and high <= 1 + _SLACK and (high >= _METRES or not has_limits)
    if not normalised and high - low < 1e-6:
        return None, f"constant {low:g}, unit unknown"
    if normalised:
        opening, unit = values, "already 0..1"
    else:
        opening = (values - low) / (high - low)
        unit = f"{'dataset' if has_limits else 'episode'} range {low:g}..{high:g}"
    opening = np.clip(opening, 0, 1).astype(np.float32)
    if len(finite) < len(values):
        # The opening is finite in a packet; actions may have gaps.
        rows, known_rows = np.arange(len(values)), np.flatnonzero(np.isfinite(values))
        opening = np.interp(rows, known_rows, opening[known_rows]).astype(np.float32)
        unit = f"{unit}, gaps interpolated"
    return opening, unit
