"""Packets opened, read and taken apart: `Packet` for training, `read_dataset` for arrays as they are stored.

A packet comes from strangers, so HDF5 opens nothing in this process before the file has the sha256 that it states and
another process has looked through it (`packers.examiner`). What was let in is remembered while the file stays the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from extractors.errors import PacketError
from packers.admission import ADMITTED, admit
from packers.admission import check_digest as check_digest  # callers know it from here
from packers.admission import check_head as check_head
from packers.records import parse_root
from packers.schema import USER_BLOCK, Dataset, DatasetSpec, dataset_spec, value_faults
from packers.writer import decode

CHUNK_CACHE_BYTES = 512 * 1024
"""HDF5's own 8 MiB are held per open dataset; windows of single-frame chunks gain nothing from a cache."""

DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    MemoryError,
)
"""What h5py raises on damaged or hostile files."""

_FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "deflate",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
}


class Packet:
    """One packet, read lazily: nothing is opened before it is needed, nothing is read before it is asked for.

    `packet["depth/metric"]` gives physical values, float32 metres with NaN where there is no reading;
    `packet.read("pixels", 10, 14)` a window of frames. Each process opens the file for itself, so a `Packet` may be
    pickled or carried over a fork into the workers of a data loader.

    The first opening reads the whole file (see `admit`); it is remembered in the process and goes along in a pickle.

    Args:
        path: the file.
        any_group: whether any file that `write_group` wrote will do; otherwise it has to keep the schema, as far as
            whoever reads it relies on that.

    Raises:
        PacketError: on first use, if the file is missing, no packet, damaged, or of another schema version.
    """

    def __init__(self, path: Path | str, *, any_group: bool = False) -> None:
        self.path = Path(path)
        self._any_group = any_group
        self._file: h5py.File | None = None
        self._inherited: h5py.File | None = None
        self._pid = 0
        self._base: int | None = None
        self._opened: dict[str, tuple[h5py.Dataset, dict[str, Any]]] = {}

    def __enter__(self) -> Packet:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "any_group": self._any_group, "admitted": ADMITTED.look_up(self.path)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], any_group=state["any_group"])  # type: ignore[misc]
        ADMITTED.add(*state["admitted"])

    def __repr__(self) -> str:
        return f"Packet({str(self.path)!r})"

    def __contains__(self, name: object) -> bool:
        file = self._open()
        with _damage(self.path, str(name)):
            return isinstance(name, str) and (name in self._opened or isinstance(file.get(name), h5py.Dataset))

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.read(name)

    @property
    def attributes(self) -> dict[str, Any]:
        """The root attributes, JSON parsed."""
        file = self._open()
        with _damage(self.path, "root attributes"):
            return root_attributes(file)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Paths of the datasets that are there, sorted; `extra/` is not listed."""
        return tuple(self.attributes["modalities"])

    @property
    def n_frames(self) -> int:
        """T, the number of frames."""
        return int(self._dataset("pixels").shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self._dataset("pixels").shape[1:3]
        return int(height), int(width)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of dataset `name`, frames first for most; reads no values.

        Raises:
            KeyError: the packet has no such dataset.
        """
        return tuple(int(size) for size in self._dataset(name).shape)

    def read(self, name: str, start: int | None = None, stop: int | None = None, step: int = 1) -> NDArray[Any]:
        """Physical values of dataset `name`: rows `start`, `start + step`, ... below `stop`; without these, all of it.

        Rows are frames, for most datasets. Frames that a step passes over are not read.

        Raises:
            KeyError: the packet has no such dataset.
            IndexError: the window reaches beyond the rows, or the step is below 1.
            PacketError: the data are damaged, or hold what the schema forbids (not finite, out of bounds).
        """
        rows, spec = self._rows(name, start, stop, step), dataset_spec(name)
        if spec is not None and spec.storage != "depth":
            self._check_values(name, spec, rows)
            return rows
        with _damage(self.path, name):
            return decode(Dataset(rows, self._open_dataset(name)[1]))

    def stored(self, name: str) -> Dataset:
        """Dataset `name` as it is stored, with its attributes."""
        return Dataset(self._rows(name, None, None), self.dataset_attributes(name))

    def chunks(self, name: str) -> StoredChunks:
        """Where in the file the rows of dataset `name` are, for readers that do without HDF5.

        Raises:
            KeyError: the packet has no such dataset.
            PacketError: its head is damaged, or it is stored in a way that packets never are.
        """
        file = self._open()
        with _damage(self.path, name):
            # Without its attributes, which take longer to read than all the rest.
            dataset = self._opened[name][0] if name in self._opened else file.get(name)
            if isinstance(dataset, h5py.Dataset):
                if self._base is None:
                    self._base = self._address_base()
                return _stored_chunks(dataset, self._base)
        return _stored_chunks(self._dataset(name), self._base or 0)

    def dataset_attributes(self, name: str) -> dict[str, Any]:
        """The attributes of dataset `name`: units, description, stage_key and its own."""
        return dict(self._open_dataset(name)[1])

    def close(self) -> None:
        """Closes the file; the next access opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None
        self._opened = {}

    def _check_values(self, name: str, spec: DatasetSpec, rows: NDArray[Any]) -> None:
        """Refuses values that every reader would have to be on its guard against; small arrays alone have them."""
        for reason, wrong in value_faults(spec, rows):
            if wrong.any():
                raise PacketError(
                    f"{self.path}: {name}: {reason}; extract the episode again, or see `cuepack validate`"
                )

    def _rows(self, name: str, start: int | None, stop: int | None, step: int = 1) -> NDArray[Any]:
        dataset = self._dataset(name)
        if start is None and stop is None and step == 1:
            with _damage(self.path, name):
                return np.asarray(dataset[()])
        rows = dataset.shape[0]
        first, last = 0 if start is None else start, rows if stop is None else stop
        if not 0 <= first < last <= rows or step < 1:
            raise IndexError(f"{self.path.name}, {name}: wanted rows {first} to {last} by {step}, it has {rows}")
        with _damage(self.path, name):
            if step == 1:
                return np.asarray(dataset[first:last])
            if dataset.chunks is None or dataset.chunks[0] > 1:
                return np.asarray(dataset[first:last:1])[::step]
            # HDF5 walks over a selection with a step element by element: 50 ms for 4 frames of 224 x 224, whose
            # reading one by one takes 0.1 ms.
            taken = range(first, last, step)
            found = np.empty((len(taken), *dataset.shape[1:]), dataset.dtype)
            for place, row in enumerate(taken):
                found[place] = dataset[row]
            return found

    def _address_base(self) -> int:
        """What to add to HDF5's addresses: its versions disagree on whether they count the user block."""
        dataset = self._dataset("ep_len")
        address = dataset.id.get_chunk_info_by_coord((0,)).byte_offset
        expected = dataset[()].tobytes()
        with self.path.open("rb") as file:
            for base in (0, USER_BLOCK):
                file.seek(address + base)
                if file.read(len(expected)) == expected:
                    return base
        raise ValueError("ep_len is not stored where HDF5 says")

    def _dataset(self, name: str) -> h5py.Dataset:
        return self._open_dataset(name)[0]

    def _open_dataset(self, name: str) -> tuple[h5py.Dataset, dict[str, Any]]:
        """A dataset and its attributes; kept, as reading attributes takes longer than reading a window."""
        file = self._open()
        if name in self._opened:
            return self._opened[name]
        with _damage(self.path, name):
            found = file.get(name)
            if isinstance(found, h5py.Dataset):
                attributes = {key: plain_value(value) for key, value in sorted(found.attrs.items())}
                return self._opened.setdefault(name, (found, attributes))
            # A dataset whose head is damaged seems absent, and cannot be listed.
            names = sorted(dataset_names(file))
        raise KeyError(f"{self.path.name} has no dataset '{name}'; it has {names}")

    def _open(self) -> h5py.File:
        if self._file is not None and self._pid == os.getpid():
            return self._file
        # A handle from before a fork belongs to the parent: keep it, unused, so that this process does not close it.
        self._inherited, self._file, self._opened = self._file, None, {}
        admit(self.path, any_group=self._any_group)
        with _damage(self.path, "the file"):
            self._file, self._pid = open_hdf5(self.path), os.getpid()
        return self._file


@dataclass(frozen=True, slots=True, eq=False)
class StoredChunks:
    """Where the rows of one dataset are in a packet's file, and how they are encoded there.

    Attributes:
        dtype: of one value as stored; bool stands for HDF5's enum of int8.
        shape: of the dataset, rows first.
        rows: rows in a chunk; the last chunk holds as many, the surplus unused.
        filters: what the bytes went through, in order: "shuffle", "deflate", "fletcher32".
        code: (scale, offset, fill) of integer codes, fill NaN where no code stands for no reading; None for values.
        addresses: (chunks,) int64, bytes from the start of the file.
        sizes: (chunks,) int64, stored bytes, a checksum of 4 included where there is one.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: int
    filters: tuple[str, ...]
    code: tuple[float, float, float] | None
    addresses: NDArray[np.int64]
    sizes: NDArray[np.int64]


def _stored_chunks(dataset: h5py.Dataset, base: int) -> StoredChunks:
    layout = dataset.id.get_create_plist()
    filters = tuple(_FILTERS[layout.get_filter(number)[0]] for number in range(layout.get_nfilters()))
    shape, chunk, dtype = dataset.shape, dataset.chunks, dataset.dtype
    if not chunk or chunk[1:] != shape[1:]:
        raise ValueError(f"wanted chunks of whole rows, got {chunk}")
    rows = chunk[0]
    found = np.zeros((-(-shape[0] // rows), 2), np.int64)

    def note(chunk: Any) -> None:
        if chunk.filter_mask:
            raise ValueError(f"chunk {chunk.chunk_offset} leaves out filters")
        found[chunk.chunk_offset[0] // rows] = chunk.byte_offset + base, chunk.size

    dataset.id.chunk_iter(note)
    if not found[:, 1].all():
        raise ValueError("chunks are missing")
    code = None
    if dtype.kind == "u" and "scale" in dataset.attrs:
        scale, offset = float(dataset.attrs["scale"]), float(dataset.attrs["offset"])
        code = scale, offset, float(dataset.attrs.get("fill", np.nan))
    return StoredChunks(dtype, shape, rows, filters, code, found[:, 0], found[:, 1])


def read_dataset(path: Path | str, name: str) -> Dataset:
    """Dataset `name` of the file `path` as it is stored; the file may be a packet or an unfinished stage's.

    Raises:
        KeyError: the file has no such dataset.
        PacketError: the file is not a packet, or is damaged.
    """
    with Packet(path, any_group=True) as packet:
        return packet.stored(name)


def open_hdf5(path: Path) -> h5py.File:
    """The file open for reading, unlocked (packets are never written in place), with a small chunk cache."""
    for locking in (False, None, True):
        try:
            return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES, locking=locking)
        except OSError as error:
            # HDF5 opens a file that this process holds open only with the flags that it was opened with.
            if "file locking" not in str(error):
                raise
    return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES, locking="best-effort")


def root_attributes(file: h5py.File) -> dict[str, Any]:
    """The root attributes of an open file, JSON parsed.

    Raises:
        ValueError: an attribute that should be JSON is not.
    """
    return {name: parse_root(name, plain_value(value)) for name, value in sorted(file.attrs.items())}


def plain_value(value: Any) -> Any:
    """An HDF5 attribute as str, bool, int, float, or a list of these."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray):
        return [plain_value(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    return value


def dataset_names(group: h5py.Group, prefix: str = "", depth: int = 4) -> Iterator[str]:
    """Paths of the datasets below `group`; links out of the file and groups deeper than any of ours are passed over."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        found = group[name]
        if isinstance(found, h5py.Dataset):
            yield prefix + name
        elif isinstance(found, h5py.Group) and depth > 1:
            yield from dataset_names(found, f"{prefix}{name}/", depth - 1)


@contextmanager
def _damage(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        _raise_damage(path, what, error)


def _raise_damage(path: Path, what: str, error: BaseException) -> NoReturn:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise PacketError(f"{path}: damaged: {what} cannot be read ({reason}); extract the episode again") from error
