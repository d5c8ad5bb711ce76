"""Encoded images, decoded strictly and only when asked for.

OpenCV decodes a cut JPEG without a word and leaves the rest grey, so the container is checked first.
"""

from __future__ import annotations

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

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8"


class LazyFrames:
    """T images of one size, read and decoded anew by each iteration, once each.

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
        CorruptDataError: `data` is no whole PNG, or has more than one channel.
    """
    image_size(data, name)
    pixels = _decode(data, name, cv2.IMREAD_UNCHANGED)
    if pixels.ndim != 2:
        raise CorruptDataError(f"{name} has {pixels.shape[2]} channels, one was expected")
    return pixels


def decode_depth(data: bytes, name: str) -> NDArray[np.float32]:
    """(H, W) float32 metres of a 16-bit PNG in millimetres, the RealSense default; 0 is no reading.

    Raises:
        CorruptDataError: `data` is no whole 16-bit PNG.
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
            return _jpeg_size(data)
        if data.startswith(_PNG_SIGNATURE):
            return _png_size(data)
        raise ValueError("it is neither JPEG nor PNG" if data else "it is empty")
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
    while True:
        if data[position] != 0xFF:
            raise ValueError(f"no JPEG marker at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = struct.unpack_from(">HH", data, position + 5)
        position += 2 + length
        if marker == 0xDA:
            break
    if size is None or 0 in size:
        raise ValueError("the JPEG does not say its size")
    if data.find(b"\xff\xd9", position) < 0:
        raise ValueError("the JPEG is cut off (no end-of-image marker)")
    return int(size[0]), int(size[1])


def _png_size(data: bytes) -> Size:
    position, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (crc,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[position + 4 : end]) != crc:
            raise ValueError(f"PNG chunk {kind!r} has a wrong checksum")
        position = end + 4
    width, height = struct.unpack_from(">II", data, 16)
    return int(height), int(width)
