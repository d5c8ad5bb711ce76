"""TFRecord files: their frames, checksums, and a look into a record that reads little of it.

A frame is u64 length, u32 masked CRC32C of the length, data, u32 masked CRC32C of the data, little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from extractors.errors import CorruptDataError, MissingDataError
from flows.sources.files import foreign_content

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8
_LEN = 2  # protobuf wire type of everything on the way to a feature
MAX_RECORD_BYTES = 2**31
"""Largest record that is read: a protobuf message cannot be larger."""
_ENTRY_BYTES = 512  # enough for an entry's headers and the feature's name


@dataclass(frozen=True, slots=True)
class Frame:
    """One record's place in its file.

    Attributes:
        offset: of the frame's first byte.
        length: of the data, None where the frame is cut or its length damaged; no frame after it can be found then.
    """

    offset: int
    length: int | None


def list_frames(file: int) -> Iterator[Frame]:
    """The frames of an open file (descriptor), by their headers alone; a damaged one comes last."""
    size, position = os.fstat(file).st_size, 0
    while position < size:
        length = _frame_length(os.pread(file, _HEADER.size, position))
        whole = length is not None and position + _HEADER.size + length + _CRC.size <= size
        yield Frame(position, length if whole else None)
        if length is None or not whole:
            return
        position += _HEADER.size + length + _CRC.size


def read_record(path: Path, offset: int, name: str) -> bytes:
    """The data of the frame at `offset`, its length and checksum verified; messages call it `name`.

    Raises:
        MissingDataError: there is no such file.
        CorruptDataError: the frame is cut or damaged.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            header = file.read(_HEADER.size)
            length = _frame_length(header)
            left = os.fstat(file.fileno()).st_size - offset - _HEADER.size
            if length is None and offset == 0 and header[:2] == b"\x1f\x8b":
                raise CorruptDataError(f"{name}: {path.name} is compressed with gzip; unpack it with gunzip")
            if length is None and foreign_content(header + file.read(100)):
                raise CorruptDataError(f"{name}: {path.name} {foreign_content(path.read_bytes()[:200])}")
            if length is None:
                raise CorruptDataError(f"{name}: its header in {path.name} is cut or damaged; fetch the file again")
            if length > MAX_RECORD_BYTES:
                raise CorruptDataError(f"{name} claims {length:,} bytes, at most {MAX_RECORD_BYTES:,} are read")
            if length + _CRC.size > left:
                raise CorruptDataError(
                    f"{name}: {path.name} is cut, it holds {max(left, 0)} of {length} bytes; fetch the file again"
                )
            data, crc = file.read(length), file.read(_CRC.size)
    except FileNotFoundError as error:
        raise MissingDataError(f"{name}: {path.name} is missing; fetch it") from error
    except OSError as error:
        raise CorruptDataError(f"{name}: {path.name} cannot be read: {error.strerror}; check the disk") from error
    if len(crc) != _CRC.size or _CRC.unpack(crc)[0] != masked_crc(data):
        raise CorruptDataError(f"{name}: its checksum in {path.name} is wrong; fetch the file again")
    return data


def masked_crc(data: bytes) -> int:
    """CRC32C, rotated and shifted as TFRecord stores it."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _frame_length(header: bytes) -> int | None:
    if len(header) < _HEADER.size:
        return None
    length, crc = _HEADER.unpack(header)
    return int(length) if crc == masked_crc(header[:8]) else None


def peek_features(file: int, frame: Frame, names: Collection[str]) -> dict[str, bytes]:
    """The serialized `tf.train.Feature` of each of `names` in the `tf.train.Example` at `frame`.

    Only headers and the features named are read, so that listing a large dataset does not read its images. Nothing is
    found in a record that is written in an unusual order; checksums are not checked.
    """
    found: dict[str, bytes] = {}
    try:
        position = frame.offset + _HEADER.size
        head = os.pread(file, _ENTRY_BYTES, position)
        size, start = _field(head, 0, 1)  # Example.features
        position, end = position + start, position + start + min(size, frame.length or 0)
        while position < end and len(found) < len(names):
            head = os.pread(file, _ENTRY_BYTES, position)
            entry_size, start = _field(head, 0, 1)  # Features.feature, one map entry
            name_size, name_at = _field(head, start, 1)  # its key
            name = head[name_at : name_at + name_size].decode("utf-8", "replace")
            if name in names:
                value_size, value_at = _field(head, name_at + name_size, 2)
                if value_size > end - position:
                    return {}
                found[name] = os.pread(file, value_size, position + value_at)
            position += start + entry_size
    except (ValueError, IndexError):
        return {}
    return found


def _field(data: bytes, position: int, number: int) -> tuple[int, int]:
    """(size, position) of the content of the length-delimited field `number` that starts at `position`."""
    tag, position = _varint(data, position)
    if tag != number << 3 | _LEN:
        raise ValueError(f"wanted field {number}, found tag {tag}")
    return _varint(data, position)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("varint of more than 64 bits")
