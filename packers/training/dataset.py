"""`PacketDataset`: windows of packets with any targets, for torch's DataLoader or plain Python."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError, PacketError
from packers.training.files import OpenPacket, RowReader, Verify
from packers.training.index import FOLDER, Entry, OpenPackets, index_packets
from packers.training.prepared import PreparedTarget
from packers.training.remote import fetched, is_uri
from packers.training.selection import Choice, Found, Place, find_place, split_sides
from packers.training.statistics import ColumnStatistics, Normalise, kept_statistics
from packers.training.targets import Sizes, Stored, Target, Values
from packers.training.views import PacketView
from packers.training.windows import MOVES, Window, WindowTable

_log = logging.getLogger(__name__)

Where = Path | str | Sequence[Path | str]

_ROWS_BYTES = 1500
"""What the six arrays of a clip's rows take beside their values."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How packets are read.

    Attributes:
        damaged: what a packet does that is damaged, gone, or was replaced since it was indexed: "error" raises,
            "skip" gives None for its windows, which collating leaves out and counts (`batch["skipped"]`), and warns.
        verify: checksums of frames: "once" a frame and process, "always", or "never"; all else is always verified.
        open_files: at once, in each process.
        cache_bytes: decoded rows (actions, tracks) that are kept in each process.
        cache: folder for the index, the statistics and what is fetched from URIs; by default beside the packets.
        prepare: compute depth and mask targets of all frames once and keep them (25 kB a frame at 56 x 56, where the
            pixels have 151): inflating the maps takes longer than all else that a window needs.
        processes: that index and prepare packets; one per core by default.
    """

    damaged: Literal["error", "skip"] = "error"
    verify: Verify = "once"
    open_files: int = 256
    cache_bytes: int = 64 << 20
    cache: Path | None = None
    prepare: bool = False
    processes: int | None = None

    def __post_init__(self) -> None:
        if self.damaged not in ("error", "skip") or self.verify not in ("once", "always", "never"):
            raise ConfigError(
                f"damaged is 'error' or 'skip', verify 'once', 'always' or 'never'; got {self.damaged}, {self.verify}"
            )
        if self.open_files < 1:
            raise ConfigError(f"wanted at least 1 open file, got {self.open_files}")


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Actions (T, A) and states (T, S) of a clip, normalised and filled, with what is valid."""

    action: NDArray[np.float32]
    action_valid: NDArray[np.bool_]
    action_dims: NDArray[np.bool_]
    state: NDArray[np.float32]
    state_valid: NDArray[np.bool_]
    state_dims: NDArray[np.bool_]


class PacketDataset:
    """Windows of packets: pixels, actions, states and targets, numbered from 0.

    It has what torch's DataLoader asks of a dataset and needs no torch. A sample is a dict of NumPy arrays, with n
    frames, A and S the widest action and state of all packets:

    - `pixels` (n, H, W, 3) uint8 RGB;
    - `action` (n, frameskip, A) float32, the actions from each frame on, 0 where there is none, and `action_valid`
      (n, frameskip) bool; `.reshape(n, -1)` is what LeWorldModel takes;
    - `action_dims` (A,) bool: which columns the packet has, where others are wider;
    - `state` (n, S) float32 with `state_valid` (n,) and `state_dims` (S,), if any packet has a state;
    - `frame_valid` (n,) bool, False for frames repeated beyond the clip's end (`Window(ends="pad")`);
    - `packet` () int64, the place of the packet in `entries`, and `start` () int64, the first frame's row;
    - what the targets give.

    Samples depend on the packets, the window and the choice alone: other targets change no pixel and no action, and
    neither does the number of workers. Copies in other processes, forked or spawned, open files of their own. In one
    process, one thread at a time.

    Args:
        where: a folder of packets, a selection file, a packet, a URI of one of these, or a list of them.
        window: the frames of a sample.
        targets: what heads are trained on, or names of datasets, taken as they are stored.
        choose: which packets take part; a bare "train" or "val" is that split.
        normalise: actions and states by statistics of their source over the training split, over all packets without a
            split: "standard", "range" (1st and 99th percentile to -1 and 1), or "none".
        reading: how packets are read.

    Raises:
        ConfigError: nothing is there, the choice leaves no packet, every clip is shorter than a window, no packet has
            what a target needs, or frames differ in size.
        PacketError: a packet is missing, damaged, or of another schema.
    """

    def __init__(
        self,
        where: Where,
        window: Window | None = None,
        targets: Sequence[Target | str] = (),
        choose: Choice | Literal["train", "val"] | None = None,
        *,
        normalise: Normalise = "none",
        reading: Reading | None = None,
    ) -> None:
        self.window = window or Window()
        self.targets = tuple(Stored(target) if isinstance(target, str) else target for target in targets)
        self.choice = choose if isinstance(choose, Choice) else Choice(split=choose)
        self.reading = reading or Reading()
        self.normalise: Normalise = normalise
        if normalise not in ("none", "standard", "range"):
            raise ConfigError(f"normalise is 'none', 'standard' or 'range', got {normalise!r}")
        places = [_place(part, self.reading.cache) for part in _parts(where)]
        found, entries, self.left_out = _indexed(places, self.reading, self.choice)
        taken, training = _chosen(found, entries, self.choice, self.left_out)
        names = {"pixels", "action", "action_valid", "state", *self.window.motion}
        names = names.union(*(target.needs for target in self.targets))
        # Only what samples read: these entries are sent to every worker.
        self.entries, lying = self._only(taken, names)
        taken = [entry for entry in taken if entry.path not in lying]
        self.sizes, self.action_width, self.state_width = _sizes(taken, self.window, self.targets)
        self.statistics = self._statistics(taken, [e for e in training if e.path not in lying], places)
        self._packets = OpenPackets(self.entries, self.reading.open_files)
        self._reader = RowReader(self.reading.verify, self.reading.cache_bytes)
        lengths = np.array([entry.facts["n_frames"] for entry in self.entries])
        if self.window.moving and not any(name in entry.kinds for entry in self.entries for name in self.window.motion):
            raise ConfigError(
                f"none of {len(self.entries)} packets says when something moves ({' or '.join(self.window.motion)}); "
                "extract them again with tracks, or take Window(moving=0)"
            )
        moves = [self._moves(clip) for clip in range(len(lengths))] if self.window.moving else None
        self.table = WindowTable(lengths, self.window, moves)
        if self.table.too_short:
            _log.warning(
                "%d of %d episodes are shorter than a window of %d frames and give none",
                *(self.table.too_short, len(self.entries), self.window.shortest),
            )
        given = {target: target.fields(self.sizes) for target in self.targets}
        self.fields = {key: field for fields in given.values() for key, field in fields.items()}
        self._keys = {target: tuple(fields) for target, fields in given.items()}
        if len(self.fields) < sum(map(len, given.values())) or len(given) < len(self.targets):
            raise ConfigError(f"two targets give the same key; name them apart with name=...: {sorted(self.fields)}")
        self._prepared: dict[Target, PreparedTarget] = {}
        if self.reading.prepare:
            folder = self.reading.cache or places[0].folder / FOLDER
            for target in filter(lambda target: target.per_frame, self.targets):
                prepared = PreparedTarget(folder, target, self.sizes, self.reading.open_files)
                prepared.prepare(self.entries, self.reading.processes)
                self._prepared[target] = prepared

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, number: int) -> Values | None:
        """Sample `number`; None where its packet cannot be read and `Reading(damaged="skip")`.

        Raises:
            IndexError: the number is not below the length.
            PacketError: the packet is damaged, gone, or was replaced.
        """
        if not -len(self) <= number < len(self):
            raise IndexError(f"wanted one of {len(self)} windows, got {number}")
        clip, start = self.table.place(int(number) % len(self))
        try:
            return self._sample(clip, start)
        except PacketError as error:
            if self.reading.damaged == "error":
                raise
            _log.warning("a window is skipped: %s", error)
            return None

    def __iter__(self) -> Iterator[Values | None]:
        return (self[number] for number in range(len(self)))

    @property
    def open_files(self) -> int:
        """Files that this process holds open now."""
        return len(self._packets)

    @property
    def fingerprint(self) -> str:
        """sha256 of what numbers the samples: packets, windows and split; a position is resumed only if equal."""
        # Without paths and times of change: a folder that was moved or copied numbers its samples the same way.
        digest = hashlib.sha256(repr((self.window, self.choice.split)).encode())
        for entry in self.entries:
            digest.update(repr((entry.facts["source"], entry.facts["episode_id"], entry.facts["n_frames"])).encode())
        return digest.hexdigest()

    def _only(self, taken: Sequence[Entry], names: set[str]) -> tuple[list[Entry], set[Path]]:
        """Entries with what samples read, and the packets of which the index says what cannot be."""
        entries, lying = [], set()
        for entry in taken:
            try:
                entries.append(entry.only(names))
            except PacketError as error:
                if self.reading.damaged == "error":
                    raise
                _log.warning("a packet is left out: %s", error)
                lying.add(entry.path)
        if lying:
            self.left_out["is not what the index says"] += len(lying)
        if not entries:
            raise ConfigError(f"the index says of all {len(lying)} packets what cannot be; remove {FOLDER} beside them")
        return entries, lying

    def read(self, clip: int, rows: Sequence[int]) -> Values:
        """Any rows of packet `clip` of `entries`: `pixels`, `state` with its masks, and the targets.

        Raises:
            PacketError: the packet is damaged, gone, or was replaced.
        """
        entry, packet, taken = self.entries[clip], self._packets[clip], list(rows)
        found: Values = {"pixels": self._reader.read(packet, "pixels", taken)}
        if self.state_width:
            clip_rows = self._rows(entry, packet)
            state = {"state": clip_rows.state[taken], "state_valid": clip_rows.state_valid[taken]}
            found |= state | {"state_dims": clip_rows.state_dims}
        if not self.targets:
            return found
        view = PacketView(packet, self._reader, taken, self.sizes.frame, self.statistics.get(entry.facts["source"], {}))
        for target in self.targets:
            present = all(name in entry.kinds for name in target.needs)
            prepared = self._prepared.get(target)
            if prepared is not None and present:
                found |= prepared.read(entry, taken)
            else:
                self._add_target(found, target, target.cut(view) if present else {}, len(taken))
        return found

    def actions(self, clip: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Actions (T, A) of packet `clip`, 0 where it has none, and which are valid (T,); not to be written into."""
        rows = self._rows(self.entries[clip], self._packets[clip])
        return rows.action, rows.action_valid

    def _moves(self, clip: int) -> NDArray[np.bool_]:
        """(T,) rows of packet `clip` in which the mover moves; none where it has no motion, or cannot be read."""
        entry = self.entries[clip]
        every = range(entry.facts["n_frames"])
        found = np.zeros(len(every), bool)
        there = [name for name in self.window.motion if name in entry.kinds]
        if not there:
            self.left_out[f"has no {' or '.join(self.window.motion)}"] += 1
        try:
            for name in there:
                # Not known is not moving.
                found |= np.nan_to_num(self._reader.read(self._packets[clip], name, every)) >= MOVES[name]
        except PacketError as error:
            if self.reading.damaged == "error":
                raise
            _log.warning("a packet gives no windows: %s", error)
            self.left_out["is damaged"] += 1
        return found

    def _sample(self, clip: int, start: int) -> Values:
        entry = self.entries[clip]
        rows, action_rows, inside = self.window.rows(start, entry.facts["n_frames"])
        sample = self.read(clip, rows.tolist())
        self._add_actions(sample, self._rows(entry, self._packets[clip]), action_rows, inside)
        sample["frame_valid"] = inside[:, 0]
        sample["packet"], sample["start"] = np.asarray(clip, np.int64), np.asarray(start, np.int64)
        return sample

    def _add_actions(self, sample: Values, rows: _Rows, taken: NDArray[np.int64], inside: NDArray[np.bool_]) -> None:
        # An index that is an array copies, so the kept rows of the clip stay as they are below.
        action, valid = rows.action[taken], rows.action_valid[taken]
        if self.window.ends == "pad" and not inside.all():
            valid &= inside
            action[~valid] = 0
        sample |= {"action": action, "action_valid": valid, "action_dims": rows.action_dims}

    def _rows(self, entry: Entry, packet: OpenPacket) -> _Rows:
        """Actions and states of a whole clip, kept as its next windows want them again."""
        kept: _Rows | None = self._reader.kept.get(entry.key)
        if kept is not None:
            return kept
        action = self._filled(entry, packet, "action", self.action_width)
        state = self._filled(entry, packet, "state", self.state_width)
        rows = _Rows(*action, *state)
        self._reader.kept.put(entry.key, rows, rows.action.nbytes + rows.state.nbytes + _ROWS_BYTES)
        return rows

    def _filled(
        self, entry: Entry, packet: OpenPacket, name: str, width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Normalised rows (T, width) with 0 where there is none, which are valid (T,), which columns the packet has."""
        every = range(entry.facts["n_frames"])
        filled = np.zeros((len(every), width), np.float32)
        valid, columns = np.zeros(len(every), bool), np.zeros(width, bool)
        if name not in entry.kinds:
            return filled, valid, columns
        values = self._reader.read(packet, name, every).astype(np.float32, copy=False)
        valid = np.asarray(np.isfinite(values).all(axis=1))
        if f"{name}_valid" in entry.kinds:
            valid &= self._reader.read(packet, f"{name}_valid", every)
        columns[: values.shape[1]] = True
        filled[valid, : values.shape[1]] = self._normalised(name, entry, values[valid])
        return filled, valid, columns

    def _add_target(self, sample: Values, target: Target, values: Values, n_frames: int) -> None:
        """What the target gives, filled up with zeros to the shape that it has in all packets."""
        fields = self.fields
        if n_frames != self.sizes.n_frames:
            fields = target.fields(replace(self.sizes, n_frames=n_frames))
        for key in self._keys[target]:
            shape, dtype = fields[key]
            found = values.get(key)
            if found is not None and found.shape == shape:
                sample[key] = found
                continue
            sample[key] = np.zeros(shape, dtype)
            if found is not None:
                sample[key][tuple(slice(side) for side in found.shape)] = found

    def _normalised(self, name: str, entry: Entry, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.normalise == "none":
            return values
        return self.statistics[entry.facts["source"]][name].normalised(values, self.normalise)

    def _statistics(
        self, taken: Sequence[Entry], training: Sequence[Entry], places: Sequence[Place]
    ) -> Mapping[str, Mapping[str, ColumnStatistics]]:
        names = {name for target in self.targets for name in target.standardises}
        if self.normalise != "none":
            names |= {"action", "state"}
        if not names:
            return {}
        folder = self.reading.cache or (places[0].folder / FOLDER)
        # Two selections of one folder have different training splits, so each keeps its statistics beside itself.
        beside = places[0].folder / f"{places[0].label}.statistics.json"
        file = beside if places[0].label != "packets" and self.reading.cache is None else folder / "statistics.json"
        statistics = kept_statistics(training, sorted(names), file)
        if lacks := {entry.facts["source"] for entry in taken} - statistics.keys():
            raise ConfigError(
                f"no packet of {min(lacks)} is in the training split, so that its statistics are missing; put some "
                "there, or leave the source out"
            )
        return statistics


def _parts(where: Where) -> list[Path | str]:
    parts = [where] if isinstance(where, str | Path) else list(where)
    if not parts:
        raise ConfigError("wanted a folder of packets, a selection file or a list of them, got an empty list")
    return parts


def _place(where: Path | str, cache: Path | None) -> Place:
    return find_place(fetched(str(where), cache) if is_uri(where) else where)


def _indexed(
    places: Sequence[Place], reading: Reading, choice: Choice
) -> tuple[list[Found], list[Entry], Counter[str]]:
    """All packets of all places with their entries, and how many were left out for which reason."""
    left_out: Counter[str] = Counter()
    found: dict[Path, Found] = {}
    entries: list[Entry] = []
    for folder in dict.fromkeys(place.folder for place in places):
        in_folder = [place for place in places if place.folder == folder]
        absent = [name for place in in_folder for name in place.absent]
        if absent and choice.absent == "error":
            raise ConfigError(
                f"{in_folder[0].label} names {len(absent)} absent packets (first: {absent[0]}); extract them, or "
                'leave them out with Choice(absent="skip")'
            )
        if absent:
            _log.warning("%d packets that a selection names are not there and are left out", len(absent))
            left_out["is not there"] += len(absent)
        packets = {Path(found.path): found for place in in_folder for found in place.packets}
        cache = reading.cache / f"index-{_short(folder)}" if reading.cache else folder / FOLDER / "index"
        indexed, faults = index_packets(list(packets), cache, damaged=reading.damaged, processes=reading.processes)
        for fault in faults:
            _log.warning("a packet is left out: %s", fault)
        left_out["is damaged"] += len(faults)
        entries += [entry for entry in indexed if entry.path not in found]
        found |= {entry.path: packets[entry.path] for entry in indexed if entry.path not in found}
    return list(found.values()), entries, +left_out


def _chosen(
    found: Sequence[Found], entries: Sequence[Entry], choice: Choice, left_out: Counter[str]
) -> tuple[list[Entry], list[Entry]]:
    """The packets that take part, and those that statistics are made of: the training split, or all where none is."""
    reasons = [choice.reason_against(entry) for entry in entries]
    left_out.update(reason for reason in reasons if reason)
    passing = [(f, entry) for f, entry, reason in zip(found, entries, reasons, strict=True) if reason is None]
    if not passing:
        said = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common(5))
        raise ConfigError(f"no packet is left of {sum(left_out.values())}: {said}")
    sides = split_sides([f for f, _ in passing], [entry for _, entry in passing], choice)
    taken = [entry for (_, entry), side in zip(passing, sides, strict=True) if choice.split in (None, side)]
    if not taken:
        raise ConfigError(f"none of {len(passing)} packets is in the split '{choice.split}'; change val_share")
    if choice.split is None:
        return taken, taken
    return taken, [entry for (_, entry), side in zip(passing, sides, strict=True) if side == "train"]


def _sizes(entries: Sequence[Entry], window: Window, targets: Sequence[Target]) -> tuple[Sizes, int, int]:
    rows: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for kinds in {id(entry.kinds): entry.kinds for entry in entries}.values():
        for kind in kinds.values():
            if len(kind.row) == len(rows.get(kind.name, kind.row)):
                largest = tuple(max(pair) for pair in zip(kind.row, rows.get(kind.name, kind.row), strict=True))
                rows[kind.name] = largest
            coded = kind.name.startswith("depth/") and kind.dtype.endswith("u2")
            dtypes[kind.name] = "<f4" if coded else kind.dtype
    frames = sorted({entry.kinds["pixels"].row for entry in entries})
    if len(frames) > 1:
        raise ConfigError(f"packets have frames of {frames}; extract them at one size, or make one dataset of each")
    for target in targets:
        if lacks := [name for name in target.needs if name not in rows]:
            raise ConfigError(f"none of {len(entries)} packets has {lacks[0]}; they have {sorted(rows)}")
        first = next(entry for entry in entries if set(target.needs) <= entry.kinds.keys())
        for name in target.needs:
            if first.only({name}).arrays()[name].length != first.facts["n_frames"]:
                raise ConfigError(f"{name} has no row for each frame, so it cannot be a target")
    width = {name: rows.get(name, (0,))[0] for name in ("action", "state")}
    height, across = frames[0][:2]
    return Sizes(window.frames, (height, across), rows, dtypes), width["action"], width["state"]


def _short(folder: Path) -> str:
    return hashlib.sha256(str(folder).encode()).hexdigest()[:16]
