"""What a source is, what of it will be read, and what is suspicious about it: in seconds, without decoding a picture.

The checks are those whose faults `extract` would meet episode by episode in the night, plus the ones that LeRobot's
users know: tasks, statistics, continuity of indices, pictures of each video against its rows.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from extractors.errors import CuepackError, EpisodeError
from extractors.printable import printable
from flows.sources.base import Source
from flows.sources.bridge import BridgeRawSource
from flows.sources.bridge_folders import list_trajectory
from flows.sources.folders import some
from flows.sources.lerobot import COUNTERS, LeRobotSource
from flows.sources.lerobot_spans import Claim, JoinedFile
from flows.sources.lerobot_tables import PARQUET_FAULTS, EpisodeRecord, open_parquet, read_range
from flows.sources.pickles import load_pickle
from flows.sources.video import VideoDecoder, is_cut, list_pictures
from flows.sources.videos import VideoFolderSource

LOOK_S = 20.0
"""Seconds after which no further file is looked at; the report says how many were."""

MOST_SHOWN = 20
"""Remarks of one kind that are listed; the rest are counted."""

_QUIET_TAGS = frozenset({"language-from-name"})


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about a source that its user should know before a night's batch.

    Attributes:
        level: "fault" where an episode will fail or a packet would be wrong; "note" where it only may be.
        where: the file, column or episode concerned, "" for the source as a whole.
        text: what is wrong, and what to do.
    """

    level: Literal["fault", "note"]
    where: str
    text: str

    def __str__(self) -> str:
        return printable(f"{self.level}: {f'{self.where}: ' if self.where else ''}{self.text}")


@dataclass(slots=True)
class SourceReport:
    """What `inspect` says of a source. JSON types in all but `remarks`.

    Attributes:
        kind, dataset, root: as the source has them.
        episodes, frames: numbers that its tables or folders say; frames None where no table counts them.
        fps: rates that are declared.
        cameras: views, each with the number of episodes that have it.
        columns: name -> {"dtype", "shape", "read_as"}; `read_as` is None for what no packet gets.
        language: episodes with an instruction.
        looked_at: files or folders that were looked into, of how many.
        left_out: what packets will lack, and the setting that takes it.
        remarks: what is suspicious.
    """

    kind: str
    dataset: str
    root: str
    episodes: int = 0
    frames: int | None = None
    fps: list[float] = field(default_factory=list)
    cameras: dict[str, int] = field(default_factory=dict)
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    language: int = 0
    looked_at: list[int] = field(default_factory=lambda: [0, 0])
    left_out: list[str] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """Remarks that are faults."""
        return sum(remark.level == "fault" for remark in self.remarks)


def inspect_source(source: Source, seconds: float = LOOK_S) -> SourceReport:
    """Looks into `source` for at most about `seconds`.

    Raises:
        SourceError: its episodes cannot be listed at all.
    """
    report = SourceReport(source.kind, printable(source.dataset), printable(str(source.root)))
    _list(source, report)
    deadline = time.monotonic() + seconds
    for kind, examine in _EXAMINERS.items():
        if isinstance(source, kind):
            remarks = examine(source, report, lambda: time.monotonic() > deadline)
            report.remarks += _bounded(remarks)
    report.left_out = [str(item) for item in source.left_out()]
    return report


def _list(source: Source, report: SourceReport) -> None:
    """What the listing says: numbers, cameras, rates, instructions, tags."""
    frames: list[int | None] = []
    tags: Counter[str] = Counter()
    cameras: Counter[str] = Counter()
    rates: set[float] = set()
    for info in source.episodes():
        frames.append(info.n_frames)
        cameras.update(info.cameras)
        tags.update(info.tags)
        rates |= {info.fps} if info.fps is not None else set()
        report.language += bool(info.language_instruction)
    counts = [count for count in frames if count is not None]
    report.episodes = len(frames)
    report.frames = sum(counts) if len(counts) == len(frames) else None
    report.fps = sorted(rates)
    report.cameras = {printable(name): count for name, count in sorted(cameras.items())}
    if not frames:
        report.remarks.append(Remark("fault", "", "no episode is found; check the path, and what is left out below"))
    empty = sum(count == 0 for count in frames)
    if empty:
        report.remarks.append(Remark("fault", "", f"{empty} episodes have no frame"))
    for tag, count in sorted(tags.items()):
        if tag not in _QUIET_TAGS:
            report.remarks.append(Remark("note", "", f"{count} of {len(frames)} episodes are tagged {tag}"))


def _bounded(remarks: Iterator[Remark]) -> Iterator[Remark]:
    """Remarks, of each level the first few and then a count; what cannot be read ends them with a fault."""
    counts: Counter[str] = Counter()
    try:
        for remark in remarks:
            counts[remark.level] += 1
            if counts[remark.level] <= MOST_SHOWN:
                yield remark
    except CuepackError as error:
        yield Remark("fault", "", str(error))
    for level in ("fault", "note"):
        if counts[level] > MOST_SHOWN:
            yield Remark(
                "fault" if level == "fault" else "note", "", f"and {counts[level] - MOST_SHOWN} more like these"
            )


Late = Callable[[], bool]


def _lerobot(source: LeRobotSource, report: SourceReport, late: Late) -> Iterator[Remark]:
    taken = dict.fromkeys(COUNTERS, "counter") | {
        name: signal for signal, names in source.columns.items() for name in names
    }
    for key, feature in source.info.features.items():
        read_as = "camera" if key in source.cameras else taken.get(key)
        shown = {"dtype": feature.dtype, "shape": list(feature.shape), "read_as": read_as}
        report.columns[printable(key)] = shown
    yield from _episode_table(source)
    yield from _statistics(source)
    yield from _data_files(source, report, late)
    yield from _video_files(source, report, late)


def _episode_table(source: LeRobotSource) -> Iterator[Remark]:
    table, info = source.table, source.info
    episodes, frames = table.counts()
    for name, said, counted in (
        ("total_episodes", info.total_episodes, episodes),
        ("total_frames", info.total_frames, frames),
    ):
        if said not in (None, counted):
            yield Remark("note", "meta/info.json", f"{name} is {said}, the episode table adds up to {counted}")
    if table.doubled:
        yield Remark("note", "episode table", f"more than one row for episodes {some([*map(str, table.doubled)])}")
    for record in table:
        if record.fault:
            yield Remark("fault", f"episode {record.episode_index}", record.fault)
        if record.length is None:
            yield Remark("note", f"episode {record.episode_index}", "the episode table has no length for it")
    indices = [record.episode_index for record in table]
    gaps = [f"{a + 1}..{b - 1}" for a, b in pairwise(indices) if b - a > 1]
    if gaps:
        yield Remark("note", "episode table", f"episode_index has gaps: {some(gaps)}")
    unknown = sorted({task for record in table for task in record.tasks if isinstance(task, int)} - source.tasks.keys())
    if unknown:
        yield Remark("fault", "episode table", f"task numbers {some([*map(str, unknown)])} are not in the task table")


def _statistics(source: LeRobotSource) -> Iterator[Remark]:
    for names in source.columns.values():
        for name in names:
            if read_range(source.root, source.info, name) is None:
                yield Remark("note", name, "no usable statistics: the gripper's range is taken from each episode")


def _data_files(source: LeRobotSource, report: SourceReport, late: Late) -> Iterator[Remark]:
    """Rows of each episode against the table, and the columns that the dataset declares."""
    files = source.data_files()
    if source.info.version == "v3.0":
        # Files that no episode names: their rows may be those that others lack.
        on_disk = (path.relative_to(source.root).as_posix() for path in (source.root / "data").glob("**/*.parquet"))
        files = {name: [] for name in sorted(on_disk)} | files
    columns = {name for names in source.columns.values() for name in names} | {"timestamp"}
    rows: dict[int, int] = {}
    missing: dict[str, int] = {}
    named_in: dict[int, str] = {}
    found_in: dict[int, str] = {}
    report.looked_at[1] += len(files)
    for relative, records in files.items():
        named_in |= {record.episode_index: relative for record in records}
        if late():
            return
        report.looked_at[0] += 1
        if not (source.root / relative).is_file():
            missing[relative] = len(records)
            continue
        try:
            with open_parquet(source.root / relative, ["episode_index", "task_index", *columns], relative) as file:
                yield from _columns_of(file, relative, columns, source)
                indices, counts = _counted(file, records, one=source.info.version != "v3.0")
        except (EpisodeError, *PARQUET_FAULTS) as error:
            yield Remark("fault", relative, str(error))
            continue
        for index, count in zip(indices, counts, strict=True):
            rows[index] = rows.get(index, 0) + count
            found_in.setdefault(index, relative)
    for relative, count in missing.items():
        lost = [index for index, name in named_in.items() if name == relative and index not in rows]
        if lost:
            yield Remark("fault", relative, f"the file is missing; the table puts {count} episodes into it")
    for record in sorted(itertools.chain(*files.values()), key=lambda record: record.episode_index):
        index = record.episode_index
        if named_in[index] in missing and index not in rows:
            continue
        if index not in rows:
            yield Remark("fault", named_in[index], f"no row of episode {index}")
        elif record.length not in (None, rows[index]):
            yield Remark("fault", f"episode {index}", f"{record.length} rows in the table, {rows[index]} in the data")
        elif found_in[index] != named_in[index]:
            yield Remark("note", f"episode {index}", f"its rows are in {found_in[index]}, not in {named_in[index]}")


def _columns_of(file: pq.ParquetFile, relative: str, columns: set[str], source: LeRobotSource) -> Iterator[Remark]:
    names = file.schema_arrow.names
    for name in sorted(columns - set(names)):
        yield Remark("fault", relative, f"no column {name!r}, which info.json declares or reading needs")
    if "task_index" in names and source.tasks:
        column = file.read(columns=["task_index"])["task_index"].unique().to_pylist()
        unknown = [str(task) for task in column if task is not None and task not in source.tasks]
        if unknown:
            yield Remark("note", relative, f"task_index {some(unknown)} is not in the task table")


def _counted(file: pq.ParquetFile, records: Sequence[EpisodeRecord], *, one: bool) -> tuple[list[int], list[int]]:
    """Episodes in a data file and the rows of each; of v2.x the whole file is its one episode's."""
    if one or "episode_index" not in file.schema_arrow.names:
        return [record.episode_index for record in records[:1]], [file.metadata.num_rows] * len(records[:1])
    values = file.read(columns=["episode_index"])["episode_index"].to_numpy()
    indices, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    return indices.astype(np.int64).tolist(), counts.tolist()


def _video_files(source: LeRobotSource, report: SourceReport, late: Late) -> Iterator[Remark]:
    """Pictures of each video against the rows that claim it, by packet headers."""
    files = source.video_files()
    report.looked_at[1] += len(files)
    for relative, (_, claims) in files.items():
        if late():
            return
        report.looked_at[0] += 1
        path = source.root / relative
        if not path.is_file():
            yield Remark("fault", relative, f"the file is missing; the tables put {len(claims)} episodes into it")
            continue
        try:
            pictures, cut = list_pictures(path), is_cut(path)
        except EpisodeError as error:
            yield Remark("fault", relative, str(error))
            continue
        if cut:
            yield Remark("fault", relative, "the end of the file is missing; fetch it again")
        if not pictures.sure:
            yield Remark("note", relative, "its packets do not tell its pictures; these are counted by decoding")
        elif source.info.version != "v3.0":
            rows = claims[0].length
            if rows not in (None, pictures.count):
                yield Remark("fault", relative, f"{pictures.count} pictures for {rows} rows")
        else:
            file = JoinedFile(relative, claims, pictures.times, cut, source.settings.trim)
            yield from _spans(file, claims, source.info.fps)


def _spans(file: JoinedFile, claims: list[Claim], fps: float) -> Iterator[Remark]:
    seen: set[str] = set()
    for claim in claims:
        if not claim.length:
            continue
        try:
            placed = file.place(claim.episode_index, np.arange(claim.length) / fps, 1 / fps)
        except EpisodeError as error:
            if str(error) not in seen:
                yield Remark("fault", f"episode {claim.episode_index}", str(error))
            seen.add(str(error))
            continue
        for tag in placed.tags:
            if tag not in seen:
                off = f", pictures up to {placed.offset_s:.3f} s from their rows" if tag == "timestamp-offset" else ""
                yield Remark("note", file.name, f"episode {claim.episode_index} will be tagged {tag}{off}")
            seen.add(tag)


def _videos(source: VideoFolderSource, report: SourceReport, late: Late) -> Iterator[Remark]:
    """Whether each video opens and is whole, its rate and the number of its packets."""
    rates: set[float] = set()
    counts: list[int] = []
    for info in source.episodes():
        report.looked_at[1] += 1
        if late():
            continue
        report.looked_at[0] += 1
        path, name = info.files[0], str(info.key["path"])
        try:
            pictures = list_pictures(path)
            with VideoDecoder(path) as decoder:
                rates.add(round(decoder.rate, 3))
            if is_cut(path):
                yield Remark("fault", name, "the end of the file is missing; fetch it again")
                continue
        except (EpisodeError, OSError) as error:
            yield Remark("fault", name, str(error))
            continue
        counts.append(pictures.count)
        if not pictures.count:
            yield Remark("fault", name, "it holds no picture")
        elif pictures.sure and pictures.stamps is None:
            yield Remark("note", name, "time stamps repeat or are missing: pictures are taken in order, at frame / fps")
    report.fps = sorted(rates)
    report.frames = sum(counts) if len(counts) == report.episodes else None


def _bridge(source: BridgeRawSource, report: SourceReport, late: Late) -> Iterator[Remark]:
    """Whether each trajectory has its pickles, and images without gaps, as many in each camera."""
    for info in source.episodes():
        report.looked_at[1] += 1
        if late():
            continue
        report.looked_at[0] += 1
        relative = str(info.key["path"])
        try:
            trajectory = list_trajectory(source.root, relative, follow_links=source.follows_links)
            for name in ("obs_dict.pkl", "policy_out.pkl"):
                load_pickle(trajectory.path / name, f"{relative}/{name}")
        except EpisodeError as error:
            yield Remark("fault", relative, str(error))
            continue
        if not trajectory.cameras:
            yield Remark("fault", relative, "no images; wanted images0/im_0.jpg and on")
        counts = {name: len(images) for name, images in trajectory.images.items() if images}
        for name, images in trajectory.images.items():
            if images and max(images) != len(images) - 1:
                yield Remark("fault", f"{relative}/{name}", f"{len(images)} images up to number {max(images)}")
        if len(set(counts.values())) > 1:
            yield Remark("note", relative, f"numbers of images differ: {counts}")


_EXAMINERS: dict[type, Callable[[Any, SourceReport, Late], Iterator[Remark]]] = {
    LeRobotSource: _lerobot,
    VideoFolderSource: _videos,
    BridgeRawSource: _bridge,
}
"""Kind of source -> what looks into it; of RLDS the listing itself reads every record's head."""


def format_report(report: SourceReport, source: str) -> str:
    """The report as text for a terminal."""
    frames = f", {report.frames} frames" if report.frames is not None else ""
    rates = f", {' and '.join(f'{rate:g}' for rate in report.fps)} fps" if report.fps else ""
    lines = [
        f"source     {printable(source)}",
        f"kind       {report.kind} ({report.dataset})",
        f"episodes   {report.episodes}{frames}{rates}; {report.language} with an instruction",
        *(f"camera     {name}: in {count} episodes" for name, count in report.cameras.items()),
        *(
            f"column     {name} {column['dtype']}{column['shape']}: {column['read_as'] or 'not read'}"
            for name, column in report.columns.items()
        ),
        *(f"left out   {text}" for text in report.left_out),
        *(f"{remark.level:<10} {str(remark).partition(': ')[2]}" for remark in report.remarks),
    ]
    looked, files = report.looked_at
    if files:
        lines.append(
            f"looked at  {looked} of {files} files or trajectories" + (" (time was up)" if looked < files else "")
        )
    return "\n".join(lines)
