"""What is in a packet, as data and as text for a terminal."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from extractors.errors import PacketError
from extractors.printable import printable
from packers.admission import admit, check_head
from packers.reader import DAMAGE, dataset_names, open_hdf5, plain_value, root_attributes

_LONG_LIST = 200
"""Characters of JSON beyond which a list is cut to its ends."""


def describe_packet(path: Path | str) -> dict[str, Any]:
    """Tree, provenance, scores and quality of a packet, JSON types only.

    Long lists (the hash of every frame) are cut to their first and last entry and their length; the packet has them
    whole. A packet that breaks the schema is described as far as its form allows; `cuepack validate` says how.

    Raises:
        PacketError: the file is no packet, damaged, or of a form that no packet has.
    """
    path = Path(path)
    admit(path, any_group=True)
    try:
        with open_hdf5(path) as file:
            attributes = root_attributes(file)
            datasets = {name: _describe_dataset(file[name]) for name in sorted(dataset_names(file))}
    except DAMAGE as error:
        raise PacketError(f"{path}: damaged: cannot be read ({error}); extract the episode again") from error
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": check_head(path),
        "intact": True,
        "attributes": {name: _shortened(value) for name, value in attributes.items()},
        "datasets": datasets,
    }


def format_packet(description: Mapping[str, Any], width: int = 80) -> str:
    """`description` (of `describe_packet`) as lines of at most `width` characters where words allow it, printable."""
    attributes = description["attributes"]
    lines = [
        f"{attributes.get('episode_id', '?')}   {attributes.get('schema', 'no schema')}   "
        f"{_size(description['bytes'])}   intact"
    ]
    lines += _wrapped("instruction", attributes.get("language_instruction") or "(none)", width)
    lines += ["", *_tree(description["datasets"], width)]
    for title in ("tags", "scores", "quality", "stages", "source", "config"):
        value = attributes.get(title)
        if value:
            is_record = title == "stages" and all(isinstance(stage, Mapping) for stage in value.values())
            detail = _stage_lines(value, width) if is_record else _nested(value, width, indent=2)
            lines += ["", title, *detail]
    return "\n".join(printable(line).rstrip() for line in lines)


def _describe_dataset(dataset: h5py.Dataset) -> dict[str, Any]:
    return {
        "dtype": dataset.dtype.name,
        "shape": list(dataset.shape),
        "chunks": list(dataset.chunks) if dataset.chunks else None,
        "compression": dataset.compression,
        "level": dataset.compression_opts if dataset.compression == "gzip" else None,
        "shuffle": bool(dataset.shuffle),
        "fletcher32": bool(dataset.fletcher32),
        "stored_bytes": int(dataset.id.get_storage_size()),
        "bytes": int(dataset.nbytes),
        "attributes": {name: _shortened(plain_value(value)) for name, value in sorted(dataset.attrs.items())},
    }


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        items = [_shortened(item) for item in value]
        if len(items) > 2 and len(json.dumps(items)) > _LONG_LIST:
            return [items[0], f"... {len(items)} in all ...", items[-1]]
        return items
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN
    return value


def _tree(datasets: Mapping[str, Mapping[str, Any]], width: int) -> Iterator[str]:
    rows = [
        (name, found["dtype"], "x".join(map(str, found["shape"])), _size(found["stored_bytes"]))
        for name, found in datasets.items()
    ]
    columns = [("dataset", "type", "shape", "stored"), *rows]
    widths = [max(len(row[column]) for row in columns) for column in range(4)]
    units = ["units", *(str(found["attributes"].get("units", "")) for found in datasets.values())]
    for (name, dtype, shape, stored), unit in zip(columns, units, strict=True):
        line = f"{name:{widths[0]}}  {dtype:{widths[1]}}  {shape:{widths[2]}}  {stored:>{widths[3]}}  "
        room = max(8, width - len(line))
        yield line + (unit if len(unit) <= room else unit[: room - 3] + "...")


def _stage_lines(stages: Mapping[str, Any], width: int) -> Iterator[str]:
    """What made each signal; keys and hashes by their first digits."""
    for name, stage in stages.items():
        weights = ", ".join(f"{label} {str(digest)[:12]}" for label, digest in (stage.get("weights") or {}).items())
        parts = (stage.get("backend"), stage.get("device"), stage.get("precision"), weights)
        made_by = ", ".join(str(part) for part in parts if part)
        yield from _wrapped(f"  {name}", f"{made_by}; key {str(stage.get('key'))[:12]}", width)


def _nested(value: Any, width: int, indent: int) -> Iterator[str]:
    space = " " * indent
    if isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(item, Mapping) and item:
                yield f"{space}{name}"
                yield from _nested(item, width, indent + 2)
            else:
                yield from _wrapped(f"{space}{name}", _inline(item), width)
    elif isinstance(value, list):
        text = ", ".join(_inline(item) for item in value)
        yield from textwrap.wrap(text, width, initial_indent=space, subsequent_indent=space)
    else:
        yield from _wrapped(space, _inline(value), width)


def _wrapped(label: str, text: str, width: int) -> list[str]:
    indent = " " * (len(label) - len(label.lstrip()) + 4)
    return textwrap.wrap(f"{label}: {text}", width, subsequent_indent=indent, drop_whitespace=True) or [label]


def _inline(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"
