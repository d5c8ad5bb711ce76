"""Packets joined into the one flat HDF5 file that stable-worldmodel's reader, and LeWM's training script, open.

The reader takes every root dataset for a column of N rows (N: frames of all episodes), beside `ep_len` and `ep_offset`;
it checks no lengths, and knows no groups. Its normaliser scales a column by its last axis, subtracts no bools, and its
converter stops at NaN. So every column but `pixels` is (N, K), finite, and float32 or int64, lengths are checked here,
and what a packet does not know is 0 with 0 in the column's `_valid`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from extractors.errors import OutputError, PacketError
from packers.atomic import built_aside, write_whole
from packers.reader import Packet
from packers.schema import dataset_spec
from packers.training.targets import DEPTH_SIZE, cell_shares, pixel_weights, weighted_cells

STATE_NAMES = ("observation", "proprio", "state")
"""One dataset under three names: the toolkit of the study's author wants the first, LeWM the second."""

STUDY_NAMES = {
    "contact": "contact",
    "masks/object": "object_mask",
    "centroids": "object_centroid",
    "shape_descriptors": "object_shape",
    "depth/": "depth",
    "/xy": "tracks",
    "/visibility": "track_visibility",
}
"""The study author's name of a dataset, by its path or by how that begins or ends."""

DEFAULT_SPAN = 20
"""Rows of LeWM's own window: 3 + 1 frames, 5 rows apart; shorter episodes give it no window."""

PADDED = ("action", "state")
"""Datasets whose width may differ from packet to packet: narrower rows are filled up with zeros."""

_BLOCK = 64

_RATES_ALIKE = 0.01
"""Share by which frame rates may differ: a window of a second is then off by less than a frame at 60 a second."""

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class JoinedFile:
    """What was written.

    Attributes:
        episodes, frames: how many.
        columns: their names.
        too_short: episodes of fewer than `DEFAULT_SPAN` frames.
    """

    episodes: int
    frames: int
    columns: tuple[str, ...]
    too_short: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How packets become columns.

    Attributes:
        lengths: frames that each packet gives.
        starts: the first of them.
        sources: column -> dataset of the packets.
        widths: column -> numbers in a row, of columns that are wider in some packets than in others.
        data_sets: names of the data sets that packets are from, in the order of their first packet.
        source_of: number of each packet's data set.
        shapes: shape of one row and type of each column.
    """

    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    sources: Mapping[str, str]
    widths: Mapping[str, int]
    data_sets: tuple[str, ...]
    source_of: tuple[int, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


def write_lewm(
    packets: Sequence[Path],
    target: Path,
    extra: Sequence[str] = (),
    done: Callable[[Path], None] = lambda path: None,
    *,
    names: Literal["packet", "study"] = "packet",
    splits: Mapping[Path, str] | None = None,
    ids: Mapping[Path, str] | None = None,
    moving: bool = False,
) -> JoinedFile:
    """Writes one flat file; N rows are the frames of all packets.

    `pixels` uint8 (N, H, W, 3); `action` float32 (N, A); where all packets have a state, `observation`, `proprio` and
    `state` float32 (N, S), which are one dataset; `episode_idx`, `step_idx` int64 (N, 1); `ep_len`, `ep_offset` int64,
    one per packet. Each column but pixels and the indices has a `<column>_valid` float32. Where actions or states
    differ in width, the columns are as wide as the widest, narrower rows end in zeros, and `<column>_dims` float32 of
    the same shape is 1 where the packet has the number. Where packets are from several data sets, `source_idx` int64
    (N, 1) says from which, by the names in its attribute `names`. `target` with `.episodes.csv` at its end says which
    episode is where.

    Args:
        packets: in the order they are joined.
        target: the file; replaced when the new one is whole.
        extra: further per-frame datasets of the packets, or groups such as `tracks/grid` (its `xy` and `visibility`).
            Each is a float32 column (N, K): depth and masks averaged over 56 x 56 cells, `_valid` (N, 3136) for depth;
            all else flattened, `_valid` (N, 1).
        done: called with each packet that is in.
        names: of extra columns: "packet", the path with "_" for "/", or "study", see `STUDY_NAMES`.
        splits: packet -> "train" or "val", noted in the list of episodes.
        ids: packet -> its episode's name, where it is not the packet's own.
        moving: frames from the first to the last alone in which robot or object moves, as `phase` has it.

    Raises:
        PacketError: a packet is damaged, lacks a column, or has another frame size, rate or row than the first.
        OutputError: the file cannot be written.
    """
    if not packets:
        raise PacketError("wanted at least one packet to export, got none")
    layout = layout_of(packets, column_sources(packets, extra, names), moving=moving)
    lengths, total = layout.lengths, sum(layout.lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    try:
        with built_aside(target) as temporary, h5py.File(temporary, "w", libver="latest") as file:
            for column, (shape, dtype) in layout.shapes.items():
                # The layout of the reader's own writer: one row a chunk, nothing compressed.
                file.create_dataset(column, (total, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape))
            file["ep_len"], file["ep_offset"] = np.array(lengths, np.int64), offsets
            if "source_idx" in file:
                file["source_idx"].attrs["names"] = list(layout.data_sets)
            for number, (path, start) in enumerate(zip(packets, offsets.tolist(), strict=True)):
                for rows, block in blocks_of(path, layout, number):
                    for column, values in block.items():
                        file[column][start + rows.start : start + rows.stop] = values
                done(path)
            for name in STATE_NAMES[1:] if "state" in layout.sources.values() else ():
                for suffix in ("", "_valid", "_dims"):
                    if STATE_NAMES[0] + suffix in file:
                        file[name + suffix] = file[STATE_NAMES[0] + suffix]
            columns = tuple(name for name in file if name not in ("ep_len", "ep_offset"))
        index = target.with_name(f"{target.name}.episodes.csv")
        write_whole(index, _index(packets, offsets, layout, splits or {}, ids or {}))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}; free space or fix permissions") from error
    return JoinedFile(len(packets), total, columns, sum(length < DEFAULT_SPAN for length in lengths))


def column_sources(packets: Sequence[Path], extra: Sequence[str], names: str) -> dict[str, str]:
    """Column -> dataset of the packets."""
    with Packet(packets[0]) as packet:
        there = packet.modalities
    sources = {"pixels": "pixels", "action": "action"}
    if all(_has(path, "state") for path in packets):
        sources[STATE_NAMES[0]] = "state"
    for word in extra:
        group = [f"{word}/{field}" for field in ("xy", "visibility") if f"{word}/{field}" in there]
        for dataset in group or [word]:
            column = _study_name(dataset) if names == "study" else dataset.replace("/", "_")
            if sources.setdefault(column, dataset) != dataset:
                raise PacketError(f"{sources[column]} and {dataset} would both be the column {column}; leave one out")
    return sources


def _study_name(dataset: str) -> str:
    for part, name in STUDY_NAMES.items():
        whole = not part.startswith("/") and not part.endswith("/")
        if dataset == part or (not whole and (dataset.startswith(part) or dataset.endswith(part))):
            return name
    raise PacketError(f"the study has no column for {dataset}; it has {sorted(STUDY_NAMES.values())}")


def _has(path: Path, dataset: str) -> bool:
    with Packet(path) as packet:
        return dataset in packet


def layout_of(packets: Sequence[Path], sources: Mapping[str, str], *, moving: bool = False) -> Layout:
    """What all packets can be joined to, looking at each.

    Raises:
        PacketError: a packet lacks a column, or has another frame size, rate or row than the first; says what to do.
    """
    widths: dict[str, set[int]] = {column: set() for column, dataset in sources.items() if dataset in PADDED}
    spans, data_sets, rates = [], [], []
    for path in packets:
        with Packet(path) as packet:
            for dataset in sources.values():
                _check_rows(packet, dataset)
            for column in widths:
                widths[column].add(packet.shape(sources[column])[1])
            spans.append(_active_span(packet) if moving else (0, packet.n_frames))
            data_sets.append(str(packet.attributes["source"]["dataset"]))
            rates.append(float(packet.attributes["fps"]))
    for path, fps in zip(packets, rates, strict=True):
        if abs(fps / rates[0] - 1) > _RATES_ALIKE:
            raise PacketError(
                f"{path.name} has {fps:g} frames/s, {packets[0].name} {rates[0]:g}: a window would last another time "
                "in each; export them apart, or one of them from a source that was recorded at the other's rate"
            )
    named = tuple(dict.fromkeys(data_sets))
    layout = Layout(
        lengths=tuple(stop - start for start, stop in spans),
        starts=tuple(start for start, _ in spans),
        sources=dict(sources),
        widths={column: max(found) for column, found in widths.items() if len(found) > 1},
        data_sets=named,
        source_of=tuple(named.index(name) for name in data_sets),
        shapes={},
    )
    return replace(layout, shapes=_shapes(packets, layout))


def _check_rows(packet: Packet, dataset: str) -> None:
    if dataset not in packet:
        raise PacketError(
            f"{packet.path.name} has no {dataset}; it has {', '.join(packet.modalities)}. Leave it out with "
            "--selection, or extract it again"
        )
    if packet.shape(dataset)[:1] != (packet.n_frames,) or dataset == "intrinsics":
        raise PacketError(f"{packet.path.name}: {dataset} has no row for each frame, so it cannot be a column")


def _active_span(packet: Packet) -> tuple[int, int]:
    """First frame, and frame after the last, in which something moves; the whole episode where nothing does."""
    if "phase" not in packet:
        raise PacketError(
            f"{packet.path.name} has no phase, which says where something moves; extract it again, or export without "
            "--windows moving"
        )
    first, past = (int(frame) for frame in packet.dataset_attributes("phase")["active_span"])
    return (first, past) if past > first else (0, packet.n_frames)


def _shapes(packets: Sequence[Path], layout: Layout) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for number, path in enumerate(packets):
        with Packet(path) as packet:
            first_row = columns_of(packet, layout, 0, 1, number)
        for column, rows in first_row.items():
            form = shapes.setdefault(column, (rows.shape[1:], rows.dtype))
            if form != (rows.shape[1:], rows.dtype):
                way = (
                    "; extract them at one size (--set packet.height=... packet.width=...)"
                    if column == "pixels"
                    else ""
                )
                raise PacketError(
                    f"{path.name}: wanted {column} rows of {form[0]} {form[1]} as in {packets[0].name}, "
                    f"got {rows.shape[1:]} {rows.dtype}{way}, or export them apart"
                )
    return shapes


def blocks_of(path: Path, layout: Layout, number: int) -> Iterator[tuple[slice, Columns]]:
    """All columns of packet `number`, some frames at a time, with their rows counted from its first exported frame."""
    start, length = layout.starts[number], layout.lengths[number]
    with Packet(path) as packet:
        for first in range(0, length, _BLOCK):
            rows = slice(first, min(first + _BLOCK, length))
            yield rows, columns_of(packet, layout, start + rows.start, start + rows.stop, number)


def columns_of(packet: Packet, layout: Layout, first: int, last: int, number: int) -> Columns:
    """All columns of the frames `first` to `last` of packet `number`."""
    found: Columns = {}
    for column, dataset in layout.sources.items():
        if dataset == "pixels":
            found[column] = packet.read(dataset, first, last)
            continue
        values, valid = _filled(packet, dataset, first, last)
        if column in layout.widths:
            missing = layout.widths[column] - values.shape[1]
            found[f"{column}_dims"] = np.pad(np.ones_like(values), ((0, 0), (0, missing)))
            values = np.pad(values, ((0, 0), (0, missing)))
        found[column], found[f"{column}_valid"] = values, valid
    steps = np.arange(first, last, dtype=np.int64)[:, None] - layout.starts[number]
    if len(layout.data_sets) > 1:
        found["source_idx"] = np.full_like(steps, layout.source_of[number])
    return found | {"episode_idx": np.full_like(steps, number), "step_idx": steps}


def _filled(packet: Packet, dataset: str, first: int, last: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows of a dataset as a trainer takes them: (n, K) float32 without NaN, and what is valid of it."""
    rows = packet.read(dataset, first, last)
    values = rows.astype(np.float32)
    if values.ndim == 3 and dataset.startswith(("depth/", "masks/")):
        size = min(DEPTH_SIZE[0], values.shape[1]), min(DEPTH_SIZE[1], values.shape[2])
        if dataset.startswith("masks/"):
            # A number of a thing covers as much as a mask does.
            return cell_shares((values > 0).astype(np.float32), size).reshape(len(values), -1), np.ones(
                (len(values), 1), np.float32
            )
        coarse, share = weighted_cells(values, pixel_weights("full", values, None), size)
        return coarse.reshape(len(values), -1), share.reshape(len(values), -1)
    values = values.reshape(len(values), -1)
    valid = np.asarray(np.isfinite(values).all(axis=1))
    spec = dataset_spec(dataset)
    if spec is not None and spec.valid in packet.modalities:
        valid &= packet.read(str(spec.valid), first, last)
    return np.where(valid[:, None], values, np.float32(0)), valid[:, None].astype(np.float32)


def _index(
    packets: Sequence[Path],
    offsets: NDArray[np.int64],
    layout: Layout,
    splits: Mapping[Path, str],
    ids: Mapping[Path, str],
) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["episode", "episode_id", "ep_offset", "ep_len", "split", "language_instruction", "first_frame", "source"]
    )
    for number, (path, offset, length) in enumerate(zip(packets, offsets, layout.lengths, strict=True)):
        with Packet(path) as packet:
            attributes = packet.attributes
        instruction = " ".join(str(attributes.get("language_instruction", "")).split())
        name = ids.get(path, attributes.get("episode_id", path.stem))
        source = layout.data_sets[layout.source_of[number]]
        row = [number, name, offset, length, splits.get(path, ""), instruction, layout.starts[number], source]
        writer.writerow(row)
    return text.getvalue()
