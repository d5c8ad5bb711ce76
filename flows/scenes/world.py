"""One random world: a table in a room, things, a robot and its task, lights, a camera; as MJCF and as poses over time.

The table's top is z = 0, the robot works around the origin. Lengths are metres. Coverage matters more than realism:
cameras from 12 to 75 degrees above the table, 40 to 75 degrees wide, tables plain and patterned, arms thin and thick.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from flows.scenes.arms import Robot, random_robot
from flows.scenes.camera_paths import camera_poses
from flows.scenes.parts import Part, housing, moving_part
from flows.scenes.poses import Floats, look_at, pose, turn
from flows.scenes.rooms import SURFACES, surroundings
from flows.scenes.skills import MIXTURE, SKILLS, Task, play
from flows.scenes.textures import Picture, Rng, random_picture, tiled
from flows.scenes.things import KINDS, PICTURES, Thing, random_thing, text

GRASPABLE = ("block", "ball", "can", "mug", "vase", "rock", "stick", "pot", "toy", "bowl", "board", "plate", "ring",
             "basket", "chain")  # fmt: skip
DRAGGED = (*GRASPABLE, "sheet", "granules")


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """What is drawn.

    Attributes:
        xml: MJCF; every body but the scene is a mocap body.
        pictures: PNG files by name.
        bodies: names in the order of `poses`: the robot's, `object`, then the other things.
        poses: (T, B, 4, 4) body to world.
        hand: (T, 4, 4); opening: (T,) metres; contact: (T,) bool.
        times: (T,) s.
        cameras: (T, 4, 4) camera to world, OpenCV axes.
        fovy: vertical field of view, degrees.
        skill, noun, most_open: what happens, to what, and the widest opening in metres.
    """

    xml: str
    pictures: dict[str, bytes]
    bodies: list[str]
    poses: Floats
    hand: Floats
    opening: Floats
    contact: np.ndarray
    times: Floats
    cameras: Floats
    fovy: float
    skill: str
    noun: str
    most_open: float


def random_world(
    rng: Rng,
    *,
    skill: str | None = None,
    fps: float | None = None,
    frames: int = 16,
    view: Rng | None = None,
    moves: str = "still",
) -> World:
    """A world in which `skill` happens (None: one of `MIXTURE`), at `fps` frames a second.

    Args:
        rng: everything is drawn from it.
        skill: of `SKILLS`.
        fps: frames a second, fewer where the whole task would not fit into `frames` of them: in an episode that ends
            before the robot is there, nothing tells the thing from others. None: `frames` frames over the episode.
        frames: see `fps`.
        view: the camera is drawn from it; None: from `rng` too.
        moves: how the camera moves, of `PATHS`.
    """
    skill = skill or str(rng.choice(list(MIXTURE), p=list(MIXTURE.values())))
    drawn = _camera(rng)  # also where another is taken: all else stays as the seed has it
    azimuth, camera, fovy = drawn if view is None else _camera(view)
    thing, at, part = _target(rng, skill)
    others, places = _others(rng, at[:3, 3], thing.radius, azimuth)
    robot = _robot(rng, skill)
    goal, support = _goal(rng, skill, at[:3, 3], others, places)
    yaw, tilt = rng.uniform(-1.5, 1.5), _tilt(rng)
    task = Task(thing, at, goal, robot.most_open, rng.uniform(0.05, 0.2), yaw, tilt, part)
    fixed = housing(rng, thing, at) if part is not None else ""
    task.begin(rng)
    SKILLS[skill](rng, task)
    times = _times(rng, sum(each.seconds for each in task.path), fps, frames)
    hands, openings, moved, contact = play(task.path, task.at, times)
    names = ["base", "upper", "fore", "hand", *(f"finger{i}" for i in range(robot.fingers))]
    poses = np.array(
        [
            [*robot.poses(hand, opening).values(), now, *places]
            for hand, opening, now in zip(hands, openings, moved, strict=True)
        ]
    )
    bodies = {**robot.bodies, "object": thing.geoms, **{other.name: other.geoms for other in others}}
    assets = "".join(each.assets for each in (thing, *others))
    around = surroundings(rng, azimuth) + fixed
    return World(
        xml=_mjcf(rng, bodies, assets, around, fovy),
        pictures=_pictures(rng),
        bodies=[*names, "object", *(other.name for other in others)],
        poses=poses,
        hand=np.array(hands),
        opening=np.array(openings),
        contact=np.array(contact, bool),
        times=times,
        cameras=camera_poses(rng.spawn(1)[0], camera, times, moves),
        fovy=fovy,
        skill=skill,
        noun=f"{thing.noun} {support}".strip(),
        most_open=robot.most_open,
    )


def _times(rng: Rng, seconds: float, fps: float | None, frames: int) -> Floats:
    if fps is not None:
        fps = min(fps, frames / seconds)
        return np.arange(max(int(seconds * fps), 2)) / fps
    times = np.linspace(0, seconds, frames)
    return np.asarray(np.sort(np.clip(times + rng.normal(0, 0.15 * times[1], frames), 0, seconds)))


def _tilt(rng: Rng) -> float:
    return float(rng.normal(0, 0.3)) if rng.random() < 0.6 else 0.0


def _camera(rng: Rng) -> tuple[float, Floats, float]:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(12, 75))
    wide = np.radians(rng.uniform(40, 75))
    # Between 0.3 and 0.9 m of the table are seen across the picture.
    distance = rng.uniform(0.3, 0.9) / 2 / np.tan(wide / 2) + 0.1
    direction = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    target = np.array([*rng.normal(0, 0.06, 2), rng.uniform(0.0, 0.12)])
    return azimuth, look_at(target + direction * distance, target, rng.normal(0, 0.06)), float(np.degrees(wide))


def _target(rng: Rng, skill: str) -> tuple[Thing, Floats, Part | None]:
    at = pose(turn(2, rng.uniform(0, 2 * np.pi)), (*rng.uniform(-0.17, 0.17, 2), 0.0))
    if skill == "open":
        thing, part, at[2, 3] = moving_part(rng)
        return thing, at, part
    size = float(np.exp(rng.uniform(np.log(0.03), np.log(0.13))))
    kinds = DRAGGED if skill in ("push", "pull") else GRASPABLE
    return random_thing(rng, "object", size, kinds), at, None


def _others(rng: Rng, taken: Floats, radius: float, azimuth: float) -> tuple[list[Thing], list[Floats]]:
    """Distractors and receptacles that do not stand on each other, nor far towards the camera."""
    count = int(rng.choice([0, 2, 5, 9, 14], p=[0.12, 0.3, 0.3, 0.18, 0.1]))
    circles = [(taken[:2], radius)]
    things: list[Thing] = []
    places: list[Floats] = []
    for number in range(3 * count):
        if len(things) == count:
            break
        big = rng.random() < 0.2
        size = rng.uniform(0.1, 0.2) if big else float(np.exp(rng.uniform(np.log(0.025), np.log(0.11))))
        thing = random_thing(
            rng,
            f"thing{number}",
            size,
            ("bowl", "pot", "block", "sheet", "board", "plate", "basket") if big else tuple(KINDS),
        )
        xy = rng.normal(0, 0.22, 2)
        clear = all(np.linalg.norm(xy - centre) > radius + thing.radius + 0.01 for centre, radius in circles)
        towards_camera = xy @ (np.cos(azimuth), np.sin(azimuth))
        if clear and (towards_camera < 0.1 or thing.height < 0.08):
            circles.append((xy, thing.radius))
            things.append(thing)
            places.append(pose(turn(2, rng.uniform(0, 6.28)), (*xy, 0.0)))
    return things, places


def _goal(rng: Rng, skill: str, start: Floats, others: list[Thing], places: list[Floats]) -> tuple[Floats, str]:
    """Where the thing goes: the table, or, for what is carried, in or on another thing now and then."""
    flat = [
        index
        for index, each in enumerate(others)
        if each.noun in ("bowl", "block", "cloth", "board", "plate", "box") and each.radius > 0.04
    ]
    if skill == "pick-place" and flat and rng.random() < 0.6:
        chosen = int(rng.choice(flat))
        height = others[chosen].height * (0.1 if others[chosen].noun in ("bowl", "box") else 1.0)
        return places[chosen][:3, 3] + (0, 0, height), f"to the {others[chosen].noun}"
    while True:
        goal = np.array([*rng.uniform(-0.22, 0.22, 2), 0.0])
        if np.linalg.norm(goal - start) > 0.06:
            return goal, ""


def _robot(rng: Rng, skill: str) -> Robot:
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.75)
    hanging = rng.random() < 0.12
    height = rng.uniform(0.7, 1.1) if hanging else rng.uniform(0.08, 0.5)
    shoulder = np.array([distance * np.cos(angle), distance * np.sin(angle), height])
    # The farthest wrist is a quarter metre beyond the middle, and half a metre up.
    return random_robot(rng, float(np.hypot(distance + 0.3, height + 0.1)), shoulder, hanging=bool(hanging))


def _pictures(rng: Rng) -> dict[str, bytes]:
    busy = rng.choice([0.3, 0.8, 1.0])
    pictures: dict[str, Picture] = {f"picture{i}": random_picture(rng, busy=0.6) for i in range(PICTURES)}
    # In half of the rooms tables and walls are duller than things, as they mostly are.
    dull = rng.uniform(0.3, 0.95) if rng.random() < 0.5 else 0.0
    for i in range(SURFACES):
        surface = tiled(random_picture(rng, busy=float(busy)), int(rng.integers(1, 5)))
        grey = surface.mean(axis=2, keepdims=True)
        pictures[f"surface{i}"] = np.asarray(surface + dull * (grey - surface), np.uint8)
    return {f"{name}.png": cv2.imencode(".png", each[..., ::-1])[1].tobytes() for name, each in pictures.items()}


def _mjcf(rng: Rng, bodies: dict[str, str], assets: str, around: str, fovy: float) -> str:
    materials = ""
    for name in [*(f"picture{i}" for i in range(PICTURES)), *(f"surface{i}" for i in range(SURFACES))]:
        kind = "2d" if name == "surface1" else "cube"
        materials += f'<texture name="{name}" type="{kind}" file="{name}.png"/>'
        repeat = 'texrepeat="6 6"' if kind == "2d" else ""
        materials += f'<material name="{name}" texture="{name}" {_gloss(rng)} {repeat}/>'
    materials += "".join(f'<material name="plain{i}" {_gloss(rng)}/>' for i in range(4))
    moving = "".join(f'<body name="{name}" mocap="true">{geoms}</body>' for name, geoms in bodies.items())
    ambient = rng.uniform(0.1, 0.65)
    return f"""<mujoco><compiler angle="radian" balanceinertia="true" boundmass="1e-6" boundinertia="1e-9"/>
<visual><quality offsamples="4" numslices="16" numstacks="8" numquads="1"/><map znear="0.03" zfar="8"/>
<headlight ambient="{text([ambient] * 3)}" diffuse="{text([rng.uniform(0, 0.3)] * 3)}" specular="0 0 0"/></visual>
<statistic extent="1" center="0 0 0"/><asset>{materials}{assets}</asset>
<worldbody>{_lights(rng)}<camera name="camera" fovy="{fovy:.5g}" mode="fixed"/>{around}{moving}</worldbody>
</mujoco>"""


def _gloss(rng: Rng) -> str:
    shine = rng.choice([0.0, 0.0, 0.3, 0.9])
    return f'specular="{shine * rng.random():.3g}" shininess="{rng.random():.3g}"'


def _lights(rng: Rng) -> str:
    out = ""
    for number in range(int(rng.integers(1, 4))):
        angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 2.2)
        where = np.array([rng.uniform(0, 1.5) * np.cos(angle), rng.uniform(0, 1.5) * np.sin(angle), height])
        tint = np.clip(1 + rng.normal(0, 0.08, 3), 0.6, 1.2) * rng.uniform(0.3, 0.75)
        shadow = "true" if number == 0 and rng.random() < 0.8 else "false"
        kind = 'type="directional"' if rng.random() < 0.5 else 'cutoff="80" exponent="1"'
        out += (
            f'<light pos="{text(where)}" dir="{text(-where)}" diffuse="{text(tint)}" specular="{text(tint * 0.4)}" '
            f'ambient="0 0 0" castshadow="{shadow}" {kind}/>'
        )
    return out
