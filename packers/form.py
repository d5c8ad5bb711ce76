"""What the HDF5 part of a packet may be made of, whatever its arrays are called.

A packet comes from strangers. HDF5 files may name other files on this machine, hold programs' worth of types, claim
terabytes in a few bytes, and share one chunk among a million places. A packet needs none of that, so none of it is let
in: plain numbers and plain texts, stored once each, in this file, by deflate, shuffle and Fletcher-32 alone.

Nothing is decoded here and no array is read: a good packet of 40 frames takes some milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5o, h5s, h5t, h5z

MOST_DEPTH = 4
"""Groups within groups; the schema needs two, `extra/` some more."""

MOST_OBJECTS = 2000
"""Groups and datasets of one file. A packet of every cue has 50."""

MOST_ATTRIBUTES = 64
"""Of one group or dataset. The root of a packet has 11."""

MOST_TEXT_BYTES = 2**24
"""All attributes of a file: 240,000 frames' sha256 fit."""

LARGEST_CHUNK = 2**27
"""Bytes: a frame of 8192 x 5461 RGB pixels, what one read must hold in memory at least."""

LARGEST_ARRAY = 2**31
"""Bytes that an array whose size the number of pixels does not bound may unfold to."""

DEFLATE_RATIO = 1032
"""The most that deflate unfolds a byte to (its author's figure)."""

_SMALL = 4096
"""Bytes that need no reckoning: an array that was never written has no storage."""


class FormError(ValueError):
    """A file, or a part of it, has a form that no packet has."""


@dataclass(slots=True)
class Form:
    """What `survey` found.

    Attributes:
        datasets: path -> dataset, those of good form.
        groups: paths of the groups.
        faults: (path, reason), "/" for the root; what they name is in neither of the others.
    """

    datasets: dict[str, h5py.Dataset] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)


def survey(file: h5py.File, size: int) -> Form:
    """Everything in `file` of `size` bytes, and what of it no packet may hold.

    Raises:
        FormError: the file as a whole is beyond what is looked at.
        OSError, RuntimeError, ...: what h5py raises on damage (`packers.reader.DAMAGE`).
    """
    return _Survey(size).done(file)


class _Survey:
    """A walk over a file, which visits each object once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.form = Form()
        self._text_bytes = self._stored = 0
        self._visited: set[int] = set()
        self._attributes_of: list[tuple[str, h5py.Dataset | h5py.Group]] = []

    def done(self, file: h5py.File) -> Form:
        self._visited.add(h5o.get_info(file["/"].id).addr)
        self._check_attributes("/", file)
        self._group(file, "")
        if self._text_bytes > min(MOST_TEXT_BYTES, self.size):
            raise FormError(f"its attributes hold {self._text_bytes} bytes; a packet of {self.size} has less")
        if self._stored > self.size:
            raise FormError(
                f"its arrays are stored in {self._stored} bytes, and the file has {self.size}: some share them"
            )
        return self.form

    def _group(self, group: h5py.Group, prefix: str) -> None:
        if len(group) + len(self._visited) > MOST_OBJECTS:
            raise FormError(f"more than {MOST_OBJECTS} groups and datasets")
        for name in group:
            path = prefix + name
            try:
                self._object(group, name, path)
            except FormError as error:
                self.form.faults.append((path, str(error)))

    def _object(self, group: h5py.Group, name: str, path: str) -> None:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise FormError(f"a {type(link).__name__}; a packet holds its data itself")
        found = group[name]
        address = h5o.get_info(found.id).addr
        if address in self._visited:
            raise FormError("linked to twice; a packet holds everything once")
        self._visited.add(address)
        if isinstance(found, h5py.Group):
            if path.count("/") + 1 >= MOST_DEPTH:
                raise FormError(f"a group more than {MOST_DEPTH - 1} groups deep")
            self._check_attributes(path, found)
            self.form.groups.append(path)
            self._group(found, f"{path}/")
        elif isinstance(found, h5py.Dataset):
            self._check_attributes(path, found)
            self._dataset(found)
            self.form.datasets[path] = found
        else:
            raise FormError("a type by itself; a packet holds arrays alone")

    def _check_attributes(self, path: str, found: h5py.Dataset | h5py.Group) -> None:
        count = h5a.get_num_attrs(found.id)
        if count > MOST_ATTRIBUTES:
            raise FormError(f"{count} attributes; {MOST_ATTRIBUTES} at most")
        for name in list(found.attrs):
            try:
                self._text_bytes += _attribute_bytes(found.attrs.get_id(name), self.size)
            except FormError as error:
                raise FormError(f"attribute '{name}': {error}") from error

    def _dataset(self, dataset: h5py.Dataset) -> None:
        _check_number(dataset.id.get_type())
        if dataset.id.get_space().get_simple_extent_type() != h5s.SIMPLE and dataset.shape != ():
            raise FormError("an array without elements")
        how = dataset.id.get_create_plist()
        # Before anything that makes HDF5 look into another file.
        if how.get_layout() == h5d.VIRTUAL or how.get_external_count():
            raise FormError("its data are stored in another file; a packet holds its data itself")
        _check_filters(how, dataset.dtype.itemsize)
        if dataset.chunks is None:
            stored = int(dataset.id.get_storage_size())
            if not 0 <= stored <= self.size:
                raise FormError(f"claims {stored} bytes of a file of {self.size}")
        else:
            stored = self._chunks(dataset, how)
        self._stored += stored
        claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
        packed = any(how.get_filter(place)[0] == h5z.FILTER_DEFLATE for place in range(how.get_nfilters()))
        if claimed > stored * (DEFLATE_RATIO if packed else 1) + _SMALL:
            raise FormError(f"claims {dataset.shape} {dataset.dtype}, more than its {stored} bytes hold")

    def _chunks(self, dataset: h5py.Dataset, how: Any) -> int:
        """Bytes of all chunks. HDF5 2.0 ends the process where a chunk is placed outside the file or the array."""
        shape, chunks = dataset.shape, dataset.chunks
        plain = math.prod(chunks) * dataset.dtype.itemsize
        if plain > LARGEST_CHUNK:
            raise FormError(f"chunks of {chunks} {dataset.dtype} are larger than {LARGEST_CHUNK} bytes")
        if any(part > max(side, 1) for part, side in zip(chunks, shape, strict=True)):
            raise FormError(f"chunks of {chunks} are larger than the array, {shape}")
        places = math.prod(-(-side // part) for part, side in zip(chunks, shape, strict=True))
        count = stored = 0

        def look(chunk: Any) -> bool | None:
            nonlocal count, stored
            count, stored = count + 1, stored + chunk.size
            beyond = any(
                at % part or at >= side for at, part, side in zip(chunk.chunk_offset, chunks, shape, strict=True)
            )
            if beyond or count > places or chunk.filter_mask or chunk.byte_offset + chunk.size > self.size:
                return True  # ends the iteration
            if not how.get_nfilters() and chunk.size != plain:
                return True
            return None

        if dataset.id.chunk_iter(look) is not None:
            raise FormError("a chunk is stored outside the file, outside the array, or not as the others")
        return stored


def _attribute_bytes(attribute: Any, size: int) -> int:
    """Bytes of an attribute's value, which is a number, a text, or a list of one of these.

    Texts of variable length (`cuepack/1`) are counted by reading them: one text may be pointed to a million times.
    """
    kind, space = attribute.get_type(), attribute.get_space()
    if space.get_simple_extent_type() == h5s.NULL or space.get_simple_extent_ndims() > 1:
        raise FormError("neither one value nor a list of values")
    count = space.get_simple_extent_npoints()
    if not isinstance(kind, h5t.TypeStringID):
        _check_number(kind)
        return _bounded(count * kind.get_size(), size)
    if not kind.is_variable_str():
        return _bounded(count * kind.get_size(), size)
    _bounded(count * kind.get_size(), size)
    if count > MOST_OBJECTS:
        raise FormError(f"a list of {count} texts")
    values = np.empty(attribute.shape, dtype=attribute.dtype)
    attribute.read(values)
    return _bounded(sum(len(each or b"") for each in values.reshape(count).tolist()), size)


def _bounded(count: int, size: int) -> int:
    if count > min(MOST_TEXT_BYTES, size):
        raise FormError(f"claims {count} bytes in a file of {size}")
    return int(count)


def _check_number(kind: Any) -> None:
    """Refuses every type but integers, floats and h5py's bool; a compound may hold references to anything."""
    number = kind
    if isinstance(kind, h5t.TypeEnumID):
        # h5py's bool: an int8 with the members FALSE and TRUE.
        if kind.get_nmembers() != 2 or {kind.get_member_name(place) for place in (0, 1)} != {b"FALSE", b"TRUE"}:
            raise FormError("an enumeration other than FALSE and TRUE")
        number = kind.get_super()
    if not isinstance(number, h5t.TypeIntegerID | h5t.TypeFloatID) or not 1 <= number.get_size() <= 8:
        raise FormError(f"wanted plain numbers, got {type(number).__name__.removeprefix('Type').removesuffix('ID')}")


def _check_filters(how: Any, itemsize: int) -> None:
    """Refuses filters that FORMAT.md does not name, and settings on which HDF5 2.0 ends the process."""
    allowed: dict[int, Callable[[tuple[int, ...]], bool]] = {
        h5z.FILTER_DEFLATE: lambda values: len(values) == 1 and values[0] <= 9,
        h5z.FILTER_SHUFFLE: lambda values: values == (itemsize,),
        h5z.FILTER_FLETCHER32: lambda values: not values,
    }
    codes = []
    for place in range(how.get_nfilters()):
        code, _, values, _ = how.get_filter(place)
        if code not in allowed or code in codes or not allowed[code](tuple(values)):
            raise FormError(f"filter {code} with {tuple(values)[:4]}; a packet has deflate, shuffle and Fletcher-32")
        codes.append(code)
