"""Are faults found, and named rightly? Good clips are broken in many ways, seeded, and judged again.

    python -m tests.benchmarks.faults ../shared/data/groundtruth_dev --packets DIR --real SOURCE --real SOURCE

`groundtruth_dev` gives clips whose every signal is exact; `--packets` an output directory of `cuepack extract` (any
backends), whose packets are also broken as files and put before `validate` and `verify`; `--real` sources of which
pictures, times and proprioception are judged. Prints, per fault, how often it was found (some fault in the modality)
and named rightly (by its own tag), and the false alarms on the clips as they are. Exit code 1 where fewer than 95 % are
named rightly, or more than 5 % of the cards of good clips complain.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.camera_motion import clip_camera_motion
from extractors.errors import EpisodeError
from extractors.geometry import dilate, resize_masks, resize_rgb
from extractors.timing import WINDOW_S, frames_in
from flows.config import load_config
from flows.output.store import Store
from flows.run.verify import Verifier, verified_source
from flows.sources.detect import open_source
from flows.stages import StageInputs
from flows.stages.quality import quality_signals, thin_axis
from packers.reader import Packet, read_dataset
from packers.schema import Dataset
from packers.validate import validate_packet
from packers.writer import write_packet
from scoring.frames import measure_motion
from scoring.report import ClipSignals, assess
from scoring.settings import ScoringSettings
from tests.benchmarks.groundtruth import ROBOT, GroundTruth, read_folder

SETTINGS = ScoringSettings()
SIZE = (224, 224)
MOST_FRAMES = 300
"""Longer real clips are judged on their first frames."""

FROZEN_S = 1.2
"""Time for which a picture is frozen: six frames at 5 a second."""

TRUE_OF_GOOD_CLIPS = {"intrinsics-assumed", "low-motion", "moving-camera", "no-grasp", "no-contact", "mask-tiny"}
"""Tags that state a property of the clip as recorded, not a fault of the signal."""

Broken = ClipSignals | None
Fault = Callable[[np.random.Generator, ClipSignals], Broken]


@dataclass(frozen=True)
class Clip:
    """A good clip, and pictures of another for foreign frames."""

    name: str
    signals: ClipSignals


# --- good clips --------------------------------------------------------------------------------------------------


def groundtruth_clips(folder: Path) -> Iterator[Clip]:
    """Every episode with metric depth, and with inverse depth on an arbitrary scale."""
    for truth in read_folder(folder):
        signals = truth_signals(truth)
        yield Clip(truth.episode.episode_id, signals)
        assert signals.depth is not None
        relative = (2.0 + 6.0 / signals.depth).astype(np.float32)
        yield Clip(f"{truth.episode.episode_id} relative", replace(signals, depth=relative, depth_kind="relative"))


def truth_signals(truth: GroundTruth, size: tuple[int, int] = SIZE) -> ClipSignals:
    """An episode's exact signals at packet size, as the quality stage would be given them."""
    episode = truth.episode
    height, width = episode.size
    scale = np.array([size[1] / width, size[0] / height])
    rows, columns = thin_axis(size[0]), thin_axis(size[1])
    depth = np.stack([cv2.resize(d, size[::-1], interpolation=cv2.INTER_NEAREST) for d in truth.depth])
    depth = depth[:, rows][:, :, columns]

    def fields(xy: NDArray[Any], seen: NDArray[np.bool_], own: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        packet = (xy + 0.5) * scale - 0.5
        return {"xy": packet.astype(np.float32), "visibility": seen, "on_object": own}

    still = truth.grid_valid & (truth.grid_kind != ROBOT)
    grid = fields(truth.grid_xy, truth.grid_visibility, truth.grid_kind == 2)
    both = (
        np.concatenate([truth.object_xy, truth.grid_xy[:, still]], axis=1),
        np.concatenate([truth.object_visibility, truth.grid_visibility[:, still]], axis=1),
        np.concatenate([np.ones(truth.object_xy.shape[1], bool), (truth.grid_kind == 2)[still]]),
    )
    assert episode.camera is not None
    return ClipSignals(
        language_instruction=episode.language_instruction,
        n_frames=episode.n_frames,
        pixels=np.stack([resize_rgb(frame, size) for frame in episode.pixels]),
        timestamp=episode.timestamp,
        fps=episode.fps,
        frame_ids=list(range(episode.n_frames)),
        action=episode.action,
        action_valid=episode.action_valid,
        state=np.cumsum(np.nan_to_num(episode.action[:, :6]), axis=0).astype(np.float32),
        gripper=episode.gripper,
        masks=resize_masks(truth.object_mask, size),
        robot=resize_masks(truth.robot_mask, size),
        depth=np.where(depth > 0, depth, np.nan).astype(np.float32),
        depth_kind="metric",
        tracks={"grid": grid, "foreground": fields(*both)},
        contact=truth.contact.astype(np.float32),
        held=truth.contact & (episode.gripper < 0.9),
        intrinsics=episode.camera.resized(size[1], size[0]).K,
        intrinsics_source="calibrated",
        camera_moves=truth.moving_camera,
    )


def packet_clips(directory: Path) -> Iterator[Clip]:
    """The packets of an output directory as their quality stage sees them."""
    store, config = Store(directory), load_config(directory / "config.yaml")
    for path in sorted((directory / "packets").glob("*/*.h5")):
        results = store.packet_results(path.stem)
        inputs = StageInputs(_no_episode, {n: r for n, r in results.items() if n not in ("quality", "pack")}, config)
        yield Clip(path.stem[:40], quality_signals(inputs))


def _no_episode() -> Any:
    raise AssertionError("the quality stage reads packets alone")


def real_clips(source: str) -> Iterator[Clip]:
    """Pictures, times and proprioception of every readable episode."""
    reader = open_source(source)
    for info in reader.episodes():
        try:
            episode = reader.open(info)
            pixels = [resize_rgb(frame, SIZE) for _, frame in zip(range(MOST_FRAMES), episode.pixels, strict=False)]
        except EpisodeError as error:
            print(f"left out {info.episode_id}: {error}", file=sys.stderr)
            continue
        t = len(pixels)
        rows = {name: getattr(episode, name) for name in ("action", "action_valid", "state", "gripper")}
        signals = ClipSignals(
            language_instruction=episode.language_instruction,
            n_frames=t,
            pixels=np.stack(pixels),
            timestamp=episode.timestamp[:t],
            fps=episode.fps,
            intrinsics_source="calibrated",
            camera_moves=clip_camera_motion(np.stack(pixels)).moving,
            **{name: None if array is None else array[:t] for name, array in rows.items()},
        )
        yield Clip(f"{Path(source).name[:12]} {info.episode_id[-26:]}", signals)


# --- faults of pictures and times --------------------------------------------------------------------------------


def _moving(rng: np.random.Generator, clip: ClipSignals, length: int, level: float = 1.5) -> int | None:
    """A frame from which `length` frames on the picture keeps moving; a fault at rest is none."""
    motion = measure_motion(clip.pixels, clip.fps)
    step, level = motion.step1, max(motion.step_level(level), 0.5)
    starts = [t for t in range(3, clip.n_frames - length - 3) if step[t - 2 : t + length + 1].min() > level]
    return int(rng.choice(starts)) if starts else None


def _painted(colour: int) -> Fault:
    def fault(rng: np.random.Generator, clip: ClipSignals) -> Broken:
        pixels = clip.pixels.copy()
        start = int(rng.integers(0, clip.n_frames - 2))
        noise = rng.integers(-2, 3, pixels[start : start + 3].shape)
        pixels[start : start + 3] = np.clip(colour + noise, 0, 255)
        return replace(clip, pixels=pixels)

    return fault


def _taken(order: Callable[[np.random.Generator, ClipSignals], NDArray[np.intp] | None]) -> Fault:
    """Pictures alone in another order."""

    def fault(rng: np.random.Generator, clip: ClipSignals) -> Broken:
        frames = order(rng, clip)
        return None if frames is None else replace(clip, pixels=clip.pixels[frames])

    return fault


def _frozen_order(rng: np.random.Generator, clip: ClipSignals) -> NDArray[np.intp] | None:
    length = frames_in(FROZEN_S, clip.fps)
    start = _moving(rng, clip, length)
    frames = np.arange(clip.n_frames)
    if start is None:
        return None
    frames[start : start + length] = start
    return frames


def _duplicate_order(rng: np.random.Generator, clip: ClipSignals) -> NDArray[np.intp] | None:
    start = _moving(rng, clip, 1)
    frames = np.arange(clip.n_frames)
    if start is None:
        return None
    frames[start] = start - 1
    return frames


def _swapped_order(rng: np.random.Generator, clip: ClipSignals) -> NDArray[np.intp] | None:
    start = _moving(rng, clip, 2, level=2.0)
    frames = np.arange(clip.n_frames)
    if start is None:
        return None
    frames[[start, start + 1]] = start + 1, start
    return frames


def _shuffled_order(rng: np.random.Generator, clip: ClipSignals) -> NDArray[np.intp]:
    return rng.permutation(clip.n_frames)


def _foreign_frame(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    pixels = clip.pixels.copy()
    t = int(rng.integers(2, clip.n_frames - 2))
    pixels[t] = pixels[t, ::-1, ::-1]
    return replace(clip, pixels=pixels)


def _without(clip: ClipSignals, start: int, length: int, **changes: Any) -> ClipSignals:
    """The clip without some rows, as if they had never been recorded."""
    keep = np.ones(clip.n_frames, bool)
    keep[start : start + length] = False
    per_frame = ("pixels", "timestamp", "action", "action_valid", "state", "gripper", "masks", "robot", "mask_score")
    per_frame += ("depth", "depth_stabilized", "contact", "held", "centroids_valid")
    cut = {name: getattr(clip, name)[keep] for name in per_frame if getattr(clip, name) is not None}
    tracks = {
        name: {k: v[keep] if k in ("xy", "visibility") else v for k, v in fields.items()}
        for name, fields in (clip.tracks or {}).items()
    }
    ids = None if clip.frame_ids is None else [i for i, kept in zip(clip.frame_ids, keep, strict=True) if kept]
    return replace(clip, n_frames=int(keep.sum()), tracks=tracks or None, frame_ids=ids, **cut | changes)


def _dropped(keeps: str) -> Fault:
    """Missing frames that the time stamps, the frame numbers, or neither tell of."""

    def fault(rng: np.random.Generator, clip: ClipSignals) -> Broken:
        if clip.n_frames < 20 or (keeps == "ids" and clip.frame_ids is None):
            return None
        if keeps == "neither":
            # Only motion that stands out can tell: seven frames out of steady motion.
            start = _moving(rng, clip, 9)
            if start is None or clip.state is None:
                return None
            start, length = start + 1, 7
        else:
            start, length = int(rng.integers(4, clip.n_frames - 8)), int(rng.integers(1, 4))
        changes: dict[str, Any] = {}
        if keeps != "times":
            changes["timestamp"] = clip.timestamp[: clip.n_frames - length]
        cut = _without(clip, start, length, **changes)
        return cut if keeps == "ids" else replace(cut, frame_ids=None)

    return fault


def _wrong_fps(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    return replace(clip, timestamp=clip.timestamp * float(rng.choice([0.5, 0.8, 1.25, 2.0])))


def _times_disordered(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    times = clip.timestamp.copy()
    t = int(rng.integers(1, clip.n_frames - 2))
    times[[t, t + 1]] = times[[t + 1, t]]
    return replace(clip, timestamp=times)


# --- faults of proprioception ------------------------------------------------------------------------------------


def _still_actions(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.action is None or not measure_motion(clip.pixels, clip.fps).moves:
        return None
    value = rng.choice([0.0, 0.3])
    return replace(clip, action=np.where(np.isfinite(clip.action), np.float32(value), clip.action))


def _saturated_actions(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.action is None or clip.n_frames < 15:
        return None
    limits = np.nanpercentile(clip.action, [30, 70], axis=0)
    return replace(clip, action=np.clip(clip.action, *limits).astype(np.float32))


def _jerky_actions(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.action is None or clip.n_frames / clip.fps < 1.25 * SETTINGS.jerk_least_s:
        return None
    sign = np.where(np.arange(clip.n_frames) // frames_in(WINDOW_S, clip.fps) % 2, 1, -1)[:, None]
    return replace(clip, action=(clip.action + sign * 2 * np.nanstd(clip.action, axis=0)).astype(np.float32))


def _chattering_gripper(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.gripper is None or clip.n_frames < 20:
        return None
    gripper = clip.gripper.copy()
    start = int(rng.integers(0, clip.n_frames - 12))
    gripper[start : start + 12] = np.arange(12) % 2
    return replace(clip, gripper=gripper)


def _missing_actions(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.action is None:
        return None
    action = clip.action.copy()
    action[rng.choice(clip.n_frames - 1, 3, replace=False)] = np.nan
    return replace(clip, action=action)


# --- faults of masks ---------------------------------------------------------------------------------------------


def _areas(clip: ClipSignals) -> NDArray[np.int64]:
    assert clip.masks is not None
    return clip.masks.sum(axis=(1, 2))


def _usable(clip: ClipSignals) -> bool:
    """Whether the clip has a mask that is large and there for most of the clip."""
    return clip.masks is not None and float((_areas(clip) > 150).mean()) > 0.6


def _blank_masks(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    return None if clip.masks is None else replace(clip, masks=np.zeros_like(clip.masks))


def _mask_gap(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if not _usable(clip):
        return None
    area = _areas(clip)
    whole = [t for t in range(1, clip.n_frames - 6) if area[t - 1 : t + 6].min() > 0.6 * np.median(area)]
    if not whole:
        return None
    assert clip.masks is not None
    start, masks = int(rng.choice(whole)), clip.masks.copy()
    masks[start : start + 5] = False
    return replace(clip, masks=masks)


def _flickering_mask(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if not _usable(clip):
        return None
    assert clip.masks is not None
    masks = clip.masks.copy()
    for t in range(1, clip.n_frames, 2):
        grows = rng.random() < 0.5
        masks[t] = dilate(masks[t : t + 1], 5)[0] if grows else masks[t] & (np.arange(SIZE[1]) % 3 == 0)
    return replace(clip, masks=masks)


def _frozen_mask(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    """The mask of one frame for the whole clip, where the object leaves that place."""
    if not _usable(clip):
        return None
    assert clip.masks is not None
    area = _areas(clip)
    first = int(np.argmax(area > 0.5 * np.median(area)))
    late = clip.masks[int(0.75 * clip.n_frames) :]
    shared = (late & clip.masks[first]).sum(axis=(1, 2)) / area[first]
    if np.median(shared) > 0.2:
        return None
    return replace(clip, masks=np.repeat(clip.masks[first : first + 1], clip.n_frames, axis=0))


def _mask_on_robot(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.robot is None or not clip.robot.any():
        return None
    return replace(clip, masks=clip.robot.copy())


def _inverted_mask(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    return None if clip.masks is None or _areas(clip).max() > 0.3 * 224**2 else replace(clip, masks=~clip.masks)


def _jumping_mask(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if not _usable(clip):
        return None
    assert clip.masks is not None
    start, masks = int(rng.integers(3, clip.n_frames - 8)), clip.masks.copy()
    if _areas(clip)[start - 1 : start + 1].min() < 60:
        return None
    masks[start:] = np.roll(masks[start:], (60, 70), axis=(1, 2))
    return replace(clip, masks=masks)


# --- faults of depth ---------------------------------------------------------------------------------------------


def _flat_depth(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.depth is None:
        return None
    return replace(clip, depth=np.full_like(clip.depth, np.nanmedian(clip.depth)), depth_stabilized=None)


def _drifting_depth(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.depth is None or clip.camera_moves:
        return None
    ramp = np.linspace(0, 1, clip.n_frames, dtype=np.float32)[:, None, None]
    spread = np.float32(np.subtract(*np.nanpercentile(clip.depth, [90, 10])))
    return replace(clip, depth=clip.depth + rng.choice([-0.4, 0.4]) * ramp * spread, depth_stabilized=None)


def _jumping_depth(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.depth is None or clip.camera_moves:
        return None
    depth = clip.depth.copy()
    depth[int(rng.integers(2, clip.n_frames - 2))] *= 1.6
    return replace(clip, depth=depth, depth_stabilized=None)


def _frozen_depth(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.depth is None or float((measure_motion(clip.pixels, clip.fps).window > 1).mean()) < 0.3:
        return None
    return replace(clip, depth=np.repeat(clip.depth[:1], clip.n_frames, axis=0), depth_stabilized=None)


def _holed_depth(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.depth is None:
        return None
    return replace(clip, depth=np.where(rng.random(clip.depth.shape) < 0.7, np.nan, clip.depth).astype(np.float32))


# --- faults of tracks --------------------------------------------------------------------------------------------


def _foreground(clip: ClipSignals, change: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]) -> Broken:
    if not clip.tracks or "foreground" not in clip.tracks:
        return None
    fields = {name: array.copy() for name, array in clip.tracks["foreground"].items()}
    return replace(clip, tracks={**clip.tracks, "foreground": change(fields)})


def _lost_tracks(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    start = int(rng.uniform(0.3, 0.7) * clip.n_frames)

    def change(fields: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        fields["visibility"][start:] = False
        return fields

    return _foreground(clip, change)


def _frozen_tracks(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if not measure_motion(clip.pixels, clip.fps).moves:
        return None

    def change(fields: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        fields["xy"][:] = fields["xy"][:1]
        return fields

    return _foreground(clip, change)


def _jumping_tracks(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    t = int(rng.integers(2, clip.n_frames - 2))

    def change(fields: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        # Points are taken for one another from here on.
        fields["xy"][t:] = fields["xy"][t:, rng.permutation(fields["xy"].shape[1])]
        return fields

    return _foreground(clip, change)


def _few_object_points(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    def change(fields: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        own = np.flatnonzero(fields["on_object"])
        fields["on_object"][rng.permutation(own)[20:]] = False
        return fields

    return _foreground(clip, change) if _usable(clip) else None


def _tracks_off_object(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    offset = np.array([rng.choice([-70, 70]), rng.choice([-60, 60])], np.float32)

    def change(fields: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        fields["xy"][:, fields["on_object"].astype(bool)] += offset
        return fields

    return _foreground(clip, change) if _usable(clip) and _areas(clip).max() < 6000 else None


# --- faults of geometry and contact ------------------------------------------------------------------------------


def _assumed(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    return None if clip.intrinsics is None else replace(clip, intrinsics_source="assumed")


def _odd_intrinsics(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.intrinsics is None:
        return None
    matrix = clip.intrinsics.copy()
    matrix[[0, 1], [0, 1]] *= rng.choice([0.05, 20.0])
    return replace(clip, intrinsics=matrix)


def _no_grasp(rng: np.random.Generator, clip: ClipSignals) -> Broken:
    if clip.contact is None or clip.gripper is None:
        return None
    nothing = np.zeros(clip.n_frames, bool)
    return replace(clip, language_instruction="pick up the block", gripper=np.ones_like(clip.gripper), held=nothing)


FAULTS: dict[str, tuple[str, str, Fault]] = {
    "three black frames": ("frames", "black-frames", _painted(3)),
    "three white frames": ("frames", "saturated-frames", _painted(255)),
    "three grey frames": ("frames", "blank-frames", _painted(128)),
    "picture frozen for 1.2 s": ("frames", "frozen-frames", _taken(_frozen_order)),
    "one frame shown twice": ("frames", "duplicate-frames", _taken(_duplicate_order)),
    "two frames exchanged": ("frames", "shuffled-frames", _taken(_swapped_order)),
    "frames shuffled": ("frames", "shuffled-frames", _taken(_shuffled_order)),
    "a frame upside down": ("frames", "foreign-frames", _foreign_frame),
    "frames dropped, times kept": ("frames", "timestamp-gap", _dropped("times")),
    "frames dropped, numbers kept": ("frames", "dropped-frames", _dropped("ids")),
    "frames dropped, neither kept": ("frames", "dropped-frames", _dropped("neither")),
    "times of another rate": ("frames", "fps-mismatch", _wrong_fps),
    "two times exchanged": ("frames", "timestamp-order", _times_disordered),
    "still actions": ("actions", "still-actions", _still_actions),
    "saturated actions": ("actions", "saturated-actions", _saturated_actions),
    "jerky actions": ("actions", "jerky-actions", _jerky_actions),
    "chattering gripper": ("actions", "gripper-chatter", _chattering_gripper),
    "missing actions": ("actions", "missing-actions", _missing_actions),
    "blank masks": ("masks", "no-mask", _blank_masks),
    "five masks blank": ("masks", "mask-gaps", _mask_gap),
    "flickering mask": ("masks", "mask-flicker", _flickering_mask),
    "frozen mask": ("masks", "frozen-mask", _frozen_mask),
    "mask on the robot": ("masks", "mask-on-robot", _mask_on_robot),
    "inverted mask": ("masks", "mask-too-large", _inverted_mask),
    "mask leaps elsewhere": ("masks", "mask-jump", _jumping_mask),
    "flat depth": ("depth", "flat-depth", _flat_depth),
    "drifting depth": ("depth", "depth-drift", _drifting_depth),
    "one map scaled": ("depth", "depth-jump", _jumping_depth),
    "frozen depth": ("depth", "frozen-depth", _frozen_depth),
    "holes in depth": ("depth", "depth-holes", _holed_depth),
    "lost tracks": ("tracks", "tracks-lost", _lost_tracks),
    "frozen tracks": ("tracks", "frozen-tracks", _frozen_tracks),
    "tracks exchanged": ("tracks", "tracks-jump", _jumping_tracks),
    "few object points": ("tracks", "few-object-tracks", _few_object_points),
    "tracks beside the object": ("tracks", "tracks-off-object", _tracks_off_object),
    "assumed intrinsics": ("geometry", "intrinsics-assumed", _assumed),
    "odd intrinsics": ("geometry", "intrinsics-odd", _odd_intrinsics),
    "no grasp": ("contact", "no-grasp", _no_grasp),
}
"""Name -> (modality, the tag that names it, what does it)."""


# --- faults of files ---------------------------------------------------------------------------------------------


def _flip(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[int(rng.integers(512, len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def _cut(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: int(rng.uniform(0.2, 0.95) * path.stat().st_size)])


def _rewrite(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Path, np.random.Generator], None]:
    def fault(path: Path, rng: np.random.Generator) -> None:
        with Packet(path) as packet:
            attributes = {k: v for k, v in packet.attributes.items() if k not in ("schema", "modalities")}
            names = packet.modalities
        datasets = {n: read_dataset(path, n) for n in names}
        datasets[name] = Dataset(change(datasets[name].data), datasets[name].attributes)
        write_packet(path, datasets, attributes)

    return fault


def _swap_two(pixels: NDArray[Any]) -> NDArray[Any]:
    order = np.arange(len(pixels))
    order[[5, 9]] = 9, 5
    return pixels[order]


FILE_FAULTS: dict[str, tuple[str, str, Callable[[Path, np.random.Generator], None]]] = {
    "one bit flipped": ("validate", "sha256", _flip),
    "file cut off": ("validate", "", _cut),
    "pixels one frame late": ("verify", "shifted by one frame", _rewrite("pixels", lambda a: np.roll(a, 1, axis=0))),
    "pixels one frame early": ("verify", "shifted by one frame", _rewrite("pixels", lambda a: np.roll(a, -1, axis=0))),
    "actions one frame late": ("verify", "shifted by one frame", _rewrite("action", lambda a: np.roll(a, 1, axis=0))),
    "two frames swapped": ("verify", "other order|another order", _rewrite("pixels", _swap_two)),
    "mirrored pixels": ("verify", "something else", _rewrite("pixels", lambda a: a[:, :, ::-1].copy())),
}


# --- the benchmark -----------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """Counts per fault."""

    tried: int = 0
    found: int = 0
    named: int = 0


def judge_faults(clips: list[Clip], seed: int, tallies: dict[str, Tally], missed: list[str]) -> None:
    """Every fault on every clip it can be put into."""
    for clip in clips:
        before = assess(clip.signals, SETTINGS)
        for number, (name, (modality, tag, fault)) in enumerate(FAULTS.items()):
            if tag in before.tags or before.quality[modality]["status"] == "absent":
                continue
            broken = fault(np.random.default_rng([seed, number]), clip.signals)
            if broken is None:
                continue
            after = assess(broken, SETTINGS)
            tally = tallies[name]
            tally.tried += 1
            tally.found += set(after.quality[modality]["tags"]) - set(before.quality[modality]["tags"]) != set()
            if tag in after.tags:
                tally.named += 1
            else:
                missed.append(f"{name} in {clip.name}: {after.quality[modality]['tags']}")


def judge_good(clips: list[Clip]) -> tuple[int, list[str]]:
    """Cards judged, and the complaints of cards of clips as they are."""
    cards, alarms = 0, []
    for clip in clips:
        for modality, card in assess(clip.signals, SETTINGS).quality.items():
            if card["status"] == "absent":
                continue
            cards += 1
            wrong = set(card["tags"]) - TRUE_OF_GOOD_CLIPS
            if wrong:
                alarms.append(f"{clip.name}: {modality} {sorted(wrong)} {card['reasons']}")
    return cards, alarms


def judge_files(directory: Path, seed: int, tallies: dict[str, Tally], missed: list[str]) -> None:
    """Faults put into packet files, found by `validate` and `verify`."""
    verifier = Verifier(verified_source(directory, None))
    for path in sorted((directory / "packets").glob("*/*.h5")):
        for number, (name, (command, words, fault)) in enumerate(FILE_FAULTS.items()):
            with tempfile.TemporaryDirectory() as scratch:
                copy = Path(shutil.copy(path, scratch))
                fault(copy, np.random.default_rng([seed, number]))
                found = validate_packet(copy) if command == "validate" else verifier.verify(copy)
            tally = tallies[f"{name} ({command})"]
            tally.tried += 1
            tally.found += bool(found)
            if any(word in finding.reason for finding in found for word in words.split("|")):
                tally.named += 1
            else:
                missed.append(f"{name} in {path.stem[:40]}: {[finding.reason for finding in found]}")


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groundtruth", type=Path, nargs="?")
    parser.add_argument("--packets", type=Path, action="append", default=[])
    parser.add_argument("--real", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--skip", help="leave out clips whose name contains this (known to be faulty)", default=None)
    options = parser.parse_args()
    clips = list(groundtruth_clips(options.groundtruth)) if options.groundtruth else []
    clips += [clip for directory in options.packets for clip in packet_clips(directory)]
    clips += [clip for source in options.real for clip in real_clips(source)]
    if options.skip:
        clips = [clip for clip in clips if options.skip not in clip.name]
    tallies: dict[str, Tally] = defaultdict(Tally)
    missed: list[str] = []
    for seed in range(options.seeds):
        judge_faults(clips, seed, tallies, missed)
        for directory in options.packets:
            judge_files(directory, seed, tallies, missed)
    print(f"{'fault':36} {'tried':>6} {'found':>7} {'named':>7}")
    for name, tally in tallies.items():
        print(f"{name:36} {tally.tried:6} {tally.found / tally.tried:7.1%} {tally.named / tally.tried:7.1%}")
    tried, named = sum(t.tried for t in tallies.values()), sum(t.named for t in tallies.values())
    cards, alarms = judge_good(clips)
    print(f"{len(tallies)} kinds of fault, {tried} broken clips and files, {named / tried:.1%} named rightly")
    print(f"{len(clips)} good clips, {cards} cards, {len(alarms)} false alarms ({len(alarms) / max(cards, 1):.1%})")
    for line in [*missed, *alarms]:
        print("  " + line)
    return 0 if named >= 0.95 * tried and len(alarms) <= 0.05 * cards else 1


if __name__ == "__main__":
    sys.exit(main())
