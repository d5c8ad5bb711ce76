"""Packets joined into one LeRobotDataset v3.0: what `lerobot`, and our own reader, open.

`plan_lerobot` decides what is exported, `write_lerobot` writes it. It adds to LeRobot's own files
`meta/cuepack.parquet`, the packets' attributes by episode, and `meta/cuepack.json`, which dataset of the packet each
feature is.

LeRobot wants frame i of an episode at i / fps: `timestamp` says so, `cuepack.timestamp` has the packet's own times.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.error import FFmpegError
from numpy.typing import NDArray

from extractors.errors import ConfigError, OutputError
from extractors.phases import PHASES
from packers.atomic import built_aside
from packers.cores import usable_cpus
from packers.export.lerobot.features import (
    DEFAULTS,
    DONE,
    Feature,
    data_schema,
    described,
    encode_picture,
    image_column,
    number_column,
    picture_ending,
)
from packers.export.lerobot.files import (
    CHUNK_FILES,
    CRF,
    DATA_PATH,
    EPISODES_PATH,
    VIDEO_PATH,
    FileSizes,
    ParquetFiles,
    Place,
    VideoFiles,
    VideoSpan,
)
from packers.export.lerobot.plan import ExportedEpisode, ExportPlan, plan_lerobot
from packers.export.lerobot.stats import MOMENTS, DepthStats, ImageStats, Stats, StatsTotal, row_stats
from packers.reader import Packet
from packers.schema import SCHEMA
from packers.writer import canonical_json

__all__ = ["ExportPlan", "FileSizes", "WrittenDataset", "check_target", "plan_lerobot", "write_lerobot"]

VERSION = "v3.0"

_BLOCK = 32  # frames in memory at once
_EPISODE_ROWS = 200  # rows of the episode table in a row group; each has hundreds of columns
_MOST_THREADS = 8
_MEASURED = 32  # frames that the loss of the video is measured on
_JSON_COLUMNS = ("source", "config", "stages", "scores", "quality", "tags")


@dataclass(frozen=True, slots=True)
class WrittenDataset:
    """What was written.

    Attributes:
        episodes, frames, tasks: how many.
        features: their keys.
        psnr_db: the video's pixels against the packet's, first frames of the first episode; None for PNG images.
    """

    episodes: int
    frames: int
    tasks: int
    features: tuple[str, ...]
    psnr_db: float | None


def write_lerobot(
    plan: ExportPlan,
    target: Path,
    *,
    sizes: FileSizes | None = None,
    done: Callable[[Path], None] = lambda path: None,
) -> WrittenDataset:
    """Writes the data set `target`, which appears when it is whole.

    Args:
        plan: from `plan_lerobot`.
        target: a folder that is not there yet.
        sizes: where new files are begun.
        done: called with each packet that is in.

    Raises:
        ConfigError: `target` exists already.
        PacketError: a packet is damaged.
        OutputError: the data set cannot be written.
    """
    check_target(target)
    try:
        with built_aside(target) as temporary:
            temporary.mkdir()
            with _Writer(plan, temporary, sizes or FileSizes()) as writer:
                for episode in plan.episodes:
                    writer.add(episode)
                    done(episode.path)
            written = writer.finish()
            check_target(target)  # another export may have been faster
    except (OSError, FFmpegError, pa.ArrowException) as error:
        raise OutputError(f"{target} cannot be written: {error}; free space or fix permissions") from error
    return written


def check_target(target: Path) -> None:
    """Refuses a target that exists, or whose parent folder is missing.

    Raises:
        ConfigError: it cannot be made.
    """
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists already; remove it, or name another folder")
    if not target.parent.is_dir():
        raise ConfigError(f"{target}: wanted a new folder in an existing one; {target.parent} is missing")


class _Writer:
    """The open files of a data set, and what is known of it so far."""

    def __init__(self, plan: ExportPlan, root: Path, sizes: FileSizes) -> None:
        self._plan, self._root, self._sizes = plan, root, sizes
        self._rate = Fraction(plan.fps).limit_denominator(100_000)
        self._schema = data_schema(plan.features)
        self._data = ParquetFiles(root, DATA_PATH, self._schema, sizes.data_mb)
        self._episodes = ParquetFiles(root, EPISODES_PATH, _episode_schema(plan.features), sizes.data_mb)
        self._rows: list[dict[str, Any]] = []
        self._abouts: list[dict[str, Any]] = []
        (root / "meta").mkdir()
        self._about = pq.ParquetWriter(root / "meta" / "cuepack.parquet", _ABOUT_SCHEMA, compression="zstd")
        self._videos = {
            feature.key: VideoFiles(root, feature.key, self._rate, (feature.shape[0], feature.shape[1]), sizes.video_mb)
            for feature in plan.features
            if feature.kind == "video"
        }
        # Images are compressed without Python's lock.
        self._pool = ThreadPoolExecutor(max_workers=min(usable_cpus(), _MOST_THREADS))
        self._tasks: dict[str, int] = {}
        self._totals = {key: StatsTotal() for key in _stats_keys(plan.features)}
        self._count = self._frames = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            self._flush()
        for videos in self._videos.values():
            if kind is None:
                videos.close()
            else:
                # The error that is on its way out says more than what closing half a video raises.
                with contextlib.suppress(OSError, FFmpegError):
                    videos.abandon()
        self._pool.shutdown(cancel_futures=True)
        for files in (self._data, self._episodes, self._about):
            files.close()

    def add(self, episode: ExportedEpisode) -> None:
        """Writes one episode."""
        n_frames, index = episode.n_frames, self._count
        columns: dict[str, pa.Array] = {}
        stats: dict[str, Stats | None] = {}
        spans: dict[str, VideoSpan] = {}
        with Packet(episode.path) as packet:
            for feature in self._plan.features:
                if feature.kind == "video":
                    spans[feature.key], stats[feature.key] = self._video(packet, feature, n_frames)
                elif feature.is_image:
                    columns[feature.key], stats[feature.key] = self._pictures(packet, feature, n_frames)
                else:
                    columns[feature.key], found = _numbers(packet, feature, n_frames)
                    if feature.has_stats:
                        stats[feature.key] = found
            about = _about(packet, episode, index)
        task = self._tasks.setdefault(episode.task, len(self._tasks))
        for key, values in _own_columns(n_frames, self._plan.fps, index, self._frames, task).items():
            columns[key], stats[key] = number_column(values, (1,)), row_stats(values)
        place = self._data.place(n_frames)
        self._data.write(pa.table([columns[name] for name in self._schema.names], schema=self._schema))
        self._abouts.append(about)
        self._rows.append(_episode_row(episode, index, self._frames, place, spans, stats))
        if len(self._rows) == _EPISODE_ROWS:
            self._flush()
        for key, one in stats.items():
            self._totals[key].add(one)
        self._count += 1
        self._frames += n_frames

    def finish(self) -> WrittenDataset:
        """Writes what describes the whole."""
        meta = self._root / "meta"
        _write_names(meta / "tasks.parquet", "task", list(self._tasks))
        if any(feature.dataset == "phase" for feature in self._plan.features):
            _write_names(meta / "subtasks.parquet", "subtask", PHASES)
        totals = {key: total.result() for key, total in self._totals.items()}
        stats = {
            key: {name: found[name].tolist() for name in MOMENTS} for key, found in totals.items() if found is not None
        }
        _write_json(meta / "stats.json", stats)
        _write_json(meta / "info.json", self._info())
        psnr = _measured_psnr(self._plan, self._root)
        _write_json(meta / "cuepack.json", _description(self._plan, psnr))
        return WrittenDataset(
            episodes=self._count,
            frames=self._frames,
            tasks=len(self._tasks),
            features=tuple(feature.key for feature in self._plan.features),
            psnr_db=psnr,
        )

    def _video(self, packet: Packet, feature: Feature, n_frames: int) -> tuple[VideoSpan, Stats | None]:
        videos, stats = self._videos[feature.key], ImageStats(3, 1 / 255)
        videos.begin(n_frames)
        for frames in _blocks(packet, feature.dataset, n_frames):
            videos.add(frames)
            stats.add(frames)
        return videos.end(), stats.result()

    def _pictures(self, packet: Packet, feature: Feature, n_frames: int) -> tuple[pa.Array, Stats | None]:
        depth = DepthStats(n_frames)
        colours = ImageStats(feature.shape[2], 1.0 if feature.kind == "mask" else 1 / 255)
        pictures: list[bytes] = []
        for frames in _blocks(packet, feature.dataset, n_frames):
            if feature.kind == "depth":
                frames = frames.astype(np.float32, copy=False)
                depth.add(frames)
            else:
                colours.add(frames.reshape(*frames.shape[:3], -1).astype(np.uint8, copy=False))
            pictures += self._pool.map(lambda frame: encode_picture(frame, feature.kind), frames)
        stats = depth.result() if feature.kind == "depth" else colours.result()
        return image_column(pictures, picture_ending(feature.kind)), stats

    def _flush(self) -> None:
        if not self._rows:
            return
        place = self._episodes.place(len(self._rows))
        own = {"meta/episodes/chunk_index": place.chunk, "meta/episodes/file_index": place.file}
        schema = _episode_schema(self._plan.features)
        self._episodes.write(pa.Table.from_pylist([row | own for row in self._rows], schema=schema))
        self._rows.clear()
        self._about.write_table(pa.Table.from_pylist(self._abouts, schema=_ABOUT_SCHEMA))
        self._abouts.clear()

    def _info(self) -> dict[str, Any]:
        fps = _plain(self._plan.fps)
        return {
            "codebase_version": VERSION,
            "robot_type": None,
            "total_episodes": self._count,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": max(1, round(self._sizes.data_mb)),
            "video_files_size_in_mb": max(1, round(self._sizes.video_mb)),
            "fps": fps,
            "splits": _split_ranges(self._plan.splits) or {"train": f"0:{self._count}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._videos else None,
            "features": described(self._plan.features, fps),
        }


def _split_ranges(splits: Mapping[str, int]) -> dict[str, str]:
    """Episodes from and to of each split, as LeRobot writes them."""
    ends = list(accumulate(splits.values(), initial=0))
    return {name: f"{start}:{end}" for name, start, end in zip(splits, ends, ends[1:], strict=False)}


def _numbers(packet: Packet, feature: Feature, n_frames: int) -> tuple[pa.Array, Stats | None]:
    values = packet.read(feature.dataset, 0, n_frames) if feature.per_frame else packet.read(feature.dataset)
    if not feature.per_frame:
        values = np.broadcast_to(values, (n_frames, *values.shape))
    values = values.astype(feature.dtype, copy=False)
    return number_column(values, feature.shape), row_stats(values) if feature.has_stats else None


def _blocks(packet: Packet, dataset: str, n_frames: int) -> Iterator[NDArray[Any]]:
    for start in range(0, n_frames, _BLOCK):
        yield packet.read(dataset, start, min(start + _BLOCK, n_frames))


def _own_columns(n_frames: int, fps: float, index: int, start: int, task: int) -> dict[str, NDArray[Any]]:
    frames = np.arange(n_frames)
    values = {
        "timestamp": frames / fps,
        "frame_index": frames,
        "episode_index": np.full(n_frames, index),
        "index": start + frames,
        "task_index": np.full(n_frames, task),
    }
    found: dict[str, NDArray[Any]] = {key: values[key].astype(dtype) for key, dtype in DEFAULTS.items()}
    return {DONE: frames == n_frames - 1, **found}


def _episode_row(
    episode: ExportedEpisode,
    index: int,
    start: int,
    place: Place,
    spans: Mapping[str, VideoSpan],
    stats: Mapping[str, Stats | None],
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "episode_index": index,
        "tasks": [episode.task],
        "length": episode.n_frames,
        "data/chunk_index": place.chunk,
        "data/file_index": place.file,
        "dataset_from_index": start,
        "dataset_to_index": start + episode.n_frames,
    }
    for key, span in spans.items():
        row |= {
            f"videos/{key}/chunk_index": span.place.chunk,
            f"videos/{key}/file_index": span.place.file,
            f"videos/{key}/from_timestamp": span.start_s,
            f"videos/{key}/to_timestamp": span.end_s,
        }
    for key, found in stats.items():
        # Null where no row of the episode is valid: a 0 would go into the data set's least and greatest value.
        row |= {f"stats/{key}/{name}": None if found is None else found[name].tolist() for name in MOMENTS}
    return row


def _stats_keys(features: Iterable[Feature]) -> list[str]:
    return [*(feature.key for feature in features if feature.has_stats), DONE, *DEFAULTS]


def _episode_schema(features: Sequence[Feature]) -> pa.Schema:
    whole, real = pa.int64(), pa.float64()
    columns = [("episode_index", whole), ("tasks", pa.list_(pa.string())), ("length", whole)]
    columns += [(name, whole) for name in ("data/chunk_index", "data/file_index")]
    columns += [(name, whole) for name in ("dataset_from_index", "dataset_to_index")]
    for feature in features:
        if feature.kind == "video":
            columns += [(f"videos/{feature.key}/{name}", whole) for name in ("chunk_index", "file_index")]
            columns += [(f"videos/{feature.key}/{name}", real) for name in ("from_timestamp", "to_timestamp")]
    depths = {feature.key: 3 if feature.is_image else len(feature.shape) for feature in features}
    for key in _stats_keys(features):
        nested = real
        for _ in range(depths.get(key, 1)):
            nested = pa.list_(nested)
        columns += [(f"stats/{key}/{name}", pa.list_(whole) if name == "count" else nested) for name in MOMENTS]
    return pa.schema([*columns, ("meta/episodes/chunk_index", whole), ("meta/episodes/file_index", whole)])


_ABOUT_SCHEMA = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("episode_id", pa.string()),
        ("camera", pa.string()),
        ("n_frames", pa.int64()),
        *((name, pa.string()) for name in (*_JSON_COLUMNS, "datasets")),
    ]
)


def _about(packet: Packet, episode: ExportedEpisode, index: int) -> dict[str, Any]:
    """The packet's attributes, those of its datasets included; structures as JSON text."""
    attributes = packet.attributes
    datasets = {
        name: {key: value for key, value in packet.dataset_attributes(name).items() if key != "description"}
        for name in packet.modalities
    }
    return {
        "episode_index": index,
        "episode_id": episode.episode_id,
        "camera": str(attributes["source"].get("camera") or ""),
        "n_frames": packet.n_frames,
        **{name: canonical_json(attributes[name]) for name in _JSON_COLUMNS},
        "datasets": canonical_json(datasets),
    }


def _description(plan: ExportPlan, psnr: float | None) -> dict[str, Any]:
    """What each feature is, for people and programs that know packets."""
    return {
        "schema": SCHEMA,
        "features": {
            feature.key: {"dataset": feature.dataset, "units": feature.units, "description": feature.description}
            for feature in plan.features
        },
        "left_out": list(plan.left_out),
        "pixels": "as in the packets" if psnr is None else f"lossy, H.264 4:2:0 crf {CRF}, {psnr:.1f} dB measured",
        "notes": list(plan.notes),
    }


def _write_names(path: Path, what: str, names: Sequence[str]) -> None:
    """Instructions or phases, as pandas writes a table whose index they are."""
    import pandas as pd

    table = pd.DataFrame({what: list(names), f"{what}_index": np.arange(len(names), dtype=np.int64)})
    table.set_index(what).to_parquet(path)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _measured_psnr(plan: ExportPlan, root: Path) -> float | None:
    """Decibels of the decoded video against the packet, over the first frames of the first episode."""
    feature = next((feature for feature in plan.features if feature.kind == "video"), None)
    if feature is None:
        return None
    n_frames = min(_MEASURED, plan.episodes[0].n_frames)
    squares = 0.0
    with (
        Packet(plan.episodes[0].path) as packet,
        av.open(str(root / VIDEO_PATH.format(video_key=feature.key, chunk_index=0, file_index=0))) as video,
    ):
        pixels = packet.read(feature.dataset, 0, n_frames)
        for packed, frame in zip(pixels, video.decode(video=0), strict=False):
            squares += float(((frame.to_ndarray(format="rgb24").astype(np.float64) - packed) ** 2).mean())
    return float(min(99.0, 10 * np.log10(255**2 / max(squares / n_frames, 1e-9))))


def _plain(number: float) -> float:
    """5.0 as 5: LeRobot's rates are whole numbers where they can be."""
    return int(number) if number == int(number) else number
