"""LeRobot datasets, v2.0, v2.1 and v3.0.

Which frame belongs to row i:

* v2.x has one video per episode and camera. When it holds exactly as many pictures as the episode has rows, row i is
  picture i in presentation order; if the rows' timestamps say otherwise by more than half a frame (published datasets
  start at 1/fps) the episode is tagged "timestamp-offset". Any other number of pictures is a length mismatch.
* v3.0 has many episodes in one video, and each camera its own files: see `lerobot_spans`.

`action` row t is the command recorded with frame t, so every row has one. The timestamps give the frame rate where
`info.json` says another ("fps-mismatch"). A rate or total that is wrong in `info.json` harms nothing and is tagged.
Columns of other names than LeRobot's are taken where `source.columns` names them, and listed as left out else.
"""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.cuts import is_black
from extractors.errors import (
    BlankCameraError,
    CorruptDataError,
    EpisodeError,
    GeometryError,
    LengthMismatchError,
    MissingDataError,
    SourceError,
    UnknownCameraError,
)
from extractors.types import Camera, Episode, Frames
from flows.config import SourceConfig
from flows.sources.base import EpisodeInfo, LeftOut
from flows.sources.cells import number
from flows.sources.decode_order import DecodeOrder
from flows.sources.files import read_json
from flows.sources.lerobot_gripper import Sense, gripper_opening, sense_of
from flows.sources.lerobot_info import Feature, Info, read_info, relative_path
from flows.sources.lerobot_rows import ColumnPictures, EpisodeRows, RowReader, mask_picture, metres_picture, rgb_picture
from flows.sources.lerobot_spans import Claim, JoinedFile, Trim
from flows.sources.lerobot_tables import EpisodeRecord, EpisodeTable, Range, read_range, read_tasks
from flows.sources.video import Pictures, VideoFrames, is_cut, list_pictures, scan_video

_DEPTH, _MASKS = "observation.depth.", "observation.masks."
_OBJECT, _ROBOT = 1, 2  # labels of a mask image
_MOVING = re.compile(r"wrist|hand|gripper", re.IGNORECASE)  # eye_in_hand among them
_DEPTH_NAME = re.compile(r"(^|[._])depth([._]|$)", re.IGNORECASE)
_UNIT_M = {"mm": 0.001, "m": 1.0}
_COLUMNS = {"state": "observation.state", "action": "action"}
COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_LIKE = {"action": re.compile(r"action", re.IGNORECASE), "state": re.compile(r"state", re.IGNORECASE)}
_LOOKED_AT = 40  # episodes whose gripper is looked at where nothing names its sense
_GRIPPER = re.compile(r"gripper", re.IGNORECASE)


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

    def __init__(self, root: Path, settings: SourceConfig | None = None) -> None:
        """The dataset at `root`.

        Raises:
            SourceError: `meta/info.json` is missing, unreadable, or of a version that is not read; or `settings` name
                a column that it does not declare.
        """
        self._root = Path(root)
        self._settings = settings or SourceConfig()
        self._info = read_info(self._root)
        self._table = EpisodeTable(self._root, self._info)
        self._reader = RowReader(self._root)
        self._ranges: dict[str, Range | None] = {}
        self._senses: dict[tuple[str, int], Sense] = {}
        self._listed_pictures: tuple[object, Pictures] | None = None
        self._in_order = DecodeOrder()
        self._known_files: dict[Path, bool] = {}
        self._columns = self._taken_columns()

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

    @property
    def info(self) -> Info:
        """What info.json says."""
        return self._info

    @property
    def settings(self) -> SourceConfig:
        """How it is read."""
        return self._settings

    @property
    def table(self) -> EpisodeTable:
        """The episode table."""
        return self._table

    @cached_property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Signal ("action", "state", "gripper") -> the columns that are taken for it."""
        return dict(self._columns)

    @property
    def cameras(self) -> tuple[str, ...]:
        """RGB cameras that have a file, in name order."""
        return self._cameras

    @property
    def tasks(self) -> dict[int, str]:
        """The task table."""
        return self._tasks

    def data_files(self) -> dict[str, list[EpisodeRecord]]:
        """By data file, relative to the root, the episodes that the table puts into it."""
        files: dict[str, list[EpisodeRecord]] = {}
        for record, _ in self._fetched():
            key = {"episode_index": record.episode_index, "data": dict(record.data)}
            files.setdefault(self._data_file(key), []).append(record)
        return files

    def video_files(self) -> dict[str, tuple[str, list[Claim]]]:
        """By video file, relative to the root, its camera and the part of each episode that the tables put into it."""
        files: dict[str, tuple[str, list[Claim]]] = {}
        for record, _ in self._fetched():
            for camera in self._cameras:
                if self._is_video(camera) and self._has_video(record, camera):
                    span = dict(record.videos.get(camera, {}))
                    key = {"episode_index": record.episode_index, "videos": {camera: span}}
                    claim = Claim(
                        record.episode_index, record.length, span.get("from_timestamp"), span.get("to_timestamp")
                    )
                    files.setdefault(self._video_file(key, camera), (camera, []))[1].append(claim)
        return files

    def episodes(self) -> Iterator[EpisodeInfo]:
        """The episodes of the table in index order, without those of which no file was fetched; reads no such file.

        Raises:
            SourceError: the episode table cannot be read.
        """
        yield from (info for _, info in self._fetched())

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
        state, action = (self._vector(rows, signal) for signal in _COLUMNS)
        if state is not None and not np.isfinite(state).all():
            row = int(np.flatnonzero(~np.isfinite(state).all(axis=1))[0])
            name = " and ".join(self._columns["state"])
            raise CorruptDataError(f"{rows.relative}: {name} of row {row} is not finite; drop the episode")
        valid = None if action is None else np.asarray(np.isfinite(action).all(axis=1))
        opening, convention, gripper_tags = self._gripper(rows, state, action)
        task, task_tags = self._task(info, rows)
        recorded = self._recorded(info.episode_index, rows, view.camera)
        tags = {*info.tags, *clock.tags, *view.tags, *task_tags, *gripper_tags}
        tags -= {"no-language"} if task else set()
        if rows.relative != self._data_file(info.key):
            tags.add("stale-file-index")
        if any(self._is_video(name) and not self._video_there(info, name) for name in info.cameras):
            tags.add("missing-view")
        if action is not None and valid is not None and not valid.all():
            tags.add("nan-action")
            # A row with one number missing cannot be a command: the whole row is NaN in the packet.
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
            state_names=self._names("state", state),
            gripper=opening,
            camera=self._intrinsics(view),
            recorded_depth=recorded.get(_DEPTH),
            recorded_masks=recorded.get(_MASKS),
            recorded_robot=recorded.get("robot"),
            provenance=self._provenance(info, rows, view, convention),
            tags=tuple(sorted(tags)),
        )

    def reread(self, episode: Episode) -> Iterator[Any] | None:
        """The pictures of the episode's video counted from the file's start, by the lengths of the episodes in it.

        None for pictures of a column, and where rows and pictures are not one for one, so that counting tells nothing.
        """
        frames, key = episode.provenance["frames"], episode.provenance["key"]
        if not self._is_video(episode.camera_name):
            return None
        first = 0
        if self._info.version == "v3.0":
            span = key["videos"][episode.camera_name]
            claims = self._claims[episode.camera_name, span["chunk_index"], span["file_index"]]
            if sum(claim.length or 0 for claim in claims) != frames["pictures"]:
                return None
            claims = sorted(claims, key=lambda claim: (claim.start or 0.0, claim.episode_index))
            before = itertools.takewhile(lambda claim: claim.episode_index != episode.episode_index, claims)
            first = sum(claim.length or 0 for claim in before)
        elif frames["pictures"] > episode.n_frames and self._settings.trim == "start":
            first = frames["pictures"] - episode.n_frames
        return self._in_order.pictures(self._root / frames["path"], range(first, first + episode.n_frames))

    # -- listing

    def left_out(self) -> tuple[LeftOut, ...]:
        """Episodes, columns, cameras and depth videos that the dataset declares and that packets will lack."""
        features = self._info.features
        out = self._not_fetched()
        for signal, name in _COLUMNS.items():
            if not self._columns[signal]:
                like = [key for key in self._numeric if _LIKE[signal].search(key)]
                found = f"no column {name!r}; the dataset has {_quoted(like)}" if like else ""
                value = like[0] if len(like) == 1 else f"[{','.join(like)}]"
                out += [LeftOut(signal, found, f"source.columns.{signal}={value}")] if like else []
        alone = [key for key in self._numeric if _GRIPPER.search(key) and key not in self._all_columns]
        if alone and not self._gripper_is_named:
            out.append(LeftOut("gripper", f"it may be in {_quoted(alone)}", f"source.columns.gripper={alone[0]}"))
        lost = [key for key in features if _is_rgb(features[key]) and key not in self._cameras]
        out += [LeftOut("camera", f"info.json declares {_quoted(lost)}, of which no file is there")] if lost else []
        depth = [key for key, feature in features.items() if feature.dtype == "video" and feature.is_depth]
        out += [LeftOut("depth", f"depth videos are not read: {_quoted(depth)}")] if depth else []
        return tuple(out)

    def _not_fetched(self) -> list[LeftOut]:
        """The episodes that a partial download lacks altogether; one that lacks a part of its files fails by itself."""
        infos = [info for info in map(self._listed, self._table) if not self._is_fetched(info)]
        if not infos:
            return []
        first, (listed, _) = infos[0].files[0].relative_to(self._root), self._table.counts()
        return [LeftOut("episodes", f"no file of {len(infos)} of {listed} episodes was fetched; the first is {first}")]

    def _fetched(self) -> Iterator[tuple[EpisodeRecord, EpisodeInfo]]:
        listed = ((record, self._listed(record)) for record in self._table)
        return ((record, info) for record, info in listed if self._is_fetched(info))

    def _is_fetched(self, info: EpisodeInfo) -> bool:
        """Whether any file of the episode itself is there; an episode with a fault in the table is listed to say so."""
        own = info.files[: len(info.files) - len(self._meta_files)]
        return bool(info.key.get("fault")) or any(self._there(path) for path in own)

    def _there(self, path: Path) -> bool:
        # A file of v3.0 serves many episodes, and 60,000 are asked for.
        if path not in self._known_files:
            self._known_files[path] = path.is_file()
        return self._known_files[path]

    def _taken_columns(self) -> dict[str, tuple[str, ...]]:
        """Columns of each signal: those that the settings name, else LeRobot's own name where the dataset has it."""
        asked = self._settings.columns
        taken = {}
        for signal, names in (("action", asked.action), ("state", asked.state), ("gripper", asked.gripper)):
            unknown = [name for name in names if name not in self._numeric]
            if unknown:
                raise SourceError(
                    f"source.columns.{signal}: no column of numbers named {_quoted(unknown)}; the dataset has "
                    f"{_quoted(self._numeric)}"
                )
            own = _COLUMNS.get(signal, "")
            taken[signal] = tuple(names) or ((own,) if own in self._info.features else ())
        return taken

    @cached_property
    def _numeric(self) -> tuple[str, ...]:
        """Columns of numbers other than counters, in name order."""
        return tuple(
            key
            for key, feature in self._info.features.items()
            if not feature.is_picture and feature.dtype != "string" and key not in COUNTERS
        )

    @property
    def _all_columns(self) -> tuple[str, ...]:
        return tuple(name for names in self._columns.values() for name in names)

    @property
    def _gripper_is_named(self) -> bool:
        names = [name for key in self._all_columns for name in self._info.features[key].names]
        return bool(self._columns["gripper"]) or any(_GRIPPER.search(name) for name in names)

    def _listed(self, record: EpisodeRecord) -> EpisodeInfo:
        cameras = tuple(camera for camera in self._cameras if self._has_video(record, camera))
        key = {"episode_index": record.episode_index, "data": dict(record.data)}
        key["videos"] = {camera: dict(span) for camera, span in record.videos.items() if camera in cameras}
        if record.fault:
            key["fault"] = record.fault
        task = next((task for task in map(self._instruction, record.tasks) if task), "")
        tags = {*self._dataset_tags, *(["no-language"] if not task else []), *(["one-frame"] * (record.length == 1))}
        files = [self._data_file(key), *(self._video_file(key, camera) for camera in cameras if self._is_video(camera))]
        return EpisodeInfo(
            episode_id=f"episode_{record.episode_index:06d}",
            episode_index=record.episode_index,
            n_frames=record.length,
            language_instruction=task,
            cameras=cameras,
            fps=self._info.fps,
            files=(*(_joined(self._root, file) for file in files), *self._meta_files),
            key=key,
            tags=tuple(sorted(tags)),
        )

    def _instruction(self, task: str | int) -> str:
        return task if isinstance(task, str) else self._tasks.get(task, "")

    @cached_property
    def _claims(self) -> dict[tuple[str, int, int], list[Claim]]:
        """By camera and file of v3.0, the part of each episode that the tables put into it."""
        claims: dict[tuple[str, int, int], list[Claim]] = {}
        for record in self._table:
            for camera, span in record.videos.items():
                place = (camera, span["chunk_index"], span["file_index"])
                claim = Claim(record.episode_index, record.length, span["from_timestamp"], span["to_timestamp"])
                claims.setdefault(place, []).append(claim)
        return claims

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
        tags += [f"no-{signal}" for signal in _COLUMNS if not self._columns[signal]]
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
        if info.key.get("fault"):
            raise CorruptDataError(f"episode {info.episode_index}: {info.key['fault']}")
        relative = self._data_file(info.key)
        one_episode = self._info.version != "v3.0"
        columns = (*self._all_columns, *COUNTERS)
        rows = self._reader.read(relative, info.episode_index, columns, one_episode=one_episode)
        if len(rows) != info.n_frames and info.n_frames is not None:
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
            pixels = ColumnPictures(rows, camera, rgb_picture, self._folders(info.episode_index, camera))
            return _View(camera, pixels, rows.relative, {"alignment": "picture of row i is frame i"})
        relative = self._video_file(info.key, camera)
        path = self._root / relative
        if not path.exists():
            raise MissingDataError(f"video {relative} of episode {info.episode_index} is not there; restore it")
        pictures = self._pictures(path)
        if self._info.version != "v3.0":
            return _own_video(path, relative, camera, clock, pictures, self._settings.trim)
        span = info.key["videos"][camera]
        claims = self._claims[camera, span["chunk_index"], span["file_index"]]
        pictures = pictures if pictures.sure else _decoded(path, pictures)
        file = JoinedFile(relative, claims, pictures.times, is_cut(path), self._settings.trim)
        placed = file.place(info.episode_index, clock.times, clock.step)
        words = {**placed.words, "from_timestamp": span["from_timestamp"], "pictures": pictures.count}
        return _View(camera, VideoFrames(path, placed.numbers, pictures), relative, words, placed.tags)

    def _pictures(self, path: Path) -> Pictures:
        """The pictures of a video; the last file's are kept, as a joined one serves many episodes."""
        stat = path.stat()
        key = (path, stat.st_mtime_ns, stat.st_size)
        if self._listed_pictures is None or self._listed_pictures[0] != key:
            self._listed_pictures = key, list_pictures(path)
        return self._listed_pictures[1]

    def _folders(self, episode_index: int, column: str) -> tuple[Path, ...]:
        """Where pictures are stored that a row only names: below the root, or in the folder LeRobot's writer leaves."""
        return self._root, self._root / "images" / column / f"episode_{episode_index:06d}"

    def _recorded(self, index: int, rows: EpisodeRows, camera: str) -> dict[str, Frames]:
        """Recorded depth and masks of the camera's own name, lazily."""
        name = camera.rsplit(".", 1)[-1]
        recorded: dict[str, Frames] = {}
        depth = self._info.features.get(_DEPTH + name)
        if depth is not None and depth.dtype == "image":
            unit = _UNIT_M.get(depth.depth_unit or "mm")
            if unit is None:
                raise SourceError(f"depth_unit of {depth.key} should be 'mm' or 'm', got {depth.depth_unit!r}")
            recorded[_DEPTH] = ColumnPictures(rows, depth.key, metres_picture(unit), self._folders(index, depth.key))
        masks = self._info.features.get(_MASKS + name)
        if masks is not None and masks.dtype == "image":
            folders = self._folders(index, masks.key)
            recorded[_MASKS] = ColumnPictures(rows, masks.key, mask_picture(_OBJECT), folders)
            recorded["robot"] = ColumnPictures(rows, masks.key, mask_picture(_ROBOT), folders)
        return recorded

    def _vector(self, rows: EpisodeRows, signal: str) -> NDArray[np.float32] | None:
        """(T, N) float32 of a signal's columns joined in order, None where the dataset has none.

        Raises:
            MissingDataError: the dataset declares a column that this episode's file lacks.
        """
        parts = []
        for name in self._columns[signal]:
            values = rows.vector(name)
            if values is None:
                raise MissingDataError(
                    f"{rows.relative} has no column {name!r}, which info.json declares; restore it, or name another "
                    f"with source.columns.{signal}"
                )
            parts.append(values)
        with np.errstate(over="ignore"):  # too large for float32 becomes inf, which is looked for
            return np.concatenate(parts, axis=1).astype(np.float32) if parts else None

    def _gripper(
        self, rows: EpisodeRows, state: NDArray[np.float32] | None, action: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32] | None, dict[str, Any] | None, tuple[str, ...]]:
        values = {"state": state, "action": action}
        columns = {signal: (self._names(signal, value), value, self._range(signal)) for signal, value in values.items()}
        alone = self._vector(rows, "gripper")
        if alone is not None:
            names = self._names("gripper", alone)
            names = names or tuple(f"gripper {i}" for i in range(alone.shape[1]))
            columns = {"gripper": (names, alone, self._range("gripper")), **columns}
        return gripper_opening(columns, self._sense)

    def _sense(self, signal: str, element: int, name: str) -> Sense:
        """Which end of a gripper's element is open: by the settings, its name, the robot, else a look at the data."""
        if self._settings.gripper_open != "auto":
            return Sense(self._settings.gripper_open == 0, "source.gripper_open")
        sense = sense_of(name, f"{self._info.robot_type} {self.dataset}")
        if sense is not None:
            return sense
        if (signal, element) not in self._senses:
            self._senses[signal, element] = Sense.from_episodes(self._some_episodes(signal, element))
        return self._senses[signal, element]

    def _some_episodes(self, signal: str, element: int) -> Iterator[NDArray[np.float32]]:
        """One element of a signal in a few episodes spread over the dataset."""
        records = [record for record in self._table if not record.fault]
        for record in records[:: max(1, len(records) // _LOOKED_AT)]:
            try:
                values = self._vector(self._rows(self._listed(record)), signal)
            except EpisodeError:
                continue  # it fails when it is opened
            if values is not None and element < values.shape[1]:
                yield values[:, element]

    def _range(self, signal: str) -> Range | None:
        if signal not in self._ranges:
            parts = [read_range(self._root, self._info, name) for name in self._columns[signal]]
            ranges = [part for part in parts if part is not None]
            whole = bool(ranges) and len(ranges) == len(parts)
            self._ranges[signal] = (
                (np.concatenate([low for low, _ in ranges]), np.concatenate([high for _, high in ranges]))
                if whole
                else None
            )
        return self._ranges[signal]

    def _names(self, signal: str, values: NDArray[np.float32] | None) -> tuple[str, ...]:
        """Names of the elements of a signal, () where they are unknown."""
        names: list[str] = []
        for key in self._columns[signal]:
            feature = self._info.features[key]
            own = feature.names
            # One number needs no name of its own.
            names += own or ((key,) if feature.shape in ((1,), ()) else ())
        return tuple(names) if values is not None and len(names) == values.shape[1] else ()

    def _task(self, info: EpisodeInfo, rows: EpisodeRows) -> tuple[str, tuple[str, ...]]:
        indices = rows.vector("task_index")
        numbers = [] if indices is None else dict.fromkeys(indices[:, 0].tolist())
        task_numbers = [int(number) for number in numbers if np.isfinite(number)]
        tags = ("several-tasks",) if len(task_numbers) > 1 else ()
        task = self._tasks.get(task_numbers[0], "") if task_numbers else ""
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
        table = read_json(path)
        try:
            return {
                key: {name: _known(row[name]) for name in ("fx", "fy", "cx", "cy", "width", "height")}
                for key, row in table.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(f"{path} should give fx, fy, cx, cy, width, height per camera: {error!r}") from error

    def _intrinsics(self, view: _View) -> Camera | None:
        row = self._calibrated.get(view.camera) or self._calibrated.get(view.camera.rsplit(".", 1)[-1])
        if row is None:
            return None
        height, width = view.pixels.shape[1:3]
        try:
            camera = Camera(
                **{name: row[name] for name in ("fx", "fy", "cx", "cy")},
                width=int(row["width"]),
                height=int(row["height"]),
                source="calibrated",
            )
            return camera.resized(width, height)
        except GeometryError as error:
            raise CorruptDataError(f"meta/intrinsics.json: {error}") from error

    def _provenance(
        self, info: EpisodeInfo, rows: EpisodeRows, view: _View, gripper: dict[str, Any] | None
    ) -> dict[str, Any]:
        given = rows.vector("frame_index")
        numbers = np.arange(len(rows)) if given is None or not np.isfinite(given).all() else given[:, 0]
        return {
            "dataset": self.dataset,
            "kind": self.kind,
            "path": rows.relative,
            "episode_index": info.episode_index,
            "key": dict(info.key),
            "camera": view.camera,
            "cameras": list(info.cameras),
            "frame_ids": [int(n) for n in numbers],
            "frames": {"path": view.path, **view.alignment},
            "actions": "row t is the command recorded with frame t",
            "columns": {signal: list(names) for signal, names in self._columns.items() if names},
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


def _own_video(path: Path, relative: str, camera: str, clock: _Clock, pictures: Pictures, trim: Trim) -> _View:
    """Frames of a file that holds one episode: picture i for row i."""
    n_rows = len(clock.times)
    if pictures.count != n_rows:
        pictures = _decoded(path, pictures)
    surplus = pictures.count - n_rows
    if surplus and (surplus < 0 or trim == "off"):
        raise LengthMismatchError(
            f"{relative} should have one frame for each of {n_rows} rows, {pictures.count} decoded; restore the file, "
            "drop the episode, or set source.trim=start or end where the pictures too many are there"
        )
    numbers = np.arange(n_rows) + (surplus if trim == "start" else 0)
    offset = float(np.abs(pictures.times[numbers] - clock.times).max())
    words = {
        "alignment": "frame i of the file is row i" + (f", less {surplus} at its {trim}" if surplus else ""),
        "first_picture": int(numbers[0]),
        "pictures": pictures.count,
        "largest_offset_s": round(offset, 6),
    }
    tags = ("timestamp-offset",) * (offset > 0.5 * clock.step) + ("pictures-trimmed",) * bool(surplus)
    return _View(camera, VideoFrames(path, numbers, pictures), relative, words, tags)


def _decoded(path: Path, pictures: Pictures) -> Pictures:
    """The pictures that decode, for files whose packets do not tell; those are found by counting from the start."""
    scan = scan_video(path)
    if pictures.stamps is not None and len(scan.times) == pictures.count:
        return pictures
    return Pictures(None, len(scan.times), scan.times, sure=True)


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


@lru_cache(maxsize=1024)  # a file of v3.0 serves many episodes, which share its path
def _joined(root: Path, name: str) -> Path:
    return root / name


def _known(value: Any) -> float:
    found = number(value)
    if found is None:
        raise ValueError("a number is missing")
    return found


def _quoted(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
