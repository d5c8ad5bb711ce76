"""RGB frames of a video file, decoded lazily with PyAV.

Pictures are known by their number in presentation order, which is the order in which a decoder gives them, and never
looked up by time alone: files repeat time stamps, start at 100 s, or count from a zero of their own. The number of
pictures is what decodes (`scan_video`) or what the packets say (`list_pictures`), never what the header claims.

Colours are converted as ffmpeg does by default: matrix and range from the stream's own tags, BT.601 limited range
where it has none. A display matrix that turns or mirrors is applied, as players and ffmpeg do; non-square pixels are
left as they are stored.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideData
from numpy.typing import NDArray

from extractors.errors import CorruptDataError, MissingDataError
from extractors.types import Size
from flows.sources.files import check_plain
from flows.sources.images import MAX_PIXELS

_BROKEN = (FFmpegError, OSError, ValueError, OverflowError, MemoryError)

_COUNTED_BY_PACKETS = frozenset({"h264", "hevc", "av1", "libdav1d", "mpeg4", "mjpeg", "vp8", "vp9", "ffv1"})
"""Codecs of which one packet of mp4 or Matroska is one picture."""


_decoder_threads = 0


def set_decoder_threads(count: int) -> int:
    """Threads of each decoder that is opened from now on, in this process; 0: one per core. Returns the number before.

    Pictures do not depend on it.
    """
    global _decoder_threads
    before, _decoder_threads = _decoder_threads, count
    return before


@dataclass(frozen=True, slots=True, eq=False)
class VideoScan:
    """What one decoding pass over a whole video found.

    Attributes:
        times: (T,) float64, presentation time of each decoded frame, seconds from the first.
        size: (height, width) in pixels, after rotation.
        fps: the stream's average rate, or the frames' own (from the median step) where they disagree.
        tags: "timestamps-from-fps" where the file's times do not increase and were replaced by frame / fps.
    """

    times: NDArray[np.float64]
    size: Size
    fps: float
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """The pictures of a file by number, from its packets' headers.

    Attributes:
        stamps: (N,) int64 presentation stamps in ticks, strictly increasing; None where the file's stamps cannot tell
            pictures apart (missing, repeated, or of a container that has none).
        count: N.
        times: (N,) float64, seconds from the first picture; number / rate where `stamps` is None.
        sure: whether one packet is one picture in this codec and container.
    """

    stamps: NDArray[np.int64] | None
    count: int
    times: NDArray[np.float64]
    sure: bool


class VideoFrames:
    """T lazy (H, W, 3) uint8 RGB frames of a video: the pictures of T given numbers; decoded again by each pass.

    A pass seeks to the key frame before the first picture and decodes forward from there, so memory is constant and
    an episode inside a long file costs its own frames only. Where the seek led is told by the picture's stamp, and
    every later picture must have the next one's: a lost picture ends the pass instead of shifting the rest. The file
    is closed when the pass ends or is abandoned.
    """

    def __init__(
        self, path: Path, numbers: NDArray[np.int64], pictures: Pictures | None = None, *, size: Size | None = None
    ) -> None:
        """Pictures `numbers` of `path`.

        Args:
            path: the video file.
            numbers: (T,) int64, not decreasing, from 0; a number may repeat.
            pictures: of the file; without, pictures are counted from the start of the file.
            size: (height, width) where already known; decodes one frame on first use otherwise.
        """
        self.path = path
        self.numbers = numbers
        self._pictures = pictures
        self._size = size

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, 3).

        Raises:
            EpisodeError: the first frame cannot be decoded.
        """
        if self._size is None:
            next(iter(self))
        assert self._size is not None
        return (len(self.numbers), *self._size, 3)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Each row's picture.

        Raises:
            CorruptDataError: the file is cut or damaged; says how many frames decoded of how many wanted.
            MissingDataError: the file is whole but has no picture of a row's number.
        """
        if not len(self.numbers):
            return
        stamps = self._pictures.stamps if self._pictures is not None else None
        with VideoDecoder(self.path) as decoder:
            counted = _Counted(decoder, stamps, int(self.numbers[0]))
            pixels: NDArray[np.uint8] | None = None
            for row, number in enumerate(self.numbers.tolist()):
                if pixels is None or counted.number != number:
                    frame = counted.forward(number)
                    if frame is None:
                        raise self._missing(decoder, row, number, hole=counted.lost)
                    pixels = self._rgb(decoder, frame, row)
                yield pixels

    def _rgb(self, decoder: VideoDecoder, frame: VideoFrame, row: int) -> NDArray[np.uint8]:
        if frame.image.is_corrupt:
            raise CorruptDataError(
                f"{_label(self.path)}: frame at {frame.time:.3f} s is damaged; {row} of {len(self)} frames decoded; "
                "replace the file"
            )
        pixels = decoder.rgb(frame)
        size = (pixels.shape[0], pixels.shape[1])
        if self._size not in (None, size):
            raise CorruptDataError(
                f"{_label(self.path)}: all frames should be {self._size}, the one at {frame.time:.3f} s is {size}; "
                "re-encode the file at one size"
            )
        self._size = size
        return pixels

    def _missing(
        self, decoder: VideoDecoder, row: int, number: int, *, hole: bool
    ) -> CorruptDataError | MissingDataError:
        text = f"{_label(self.path)}: no picture {number} for row {row}; {row} of {len(self)} frames decoded"
        why = decoder.damage or ("the file is cut" if is_cut(self.path) else "it has a hole" if hole else "")
        if why:
            return CorruptDataError(f"{text}: {why}; replace the file")
        return MissingDataError(f"{text}; the file is shorter than the dataset's tables say")


def scan_video(path: Path) -> VideoScan:
    """Times and size of all frames of `path`, found by decoding it once (without colour conversion).

    This is the only count that can be trusted for any container and codec; it costs one decoding pass.

    Raises:
        CorruptDataError: not a video, cut, damaged, or without a single frame.
        MissingDataError: there is no such file.
    """
    times: list[float] = []
    with VideoDecoder(path) as decoder:
        first = frame = decoder.next()
        while frame is not None:
            times.append(frame.time)
            frame = decoder.next()
        lost = decoder.damage or ("the file is cut" if is_cut(path) else "")
        if first is None or lost:
            raise CorruptDataError(
                f"{_label(path)}: {len(times)} of {decoder.promised() or 'an unknown number of'} frames decoded: "
                f"{lost or 'it holds no picture'}; replace the file"
            )
        size = decoder.size(first)
        return _scan_of(np.array(times), size, decoder.rate)


def list_pictures(path: Path) -> Pictures:
    """The pictures in `path` by their packets' headers, in one pass; decodes nothing.

    Raises:
        CorruptDataError: not a video.
        MissingDataError: there is no such file.
    """
    with VideoDecoder(path) as decoder:
        stamps = list(decoder.packet_stamps())
        rate, base = decoder.rate, decoder.base
        sure = decoder.one_picture_a_packet
    in_order = np.array(sorted(stamp for stamp in stamps if stamp is not None), np.int64)
    if not sure or len(in_order) < len(stamps) or (np.diff(in_order) <= 0).any():
        return Pictures(None, len(stamps), np.arange(len(stamps)) / (rate or 1.0), sure)
    times = (in_order - in_order[0]) * base if len(in_order) else np.zeros(0)
    return Pictures(in_order, len(in_order), times, sure)


def is_cut(path: Path) -> bool:
    """Whether bytes that the file's own index or header announces are missing at its end (mp4, mov, AVI, Matroska)."""
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:4] == b"RIFF":
        return int.from_bytes(head[4:8], "little") + 8 > n_bytes
    if head[:4] == _EBML:
        return _matroska_end(head) > n_bytes
    if _demuxer(head) != "mov":
        return False
    with VideoDecoder(path) as decoder:
        return any(entry.pos + entry.size > n_bytes for entry in decoder.stream.index_entries)


_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def _matroska_end(head: bytes) -> int:
    """Byte behind the Matroska segment, 0 where its size is not stated (a live recording).

    RFC 8794, section 4: an element is its id, a size of 1 to 8 bytes whose leading zeros give its width, its data; a
    size of all ones is unknown.
    """
    width, size = _ebml_size(head, 4)
    start = 4 + width + (size or 0)
    if head[start : start + 4] != _SEGMENT:
        return 0
    width, size = _ebml_size(head, start + 4)
    return 0 if size is None else start + 4 + width + size


def _ebml_size(data: bytes, position: int) -> tuple[int, int | None]:
    first = data[position] if position < len(data) else 0
    width = 9 - first.bit_length()
    bits = int.from_bytes(data[position : position + width], "big") & ((1 << 7 * width) - 1)
    return width, None if bits == (1 << 7 * width) - 1 or not first else bits


def _demuxer(head: bytes) -> str | None:
    """The demuxer for a file that begins with `head`, None for anything but a video file.

    ffmpeg guesses among some 300 of them, playlists that open other files and addresses among these.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    packets = [head[start : start + 600 : step] for start, step in ((0, 188), (4, 192))]
    if len(head) > 600 and any(set(packet) == {0x47} for packet in packets):
        return "mpegts"
    if head[:4] == b"RIFF":
        return "avi" if head[8:12] == b"AVI " else None
    names = {
        _EBML: "matroska",
        b"\x00\x00\x01\xba": "mpeg",
        b"FLV\x01": "flv",
        b"OggS": "ogg",
        b"\x30\x26\xb2\x75": "asf",
    }
    return names.get(head[:4])


@dataclass(frozen=True, slots=True, eq=False)
class VideoFrame:
    """One decoded picture: `time` in seconds from the stream's start, `stamp` in its ticks, `image` of PyAV."""

    time: float
    stamp: int | None
    image: Any = field(repr=False)


class _Counted:
    """A decoder's pictures with their numbers, from the key frame before the first one wanted."""

    def __init__(self, decoder: VideoDecoder, stamps: NDArray[np.int64] | None, first: int) -> None:
        self.number = -1
        self.lost = False
        self._decoder = decoder
        self._stamps = stamps
        self._ahead: VideoFrame | None = None
        if stamps is not None and 0 < first < len(stamps):
            decoder.seek(int(stamps[first]))
            self._ahead = decoder.next()
            if self._ahead is None or not 0 <= self._listed(self._ahead) <= first:
                # Some indexes lead past the key frame that is needed: then start at the beginning.
                decoder.damage = ""
                decoder.seek(int(stamps[0]))
                self._ahead = None

    def forward(self, number: int) -> VideoFrame | None:
        """The picture `number`, None where the file ends or skips it."""
        while self.number < number:
            frame, self._ahead = self._ahead or self._decoder.next(), None
            if frame is None:
                return None
            # A stamp that no packet has, or one that was passed already, is not a picture of this list.
            self.number = max(self.number, self._listed(frame))
        self.lost = self.number > number
        return None if self.lost else frame

    def _listed(self, frame: VideoFrame) -> int:
        """The number of a picture: that of its stamp, -1 where the file's list lacks it; without stamps, the next."""
        if self._stamps is None:
            return self.number + 1
        number = int(np.searchsorted(self._stamps, frame.stamp)) if frame.stamp is not None else len(self._stamps)
        return number if number < len(self._stamps) and self._stamps[number] == frame.stamp else -1


class VideoDecoder:
    """One open video file; `next` gives its frames in presentation order and None at the end or at damage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ""
        check_plain(path, f"video {_label(path)}")
        try:
            with path.open("rb") as file:
                self.format = _demuxer(file.read(1024))
            if self.format is None:
                raise CorruptDataError(
                    f"video {_label(path)} cannot be opened: it is cut, or no video of a kind that is read (mp4, mov, "
                    "Matroska, AVI, MPEG-TS, MPEG-PS, FLV, ASF, Ogg); replace the file"
                )
            self._container = _open(path, self.format)
        except _BROKEN as error:
            raise CorruptDataError(
                f"video {_label(path)} cannot be opened ({getattr(error, 'strerror', None) or error}): cut, or no "
                "video; replace the file"
            ) from error
        stream: Any = self._container.streams.best("video")
        if stream is None or stream.codec_context is None or not stream.time_base:
            self._container.close()
            raise CorruptDataError(f"{_label(path)} has no video stream that can be decoded; give a video file")
        size = stream.codec_context.width * stream.codec_context.height
        if size > MAX_PIXELS:
            self._container.close()
            raise CorruptDataError(
                f"{_label(path)} claims frames of {size:,} pixels, at most {MAX_PIXELS:,} are decoded"
            )
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = _decoder_threads
        # The decoder itself refuses larger pictures, also where they come after the first.
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        self.stream = stream
        self.rate = float(stream.average_rate or stream.guessed_rate or 0)
        self.base = float(stream.time_base)
        self._start = (stream.start_time or 0) * self.base
        self._converter = _RgbConverter()
        self._frames = self._decode()

    def __enter__(self) -> VideoDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()
        self._container.close()

    @property
    def one_picture_a_packet(self) -> bool:
        """Whether packets can be counted for pictures."""
        return self.format in ("mov", "matroska") and self.stream.codec_context.name in _COUNTED_BY_PACKETS

    def next(self) -> VideoFrame | None:
        """The next picture, None at the end or at damage, which `damage` then names."""
        try:
            return next(self._frames, None)
        except _BROKEN as error:
            self.damage = f"decoding failed ({getattr(error, 'strerror', None) or error})"
            return None

    def seek(self, stamp: int) -> None:
        """Goes to the key frame at or before `stamp`; where that fails, to the start of the file."""
        self._frames.close()
        try:
            self._container.seek(stamp, stream=self.stream, backward=True)
        except _BROKEN:
            self._container.close()
            self._container = _open(self.path, str(self.format))
            self.stream = self._container.streams.best("video")
        self._frames = self._decode()

    def rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 of a picture, turned as the display matrix asks.

        Raises:
            CorruptDataError: it has no form in RGB.
        """
        try:
            pixels = self._converter.convert(frame.image)
        except _BROKEN as error:
            raise CorruptDataError(
                f"{_label(self.path)}: the picture at {frame.time:.3f} s has no RGB form ({error}); re-encode the file"
            ) from error
        swapped, flip_x, flip_y = _orientation(frame.image)
        pixels = pixels.swapaxes(0, 1) if swapped else pixels
        return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])

    def size(self, frame: VideoFrame) -> Size:
        """(height, width) of a picture once turned."""
        height, width = frame.image.height, frame.image.width
        return (width, height) if _orientation(frame.image)[0] else (height, width)

    def packet_stamps(self) -> Iterator[int | None]:
        """The presentation stamp of each packet, in file order, None where it has none."""
        try:
            for packet in self._container.demux(self.stream):
                if packet.size and not packet.is_corrupt and not packet.is_discard:
                    yield packet.pts
        except _BROKEN as error:
            raise CorruptDataError(f"{_label(self.path)} cannot be read: {error}; replace the file") from error

    def promised(self) -> int | None:
        """The number of frames that an mp4's index announces, for messages only."""
        entries = self.stream.index_entries if self.format == "mov" else ()
        return sum(not entry.is_discard for entry in entries or ()) or None

    def _decode(self) -> Generator[VideoFrame]:
        count = 0
        for packet in self._container.demux(self.stream):
            # A cut file's last packet is a torn one: what is decoded from it is not a frame.
            torn = packet.is_corrupt
            for image in self.stream.codec_context.decode(None) if torn else packet.decode():
                time = count / (self.rate or 1.0) if image.pts is None else image.pts * self.base - self._start
                yield VideoFrame(time, image.pts, image)
                count += 1
            if torn:
                self.damage = "the file ends inside a frame"
                return


def _open(path: Path, demuxer: str) -> Any:
    # "file:" keeps a name such as "http:x" a name; the white list keeps what the file refers to closed.
    name = "file:" + os.path.abspath(path)
    return av.open(name, format=demuxer, options={"protocol_whitelist": "file"}, metadata_errors="replace")


def _orientation(image: Any) -> tuple[bool, bool, bool]:
    """(rows and columns swapped, then columns reversed, then rows reversed): what the display matrix asks for.

    ffmpeg's libavutil/display.h: nine int32, and (p, q) is shown at (a p + c q, b p + d q) for a, b, u, c, d, ...
    Other angles than quarter turns are taken for the nearest, as players do.
    """
    matrix = image.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    return swapped, (c if swapped else a) < 0, (b if swapped else d) < 0


class _RgbConverter:
    """RGB of decoded images, as ffmpeg's command line makes it: its scale filter, bicubic where chroma is resized.

    On 8-bit 4:2:0 PyAV's `to_ndarray` gives the same; on 10-bit and odd-sized frames it is 46 dB away.
    """

    def __init__(self) -> None:
        self._layout: tuple[Any, ...] = ()
        self._graph: Any = None

    def convert(self, image: Any) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 of an `av.VideoFrame`."""
        layout = (image.width, image.height, image.format.name, image.colorspace, image.color_range)
        if layout != self._layout:
            self._layout, self._graph = layout, self._build(image)
        self._graph.push(image)
        pixels: NDArray[np.uint8] = self._graph.pull().to_ndarray()
        return pixels

    @staticmethod
    def _build(image: Any) -> Any:
        graph = av.filter.Graph()
        base = image.time_base or Fraction(1, 1000)
        source = graph.add_buffer(width=image.width, height=image.height, format=image.format.name, time_base=base)
        graph.link_nodes(
            source, graph.add("scale", "flags=bicubic"), graph.add("format", "rgb24"), graph.add("buffersink")
        )
        graph.configure()
        return graph


def _label(path: Path) -> str:
    """The end of a path, for messages: enough of it to tell cameras apart."""
    return "/".join(path.parts[-3:])


def _scan_of(times: NDArray[np.float64], size: Size, rate: float) -> VideoScan:
    # Frames come in presentation order; an AVI with B-frames gives them stamps in decoding order.
    times = np.sort(times)
    steps = np.diff(times)
    moved = steps[steps > 0]
    fps = rate or 1.0
    if len(moved):
        own = 1 / float(np.median(moved))
        # An AVI's header may announce twice the rate that its frames have.
        fps = rate if rate and abs(own / rate - 1) < 0.01 else round(own, 3)
    if len(moved) < len(steps):
        return VideoScan(np.arange(len(times)) / fps, size, fps, ("timestamps-from-fps",))
    return VideoScan(times - times[0], size, fps)
