"""The index of a folder of packets: what each holds and where its rows are, kept in one file beside them.

Opening a packet through HDF5 to find its rows takes some ten milliseconds, once. The index keeps what was found, so
that a data loader over 100,000 packets starts in seconds and reads each window without HDF5. A packet whose size or
time of change differs from the index is looked at again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import OutputError, PacketError
from packers.atomic import written_whole
from packers.cores import usable_cpus
from packers.reader import Packet
from packers.training.files import OpenPacket, StoredArray

_log = logging.getLogger(__name__)

FOLDER = ".training"
"""Hidden folder in a directory of packets that holds its index."""

_MAGIC = b"CUEINDEX3\n".ljust(16, b"\0")
_DIGEST_BYTES = 32
_HEAD_AT = len(_MAGIC) + _DIGEST_BYTES + 8
_HEAD_WORDS = 7
_MANY = 64
"""Packets to look at from which on several processes share them; fewer take less time than the processes' start."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one dataset is stored, the same in many packets: its name, type, shape of a row, and filters."""

    name: str
    dtype: str
    row: tuple[int, ...]
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One packet in the index.

    Attributes:
        path: the file.
        size, mtime_ns: of the file when it was looked at.
        facts: `episode_id`, `group` (the same for all cameras of an episode), `source` (name of the data set),
            `n_frames`, `fps`, `language_instruction`, `tags`, `scores`, `quality` (modality -> status).
        kinds: datasets that are there, by name.
        layout: int64 words, see `_packed`.
    """

    path: Path
    size: int
    mtime_ns: int
    facts: dict[str, Any]
    kinds: dict[str, Kind]
    layout: NDArray[np.int64]

    @property
    def key(self) -> str:
        """The path as text, which is hashed and compared in a tenth of a path's time."""
        return str(self.path)

    def arrays(self) -> dict[str, StoredArray]:
        """Where the rows of each dataset are."""
        found = _Arrays(self, set())
        return {name: found[name] for name in self.kinds}

    def only(self, names: Iterable[str]) -> Entry:
        """The entry with the layouts of `names` alone, in memory: what a data loader's workers are sent."""
        chosen = set(names)
        found = _Arrays(self, set())
        arrays = [found[name] for name in self.kinds if name in chosen]
        kinds = {array.name: self.kinds[array.name] for array in arrays}
        facts = {name: self.facts[name] for name in ("episode_id", "source", "n_frames", "language_instruction")}
        return Entry(self.path, self.size, self.mtime_ns, facts, kinds, _packed(arrays))


def index_packets(
    paths: Sequence[Path],
    cache: Path | None,
    *,
    damaged: Literal["error", "skip"] = "error",
    processes: int | None = None,
    done: Callable[[int, int], None] = lambda looked, total: None,
) -> tuple[list[Entry], list[str]]:
    """What `paths` hold, from the index file `cache` where it is up to date.

    Args:
        paths: packets, in any order.
        cache: the index file, brought up to date; None keeps nothing.
        damaged: "error" raises at the first packet that cannot be read, "skip" leaves it out and says so.
        processes: that look at new packets side by side, by default one per core.
        done: called with how many new packets were looked at, of how many.

    Returns:
        The entries in the order of `paths`, and one sentence per packet that was left out.

    Raises:
        PacketError: a packet is missing, damaged, or of another schema.
        OutputError: the index cannot be written.
    """
    entries = _load(cache) if cache is not None else {}
    stamps = {path: _stamp(path) for path in paths}
    fresh = [path for path, stamp in stamps.items() if path not in entries or _stamp_of(entries[path]) != stamp]
    faults: list[str] = []
    for looked, found in enumerate(_looked_at(fresh, processes), 1):
        if isinstance(found, Entry):
            entries[found.path] = found
        elif damaged == "error":
            raise PacketError(found[1])
        else:
            entries.pop(found[0], None)
            faults.append(found[1])
        done(looked, len(fresh))
    if cache is not None and fresh:
        # Entries of packets outside `paths` stay: all selections of a folder share its index.
        _save(cache, entries.values())
    return [entries[path] for path in paths if path in entries], faults


class OpenPackets:
    """The packets that are open, at most `limit` of them: the last used ones stay.

    A copy in another process opens its own. One reader at a time: descriptors are closed when others are opened.

    Args:
        entries: the packets, numbered by their place.
        limit: files open at once.
    """

    def __init__(self, entries: Sequence[Entry], limit: int = 256) -> None:
        self._entries = entries
        self._limit = limit
        self._open: OrderedDict[int, OpenPacket] = OrderedDict()
        # Outlives the open file: a packet that is opened again is the same one, or refused.
        self._seen: dict[int, tuple[dict[str, bytearray], set[str]]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __getstate__(self) -> dict[str, Any]:
        return {"entries": self._entries, "limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["entries"], state["limit"])  # type: ignore[misc]

    def __getitem__(self, number: int) -> OpenPacket:
        """Packet `number`, opened if need be.

        Raises:
            PacketError: it is missing, or another file than the one that was indexed.
        """
        packet = self._open.get(number)
        if packet is not None:
            self._open.move_to_end(number)
            return packet
        while len(self._open) >= self._limit:
            os.close(self._open.popitem(last=False)[1].descriptor)
        verified, judged = self._seen.setdefault(number, ({}, set()))
        self._open[number] = opened = _opened(self._entries[number], verified, judged)
        return opened

    def close(self) -> None:
        """Closes all; what is used next is opened again."""
        for packet in self._open.values():
            os.close(packet.descriptor)
        self._open.clear()

    def __del__(self) -> None:
        self.close()


def _opened(entry: Entry, verified: dict[str, bytearray], judged: set[str]) -> OpenPacket:
    try:
        descriptor = os.open(entry.key, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise PacketError(f"{entry.path}: wanted a packet: {error.strerror or error}") from error
    stat = os.fstat(descriptor)
    if (stat.st_size, stat.st_mtime_ns) != _stamp_of(entry):
        os.close(descriptor)
        raise PacketError(
            f"{entry.path}: the packet was replaced after it was indexed; make the dataset again to use the new one"
        )
    return OpenPacket(entry.path, descriptor, _Arrays(entry, judged), verified)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise PacketError(f"{path}: wanted a packet: {error.strerror or error}") from error
    return stat.st_size, stat.st_mtime_ns


def _stamp_of(entry: Entry) -> tuple[int, int]:
    return entry.size, entry.mtime_ns


def _looked_at(paths: Sequence[Path], processes: int | None) -> Iterator[Entry | tuple[Path, str]]:
    count = min(processes or usable_cpus(), max(1, len(paths) // _MANY))
    if count == 1:
        yield from map(_look, paths)
        return
    # HDF5 holds one lock for all threads, and a forked copy of one that is in use cannot be trusted.
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_look, paths, chunksize=16)


def _look(path: Path) -> Entry | tuple[Path, str]:
    size, mtime_ns = _stamp(path)
    try:
        with Packet(path) as packet:
            root = packet.attributes
            arrays = [_stored_array(packet, name) for name in root["modalities"]]
            facts = _facts(root, next(array.length for array in arrays if array.name == "pixels"))
    except (PacketError, KeyError) as error:
        return path, f"{error}" if isinstance(error, PacketError) else f"{path}: damaged: {error}"
    kinds = {a.name: Kind(a.name, a.dtype.str, a.row, a.filters) for a in arrays}
    return Entry(path, size, mtime_ns, facts, kinds, _packed(arrays))


def _stored_array(packet: Packet, name: str) -> StoredArray:
    c = packet.chunks(name)
    addresses, sizes = np.asarray(c.addresses, np.int64), np.asarray(c.sizes, np.int64)
    return StoredArray(name, c.dtype, c.shape[1:], c.shape[0], c.rows, c.filters, addresses, sizes, c.code)


def _facts(root: dict[str, Any], n_frames: int) -> dict[str, Any]:
    source = root["source"]
    place = source.get("key", source.get("episode_index"))
    return {
        "episode_id": root["episode_id"],
        "group": json.dumps([source["dataset"], source["path"], place], sort_keys=True),
        "source": source["dataset"],
        "n_frames": n_frames,
        "fps": float(root["fps"]),
        "language_instruction": root["language_instruction"],
        "tags": root["tags"],
        "scores": root["scores"],
        "quality": {name: card.get("status") for name, card in root["quality"].items()},
    }


def _packed(arrays: Sequence[StoredArray]) -> NDArray[np.int64]:
    """Layouts as int64 words: where each array's begin, then the arrays'.

    Per array: its length, rows in a chunk, whether it is coded, the code's three float64 bit by bit, the number of
    chunks, their addresses, their sizes.
    """
    starts: list[int] = []
    parts: list[NDArray[np.int64]] = []
    at = len(arrays)
    for array in arrays:
        head = [array.length, array.chunk, array.code is not None]
        code = np.array(array.code or (0.0, 0.0, 0.0), np.float64).view(np.int64)
        parts += [np.array(head, np.int64), code, np.array([len(array.addresses)], np.int64)]
        parts += [array.addresses, array.sizes]
        starts.append(at)
        at += _HEAD_WORDS + 2 * len(array.addresses)
    return np.concatenate([np.array(starts, np.int64), *parts])


class _Arrays(dict[str, StoredArray]):
    """An entry's arrays, each unpacked when it is first asked for: a window needs few of them.

    Args:
        entry: of the index.
        judged: names of arrays that were found possible before, while the packet was open the last time.
    """

    def __init__(self, entry: Entry, judged: set[str]) -> None:
        super().__init__()
        self._entry = entry
        self._judged = judged

    def __missing__(self, name: str) -> StoredArray:
        entry = self._entry
        try:
            found = _unpacked(entry, name)
        except (IndexError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise _lies(entry, name, str(error)) from error
        if name not in self._judged:
            fault = found.fault(entry.size)
            if fault is None and name == "pixels" and found.length != entry.facts["n_frames"]:
                fault = f"{found.length} frames, and {entry.facts['n_frames']} in all"
            if fault is not None:
                raise _lies(entry, name, fault)
            self._judged.add(name)
        self[name] = found
        return found


def _unpacked(entry: Entry, name: str) -> StoredArray:
    words, kind = entry.layout, entry.kinds[name]
    at = int(words[list(entry.kinds).index(name)])
    head = words[at : at + _HEAD_WORDS].tolist() if at >= 0 else []
    length, chunk, coded, chunks = head[0], head[1], head[2], head[6]
    if not 0 <= chunks <= len(words):
        raise ValueError(f"{chunks} chunks")
    code = tuple(words[at + 3 : at + 6].view(np.float64).tolist()) if coded else None
    # As plain arrays: taking one number from a view of a mapped file costs ten times as much.
    places = np.asarray(words[at + _HEAD_WORDS : at + _HEAD_WORDS + 2 * chunks])
    return StoredArray(
        *(name, np.dtype(kind.dtype), kind.row, length, chunk, kind.filters, places[:chunks], places[chunks:], code)
    )


def _lies(entry: Entry, name: str, fault: str) -> PacketError:
    return PacketError(
        f"{entry.path}: the index says of {name} what cannot be ({fault}); remove the folder {FOLDER} beside the "
        "packets, and make the dataset again"
    )


def _save(cache: Path, entries: Iterable[Entry]) -> None:
    """Magic, length of the head, the head as JSON, all layouts; kinds, and sets of them, are listed once."""
    kinds: dict[Kind, int] = {}
    sets: dict[tuple[int, ...], int] = {}
    rows, layouts = [], []
    for entry in entries:
        numbers = tuple(kinds.setdefault(kind, len(kinds)) for kind in entry.kinds.values())
        where = sets.setdefault(numbers, len(sets))
        path = os.path.relpath(entry.path, cache.parent)
        rows.append([path, entry.size, entry.mtime_ns, entry.facts, where, len(entry.layout)])
        layouts.append(entry.layout)
    listed = [[kind.name, kind.dtype, kind.row, kind.filters] for kind in kinds]
    head = json.dumps({"kinds": listed, "sets": list(sets), "packets": rows}).encode()
    head += b" " * (-len(head) % 8)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(cache) as temporary, temporary.open("wb") as file:
            parts = [len(head).to_bytes(8, "little") + head, *(layout.astype("<i8").tobytes() for layout in layouts)]
            digest = hashlib.sha256()
            for part in parts:
                digest.update(part)
            file.write(_MAGIC + digest.digest())
            file.writelines(parts)
    except OSError as error:
        raise OutputError(
            f"the index {cache} cannot be written ({error.strerror or error}); name a folder for it with cache=..."
        ) from error


def _load(cache: Path) -> dict[Path, Entry]:
    """The entries of an index file; none where it is missing or not as it was written, so that it is made again."""
    try:
        with cache.open("rb") as file:
            start = file.read(_HEAD_AT)
            length = int.from_bytes(start[-8:], "little")
            if not start.startswith(_MAGIC) or length > cache.stat().st_size - _HEAD_AT:
                return {}
            digest = hashlib.sha256(start[-8:])
            stored = json.loads(_hashed(file.read(length), digest))
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.digest() != start[len(_MAGIC) : -8]:
            _log.warning("%s is damaged and is made again", cache)
            return {}
        # Mapped, not read: the layouts of packets that are never opened stay on the disk, shared by all workers.
        words = np.memmap(cache, "<i8", "r", offset=_HEAD_AT + length) if stored["packets"] else np.zeros(0, "<i8")
        return _entries(stored, words, cache.parent)
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError):
        return {}


def _hashed(data: bytes, digest: Any) -> bytes:
    digest.update(data)
    return data


def _entries(stored: dict[str, Any], words: NDArray[np.int64], folder: Path) -> dict[Path, Entry]:
    kinds = [Kind(name, dtype, tuple(row), tuple(filters)) for name, dtype, row, filters in stored["kinds"]]
    sets = [{kinds[number].name: kinds[number] for number in numbers} for numbers in stored["sets"]]
    entries: dict[Path, Entry] = {}
    at = 0
    for path, size, mtime_ns, facts, where, length in stored["packets"]:
        found = Path(os.path.normpath(folder / path))
        if not 0 < facts["n_frames"] <= size or not isinstance(facts["n_frames"], int):
            raise ValueError("a packet's number of frames")
        entries[found] = Entry(found, size, mtime_ns, facts, sets[where], words[at : at + length])
        at += length
    return entries if at == len(words) else {}
