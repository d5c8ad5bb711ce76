"""Pickles from strangers, read without running anything they ask for.

A pickle is a program. This reader lets it build numpy arrays and plain containers, and builds the arrays itself from
checked shapes, types and bytes: no numpy constructor is ever handed to the pickle.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import CorruptDataError, UnsafePickleError
from flows.sources.files import foreign_content, read_bytes

MAX_BYTES = 256 * 2**20
"""Largest pickle that is read; the trajectory pickles of BridgeData V2 have some 10 kB."""

MAX_DEPTH = 32
"""Deepest nesting of containers; BridgeData V2 has 3."""

_DTYPE = re.compile(r"\?|[biufcSU][0-9]{1,9}")

_PLAIN = (str, bytes, int, float, complex, type(None))

_BROKEN = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError),
    *(OverflowError, RecursionError, UnicodeError),
)


def load_pickle(path: Path, name: str | None = None, *, max_bytes: int = MAX_BYTES) -> Any:
    """What the pickle at `path` holds: dicts, lists, tuples, strings, numbers and numpy arrays.

    Args:
        path: the file; protocols 0 to 5, written by Python 2 or 3 with numpy 1 or 2.
        name: what messages call it, default the path.
        max_bytes: largest file that is read; it and what it holds take up to three times its size meanwhile.

    Raises:
        MissingDataError: there is no such file.
        CorruptDataError: it is cut or damaged.
        UnsafePickleError: it asks for anything but arrays and plain containers; nothing of it was run.
    """
    name = name or str(path)
    data = read_bytes(path, name, max_bytes)
    if foreign_content(data):
        raise CorruptDataError(f"{name} {foreign_content(data)}")
    try:
        _check_opcodes(data)
        return _plain(_RestrictedUnpickler(io.BytesIO(data), encoding="latin1").load(), {}, 0)
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{name} {error}; it was refused and nothing in it was run") from error
    except _BROKEN as error:
        raise CorruptDataError(f"{name} is not a whole pickle ({error}); fetch the episode again") from error


def _check_opcodes(data: bytes) -> None:
    """Refuses what no trajectory needs and what would make the unpickler itself take all memory."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _REFUSED_OPCODES:
            raise UnsafePickleError(f"uses the pickle instruction {opcode.name}")
        # The C unpickler makes its memo as long as the largest index, whatever the pickle's size.
        if opcode.name.endswith("PUT") and int(argument or 0) > len(data):
            raise UnsafePickleError(f"asks for a memo of {argument} entries")


_REFUSED_OPCODES = frozenset(
    {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "NEXT_BUFFER"}
)


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafePickleError(f"asks for {module}.{name}") from None


class _Callable:
    """A function that a pickle may call and cannot change, as the BUILD instruction changes plain functions."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickleError("tries to change a function")


class _Dtype:
    """A dtype being unpickled: a plain number or string type, nothing structured, nothing that holds objects."""

    def __init__(self, code: str, *flags: Any) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise UnsafePickleError(f"holds arrays of type {code!r}, not numbers")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, subtype, names, fields = state[1:5]
        if (subtype, names, fields) != (None, None, None):
            raise UnsafePickleError("holds structured arrays, not numbers")
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {order!r}")
        self.value = self.value.newbyteorder(order)


class _Array:
    """An array being unpickled; `value` is there once its state was given."""

    value: NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype):
            raise UnsafePickleError("holds an array without a type")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"array shape {shape!r}")
        # reshape fails where shape and data disagree, so a small pickle cannot ask for a large array.
        values = np.frombuffer(_as_bytes(data), dtype.value)
        self.value = values.reshape(shape, order="F" if fortran else "C").copy()


def _reconstruct(subtype: Any, shape: Any, code: Any) -> _Array:
    if subtype is not _NDARRAY:
        raise UnsafePickleError("holds an array of an unknown class")
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """Arrays of protocol 5, whose bytes are in the pickle: numpy's `_frombuffer`."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, _Dtype):
        raise UnsafePickleError("holds a number without a type")
    (value,) = np.frombuffer(_as_bytes(data), dtype.value)
    return value.item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Protocols up to 2 have no bytes and write them as `_codecs.encode(text, "latin1")`."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"asks for text in the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Protocols up to 2 write `b""`, the data of an array without elements, as `bytes()`."""
    return b""


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, str):  # bytes of Python 2
        return data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise UnsafePickleError("holds arrays of objects")
    return bytes(data)


_NDARRAY = object()  # named as an argument of _reconstruct, never called

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Callable(_Dtype),
    ("_codecs", "encode"): _Callable(_encode),
    ("__builtin__", "bytes"): _Callable(_no_bytes),
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # numpy 1 and numpy 2 spelling
    _ALLOWED[_module, "_reconstruct"] = _Callable(_reconstruct)
    _ALLOWED[_module, "scalar"] = _Callable(_scalar)
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    _ALLOWED[_module, "_frombuffer"] = _Callable(_from_buffer)


def _plain(value: Any, done: dict[int, Any], depth: int) -> Any:
    """`value` with finished arrays in it; `done` keeps an object that appears often from being copied often."""
    if isinstance(value, _PLAIN):
        return value
    if id(value) in done:
        return done[id(value)]
    if depth > MAX_DEPTH:
        raise UnsafePickleError(f"nests containers more than {MAX_DEPTH} deep")
    result: Any
    if isinstance(value, _Array):
        result = value.value
    elif isinstance(value, dict):
        result = {_key(key): _plain(item, done, depth + 1) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        result = type(value)(_plain(item, done, depth + 1) for item in value)
    else:
        raise UnsafePickleError("holds something else than arrays, numbers, strings, dicts, lists and tuples")
    done[id(value)] = result
    return result


def _key(key: Any) -> Any:
    if not isinstance(key, _PLAIN):
        raise UnsafePickleError("has a dict key that is neither a string nor a number")
    return key
