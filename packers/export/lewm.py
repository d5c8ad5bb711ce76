"""Packets joined into the one flat HDF5 file that stable-worldmodel's reader, and LeWM's training script, open.

The reader takes every root dataset for a column of N rows (N: frames of all episodes), beside `ep_len` and `ep_offset`;
it checks no lengths, and knows no groups. Its normaliser scales a column by its last axis, subtracts no bools, and its
converter stops at NaN. So every column but `pixels` is (N, K), finite, and float32 or int64, lengths are checked here,
and what a packet does not know is 0 with 0 in the column's `_valid`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

_BLOCK = 64

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


def write_lewm(
    packets: Sequence[Path],
    target: Path,
    extra: Sequence[str] = (),
    done: Callable[[Path], None] = lambda path: None,
    *,
    names: Literal["packet", "study"] = "packet",
    splits: Mapping[str, str] | None = None,
) -> JoinedFile:
    """Writes one flat file; N rows are the frames of all packets.

    `pixels` uint8 (N, H, W, 3); `action` float32 (N, A); where all packets have a state, `observation`, `proprio` and
    `state` float32 (N, S), which are one dataset; `episode_idx`, `step_idx` int64 (N, 1); `ep_len`, `ep_offset` int64,
    one per packet. Each column but pixels and the indices has a `<column>_valid` float32. `target` with `.episodes.csv`
    at its end says which episode is where.

    Args:
        packets: in the order they are joined.
        target: the file; replaced when the new one is whole.
        extra: further per-frame datasets of the packets, or groups such as `tracks/grid` (its `xy` and `visibility`).
            Each is a float32 column (N, K): depth and masks averaged over 56 x 56 cells, `_valid` (N, 3136) for depth;
            all else flattened, `_valid` (N, 1).
        done: called with each packet that is in.
        names: of extra columns: "packet", the path with "_" for "/", or "study", see `STUDY_NAMES`.
        splits: episode id -> "train" or "val", noted in the list of episodes.

    Raises:
        PacketError: a packet is damaged, lacks a column, or has another frame size or width than the first.
        OutputError: the file cannot be written.
    """
    if not packets:
        raise PacketError("wanted at least one packet to export, got none")
    sources = column_sources(packets, extra, names)
    lengths, shapes = measured(packets, sources)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    try:
        with built_aside(target) as temporary, h5py.File(temporary, "w", libver="latest") as file:
            for column, (shape, dtype) in shapes.items():
                # The layout of the reader's own writer: one row a chunk, nothing compressed.
                file.create_dataset(column, (sum(lengths), *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape))
            file["ep_len"], file["ep_offset"] = np.array(lengths, np.int64), offsets
            for number, (path, start) in enumerate(zip(packets, offsets.tolist(), strict=True)):
                _copy(path, file, sources, start, number)
                done(path)
            for name in STATE_NAMES[1:] if "state" in sources.values() else ():
                file[name] = file[STATE_NAMES[0]]
                file[f"{name}_valid"] = file[f"{STATE_NAMES[0]}_valid"]
            columns = tuple(name for name in file if name not in ("ep_len", "ep_offset"))
        index = target.with_name(f"{target.name}.episodes.csv")
        write_whole(index, _index(packets, offsets, lengths, splits or {}))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}; free space or fix permissions") from error
    return JoinedFile(len(packets), sum(lengths), columns, sum(length < DEFAULT_SPAN for length in lengths))


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


def measured(
    packets: Sequence[Path], sources: dict[str, str]
) -> tuple[list[int], dict[str, tuple[tuple[int, ...], np.dtype[Any]]]]:
    """Frames of each packet, and shape of one row and type of each column, the same in all packets."""
    lengths: list[int] = []
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for path in packets:
        with Packet(path) as packet:
            lengths.append(packet.n_frames)
            for dataset in sources.values():
                if dataset not in packet:
                    raise PacketError(
                        f"{path.name} has no {dataset}; it has {', '.join(packet.modalities)}. Leave it out with "
                        "--selection, or extract it again"
                    )
                if packet.shape(dataset)[:1] != (packet.n_frames,) or dataset == "intrinsics":
                    raise PacketError(f"{path.name}: {dataset} has no row for each frame, so it cannot be a column")
            for column, rows in columns_of(packet, sources, 0, 1, 0).items():
                layout = shapes.setdefault(column, (rows.shape[1:], rows.dtype))
                if layout != (rows.shape[1:], rows.dtype):
                    raise PacketError(
                        f"{path.name}: wanted {column} rows of {layout[0]} {layout[1]} as in {packets[0].name}, "
                        f"got {rows.shape[1:]} {rows.dtype}; export them apart"
                    )
    return lengths, shapes


def columns_of(packet: Packet, sources: dict[str, str], first: int, last: int, number: int) -> Columns:
    """All columns of the frames `first` to `last` of episode `number`."""
    found: Columns = {}
    for column, dataset in sources.items():
        if dataset == "pixels":
            found[column] = packet.read(dataset, first, last)
        else:
            found[column], found[f"{column}_valid"] = _filled(packet, dataset, first, last)
    steps = np.arange(first, last, dtype=np.int64)[:, None]
    return found | {"episode_idx": np.full_like(steps, number), "step_idx": steps}


def _filled(packet: Packet, dataset: str, first: int, last: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows of a dataset as a trainer takes them: (n, K) float32 without NaN, and what is valid of it."""
    rows = packet.read(dataset, first, last)
    values = rows.astype(np.float32)
    if values.ndim == 3 and dataset.startswith(("depth/", "masks/")):
        size = min(DEPTH_SIZE[0], values.shape[1]), min(DEPTH_SIZE[1], values.shape[2])
        if dataset.startswith("masks/"):
            return cell_shares(values, size).reshape(len(values), -1), np.ones((len(values), 1), np.float32)
        coarse, share = weighted_cells(values, pixel_weights("full", values, None), size)
        return coarse.reshape(len(values), -1), share.reshape(len(values), -1)
    values = values.reshape(len(values), -1)
    valid = np.asarray(np.isfinite(values).all(axis=1))
    spec = dataset_spec(dataset)
    if spec is not None and spec.valid in packet.modalities:
        valid &= packet.read(str(spec.valid), first, last)
    return np.where(valid[:, None], values, np.float32(0)), valid[:, None].astype(np.float32)


def _copy(path: Path, file: h5py.File, sources: dict[str, str], start: int, number: int) -> None:
    with Packet(path) as packet:
        for first in range(0, packet.n_frames, _BLOCK):
            last = min(first + _BLOCK, packet.n_frames)
            for column, rows in columns_of(packet, sources, first, last, number).items():
                file[column][start + first : start + last] = rows


def _index(
    packets: Sequence[Path], offsets: NDArray[np.int64], lengths: Sequence[int], splits: Mapping[str, str]
) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["episode", "episode_id", "ep_offset", "ep_len", "split", "language_instruction"])
    for number, (path, offset, length) in enumerate(zip(packets, offsets, lengths, strict=True)):
        with Packet(path) as packet:
            attributes = packet.attributes
        instruction = " ".join(str(attributes.get("language_instruction", "")).split())
        name = attributes.get("episode_id", path.stem)
        writer.writerow([number, name, offset, length, splits.get(str(name), ""), instruction])
    return text.getvalue()
