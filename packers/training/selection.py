"""Which packets a data set is made of: found in a folder, a selection file or a URI, split, and filtered."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from extractors.errors import ConfigError
from packers.training.index import Entry

Split = Literal["train", "val"]

_HASH_LINE = "# sha256="


@dataclass(frozen=True, slots=True)
class Choice:
    """Which packets take part.

    Attributes:
        split: "train" or "val" alone; None takes both. A selection file says which episode is which; packets of a
            folder are split here, all cameras of an episode on one side.
        val_share: share of a folder's episodes that go to "val".
        seed: fixes that split. The same episode falls to the same side whatever else is in the folder.
        require: datasets that a packet must have to take part, such as "masks/object".
        with_tags, without_tags: tags that a packet must have all of, or none of.
        quality: modality -> statuses that pass, such as {"masks": ("pass", "warn")}; a packet without the card fails.
        min_scores: score -> least value, such as {"score": 0.5}; a packet without the score fails.
        absent: what to do with packets that a selection names and that are not there: "error", or "skip", which warns.
    """

    split: Split | None = None
    val_share: float = 0.1
    seed: int = 0
    require: tuple[str, ...] = ()
    with_tags: tuple[str, ...] = ()
    without_tags: tuple[str, ...] = ()
    quality: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    min_scores: Mapping[str, float] = field(default_factory=dict)
    absent: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        if self.split not in (None, "train", "val"):
            raise ConfigError(f"a split is 'train', 'val' or None, got {self.split!r}")
        if not 0 <= self.val_share <= 1:
            raise ConfigError(f"val_share is a share of the episodes from 0 to 1, got {self.val_share}")

    def reason_against(self, entry: Entry) -> str | None:
        """Why a packet is left out, None where it is taken; the split is not looked at."""
        facts = entry.facts
        tags = set(facts["tags"])
        if lacks := [name for name in self.require if name not in entry.kinds]:
            return f"has no {lacks[0]}"
        if lacks := [tag for tag in self.with_tags if tag not in tags]:
            return f"has not the tag {lacks[0]}"
        if unwanted := [tag for tag in self.without_tags if tag in tags]:
            return f"has the tag {unwanted[0]}"
        for modality, passing in self.quality.items():
            if facts["quality"].get(modality) not in passing:
                return f"quality of {modality} is {facts['quality'].get(modality)}"
        for name, least in self.min_scores.items():
            score = facts["scores"].get(name)
            if not isinstance(score, int | float) or score < least:
                return f"{name} is {score}, below {least}"
        return None


@dataclass(frozen=True, slots=True)
class Found:
    """One packet of a place.

    Attributes:
        path: the file.
        split, group: as a selection file says, None where none does.
    """

    path: Path
    split: Split | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where packets are.

    Attributes:
        folder: that keeps their index.
        packets: in their order: a selection's own, or by name.
        label: what statistics of them are named after: a selection's name, "packets" for a folder.
        absent: packets that a selection names and that are not there.
    """

    folder: Path
    packets: tuple[Found, ...]
    label: str = "packets"
    absent: tuple[str, ...] = ()


def find_place(where: Path | str) -> Place:
    """The packets at `where`.

    That is a folder (an output directory of `cuepack extract`, or any with .h5 files), a selection file in such a
    directory, or one packet.

    Raises:
        ConfigError: nothing is at `where`, the folder or selection is empty, or a selection was changed by hand, names
            an episode twice, or has an episode in both splits.
    """
    path = Path(where).absolute()
    if path.is_dir():
        folder = path / "packets" if (path / "packets").is_dir() else path
        hidden = len(folder.parts)
        found = (p for p in folder.rglob("*.h5") if not any(part.startswith(".") for part in p.parts[hidden:]))
        packets = tuple(Found(p) for p in sorted(found))
        if not packets:
            raise ConfigError(f"{path} has no packets (*.h5); name an output directory of `cuepack extract`")
        return Place(path, packets)
    if not path.exists():
        raise ConfigError(f"nothing is at {path}; name a directory of packets, a selection file, or a packet")
    if path.suffix == ".h5":
        return Place(path.parent, (Found(path),))
    return _selected(path)


def selected_packets(path: Path) -> list[str]:
    """Paths of the packets that a selection file names, relative to its folder."""
    return [row["packet"] for row in _rows(path) if row.get("packet")]


def selected_splits(path: Path) -> dict[str, Split]:
    """Episode id -> split of a selection file; episodes without one are left out."""
    return {row["episode_id"]: split for row in _rows(path) if (split := _split(row))}


def split_sides(found: Sequence[Found], entries: Sequence[Entry], choice: Choice) -> list[Split]:
    """The side of each packet: as its selection says, else drawn from its episode's name, as `cuepack select` draws."""
    groups = [f.group or entry.facts["group"] for f, entry in zip(found, entries, strict=True)]
    val = drawn_val(
        {group for f, group in zip(found, groups, strict=True) if f.split is None}, choice.val_share, choice.seed
    )
    return [f.split or ("val" if group in val else "train") for f, group in zip(found, groups, strict=True)]


def drawn_val(groups: set[str], val_share: float, seed: int) -> set[str]:
    """The groups that go to "val", each by its own name; where chance gives one side nothing, the nearest crosses."""
    draws = {group: _draw(seed, group) for group in groups}
    val = {group for group, draw in draws.items() if draw < val_share * 2**256}
    if len(draws) > 1 and 0 < val_share < 1:
        if not val:
            val = {min(draws, key=draws.__getitem__)}
        elif len(val) == len(draws):
            val.remove(max(draws, key=draws.__getitem__))
    return val


def _draw(seed: int, group: str) -> int:
    return int.from_bytes(hashlib.sha256(f"split:{seed}:{group}".encode()).digest(), "big")


def _selected(path: Path) -> Place:
    rows = _rows(path)
    if not rows:
        raise ConfigError(f"selection {path} is empty; `cuepack select` writes one with episodes")
    ids = [row["episode_id"] for row in rows]
    if twice := [name for name, count in Counter(ids).items() if count > 1]:
        raise ConfigError(f"selection {path} names {twice[0]} more than once; keep one row per episode")
    sides: dict[str, str] = {}
    for row in rows:
        group, split = row.get("source_id") or row["episode_id"], row.get("split") or ""
        if split not in ("train", "val", ""):
            raise ConfigError(f"selection {path}: {row['episode_id']}: a split is train or val, got {split!r}")
        if sides.setdefault(group, split) != split:
            raise ConfigError(f"selection {path} has the episode {group} in both splits; keep its cameras on one side")
    by_name = {} if all(row.get("packet") for row in rows) else {p.stem: p for p in path.parent.rglob("*.h5")}
    packets, absent = [], []
    for row in rows:
        packet = path.parent / row["packet"] if row.get("packet") else by_name.get(row["episode_id"])
        if packet is None or not packet.is_file():
            absent.append(row["episode_id"])
            continue
        packets.append(Found(packet, _split(row), row.get("source_id") or row["episode_id"]))
    return Place(path.parent, tuple(packets), path.stem, tuple(absent))


def _split(row: Mapping[str, Any]) -> Split | None:
    return {"train": "train", "val": "val"}.get(row.get("split") or "")  # type: ignore[return-value]


def _rows(path: Path) -> Sequence[dict[str, str]]:
    """Rows of a csv file; where `cuepack select` wrote it, its first line holds the sha256 of the rest."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"selection {path} cannot be read: {error}") from error
    if text.startswith(_HASH_LINE):
        line, _, body = content.partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != line.removeprefix(_HASH_LINE.encode()).strip():
            raise ConfigError(f"selection {path} was changed after `cuepack select` wrote it; select again")
        text = body.decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if rows and not rows[0].get("episode_id"):
        raise ConfigError(f"selection {path}: wanted a column episode_id, got {list(rows[0])}")
    return rows
