"""Packets as WebDataset shards: tar files whose members are read in order, a sample per episode.

A sample's members share the part of their names before the first dot, and their endings say how they are decoded: the
`webdataset` package gives `sample["pixels.npy"]` as an array. No package is needed to write them.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extractors.errors import ConfigError, OutputError, PacketError
from packers.atomic import built_aside
from packers.reader import Packet

OWN = ("pixels", "action", "action_valid", "state", "gripper", "timestamp", "intrinsics")
"""Datasets that every sample has, where its packet has them."""

SHARD_BYTES = 256 << 20
"""A shard is closed when it is larger: some 1,500 frames, large enough to be read in sequence from any store."""

_FACTS = ("episode_id", "language_instruction", "fps", "scores", "quality", "tags")


@dataclass(frozen=True, slots=True)
class WrittenShards:
    """What was written: how many episodes and frames, and the names of the shards."""

    episodes: int
    frames: int
    shards: tuple[str, ...]


def write_webdataset(
    packets: Sequence[Path],
    target: Path,
    extra: Sequence[str] = (),
    *,
    splits: Mapping[Path, str] | None = None,
    ids: Mapping[Path, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    done: Callable[[Path], None] = lambda path: None,
) -> WrittenShards:
    """Writes shards `all-000000.tar`, or `train-...` and `val-...` as `splits` says, into the new folder `target`.

    Each episode is `<key>.json` (id, instruction, frame rate, scores, quality, tags, data set, camera) and an array
    `<key>.<dataset>.npy` per dataset, "/" as "_": physical values, NaN where the packet has NaN. A key is the episode's
    id with "-" for ".".

    Args:
        packets: in their order, which is kept within a split.
        target: a folder that is not there yet.
        extra: further datasets, or groups of them such as `tracks/grid`.
        splits: packet -> "train" or "val".
        ids: packet -> its episode's name, where it is not the packet's own.
        shard_bytes: a shard that has more is closed.
        done: called with each packet that is in.

    Raises:
        ConfigError: `target` exists, or some packets are in a split and others are not.
        PacketError: a packet is damaged, lacks an extra dataset, or two would have one key.
        OutputError: the folder cannot be written.
    """
    if target.exists():
        raise ConfigError(f"{target} exists already; name a new folder")
    sides = {path: (splits or {}).get(path) for path in packets}
    if any(sides.values()) and not all(sides.values()):
        raise ConfigError(f"{next(p.name for p in sides if not sides[p])} is in no split, others are; select again")
    frames, shards, keys = 0, [], set[str]()
    try:
        with built_aside(target) as folder:
            folder.mkdir()
            for side in dict.fromkeys(sides.values()):
                own = [path for path in packets if sides[path] == side]
                for number, part in enumerate(_parts(own, shard_bytes)):
                    shards.append(f"{side or 'all'}-{number:06}.tar")
                    with tarfile.open(folder / shards[-1], "w", format=tarfile.USTAR_FORMAT) as shard:
                        for path in part:
                            key = (ids or {}).get(path, path.stem).replace(".", "-")
                            if key in keys:
                                raise PacketError(f"{path.name}: another episode has the key {key} too; rename one")
                            keys.add(key)
                            frames += _add(shard, path, key, extra)
                            done(path)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}; free space or fix permissions") from error
    return WrittenShards(len(packets), frames, tuple(shards))


def _parts(packets: Sequence[Path], shard_bytes: int) -> Iterator[list[Path]]:
    """Packets shard by shard; a packet's own size stands for what its sample takes."""
    part: list[Path] = []
    size = 0
    for path in packets:
        part.append(path)
        size += path.stat().st_size
        if size > shard_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part


def _add(shard: tarfile.TarFile, path: Path, key: str, extra: Sequence[str]) -> int:
    with Packet(path) as packet:
        root, there = packet.attributes, packet.modalities
        names = [name for name in OWN if name in there]
        for word in extra:
            below = [name for name in there if name == word or name.startswith(f"{word}/")]
            if not below:
                raise PacketError(f"{path.name} has no {word}; it has {', '.join(there)}")
            names += [name for name in below if name not in names]
        facts = {name: root.get(name) for name in _FACTS}
        facts |= {name: root["source"].get(name) for name in ("dataset", "camera")}
        _member(shard, f"{key}.json", json.dumps(facts, sort_keys=True, ensure_ascii=False).encode())
        for name in names:
            content = io.BytesIO()
            np.save(content, np.ascontiguousarray(packet[name]), allow_pickle=False)
            _member(shard, f"{key}.{name.replace('/', '_')}.npy", content.getvalue())
        return packet.n_frames


def _member(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    """Equal packets give equal shards: no time and no owner is recorded."""
    member: Any = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))
