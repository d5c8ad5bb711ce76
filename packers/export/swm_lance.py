"""Packets as the Lance table that stable-worldmodel reads by default, the only one of its formats that streams.

One row a frame, episode by episode: `episode_idx`, `step_idx` int32; `pixels` as JPEG (**lossy**); every other column
of the flat HDF5 file (`packers/export/lewm.py`), filled and with its `_valid`, as a list of float32.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError, OutputError
from packers.export.lewm import DEFAULT_SPAN, STATE_NAMES, JoinedFile, blocks_of, column_sources, layout_of

JPEG_QUALITY = 95
"""What stable-worldmodel's own writer takes."""

_INDICES = ("episode_idx", "step_idx", "source_idx")


def require_lance() -> None:
    """Says how Lance is installed, where it is not.

    Raises:
        ConfigError: it is missing.
    """
    try:
        import lancedb  # noqa: F401
    except ImportError as error:
        raise ConfigError("swm-lance needs lancedb: pip install 'cuepack[lance]'") from error


def write_lance(
    packets: Sequence[Path],
    target: Path,
    extra: Sequence[str] = (),
    done: Callable[[Path], None] = lambda path: None,
    *,
    names: Literal["packet", "study"] = "packet",
    moving: bool = False,
) -> JoinedFile:
    """Writes the table `target`, a folder that ends in .lance and is not there yet.

    Args:
        packets: in the order of the episodes.
        target: `FOLDER/NAME.lance`.
        extra: further per-frame datasets, as in `write_lewm`.
        done: called with each packet that is in.
        names: of extra columns, as in `write_lewm`.
        moving: frames in which something moves alone, as in `write_lewm`.

    Raises:
        ConfigError: the target is there, has another ending, or Lance is missing.
        PacketError: a packet is damaged, lacks a column, or has another frame size, rate or row than the first.
        OutputError: the table cannot be written.
    """
    import pyarrow as pa

    require_lance()
    import lancedb

    check_table(target)
    layout = layout_of(packets, column_sources(packets, extra, names), moving=moving)
    lengths = layout.lengths
    schema = pa.schema([_field(name, shape) for name, (shape, _) in layout.shapes.items()])
    if "source_idx" in layout.shapes:
        names_of = {"names": json.dumps(layout.data_sets)}
        schema = schema.set(schema.get_field_index("source_idx"), pa.field("source_idx", pa.int32(), metadata=names_of))
    schema = schema if "state" not in layout.sources.values() else _with_states(schema)

    def batches() -> Iterator[Any]:
        for number, path in enumerate(packets):
            for _, columns in blocks_of(path, layout, number):
                yield _batch(columns, schema)
            done(path)

    try:
        reader = pa.RecordBatchReader.from_batches(schema, batches())
        lancedb.connect(str(target.parent)).create_table(target.stem, data=reader, schema=schema)
    except (OSError, pa.ArrowException, RuntimeError) as error:
        raise OutputError(f"{target} cannot be written: {error}; remove it, free space or fix permissions") from error
    return JoinedFile(len(packets), sum(lengths), tuple(schema.names), sum(length < DEFAULT_SPAN for length in lengths))


def check_table(target: Path) -> None:
    """Refuses a target that no table can be written to.

    Raises:
        ConfigError: it exists, has another ending, or its folder is missing.
    """
    if target.suffix != ".lance" or target.exists() or not target.parent.is_dir():
        raise ConfigError(f"--out {target}: wanted a new name in an existing folder, such as {target.stem}.lance")


def _field(name: str, shape: tuple[int, ...]) -> Any:
    import pyarrow as pa

    if name in _INDICES:
        return pa.field(name, pa.int32())
    if name == "pixels":
        return pa.field(name, pa.binary())
    return pa.field(name, pa.list_(pa.float32(), int(np.prod(shape))))


def _with_states(schema: Any) -> Any:
    """The schema with the state's other names: Lance has no links, so they are copies."""
    for suffix in ("", "_valid", "_dims"):
        if STATE_NAMES[0] + suffix not in schema.names:
            continue
        first = schema.field(STATE_NAMES[0] + suffix)
        for name in STATE_NAMES[1:]:
            schema = schema.append(first.with_name(name + suffix))
    return schema


def _batch(columns: Mapping[str, NDArray[Any]], schema: Any) -> Any:
    import pyarrow as pa

    arrays = []
    for field in schema:
        states = [STATE_NAMES[0] + field.name.removeprefix(name) for name in STATE_NAMES if field.name.startswith(name)]
        values = columns[field.name] if field.name in columns else columns[states[0]]
        if field.name == "pixels":
            arrays.append(pa.array([_jpeg(frame) for frame in values], pa.binary()))
        elif field.name in _INDICES:
            arrays.append(pa.array(values[:, 0].astype(np.int32)))
        else:
            flat = np.ascontiguousarray(values, np.float32).reshape(-1)
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), field.type.list_size))
    return pa.record_batch(arrays, schema=schema)


def _jpeg(frame: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(frame).save(data, "JPEG", quality=JPEG_QUALITY)
    return data.getvalue()
