"""Drawers, doors, lids and levers: things that stay where they are and move by their handles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.scenes.poses import Floats, pose, turn
from flows.scenes.textures import Rng
from flows.scenes.things import PICTURES, Thing, four_walls, geom, painted, plain, text


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """How a thing moves that stays where it is, in its own frame when it is closed.

    Attributes:
        handle: (3,) where it is taken, metres.
        hinge: (3,) a point of the axis that it turns about; None for what slides.
        axis: unit vector that it turns about (x or z), or slides along.
        most: rad or metres from closed to open.
    """

    handle: Floats
    hinge: Floats | None
    axis: tuple[float, float, float]
    most: float

    def opened(self, share: float) -> Floats:
        """(4, 4) frame of the part, `share` of the way open, to that of the closed part."""
        amount = share * self.most
        if self.hinge is None:
            return pose(np.eye(3), np.multiply(self.axis, amount))
        turned = turn(self.axis.index(1.0), amount)
        return pose(turned, self.hinge - turned @ self.hinge)


def moving_part(rng: Rng) -> tuple[Thing, Part, float]:
    """A drawer, a door, a lid or a lever, how it moves, and how far above the table it is, metres."""
    kind = str(rng.choice(["drawer", "door", "lid", "lever"], p=[0.3, 0.25, 0.3, 0.15]))
    if kind == "lever":
        return *_lever(rng), 0.0
    wide, deep, thin = rng.uniform(0.1, 0.26), rng.uniform(0.1, 0.2), rng.uniform(0.003, 0.012)
    tall = rng.uniform(0.06, 0.22)
    paint, bar = painted(rng, "object"), plain(rng)
    if kind == "lid":
        # Flat, on its box; the hinge is along the far edge.
        height = rng.uniform(0.03, 0.14)
        body = geom("box", (wide / 2, deep / 2, thin), (0, 0, thin), paint)
        if rng.random() < 0.4:  # a rim that grips the box
            body += geom("box", (wide / 2 + thin, deep / 2 + thin, 2 * thin), (0, 0, thin / 2), paint)
        grip = np.array([0.0, -deep / 2 - 0.006, thin])
        if rng.random() < 0.5:
            grip = np.array([0.0, rng.uniform(-0.45, -0.25) * deep, 2 * thin + 0.012])
        body += geom("capsule", (0.006, rng.uniform(0.006, 0.025)), grip, bar, "0 1.5708 0")
        part = Part(grip, np.array([0.0, deep / 2, 0.0]), (1.0, 0.0, 0.0), -rng.uniform(0.7, 1.5))
        return Thing("object", "lid", body, "", max(wide, deep) / 2, 2 * thin + 0.02, (thin, 0.012)), part, height
    body = geom("box", (wide / 2, thin, tall / 2), (0, 0, tall / 2), paint)
    door = kind == "door"
    if not door:
        side_thin = 0.003
        for side in (-1, 1):
            body += geom("box", (side_thin, deep / 2, tall * 0.35), (side * wide * 0.46, deep / 2, tall * 0.4), paint)
        body += geom("box", (wide * 0.46, deep / 2, side_thin), (0, deep / 2, tall * 0.1), paint)
    x = wide * -0.35 if door else 0.0
    body += geom("capsule", (0.006, 0.025), (x, -0.035, tall * 0.7), bar, f"0 {0 if door else 1.5708} 0")
    for side in (-1, 1):
        where = (x, -0.018, tall * 0.7 + side * 0.02) if door else (x + side * 0.02, -0.018, tall * 0.7)
        body += geom("capsule", (0.004, 0.014), where, bar, "1.5708 0 0")
    grip = np.array([x, -0.035, tall * 0.7])
    hinge = np.array([wide / 2, 0.0, 0.0]) if door else None
    part = Part(grip, hinge, (0.0, 0.0, 1.0), -rng.uniform(0.7, 1.4)) if door else Part(grip, None, (0, -1, 0), 0.14)
    return Thing("object", kind, body, "", wide / 2, tall, (tall * 0.7, 0.012)), part, 0.0


def _lever(rng: Rng) -> tuple[Thing, Part]:
    """A bar that turns about a post at its end: a tap, a switch, a crank."""
    long, thick, tall = rng.uniform(0.06, 0.16), rng.uniform(0.006, 0.016), rng.uniform(0.03, 0.16)
    paint = painted(rng, "object")
    body = geom("capsule", (thick, long / 2), (long / 2, 0, tall), paint, "0 1.5708 0")
    if rng.random() < 0.5:
        body += geom("sphere", (thick * 1.6,), (long, 0, tall), plain(rng))
    part = Part(
        np.array([0.9 * long, 0.0, tall]), np.zeros(3), (0.0, 0.0, 1.0), rng.choice([-1, 1]) * rng.uniform(0.6, 1.6)
    )
    return Thing("object", "lever", body, "", long, tall + thick, (tall, 2 * thick)), part


def housing(rng: Rng, thing: Thing, at: Floats) -> str:
    """What a moving part is fixed to: the box around a drawer, behind a door or under a lid, a lever's post."""
    half, thin = thing.radius + 0.008, 0.005
    paint = f'material="picture{rng.integers(PICTURES)}"'
    where = at[:3, 3]
    if thing.noun == "lever":
        walls = geom("cylinder", (rng.uniform(0.01, 0.03), thing.grasp[0] / 2), (0, 0, thing.grasp[0] / 2), paint)
    elif thing.noun == "lid":
        tall = float(where[2])
        walls = geom("box", (half, half, thin), (0, 0, thin - tall), paint)
        walls += four_walls((half, half), thin, tall, -tall / 2, paint, inset=0.93)
    else:
        tall, deep = thing.height + 0.012, 0.21
        walls = geom("box", (half, deep / 2, thin), (0, deep / 2 + 0.008, tall + thin), paint)
        walls += geom("box", (half, thin, tall / 2), (0, deep, tall / 2), paint)
        for side in (-1, 1):
            walls += geom("box", (thin, deep / 2, tall / 2 + thin), (side * half, deep / 2 + 0.008, tall / 2), paint)
    yaw = float(np.arctan2(at[1, 0], at[0, 0]))
    return f'<body pos="{text(where)}" euler="0 0 {yaw:.5g}">{walls}</body>'
