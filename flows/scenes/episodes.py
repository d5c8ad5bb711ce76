"""Generated episodes: one npz file each, in the form that the accuracy benchmarks read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError
from extractors.types import Size
from flows.scenes.camera_effects import spoil
from flows.scenes.camera_paths import PATHS
from flows.scenes.drawing import Drawn, Painter, shade
from flows.scenes.skills import SKILLS
from flows.scenes.truth import tracks_and_centroids
from flows.scenes.world import World, random_world
from packers.atomic import written_whole

SEEN_SHARE = 0.0018
"""A world is drawn again with the next draw where its thing covers less of the picture in the middle frame: a disc
5 px across in 128 px."""

MOST_ARM = 0.55
"""Or where the arm covers more in the first and the middle frame."""

TRIES = 12

SHADED = 0.4
"""Share of the episodes with shaded corners, as light from all sides leaves them."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A generated episode: its world, and the frames as drawn and as a camera hands them on."""

    world: World
    drawn: Drawn
    pixels: NDArray[np.uint8]
    seed: tuple[int, ...]

    @property
    def target(self) -> int:
        """Body of the thing."""
        return self.world.bodies.index("object")

    @property
    def classes(self) -> NDArray[np.uint8]:
        """(T, H, W): 0 scene, 1 robot, 2 the thing that is manipulated, 3 another thing; nothing is 2 in `idle`."""
        body, target = self.drawn.body, self.target
        out = np.where(body < 0, 0, np.where(body < target, 1, 3)).astype(np.uint8)
        if self.world.skill != "idle":
            out[body == target] = 2
        return out


def record(
    painter: Painter,
    seed: tuple[int, ...],
    size: Size,
    *,
    skill: str | None = None,
    fps: float | None = None,
    frames: int = 16,
    view: int | None = None,
    moves: str = "still",
) -> Recording:
    """The episode that `seed` makes, before its own camera or the one that `view` makes, which moves as `moves` says.

    `skill`, `fps` and `frames` are those of `random_world`, `moves` is one of `camera_paths.PATHS`.

    Raises:
        ConfigError: an unknown skill or way to move, or a size that H.264 cannot hold.
    """
    if skill is not None and skill not in SKILLS:
        raise ConfigError(f"skills are {', '.join(SKILLS)}, got {skill!r}")
    if moves not in PATHS:
        raise ConfigError(f"cameras are {', '.join(PATHS)}, got {moves!r}")
    if min(size) < 32 or size[0] % 2 or size[1] % 2 or max(size) > 1024:
        raise ConfigError(f"scenes are drawn at even sizes of 32 to 1024 pixels, got {size[0]} x {size[1]}")
    for draw in range(TRIES):
        rng = np.random.default_rng((*seed, draw))
        camera = None if view is None else np.random.default_rng((view, *b"camera"))
        world = random_world(rng, skill=skill, fps=fps, frames=frames, view=camera, moves=moves)
        middle = max(len(world.times) // 2, 1)
        body = painter.draw(world, (64, 64), every=middle).body[:2]
        target = world.bodies.index("object")
        arm = ((body >= 0) & (body < target)).mean()
        if (body[-1] == target).mean() >= SEEN_SHARE and (body == target).any() and arm < MOST_ARM:
            break
    drawn = painter.draw(world, size)
    rgb = shade(rng, drawn.rgb, drawn.depth) if rng.random() < SHADED else drawn.rgb
    return Recording(world, drawn, spoil(rng, rgb), (*seed, draw))


def write_scenes(
    out: Path,
    count: int,
    seed: int,
    *,
    kind: str | None = None,
    size: Size = (256, 256),
    frames: int = 60,
    one_camera: bool = False,
    moves: str = "still",
) -> Iterator[Path]:
    """Writes `count` episodes into `out`, at 5 to 30 frames a second, and yields each file's path.

    Before `one_camera` robots, tables and things change from episode to episode, but not the camera, which moves as
    `moves` (`flows.scenes.camera_paths.PATHS`) says.

    Raises:
        ConfigError: MuJoCo is missing, or see `record`.
    """
    painter, view = Painter(), seed if one_camera else None
    try:
        for index in range(count):
            fps = float(np.random.default_rng((seed, index)).choice([5, 5, 6, 8, 10, 15, 30]))
            recording = record(painter, (seed, index), size, skill=kind, fps=fps, frames=frames, view=view, moves=moves)
            path = out / f"scene{index:05d}_{recording.world.skill.replace('-', '_')}.npz"
            out.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as partial, partial.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays(recording))
            yield path
    finally:
        painter.close()


def arrays(recording: Recording) -> dict[str, NDArray[Any]]:
    """Name -> array of one episode; README of the scenes in docs/nano.md says what each is."""
    world, drawn, target = recording.world, recording.drawn, recording.target
    classes, n_frames = recording.classes, len(world.times)
    at, handled = world.poses[:, target], world.skill != "idle"
    step = np.diff(world.hand[:, :3, 3], axis=0, append=world.hand[-1:, :3, 3])
    opening = (world.opening / max(float(world.most_open), 1e-6)).astype(np.float32)
    action = np.zeros((n_frames, 7), np.float32)
    action[:, :3], action[:, 6] = step, opening > 0.5
    names = ["scene", "robot", *world.bodies[target:]]
    meta = {
        "simulator": "cuepack scenes",
        "task": world.skill,
        "seed": list(recording.seed),
        "camera": "generated",
        "moving_camera": bool(np.ptp(world.cameras, axis=0).any()),
        "sim_dt": float(world.times[1] - world.times[0]),
        "stride": 1,
        "object_text": world.noun,
        "things": names,
    }
    return {
        "rgb": recording.pixels,
        "depth": (np.round(drawn.depth * 16384) / 16384).astype(np.float32),
        "object_mask": (classes == 2).astype(np.uint8),
        "robot_mask": (classes == 1).astype(np.uint8),
        # Index into meta["things"].
        "things": np.where(drawn.body < 0, 0, np.maximum(drawn.body - target + 2, 1)).astype(np.uint8),
        "K": drawn.K,
        "T_world_cam": world.cameras,
        "object_pose": at,
        "ee_pose": world.hand,
        "gripper_width": world.opening.astype(np.float32),
        "gripper_opening": opening,
        "action": action,
        "contact": world.contact & handled,
        **tracks_and_centroids(world, drawn, target, target),
        "language_instruction": np.str_(f"{world.skill.replace('-', ' and ')} the {world.noun}" if handled else ""),
        "meta": np.str_(json.dumps(meta)),
    }
