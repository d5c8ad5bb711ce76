"""Rows of one episode in a LeRobot data file: numbers at once, pictures lazily.

A v3.0 file holds many episodes. The row groups that can hold the wanted one are found from the footer's statistics,
and only they are read; the last table is kept, so that a thousand episodes in one row group cost one read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from extractors.errors import CorruptDataError, MissingDataError

_BATCH = 8  # pictures held at a time while a column is walked through


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeRows:
    """The rows of one episode, in file order, without pictures.

    Attributes:
        path: the parquet file.
        relative: its path below the dataset's root, for messages.
        episode_index: the value of the column that the rows share, None where the whole file is the episode.
        groups: the row groups that hold them.
        table: every column but the pictures.
    """

    path: Path
    relative: str
    episode_index: int | None
    groups: tuple[int, ...]
    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    def vector(self, name: str) -> NDArray[np.float64] | None:
        """(T, N) float64 of a numeric column (a scalar one has N = 1), null as NaN; None where there is no such column.

        Raises:
            CorruptDataError: its rows differ in length, or are no numbers.
        """
        if name not in self.table.column_names:
            return None
        column = self.table[name].combine_chunks()
        try:
            if not (pa.types.is_list(column.type) or _is_fixed(column.type) or pa.types.is_large_list(column.type)):
                return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False)).reshape(-1, 1)
            if not _is_fixed(column.type):
                lengths = set(pc.list_value_length(column).to_pylist())
                if len(lengths) > 1:
                    raise CorruptDataError(
                        f"{self.relative}: {name} should have one length, got {sorted(map(str, lengths))}"
                    )
            values = np.array(column.to_pylist(), np.float64)
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise CorruptDataError(f"{self.relative}: column {name} should hold numbers: {error}") from error
        return values.reshape(len(self.table), -1)


class RowReader:
    """Opens data files and keeps the last table that was read."""

    def __init__(self) -> None:
        self._kept: tuple[object, pa.Table] | None = None

    def read(self, path: Path, relative: str, episode_index: int, *, one_episode: bool) -> EpisodeRows:
        """The rows of `episode_index` in `path`.

        Args:
            path: the parquet file.
            relative: how messages name it.
            episode_index: value of the `episode_index` column.
            one_episode: the file holds nothing else (v2.x), so that a column with another number is only misnamed.

        Raises:
            MissingDataError: there is no such file, or no such row in it.
            CorruptDataError: the file cannot be read.
        """
        if not path.exists():
            raise MissingDataError(f"data file {relative} is not there; restore it")
        try:
            with pq.ParquetFile(path) as file:
                numbered = "episode_index" in file.schema_arrow.names
                groups = _groups(file, episode_index) if numbered else tuple(range(file.num_row_groups))
                table = self._table(path, file, groups) if groups else None
                if table is not None and numbered:
                    table = table.filter(pc.equal(table["episode_index"], episode_index))
                if one_episode and (table is None or not len(table)):
                    groups, numbered = tuple(range(file.num_row_groups)), False
                    table = self._table(path, file, groups)
        except (OSError, pa.ArrowException) as error:
            raise CorruptDataError(f"data file {relative} cannot be read: {error}; replace the file") from error
        if table is None or not len(table):
            raise MissingDataError(f"{relative} has no row of episode {episode_index}; restore it or drop the episode")
        return EpisodeRows(path, relative, episode_index if numbered else None, groups, table)

    def _table(self, path: Path, file: pq.ParquetFile, groups: tuple[int, ...]) -> pa.Table:
        stat = path.stat()
        key = (path, stat.st_mtime_ns, stat.st_size, groups)
        if self._kept is None or self._kept[0] != key:
            columns = [item.name for item in file.schema_arrow if not _holds_pictures(item.type)]
            self._kept = key, file.read_row_groups(list(groups), columns=columns)
        return self._kept[1]


class ColumnPictures:
    """T lazy pictures of an image-typed column, decoded anew by each pass, a few rows in memory at a time."""

    def __init__(
        self, rows: EpisodeRows, column: str, decode: Callable[[Image.Image], NDArray[Any]], folders: tuple[Path, ...]
    ) -> None:
        """Pictures of `column`.

        Args:
            rows: the episode's rows.
            column: name of a column of {bytes, path}.
            decode: turns an opened image into an array; ValueError where the image is of the wrong kind.
            folders: where a row that has only a path may have its file.
        """
        self._rows = rows
        self._column = column
        self._decode = decode
        self._folders = folders
        self._size: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, 3) for RGB, (T, H, W) for depth and masks.

        Raises:
            EpisodeError: the first picture cannot be decoded.
        """
        if self._size is None:
            next(iter(self))
        assert self._size is not None
        return (len(self), *self._size)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Each row's picture.

        Raises:
            CorruptDataError: bytes that are no whole picture, or of another size than the first.
            MissingDataError: a row has neither bytes nor a file.
        """
        for row, cell in enumerate(self._cells()):
            picture = self._picture(row, cell)
            if self._size not in (None, picture.shape):
                raise CorruptDataError(
                    f"{self._rows.relative}: {self._column} should be {self._size} in every row, row {row} is "
                    f"{picture.shape}; rewrite the column at one size"
                )
            self._size = picture.shape
            yield picture

    def _cells(self) -> Iterator[Any]:
        rows = self._rows
        columns = [self._column] + ["episode_index"] * (rows.episode_index is not None)
        try:
            with pq.ParquetFile(rows.path) as file:
                if self._column not in file.schema_arrow.names:
                    raise MissingDataError(f"{rows.relative} has no column {self._column}; restore it")
                for batch in file.iter_batches(_BATCH, row_groups=list(rows.groups), columns=columns):
                    if rows.episode_index is not None:
                        batch = batch.filter(pc.equal(batch["episode_index"], rows.episode_index))
                    yield from batch[self._column].to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise CorruptDataError(f"data file {rows.relative} cannot be read: {error}; replace the file") from error

    def _picture(self, row: int, cell: Any) -> NDArray[Any]:
        cell = {"bytes": cell} if isinstance(cell, bytes) else cell or {}
        where = f"{self._rows.relative}, row {row} of {self._column}"
        data = cell.get("bytes") or self._file(cell.get("path"), where)
        try:
            with Image.open(io.BytesIO(data)) as image:
                return self._decode(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise CorruptDataError(f"{where}: no whole picture ({error}); replace it") from error

    def _file(self, path: str | None, where: str) -> bytes:
        if not path:
            raise MissingDataError(f"{where} has neither bytes nor a path; restore it")
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            raise MissingDataError(f"{where}: path {path!r} leads out of the dataset; give one relative to its root")
        for folder in self._folders:
            if (folder / pure).is_file():
                return (folder / pure).read_bytes()
        raise MissingDataError(f"{where} has no bytes, and its file {path!r} is not there; restore it")


def rgb_picture(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of an 8-bit image."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"wanted 8-bit colour, got mode {image.mode}")
    return np.array(image.convert("RGB"))


def metres_picture(unit_m: float) -> Callable[[Image.Image], NDArray[np.float32]]:
    """A decoder to (H, W) float32 metres of a depth image whose counts are `unit_m` metres each; 0 stays 0."""

    def decode(image: Image.Image) -> NDArray[np.float32]:
        return _one_channel(image).astype(np.float32) * np.float32(unit_m)

    return decode


def mask_picture(label: int) -> Callable[[Image.Image], NDArray[np.bool_]]:
    """A decoder to (H, W) bool, True where a label image has the value `label`."""

    def decode(image: Image.Image) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = _one_channel(image) == label
        return found

    return decode


def _one_channel(image: Image.Image) -> NDArray[Any]:
    values = np.array(image)
    if values.ndim != 2:
        raise ValueError(f"wanted one channel, got mode {image.mode}")
    return values


def _groups(file: pq.ParquetFile, episode_index: int) -> tuple[int, ...]:
    """Row groups that can hold the episode, by the footer's smallest and largest index."""
    metadata = file.metadata
    leaf = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == "episode_index")
    found = []
    for group in range(metadata.num_row_groups):
        stats = metadata.row_group(group).column(leaf).statistics
        if stats is None or not stats.has_min_max or stats.min <= episode_index <= stats.max:
            found.append(group)
    return tuple(found)


def _holds_pictures(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))
