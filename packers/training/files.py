"""Rows read from packets by their place in the file: no HDF5 call, checksums verified, open files bounded.

A packet stores a frame of pixels plainly with its Fletcher-32 checksum, maps and rows as deflate streams, which carry a
checksum of their own. So a frame is one `pread`, and a map one `pread` and one inflation. Reading like this takes a
fifth of what h5py takes for a window, the opening of the file included (tests/benchmarks/loader.py).
"""

from __future__ import annotations

import math
import os
import zlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import PacketError
from packers.schema import USER_BLOCK

Verify = Literal["once", "always", "never"]
"""When the checksums of plainly stored frames are verified; deflated data are verified on every read."""

_LARGEST_ITEM = 8
_LARGEST_CHUNK = 128 << 20
"""Bytes, as FORMAT.md allows."""

_LARGEST_RATIO = 1100
"""By which deflate shrinks zeros, and a little: 1032 (zlib's technical details)."""

_BLOCK_WORDS = 1 << 17
_CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray:
    """One dataset of one packet: how it is encoded, and where.

    Attributes:
        name: the dataset's path.
        dtype: of a stored value.
        row: shape of one row.
        length: rows.
        chunk: rows in one chunk.
        filters: "shuffle", "deflate", "fletcher32", in the order they were applied.
        addresses, sizes: int64, of each chunk, in bytes.
        code: (scale, offset, fill) of integer-coded values, fill NaN where no code means "no reading"; None else.
    """

    name: str
    dtype: np.dtype[Any]
    row: tuple[int, ...]
    length: int
    chunk: int
    filters: tuple[str, ...]
    addresses: NDArray[np.int64]
    sizes: NDArray[np.int64]
    code: tuple[float, float, float] | None = None

    def fault(self, file_size: int) -> str | None:
        """What cannot be true of a file of `file_size` bytes, None where all may be.

        Chunks follow each other in the file, as `packers.writer` writes them: so a list that names a chunk twice, or
        two of them in each other's place, is found without looking at the packet.
        """
        chunks = -(-self.length // self.chunk) if self.chunk > 0 else 0
        if self.dtype.kind not in "biuf" or self.dtype.itemsize > _LARGEST_ITEM or min(self.row, default=1) < 1:
            return f"no packet has rows of {self.row} {self.dtype}"
        if self.length < 1 or len(self.addresses) != chunks or len(self.sizes) != chunks:
            return f"{len(self.addresses)} chunks for {self.length} rows"
        size = self.row_bytes * self.chunk
        largest = size + size // 64 + 64  # of a deflate stream that did not shrink
        smallest = size // _LARGEST_RATIO if "deflate" in self.filters else size
        least, most = int(self.sizes.min()), int(self.sizes.max())
        if size > _LARGEST_CHUNK or least < smallest or most > largest:
            return f"chunks of {least} to {most} bytes for {size}"
        first, last = int(self.addresses.min()), int(self.addresses.max())
        # Addresses first: of those within the file, no sum goes over the largest int64.
        if first < USER_BLOCK or last > file_size or (ends := self.addresses + self.sizes).max() > file_size:
            return f"chunks at {first} to {last} of {file_size} bytes"
        if (ends[:-1] > self.addresses[1:]).any():
            return "chunks out of order, or over each other"
        return None

    @property
    def plain(self) -> bool:
        """Whether the bytes of a row are in the file as they are in memory."""
        return self.chunk == 1 and not set(self.filters) & {"shuffle", "deflate"}

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in memory."""
        return self.dtype.itemsize * math.prod(self.row)


@dataclass(slots=True)
class OpenPacket:
    """A packet's file while it is open.

    Attributes:
        path, descriptor: of the file.
        arrays: where the rows of each dataset are.
        verified: dataset -> plainly stored rows whose checksum was right.
    """

    path: Path
    descriptor: int
    arrays: Mapping[str, StoredArray]
    verified: dict[str, bytearray] = field(default_factory=dict)


class Kept:
    """Values by key, the last used ones, up to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.held = 0
        self._limit = limit
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """The value, None where it is not kept."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keeps a value of `size` bytes under a key that is not there."""
        self._values[key] = value, size
        self.held += size
        while self.held > self._limit:
            self.held -= self._values.popitem(last=False)[1][1]


class RowReader:
    """Rows of datasets, decoded to what was stored; one per process.

    Args:
        verify: when checksums of plain rows are looked at. "once" is once a row and process: what changes on the disk
            later is not seen, what was damaged before is.
        cache_bytes: decoded chunks of many rows (actions, states, tracks) that are kept, the last used ones.
    """

    def __init__(self, verify: Verify = "once", cache_bytes: int = 64 << 20) -> None:
        self._verify = verify
        self.kept = Kept(cache_bytes)

    def read(self, packet: OpenPacket, name: str, rows: Sequence[int]) -> NDArray[Any]:
        """`rows` of dataset `name` as stored, (len(rows), *row); the caller may write into it.

        Raises:
            PacketError: the file is cut short, or what was read has not the checksum that was stored.
        """
        array = packet.arrays[name]
        found = np.empty((len(rows), *array.row), array.dtype)
        if array.plain:
            self._read_plain(packet, array, rows, found)
            return found
        if array.chunk > 1 and min(rows) // array.chunk == max(rows) // array.chunk:
            chunk = min(rows) // array.chunk
            taken: NDArray[Any] = self._chunk(packet, array, chunk)[np.asarray(rows) - chunk * array.chunk]
            return taken
        for place, row in enumerate(rows):
            found[place] = self._chunk(packet, array, row // array.chunk)[row % array.chunk]
        return found

    def _read_plain(self, packet: OpenPacket, array: StoredArray, rows: Sequence[int], found: NDArray[Any]) -> None:
        size = array.row_bytes
        memory: Any = found.reshape(-1).view(np.uint8).data
        checked = "fletcher32" in array.filters and self._verify != "never"
        seen = packet.verified.setdefault(array.name, bytearray(array.length)) if checked else bytearray()
        tail = bytearray(_CHECKSUM_BYTES)
        for place, row in enumerate(rows):
            line = memory[place * size : place * size + size]
            verify = checked and (self._verify == "always" or not seen[row])
            parts: list[Any] = [line, tail] if verify else [line]
            expected_bytes = size + _CHECKSUM_BYTES if verify else size
            try:
                read = os.preadv(packet.descriptor, parts, array.addresses[row])
            except OSError as error:
                raise _damaged(packet, array, row, error.strerror or str(error)) from error
            if read != expected_bytes:
                raise _damaged(packet, array, row, "the file is cut short")
            if verify:
                if not _fletcher32_fits(line, tail):
                    raise _damaged(packet, array, row, "its checksum differs")
                seen[row] = 1

    def _chunk(self, packet: OpenPacket, array: StoredArray, chunk: int) -> NDArray[Any]:
        """A decoded chunk (rows, *row); kept if it has several rows, as the next windows want others of them."""
        if array.chunk == 1:
            return self._decoded(packet, array, chunk)
        key = (str(packet.path), array.name, chunk)
        kept: NDArray[Any] | None = self.kept.get(key)
        if kept is not None:
            return kept
        decoded = self._decoded(packet, array, chunk)
        self.kept.put(key, decoded, decoded.nbytes)
        return decoded

    def _decoded(self, packet: OpenPacket, array: StoredArray, chunk: int) -> NDArray[Any]:
        size, row = array.sizes[chunk], chunk * array.chunk
        try:
            data: Any = os.pread(packet.descriptor, size, array.addresses[chunk])
        except OSError as error:
            raise _damaged(packet, array, row, error.strerror or str(error)) from error
        if len(data) != size:
            raise _damaged(packet, array, row, "the file is cut short")
        chunk_bytes = array.row_bytes * array.chunk
        for step in reversed(array.filters):
            if step == "fletcher32":
                data, tail = memoryview(data)[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
                if self._verify != "never" and not _fletcher32_fits(data, tail):
                    raise _damaged(packet, array, row, "its checksum differs")
            elif step == "deflate":
                # Bounded: a stream of a packet that was exchanged since may unpack to a thousand times its size.
                try:
                    stream = zlib.decompressobj()
                    data = stream.decompress(data, chunk_bytes + 1)
                except zlib.error as error:
                    raise _damaged(packet, array, row, str(error)) from error
                if not stream.eof:
                    raise _damaged(packet, array, row, f"wanted {chunk_bytes} bytes, got other ones")
            else:
                data = _unshuffled(data, array.dtype.itemsize)
        if len(data) != chunk_bytes:
            raise _damaged(packet, array, row, f"wanted {chunk_bytes} bytes, got {len(data)}")
        return np.frombuffer(data, array.dtype).reshape(array.chunk, *array.row)


def _unshuffled(data: bytes, size: int) -> Any:
    """HDF5's shuffle undone: byte k of all values was stored before byte k + 1 of any."""
    planes = np.frombuffer(data, np.uint8).reshape(size, -1)
    if size == 2:
        # Ten times faster than a transposed copy of single bytes.
        return (planes[0] | (planes[1].astype(np.uint16) << np.uint16(8))).astype("<u2").view(np.uint8).data
    # Plane by plane: two to four times as fast as a transposed copy.
    values = np.empty((planes.shape[1], size), np.uint8)
    for byte, plane in enumerate(planes):
        values[:, byte] = plane
    return values.reshape(-1).data


def _fletcher32_fits(data: Any, stored: bytes | bytearray) -> bool:
    """Whether `data` has the Fletcher-32 checksum that HDF5 stored (H5checksum.c: 16-bit big-endian words, mod 65535).

    Words are read as little-endian ones: swapping bytes is multiplying by 256 modulo 65535, so both sums can be swapped
    at the end. The sums are dot products in float64, which are exact as a block's stay below 2**53.
    """
    view = np.frombuffer(data, np.uint8)
    if len(view) % 2:
        view = np.append(view, np.uint8(0))
    words = view.view("<u2")
    first = second = 0
    for start in range(0, len(words), _BLOCK_WORDS):
        block = words[start : start + _BLOCK_WORDS]
        buffer, weights = _workspace(len(block))
        np.copyto(buffer, block)
        total, weighted = (int(value) for value in weights @ buffer)
        second = (second + first * len(block) + weighted) % 65535
        first = (first + total) % 65535
    low, high = np.frombuffer(stored, "<u2")
    return bool(first * 256 % 65535 == int(low) % 65535 and second * 256 % 65535 == int(high) % 65535)


_workspaces: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}


def _workspace(words: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A buffer of `words` values, and the weights (2, words) of both sums.

    Kept: memory of this size that is new to the process takes ten times as long to fill.
    """
    if words not in _workspaces:
        if len(_workspaces) >= 8:
            _workspaces.clear()
        weights = np.stack([np.ones(words), np.arange(words, 0, -1, dtype=np.float64)])
        _workspaces[words] = np.empty(words), weights
    return _workspaces[words]


def _damaged(packet: OpenPacket, array: StoredArray, row: int, reason: str) -> PacketError:
    return PacketError(
        f"{packet.path}: damaged: {array.name}, frame {row} cannot be read ({reason}); extract the episode again"
    )
