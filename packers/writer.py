"""Arrays into their storage encoding, and files that are whole or not there.

A file is written under a temporary name, synced, signed with its own sha256, then renamed. Its bytes depend on the
arrays and attributes alone: names are sorted, times are not recorded.
"""

from __future__ import annotations

import difflib
import errno
import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from extractors.errors import OutputError, PacketError, ShapeError
from packers.atomic import written_whole
from packers.schema import (
    DATASETS,
    DEFAULT_CONVENTION,
    EPISODE_ID,
    MAGIC,
    ROOT_ATTRIBUTES,
    SCHEMA,
    TEXT_ATTRIBUTES,
    USER_BLOCK,
    Dataset,
    DatasetSpec,
    Storage,
    dataset_spec,
    dims_text,
    is_extra,
    shape_fault,
)

RELATIVE_CODES = 4095
"""Steps between a clip's least and greatest relative depth: 12 bits, an error of 1.2e-4 of the range. 16 bits cost half
as much again (measured by tests/benchmarks/packet_storage.py; FORMAT.md has the table)."""

METRIC_STEP_M = 2.0**-12
"""Greatest step of metric codes: an error of 0.12 mm, an eighth of a depth camera's noise at 1 m; exact in binary."""

METRIC_BITS = 12
"""Metric steps are finer than `METRIC_STEP_M` where the clip is so near that they would give fewer bits than this."""

MAXIMUM_CODE = 65535

LIBVER = ("v110", "v110")
"""File format of HDF5 1.10: the oldest that takes attributes of any size; every HDF5 of the last ten years reads it."""

ROWS_CHUNK_BYTES = 256 * 1024
WRITE_BLOCK_BYTES = 16 * 1024 * 1024


def encode(name: str, data: NDArray[Any], *, like: str | None = None, **attributes: Any) -> Dataset:
    """`data` in the storage encoding of the dataset `name`.

    Depth becomes integer codes, value = stored * scale + offset, with the largest error in the attribute `max_error`.
    Metric depth of 0 or NaN (no reading) becomes the code `fill`. `units`, `description` and `convention` come from the
    schema unless given.

    Args:
        name: a path of the schema, or any name under `extra/`.
        data: physical values.
        like: for a name under `extra/`: the dataset of the schema whose encoding it takes.
        attributes: more attributes, or other values for the default ones.

    Raises:
        ShapeError: the type or shape is not the schema's.
        PacketError: an unknown name, or values that the schema forbids; the message names dataset and frame.
    """
    array = np.asarray(data)
    spec = dataset_spec(like or name)
    if not is_extra(name) and (spec is None or like is not None):
        raise _unknown(name)
    if spec is None:
        if like is not None:
            raise _unknown(like)
        return _encode_extra(name, array, attributes)
    _check_shape(name, spec, array)
    defaults = {"units": spec.units, "description": _description(spec, name)}
    if spec.path in DEFAULT_CONVENTION:
        defaults["convention"] = DEFAULT_CONVENTION[spec.path]
    code: dict[str, Any] = {}
    if spec.storage != "depth":
        stored = _as_stored(name, spec, array)
    elif spec.positive:
        stored, code = _encode_metric(name, array)
    else:
        stored, code = _encode_relative(name, array)
    return Dataset(stored, {**defaults, **code, **attributes})


def decode(dataset: Dataset) -> NDArray[Any]:
    """The physical values of `dataset`: what a reader of the packet gets.

    Integer-coded depth becomes float32, NaN where the stored code is `fill`; everything else is returned as stored.
    """
    attributes = dataset.attributes
    data = dataset.data
    fill = attributes.get("fill")
    if "scale" in attributes and data.dtype.kind == "u":
        scale, offset = float(attributes["scale"]), float(attributes["offset"])
        if data.dtype.itemsize > 2:  # no table of four thousand million values
            values = (data * scale + offset).astype(np.float32)
            return values if fill is None else np.where(data == int(fill), np.float32("nan"), values)
        table = _code_values(scale, offset, None if fill is None else int(fill), data.dtype.str)
        return np.take(table, data)
    if fill is not None and data.dtype.kind == "f":
        return np.where(data == fill, np.float32("nan"), data)
    return data


def write_packet(path: Path | str, datasets: Mapping[str, Dataset], attributes: Mapping[str, Any]) -> None:
    """Writes a packet: `datasets` by name, root `attributes` as product values (lists and mappings become JSON).

    `schema`, `modalities`, `ep_len` and `ep_offset` are filled in. Replaces an older file in one step.

    Raises:
        PacketError: a required dataset or attribute is missing, or one that the schema does not know is there.
        ShapeError: a dataset's type or shape does not fit the schema or the others.
        OutputError: the file cannot be written; an older one is untouched.
    """
    path = Path(path)
    episode_id = str(attributes.get("episode_id", ""))
    if not EPISODE_ID.fullmatch(episode_id) or path.name != f"{episode_id}.h5":
        raise PacketError(f"a packet is named <episode_id>.h5, [A-Za-z0-9_.-]+; got {path.name} for '{episode_id}'")
    pixels = datasets.get("pixels")
    if pixels is None:
        raise PacketError(f"{path.name}: a packet needs the dataset 'pixels'; run the source stage")
    key = {"stage_key": pixels.attributes["stage_key"]} if "stage_key" in pixels.attributes else {}
    complete = {
        **datasets,
        "ep_len": encode("ep_len", np.array([len(pixels.data)], np.int32), **key),
        "ep_offset": encode("ep_offset", np.zeros(1, np.int64), **key),
    }
    _check_datasets(path.name, complete)
    modalities = sorted(name for name in complete if not is_extra(name))
    root = {**attributes, "schema": SCHEMA, "modalities": modalities}
    missing = [name for name in ROOT_ATTRIBUTES if name not in root]
    if missing:
        raise PacketError(f"{path.name}: a packet needs the root attributes {missing}")
    write_group(path, complete, root)


def write_group(path: Path | str, datasets: Mapping[str, Dataset], attributes: Mapping[str, Any]) -> None:
    """Writes `datasets` and root `attributes` to one signed HDF5 file, whole or not at all.

    Strings named in `TEXT_ATTRIBUTES` and numbers are stored as they are, every other attribute as JSON with sorted
    keys.

    Raises:
        PacketError: an attribute cannot be stored.
        OutputError: the file cannot be written (disk full, permissions); an older one is untouched.
    """
    path = Path(path)
    root = {name: _root_attribute(name, attributes[name]) for name in sorted(attributes)}
    try:
        with written_whole(path) as temporary, temporary.open("r+b", buffering=0) as file:
            _write_hdf5(file, datasets, root)
            _sign(file)
    except OSError as error:
        raise _output_error(path, error) from error


def canonical_json(value: Any) -> str:
    """`value` as JSON text with sorted keys, in UTF-8 that any reader accepts.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: a value is not of a JSON type.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    # File names that are not UTF-8 come as lone surrogates; backslashreplace turns them into their JSON escapes.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _unknown(name: str) -> PacketError:
    near = difflib.get_close_matches(name, DATASETS, 1)
    hint = f"; did you mean '{near[0]}'" if near else ""
    return PacketError(f"no dataset '{name}' in {SCHEMA}{hint}; other arrays go under extra/")


def _description(spec: DatasetSpec, name: str) -> str:
    return spec.description.replace("<R>", name.rsplit("dilate", 1)[-1])


def _check_shape(name: str, spec: DatasetSpec, array: NDArray[Any]) -> None:
    fault = shape_fault(name, spec, array.shape, {})
    if fault is not None:
        raise ShapeError(f"{name}: {fault}")
    dtype = "float32" if spec.storage == "depth" else spec.dtype
    allowed = {"f": "fiu", "i": "iu", "u": "u", "b": "b"}[np.dtype(dtype).kind]
    if array.dtype.kind not in allowed or (dtype == "uint8" and array.dtype != np.uint8):
        raise ShapeError(f"{name}: wanted {dtype} {dims_text(spec.dims)}, got {array.dtype}")


def _encode_extra(name: str, array: NDArray[Any], attributes: Mapping[str, Any]) -> Dataset:
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"{name}: wanted numbers or booleans, got {array.dtype}")
    return Dataset(array, {"units": "", "description": "for inspection; not part of the schema", **attributes})


def _as_stored(name: str, spec: DatasetSpec, array: NDArray[Any]) -> NDArray[Any]:
    # A value too large for the type becomes infinite, which is refused below with its frame.
    with np.errstate(over="ignore", invalid="ignore"):
        stored = np.ascontiguousarray(array, dtype=spec.dtype)
    if stored.dtype.kind == "f":
        if spec.valid is None:
            _refuse(name, ~np.isfinite(stored), "finite values")
        else:
            _refuse(name, np.isinf(stored), f"finite values, NaN where {spec.valid} is false")
    if spec.minimum is not None:
        _refuse(name, stored < spec.minimum, f"values of at least {spec.minimum:g}")
    if spec.maximum is not None:
        _refuse(name, stored > spec.maximum, f"values of at most {spec.maximum:g}")
    return stored


def _refuse(name: str, bad: NDArray[np.bool_], expected: str) -> None:
    if bad.any():
        first = np.unravel_index(int(np.argmax(bad)), bad.shape)
        raise PacketError(
            f"{name}, frame {first[0]}: wanted {expected}, got {int(bad.sum())} others; correct the stage that made it"
        )


def _encode_relative(name: str, array: NDArray[Any]) -> tuple[NDArray[np.uint16], dict[str, Any]]:
    """Codes of 12 bits from the clip's least value to its greatest."""
    # Frame by frame, here and for metres: temporaries are float64, and a whole clip's would be four times its codes.
    low, high = math.inf, -math.inf
    for t, frame in enumerate(array):
        if not np.isfinite(frame).all():
            raise PacketError(f"{name}, frame {t}: wanted finite values; correct the stage that made it")
        low, high = min(low, float(frame.min())), max(high, float(frame.max()))
    scale = (high - low) / RELATIVE_CODES or 1.0  # a flat clip has one code, 0, which any scale decodes to `low`
    codes = np.empty(array.shape, np.uint16)
    for t, frame in enumerate(array):
        codes[t] = np.rint((frame.astype(np.float64) - low) / scale)
    return codes, {"scale": scale, "offset": low, "max_error": _code_error(scale, max(abs(low), abs(high)))}


def _encode_metric(name: str, array: NDArray[Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Codes of 2^-12 m or finer; float32 where the clip reaches beyond what 16 bits of them hold (16 m)."""
    far = 0.0
    for t, frame in enumerate(array):
        if np.isinf(frame).any() or (frame < 0).any():
            raise PacketError(f"{name}, frame {t}: wanted metres above 0, 0 or NaN without reading; correct its maker")
        far = max(far, float(np.nan_to_num(frame).max()))
    # A clip that is all near gets a finer step, so that METRIC_BITS of it remain.
    step = min(METRIC_STEP_M, 2.0 ** (math.ceil(math.log2(far)) - METRIC_BITS)) if far > 0 else METRIC_STEP_M
    if far > MAXIMUM_CODE * step:
        return np.nan_to_num(array).astype(np.float32), {"fill": 0.0, "max_error": 0.0}
    codes = np.empty(array.shape, np.uint16)
    error = 0.0
    for t, frame in enumerate(array):
        # A reading below half a step would fall on the code for "no reading".
        reading = np.nan_to_num(frame.astype(np.float64))
        codes[t] = np.where(reading > 0, np.maximum(np.rint(reading / step), 1), 0)
        error = max(error, float(np.abs(codes[t] * step - reading).max()))
    return codes, {"scale": step, "offset": 0.0, "fill": 0, "max_error": max(error, step / 2)}


def _code_error(scale: float, largest: float) -> float:
    """Half a step, and the rounding of decoded values to float32."""
    return scale / 2 + largest * float(np.finfo(np.float32).eps)


@functools.lru_cache(maxsize=8)
def _code_values(scale: float, offset: float, fill: int | None, dtype: str) -> NDArray[np.float32]:
    """The value of every code: a table, as it is exact and faster than arithmetic on maps."""
    values = (np.arange(np.iinfo(dtype).max + 1, dtype=np.float64) * scale + offset).astype(np.float32)
    if fill is not None:
        values[fill] = np.nan
    values.flags.writeable = False
    return values


def _check_datasets(packet: str, datasets: Mapping[str, Dataset]) -> None:
    missing = [spec.path for spec in DATASETS.values() if spec.required and spec.path not in datasets]
    if missing:
        raise PacketError(f"{packet}: a packet needs the datasets {missing}")
    sizes: dict[str, int] = {}
    for name, dataset in datasets.items():
        spec = dataset_spec(name)
        if spec is None and not is_extra(name):
            raise _unknown(name)
        for attribute in ("units", "description", "stage_key"):
            if not isinstance(dataset.attributes.get(attribute), str):
                raise PacketError(f"{packet}: dataset '{name}' needs the text attribute '{attribute}'")
        if spec is None:
            continue
        if dataset.data.dtype.name not in (spec.dtype, *spec.also):
            raise ShapeError(f"{packet}: {name}: wanted {spec.dtype}, got {dataset.data.dtype}; use encode()")
        fault = shape_fault(name, spec, dataset.data.shape, sizes)
        if fault is not None:
            raise ShapeError(f"{packet}: {name}: {fault}")


def _root_attribute(name: str, value: Any) -> Any:
    if name in TEXT_ATTRIBUTES:
        return _text(str(value))
    if isinstance(value, bool | int | float | np.number):
        if not np.isfinite(value):
            raise PacketError(f"attribute '{name}': wanted a finite number, got {value}")
        return value
    try:
        return canonical_json(value)
    except (ValueError, TypeError) as error:
        raise PacketError(f"attribute '{name}': wanted JSON types with finite numbers: {error}") from error


def _text(value: str) -> str:
    """`value` as HDF5 can hold it: valid UTF-8, U+FFFD for NUL, which would end an HDF5 string."""
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _fixed(values: str | Sequence[str]) -> NDArray[np.bytes_]:
    """A text, or a list of texts, as UTF-8 of one fixed length.

    Texts of variable length go to HDF5's global heap, where one flipped bit lets HDF5 loop for ever.
    """
    encoded = [_text(value).encode("utf-8") for value in ([values] if isinstance(values, str) else values)]
    kind = h5py.string_dtype("utf-8", max(1, *map(len, encoded)))
    return np.array(encoded[0] if isinstance(values, str) else encoded, dtype=kind)


def _dataset_attribute(name: str, attribute: str, value: Any) -> Any:
    if isinstance(value, str):
        return _fixed(value)
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return value
    if isinstance(value, list | tuple | np.ndarray) and len(value):
        if all(isinstance(item, str) for item in value):
            return _fixed([str(item) for item in value])
        numbers = np.asarray(value)
        if numbers.dtype.kind in "fiub":
            return numbers
    raise PacketError(f"{name}, attribute '{attribute}': wanted text, a number or a list of them, got {value!r}")


def _write_hdf5(file: IO[bytes], datasets: Mapping[str, Dataset], root: Mapping[str, Any]) -> None:
    disk = _Disk(file)
    with h5py.File(disk, "w", libver=LIBVER, userblock_size=USER_BLOCK) as packet:
        for name, value in root.items():
            packet.attrs[name] = _fixed(value) if isinstance(value, str) else value
        for name in sorted(datasets):
            _write_dataset(packet, name, datasets[name], disk)
    disk.check()
    os.ftruncate(file.fileno(), disk.size)


def _write_dataset(packet: h5py.File, name: str, dataset: Dataset, disk: _Disk) -> None:
    data = np.ascontiguousarray(dataset.data).reshape(dataset.data.shape)
    options = _storage_options(name, data)
    created = packet.create_dataset(name, shape=data.shape, dtype=data.dtype, track_times=False, **options)
    for attribute in sorted(dataset.attributes):
        created.attrs[attribute] = _dataset_attribute(name, attribute, dataset.attributes[attribute])
    if "chunks" not in options:
        created[...] = data
        disk.check()
        return
    # Whole chunks at a time, so that a full disk is noticed within a block.
    rows = options["chunks"][0]
    block = max(1, WRITE_BLOCK_BYTES // max(1, rows * data[0].nbytes)) * rows
    for start in range(0, len(data), block):
        created[start : start + block] = data[start : start + block]
        disk.check()


def _storage_options(name: str, data: NDArray[Any]) -> dict[str, Any]:
    """Chunks and filters; the reasons and measurements are in FORMAT.md."""
    if data.size == 0 or data.ndim == 0:
        return {}
    spec = dataset_spec(name)
    storage: Storage = spec.storage if spec is not None else ("maps" if data.ndim >= 3 else "rows")
    if storage in ("frames", "plain"):
        chunk = (1, *data.shape[1:]) if storage == "frames" else data.shape
        return {"chunks": chunk, "fletcher32": True}
    rows = 1 if storage != "rows" else min(len(data), max(1, ROWS_CHUNK_BYTES // max(1, data[0].nbytes)))
    return {
        "chunks": (rows, *data.shape[1:]),
        "compression": "gzip",
        "compression_opts": 4 if storage == "rows" else 1,
        "shuffle": data.dtype.itemsize > 1,
    }


class _Disk:
    """The file that HDF5 writes to, which never tells HDF5 of a failure.

    HDF5 2.0 keeps a file open whose last writes fail and brings the process down with a segmentation fault at its end
    (seen with a limited file size). So the first failure is remembered, what follows is kept in memory until HDF5 has
    closed the file, and `check` raises it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._descriptor = file.fileno()
        self._position = 0
        self._failure: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []
        self.size = 0

    def check(self) -> None:
        """Raises what a write failed with."""
        if self._failure is not None:
            raise self._failure

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._failure is None:
            try:
                done = 0
                while done < len(view):
                    done += os.pwrite(self._descriptor, view[done:], self._position + done)
            except OSError as error:
                self._failure = error
        if self._failure is not None:
            self._unwritten.append((self._position, bytes(view)))  # HDF5 reads its own metadata back before it closes
        self._position += len(view)
        self.size = max(self.size, self._position)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start, stop = self._position, self._position + len(view)
        found = os.pread(self._descriptor, len(view), start)
        view[:] = found.ljust(len(view), b"\0")
        for offset, data in self._unwritten:
            low, high = max(offset, start), min(offset + len(data), stop)
            if low < high:
                view[low - start : high - start] = data[low - offset : high - offset]
        self._position = stop
        return len(view)

    def read(self, count: int) -> bytes:
        buffer = bytearray(count)
        self.readinto(buffer)
        return bytes(buffer)

    def truncate(self, size: int) -> int:
        self.size = size
        return size

    def flush(self) -> None:
        """Nothing is held back."""


def _sign(file: IO[bytes]) -> None:
    """Fills the user block: magic, sha256 of all that follows the block, zeros."""
    # Read back from the file rather than hashed on the way: HDF5 rewrites its headers until it closes.
    file.seek(USER_BLOCK)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    file.seek(0)
    file.write((MAGIC + digest.hexdigest().encode("ascii")).ljust(USER_BLOCK, b"\0"))


def _output_error(path: Path, error: OSError) -> OutputError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "the disk is full; free space and run again" if full else "check the folder and its permissions"
    return OutputError(f"cannot write {path}: {error.strerror or error}; {hint}; what was there before is untouched")
