"""The hand's pose from proprioception, by the names of its numbers.

`hand_pose` maps points of the hand's frame to the robot's base frame, in metres. Turns are read so:

- roll, pitch, yaw (BridgeData V2, LeRobot's WidowX sets): about the base's fixed x, y and z axes in this order,
  R = Rz(yaw) Ry(pitch) Rx(roll), "sxyz" in transforms3d. BridgeData's angles are relative to a gripper that points
  ahead; that is a constant turn of the hand's frame, which changes no point's path.
- qx, qy, qz, qw: a quaternion, each number by its name, so that the order does not matter.

What the names do not settle is refused with what to set: a guess would calibrate a camera that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from extractors.errors import GeometryError, ShapeError

Floats = NDArray[np.float64]
LengthUnit = Literal["m", "cm", "mm"]
AngleUnit = Literal["rad", "deg"]

METRES: Mapping[LengthUnit, float] = {"m": 1.0, "cm": 0.01, "mm": 0.001}

REACH_M = 3.0
"""No arm on a table reaches farther: a path that does is in another unit."""

STILL_M = 1e-3
"""A path whose deviation is less is that of a hand that stands, or of a state that is not recorded."""

_POSITION = ("x", "y", "z")
_EULER = ("roll", "pitch", "yaw")
_QUATERNION = ("qx", "qy", "qz", "qw")
_AMBIGUOUS = ("rx", "ry", "rz")
_OF_HAND = r"(?:ee|eef|tcp|end_?effector|gripper|hand|cartesian)"


@dataclass(frozen=True, slots=True, eq=False)
class HandPose:
    """The hand through a clip.

    Attributes:
        pose: (T, 4, 4) float32, hand to base, metres; rows that were not recorded are NaN.
        valid: (T,) bool.
        tags: "hand-still" where it hardly moves, "state-dropped" where rows are missing.
        report: names used, units, convention. JSON types only.
    """

    pose: NDArray[np.float32]
    valid: NDArray[np.bool_]
    tags: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)


def hand_pose_from_state(
    state: NDArray[Any],
    names: Sequence[str],
    *,
    prefix: str | None = None,
    length_unit: LengthUnit = "m",
    angle_unit: AngleUnit = "rad",
) -> HandPose:
    """The hand's pose from rows of state.

    Args:
        state: (T, S) numbers as the source gives them.
        names: of the S numbers, () where unknown.
        prefix: which hand to take where the names have several ("left", "right", "left_eef"): names that start so.
        length_unit: of positions.
        angle_unit: of roll, pitch and yaw.

    Raises:
        ShapeError: `names` has another length than the state's rows.
        GeometryError: the names do not say which numbers are the hand's pose, or the numbers cannot be in these units.
    """
    if state.ndim != 2 or (len(names) and len(names) != state.shape[1]):
        raise ShapeError(f"state must be (T, S) with S names, got {state.shape} and {len(names)} names")
    columns, turns = _columns(names, prefix)
    values = np.asarray(state, np.float64)
    place = values[:, [columns[name] for name in _POSITION]] * METRES[length_unit]
    turn = values[:, [columns[name] for name in turns]]
    valid: NDArray[np.bool_] = np.asarray(np.isfinite(place).all(axis=1) & np.isfinite(turn).all(axis=1))
    if turns == _QUATERNION:
        valid &= np.linalg.norm(np.nan_to_num(turn), axis=1) > 1e-6
    if not valid.any():
        raise GeometryError("no row of the state holds a finite pose of the hand; check the source")
    _check_units(place[valid], turn[valid] if turns == _EULER else None, length_unit, angle_unit)
    pose = np.full((len(values), 4, 4), np.nan)
    pose[valid] = np.eye(4)
    pose[valid, :3, 3] = place[valid]
    pose[valid, :3, :3] = _rotations(turn[valid], turns, angle_unit)
    report = {
        "names": [names[columns[name]] for name in (*_POSITION, *turns)],
        "length_unit": length_unit,
        "angle_unit": angle_unit if turns == _EULER else None,
        "convention": "Rz(yaw) Ry(pitch) Rx(roll)" if turns == _EULER else "quaternion",
    }
    return hand_from_poses(pose, report)


def hand_from_poses(pose: Floats, report: Mapping[str, Any]) -> HandPose:
    """Poses (T, 4, 4), not finite where they are not known, with what is to be said of them.

    Raises:
        GeometryError: no row is finite.
    """
    valid = np.asarray(np.isfinite(pose).all(axis=(1, 2)), np.bool_)
    if not valid.any():
        raise GeometryError("no row of the state holds a finite pose of the hand; check the source")
    tags = ["hand-still"] if np.sqrt(pose[valid, :3, 3].var(axis=0).sum()) < STILL_M else []
    if not valid.all():
        tags.append("state-dropped")
    poses = np.where(valid[:, None, None], pose, np.nan).astype(np.float32)
    return HandPose(poses, valid, tuple(tags), {**report, "dropped_rows": int((~valid).sum())})


def _columns(names: Sequence[str], prefix: str | None) -> tuple[dict[str, int], tuple[str, ...]]:
    """Where position and turn are, by plain name; and the names of the turn."""
    if not names:
        raise GeometryError(
            "the state's numbers have no names, so the hand's pose is not known among them; set robot.state_names"
        )
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        plain = _plain(name, prefix)
        if plain is not None:
            found.setdefault(plain, []).append(index)
    several = {name: [names[i] for i in places] for name, places in found.items() if len(places) > 1}
    if several:
        name, candidates = next(iter(several.items()))
        raise GeometryError(f"{candidates} could each be the hand's {name}; set robot.prefix to the hand meant")
    if not all(name in found for name in _POSITION):
        raise GeometryError(
            f"the state holds no position x, y, z of the hand, only {list(names)}; set robot.urdf and robot.joints for "
            "joint angles, or robot.state_names"
        )
    for turns in (_EULER, _QUATERNION):
        if all(name in found for name in turns):
            return {name: found[name][0] for name in (*_POSITION, *turns)}, turns
    if all(name in found for name in _AMBIGUOUS):
        raise GeometryError(
            "rx, ry, rz may be a rotation vector or three angles; set robot.state_names to roll, pitch, yaw if angles"
        )
    raise GeometryError(
        f"the state holds no turn of the hand (roll, pitch, yaw or qx, qy, qz, qw), only {list(names)}; set "
        "robot.state_names"
    )


def _plain(name: str, prefix: str | None) -> str | None:
    """x, y, z, roll, ..., qw where a name means the hand's, None else: "eef_pos.x", "observation.ee_qw", "left_x"."""
    text = name.lower().strip()
    if prefix is not None:
        if not text.startswith(prefix.lower()):
            return None
        text = text[len(prefix) :].lstrip("._-/ ")
    parts = [part for part in re.split(r"[._\-/ ]+", text) if part]
    last = parts[-1] if parts else ""
    if len(parts) > 1 and parts[-2] in ("quat", "q", "quaternion") and last in ("x", "y", "z", "w"):
        last = f"q{last}"
    before = "_".join(part for part in parts[:-1] if part not in ("pos", "position", "rot", "quat", "pose", "state"))
    is_pose = last in (*_POSITION, *_EULER, *_QUATERNION, *_AMBIGUOUS)
    of_hand = not before or re.fullmatch(rf"(?:observation_)?(?:left_|right_)?{_OF_HAND}?|left|right", before)
    return last if is_pose and of_hand else None


def _check_units(place: Floats, angles: Floats | None, length_unit: str, angle_unit: str) -> None:
    reach = float(np.abs(place - np.median(place, axis=0)).max())
    far = float(np.linalg.norm(np.median(place, axis=0)))
    if max(reach, far) > REACH_M:
        raise GeometryError(
            f"the hand would be {max(reach, far):.0f} m away in {length_unit}; set robot.length_unit to mm or cm"
        )
    if angles is not None and angle_unit == "rad" and float(np.abs(angles).max()) > 2 * np.pi + 0.2:
        raise GeometryError(f"an angle of {np.abs(angles).max():.0f} cannot be in radians; set robot.angle_unit to deg")


def _rotations(turn: Floats, turns: tuple[str, ...], angle_unit: str) -> Floats:
    if turns == _QUATERNION:
        return np.asarray(Rotation.from_quat(turn).as_matrix())
    return np.asarray(Rotation.from_euler("xyz", turn, degrees=angle_unit == "deg").as_matrix())
