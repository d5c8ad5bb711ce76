"""Generated episodes of a robot before a camera, with exact truth: random cameras, hand paths, objects and tracks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation, Slerp

from extractors.handeye.problem import Floats, Rig, TrackedClip

HAND, ARM, STATIC, STRAY, OBJECT = range(5)
"""Values of `Scene.kind`."""


@dataclass(frozen=True)
class Recipe:
    """What a scene is drawn from; pairs are least and most.

    Lengths in metres, angles in degrees, times in seconds, pixels at a frame 256 wide.
    """

    size: tuple[int, int] = (256, 256)
    pixel_aspect: float = 1.0
    fps: tuple[float, float] = (3.0, 15.0)
    seconds: tuple[float, float] = (4.0, 12.0)
    field_of_view: tuple[float, float] = (30.0, 75.0)
    distance: tuple[float, float] = (0.6, 1.3)
    elevation: tuple[float, float] = (10.0, 60.0)
    travel: tuple[float, float] = (0.15, 0.4)
    turn: tuple[float, float] = (8.0, 50.0)
    n_hand: tuple[int, int] = (10, 24)
    n_arm: tuple[int, int] = (0, 12)
    n_static: int = 150
    n_stray: tuple[int, int] = (0, 10)
    n_object: tuple[int, int] = (15, 40)
    noise_px: float = 1.5
    drift_px: float = 0.0
    missing: float = 0.4
    delay: tuple[float, float] = (0.0, 0.0)
    rig: Rig = "fixed"


@dataclass(frozen=True, eq=False)
class Scene:
    """One generated episode.

    Attributes:
        clip: what a pipeline would have: tracks with noise and gaps, the recorded hand.
        kind: (N,) what each track is on.
        focal_px: true focal length along x.
        carrier_from_camera: (4, 4) true camera in the base (fixed) or the hand (wrist).
        delay_s: the image at t shows the recorded pose of t + delay_s.
        points: (N, 3) metres: in the hand's frame for `HAND`, in the object's for `OBJECT`, in the base for `STATIC`.
        held: (T,) bool, the object rides on the hand.
        object_pose: (T, 4, 4) object to base; the object's frame is the hand's at the grasp, so that its points are
            those of the hand's frame while it is held.
        exact_xy: (T, N, 2) pixels without noise.
    """

    clip: TrackedClip
    kind: NDArray[np.intp]
    focal_px: float
    carrier_from_camera: Floats
    delay_s: float
    points: Floats
    held: NDArray[np.bool_]
    object_pose: Floats
    exact_xy: Floats = field(repr=False)


@dataclass(frozen=True)
class Lens:
    """A camera to generate with: focal length in widths, and its pose in the carrier's frame."""

    focal: float
    pose: Floats


def random_scene(seed: int, recipe: Recipe | None = None, *, lens: Lens | None = None) -> Scene:
    """The episode of a seed; `lens` gives several episodes one camera."""
    recipe = recipe or Recipe()
    rng = np.random.default_rng(seed)
    fps = rng.uniform(*recipe.fps)
    seconds = np.arange(round(rng.uniform(*recipe.seconds) * fps)) / fps
    delay = float(rng.uniform(*recipe.delay))
    base_from_hand = _hand_path(rng, recipe, float(seconds[-1]))
    shown = base_from_hand(seconds + delay)
    lens = lens or random_lens(rng, recipe)
    held = _held(rng, len(seconds))
    base_to_camera = (
        np.linalg.inv(lens.pose) if recipe.rig == "fixed" else np.linalg.inv(lens.pose) @ np.linalg.inv(shown)
    )
    middle = int(np.median(np.flatnonzero(held)))
    sight = np.broadcast_to(base_to_camera, shown.shape)[middle, 2, :3] @ shown[middle, :3, :3]
    kind, points, in_base = _tracks(rng, recipe, shown, held, sight)
    exact, depth = _projected(in_base, base_to_camera, lens.focal, recipe)
    clip = _observed(rng, recipe, exact, depth, base_from_hand(seconds), seconds)
    return Scene(
        clip=clip,
        kind=kind,
        focal_px=lens.focal * recipe.size[1],
        carrier_from_camera=lens.pose,
        delay_s=delay,
        points=points,
        held=held,
        object_pose=_object_pose(shown, held),
        exact_xy=exact,
    )


def random_lens(rng: np.random.Generator, recipe: Recipe) -> Lens:
    """A camera that looks at the workspace from somewhere around it, or along the hand from above it."""
    focal = 0.5 / np.tan(np.radians(rng.uniform(*recipe.field_of_view)) / 2)
    if recipe.rig == "wrist":
        place = np.array([rng.uniform(0.03, 0.1), rng.uniform(-0.04, 0.04), rng.uniform(-0.12, -0.03)])
        look = np.array([rng.normal(0, 0.15) - place[0], rng.normal(0, 0.15), 1.0])
        return Lens(focal, _looking(place, look, np.array([1.0, 0, 0]), rng))
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(*recipe.elevation))
    away = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    # Far enough that the path, and the hand about it, is in the frame.
    room = recipe.travel[1] * focal / 0.9
    place = MIDDLE + away * max(rng.uniform(*recipe.distance), room)
    return Lens(focal, _looking(place, MIDDLE + rng.normal(0, 0.05, 3) - place, np.array([0, 0, 1.0]), rng))


MIDDLE = np.array([0.45, 0.0, 0.2])
"""Middle of the workspace in the base frame, metres."""


def _looking(place: Floats, look: Floats, up: Floats, rng: np.random.Generator) -> Floats:
    forward = look / np.linalg.norm(look)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, :3] = pose[:3, :3] @ Rotation.from_rotvec([0, 0, rng.normal(0, 0.1)]).as_matrix()
    pose[:3, 3] = place
    return pose


class _Path:
    def __init__(self, knots: Floats, places: Floats, turns: Rotation) -> None:
        self.knots, self.places, self.slerp = knots, PchipInterpolator(knots, places), Slerp(knots, turns)

    def __call__(self, seconds: Floats) -> Floats:
        times = np.clip(seconds, self.knots[0], self.knots[-1])
        poses = np.repeat(np.eye(4)[None], len(times), axis=0)
        # Slerp between dense samples of a smooth clock: hands start and stop softly.
        poses[:, :3, 3] = self.places(times)
        poses[:, :3, :3] = self.slerp(self._soft(times)).as_matrix()
        return poses

    def _soft(self, times: Floats) -> Floats:
        part = np.clip(np.searchsorted(self.knots, times, side="right") - 1, 0, len(self.knots) - 2)
        first, past = self.knots[part], self.knots[part + 1]
        share = (times - first) / (past - first)
        return first + (past - first) * share * share * (3 - 2 * share)


def _hand_path(rng: np.random.Generator, recipe: Recipe, seconds: float) -> _Path:
    """Through four to seven waypoints within the travel, the hand pointing down and turning on the way."""
    n = int(rng.integers(4, 8))
    travel = rng.uniform(*recipe.travel)
    places = MIDDLE + rng.uniform(-0.5, 0.5, (n, 3)) * travel * rng.uniform(0.4, 1.0, 3)
    turn = np.radians(rng.uniform(*recipe.turn))
    axes = rng.normal(0, 1, (n, 3)) * (0.5, 0.5, 1.0)
    axes *= (turn / 2) * rng.uniform(0.3, 1.0, (n, 1)) / np.linalg.norm(axes, axis=1, keepdims=True)
    down = Rotation.from_euler("xyz", [np.pi, 0, rng.uniform(-np.pi, np.pi)])
    margin = 1.0  # seconds before and after the clip, for delays
    knots = np.linspace(-margin, seconds + margin, n)
    return _Path(knots, places, Rotation.from_rotvec(axes) * down)


def _held(rng: np.random.Generator, n_frames: int) -> NDArray[np.bool_]:
    first, past = rng.uniform(0.15, 0.4), rng.uniform(0.65, 0.95)
    share = np.arange(n_frames) / max(n_frames - 1, 1)
    return np.asarray((share >= first) & (share <= past))


def _object_pose(shown: Floats, held: NDArray[np.bool_]) -> Floats:
    frames = np.flatnonzero(held)
    return shown[np.clip(np.arange(len(shown)), frames[0], frames[-1])]


def _tracks(
    rng: np.random.Generator, recipe: Recipe, shown: Floats, held: NDArray[np.bool_], sight: Floats
) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Kinds (N,), points (N, 3) in their own frames, and places (T, N, 3) in the base frame.

    `sight` (3,) is the line of sight in the hand's frame: what is seen of an object is the half that faces the camera.
    """
    count = {
        HAND: int(rng.integers(*recipe.n_hand, endpoint=True)),
        ARM: int(rng.integers(*recipe.n_arm, endpoint=True)),
        STATIC: recipe.n_static,
        STRAY: int(rng.integers(*recipe.n_stray, endpoint=True)),
        OBJECT: int(rng.integers(*recipe.n_object, endpoint=True)),
    }
    kind = np.repeat(list(count), list(count.values()))
    hand = rng.normal(0, 0.06, 3) + rng.normal(0, 0.04, (count[HAND], 3))
    still = np.array([MIDDLE[0], 0, 0]) + rng.uniform(-0.5, 0.5, (count[STATIC], 3)) * (1.2, 1.2, 0.15)
    outward = rng.uniform(-1, 1, (count[OBJECT], 3))
    axes = rng.uniform(0.02, 0.06, 3)
    outward /= np.linalg.norm(outward, axis=1)[:, None]
    outward *= -np.sign(outward / axes @ sight)[:, None]
    thing = np.array([0, 0, 0.06]) + outward * axes
    # A link between a fixed shoulder and the wrist carries its points part of the way.
    shoulder, share = np.array([0.0, 0.0, 0.5]), rng.uniform(0.3, 0.85, (count[ARM], 1))
    wrist = shown[:, None, :3, 3]
    arm = shoulder + share * (wrist - shoulder) + rng.normal(0, 0.03, (count[ARM], 3))
    walk = np.cumsum(rng.normal(0, 1, (len(shown), count[STRAY], 3)), axis=0)
    walk *= 0.1 / np.maximum(walk.std(axis=0), 1e-6)
    stray = MIDDLE + rng.normal(0, 0.1, (count[STRAY], 3)) + walk
    at_object = _object_pose(shown, held)
    in_base = [
        _moved(shown, hand),
        arm,
        np.repeat(still[None], len(shown), axis=0),
        stray,
        _moved(at_object, thing),
    ]
    points = np.concatenate([hand, arm[0], still, stray[0], thing])
    return kind, points, np.concatenate(in_base, axis=1)


def _moved(poses: Floats, points: Floats) -> Floats:
    return np.einsum("tij,nj->tni", poses[:, :3, :3], points) + poses[:, None, :3, 3]


def _projected(in_base: Floats, base_to_camera: Floats, focal: float, recipe: Recipe) -> tuple[Floats, Floats]:
    poses = np.broadcast_to(base_to_camera, (len(in_base), 4, 4))
    in_camera = np.einsum("tij,tnj->tni", poses[:, :3, :3], in_base) + poses[:, None, :3, 3]
    height, width = recipe.size
    depth = in_camera[..., 2]
    scale = focal * width * np.array([1.0, recipe.pixel_aspect])
    xy = in_camera[..., :2] / np.maximum(depth, 0.02)[..., None] * scale + ((width - 1) / 2, (height - 1) / 2)
    return xy, depth


def _observed(
    rng: np.random.Generator, recipe: Recipe, exact: Floats, depth: Floats, hand: Floats, seconds: Floats
) -> TrackedClip:
    height, width = recipe.size
    noise = rng.normal(0, recipe.noise_px, exact.shape)
    if recipe.drift_px > 0:
        walk = np.cumsum(rng.normal(0, 1, exact.shape), axis=0) / np.sqrt(len(exact))
        noise += recipe.drift_px * (walk - walk[:1])
    xy = exact + noise * width / 256
    inside = (np.abs(exact - ((width - 1) / 2, (height - 1) / 2)) < (width / 2, height / 2)).all(axis=2)
    visible = inside & (depth > 0.05) & ~_gaps(rng, exact.shape[:2], recipe.missing)
    return TrackedClip(xy.astype(np.float32), visible, hand, seconds, recipe.size, recipe.pixel_aspect)


def _gaps(rng: np.random.Generator, shape: tuple[int, int], share: float) -> NDArray[np.bool_]:
    """Runs of lost frames: half of what is missing in one run a track, half here and there."""
    n_frames, n_tracks = shape
    lost = rng.random(shape) < share / 2
    length = np.rint(rng.uniform(0, share, n_tracks) * n_frames).astype(int)
    first = (rng.random(n_tracks) * (n_frames - length)).astype(int)
    frames = np.arange(n_frames)[:, None]
    run: NDArray[np.bool_] = (frames >= first) & (frames < first + length)
    return lost | run
