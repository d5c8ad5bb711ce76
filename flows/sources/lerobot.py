"""LeRobot datasets, v2.0, v2.1 and v3.0.

Which frame belongs to row i:

* v2.x has one video per episode and camera. When it holds exactly as many pictures as the episode has rows, row i is
  picture i in presentation order; if the rows' timestamps say otherwise by more than half a frame (published datasets
  start at 1/fps) the episode is tagged "timestamp-offset". Any other number of pictures is a length mismatch.
* v3.0 has many episodes in one video, and each camera its own files. Row i is the picture nearest to
  `from_timestamp + timestamp[i]`, at most half a frame away; never a floor, for timestamps are rounded to float32.

`action` row t is the command recorded with frame t, so every row has one. The timestamps give the frame rate where
`info.json` says another ("fps-mismatch"). A rate or total that is wrong in `info.json` harms nothing and is tagged.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.cuts import is_black
from extractors.errors import (
    BlankCameraError,
    CorruptDataError,
    LengthMismatchError,
    MissingDataError,
    SourceError,
    UnknownCameraError,
)
from extractors.types import Camera, Episode, Frames
from flows.sources.base import EpisodeInfo
from flows.sources.lerobot_gripper import Range, gripper_opening
from flows.sources.lerobot_rows import ColumnPictures, EpisodeRows, RowReader, mask_picture, metres_picture, rgb_picture
from flows.sources.lerobot_tables import (
    EpisodeRecord,
    EpisodeTable,
    Feature,
    read_info,
    read_range,
    read_tasks,
    relative_path,
)
from flows.sources.video import VideoFrames, packet_times, scan_video

_DEPTH, _MASKS = "observation.depth.", "observation.masks."
_OBJECT, _ROBOT = 1, 2  # labels of a mask image
_MOVING = re.compile(r"wrist|hand|gripper", re.IGNORECASE)  # eye_in_hand among them
_DEPTH_NAME = re.compile(r"(^|[._])depth([._]|$)", re.IGNORECASE)
_UNIT_M = {"mm": 0.001, "m": 1.0}


def is_lerobot(path: Path) -> bool:
    """Whether `path` is the root of a LeRobot dataset (of any version that has a `meta/info.json`)."""
    return (path / "meta" / "info.json").is_file()


def fetch_lerobot(hub_id: str) -> Path:
    """The folder of a dataset on the Hugging Face hub, downloaded into the hub's own cache where it is not there yet.

    Raises:
        SourceError: the hub cannot be reached, or has no such dataset.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(hub_id, repo_type="dataset"))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise SourceError(
            f"dataset {hub_id!r} could not be fetched from the hub ({type(error).__name__}: {error}); "
            "check its name and the network, or download it elsewhere and give the folder"
        ) from error


class LeRobotSource:
    """A LeRobot dataset on disk; listing reads the episode table, opening the episode's rows and first frames."""

    camera_aliases: tuple[str, ...] = ()

    def __init__(self, root: Path) -> None:
        """The dataset at `root`.

        Raises:
            SourceError: `meta/info.json` is missing, unreadable, or of a version that is not read.
        """
        self._root = Path(root)
        self._info = read_info(self._root)
        self._table = EpisodeTable(self._root, self._info)
        self._reader = RowReader()
        self._ranges: dict[str, Range | None] = {}

    @property
    def kind(self) -> str:
        """One of "lerobot-v2.0", "lerobot-v2.1" and "lerobot-v3.0"."""
        return f"lerobot-{self._info.version}"

    @property
    def dataset(self) -> str:
        """The folder's name; the repository's for a folder in the hub's cache."""
        for part in self._root.resolve().parts:
            if part.startswith("datasets--"):
                return part.removeprefix("datasets--").replace("--", "/")
        return self._root.resolve().name

    @property
    def root(self) -> Path:
        """The folder that holds meta/, data/ and videos/."""
        return self._root

    def episodes(self) -> Iterator[EpisodeInfo]:
        """Every episode of the table, in index order; reads no data file and no video.

        Raises:
            SourceError: the episode table cannot be read.
        """
        for record in self._table:
            yield self._listed(record)

    def open(self, info: EpisodeInfo, camera: str | None = None) -> Episode:
        """One episode seen by `camera` (full key, or its last part), or by the first fixed, non-black one.

        Fixed cameras go before those named after a wrist, hand or gripper; then names decide. Whether a camera is
        black is decided by its frames, up to the first that is not.

        Raises:
            EpisodeError: rows, frames or files of the episode are missing, damaged or disagree.
            UnknownCameraError: the episode has no camera of that name.
        """
        rows = self._rows(info)
        clock = _clock(rows, self._info.fps)
        view = self._view(info, rows, clock, camera)
        state, action = (_float32(rows.vector(key)) for key in ("observation.state", "action"))
        if state is not None and not np.isfinite(state).all():
            row = int(np.flatnonzero(~np.isfinite(state).all(axis=1))[0])
            raise CorruptDataError(f"{rows.relative}: observation.state of row {row} is not finite; drop the episode")
        valid = None if action is None else np.asarray(np.isfinite(action).all(axis=1))
        opening, convention = self._gripper(state, action)
        task, task_tags = self._task(info, rows)
        recorded = self._recorded(rows, view.camera)
        tags = {*info.tags, *clock.tags, *view.tags, *task_tags} - ({"no-language"} if task else set())
        if any(self._is_video(name) and not self._video_there(info, name) for name in info.cameras):
            tags.add("missing-view")
        if action is not None and valid is not None and not valid.all():
            tags.add("nan-action")
            # A row with one number missing is no command: the packet wants it NaN as a whole.
            action = np.where(valid[:, None], action, np.float32("nan"))
        return Episode(
            episode_id=info.episode_id,
            episode_index=info.episode_index,
            camera_name=view.camera,
            language_instruction=task,
            fps=clock.fps,
            pixels=view.pixels,
            timestamp=clock.times,
            action=action,
            action_valid=valid,
            state=state,
            state_names=self._names("observation.state", state),
            gripper=opening,
            camera=self._intrinsics(view),
            recorded_depth=recorded.get(_DEPTH),
            recorded_masks=recorded.get(_MASKS),
            recorded_robot=recorded.get("robot"),
            provenance=self._provenance(info, rows, view, convention),
            tags=tuple(sorted(tags)),
        )

    # -- listing

    def _listed(self, record: EpisodeRecord) -> EpisodeInfo:
        cameras = tuple(camera for camera in self._cameras if self._has_video(record, camera))
        key = {"episode_index": record.episode_index, "data": dict(record.data)}
        key["videos"] = {camera: dict(span) for camera, span in record.videos.items() if camera in cameras}
        task = next((task.strip() for task in record.tasks if task.strip()), "")
        tags = {*self._dataset_tags, *(["no-language"] if not task else []), *(["one-frame"] * (record.length == 1))}
        files = [self._data_file(key), *(self._video_file(key, camera) for camera in cameras if self._is_video(camera))]
        return EpisodeInfo(
            episode_id=f"episode_{record.episode_index:06d}",
            episode_index=record.episode_index,
            n_frames=record.length,
            language_instruction=task,
            cameras=cameras,
            fps=self._info.fps,
            files=(*(self._root / file for file in files), *self._meta_files),
            key=key,
            tags=tuple(sorted(tags)),
        )

    @cached_property
    def _cameras(self) -> tuple[str, ...]:
        """RGB cameras in name order; those declared but without a single file are left out."""
        cameras = [key for key, feature in self._info.features.items() if _is_rgb(feature)]
        there = [key for key in cameras if not self._is_video(key) or self._has_any_file(key)]
        return tuple(there or cameras)

    @cached_property
    def _dataset_tags(self) -> tuple[str, ...]:
        info, (episodes, frames) = self._info, self._table.counts()
        tags = []
        if info.total_episodes not in (None, episodes) or info.total_frames not in (None, frames):
            tags.append("wrong-totals")
        if any(feature.dtype == "video" and feature.is_depth for feature in info.features.values()):
            tags.append("depth-video-unread")
        return tuple(tags)

    @cached_property
    def _meta_files(self) -> tuple[Path, ...]:
        # The episode tables are not among them: an episode's own row is in its key.
        names = ("info.json", "tasks.jsonl", "tasks.parquet", "intrinsics.json", "stats.json", "episodes_stats.jsonl")
        return tuple(path for path in (self._root / "meta" / name for name in names) if path.exists())

    def _is_video(self, camera: str) -> bool:
        return self._info.features[camera].dtype == "video"

    def _has_video(self, record: EpisodeRecord, camera: str) -> bool:
        return self._info.version != "v3.0" or not self._is_video(camera) or camera in record.videos

    def _video_there(self, info: EpisodeInfo, camera: str) -> bool:
        """Whether a camera's file is there; another camera's absence costs this view nothing, and is tagged."""
        return (self._root / self._video_file(info.key, camera)).is_file()

    def _has_any_file(self, camera: str) -> bool:
        any_episode = re.sub(r"\{(?!video_key)[^}]*\}", "*", self._info.video_path or "")
        pattern = any_episode.replace("{video_key}", glob.escape(camera))
        return any(True for _ in self._root.glob(pattern)) if pattern else False

    def _data_file(self, key: Mapping[str, Any]) -> str:
        return relative_path(self._info.data_path, self._fields(key, key["data"]))

    def _video_file(self, key: Mapping[str, Any], camera: str) -> str:
        if self._info.video_path is None:
            raise SourceError(f"info.json declares the video {camera} but no video_path; correct info.json")
        span = key["videos"].get(camera, {})
        return relative_path(self._info.video_path, {**self._fields(key, span), "video_key": camera})

    def _fields(self, key: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, int | str]:
        """Values for the placeholders of both families, v2.x and v3.0."""
        chunk = key["episode_index"] // self._info.chunks_size
        return {
            "episode_chunk": chunk,
            "episode_index": key["episode_index"],
            "chunk_index": part.get("chunk_index", chunk),
            "file_index": part.get("file_index", key["episode_index"]),
        }

    # -- one episode

    def _rows(self, info: EpisodeInfo) -> EpisodeRows:
        relative = self._data_file(info.key)
        one_episode = self._info.version != "v3.0"
        rows = self._reader.read(self._root / relative, relative, info.episode_index, one_episode=one_episode)
        if len(rows) != info.n_frames:
            raise LengthMismatchError(
                f"episode {info.episode_index} should have {info.n_frames} rows by the episode table, {relative} has "
                f"{len(rows)}; correct the table or drop the episode"
            )
        return rows

    def _view(self, info: EpisodeInfo, rows: EpisodeRows, clock: _Clock, asked: str | None) -> _View:
        candidates = [self._camera(info, asked)] if asked is not None else _by_preference(info.cameras)
        if not candidates:
            raise MissingDataError(
                f"episode {info.episode_index} has no RGB camera to take by default, of {list(info.cameras)}; "
                "name one or drop the episode"
            )
        for camera in candidates:
            view = self._frames(info, rows, clock, camera)
            if _shows_something(view.pixels):
                return view
        raise BlankCameraError(
            f"episode {info.episode_index}: every frame of {' and '.join(candidates)} is black; "
            f"choose another camera of {sorted(info.cameras)}"
        )

    def _camera(self, info: EpisodeInfo, asked: str) -> str:
        # `image_0` and `wrist.left` stand for observation.images.image_0 and observation.images.wrist.left
        found = [name for name in info.cameras if name == asked] or [
            name for name in info.cameras if name.endswith(f".{asked}")
        ]
        if len(found) == 1:
            return found[0]
        raise UnknownCameraError(
            f"{'no' if not found else 'more than one'} camera named {asked!r} in episode {info.episode_index}; "
            f"choose one of {list(info.cameras)}"
        )

    def _frames(self, info: EpisodeInfo, rows: EpisodeRows, clock: _Clock, camera: str) -> _View:
        if not self._is_video(camera):
            pixels = ColumnPictures(rows, camera, rgb_picture, self._folders(rows, camera))
            return _View(camera, pixels, rows.relative, {"alignment": "picture of row i is frame i"})
        relative = self._video_file(info.key, camera)
        path = self._root / relative
        if not path.exists():
            raise MissingDataError(f"video {relative} of episode {info.episode_index} is not there; restore it")
        if self._info.version != "v3.0":
            return _own_video(path, relative, camera, clock)
        return _joined_video(path, relative, camera, clock, info.key["videos"][camera])

    def _folders(self, rows: EpisodeRows, column: str) -> tuple[Path, ...]:
        """Where pictures lie that a row only names: below the root, or in the folder LeRobot's writer leaves."""
        index = rows.table["episode_index"][0].as_py() if "episode_index" in rows.table.column_names else 0
        return self._root, self._root / "images" / column / f"episode_{index:06d}"

    def _recorded(self, rows: EpisodeRows, camera: str) -> dict[str, Frames]:
        """Recorded depth and masks of the camera's own name, lazily."""
        name = camera.rsplit(".", 1)[-1]
        recorded: dict[str, Frames] = {}
        depth = self._info.features.get(_DEPTH + name)
        if depth is not None and depth.dtype == "image":
            unit = _UNIT_M.get(depth.depth_unit or "mm")
            if unit is None:
                raise SourceError(f"depth_unit of {depth.key} should be 'mm' or 'm', got {depth.depth_unit!r}")
            recorded[_DEPTH] = ColumnPictures(rows, depth.key, metres_picture(unit), self._folders(rows, depth.key))
        masks = self._info.features.get(_MASKS + name)
        if masks is not None and masks.dtype == "image":
            folders = self._folders(rows, masks.key)
            recorded[_MASKS] = ColumnPictures(rows, masks.key, mask_picture(_OBJECT), folders)
            recorded["robot"] = ColumnPictures(rows, masks.key, mask_picture(_ROBOT), folders)
        return recorded

    def _gripper(
        self, state: NDArray[np.float32] | None, action: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32] | None, dict[str, Any] | None]:
        values = {"observation.state": state, "action": action}
        return gripper_opening({key: (self._names(key, value), value) for key, value in values.items()}, self._range)

    def _range(self, key: str) -> Range | None:
        if key not in self._ranges:
            self._ranges[key] = read_range(self._root, self._info, key)
        return self._ranges[key]

    def _names(self, key: str, values: NDArray[np.float32] | None) -> tuple[str, ...]:
        feature = self._info.features.get(key)
        fits = feature is not None and values is not None and len(feature.names) == values.shape[1]
        return feature.names if feature is not None and fits else ()

    def _task(self, info: EpisodeInfo, rows: EpisodeRows) -> tuple[str, tuple[str, ...]]:
        indices = rows.vector("task_index")
        known = [] if indices is None else [int(i) for i in dict.fromkeys(indices[:, 0].tolist()) if np.isfinite(i)]
        tags = ("several-tasks",) if len(known) > 1 else ()
        task = self._tasks.get(known[0], "").strip() if known else ""
        task = task or info.language_instruction
        return task, tags if task else (*tags, "no-language")

    @cached_property
    def _tasks(self) -> dict[int, str]:
        return read_tasks(self._root, self._info.version)

    @cached_property
    def _calibrated(self) -> dict[str, dict[str, float]]:
        path = self._root / "meta" / "intrinsics.json"
        if not path.exists():
            return {}
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            return {
                key: {name: float(row[name]) for name in ("fx", "fy", "cx", "cy", "width", "height")}
                for key, row in table.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(f"{path} should give fx, fy, cx, cy, width, height per camera: {error!r}") from error

    def _intrinsics(self, view: _View) -> Camera | None:
        row = self._calibrated.get(view.camera) or self._calibrated.get(view.camera.rsplit(".", 1)[-1])
        if row is None:
            return None
        height, width = view.pixels.shape[1:3]
        camera = Camera(
            **{name: row[name] for name in ("fx", "fy", "cx", "cy")},
            width=int(row["width"]),
            height=int(row["height"]),
            source="calibrated",
        )
        return camera.resized(width, height)

    def _provenance(
        self, info: EpisodeInfo, rows: EpisodeRows, view: _View, gripper: dict[str, Any] | None
    ) -> dict[str, Any]:
        numbers = rows.vector("frame_index")
        return {
            "dataset": self.dataset,
            "kind": self.kind,
            "path": rows.relative,
            "episode_index": info.episode_index,
            "key": dict(info.key),
            "camera": view.camera,
            "cameras": list(info.cameras),
            "frame_ids": list(range(len(rows))) if numbers is None else [int(n) for n in numbers[:, 0]],
            "frames": {"path": view.path, **view.alignment},
            "actions": "row t is the command recorded with frame t",
            "gripper": gripper,
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Clock:
    """times (T,) float64 seconds, as the rows give them; step: seconds between two rows."""

    times: NDArray[np.float64]
    step: float
    fps: float
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    camera: str
    pixels: Frames
    path: str
    alignment: dict[str, Any]
    tags: tuple[str, ...] = ()


def _clock(rows: EpisodeRows, declared: float) -> _Clock:
    column = rows.vector("timestamp")
    if column is None:
        raise MissingDataError(f"{rows.relative} has no column timestamp; restore it")
    times = column[:, 0]
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise CorruptDataError(f"{rows.relative}: timestamps should be finite and increase; correct the file")
    if len(times) < 2:
        return _Clock(times, 1 / declared, declared, ())
    step = float(np.median(np.diff(times)))
    # 1 %: float32 timestamps give the step of 50 fps to 0.3 % after some 1000 s
    if abs(step * declared - 1) < 0.01:
        return _Clock(times, step, declared, ())
    return _Clock(times, step, round(1 / step, 3), ("fps-mismatch",))


def _own_video(path: Path, relative: str, camera: str, clock: _Clock) -> _View:
    """Frames of a file that holds one episode: picture i for row i."""
    pictures = packet_times(path)
    if len(pictures) != len(clock.times):
        pictures = scan_video(path).times
    if len(pictures) != len(clock.times):
        raise LengthMismatchError(
            f"{relative} should have one frame for each of {len(clock.times)} rows, {len(pictures)} decoded; "
            "restore the file or drop the episode"
        )
    offset = float(np.abs(pictures - clock.times).max())
    words = {"alignment": "frame i of the file is row i", "largest_offset_s": round(offset, 6)}
    tags = ("timestamp-offset",) if offset > 0.5 * clock.step else ()
    return _View(camera, VideoFrames(path, pictures), relative, words, tags)


def _joined_video(path: Path, relative: str, camera: str, clock: _Clock, span: Mapping[str, Any]) -> _View:
    """Frames of a file that may hold many episodes: those nearest to from_timestamp + timestamp."""
    start, end = float(span["from_timestamp"] or 0.0), span.get("to_timestamp")
    times, shift = clock.times, 0.0
    if end is not None:
        n_frames = (float(end) - start) / clock.step
        if times[0] > 0.5 * clock.step and abs(n_frames - len(times)) < 0.5:
            # Timestamps that start late (at 1/fps in published datasets), while there is one frame for every row
            shift = float(times[0])
        last = start + float(times[-1]) - shift
        if last > float(end) - 0.25 * clock.step:
            raise LengthMismatchError(
                f"{relative}: the episode's part ends at {end:.4f} s, row {len(times) - 1} lies at {last:.4f} s; "
                "correct the episode table or drop the episode"
            )
    words = {"alignment": "frame nearest to from_timestamp + timestamp - shift", "from_timestamp": start}
    tags = ("timestamp-offset",) if shift else ()
    return _View(camera, VideoFrames(path, start + times - shift), relative, {**words, "shift_s": shift}, tags)


def _is_rgb(feature: Feature) -> bool:
    """Cameras are pictures that are neither depth maps nor masks; one-channel ones are depth in LeRobot's use."""
    if not feature.is_picture or feature.is_depth or feature.key.startswith((_DEPTH, _MASKS)):
        return False
    return feature.channels != 1


def _by_preference(cameras: tuple[str, ...]) -> list[str]:
    """Fixed cameras before moving ones, each in name order; coloured depth maps only when asked for by name."""
    real = [name for name in cameras if not _DEPTH_NAME.search(name)]
    return sorted(real, key=lambda name: (bool(_MOVING.search(name)), name))


def _shows_something(pixels: Frames) -> bool:
    return not all(is_black(frame) for frame in pixels)


def _float32(values: NDArray[np.float64] | None) -> NDArray[np.float32] | None:
    return None if values is None else values.astype(np.float32)
