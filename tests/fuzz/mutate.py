"""Ways to spoil files: bits and ranges, nodes of JSON, columns of parquet, and what stands where the file should."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FOREIGN = (
    b"",
    b"\x00" * 4096,
    b"\xff" * 4096,
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    b"<!DOCTYPE html><html><body>404</body></html>",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n",
    b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
    b"ffconcat version 1.0\nfile /etc/passwd\n",
    b"\x1f\x8b\x08\x00" + b"\x00" * 60,
    b"GIF89a\xff\xff\xff\xff\x00\x00\x00;",
    b"[" * 100_000,
    b'{"a":' * 50_000,
)

NUMBERS = (0, 1, -1, 127, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3.5, 1e308, 2**31, 2**63, 10**400, float("nan"), float("inf"), -float("inf")),
    *(
        "",
        "x",
        "nan",
        "1",
        "\x1b[2J\x07",
        "\ud800",
        "../../etc/passwd",
        "a" * 5000,
        "\x00",
        "{0.__class__}",
        "{:999999999}",
    ),
    *([], {}, [[]], [None], {"": None}, [1, "a", None], {"a": {"b": []}}),
)


def spoil_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with one kind of damage, once or a few times."""
    kind = int(rng.integers(9))
    if kind == 0 or not data:
        return FOREIGN[int(rng.integers(len(FOREIGN)))]
    spoiled = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 2, 8]))):
        at = int(rng.integers(len(spoiled) or 1))
        if rng.random() < 0.4:  # headers decide more than what is behind them
            at = int(rng.integers(min(len(spoiled) or 1, 200)))
        span = int(rng.choice([1, 2, 4, 16, 256, 4096]))
        if kind in (1, 2) and spoiled:
            spoiled[at] ^= 1 << int(rng.integers(8))
        elif kind == 3:
            spoiled[at : at + span] = rng.bytes(min(span, len(spoiled) - at))
        elif kind == 4:
            del spoiled[at : at + span]
        elif kind == 5:
            spoiled[at:at] = spoiled[at : at + span]
        elif kind == 6:
            spoiled[at:at] = bytes([int(rng.choice([0, 255]))]) * span
        elif kind == 7:
            number = int(NUMBERS[int(rng.integers(len(NUMBERS)))])
            width = int(rng.choice([1, 2, 4, 8]))
            order: Any = "big" if rng.random() < 0.5 else "little"
            value = (number % 2 ** (8 * width)).to_bytes(width, order)
            spoiled[at : at + width] = value[: len(spoiled) - at]
        else:
            return bytes(spoiled[:at])
    return bytes(spoiled)


def spoil_json(data: bytes, rng: np.random.Generator) -> bytes:
    """JSON, or lines of it, with one or two nodes replaced, taken out or doubled."""
    text = data.decode()
    try:
        values = [json.loads(text)]
    except ValueError:
        values = [json.loads(line) for line in text.splitlines() if line.strip()]
    for _ in range(int(rng.choice([1, 1, 2]))):
        at = int(rng.integers(len(values)))
        values[at] = _spoil_node(values[at], rng)
    if rng.random() < 0.1:
        values = values * 2
    mark = b"\xef\xbb\xbf" if rng.random() < 0.1 else b""
    return mark + "\n".join(json.dumps(value, ensure_ascii=True) for value in values).encode()


def _spoil_node(value: Any, rng: np.random.Generator) -> Any:
    odd = VALUES[int(rng.integers(len(VALUES)))]
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = list(value)[int(rng.integers(len(value)))]
        kind = rng.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.15:
            return {**value, f"{odd}": value[key]}
        return {**value, key: _spoil_node(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = int(rng.integers(len(value)))
        return [*value[:at], _spoil_node(value[at], rng), *value[at + int(rng.integers(2)) :]]
    return odd


def spoil_parquet(path: Path, rng: np.random.Generator) -> None:
    """A parquet file rewritten with one column, or its rows, changed; left alone where that is impossible."""
    try:
        table = _spoil_table(pq.read_table(path), rng)
        group = int(rng.choice([1, 7, 1000]))
        pq.write_table(table, path, row_group_size=group, write_statistics=bool(rng.random() < 0.8))
    except (pa.ArrowException, ValueError, TypeError, OverflowError, NotImplementedError, KeyError, OSError):
        path.write_bytes(spoil_bytes(path.read_bytes(), rng))


_TYPES = (
    *(pa.float64(), pa.float32(), pa.int8(), pa.int32(), pa.uint64(), pa.string(), pa.large_string(), pa.binary()),
    *(pa.bool_(), pa.null(), pa.date32(), pa.timestamp("ns"), pa.decimal128(20, 3), pa.float16()),
)


def _spoil_table(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    at = int(rng.integers(table.num_columns))
    name, column, count = table.column_names[at], table.column(at), len(table)
    kind = int(rng.integers(12))
    if kind == 0:
        return table.set_column(at, name, column.cast(_TYPES[int(rng.integers(len(_TYPES)))], safe=False))
    if kind == 1:
        return table.drop_columns([name])
    if kind == 2:
        return table.append_column(name, column)
    if kind == 3:
        return table.rename_columns([f"{name}\x1b" if n == name else n for n in table.column_names])
    if kind == 4:
        return table.take(pa.array(rng.permutation(count)))
    if kind == 5:
        return pa.concat_tables([table, table.slice(int(rng.integers(count)))])
    if kind == 6:
        return table.slice(0, int(rng.integers(count + 1)))
    if kind == 7:
        return table.set_column(at, name, pa.chunked_array([pa.nulls(count, column.type)]))
    if kind == 8:
        return table.set_column(at, name, pa.array([[cell] for cell in column.to_pylist()]))
    if kind == 9:
        return table.set_column(at, name, pa.array([f"{cell}" for cell in column.to_pylist()]).dictionary_encode())
    cells = column.to_pylist()
    for _ in range(int(rng.choice([1, 2, count]))):
        cells[int(rng.integers(count))] = VALUES[int(rng.integers(len(VALUES)))]
    return table.set_column(at, name, pa.array(cells, column.type) if kind == 10 else pa.array(cells))


def replace_file(path: Path, rng: np.random.Generator) -> None:
    """Something that is no file, or a file of another name, where `path` was."""
    kind = int(rng.integers(7))
    content = path.read_bytes()
    path.unlink()
    if kind == 0:
        path.symlink_to("/dev/zero")
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        path.symlink_to("nowhere")
    elif kind == 4:
        with path.open("wb") as file:
            file.truncate(2**42)
    elif kind == 5:
        odd = [b"\xff\xfe", b"\x1b[2J", b"a" * 200, b"http:x", b"concat:a|b", "ü".encode()][int(rng.integers(6))]
        Path(os.fsdecode(os.fsencode(path.parent) + b"/" + odd + os.fsencode(path.suffix))).write_bytes(content)


def spoil_tree(root: Path, rng: np.random.Generator) -> None:
    """One or two files below `root` spoiled, each in a way that fits it."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for _ in range(int(rng.choice([1, 1, 1, 2]))):
        path = files[int(rng.integers(len(files)))]
        if not path.is_file() or path.is_symlink() or path.stat().st_size > 2**24:
            continue
        kind = rng.random()
        if kind < 0.06:
            replace_file(path, rng)
        elif path.suffix in (".json", ".jsonl") and kind < 0.8:
            try:
                path.write_bytes(spoil_json(path.read_bytes(), rng))
            except ValueError:  # spoiled already
                path.write_bytes(spoil_bytes(path.read_bytes(), rng))
        elif path.suffix == ".parquet" and kind < 0.75:
            spoil_parquet(path, rng)
        else:
            path.write_bytes(spoil_bytes(path.read_bytes(), rng))
