"""What a LeRobot dataset says about itself: info.json, path templates, episode and task tables, statistics.

v2.0 and v2.1 keep episodes and tasks as JSON lines, v3.0 as parquet; both are read here into the same records. A
part of a dataset may be missing on disk and `episode_index` need not start at 0: the tables are followed, not counters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extractors.errors import SourceError

READABLE = ("v2.0", "v2.1", "v3.0")
_PLACEHOLDERS = {"episode_chunk", "episode_index", "chunk_index", "file_index", "video_key"}


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the dataset.

    Attributes:
        key: full name, `observation.images.image_0`.
        dtype: "video", "image", "float32", ...
        names: names of the elements of a vector, () where unknown; of an image's axes.
        shape: as declared; for pictures the file decides.
        is_depth: marked as a depth map (`is_depth_map`, older `video.is_depth_map`).
        depth_unit: "mm" or "m" where a depth map says so.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    is_depth: bool
    depth_unit: str | None

    @property
    def is_picture(self) -> bool:
        """Whether its values are images, as files or as bytes."""
        return self.dtype in ("video", "image")

    @property
    def channels(self) -> int | None:
        """Channels of a picture, by the names of its axes: (H, W, C) and (C, H, W) are both published."""
        for name, size in zip(self.names, self.shape, strict=False):
            if name in ("channel", "channels"):
                return size
        return self.shape[2] if len(self.shape) == 3 else None


@dataclass(frozen=True, slots=True)
class Info:
    """`meta/info.json`, parsed.

    Attributes:
        version: "v2.0", "v2.1" or "v3.0".
        fps: as declared; the rows' timestamps decide.
        total_episodes, total_frames: as declared, None where absent.
        chunks_size: episodes in one chunk folder (v2.x).
        data_path, video_path: templates relative to the root; `video_path` is None without videos.
        features: by key, in name order.
        robot_type: "" where unknown.
    """

    version: str
    fps: float
    total_episodes: int | None
    total_frames: int | None
    chunks_size: int
    data_path: str
    video_path: str | None
    features: Mapping[str, Feature]
    robot_type: str


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """One row of the episode table.

    Attributes:
        episode_index: the dataset's own number.
        length: rows that the episode should have.
        tasks: instructions, the first being the episode's.
        data: {"chunk_index", "file_index"} of the parquet file, empty in v2.x.
        videos: by camera {"chunk_index", "file_index", "from_timestamp", "to_timestamp"}, empty in v2.x.
    """

    episode_index: int
    length: int
    tasks: tuple[str, ...]
    data: Mapping[str, int] = field(default_factory=dict)
    videos: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_info(root: Path) -> Info:
    """`meta/info.json` of the dataset at `root`.

    Raises:
        SourceError: it is missing, no JSON, of a version that is not read, or has a template that leaves the root.
    """
    path = root / "meta" / "info.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = _version(str(raw["codebase_version"]))
        info = Info(
            version=version,
            fps=float(raw["fps"]),
            total_episodes=raw.get("total_episodes"),
            total_frames=raw.get("total_frames"),
            chunks_size=int(raw.get("chunks_size") or 1000),
            data_path=str(raw["data_path"]),
            video_path=raw.get("video_path"),
            features={key: _feature(key, raw["features"][key]) for key in sorted(raw["features"].keys())},
            robot_type=str(raw.get("robot_type") or ""),
        )
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(f"cannot read {path}: {error}; restore the file") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path} is not a LeRobot info.json ({type(error).__name__}: {error})") from error
    if not (np.isfinite(info.fps) and info.fps > 0 and info.chunks_size > 0):
        raise SourceError(f"{path}: fps and chunks_size should be positive, got {info.fps} and {info.chunks_size}")
    for template in filter(None, (info.data_path, info.video_path)):
        _check_template(template)
    return info


def relative_path(template: str, fields: Mapping[str, int | str]) -> str:
    """`template` filled in, as a posix path that stays below the dataset's root.

    Raises:
        SourceError: a placeholder has no value, or the path leaves the root.
    """
    try:
        path = template.format(**fields)
    except (KeyError, ValueError, IndexError) as error:
        raise SourceError(f"path template {template!r} cannot be filled from {sorted(fields)}: {error}") from error
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
        raise SourceError(f"path template {template!r} leads out of the dataset: {path!r}; correct info.json")
    return str(pure)


class EpisodeTable:
    """The dataset's list of episodes, read lazily in index order."""

    def __init__(self, root: Path, info: Info) -> None:
        """The table of the dataset at `root`; reads nothing yet."""
        self._root = root
        self._info = info
        self._counts: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[EpisodeRecord]:
        """Every episode once, by ascending index.

        Raises:
            SourceError: the table is missing or cannot be read.
        """
        last = -1
        for record in self._parquet() if self._info.version == "v3.0" else self._json_lines():
            if record.episode_index == last:
                continue
            last = record.episode_index
            yield record

    def counts(self) -> tuple[int, int]:
        """(episodes, frames) that the table adds up to.

        Raises:
            SourceError: the table is missing or cannot be read.
        """
        if self._counts is None:
            if self._info.version == "v3.0":
                tables = [_columns(path, ["episode_index", "length"]) for path in self._files()]
                self._counts = sum(len(t) for t in tables), sum(int(np.sum(t["length"].to_numpy())) for t in tables)
            else:
                lengths = [_count(row, "length", self._lines) for row in read_json_lines(self._lines)]
                self._counts = len(lengths), sum(lengths)
        return self._counts

    @property
    def _lines(self) -> Path:
        return self._root / "meta" / "episodes.jsonl"

    def _files(self) -> list[Path]:
        files = sorted((self._root / "meta" / "episodes").glob("**/*.parquet"), key=natural_order)
        if not files:
            raise SourceError(f"no episode table below {self._root / 'meta' / 'episodes'}; restore meta/episodes")
        return files

    def _json_lines(self) -> Iterator[EpisodeRecord]:
        indices = [_count(row, "episode_index", self._lines) for row in read_json_lines(self._lines)]
        rows = read_json_lines(self._lines)
        if any(a > b for a, b in pairwise(indices)):
            rows = iter(sorted(rows, key=lambda row: int(row["episode_index"])))
        for row in rows:
            tasks = row.get("tasks") or ()
            yield EpisodeRecord(
                episode_index=int(row["episode_index"]),
                length=_count(row, "length", self._lines),
                tasks=(tasks,) if isinstance(tasks, str) else tuple(str(task) for task in tasks),
            )

    def _parquet(self) -> Iterator[EpisodeRecord]:
        # One file at a time, and only these columns: the statistics beside them are hundreds of numbers a row.
        cameras = [key for key, feature in self._info.features.items() if feature.dtype == "video"]
        starts = [(_lowest(path), path) for path in self._files()]
        for _, path in sorted(starts, key=lambda start: start[0]):
            names = pq.read_schema(path).names
            wanted = ["episode_index", "length", "data/chunk_index", "data/file_index"]
            videos = {key: _span_columns(key) for key in cameras if _span_columns(key)["file_index"] in names}
            wanted += [column for span in videos.values() for column in span.values() if column in names]
            table = _columns(path, [*wanted, *(["tasks"] if "tasks" in names else [])])
            order = np.argsort(table["episode_index"].to_numpy(), kind="stable")
            for row in table.take(order).to_pylist():
                yield _record(row, videos)


def read_tasks(root: Path, version: str) -> dict[int, str]:
    """Instructions by `task_index`; empty where the table is missing (the episode table has them too).

    Raises:
        SourceError: the table is there but cannot be read.
    """
    if version != "v3.0":
        path = root / "meta" / "tasks.jsonl"
        if not path.exists():
            return {}
        return {_count(row, "task_index", path): str(row.get("task") or "") for row in read_json_lines(path)}
    path = root / "meta" / "tasks.parquet"
    if not path.exists():
        return {}
    # The instruction is the pandas index of the table: its column is named "task" or "__index_level_0__".
    names = [name for name in _schema(path).names if name != "task_index"]
    text = "task" if "task" in names else next(iter(names), "task")
    table = _columns(path, ["task_index", text])
    return {int(row["task_index"]): str(row[text] or "") for row in table.to_pylist()}


def read_range(root: Path, info: Info, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Smallest and largest value of each element of column `key` over the dataset, None where nothing tells.

    Read from `meta/stats.json`, else put together from the episodes' own statistics.
    """
    stats = root / "meta" / "stats.json"
    lines = root / "meta" / "episodes_stats.jsonl"
    if stats.exists():
        try:
            pairs = [json.loads(stats.read_text(encoding="utf-8")).get(key)]
        except (OSError, ValueError, AttributeError) as error:
            raise SourceError(f"cannot read {stats}: {error}; restore or remove it") from error
    elif lines.exists():
        pairs = [row.get("stats", {}).get(key) for row in read_json_lines(lines)]
    elif info.version == "v3.0":
        pairs = list(_parquet_stats(root, key))
    else:
        return None
    found = [pair for pair in pairs if pair and "min" in pair and "max" in pair]
    if not found:
        return None
    low = np.min([np.asarray(pair["min"], np.float64).ravel() for pair in found], axis=0)
    high = np.max([np.asarray(pair["max"], np.float64).ravel() for pair in found], axis=0)
    return low, high


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSON-lines file, one at a time.

    Raises:
        SourceError: the file is missing, or a line is no JSON object.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise SourceError(f"{path}, line {number}: wanted a JSON object, got {line[:40]!r}")
                    yield row
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(f"cannot read {path}: {error}; restore the file") from error


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """Sort key that puts file_10 after file_9, folder by folder."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def _version(text: str) -> str:
    match = re.fullmatch(r"v?(\d+)\.(\d+).*", text)
    major, minor = (int(match[1]), int(match[2])) if match else (0, 0)
    if major == 2:
        return f"v2.{min(minor, 1)}"
    if major == 3:
        return "v3.0"
    raise SourceError(f"LeRobot datasets of version {', '.join(READABLE)} are read, this one is {text!r}; convert it")


def _feature(key: str, raw: Mapping[str, Any]) -> Feature:
    # `info` is today's name, `video_info` the older one; both are hints.
    hints = {**(raw.get("video_info") or {}), **(raw.get("info") or {})}
    return Feature(
        key=key,
        dtype=str(raw["dtype"]),
        shape=tuple(int(size) for size in raw.get("shape") or ()),
        names=_flat_names(raw.get("names")),
        is_depth=bool(hints.get("is_depth_map") or hints.get("video.is_depth_map")),
        depth_unit=hints.get("depth_unit"),
    )


def _flat_names(names: Any) -> tuple[str, ...]:
    """A list, a nested list, a dict of lists or a dict of positions, as a flat tuple."""
    if isinstance(names, Mapping):
        if all(isinstance(value, int) for value in names.values()):
            return tuple(sorted(names, key=lambda name: names[name]))
        return tuple(name for value in names.values() for name in _flat_names(value))
    if isinstance(names, list):
        return tuple(name for value in names for name in (_flat_names(value) or (str(value),)))
    return ()


def _check_template(template: str) -> None:
    for _, name, width, conversion in Formatter().parse(template):
        # Attribute look-ups and huge paddings in a format string are an attack, not a path.
        if name is not None and (
            name not in _PLACEHOLDERS or conversion or not re.fullmatch(r"(0?\d{1,2}d?)?", width or "")
        ):
            raise SourceError(
                f"path template {template!r}: placeholder {name!r} should be one of {sorted(_PLACEHOLDERS)}, "
                "as in {episode_index:06d}; correct info.json"
            )
    relative_path(template, dict.fromkeys(_PLACEHOLDERS, 0))


def _span_columns(key: str) -> dict[str, str]:
    fields = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    return {name: f"videos/{key}/{name}" for name in fields}


def _record(row: Mapping[str, Any], videos: Mapping[str, Mapping[str, str]]) -> EpisodeRecord:
    # A camera that an episode does not have is null in its row.
    spans = {key: {name: row.get(column) for name, column in span.items()} for key, span in videos.items()}
    return EpisodeRecord(
        episode_index=row["episode_index"],
        length=row["length"],
        tasks=tuple(row.get("tasks") or ()),
        data={"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]},
        videos={key: span for key, span in spans.items() if span["file_index"] is not None},
    )


def _parquet_stats(root: Path, key: str) -> Iterator[dict[str, Any]]:
    names = [f"stats/{key}/min", f"stats/{key}/max"]
    for path in sorted((root / "meta" / "episodes").glob("**/*.parquet")):
        if set(names) <= set(_schema(path).names):
            for row in _columns(path, names).to_pylist():
                yield {"min": row[names[0]], "max": row[names[1]]}


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"cannot read {path}: {error}; restore the file") from error


def _columns(path: Path, names: list[str]) -> pa.Table:
    missing = [name for name in names if name not in _schema(path).names]
    if missing:
        raise SourceError(f"{path} should have the columns {missing}; restore the file")
    try:
        return pq.ParquetFile(path).read(columns=names)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"cannot read {path}: {error}; restore the file") from error


def _lowest(path: Path) -> int:
    column = _columns(path, ["episode_index"])["episode_index"]
    return int(np.min(column.to_numpy())) if len(column) else 0


def _count(row: Mapping[str, Any], name: str, path: Path) -> int:
    value = row.get(name)
    if not isinstance(value, int) or value < 0:
        raise SourceError(f"{path}: {name} should be a whole number, got {value!r}; restore the file")
    return value
