"""What lies on the table: primitives, composites, turned and faceted meshes, sheets, granules; as MJCF text.

A thing's frame has its origin at the middle of its foot, z up. Lengths are metres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.scenes.textures import Rng, random_colour

Numbers = Sequence[float] | NDArray[Any]


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing's looks and measures.

    Attributes:
        name: of its body.
        noun: what an instruction calls it.
        geoms: MJCF of its geoms, `{texture}` standing for its materials.
        assets: MJCF of its meshes.
        radius: around its axis, of a circle that holds it, metres.
        height: metres.
        grasp: (height of the fingertips above the foot, opening of the fingers), metres, for a grasp from above.
    """

    name: str
    noun: str
    geoms: str
    assets: str
    radius: float
    height: float
    grasp: tuple[float, float]


def random_thing(rng: Rng, name: str, size: float, kinds: Sequence[str] | None = None) -> Thing:
    """A thing about `size` metres wide, called `name`; `kinds` of `KINDS`, None for any."""
    kind = str(rng.choice(list(kinds or KINDS)))
    return KINDS[kind](rng, name, size)


def geom(kind: str, size: Numbers, pos: Numbers = (0, 0, 0), paint: str = "", turn: str = "") -> str:
    """One MJCF geom that nothing collides with: poses are set, not simulated."""
    angle = f' euler="{turn}"' if turn else ""
    return f'<geom type="{kind}" size="{text(size)}" pos="{text(pos)}"{angle} {paint} contype="0" conaffinity="0"/>'


def text(numbers: Numbers) -> str:
    """Numbers as MJCF writes them."""
    return " ".join(f"{number:.5g}" for number in np.ravel(numbers))


def plain(rng: Rng, colour: np.ndarray | None = None) -> str:
    """MJCF attributes of an unpatterned surface, dull to glossy."""
    rgb = random_colour(rng) if colour is None else colour
    return f'material="plain{rng.integers(4)}" rgba="{text(rgb)} 1"'


def painted(rng: Rng, name: str) -> str:
    """MJCF attributes of a surface with one of the world's pictures; plain for two in five."""
    if rng.random() < 0.4:
        return plain(rng)
    return f'material="picture{rng.integers(PICTURES)}"'


def four_walls(half: tuple[float, float], thin: float, height: float, z: float, paint: str, inset: float = 1.0) -> str:
    """The sides of a box without a top; `half` lengths of the walls, `inset` of which they stand from the middle."""
    x, y = half
    out = ""
    for side in (-1, 1):
        out += geom("box", (thin, y, height / 2), (side * x * inset, 0, z), paint)
        out += geom("box", (x, thin, height / 2), (0, side * y * inset, z), paint)
    return out


PICTURES = 6
"""Pictures that a world has for its things and furniture."""


def _block(rng: Rng, name: str, size: float) -> Thing:
    half = size / 2 * rng.uniform(0.45, 1.0, 3)
    half[0] = size / 2
    body = geom("box", half, (0, 0, half[2]), painted(rng, name))
    if rng.random() < 0.3:
        body += geom("box", half * (0.6, 0.6, 0.05), (0, 0, 2 * half[2]), plain(rng))
    return Thing(name, "block", body, "", float(np.hypot(*half[:2])), 2 * half[2], (half[2], 2 * half[1]))


def _ball(rng: Rng, name: str, size: float) -> Thing:
    half = size / 2 * rng.uniform(0.6, 1.0, 3) if rng.random() < 0.6 else np.full(3, size / 2)
    body = geom("ellipsoid", half, (0, 0, half[2]), painted(rng, name))
    if rng.random() < 0.3:
        body += geom("capsule", (0.06 * size, 0.12 * size), (0, 0, 2 * half[2]), plain(rng))
    return Thing(name, "ball", body, "", float(half[:2].max()), 2 * half[2], (half[2], 2 * half[1]))


def _can(rng: Rng, name: str, size: float) -> Thing:
    radius, height = size / 2, size * rng.uniform(0.5, 2.2)
    body = geom("cylinder", (radius, height / 2), (0, 0, height / 2), painted(rng, name))
    top = rng.random()
    if top < 0.3:  # a rim and a lid
        body += geom("cylinder", (radius * 0.9, 0.003), (0, 0, height), plain(rng))
    elif top < 0.6:  # a bottle's neck
        neck = radius * rng.uniform(0.25, 0.6)
        body += geom("cylinder", (neck, radius * 0.5), (0, 0, height + radius * 0.5), plain(rng))
        height += radius
    return Thing(name, "can", body, "", radius, height, (height * 0.6, 2 * radius))


def _mug(rng: Rng, name: str, size: float) -> Thing:
    radius, height = size / 2, size * rng.uniform(0.8, 1.4)
    paint = painted(rng, name)
    body, asset = _turned(name, [(radius * 0.85, 0), (radius, height), (radius * 0.88, height), (radius * 0.75, 0.004)])
    body = body.replace("PAINT", paint)
    for z, length, turn in ((0.75, 0.2, "0 1.57 0"), (0.35, 0.2, "0 1.57 0"), (0.55, 0.22, "0 0 0")):
        x = radius * (1.15 if turn.startswith("0 1") else 1.4)
        body += geom("capsule", (0.07 * size, length * size), (x, 0, z * height), paint, turn)
    return Thing(name, "cup", body, asset, radius * 1.3, height, (height * 0.7, 2 * radius))


def _bowl(rng: Rng, name: str, size: float) -> Thing:
    radius, height = size / 2, size * rng.uniform(0.1, 0.45)
    wall = 0.9
    profile = [
        (radius * 0.5, 0.0),
        (radius, height),
        (radius * wall, height),
        (radius * 0.45, 0.1 * height),
    ]
    body, asset = _turned(name, profile)
    return Thing(name, "bowl", body.replace("PAINT", painted(rng, name)), asset, radius, height, (height * 0.8, 0.02))


def _vase(rng: Rng, name: str, size: float) -> Thing:
    count = int(rng.integers(3, 8))
    height = size * rng.uniform(0.4, 2.0)
    widths = size / 2 * rng.uniform(0.35, 1.0, count)
    profile = list(zip(widths.tolist(), (np.linspace(0, 1, count) * height).tolist(), strict=True))
    body, asset = _turned(name, profile)
    at = int(np.argmin(np.abs(np.linspace(0, 1, count) - 0.6)))
    grasp = (0.6 * height, 2 * float(widths[at]))
    return Thing(name, "vase", body.replace("PAINT", painted(rng, name)), asset, float(widths.max()), height, grasp)


def _rock(rng: Rng, name: str, size: float) -> Thing:
    points = rng.normal(0, 1, (int(rng.integers(8, 30)), 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points *= size / 2 * rng.uniform(0.5, 1.0, 3) * rng.uniform(0.8, 1.0, (len(points), 1))
    points[:, 2] -= points[:, 2].min()
    asset = f'<mesh name="{name}_mesh" vertex="{text(points)}"/>'
    body = _mesh(name).replace("PAINT", painted(rng, name))
    width = float(np.abs(points[:, :2]).max())
    return Thing(name, "stone", body, asset, width, float(points[:, 2].max()), (points[:, 2].max() / 2, width * 1.6))


def _stick(rng: Rng, name: str, size: float) -> Thing:
    """Spoons, knives, carrots, hammers, bananas: long, lying, with another end."""
    length, thick = size * rng.uniform(1.2, 2.2), size * rng.uniform(0.1, 0.28)
    half = length / 2
    paint = painted(rng, name)
    bend = rng.uniform(-0.5, 0.5) if rng.random() < 0.4 else 0.0
    body = ""
    for part in range(4):
        x = half * (part / 2 - 0.75)
        y = bend * (x / half) ** 2 * half
        shape = (thick * (1 - 0.1 * part), length / 8)
        body += geom("capsule", shape, (x, y, thick), paint, f"0 1.5708 {bend * x / half:.3g}")
    y_end = bend * half
    end = rng.choice(["none", "spoon", "head", "leaves"])
    if end == "spoon":
        body += geom("ellipsoid", (size * 0.3, size * 0.2, thick * 0.7), (half * 1.1, y_end, thick), paint)
    elif end == "head":
        body += geom("box", (thick * 1.2, size * 0.35, thick * 1.2), (half, y_end, thick * 1.2), plain(rng))
    elif end == "leaves":
        body += geom("ellipsoid", (size * 0.25, thick, thick), (half * 1.1, y_end, thick), plain(rng))
    return Thing(name, "stick", body, "", half * 1.1, 2 * thick, (thick, 2 * thick))


def _pot(rng: Rng, name: str, size: float) -> Thing:
    can = _can(rng, name, size)
    height = min(can.height, 0.8 * size)
    paint = plain(rng)
    body = geom("cylinder", (size / 2, height / 2), (0, 0, height / 2), painted(rng, name))
    body += geom("ellipsoid", (size * 0.48, size * 0.48, size * 0.12), (0, 0, height), paint)
    body += geom("capsule", (size * 0.06, size * 0.06), (0, 0, height + size * 0.15), plain(rng))
    for side in (-1, 1)[: int(rng.integers(1, 3))]:
        place = (side * size * 0.62, 0, height * 0.8)
        body += geom("capsule", (size * 0.05, size * 0.12), place, paint, "0 1.5708 0")
    return Thing(name, "pot", body, "", size * 0.7, height + size * 0.2, (height + size * 0.12, 0.12 * size))


def _toy(rng: Rng, name: str, size: float) -> Thing:
    """A random heap of two to five grown-together primitives."""
    body, height = "", 0.0
    for _ in range(int(rng.integers(2, 6))):
        half = size / 2 * rng.uniform(0.25, 0.7, 3)
        x, y = rng.uniform(-0.25, 0.25, 2) * size
        z = half[2] if not height else min(height, rng.uniform(0, height) + half[2])
        kind = str(rng.choice(["box", "ellipsoid", "cylinder", "capsule"]))
        shape = half if kind in ("box", "ellipsoid") else half[:2] / (1 if kind == "cylinder" else 1.5)
        body += geom(kind, shape, (x, y, z), painted(rng, name), f"0 0 {rng.uniform(0, 3):.3g}")
        height = max(height, z + half[2])
    return Thing(name, "toy", body, "", size * 0.55, height, (height * 0.6, size * 0.6))


def _sheet(rng: Rng, name: str, size: float) -> Thing:
    """A cloth: flat, with folds. It is carried stiff."""
    count, side = 9, size * rng.uniform(1.0, 2.0)
    y, x = np.mgrid[0:count, 0:count] / (count - 1) - 0.5
    waves = 0.5 + 0.5 * np.sin(x * rng.uniform(2, 9) + rng.uniform(0, 6)) * np.cos(y * rng.uniform(2, 9))
    edge = 1 + 0.15 * np.sin(5 * np.arctan2(y, x) + rng.uniform(0, 6))
    z = size * rng.uniform(0.05, 0.25) * waves
    top = np.stack([x * side * edge, y * side * edge * rng.uniform(0.6, 1), z + 0.004], -1).reshape(-1, 3)
    bottom = top * (1, 1, 0)
    index = np.arange(count * count).reshape(count, count)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = np.concatenate([np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    ring = np.concatenate([index[0, :-1], index[:-1, -1], index[-1, :0:-1], index[:0:-1, 0]])
    following, under = np.roll(ring, -1), ring + count * count
    walls = np.concatenate(
        [np.stack([ring, under, following], -1), np.stack([following, under, np.roll(under, -1)], -1)]
    )
    every = np.concatenate([faces, faces[:, ::-1] + count * count, walls])
    asset = _mesh_asset(name, np.concatenate([top, bottom]), every)
    return Thing(
        name, "cloth", _mesh(name).replace("PAINT", painted(rng, name)), asset, side * 0.6, float(z.max()), (0.01, 0.01)
    )


def _granules(rng: Rng, name: str, size: float) -> Thing:
    """Beads or beans in a heap, pushed together."""
    body, paint = "", plain(rng)
    radius = size * rng.uniform(0.06, 0.12)
    for _ in range(int(rng.integers(12, 30))):
        x, y = rng.normal(0, 0.25, 2) * size
        body += geom("ellipsoid", radius * rng.uniform(0.6, 1, 3), (x, y, radius * rng.uniform(0.6, 1.6)), paint)
    return Thing(name, "beans", body, "", size * 0.6, 2 * radius, (radius, size * 0.4))


def _board(rng: Rng, name: str, size: float) -> Thing:
    """Books, lids, trays, boxes of cards: large and flat."""
    half = np.array([size * rng.uniform(0.6, 1.0), size * rng.uniform(0.4, 0.8), rng.uniform(0.003, 0.02)])
    paint = painted(rng, name)
    body, height = geom("box", half, (0, 0, half[2]), paint), 2 * half[2]
    if rng.random() < 0.4:  # a knob or a handle on top
        bar = plain(rng)
        body += geom("capsule", (0.006, rng.uniform(0.005, 0.02)), (0, 0, height + 0.014), bar, "0 1.5708 0")
        body += geom("cylinder", (0.005, 0.008), (0, 0, height + 0.006), bar)
        return Thing(name, "board", body, "", float(np.hypot(*half[:2])), height + 0.02, (height + 0.012, 0.012))
    return Thing(name, "board", body, "", float(np.hypot(*half[:2])), height, (half[2], 0.03))


def _plate(rng: Rng, name: str, size: float) -> Thing:
    """Round and flat; with a knob it is a lid."""
    radius, half = size * rng.uniform(0.5, 0.9), rng.uniform(0.003, 0.012)
    body, height = geom("cylinder", (radius, half), (0, 0, half), painted(rng, name)), 2 * half
    if rng.random() < 0.5:
        body += geom("cylinder", (radius * rng.uniform(0.5, 0.9), half * 0.3), (0, 0, height), painted(rng, name))
    if rng.random() < 0.4:
        knob = radius * rng.uniform(0.12, 0.25)
        body += geom("sphere", (knob,), (0, 0, height + knob * 0.7), plain(rng))
        return Thing(name, "plate", body, "", radius, height + 1.7 * knob, (height + 0.7 * knob, 2 * knob))
    return Thing(name, "plate", body, "", radius, height, (half, 0.03))


def _ring(rng: Rng, name: str, size: float) -> Thing:
    """Tape, nuts, wheels, magnifying glasses: a ring that lies, some with a handle or spokes."""
    count, radius = int(rng.choice([4, 6, 16])), size * rng.uniform(0.35, 0.5)
    thick, paint = radius * rng.uniform(0.12, 0.4), painted(rng, name)
    angle = np.arange(count) / count * 2 * np.pi
    side, round_ = radius * np.sin(np.pi / count), rng.random() < 0.5
    body = ""
    for each in angle:
        place = (radius * np.cos(each), radius * np.sin(each), thick)
        if round_:
            body += geom("capsule", (thick, side), place, paint, f"1.5708 0 {each:.4g}")
        else:
            body += geom("box", (thick * 0.7, side + thick * 0.5, thick), place, paint, f"0 0 {each:.4g}")
    reach = radius + thick
    if rng.random() < 0.4:
        long = size * rng.uniform(0.4, 1.0)
        bar = paint if rng.random() < 0.6 else plain(rng)
        body += geom("box", (long / 2, thick * 0.8, thick * 0.8), (reach + long / 2 - thick, 0, thick), bar)
        reach += long
    return Thing(name, "ring", body, "", reach, 2 * thick, (thick, 2 * reach if reach < 0.04 else 0.02))


def _basket(rng: Rng, name: str, size: float) -> Thing:
    """A box without a top: bins, baskets, drawers that stand about."""
    x, y = size * rng.uniform(0.4, 0.6), size * rng.uniform(0.35, 0.6)
    height, thin, paint = size * rng.uniform(0.15, 0.8), size * rng.uniform(0.015, 0.05), painted(rng, name)
    body = geom("box", (x, y, thin), (0, 0, thin), paint) + four_walls((x, y), thin, height, height / 2, paint)
    return Thing(name, "box", body, "", float(np.hypot(x, y)), height, (height * 0.8, 0.02))


def _chain(rng: Rng, name: str, size: float) -> Thing:
    """Letters, brackets, pliers, figures: bars end to end, each turned against the one before."""
    count, paint = int(rng.integers(2, 5)), painted(rng, name)
    long, thick = size * rng.uniform(0.7, 1.2) / count**0.5, size * rng.uniform(0.06, 0.16)
    at, heading, ends, bars = np.zeros(2), 0.0, [np.zeros(2)], []
    for _ in range(count):
        step = long * rng.uniform(0.5, 1.0) * np.array([np.cos(heading), np.sin(heading)])
        bars.append((at + step / 2, float(np.linalg.norm(step)) / 2, heading))
        at = at + step
        ends.append(at)
        heading += rng.choice([-1, 1]) * rng.uniform(0.4, 2.0)
    middle = np.mean(ends, axis=0)
    body = "".join(
        geom("box", (half + thick * 0.5, thick, thick), (*(centre - middle), thick), paint, f"0 0 {turned:.4g}")
        for centre, half, turned in bars
    )
    if rng.random() < 0.3:
        body += geom("cylinder", (thick * 1.3, thick * 1.2), (*(ends[1] - middle), thick), plain(rng))
    reach = float(np.linalg.norm(np.array(ends) - middle, axis=1).max()) + thick
    return Thing(name, "tool", body, "", reach, 2 * thick, (thick, 2 * thick))


KINDS: dict[str, Callable[[Rng, str, float], Thing]] = {
    "block": _block,
    "ball": _ball,
    "can": _can,
    "mug": _mug,
    "bowl": _bowl,
    "vase": _vase,
    "rock": _rock,
    "stick": _stick,
    "pot": _pot,
    "toy": _toy,
    "sheet": _sheet,
    "granules": _granules,
    "board": _board,
    "plate": _plate,
    "ring": _ring,
    "basket": _basket,
    "chain": _chain,
}
"""Name -> maker."""


def _mesh(name: str) -> str:
    return f'<geom type="mesh" mesh="{name}_mesh" PAINT contype="0" conaffinity="0"/>'


def _mesh_asset(name: str, points: np.ndarray, faces: np.ndarray) -> str:
    return (
        f'<mesh name="{name}_mesh" inertia="shell" vertex="{text(points)}" face="{" ".join(map(str, faces.ravel()))}"/>'
    )


def _turned(name: str, profile: Sequence[tuple[float, float]], sides: int = 20) -> tuple[str, str]:
    """A surface of revolution from (radius, height) pairs, closed at both ends: its geom (PAINT free) and its mesh."""
    angle = np.arange(sides) / sides * 2 * np.pi
    rings = [np.stack([r * np.cos(angle), r * np.sin(angle), np.full(sides, z)], -1) for r, z in profile]
    points = np.concatenate([*rings, [[0, 0, profile[0][1]], [0, 0, profile[-1][1]]]])
    now = np.arange(sides)
    after = (now + 1) % sides
    faces = []
    for ring in range(len(profile) - 1):
        low, high = ring * sides, (ring + 1) * sides
        faces += [
            np.stack([low + now, low + after, high + after], -1),
            np.stack([low + now, high + after, high + now], -1),
        ]
    last = (len(profile) - 1) * sides
    faces += [np.stack([after, now, np.full(sides, len(points) - 2)], -1)]
    faces += [np.stack([last + now, last + after, np.full(sides, len(points) - 1)], -1)]
    return _mesh(name), _mesh_asset(name, points, np.concatenate(faces))
