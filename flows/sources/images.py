"""Encoded images, decoded strictly and only when asked for.

OpenCV decodes a cut JPEG without a word and leaves the rest grey, so the container is checked first. What a header may
claim is bounded before anything is decoded.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.cuts import is_black
from extractors.errors import CorruptDataError
from extractors.types import Size
from flows.sources.files import foreign_content

MAX_PIXELS = 8192 * 4320
"""Most pixels that a picture may have: an 8K frame. 15 kB of JPEG can claim a hundred times that."""

_MAX_SEGMENTS = 2000
"""Most marker segments before a JPEG's scan; cameras write some 20, a large colour profile 50 more."""

_MAX_SCANS = 100
"""Most scans of a JPEG; progressive ones have about 10, and each passes over the whole picture."""

_MAX_CHUNKS = 100_000
"""Most chunks of a PNG; the usual ones of 8 kB make 8,000 of the largest file that is read."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8"
_FILL = re.compile(rb"\xff{2,}")  # any number of fill bytes may precede a marker


class LazyFrames:
    """T images of one size, read and decoded again by each iteration, once each.

    Attributes:
        names: what messages call each image.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[int], bytes],
        decode: Callable[[bytes, str], NDArray[Any]],
        channels: tuple[int, ...] = (),
    ) -> None:
        """`read(i)` gives the encoded image i, `decode(data, name)` its (H, W, *channels) pixels."""
        self.names = names
        self._read = read
        self._decode = decode
        self._size = image_size(read(0), names[0])
        self._channels = channels

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, *channels); H and W are the first image's."""
        return (len(self.names), *self._size, *self._channels)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self.frame(index) for index in range(len(self)))

    def frame(self, index: int) -> NDArray[Any]:
        """Image `index`, decoded.

        Raises:
            CorruptDataError: it cannot be decoded whole, or has another size than the first.
        """
        pixels = self._decode(self._read(index), self.names[index])
        if pixels.shape != self.shape[1:]:
            raise CorruptDataError(
                f"{self.names[index]} is {pixels.shape[1]}x{pixels.shape[0]}, the episode's first image is "
                f"{self._size[1]}x{self._size[0]}; all images of an episode must have one size"
            )
        return pixels


def is_blank(frames: LazyFrames) -> bool:
    """Whether every frame is black; the first, middle and last are looked at first."""
    probes = dict.fromkeys((0, len(frames) // 2, len(frames) - 1))
    rest = (index for index in range(len(frames)) if index not in probes)
    return all(is_black(frames.frame(index)) for order in (probes, rest) for index in order)


def decode_rgb(data: bytes, name: str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a whole JPEG or PNG; an orientation tag is not applied.

    Raises:
        CorruptDataError: `data` is cut, damaged, or neither JPEG nor PNG.
    """
    image_size(data, name)
    pixels = _decode(data, name, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def decode_grey(data: bytes, name: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """(H, W) of a whole one-channel PNG, in its own bit depth.

    Raises:
        CorruptDataError: `data` is not a whole PNG, or has more than one channel.
    """
    image_size(data, name)
    pixels = _decode(data, name, cv2.IMREAD_UNCHANGED)
    if pixels.ndim != 2:
        raise CorruptDataError(f"{name} has {pixels.shape[2]} channels, one was expected")
    return pixels


def decode_depth(data: bytes, name: str) -> NDArray[np.float32]:
    """(H, W) float32 metres of a 16-bit PNG in millimetres, the RealSense default; 0 means no reading.

    Raises:
        CorruptDataError: `data` is not a whole 16-bit PNG.
    """
    millimetres = decode_grey(data, name)
    if millimetres.dtype != np.uint16:
        raise CorruptDataError(
            f"{name} is an 8-bit depth map, whose unit is not known; 16-bit millimetres were expected"
        )
    return millimetres.astype(np.float32) / np.float32(1000)


def is_16_bit_png(data: bytes) -> bool:
    """Whether `data` starts as a PNG with 16 bits per channel."""
    return data.startswith(_PNG_SIGNATURE) and data[24:25] == b"\x10"


def image_size(data: bytes, name: str) -> Size:
    """(height, width) from the header of a JPEG or PNG, after a check that the file goes to its end.

    Raises:
        CorruptDataError: `data` is cut, damaged, or neither.
    """
    try:
        if data.startswith(_JPEG_SIGNATURE):
            size = _jpeg_size(data)
        elif data.startswith(_PNG_SIGNATURE):
            size = _png_size(data)
        else:
            raise ValueError(f"it {foreign_content(data) or 'is neither JPEG nor PNG'}" if data else "it is empty")
        if not 0 < size[0] * size[1] <= MAX_PIXELS:
            raise ValueError(f"its header claims {size[1]} x {size[0]} pixels, at most {MAX_PIXELS:,} are decoded")
        return size
    except (ValueError, IndexError, struct.error) as error:
        raise CorruptDataError(f"{name} cannot be decoded: {error}; fetch the episode again") from error


def _decode(data: bytes, name: str, flags: int) -> NDArray[Any]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise CorruptDataError(f"{name} cannot be decoded: {error}; fetch the episode again") from error
    # OpenCV's stubs leave out that a file it cannot read gives None.
    if pixels is None:
        raise CorruptDataError(f"{name} cannot be decoded; fetch the episode again")
    return np.asarray(pixels)


def _jpeg_size(data: bytes) -> Size:
    """Size from the frame header; the end-of-image marker is looked for after the start of the scan.

    ITU-T T.81, annex B: inside entropy-coded data 0xFF is followed by 0x00 or a restart marker, so FFD9 ends the image.
    """
    position, size = 2, None
    for _ in range(_MAX_SEGMENTS):
        if data[position] != 0xFF:
            raise ValueError(f"no JPEG marker at byte {position}")
        filled = _FILL.match(data, position)
        position = filled.end() - 1 if filled else position
        marker = data[position + 1]
        (length,) = struct.unpack_from(">H", data, position + 2)
        if length < 2:
            raise ValueError(f"a JPEG segment of {length} bytes at byte {position}")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = struct.unpack_from(">HH", data, position + 5)
        position += 2 + length
        if marker == 0xDA:
            break
    else:
        raise ValueError(f"more than {_MAX_SEGMENTS} segments before the JPEG's first scan")
    if size is None or 0 in size:
        raise ValueError("the JPEG does not say its size")
    if data.find(b"\xff\xd9", position) < 0:
        raise ValueError("the JPEG is cut off (no end-of-image marker)")
    if data.count(b"\xff\xda", position) > _MAX_SCANS:
        raise ValueError(f"the JPEG has more than {_MAX_SCANS} scans")
    return int(size[0]), int(size[1])


def _png_size(data: bytes) -> Size:
    position, kind = len(_PNG_SIGNATURE), b""
    if data[position + 4 : position + 8] != b"IHDR":
        raise ValueError("the PNG does not begin with its header")
    for _ in range(_MAX_CHUNKS):
        if kind == b"IEND":
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (crc,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[position + 4 : end]) != crc:
            raise ValueError(f"PNG chunk {kind!r} has a wrong checksum")
        position = end + 4
    else:
        raise ValueError(f"the PNG has more than {_MAX_CHUNKS} chunks")
    width, height = struct.unpack_from(">II", data, 16)
    return int(height), int(width)
