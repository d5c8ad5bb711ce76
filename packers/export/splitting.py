"""Train and validation sides of an export, with near-duplicate episodes found by content and kept together.

An episode that was uploaded twice, shortened, or encoded again has another name and other bytes. What stays is the
picture it begins with and what the robot does; both are compared, so that a model is not judged on what it has seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError
from packers.reader import Packet
from packers.training.selection import Split, drawn_val

SIDE, LOW = 32, 11
"""A frame is averaged to 32 x 32 and hashed by its 11 x 11 slowest cosines (Zauner 2010, "pHash")."""

BANDS = 12
ALIKE_BITS = BANDS - 1
"""Of 120 bits; two hashes that differ in fewer bits than there are bands are equal in one band, so none is missed.

In 58 first frames of BridgeData (64 x 64, real, one toy kitchen), JPEG of quality 40, halving, darkening, noise, gamma
and a crop by 3 % change at most 10 bits; all but 3 % of the pairs differ in 18 and more, and those 3 % are copies."""

MOST_PAIRS = 2**20
"""Pairs of hashes that are compared at once; bounds memory, 16 MB."""

POINTS = 32
ALIKE_SHARE = 0.1
"""Actions are resampled to 32 points; the same trajectory differs by less than this share of its own spread, and is
not longer by more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Looks:
    """What a packet is recognised by.

    Attributes:
        group: the same for all cameras of an episode.
        scene: the place that its source names (BridgeData's folder of one table, task and day), else the group.
        first, last: (120,) bool, hashes of its first and last frame.
        actions: (POINTS, A) float64 resampled; None where it has none.
        n_frames: of the packet.
    """

    group: str
    scene: str
    first: NDArray[np.bool_]
    last: NDArray[np.bool_]
    actions: NDArray[np.float64] | None
    n_frames: int


def split_packets(
    packets: Sequence[Path],
    val_share: float,
    *,
    seed: int = 0,
    by: Literal["episode", "scene"] = "episode",
    done: Callable[[Path], None] = lambda path: None,
) -> tuple[dict[Path, Split], int]:
    """The side of each packet, and how many episodes are near-duplicates of another.

    All cameras of an episode are on one side, and so are near-duplicates: the same first frame (11 of 120 bits of its
    perceptual hash may differ) and the same actions, or where both have none, the same last frame.

    Args:
        packets: to be split.
        val_share: share of the groups that go to "val", above 0 and below 1.
        seed: fixes the draw.
        by: "scene" also keeps all episodes of a scene together: of the place that the source names, and those whose
            first frames are alike, whatever the robot does.
        done: called with each packet that was looked at.

    Raises:
        ConfigError: `val_share` is not between 0 and 1, or all packets are alike, so that one side would be empty.
        PacketError: a packet is damaged.
    """
    if not 0 < val_share < 1:
        raise ConfigError(f"--val-share is a share of the episodes above 0 and below 1, got {val_share:g}")
    looks = []
    for path in packets:
        looks.append(_look(path))
        done(path)
    parent = list(range(len(looks)))
    first_of: dict[str, int] = {}
    for number, look in enumerate(looks):
        for label in (look.group, look.scene) if by == "scene" else (look.group,):
            _join(parent, number, first_of.setdefault(label, number))
    copies: set[str] = set()
    for one, other in _alike(looks):
        same = _same_actions(looks[one], looks[other])
        if not same and by == "episode":
            continue
        if same and looks[one].group != looks[other].group:
            copies.add(max(looks[one].group, looks[other].group))
        _join(parent, one, other)
    labels = [looks[_root(parent, number)].group for number in range(len(looks))]
    if len(set(labels)) < 2:
        raise ConfigError(f"--val-share: all {len(packets)} packets are one {by} or alike, so none can be set apart")
    val = drawn_val(set(labels), val_share, seed)
    return {path: "val" if label in val else "train" for path, label in zip(packets, labels, strict=True)}, len(copies)


def picture_hash(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(120,) bool of a frame (H, W, 3): whether each of its slow cosines is above their median."""
    grey = frame.astype(np.float64).mean(axis=2)
    for axis in (0, 1):
        edges = np.linspace(0, grey.shape[axis], SIDE + 1)[:-1].astype(int)
        counts = np.diff(np.append(edges, grey.shape[axis]))
        grey = np.add.reduceat(grey, edges, axis=axis) / np.maximum(np.expand_dims(counts, 1 - axis), 1)
    waves = np.cos(np.pi / SIDE * (np.arange(SIDE) + 0.5) * np.arange(LOW)[:, None])
    slow = (waves @ grey @ waves.T).ravel()[1:]
    return np.asarray(slow > np.median(slow))


def _look(path: Path) -> _Looks:
    with Packet(path) as packet:
        source = packet.attributes["source"]
        group = json.dumps(
            [source["dataset"], source["path"], source.get("key", source.get("episode_index"))], sort_keys=True
        )
        folders = [
            part for part in Path(str(source["path"])).parent.parts if not part.startswith(("raw", "traj_group"))
        ]
        # Other kinds of sources have all episodes in one folder or file, which says nothing of the scene.
        scene = json.dumps([source["dataset"], *folders]) if source["kind"] == "bridge-raw" and folders else group
        last = packet.n_frames - 1
        ends = [picture_hash(packet.read("pixels", row, row + 1)[0]) for row in (0, last)]
        actions = None
        if "action" in packet:
            rows = np.asarray(packet["action"], np.float64)
            rows = rows[np.isfinite(rows).all(axis=1)]
            if len(rows):
                places = np.linspace(0, len(rows) - 1, POINTS)
                actions = np.stack([np.interp(places, np.arange(len(rows)), column) for column in rows.T], axis=1)
        return _Looks(group, scene, ends[0], ends[1], actions, packet.n_frames)


def _alike(looks: Sequence[_Looks]) -> Iterator[tuple[int, int]]:
    """Pairs of packets whose first frames are alike, each once."""
    first = np.stack([look.first for look in looks])
    packed = np.zeros((len(looks), 16), np.uint8)
    packed[:, :15] = np.packbits(first, axis=1)
    bands = np.packbits(first.reshape(len(looks), BANDS, -1), axis=2).view(np.uint16)[..., 0]
    for band in range(BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        ends = np.flatnonzero(np.diff(bands[order, band])) + 1
        for numbers in np.split(order, ends):
            for one, other in _near(packed.view(np.uint64), numbers):
                # A pair that is equal in an earlier band was found there.
                if not (bands[one, :band] == bands[other, :band]).any():
                    yield one, other


def _near(packed: NDArray[np.uint64], numbers: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Pairs of `numbers`, in ascending order, whose `packed` hashes (N, 2) differ in at most `ALIKE_BITS` bits."""
    # Whole blocks of pairs at once: thousands of episodes begin with the same picture of one table.
    rows = max(1, MOST_PAIRS // len(numbers))
    for start in range(0, len(numbers) - 1, rows):
        block = numbers[start : start + rows]
        differing = np.bitwise_count(packed[block, None] ^ packed[None, numbers[start:]]).sum(axis=2, dtype=np.uint8)
        for one, other in np.argwhere(np.triu(differing <= ALIKE_BITS, 1)).tolist():
            yield int(block[one]), int(numbers[start + other])


def _same_actions(one: _Looks, other: _Looks) -> bool:
    shorter, longer = sorted((one.n_frames, other.n_frames))
    if longer > (1 + ALIKE_SHARE) * shorter:
        return False
    a, b = one.actions, other.actions
    if a is None or b is None:
        return a is b and bool((one.last != other.last).sum() <= ALIKE_BITS)
    if a.shape != b.shape:
        return False
    spread = np.maximum(a.std(axis=0), b.std(axis=0))
    moving = spread > 1e-9
    if not moving.any():
        return bool(np.allclose(a, b))
    off = np.sqrt(np.square((a - b)[:, moving] / spread[moving]).mean())
    return bool(off <= ALIKE_SHARE)


def _join(parent: list[int], one: int, other: int) -> None:
    roots = _root(parent, one), _root(parent, other)
    parent[max(roots)] = min(roots)


def _root(parent: list[int], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number
