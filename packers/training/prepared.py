"""Targets of whole clips computed once and kept: a plain file per packet beside the index, read frame by frame."""

from __future__ import annotations

import functools
import hashlib
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from extractors.errors import OutputError, PacketError
from packers.atomic import written_whole
from packers.cores import usable_cpus
from packers.training.files import RowReader
from packers.training.index import Entry, OpenPackets
from packers.training.targets import Sizes, Target, Values
from packers.training.views import PacketView

_VERSION = 1
"""Raised when what a target gives changes; older files are left unused."""

_BLOCK = 64
_MANY = 16
_CHECKSUM_BYTES = 4


class PreparedTarget:
    """One target's values of all frames of many packets.

    A packet's file holds, frame by frame, the bytes of all keys and their CRC-32. Its name depends on the target, the
    packet's name, size and time of change, so that it is never taken for another's.

    Args:
        folder: that keeps them.
        target: gives each frame's values from that frame alone.
        sizes: of the data set.
        limit: files open at once.
    """

    def __init__(self, folder: Path, target: Target, sizes: Sizes, limit: int) -> None:
        self._target = target
        self._sizes = Sizes(1, sizes.frame, sizes.rows, sizes.dtypes)
        self._fields = {key: (shape[1:], np.dtype(dtype)) for key, (shape, dtype) in target.fields(self._sizes).items()}
        self._bytes = sum(dtype.itemsize * int(np.prod(shape)) for shape, dtype in self._fields.values())
        name = hashlib.sha256(repr((_VERSION, target, sizes.frame)).encode()).hexdigest()[:16]
        self._folder = folder / "prepared" / name
        self._limit = limit
        self._open: OrderedDict[str, tuple[int, bytearray]] = OrderedDict()
        # Outlives the open file, as for packets: a name is never another file's.
        self._verified: dict[str, bytearray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_verified": {}}

    def __del__(self) -> None:
        for descriptor, _ in self.__dict__.get("_open", {}).values():
            os.close(descriptor)

    def prepare(self, entries: Sequence[Entry], processes: int | None) -> None:
        """Makes the files that are missing.

        Raises:
            PacketError: a packet is damaged.
            OutputError: a file cannot be written.
        """
        able = [entry for entry in entries if all(name in entry.kinds for name in self._target.needs)]
        missing = [entry for entry in able if not self._file(entry).exists()]
        count = min(processes or usable_cpus(), max(1, len(missing) // _MANY))
        if count == 1:
            for entry in missing:
                self._write(entry)
            return
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            list(pool.map(functools.partial(PreparedTarget._write, self), missing, chunksize=4))

    def read(self, entry: Entry, rows: Sequence[int]) -> Values:
        """The target at `rows` of a packet, as `cut` gives it.

        Raises:
            PacketError: the file is missing or damaged.
        """
        descriptor, verified = self._opened(entry)
        found = {key: np.empty((len(rows), *shape), dtype) for key, (shape, dtype) in self._fields.items()}
        lines = [values.reshape(len(rows), -1).view(np.uint8) for values in found.values()]
        stride, tail = self._bytes + _CHECKSUM_BYTES, bytearray(_CHECKSUM_BYTES)
        for place, row in enumerate(rows):
            parts: list[Any] = [line[place] for line in lines]
            whole = os.preadv(descriptor, [*parts, tail], row * stride) == stride
            if not whole or not (verified[row] or _checksum(parts) == tail):
                raise PacketError(
                    f"{self._file(entry)}: damaged: frame {row}; remove it, and it is made again from {entry.path}"
                )
            verified[row] = 1
        return found

    def _file(self, entry: Entry) -> Path:
        return Path(self._name(entry))

    def _name(self, entry: Entry) -> str:
        # As text: joining paths takes as long as opening the file, which many packets need for each window.
        stamp = hashlib.sha256(repr((entry.key, entry.size, entry.mtime_ns)).encode()).hexdigest()[:32]
        return f"{self._folder}/{stamp[:2]}/{stamp}"

    def _opened(self, entry: Entry) -> tuple[int, bytearray]:
        if entry.key in self._open:
            self._open.move_to_end(entry.key)
            return self._open[entry.key]
        while len(self._open) >= self._limit:
            os.close(self._open.popitem(last=False)[1][0])
        path = self._name(entry)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise PacketError(f"{path}: a prepared target is missing; make the dataset again ({error})") from error
        verified = self._verified.setdefault(entry.key, bytearray(entry.facts["n_frames"]))
        self._open[entry.key] = found = descriptor, verified
        return found

    def _write(self, entry: Entry) -> None:
        path, length = self._file(entry), entry.facts["n_frames"]
        packets, reader = OpenPackets([entry], 1), RowReader("always")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as temporary, temporary.open("wb") as file:
                for start in range(0, length, _BLOCK):
                    rows = list(range(start, min(start + _BLOCK, length)))
                    values = self._target.cut(PacketView(packets[0], reader, rows, self._sizes.frame, {}))
                    for place in range(len(rows)):
                        parts = [
                            np.ascontiguousarray(values[key][place], dtype).reshape(-1).view(np.uint8)
                            for key, (_, dtype) in self._fields.items()
                        ]
                        file.write(b"".join(part.tobytes() for part in parts) + _checksum(parts))
        except OSError as error:
            raise OutputError(
                f"prepared target {path} cannot be written: {error}; free space, or name cache=..."
            ) from error
        finally:
            packets.close()


def _checksum(parts: Sequence[Any]) -> bytes:
    return functools.reduce(lambda crc, part: zlib.crc32(part, crc), parts, 0).to_bytes(_CHECKSUM_BYTES, "little")
