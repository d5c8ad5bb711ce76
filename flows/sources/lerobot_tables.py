"""The tables of a LeRobot dataset: episodes, tasks, statistics.

v2.0 and v2.1 keep them as JSON lines, v3.0 as parquet; each is read where it is found, through the same typed cells,
into the same records. A part of a dataset may be missing on disk and `episode_index` need not start at 0: the tables
are followed, not counters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extractors.errors import CorruptDataError, MissingDataError, SourceError
from flows.sources.cells import number, tasks, text, whole
from flows.sources.files import MAX_TABLE_BYTES, check_plain, parse_json, read_bytes, read_json
from flows.sources.lerobot_info import Info
from flows.sources.parquet_footer import column_sizes

MAX_VALUES = 2**28
"""Most values of one column that are read at once: run-length encoding makes a thousand million of a few bytes."""

MAX_COLUMN_BYTES = 2**31
"""Most bytes of one column in a row group, decompressed: pictures of an episode of 2,000 frames have some 200 MB."""

MAX_TEXT_BYTES = 2**16
"""Longest text in a table: a dictionary makes a million rows of one long text out of nothing."""

_ROWS = 4096  # rows of an episode table turned into records at a time
_SPAN = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
_INSTRUCTION = re.compile(r"task|instruction|language|prompt", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """One row of the episode table.

    Attributes:
        episode_index: the dataset's own number.
        length: rows that the episode should have, None where the table does not say.
        tasks: instructions, or their numbers in the task table, the first being the episode's.
        data: {"chunk_index", "file_index"} of the parquet file, empty where the table does not say (v2.x).
        videos: by camera {"chunk_index", "file_index", "from_timestamp", "to_timestamp"}, empty in v2.x.
        fault: why the row cannot be used, "" where it can.
    """

    episode_index: int
    length: int | None
    tasks: tuple[str | int, ...]
    data: Mapping[str, int] = field(default_factory=dict)
    videos: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fault: str = ""


class EpisodeTable:
    """The dataset's list of episodes, in index order."""

    def __init__(self, root: Path, info: Info) -> None:
        """The table of the dataset at `root`; reads nothing yet."""
        self._root = root
        self._info = info

    def __iter__(self) -> Iterator[EpisodeRecord]:
        """Every episode once, by ascending index.

        Raises:
            SourceError: the table is missing or cannot be read.
        """
        return iter(self._records)

    def counts(self) -> tuple[int, int]:
        """(episodes, frames) that the table adds up to.

        Raises:
            SourceError: the table is missing or cannot be read.
        """
        return len(self._records), sum(record.length or 0 for record in self._records)

    @cached_property
    def doubled(self) -> tuple[int, ...]:
        """Indices that more than one row has."""
        self._records  # noqa: B018 - finds them
        return tuple(sorted(self._doubled))

    @cached_property
    def _records(self) -> list[EpisodeRecord]:
        records: dict[int, EpisodeRecord] = {}
        self._doubled: set[int] = set()
        for record in self._rows():
            first = records.setdefault(record.episode_index, record)
            if first is not record:
                self._doubled.add(record.episode_index)
                if first != record and not first.fault:
                    records[record.episode_index] = replace(
                        first, fault="the episode table has two rows for it that differ; remove the wrong one"
                    )
        return [records[index] for index in sorted(records)]

    def _rows(self) -> Iterator[EpisodeRecord]:
        lines = self._root / "meta" / "episodes.jsonl"
        files = sorted((self._root / "meta" / "episodes").glob("**/*.parquet"), key=natural_order)
        if self._info.version == "v3.0" and not files and not lines.exists():
            raise SourceError(f"no episode table below {self._root / 'meta' / 'episodes'}; restore meta/episodes")
        cameras = [key for key, feature in self._info.features.items() if feature.dtype == "video"]
        if files and (self._info.version == "v3.0" or not lines.exists()):
            for path in files:
                yield from self._of_parquet(path, cameras)
            return
        for row in read_json_lines(lines):
            yield _record(row, {}, str(lines))

    def _of_parquet(self, path: Path, cameras: Sequence[str]) -> Iterator[EpisodeRecord]:
        # Only these columns: the statistics beside them are hundreds of numbers a row.
        names = set(_schema(path).names)
        missing = [name for name in ("episode_index", "length") if name not in names]
        if missing:
            raise SourceError(f"{path} should have the columns {missing}; restore the file")
        columns_to_read = {"episode_index", "length", "data/chunk_index", "data/file_index", "tasks"} & names
        spans = {camera: {name: f"videos/{camera}/{name}" for name in _SPAN} for camera in cameras}
        spans = {camera: span for camera, span in spans.items() if span["file_index"] in names}
        columns_to_read |= {column for span in spans.values() for column in span.values()} & names
        for row in _rows(path, sorted(columns_to_read)):
            yield _record(row, spans, str(path))


def read_tasks(root: Path, version: str) -> dict[int, str]:
    """Instructions by `task_index`; empty where the table is missing (the episode table has them too).

    Raises:
        SourceError: the table is there but cannot be read.
    """
    lines, table = root / "meta" / "tasks.jsonl", root / "meta" / "tasks.parquet"
    order = (table, lines) if version == "v3.0" else (lines, table)
    path = next((path for path in order if path.exists()), None)
    if path is None:
        return {}
    if path == lines:
        rows: Iterator[Mapping[str, Any]] = read_json_lines(lines)
        column = "task"
    else:
        found = _text_column(path)
        if found is None or "task_index" not in _schema(path).names:
            raise SourceError(f"{path} should have the columns task_index and task; restore or remove it")
        column, rows = found, _rows(path, ["task_index", found])
    instructions: dict[int, str] = {}
    for row in rows:
        index = _whole(row, "task_index", str(path))
        if index is not None:
            instructions.setdefault(index, text(row.get(column)))
    return instructions


def _text_column(path: Path) -> str | None:
    """The column of a task table that holds the instruction.

    LeRobot's writer makes it the pandas index, which parquet names "task" or "__index_level_0__"; other writers name
    it in their own words, beside other text. None where that leaves more than one.
    """
    schema = _schema(path)
    texts = [item.name for item in schema if _is_text(item.type)]
    for name in ("task", "__index_level_0__"):
        if name in texts:
            return name
    named = [name for name in texts if _INSTRUCTION.search(name)] if len(texts) > 1 else texts
    return named[0] if len(named) == 1 else None


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


Range = tuple[NDArray[np.float64], NDArray[np.float64]]


def read_range(root: Path, info: Info, key: str) -> Range | None:
    """Smallest and largest value of each element of column `key` over the dataset, None where nothing usable tells.

    Read from `meta/stats.json`, else put together from the episodes' own statistics. They serve the gripper's unit
    alone, so what is ragged, or no number, is passed over: the episode's own range stands in, and its record says so.
    """
    stats = root / "meta" / "stats.json"
    lines = root / "meta" / "episodes_stats.jsonl"
    try:
        if stats.exists():
            pairs = [_at(read_json(stats), key)]
        elif lines.exists():
            pairs = [_at(_at(row, "stats"), key) for row in read_json_lines(lines)]
        else:
            pairs = list(_parquet_stats(root, key))
        found = [pair for pair in pairs if isinstance(pair, Mapping) and "min" in pair and "max" in pair]
        if not found:
            return None
        low = np.min([np.asarray(pair["min"], np.float64).ravel() for pair in found], axis=0)
        high = np.max([np.asarray(pair["max"], np.float64).ravel() for pair in found], axis=0)
    except (SourceError, ValueError, TypeError, OverflowError):
        return None
    return (low, high) if low.shape == high.shape else None


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSON-lines file, one at a time.

    Raises:
        SourceError: the file is missing, or a line is no JSON object.
    """
    try:
        data = read_bytes(path, str(path), MAX_TABLE_BYTES)
    except (MissingDataError, CorruptDataError) as error:
        raise SourceError(f"cannot read {path}: {error}; restore the file") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
    for index, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if line.strip():
            row = parse_json(line, f"{path}, line {index}")
            if not isinstance(row, dict):
                raise SourceError(f"{path}, line {index}: wanted a JSON object, got {line[:40]!r}")
            yield row


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """Sort key that puts file_10 after file_9, folder by folder."""
    parts = re.split(r"([0-9]+)", path.as_posix())
    # Python refuses to read an integer of more than 4,300 digits.
    return [(0, int(part)) if part.isdigit() and len(part) < 40 else (1, part) for part in parts]


def open_parquet(path: Path, columns: Sequence[str], name: str) -> pq.ParquetFile:
    """An open parquet file whose `columns` are there once and of a size that can be read; messages call it `name`.

    Raises:
        MissingDataError: there is no such file.
        CorruptDataError: it cannot be read, names a column twice, or claims more than `MAX_VALUES` values or
            `MAX_COLUMN_BYTES` in a column.
    """
    check_plain(path, name)
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        twice = (
            sorted({column for column in names if names.count(column) > 1} & set(columns)) if _doubled(names) else []
        )
        rows = file.metadata.num_rows
        read = [column for column in column_sizes(path) if column.name in columns]
    except PARQUET_FAULTS as error:
        raise CorruptDataError(f"{name} cannot be read: {error}; replace the file") from error
    if twice:
        raise CorruptDataError(f"{name} has more than one column {', '.join(twice)}; remove the others")
    most, largest = max([rows, *(column.values for column in read)]), max([0, *(column.size for column in read)])
    if most > MAX_VALUES or largest > MAX_COLUMN_BYTES:
        raise CorruptDataError(
            f"{name} claims {most:,} values and {largest:,} bytes in a column, at most {MAX_VALUES:,} and "
            f"{MAX_COLUMN_BYTES:,} are read; replace the file"
        )
    return file


PARQUET_FAULTS = (OSError, pa.ArrowException, ValueError, TypeError, KeyError, OverflowError, MemoryError)
"""What pyarrow raises for files that are damaged or claim what cannot be."""


def _doubled(names: Sequence[str]) -> bool:
    return len(set(names)) < len(names)


def _at(row: Any, key: str) -> Any:
    return row.get(key) if isinstance(row, Mapping) else None


def _rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a table, a few thousand in memory at a time.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        with open_parquet(path, columns, str(path)) as file:
            schema = (file.schema.column(i) for i in range(len(file.schema.names)))
            # Not those in lists: pyarrow cannot give them as dictionaries over several row groups.
            texts = [leaf.path for leaf in schema if leaf.physical_type == "BYTE_ARRAY" and "." not in leaf.path]
        # A text that many rows share stays one text in memory, however long, until it was looked at.
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(_ROWS, columns=list(columns)):
                for column in batch.columns:
                    _check_texts(column, str(path))
                yield from batch.to_pylist()
    except (MissingDataError, CorruptDataError, *PARQUET_FAULTS) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"cannot read {path}: {error}; restore the file") from error


def _check_texts(array: pa.Array, name: str) -> None:
    if pa.types.is_struct(array.type):
        for part in array.flatten():
            _check_texts(part, name)
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        _check_texts(array.flatten(), name)
    elif pa.types.is_dictionary(array.type):
        _check_texts(array.dictionary, name)
    elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        longest = pc.max(pc.binary_length(array)).as_py() or 0
        if longest > MAX_TEXT_BYTES:
            raise CorruptDataError(
                f"{name} holds a text of {longest:,} bytes, at most {MAX_TEXT_BYTES:,} are read; replace the file"
            )


def _record(row: Mapping[str, Any], spans: Mapping[str, Mapping[str, str]], path: str) -> EpisodeRecord:
    index = _whole(row, "episode_index", path)
    if index is None:
        raise SourceError(f"{path}: a row has no episode_index; restore the file")
    data = {name: _whole(row, f"data/{name}", path) for name in ("chunk_index", "file_index")}
    videos: dict[str, dict[str, Any]] = {}
    fault = ""
    for camera, columns in spans.items():
        span: dict[str, Any] = {name: _whole(row, columns[name], path) for name in _SPAN[:2]}
        try:
            span |= {name: number(row.get(columns[name])) for name in _SPAN[2:]}
        except ValueError as error:
            fault = f"a time of {camera} in the episode table {error}; correct it"
        # A camera that an episode does not have is null in its row.
        if None not in (span["chunk_index"], span["file_index"]):
            videos[camera] = {name: span.get(name) for name in _SPAN}
    return EpisodeRecord(
        episode_index=index,
        length=_whole(row, "length", path),
        tasks=tasks(row.get("tasks")),
        data={} if None in data.values() else {name: value for name, value in data.items() if value is not None},
        videos=videos,
        fault=fault,
    )


def _parquet_stats(root: Path, key: str) -> Iterator[dict[str, Any]]:
    names = [f"stats/{key}/min", f"stats/{key}/max"]
    for path in sorted((root / "meta" / "episodes").glob("**/*.parquet")):
        if set(names) <= set(_schema(path).names):
            for row in _rows(path, names):
                yield {"min": row[names[0]], "max": row[names[1]]}


def _schema(path: Path) -> pa.Schema:
    try:
        check_plain(path, str(path))
        return pq.read_schema(path)
    except (MissingDataError, CorruptDataError, *PARQUET_FAULTS) as error:
        raise SourceError(f"cannot read {path}: {error}; restore the file") from error


def _whole(row: Mapping[str, Any], name: str, path: str) -> int | None:
    try:
        return whole(row.get(name))
    except ValueError as error:
        raise SourceError(f"{path}: {name} {error}; restore the file") from error
