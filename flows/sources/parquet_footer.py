"""What a parquet file says of the size of its columns, read without pyarrow.

pyarrow's own description of a column (`metadata.row_group(i).column(j)`) ends the whole process where the column's
statistics are damaged: its C++ code throws where Python cannot catch (pyarrow 26.0; found by fuzzing). What is needed
here, counts and sizes, is a few numbers of a structure in Thrift's compact protocol, which the Parquet format describes
(parquet.thrift: FileMetaData 4 row_groups, RowGroup 1 columns, ColumnChunk 3 meta_data, ColumnMetaData 3
path_in_schema, 5 num_values, 6 total_uncompressed_size).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from packers.plain_files import open_plain

MAX_FOOTER_BYTES = 256 * 2**20
"""Largest footer that is read: a column of a row group takes about 100 bytes."""

_MAX_FILE_BYTES = 2**40
_DEEPEST = 24  # FileMetaData needs 7
_TAIL = 8  # the footer's length and the magic letters


@dataclass(frozen=True, slots=True)
class ColumnSize:
    """A column of one row group.

    Attributes:
        name: of the column at the top of the schema.
        values: values that it claims, those of lists one by one.
        size: bytes that it claims, decompressed.
    """

    name: str
    values: int
    size: int


def column_sizes(path: Path) -> tuple[ColumnSize, ...]:
    """Every column of every row group. Those of the last files are kept: a file of v3.0 is opened for each episode.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no footer of a parquet file, or a damaged one.
    """
    status = path.stat()
    return _column_sizes(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _column_sizes(path: Path, changed_ns: int, size: int) -> tuple[ColumnSize, ...]:
    """Of the file as it was at `changed_ns`, with `size` bytes."""
    with open_plain(path, _MAX_FILE_BYTES) as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - _TAIL))
        tail = file.read(_TAIL)
        length = struct.unpack("<I", tail[:4])[0] if tail[4:] == b"PAR1" else None
        if length is None or length > min(end - _TAIL, MAX_FOOTER_BYTES):
            raise ValueError("not a parquet file, or its end is missing")
        file.seek(end - _TAIL - length)
        footer = file.read(length)
    try:
        return tuple(_columns(_Thrift(footer).structure(0)))
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError("the description of its columns is damaged") from error


def _columns(footer: dict[int, Any]) -> Iterator[ColumnSize]:
    for group in footer[4]:
        for chunk in group[1]:
            column = chunk[3]
            yield ColumnSize(column[3][0].decode(), column[5], column[6])


class _Thrift:
    """Thrift's compact protocol: structures as dicts by field number. Each step reads at least a byte, so it ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._readers: dict[int, Callable[[int], Any]] = {
            3: lambda depth: self._byte(),
            **dict.fromkeys((4, 5, 6), lambda depth: self._signed()),
            7: lambda depth: self._bytes(8),
            8: lambda depth: self._bytes(self._varint()),
            **dict.fromkeys((9, 10), self._list),
            11: self._map,
            12: self.structure,
            13: lambda depth: self._bytes(16),
        }

    def structure(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._signed()
            # A truth value is in the kind itself.
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("the description of its columns is nested too deeply")
        return self._readers[kind](depth + 1)

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        kind = head & 15
        # In a list a truth value is a byte of its own.
        return [self._byte() if kind in (1, 2) else self._value(kind, depth) for _ in range(count)]

    def _map(self, depth: int) -> None:
        count = self._varint()
        kinds = self._byte() if count else 0
        for _ in range(count):
            self._value(kinds >> 4, depth)
            self._value(kinds & 15, depth)

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise IndexError("past the end")
        self._at += count
        return self._data[self._at - count : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _signed(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
