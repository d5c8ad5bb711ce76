"""BridgeData V2 as it was recorded: folders of JPEGs and pickles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import (
    BlankCameraError,
    CorruptDataError,
    EpisodeError,
    LengthMismatchError,
    MissingDataError,
    SourceError,
    UnknownCameraError,
)
from extractors.types import Camera, Episode
from flows.config import SourceConfig
from flows.sources.base import EpisodeInfo, LeftOut, unique_id
from flows.sources.bridge_folders import (
    CAMERA_MODELS,
    WRIST_VIEW,
    Trajectory,
    TrajectoryFiles,
    Walk,
    config_path,
    had_latency,
    list_trajectory,
    logical_views,
    read_language,
)
from flows.sources.files import parse_json, read_bytes
from flows.sources.folders import linked_out
from flows.sources.images import LazyFrames, decode_depth, decode_grey, decode_rgb, is_16_bit_png, is_blank
from flows.sources.pickles import load_pickle

NOMINAL_FPS = 5.0
"""BridgeData V2 is controlled at 5 Hz (dataset paper); used where the time stamps do not clearly say otherwise."""

FPS_TOLERANCE = 0.1
"""A median rate within 10 % of 5 Hz is 5 Hz: the true stamps are not perfectly regular."""

STATE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")

CAMERA_ALIASES = ("image_0", "image_1", "image_2", "image_3", "wrist")
"""View names taken beside the folder names: RLDS's, and "wrist" for image_3."""

OBJECT_LABEL, ROBOT_LABEL = 1, 2
"""Grey levels of the label images in masks<k>/, which recordings with known truth carry; 0 is everything else."""


def is_bridge_raw(path: Path) -> bool:
    """Whether `path` has a raw/traj_group*/traj* below it; stops at the first."""
    try:
        return path.is_dir() and next(iter(Walk(path, follow_links=True)), None) is not None
    except SourceError:
        return False


class BridgeRawSource:
    """A tree of BridgeData V2 trajectories.

    Cameras are named by their folders, images0, images1, ...; the views' names in RLDS (image_0, ... image_3) and
    "wrist" are accepted too. The index of an episode is its position when folders are sorted naturally.
    """

    kind = "bridge-raw"
    dataset = "bridge_data_v2"
    camera_aliases = CAMERA_ALIASES

    def __init__(self, root: Path, settings: SourceConfig | None = None) -> None:
        self.root = root
        self._follow = (settings or SourceConfig()).follow_links
        self._walked = Walk(root, follow_links=self._follow)

    @property
    def follows_links(self) -> bool:
        """Whether linked folders are looked into."""
        return self._follow

    def episodes(self) -> Iterator[EpisodeInfo]:
        """Every trajectory, lazily; file names and lang.txt are all that is looked at.

        Raises:
            SourceError: a folder above the trajectories cannot be read.
        """
        taken: set[str] = set()
        for index, relative in enumerate(self._walked):
            yield self._describe(index, relative, unique_id(relative, relative, taken))

    def reread(self, episode: Episode) -> None:
        """None: every frame is an image of its own."""

    def left_out(self) -> tuple[LeftOut, ...]:
        """Linked folders; known once the episodes were listed."""
        return linked_out(sorted(self._walked.links))

    def _describe(self, index: int, relative: str, episode_id: str) -> EpisodeInfo:
        key = {"path": relative}
        try:
            trajectory = list_trajectory(self.root, relative, follow_links=self._follow)
        except EpisodeError:  # listed all the same: `open` says what is wrong
            return EpisodeInfo(episode_id, index, None, "", (), None, (), key, ("unreadable",))
        language = read_language(trajectory)
        cameras = trajectory.cameras
        n_images = len(trajectory.images[cameras[0]]) if cameras else 0
        n_frames = max(0, n_images - had_latency(self.root, relative)[0])
        return EpisodeInfo(
            episode_id=episode_id,
            episode_index=index,
            n_frames=n_frames,
            language_instruction=language.instruction,
            cameras=cameras,
            fps=None,
            files=TrajectoryFiles(self.root, relative, self._follow),
            key=key,
            tags=language.tags + (("one-frame",) if n_frames == 1 else ()),
        )

    def open(self, info: EpisodeInfo, camera: str | None = None) -> Episode:
        """One trajectory seen by `camera`, or by the first fixed camera in name order that is not all black.

        A wrist camera is the default only where no fixed one shows anything; the tag "wrist-camera" says so.

        Raises:
            UnknownCameraError: the trajectory has no camera of that name.
            BlankCameraError: the chosen camera is black in every frame.
            MissingDataError, CorruptDataError, LengthMismatchError, UnsafePickleError: see the message.
        """
        relative = str(info.key["path"])
        trajectory = list_trajectory(self.root, relative, follow_links=self._follow)
        view = _choose_view(
            trajectory, relative, config_path(self.root, relative), camera, had_latency(self.root, relative)[0]
        )
        rows = _read_rows(trajectory, relative, len(trajectory.images[view.camera]), *had_latency(self.root, relative))
        language = read_language(trajectory)
        depth, depth_tags = _recorded_depth(trajectory, relative, view)
        labels = _label_frames(trajectory, relative, view)
        return Episode(
            episode_id=info.episode_id,
            episode_index=info.episode_index,
            camera_name=view.camera,
            language_instruction=language.instruction,
            fps=rows.fps,
            pixels=view.pixels,
            timestamp=rows.timestamp,
            action=rows.action,
            action_valid=rows.action_valid,
            state=rows.state,
            state_names=STATE_NAMES,
            gripper=np.clip(rows.state[:, 6], 0.0, 1.0),
            camera=_calibration(trajectory, relative, view),
            recorded_depth=depth,
            recorded_masks=labels(OBJECT_LABEL) if labels else None,
            recorded_robot=labels(ROBOT_LABEL) if labels else None,
            provenance={
                "dataset": self.dataset,
                "kind": self.kind,
                "path": relative.encode("utf-8", "backslashreplace").decode(),
                "episode_index": info.episode_index,
                "language_confidence": language.confidence,
                "language_others": list(language.others),
                **view.record(),
                **rows.record(),
            },
            tags=(*language.tags, *view.tags, *rows.tags, *depth_tags),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """One camera of a trajectory.

    Attributes:
        camera: its folder, "images<k>".
        frame_ids: the numbers of its images, in order, after the latency rule.
        pixels: T lazy RGB frames.
        views, views_from: what each camera of the trajectory shows, and how that is known.
    """

    camera: str
    frame_ids: list[int]
    pixels: LazyFrames
    views: Mapping[str, str]
    views_from: str

    @property
    def tags(self) -> tuple[str, ...]:
        one = ("one-frame",) if len(self.frame_ids) == 1 else ()
        return (*one, "wrist-camera") if self.views[self.camera] == WRIST_VIEW else one

    def record(self) -> dict[str, Any]:
        return {
            "camera": self.camera,
            "cameras": list(self.views),
            "views": dict(self.views),
            "camera_model": CAMERA_MODELS.get(self.views[self.camera]),
            "views_from": self.views_from,
            "frame_ids": self.frame_ids,
        }


def _choose_view(trajectory: Trajectory, relative: str, config: Path, camera: str | None, late: bool) -> _View:
    cameras = trajectory.cameras
    if not cameras:
        raise MissingDataError(f"{relative} has no images; wanted images0/im_0.jpg and on")
    views, views_from = logical_views(cameras, config)
    candidates = sorted(cameras, key=lambda name: views[name] == WRIST_VIEW)  # stable: fixed ones first, in name order
    if camera is not None:
        by_view = {view: name for name, view in views.items()}
        named = {**by_view, "wrist": by_view.get(WRIST_VIEW), **{name: name for name in cameras}}.get(camera)
        if named is None:
            there = ", ".join(f"{name} ({view})" for name, view in views.items())
            raise UnknownCameraError(f"{relative} has no camera '{camera}'; it has {there}")
        candidates = [named]
    for name in candidates:
        frame_ids = _frame_ids(trajectory, relative, name, late)
        pixels = _frames(trajectory, relative, name, frame_ids, decode_rgb, (3,))
        if not is_blank(pixels):
            return _View(name, frame_ids, pixels, views, views_from)
    raise BlankCameraError(
        f"{', '.join(candidates)} of {relative} is black in every frame; choose another --camera of {list(cameras)}"
    )


def _frame_ids(trajectory: Trajectory, relative: str, camera: str, late: bool) -> list[int]:
    images = trajectory.images[camera]
    gaps = list(islice((number for number in range(max(images)) if number not in images), 11))
    if gaps:
        shown = ", ".join(map(str, gaps[:10])) + (" and more" if len(gaps) > 10 else "")
        raise MissingDataError(f"{relative}/{camera} lacks image {shown}; fetch the trajectory again")
    frame_ids = list(images)[1:] if late else list(images)
    if not frame_ids:
        raise MissingDataError(f"{relative}/{camera} has no image left after the latency rule drops the first")
    return frame_ids


def _frames(
    trajectory: Trajectory,
    relative: str,
    folder: str,
    frame_ids: Sequence[int],
    decode: Any,
    channels: tuple[int, ...] = (),
) -> LazyFrames:
    images = trajectory.images[folder]
    missing = [number for number in frame_ids if number not in images]
    if missing:
        raise MissingDataError(
            f"{relative}/{folder} lacks image {', '.join(map(str, missing[:10]))} of {len(frame_ids)}"
        )
    names = [f"{relative}/{folder}/{images[number]}" for number in frame_ids]
    paths = [trajectory.path / folder / images[number] for number in frame_ids]
    return LazyFrames(names, lambda index: read_bytes(paths[index], names[index]), decode, channels)


def _recorded_depth(trajectory: Trajectory, relative: str, view: _View) -> tuple[LazyFrames | None, tuple[str, ...]]:
    """The depth camera's maps, where the chosen camera has them; 8-bit ones, of which there are a few, have no unit."""
    folder = view.camera.replace("images", "depth_images")
    if not trajectory.images.get(folder):
        return None, ()
    frames = _frames(trajectory, relative, folder, view.frame_ids, decode_depth)
    first = trajectory.path / folder / trajectory.images[folder][view.frame_ids[0]]
    if not is_16_bit_png(read_bytes(first, frames.names[0])):
        return None, ("depth-8-bit-ignored",)
    return frames, ()


class _LabelFrames:
    """Where a lazy label image has one label."""

    def __init__(self, frames: LazyFrames, label: int) -> None:
        self._frames = frames
        self._label = label

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W)."""
        return self._frames.shape

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (labels == self._label for labels in self._frames)


def _label_frames(trajectory: Trajectory, relative: str, view: _View) -> partial[_LabelFrames] | None:
    folder = view.camera.replace("images", "masks")
    if not trajectory.images.get(folder):
        return None
    return partial(_LabelFrames, _frames(trajectory, relative, folder, view.frame_ids, _decode_labels))


def _decode_labels(data: bytes, name: str) -> NDArray[np.uint8]:
    labels = decode_grey(data, name)
    if labels.dtype != np.uint8 or labels.max() > ROBOT_LABEL:
        raise CorruptDataError(f"{name} is not a label image; wanted 8-bit grey with 0 background, 1 object, 2 robot")
    return labels.astype(np.uint8, copy=False)


def _calibration(trajectory: Trajectory, relative: str, view: _View) -> Camera | None:
    """The camera's entry in intrinsics.json, which recordings with known truth carry; the release has none."""
    if "intrinsics.json" not in trajectory.files:
        return None
    name = f"{relative}/intrinsics.json"
    try:
        entry = parse_json(read_bytes(trajectory.path / "intrinsics.json", name), name).get(view.camera)
        if entry is None:
            return None
        numbers = {key: float(entry[key]) for key in ("fx", "fy", "cx", "cy")}
        found = Camera(**numbers, width=int(entry["width"]), height=int(entry["height"]), source="calibrated")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CorruptDataError(f"{name} has no usable intrinsics for {view.camera}: {error!r}") from error
    height, width = view.pixels.shape[1:3]
    if (found.height, found.width) != (height, width):
        raise CorruptDataError(
            f"{name} is for {found.width}x{found.height}, the images of {view.camera} are {width}x{height}"
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Row t of each array belongs to frame t."""

    state: NDArray[np.float32]
    action: NDArray[np.float32]
    action_valid: NDArray[np.bool_]
    timestamp: NDArray[np.float64]
    fps: float
    padded: bool
    alignment: str
    timestamp_from: str
    tags: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        return {"alignment": self.alignment, "pad_action": self.padded, "timestamp_from": self.timestamp_from}


def _read_rows(trajectory: Trajectory, relative: str, n_images: int, late: bool, latency: str) -> _Rows:
    for name in ("obs_dict.pkl", "policy_out.pkl"):
        if name not in trajectory.files:
            raise MissingDataError(f"{relative}/{name} is missing; fetch the trajectory again")
    observed = load_pickle(trajectory.path / "obs_dict.pkl", f"{relative}/obs_dict.pkl")
    commanded = load_pickle(trajectory.path / "policy_out.pkl", f"{relative}/policy_out.pkl")
    state, stamps = _observations(observed, f"{relative}/obs_dict.pkl")
    action = _actions(commanded, f"{relative}/policy_out.pkl")
    if len(state) != n_images or len(action) not in (n_images - 1, n_images):
        raise LengthMismatchError(
            f"{relative} has {n_images} images, {len(state)} states and {len(action)} actions; wanted as many states "
            "as images, and as many actions or one fewer"
        )
    if stamps is not None and len(stamps) != n_images:
        raise LengthMismatchError(f"{relative} has {n_images} images and {len(stamps)} time stamps")
    if late:
        state, action = state[1:], action[:-1]
        stamps = stamps[1:] if stamps is not None else None
    return _align(state, action, stamps, latency)


def _align(
    state: NDArray[np.float32], action: NDArray[np.float32], stamps: NDArray[np.float64] | None, latency: str
) -> _Rows:
    padded = len(action) < len(state)
    alignment = f"{latency}; {len(action)} actions for {len(state)} observations, action t was commanded at frame t"
    unusable = np.flatnonzero(~np.all(np.isfinite(action), axis=1))
    if unusable.size:
        alignment += f"; not finite in the source, so NaN as a whole and not valid: row {', '.join(map(str, unusable))}"
        action = np.where(np.all(np.isfinite(action), axis=1, keepdims=True), action, np.float32(np.nan))
    if padded:
        action = np.concatenate([action, np.full((1, action.shape[1]), np.nan, np.float32)])
        alignment += "; the last frame has none: a row of NaN, not valid"
    timestamp, fps, timestamp_from, tags = _clock(stamps, len(state))
    return _Rows(
        state=state,
        action=action,
        action_valid=np.asarray(np.all(np.isfinite(action), axis=1)),
        timestamp=timestamp,
        fps=fps,
        padded=padded,
        alignment=alignment,
        timestamp_from=timestamp_from,
        tags=(*tags, "nan-action") if unusable.size else tags,
    )


def _clock(
    stamps: NDArray[np.float64] | None, n_frames: int
) -> tuple[NDArray[np.float64], float, str, tuple[str, ...]]:
    """Seconds from the first frame, frames per second, where they are from, tags."""
    nominal = np.arange(n_frames) / NOMINAL_FPS
    if stamps is None:
        return nominal, NOMINAL_FPS, "index / 5 Hz", ("no-timestamps",)
    steps = np.diff(stamps)
    if not np.isfinite(stamps).all() or (steps <= 0).any():
        return nominal, NOMINAL_FPS, "index / 5 Hz", ("irregular-timestamps",)
    rate = 1.0 / float(np.median(steps)) if steps.size else NOMINAL_FPS
    fps = NOMINAL_FPS if abs(rate / NOMINAL_FPS - 1.0) <= FPS_TOLERANCE else round(rate, 2)
    return stamps - stamps[0], fps, "time_stamp", ()


def _observations(observed: Any, name: str) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
    """(T, 7) state and (T,) time stamps, None where there are none."""
    if not isinstance(observed, dict):
        raise CorruptDataError(f"{name} holds a {type(observed).__name__}, wanted a dict of arrays")
    if "full_state" not in observed:
        raise MissingDataError(f"{name} has no full_state; it has {sorted(map(str, observed))}")
    # `state` has 4 or 5 numbers in recordings with fewer degrees of freedom; full_state always has 7.
    state = _matrix(observed["full_state"], f"full_state of {name}")
    if state.shape[1] != len(STATE_NAMES):
        raise CorruptDataError(f"full_state of {name} has {state.shape[1]} numbers a row, wanted {len(STATE_NAMES)}")
    bad = np.flatnonzero(~np.isfinite(state).all(axis=1))
    if bad.size:
        raise CorruptDataError(f"full_state of {name} is not finite in row {', '.join(map(str, bad[:10]))}")
    if observed.get("time_stamp") is None:
        return state, None
    stamps = _floats(observed["time_stamp"], f"time_stamp of {name}").reshape(-1)
    return state, stamps if stamps.size else None


def _actions(commanded: Any, name: str) -> NDArray[np.float32]:
    """(T-1, A) actions of a list of dicts, or, in older recordings, of bare arrays."""
    if not isinstance(commanded, (list, tuple, np.ndarray)):
        raise CorruptDataError(f"{name} holds a {type(commanded).__name__}, wanted a list with an item per step")
    try:
        steps = [item["actions"] if isinstance(item, dict) else item for item in commanded]
    except KeyError as error:
        raise MissingDataError(f"{name} has a step without {error}") from error
    return _matrix(steps, f"actions of {name}") if len(steps) else np.empty((0, len(STATE_NAMES)), np.float32)


def _matrix(values: Any, name: str) -> NDArray[np.float32]:
    matrix = _floats(values, name)
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise CorruptDataError(f"{name} has shape {matrix.shape}, wanted a row of numbers per step")
    with np.errstate(over="ignore"):  # too large for float32 becomes inf, which the callers look for
        return matrix.astype(np.float32)


def _floats(values: Any, name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(values, np.float64)
    except (ValueError, TypeError, OverflowError) as error:  # whole numbers in a pickle have no limit
        raise CorruptDataError(f"{name} is not a table of numbers: {error}") from error
