"""Files of a LeRobotDataset v3.0: many episodes in one, the next begun where one grows too large."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

CHUNK_FILES = 1000
"""Files in one chunk folder."""

LONGEST_VIDEO_S = 1000.0
"""LeRobot looks frames up by float32 seconds, with a tolerance of 1e-4 s: from 1024 s on they are 1.2e-4 s apart."""

CRF, GOP = 18, 2
"""x264's quality, and a key frame every second frame as LeRobot has it: a random frame costs two at most."""

_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileSizes:
    """Where the next file is begun, in MiB; LeRobot's own defaults."""

    data_mb: float = 100
    video_mb: float = 200


@dataclass(frozen=True, slots=True)
class Place:
    """`chunk-<chunk>/file-<file>`."""

    chunk: int
    file: int


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """Where an episode is stored: from `start_s` up to `end_s` of the video at `place`."""

    place: Place
    start_s: float
    end_s: float


class ParquetFiles:
    """Tables of one schema in numbered files; a table given is one row group.

    Args:
        root: the data set's folder.
        template: path with `chunk_index` and `file_index`.
        schema: of every table.
        limit_mb: a file is closed before it would grow beyond this.
    """

    def __init__(self, root: Path, template: str, schema: pa.Schema, limit_mb: float) -> None:
        self._root, self._template, self._schema, self._limit = root, template, schema, limit_mb * _MB
        self._number = -1
        self._rows = 0
        self._file: IO[bytes] | None = None
        self._writer: pq.ParquetWriter | None = None

    def place(self, n_rows: int) -> Place:
        """Where the next table, of `n_rows`, is stored."""
        if self._file is not None and self._rows:
            size = self._file.tell()
            if size * (1 + n_rows / self._rows) >= self._limit:
                self.close()
        if self._writer is None:
            self._number += 1
            self._rows = 0
            path = _path(self._root, self._template, self._number)
            self._file = path.open("wb")
            self._writer = pq.ParquetWriter(self._file, self._schema, compression="snappy")
        return Place(*divmod(self._number, CHUNK_FILES))

    def write(self, table: pa.Table) -> None:
        """Adds `table` at the place that `place` gave."""
        assert self._writer is not None
        self._writer.write_table(table, row_group_size=max(1, len(table)))
        self._rows += len(table)

    def close(self) -> None:
        """Completes the open file."""
        writer, file = self._writer, self._file
        self._writer = self._file = None
        try:
            if writer is not None:
                writer.close()
        finally:
            if file is not None:
                file.close()


class VideoFiles:
    """Frames of one camera in numbered H.264 files.

    Args:
        root: the data set's folder.
        key: the camera's feature.
        rate: frames per second.
        size: (height, width) in pixels, both even.
        limit_mb: a file is closed before it would grow beyond this.
    """

    def __init__(self, root: Path, key: str, rate: Fraction, size: tuple[int, int], limit_mb: float) -> None:
        self._root, self._key, self._rate, self._size = root, key, rate, size
        self._limit = limit_mb * _MB
        self._number = -1
        self._container: Any = None
        self._stream: Any = None
        self._frames = self._bytes = self._start = 0

    def begin(self, n_frames: int) -> None:
        """The next `n_frames` frames are one episode."""
        if self._container is not None:
            too_large = self._bytes * (1 + n_frames / self._frames) >= self._limit
            if too_large or (self._frames + n_frames) / self._rate > LONGEST_VIDEO_S:
                self.close()
        if self._container is None:
            self._open()
        self._start = self._frames

    def add(self, frames: Iterable[NDArray[np.uint8]]) -> None:
        """Encodes (H, W, 3) RGB frames of the episode."""
        for pixels in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            picture.pts, picture.time_base = self._frames, 1 / self._rate
            if self._frames == self._start:
                # No episode leans on the one before it.
                picture.pict_type = av.video.frame.PictureType.I
            self._mux(self._stream.encode(picture))
            self._frames += 1

    def end(self) -> VideoSpan:
        """Where the episode that `begin` began is stored."""
        place = Place(*divmod(self._number, CHUNK_FILES))
        return VideoSpan(place, float(self._start / self._rate), float(self._frames / self._rate))

    def close(self) -> None:
        """Completes the open file."""
        container, self._container = self._container, None
        if container is None:
            return
        try:
            for packet in self._stream.encode():
                container.mux(packet)
        finally:
            container.close()

    def abandon(self) -> None:
        """Closes the open file as it is."""
        container, self._container = self._container, None
        if container is not None:
            container.close()

    def _open(self) -> None:
        self._number += 1
        path = _path(self._root, VIDEO_PATH, self._number, video_key=self._key)
        self._container = av.open(str(path), "w", options={"movflags": "+faststart"})
        stream = self._container.add_stream("libx264", rate=self._rate)
        stream.height, stream.width = self._size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = 1 / self._rate
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = GOP, 0
        stream.options = {"crf": str(CRF)}
        self._stream = stream
        self._frames = self._bytes = 0

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            self._bytes += packet.size
            self._container.mux(packet)


def _path(root: Path, template: str, number: int, **names: str) -> Path:
    chunk, file = divmod(number, CHUNK_FILES)
    path = root / template.format(chunk_index=chunk, file_index=file, **names)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
