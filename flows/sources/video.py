"""RGB frames of a video file, decoded lazily with PyAV.

Frames come in presentation order. The number of frames is what decodes (`scan_video`) or what lies in the file
(`packet_times`), never what the header claims: a joined mp4 that was cut still announces its full length, and an AVI
written by ffmpeg may announce twice its own. Colours are converted as ffmpeg does by default: matrix and range from
the stream's own tags, BT.601 limited range where it has none. A rotation of 90, 180 or 270 degrees in the metadata is
applied, as players and ffmpeg do; non-square pixels are left as they are stored.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from extractors.errors import CorruptDataError, MissingDataError
from extractors.types import Size


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


class VideoFrames:
    """T lazy (H, W, 3) uint8 RGB frames of a video, the ones nearest to T given times; decoded anew by each pass.

    A pass seeks to the key frame before the first time and decodes forward from there, so memory is constant and an
    episode inside a long file costs its own frames only. The file is closed when the pass ends or is abandoned.
    """

    def __init__(self, path: Path, times: NDArray[np.float64], *, size: Size | None = None) -> None:
        """Frames of `path` at `times`.

        Args:
            path: the video file.
            times: (T,) float64, ascending, seconds from the start of the stream.
            size: (height, width) where already known; decodes one frame on first use otherwise.
        """
        self.path = path
        self.times = times
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
        return (len(self.times), *self._size, 3)

    def __len__(self) -> int:
        return len(self.times)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Each row's frame: the one nearest to its time, at most half a frame away.

        Raises:
            CorruptDataError: the file is cut or damaged; says how many frames decoded of how many wanted.
            MissingDataError: the file is whole but has no frame at a row's time.
        """
        if not len(self.times):
            return
        with _Decoder(self.path) as decoder:
            tolerance = decoder.half_frame(self.times)
            before = after = decoder.first_before(float(self.times[0]), tolerance)
            shown: _Frame | None = None
            pixels = None
            for row, wanted in enumerate(self.times):
                while after is not None and after.time < wanted:
                    before, after = after, decoder.next()
                near = _nearest(before, after, float(wanted))
                if near is None or abs(near.time - wanted) > tolerance:
                    raise self._missing(decoder, row, float(wanted), near, hole=after is not None and row > 0)
                if near is not shown or pixels is None:
                    shown, pixels = near, self._rgb(decoder, near, row)
                yield pixels

    def _rgb(self, decoder: _Decoder, frame: _Frame, row: int) -> NDArray[np.uint8]:
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
        self, decoder: _Decoder, row: int, wanted: float, near: _Frame | None, *, hole: bool
    ) -> CorruptDataError | MissingDataError:
        found = f"nearest is at {near.time:.4f} s" if near else "there is none"
        text = (
            f"{_label(self.path)}: no frame for row {row} at {wanted:.4f} s ({found}); "
            f"{row} of {len(self)} frames decoded"
        )
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
    with _Decoder(path) as decoder:
        first = frame = decoder.next()
        while frame is not None:
            times.append(frame.time)
            frame = decoder.next()
        promised = decoder.promised()
        lost = decoder.damage or _ends_early(decoder, times)
        if first is None or lost:
            raise CorruptDataError(
                f"{_label(path)}: {len(times)} of {promised or 'an unknown number of'} frames decoded: "
                f"{lost or 'it holds no picture'}; replace the file"
            )
        size = decoder.size(first)
        rate, length = decoder.rate, decoder.length()
    return _scan_of(np.array(times), size, rate, length)


def packet_times(path: Path) -> NDArray[np.float64]:
    """(T,) float64 ascending presentation times of the pictures in `path`, seconds from the first; decodes nothing.

    One packet is one picture for H.264, HEVC and AV1 in mp4, as LeRobot writes them; not for every codec.

    Raises:
        CorruptDataError: not a video.
        MissingDataError: there is no such file.
    """
    with _Decoder(path) as decoder:
        return np.array(sorted(decoder.packet_times()))


def is_cut(path: Path) -> bool:
    """Whether bytes that the file's own index or header announces are missing at its end (mp4, mov, AVI)."""
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] == b"RIFF":
        return int.from_bytes(head[4:8], "little") + 8 > n_bytes
    if head[4:8] not in (b"ftyp", b"moov", b"wide", b"free"):
        return False
    with _Decoder(path) as decoder:
        return any(entry.pos + entry.size > n_bytes for entry in decoder.stream.index_entries)


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    time: float
    image: Any = field(repr=False)


class _Decoder:
    """One open video file; `next` gives its frames in presentation order and None at the end or at damage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ""
        try:
            self._container = av.open(str(path))
        except FileNotFoundError as error:
            raise MissingDataError(f"video {_label(path)} is not there; restore it") from error
        except (FFmpegError, OSError) as error:
            raise CorruptDataError(
                f"video {_label(path)} cannot be opened ({error.strerror or error}): cut, or no video; replace the file"
            ) from error
        stream: Any = self._container.streams.best("video")
        if stream is None:
            self._container.close()
            raise CorruptDataError(f"{_label(path)} has no video stream; give a video file")
        stream.thread_type = "AUTO"
        self.stream = stream
        self.rate = float(stream.average_rate or stream.guessed_rate or 0)
        self._base = float(stream.time_base)
        self._start = (stream.start_time or 0) * self._base
        self._converter = _RgbConverter()
        self._frames = self._decode()

    def __enter__(self) -> _Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()
        self._container.close()

    def next(self) -> _Frame | None:
        try:
            return next(self._frames, None)
        except (FFmpegError, OSError) as error:
            self.damage = f"decoding failed ({getattr(error, 'strerror', None) or error})"
            return None

    def first_before(self, time: float, tolerance: float) -> _Frame | None:
        """A frame not later than `time` (within `tolerance`), from which `next` goes on."""
        if time - tolerance <= 0:
            return self.next()
        self._seek(time - tolerance)
        frame = self.next()
        if frame is None or frame.time > time + tolerance:
            # Some indexes lead past the key frame that is needed: then start at the beginning.
            self.damage = ""
            self._seek(0.0)
            frame = self.next()
        return frame

    def half_frame(self, times: NDArray[np.float64]) -> float:
        """Half the time between two frames, seconds: the farthest a row's frame may be from its time."""
        rate = self.rate
        if not rate:
            rate = 1 / float(np.median(np.diff(times))) if len(times) > 1 else 1.0
        # 1e-4 s: rounding of float32 timestamps after some 1000 s, LeRobot's own tolerance
        return 0.5 / rate + 1e-4

    def rgb(self, frame: _Frame) -> NDArray[np.uint8]:
        pixels = self._converter.convert(frame.image)
        turns = round(frame.image.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels

    def size(self, frame: _Frame) -> Size:
        height, width = frame.image.height, frame.image.width
        return (width, height) if round(frame.image.rotation / 90) % 2 else (height, width)

    def packet_times(self) -> Iterator[float]:
        for packet in self._container.demux(self.stream):
            if packet.size and packet.pts is not None and not packet.is_corrupt and not packet.is_discard:
                yield packet.pts * self._base - self._start

    def promised(self) -> int | None:
        """The number of frames that the file announces, for messages only."""
        length = self.length()
        if self.stream.index_entries and "mp4" in self._container.format.name:
            return sum(not entry.is_discard for entry in self.stream.index_entries)
        matroska = "matroska" in self._container.format.name  # an AVI's numbers are not worth repeating
        return round(length * self.rate) if matroska and length and self.rate else None

    def length(self) -> float | None:
        """Seconds that the file announces for this stream, None where it does not."""
        written = self.stream.metadata.get("DURATION")  # Matroska's per-stream tag, "00:00:23.500000000"
        if written:
            hours, minutes, seconds = written.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        if self.stream.duration is not None:
            return float(self.stream.duration * self._base)
        if len(self._container.streams) == 1 and self._container.duration is not None:
            return float(self._container.duration) / av.time_base
        return None

    def _seek(self, time: float) -> None:
        self._frames.close()
        self._container.seek(int((time + self._start) / self._base), stream=self.stream, backward=True)
        self._frames = self._decode()

    def _decode(self) -> Generator[_Frame]:
        count = 0
        for packet in self._container.demux(self.stream):
            # A cut file's last packet is a torn one: what is decoded from it is not a frame.
            torn = packet.is_corrupt
            for image in self.stream.codec_context.decode(None) if torn else packet.decode():
                time = count / (self.rate or 1.0) if image.pts is None else image.pts * self._base - self._start
                yield _Frame(time, image)
                count += 1
            if torn:
                self.damage = "the file ends inside a frame"
                return


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


def _nearest(before: _Frame | None, after: _Frame | None, time: float) -> _Frame | None:
    frames = [frame for frame in (before, after) if frame is not None]
    return min(frames, key=lambda frame: abs(frame.time - time), default=None)


def _ends_early(decoder: _Decoder, times: list[float]) -> str:
    if is_cut(decoder.path):
        return "the file is cut"
    length = decoder.length()
    matroska = "matroska" in decoder._container.format.name
    # Two frames of grace: a stream's announced length is rounded up by some writers.
    if matroska and length and decoder.rate and times and times[-1] + 3 / decoder.rate < length:
        return f"it ends at {times[-1]:.2f} s, {length:.2f} s are announced"
    return ""


def _scan_of(times: NDArray[np.float64], size: Size, rate: float, length: float | None) -> VideoScan:
    steps = np.diff(times)
    if len(times) > 1 and not (steps > 0).all():
        fps = len(times) / length if length else rate or 1.0
        return VideoScan(np.arange(len(times)) / fps, size, fps, ("timestamps-from-fps",))
    fps = rate or 1.0
    if len(steps):
        own = 1 / float(np.median(steps))
        # An AVI's header may announce twice the rate that its frames have.
        fps = rate if rate and abs(own / rate - 1) < 0.01 else round(own, 3)
    return VideoScan(times - times[0], size, fps)
