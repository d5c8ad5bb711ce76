"""Packets joined into the one flat HDF5 file that stable-worldmodel's reader, and LeWM's training script, open.

The reader takes every root dataset for a column of N rows (N: frames of all episodes), beside `ep_len` and `ep_offset`;
it checks no lengths, and knows no groups. So there is nothing else at the root, and lengths are checked here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from extractors.errors import OutputError, PacketError
from packers.atomic import built_aside, write_whole
from packers.reader import Packet

PROPRIO = "proprio"
"""LeWM's name for what packets call `state`."""

_BLOCK = 64


@dataclass(frozen=True, slots=True)
class JoinedFile:
    """What was written.

    Attributes:
        episodes, frames: how many.
        columns: their names.
    """

    episodes: int
    frames: int
    columns: tuple[str, ...]


def write_lewm(
    packets: Sequence[Path], target: Path, extra: Sequence[str] = (), done: Callable[[Path], None] = lambda path: None
) -> JoinedFile:
    """Writes `pixels` uint8 (N, H, W, 3), `action` float32 (N, A), `proprio` float32 (N, S), `ep_len`, `ep_offset`.

    `proprio` is the packets' `state`, and is written when all of them have one. Rows of `action` that the source
    does not have stay NaN: the reader leaves them out of its statistics, and the training script counts them as 0.
    `target` with `.episodes.csv` at its end says which episode is where.

    Args:
        packets: in the order they are joined.
        target: the file; replaced when the new one is whole.
        extra: further per-frame datasets of the packets; "/" becomes "_" in the column's name.
        done: called with each packet that is in.

    Raises:
        PacketError: a packet is damaged, lacks a column, or has another frame size or width than the first.
        OutputError: the file cannot be written.
    """
    if not packets:
        raise PacketError("wanted at least one packet to export, got none")
    sources = _sources(packets, extra)
    lengths, shapes = _measured(packets, sources)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    try:
        with built_aside(target) as temporary, h5py.File(temporary, "w", libver="latest") as file:
            for column, (shape, dtype) in shapes.items():
                # The layout of the reader's own writer: one row a chunk, nothing compressed.
                file.create_dataset(column, (sum(lengths), *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape))
            file["ep_len"], file["ep_offset"] = np.array(lengths, np.int32), offsets
            for path, start, length in zip(packets, offsets, lengths, strict=True):
                _copy(path, file, sources, int(start), length)
                done(path)
        index = target.with_name(f"{target.name}.episodes.csv")
        write_whole(index, _index(packets, offsets, lengths))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}; free space or fix permissions") from error
    return JoinedFile(len(packets), sum(lengths), tuple(shapes))


def _sources(packets: Sequence[Path], extra: Sequence[str]) -> dict[str, str]:
    """Column -> dataset of the packets."""
    sources = {"pixels": "pixels", "action": "action"}
    if all(_has(path, "state") for path in packets):
        sources[PROPRIO] = "state"
    for name in extra:
        sources[name.replace("/", "_")] = name
    return sources


def _has(path: Path, dataset: str) -> bool:
    with Packet(path) as packet:
        return dataset in packet


def _measured(
    packets: Sequence[Path], sources: dict[str, str]
) -> tuple[list[int], dict[str, tuple[tuple[int, ...], np.dtype[Any]]]]:
    """Frames of each packet, and shape of one row and type of each column, the same in all packets."""
    lengths: list[int] = []
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for path in packets:
        with Packet(path) as packet:
            lengths.append(packet.n_frames)
            for column, dataset in sources.items():
                if dataset not in packet:
                    raise PacketError(
                        f"{path.name} has no {dataset}; leave it out with --selection, or extract it again"
                    )
                if not _is_per_frame(packet, dataset):
                    raise PacketError(f"{path.name}: {dataset} has no row for each frame, so it cannot be a column")
                row = packet.read(dataset, 0, 1)
                # The reader scales every column but pixels as numbers in two dimensions.
                shape = row.shape[1:] or (1,)
                first = shapes.setdefault(column, (shape, row.dtype))
                if first != (shape, row.dtype):
                    raise PacketError(
                        f"{path.name}: wanted {column} rows of {first[0]} {first[1]} as in {packets[0].name}, "
                        f"got {shape} {row.dtype}; export them apart"
                    )
    return lengths, shapes


def _is_per_frame(packet: Packet, dataset: str) -> bool:
    try:
        packet.read(dataset, packet.n_frames - 1, packet.n_frames)
    except IndexError:
        return False
    try:
        packet.read(dataset, packet.n_frames, packet.n_frames + 1)
    except IndexError:
        return True
    return False


def _copy(path: Path, file: h5py.File, sources: dict[str, str], start: int, length: int) -> None:
    with Packet(path) as packet:
        for column, dataset in sources.items():
            for first in range(0, length, _BLOCK):
                last = min(first + _BLOCK, length)
                rows: NDArray[Any] = packet.read(dataset, first, last)
                target = file[column]
                target[start + first : start + last] = rows.reshape(len(rows), *target.shape[1:])


def _index(packets: Sequence[Path], offsets: NDArray[np.int64], lengths: Sequence[int]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["episode", "episode_id", "ep_offset", "ep_len", "language_instruction"])
    for number, (path, offset, length) in enumerate(zip(packets, offsets, lengths, strict=True)):
        with Packet(path) as packet:
            attributes = packet.attributes
        instruction = " ".join(str(attributes.get("language_instruction", "")).split())
        writer.writerow([number, attributes.get("episode_id", path.stem), offset, length, instruction])
    return text.getvalue()
