"""What surrounds the work: table, floor, walls, furniture, trays, kitchens."""

from __future__ import annotations

import numpy as np

from flows.scenes.textures import Rng
from flows.scenes.things import PICTURES, four_walls, geom, painted

SURFACES = 4
"""Pictures of table, floor and walls."""


def surroundings(rng: Rng, azimuth: float) -> str:
    """Table, floor, walls, furniture; a tray or sink around the work now and then. No furniture before the camera."""
    half = rng.uniform(0.35, 1.0, 2)
    yaw = rng.uniform(0, 3.14)
    out = geom("box", (*half, 0.02), (0, 0, -0.02), 'material="surface0"', f"0 0 {yaw:.4g}")
    drop = rng.uniform(0.05, 0.9)
    out += f'<geom type="plane" size="5 5 .1" pos="0 0 {-drop:.4g}" material="surface1" contype="0" conaffinity="0"/>'
    for side in range(6):
        angle, distance = azimuth + np.pi / 3 * side + rng.normal(0, 0.15), rng.uniform(0.5, 2.0)
        # The camera stands within the room.
        distance = max(distance, 2.2) if side in (0, 1, 5) else distance
        paint = f'material="surface{rng.integers(2, SURFACES)}"'
        centre = (distance * np.cos(angle), distance * np.sin(angle), 1.0)
        out += geom("box", (0.02, 3.0, 2.5), centre, paint, f"0 0 {angle:.4g}")
    for _ in range(int(rng.integers(0, 7))):
        angle, distance = azimuth + np.pi + rng.uniform(-1.9, 1.9), rng.uniform(0.34, 0.8)
        size = rng.uniform(0.03, 0.2, 3)
        place = (distance * np.cos(angle), distance * np.sin(angle), size[2] * rng.uniform(0.2, 1.0))
        turned = f"0 0 {angle + rng.normal(0, 0.2):.4g}"
        out += geom(
            str(rng.choice(["box", "cylinder"])), np.minimum(size, distance - 0.26), place, painted(rng, ""), turned
        )
    if rng.random() < 0.25:
        out += _tray(rng, float(yaw))
    if rng.random() < 0.3:
        out += _kitchen(rng, azimuth)
    return out


def _kitchen(rng: Rng, azimuth: float) -> str:
    """A back wall near the work with shelf, doors and knobs, and stove plates, a ledge and a tap before it."""
    behind, wide = rng.uniform(0.3, 0.5), rng.uniform(0.25, 0.8)
    panel, front, metal = (painted(rng, "") for _ in range(3))
    out = geom("box", (0.01, wide, rng.uniform(0.1, 0.5)), (behind, 0, 0), panel)
    shelf = rng.uniform(0.1, 0.4)
    out += geom("box", (rng.uniform(0.02, 0.08), wide, 0.008), (behind - 0.03, 0, shelf), front)
    for number in range(int(rng.integers(0, 5))):
        y, half = rng.uniform(-wide, wide), rng.uniform(0.03, 0.1)
        height = rng.choice([half, shelf + half])
        out += geom("box", (0.004, half, half * 0.95), (behind - 0.012, y, height), front)
        if rng.random() < 0.7:
            out += geom("sphere", (rng.uniform(0.005, 0.012),), (behind - 0.02, y + half * 0.7, height), metal)
        if number % 2:
            radius = rng.uniform(0.01, 0.03)
            out += geom("cylinder", (radius, 0.01), (behind - 0.015, -y, rng.uniform(0.03, 0.2)), metal, "0 1.5708 0")
    for _ in range(int(rng.integers(0, 4))):  # stove plates, coasters, marks
        radius = rng.uniform(0.02, 0.08)
        out += geom("cylinder", (radius, 0.0012), (*rng.uniform(-0.25, 0.25, 2), 0), painted(rng, ""))
    if rng.random() < 0.5:
        out += geom("box", (rng.uniform(0.03, 0.12), wide, rng.uniform(0.01, 0.05)), (behind - 0.05, 0, 0), front)
    if rng.random() < 0.4:
        y, tall = rng.uniform(-0.2, 0.2), rng.uniform(0.08, 0.25)
        out += geom("cylinder", (0.01, tall / 2), (behind - 0.04, y, tall / 2), metal)
        out += geom("capsule", (0.008, 0.05), (behind - 0.09, y, tall), metal, "0 1.5708 0")
    # Seen from the camera it is at the back or, turned, at a side.
    angle = azimuth + np.pi + rng.choice([0.0, 0.0, -1.2, 1.2]) + rng.normal(0, 0.2)
    return f'<body euler="0 0 {angle:.4g}">{out}</body>'


def _tray(rng: Rng, yaw: float) -> str:
    x, y, height = (*rng.uniform(0.2, 0.32, 2), rng.uniform(0.015, 0.1))
    paint, thin = f'material="picture{rng.integers(PICTURES)}"', rng.uniform(0.004, 0.02)
    walls = geom("box", (x, y, 0.0006), (0, 0, 0.0), paint) + four_walls((x, y), thin, height, height / 2, paint)
    return f'<body euler="0 0 {yaw:.4g}">{walls}</body>'
