"""Robots of primitives: a base, two links, a hand with fingers; each world's has proportions and colours of its own.

The hand's frame has its origin between the fingertips, z towards the wrist, x the way in which the fingers open. The
links follow by two-link inverse kinematics; nothing is simulated, poses are set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.scenes.poses import Floats, frame_along, pose
from flows.scenes.textures import Rng, random_colour
from flows.scenes.things import geom, painted, plain


@dataclass(frozen=True, slots=True, eq=False)
class Robot:
    """A robot's looks and measures.

    Attributes:
        bodies: MJCF geoms by body: base, upper, fore, hand, finger0 ...
        shoulder: (3,) metres in the world.
        links: lengths of the upper and the fore arm, metres.
        hand_length: from the fingertips to the wrist, metres.
        fingers: how many; one is a stick that pushes only.
        finger_half: half of a finger's thickness, metres.
        most_open: widest opening, metres.
        elbow: 1 up, -1 down.
    """

    bodies: dict[str, str]
    shoulder: Floats
    links: tuple[float, float]
    hand_length: float
    fingers: int
    finger_half: float
    most_open: float
    elbow: float

    def poses(self, hand: Floats, opening: float) -> dict[str, Floats]:
        """Body -> (4, 4) body to world, for a hand (4, 4) whose fingers are `opening` metres apart."""
        wrist = hand[:3, 3] + hand[:3, 2] * self.hand_length
        way = wrist - self.shoulder
        reach = float(np.linalg.norm(way))
        out = way * (1, 1, 0)
        level = out / max(float(np.linalg.norm(out)), 1e-6)
        normal = np.cross((0, 0, 1), level)
        first, second = self.links
        # What is out of reach is reached by a longer arm: a straight elbow, links that overlap less.
        cosine = np.clip((first**2 + reach**2 - second**2) / (2 * first * reach), -1, 1)
        along, up = way / reach, np.cross(way / reach, normal)
        elbow = self.shoulder + first * (along * cosine + up * np.sqrt(1 - cosine**2) * self.elbow)
        found = {
            "base": pose(np.eye(3), self.shoulder),
            "upper": pose(frame_along(elbow - self.shoulder, normal), self.shoulder),
            "fore": pose(frame_along(wrist - elbow, normal), elbow),
            "hand": hand,
        }
        for finger in range(self.fingers):
            found[f"finger{finger}"] = hand @ self._finger(finger, opening)
        return found

    def _finger(self, finger: int, opening: float) -> Floats:
        if self.fingers == 1:
            return np.eye(4)
        angle = 2 * np.pi * finger / self.fingers
        facing = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        return pose(facing, facing[:, 0] * (opening / 2 + self.finger_half))


def random_robot(rng: Rng, reach: float, shoulder: Floats, *, hanging: bool) -> Robot:
    """A robot that reaches `reach` metres from `shoulder`."""
    thick = reach * rng.uniform(0.025, 0.085)
    first = reach * rng.uniform(0.5, 0.62)
    links = (first, reach * 1.06 - first)
    colours = [random_colour(rng) for _ in range(3)]
    # Half of all arms are black, white or grey with dark joints.
    if rng.random() < 0.5:
        colours[0] = np.full(3, rng.choice([0.04, 0.08, 0.15, 0.6, 0.8, 0.95]))
        colours[1] = colours[0] if rng.random() < 0.5 else np.full(3, rng.uniform(0.02, 0.3))
    fingers = int(rng.choice([1, 2, 3], p=[0.06, 0.84, 0.1]))
    hand_length = rng.uniform(0.1, 0.24)
    finger, finger_half, finger_length = _finger(rng, hand_length, colours)
    bodies = {
        "base": _base(rng, thick, shoulder[2], colours, hanging=hanging),
        "upper": _link(rng, links[0], thick * rng.uniform(0.8, 1.2), colours),
        "fore": _link(rng, links[1], thick * rng.uniform(0.6, 1.1), colours),
        "hand": _hand(rng, hand_length, finger_length, thick * rng.uniform(0.5, 1.0), colours),
    }
    bodies |= {f"finger{number}": finger for number in range(fingers)}
    return Robot(
        bodies,
        shoulder,
        links,
        hand_length,
        fingers,
        finger_half,
        rng.uniform(0.05, 0.12),
        1.0 if not hanging else -1.0,
    )


def _paint(rng: Rng, colours: list[Floats]) -> str:
    chance = rng.random()
    if chance < 0.07:
        return painted(rng, "robot")
    return plain(rng, colours[0 if chance < 0.6 else 1 if chance < 0.9 else 2])


def _base(rng: Rng, thick: float, height: float, colours: list[Floats], *, hanging: bool) -> str:
    """From the shoulder down to the table, or up to the ceiling; things of the table have z = 0."""
    length = 1.0 if hanging else max(height, 0.02) + 0.5 * (rng.random() < 0.2)
    middle = length / 2 if hanging else -length / 2
    column = geom("cylinder", (thick * rng.uniform(0.8, 1.5), length / 2), (0, 0, middle), _paint(rng, colours))
    if rng.random() < 0.5:
        half = (thick * 1.4, thick * rng.uniform(1, 1.6), length / 2)
        column = geom("box", half, (0, 0, middle), _paint(rng, colours))
    return column + geom("sphere", (thick * rng.uniform(1.0, 1.4),), (0, 0, 0), _paint(rng, colours))


def _link(rng: Rng, length: float, thick: float, colours: list[Floats]) -> str:
    """Along z from the joint at its start: a beam or two, the motor across its end, rings, boxes, cables."""
    style = rng.choice(["tube", "beam", "twin", "bulged"])
    middle, paint = (0, 0, length / 2), _paint(rng, colours)
    if style == "tube":
        out = geom("capsule", (thick, length / 2), middle, paint)
    elif style == "beam":
        out = geom("box", (thick * rng.uniform(0.5, 1), thick * rng.uniform(0.5, 1), length / 2), middle, paint)
    elif style == "twin":
        half = (thick * 0.25, thick * 0.8, length / 2)
        out = "".join(geom("box", half, (side * thick * 0.8, 0, length / 2), paint) for side in (-1, 1))
    else:
        out = geom("capsule", (thick * 0.7, length / 2), middle, paint)
        for at in (0.2, 0.7):
            out += geom(
                "ellipsoid", (thick * 1.2, thick * 1.1, length * 0.2), (0, 0, at * length), _paint(rng, colours)
            )
    out += geom(
        "cylinder", (thick * 1.1, thick * rng.uniform(1, 1.5)), (0, 0, length), _paint(rng, colours), "0 1.5708 0"
    )
    for _ in range(int(rng.integers(0, 4))):
        height = length * rng.uniform(0.1, 0.9)
        if rng.random() < 0.5:
            out += geom("cylinder", (thick * 1.08, thick * rng.uniform(0.1, 0.5)), (0, 0, height), _paint(rng, colours))
        else:
            block = thick * rng.uniform(0.3, 1.0, 3)
            out += geom("box", block, (rng.choice([-1, 1]) * thick, 0, height), _paint(rng, colours))
    return out


def _hand(rng: Rng, length: float, finger_length: float, thick: float, colours: list[Floats]) -> str:
    """From the fingers' roots to the wrist."""
    palm = rng.uniform(0.015, 0.035)
    out = geom(
        "box", (rng.uniform(0.03, 0.07), thick * 0.9 + 0.01, palm), (0, 0, finger_length + palm), _paint(rng, colours)
    )
    rest = max(length - finger_length, 0.02)
    centre = (0, 0, finger_length + rest / 2)
    if rng.random() < 0.6:
        out += geom("cylinder", (thick * rng.uniform(0.6, 1.2), rest / 2), centre, _paint(rng, colours))
    else:
        out += geom(
            "box",
            (thick * rng.uniform(0.5, 1.2), thick * rng.uniform(0.5, 1.2), rest / 2),
            centre,
            _paint(rng, colours),
        )
    out += geom("sphere", (thick * rng.uniform(0.7, 1.3),), (0, 0, length), _paint(rng, colours))
    if rng.random() < 0.3:  # a camera on its bracket
        out += geom("box", (0.02, 0.012, 0.012), (0, thick + 0.03, length * 0.8), plain(rng))
        out += geom("box", (0.01, 0.03, 0.004), (0, thick, length * 0.78), plain(rng))
    return out


def _finger(rng: Rng, hand_length: float, colours: list[Floats]) -> tuple[str, float, float]:
    """A finger from its tip at 0 upwards, half its thickness and its length, metres."""
    half, length = rng.uniform(0.004, 0.012), hand_length * rng.uniform(0.3, 0.6)
    wide = rng.uniform(0.006, 0.018)
    paint = _paint(rng, colours)
    if rng.random() < 0.25:
        paint = plain(rng)
    style = rng.choice(["bar", "round", "stepped", "claw"])
    middle = (0, 0, length / 2)
    if style == "round":
        return geom("capsule", (half, length / 2 - half), middle, paint), half, length
    if style == "claw":  # the upper half stands out and leads back in
        out = geom("box", (half, wide, length * 0.28), (0, 0, length * 0.25), paint, "0 0.25 0")
        return (
            out + geom("box", (half, wide, length * 0.3), (half * 2, 0, length * 0.72), paint, "0 -0.2 0"),
            half,
            length,
        )
    out = geom("box", (half, wide, length / 2), middle, paint)
    if style == "stepped":
        out += geom("box", (half * 2, wide * 1.3, length * 0.3), (half, 0, length * 0.75), _paint(rng, colours))
        out += geom("box", (half * 0.6, wide * 1.1, length * 0.15), (-half * 0.5, 0, length * 0.15), plain(rng))
    return out, half, length
