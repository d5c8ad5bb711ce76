"""Rows of one episode in a LeRobot data file: numbers at once, pictures lazily.

A v3.0 file holds many episodes. The row groups that can hold the wanted one are found from their index column, and only
they are read; the last table is kept, so that a thousand episodes in one row group cost one read. Pictures
are decoded by named readers of a few formats only: Pillow's own guess among all its formats would start Ghostscript.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps

from extractors.errors import CorruptDataError, MissingDataError
from flows.sources.files import foreign_content, read_bytes
from flows.sources.images import MAX_PIXELS, image_size
from flows.sources.lerobot_tables import PARQUET_FAULTS, natural_order, open_parquet

_BATCH = 8  # pictures held at a time while a column is walked through

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
"""What image cells of datasets hold; TIFF is LeRobot's form of float32 depth."""


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
        try:
            column = self.table[name].combine_chunks()
            if not (pa.types.is_list(column.type) or _is_fixed(column.type) or pa.types.is_large_list(column.type)):
                return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False)).reshape(-1, 1)
            if not _is_fixed(column.type):
                lengths = set(pc.list_value_length(column).to_pylist())
                if len(lengths) > 1:
                    raise CorruptDataError(
                        f"{self.relative}: {name} should have one length, got {sorted(map(str, lengths))}"
                    )
            values = np.array(column.to_pylist(), np.float64)
        except PARQUET_FAULTS as error:
            raise CorruptDataError(f"{self.relative}: column {name} should hold numbers: {error}") from error
        if not values.size:
            raise CorruptDataError(f"{self.relative}: column {name} holds rows without a number; restore the file")
        return values.reshape(len(self.table), -1)


class RowReader:
    """Opens data files and keeps the last table that was read."""

    def __init__(self, root: Path) -> None:
        """Reader of the data files below `root`."""
        self._root = root
        self._kept: tuple[object, pa.Table] | None = None
        self._spread: tuple[object, list[dict[str, Any]]] | None = None
        self._places: dict[int, str] | None = None

    def read(self, relative: str, episode_index: int, columns: Sequence[str], *, one_episode: bool) -> EpisodeRows:
        """The rows of `episode_index`, from `relative`, or from the data file that has them instead.

        Args:
            relative: the parquet file that the tables name, below the root.
            episode_index: value of the `episode_index` column.
            columns: the columns to read, those of them that the file has.
            one_episode: the file holds nothing else (v2.x), so that a column with another number is only misnamed.

        Raises:
            MissingDataError: there is no such file, or no such row in it.
            CorruptDataError: the file cannot be read.
        """
        try:
            return self._read(relative, episode_index, columns, one_episode=one_episode)
        except MissingDataError:
            other = None if one_episode else self._elsewhere(episode_index)
            if other is None or other == relative:
                raise
            return self._read(other, episode_index, columns, one_episode=False)

    def _read(self, relative: str, episode_index: int, columns: Sequence[str], *, one_episode: bool) -> EpisodeRows:
        path, name = self._root / relative, f"data file {relative}"
        try:
            with open_parquet(path, columns, name) as file:
                numbered = "episode_index" in file.schema_arrow.names
                groups = self._groups(path, file, episode_index) if numbered else tuple(range(file.num_row_groups))
                table = self._table(path, file, groups, columns) if groups else None
                if table is not None and numbered:
                    table = table.filter(pc.equal(table["episode_index"], episode_index))
                if one_episode and (table is None or not len(table)):
                    groups, numbered = tuple(range(file.num_row_groups)), False
                    table = self._table(path, file, groups, columns)
        except PARQUET_FAULTS as error:
            raise CorruptDataError(f"{name} cannot be read: {error}; replace the file") from error
        if table is None or not len(table):
            raise MissingDataError(f"{relative} has no row of episode {episode_index}; restore it or drop the episode")
        return EpisodeRows(path, relative, episode_index if numbered else None, groups, table)

    def _table(self, path: Path, file: pq.ParquetFile, groups: tuple[int, ...], columns: Sequence[str]) -> pa.Table:
        stat = path.stat()
        there = [name for name in file.schema_arrow.names if name in columns]
        key = (path, stat.st_mtime_ns, stat.st_size, groups, tuple(there))
        if self._kept is None or self._kept[0] != key:
            self._kept = key, file.read_row_groups(list(groups), columns=there)
        return self._kept[1]

    def _groups(self, path: Path, file: pq.ParquetFile, episode_index: int) -> tuple[int, ...]:
        """Row groups that can hold the episode, by the smallest and largest index in each.

        Not by the footer's statistics: pyarrow ends the whole process when a damaged footer is asked for them.
        """
        stat = path.stat()
        key = (path, stat.st_mtime_ns, stat.st_size)
        if self._spread is None or self._spread[0] != key:
            columns = (file.read_row_group(i, ["episode_index"]).column(0) for i in range(file.num_row_groups))
            self._spread = key, [pc.min_max(column).as_py() for column in columns]
        return tuple(
            group
            for group, ends in enumerate(self._spread[1])
            if ends["min"] is not None and ends["min"] <= episode_index <= ends["max"]
        )

    def _elsewhere(self, episode_index: int) -> str | None:
        """The data file that has an episode's rows, looked for in all of them.

        Converters have written the number of the file before (`data/file_index`); LeRobot itself finds rows by
        `dataset_from_index`, and does not notice.
        """
        if self._places is None:
            self._places = {}
            for path in sorted((self._root / "data").glob("**/*.parquet"), key=natural_order):
                try:
                    with open_parquet(path, ["episode_index"], path.name) as file:
                        found = file.read(columns=["episode_index"])["episode_index"].unique().to_pylist()
                except (CorruptDataError, MissingDataError, *PARQUET_FAULTS):
                    continue  # an unreadable file is the fault of the episodes that name it
                relative = path.relative_to(self._root).as_posix()
                self._places |= {index: relative for index in found if index not in self._places}
        return self._places.get(episode_index)


_BROKEN_PICTURE = (
    *(OSError, SyntaxError, ValueError, TypeError, OverflowError, KeyError, MemoryError, struct.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
"""What Pillow raises for bytes that are no whole picture."""


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
            with open_parquet(rows.path, columns, f"data file {rows.relative}") as file:
                if self._column not in file.schema_arrow.names:
                    raise MissingDataError(f"{rows.relative} has no column {self._column}; restore it")
                for batch in file.iter_batches(_BATCH, row_groups=list(rows.groups), columns=columns):
                    if rows.episode_index is not None:
                        batch = batch.filter(pc.equal(batch["episode_index"], rows.episode_index))
                    yield from batch[self._column]
        except PARQUET_FAULTS as error:
            raise CorruptDataError(f"data file {rows.relative} cannot be read: {error}; replace the file") from error

    def _picture(self, row: int, cell: pa.Scalar) -> NDArray[Any]:
        where = f"{self._rows.relative}, row {row} of {self._column}"
        try:
            with self._opened(cell, where) as image:
                return self._decode(image)
        except _BROKEN_PICTURE as error:
            raise CorruptDataError(f"{where}: no whole picture ({error}); replace it") from error

    def _opened(self, cell: pa.Scalar, where: str) -> Image.Image:
        """The picture in a cell: encoded bytes, {bytes, path}, the path of a file, or rows of pixels."""
        if pa.types.is_nested(cell.type) and not pa.types.is_struct(cell.type):
            pixels = np.array(cell.as_py())
            if pixels.dtype.kind not in "ui" or pixels.min(initial=0) < 0 or pixels.max(initial=0) > 255:
                raise ValueError("wanted rows of pixels of whole numbers from 0 to 255")
            return Image.fromarray(_channels_last(pixels.astype(np.uint8)))
        value = cell.as_py()
        value = value if isinstance(value, dict) else {"path" if isinstance(value, str) else "bytes": value}
        data = value.get("bytes") or self._file(value.get("path"), where)
        if data.startswith((b"\xff\xd8", b"\x89PNG")):
            image_size(data, where)
        try:
            image = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
        except OSError as error:
            what = foreign_content(data) or f"is none of {', '.join(PICTURE_FORMATS)}, or damaged"
            raise ValueError(f"it {what}") from error
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"its header claims {image.width} x {image.height} pixels, at most {MAX_PIXELS:,}")
        # A camera that was held upright says so in EXIF; so do readers of these datasets take it.
        return ImageOps.exif_transpose(image)

    def _file(self, path: str | None, where: str) -> bytes:
        if not path:
            raise MissingDataError(f"{where} has neither bytes nor a path; restore it")
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or "\0" in path:
            raise MissingDataError(f"{where}: path {path!r} leads out of the dataset; give one relative to its root")
        for folder in self._folders:
            if (folder / pure).is_file():
                return read_bytes(folder / pure, f"{where}, file {path!r}")
        raise MissingDataError(f"{where} has no bytes, and its file {path!r} is not there; restore it")


def _channels_last(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) of either order of axes."""
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4) and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim not in (2, 3) or not 0 < pixels.size <= 4 * MAX_PIXELS:
        raise ValueError(f"wanted (H, W) or (H, W, 3) pixels, got {pixels.shape}")
    return np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)


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


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))
