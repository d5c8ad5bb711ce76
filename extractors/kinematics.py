"""Forward kinematics of a robot's description (URDF): joint values in, pose of the hand's link out.

URDF as ROS defines it (wiki.ros.org/urdf/XML/joint): the frame of a joint is `origin` (xyz metres, rpy radians about
fixed axes, x first) in its parent link's; the child link turns about, or slides along, `axis` in it. Masses, meshes and
limits play no part, so the file is all that is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from extractors.errors import GeometryError, ShapeError

Floats = NDArray[np.float64]

MOST_TEXT = 2**24
"""Characters of a description; robots with two arms have a tenth of a million."""

_TURNS, _SLIDES, _FIXED = ("revolute", "continuous"), ("prismatic",), ("fixed",)


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """One joint: what it joins, where it is, and how it moves.

    Attributes:
        name, parent, child: as in the file.
        kind: "revolute", "continuous", "prismatic" or "fixed".
        origin: (4, 4), its frame in the parent link's.
        axis: (3,) unit vector in its own frame.
        mimics: joint that it follows, factor and offset; None for a joint of its own.
    """

    name: str
    parent: str
    child: str
    kind: str
    origin: Floats
    axis: Floats
    mimics: tuple[str, float, float] | None


def read_urdf(text: str) -> dict[str, Joint]:
    """The joints of a description by their child link.

    Raises:
        GeometryError: it is not URDF, or has a joint of a kind that has more than one value.
    """
    # Entities of a document type are how small files grow without bound; URDF has no use for them.
    if len(text) > MOST_TEXT or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise GeometryError("robot.urdf: wanted a plain URDF file without a document type, of 16 MB at most")
    try:
        root = ElementTree.fromstring(text)
        joints = [_joint(element) for element in root.findall("joint")]
    except (ElementTree.ParseError, ValueError, KeyError, TypeError) as error:
        raise GeometryError(f"robot.urdf: not URDF ({error}); expand xacro files first") from error
    if not joints:
        raise GeometryError("robot.urdf: no joints in it")
    return {joint.child: joint for joint in joints}


def hand_poses(
    joints: Mapping[str, Joint], names: Sequence[str], values: NDArray[Any], hand: str | None = None
) -> NDArray[np.float64]:
    """(T, 4, 4) poses of the hand's link in the robot's root link, metres; NaN rows where a value is.

    Args:
        joints: of `read_urdf`.
        names: joint of each column of `values`.
        values: (T, J) radians, and metres of joints that slide.
        hand: the hand's link; None: the one link that the named joints move and that nothing hangs on.

    Raises:
        ShapeError: as many names as columns are wanted.
        GeometryError: a joint or link is not in the description, or which link is the hand is not clear.
    """
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ShapeError(f"joint values must be (T, {len(names)}), got {values.shape}")
    by_name = {joint.name: joint for joint in joints.values()}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise GeometryError(f"robot.joints: the description has no joint {unknown[0]!r}, only {sorted(by_name)}")
    chain = _chain(joints, hand or _only_end(joints, names))
    column = {name: np.asarray(values[:, index], np.float64) for index, name in enumerate(names)}
    pose = np.repeat(np.eye(4)[None], len(values), axis=0)
    for joint in chain:
        pose = pose @ joint.origin @ _moved(joint, column, len(values))
    return pose


def _chain(joints: Mapping[str, Joint], link: str) -> list[Joint]:
    """Joints from the root to a link."""
    if link not in joints:
        raise GeometryError(f"robot.hand_link: no joint carries the link {link!r}; choose one of {sorted(joints)}")
    chain: list[Joint] = []
    while link in joints:
        joint = joints[link]
        if joint in chain:
            raise GeometryError(f"robot.urdf: the links form a loop at {link!r}")
        chain.append(joint)
        link = joint.parent
    return chain[::-1]


def _only_end(joints: Mapping[str, Joint], names: Sequence[str]) -> str:
    """The link at the end of the longest of the named joints' chain, where there is one such."""
    parents = {joint.parent for joint in joints.values()}
    ends = [link for link in joints if link not in parents]
    counts = {end: sum(joint.name in names for joint in _chain(joints, end)) for end in ends}
    best = [end for end in ends if counts[end] == max(counts.values())]
    if len(best) != 1:
        raise GeometryError(f"robot.hand_link: {sorted(best)} could each be the hand; set it to the one meant")
    return best[0]


def _moved(joint: Joint, column: Mapping[str, Floats], n_rows: int) -> Floats:
    moved = np.repeat(np.eye(4)[None], n_rows, axis=0)
    if joint.kind in _FIXED:
        return moved
    name, factor, offset = joint.mimics or (joint.name, 1.0, 0.0)
    if name not in column:
        raise GeometryError(f"robot.joints: the hand hangs on joint {name!r}, which no number of the state is named")
    value = factor * column[name] + offset
    if joint.kind in _SLIDES:
        moved[:, :3, 3] = value[:, None] * joint.axis
        return moved
    finite = np.isfinite(value)
    moved[finite, :3, :3] = Rotation.from_rotvec(value[finite, None] * joint.axis).as_matrix()
    moved[~finite] = np.nan
    return moved


def _joint(element: ElementTree.Element) -> Joint:
    kind = element.attrib["type"]
    if kind not in (*_TURNS, *_SLIDES, *_FIXED):
        raise ValueError(f"joint {element.attrib.get('name')!r} is {kind}; wanted one value a joint")
    parent, child = (_child(element, name).attrib["link"] for name in ("parent", "child"))
    place, origin = element.find("origin"), np.eye(4)
    if place is not None:
        origin[:3, 3] = _numbers(place.attrib.get("xyz", "0 0 0"))
        origin[:3, :3] = Rotation.from_euler("xyz", _numbers(place.attrib.get("rpy", "0 0 0"))).as_matrix()
    axis_element = element.find("axis")
    axis = _numbers(axis_element.attrib.get("xyz", "1 0 0") if axis_element is not None else "1 0 0")
    length = float(np.linalg.norm(axis))
    if kind not in _FIXED and length < 1e-6:
        raise ValueError(f"joint {element.attrib.get('name')!r} has no axis")
    mimic = element.find("mimic")
    mimics = None
    if mimic is not None:
        about = mimic.attrib
        mimics = (about["joint"], float(about.get("multiplier", "1")), float(about.get("offset", "0")))
    return Joint(element.attrib["name"], parent, child, kind, origin, axis / max(length, 1e-6), mimics)


def _child(element: ElementTree.Element, name: str) -> ElementTree.Element:
    found = element.find(name)
    if found is None:
        raise ValueError(f"joint {element.attrib.get('name')!r} has no {name}")
    return found


def _numbers(text: str) -> Floats:
    numbers = np.array([float(word) for word in text.split()])
    if numbers.shape != (3,) or not np.isfinite(numbers).all():
        raise ValueError(f"wanted three numbers, got {text!r}")
    return numbers
