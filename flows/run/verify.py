"""A packet against its source: every frame read again, and compared with what the packet recorded and shows.

Frames of a video are read twice: as `extract` reads them, and counted from the file's start (`Source.reread`). A fault
in how the reader finds frames would else be made again here, and agree with itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError, EpisodeError, PacketError, UnknownCameraError
from extractors.geometry import resize_rgb
from extractors.types import Episode
from flows.config import load_config
from flows.output.directory import OutputDirectory
from flows.output.run_record import read_run
from flows.sources.base import EpisodeInfo, Source, safe_id
from flows.sources.detect import open_source
from flows.stages.source import frame_digest
from packers.finding import Finding
from packers.reader import Packet

_ROWS = ("action", "state", "gripper", "timestamp")

_ROUNDING = 2
"""Grey levels by which another version of the resizing code may differ; a frame shift or swap differs by far more."""

_MOST_SHIFT = 30
"""Frames of shift that are looked for: a second of video at 30 fps."""

_AGREE = 0.8
"""Share of frames that must agree after a shift or a swap for it to be named as the cause."""


@dataclass(slots=True)
class _Reading:
    """One pass over a source clip: a digest per frame, as decoded and at packet size; and the packet's own."""

    decoded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    rounding: set[int] = field(default_factory=set)
    """Frames whose packet pixels differ from the source's by rounding only."""


class Verifier:
    """Checks packets against one source, whose list of episodes is read once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._infos = {info.episode_id: info for info in source.episodes()}

    def verify(self, path: Path) -> list[Finding]:
        """Where the packet `path` differs from its source, [] where nowhere. A bad packet or episode is a finding."""
        try:
            with Packet(path) as packet:
                return self._verify(packet)
        except PacketError as error:
            return [Finding(str(path), None, None, str(error).removeprefix(f"{path}: "))]

    def _verify(self, packet: Packet) -> list[Finding]:
        name = str(packet.path)
        attributes = packet.attributes
        record = attributes["source"]
        info = self._info(attributes["episode_id"], record)
        if info is None:
            reason = f"the source has no episode {attributes['episode_id']}; name another with --source"
            return [Finding(name, None, None, reason)]
        try:
            episode = self.source.open(info, record.get("camera"))
            reading = _read(episode, packet)
            counted = self.source.reread(episode)
            in_order = None if counted is None else [frame_digest(frame) for frame in counted]
        except (EpisodeError, UnknownCameraError) as error:
            return [Finding(name, None, None, f"the source cannot be read again: {error}")]
        findings = [Finding(name, "/", *found) for found in self._decoded_faults(record, reading, info)]
        findings += [Finding(name, "/", *found) for found in _count_faults(record, in_order)]
        findings += [Finding(name, "pixels", *found) for found in self._shown_faults(record, reading, info, packet)]
        for dataset in _ROWS:
            findings += [Finding(name, dataset, *found) for found in _row_faults(dataset, packet, episode)]
        return findings

    def _info(self, episode_id: str, record: dict[str, Any]) -> EpisodeInfo | None:
        """The source's entry for a packet, whose id may have the camera appended."""
        found = self._infos.get(episode_id)
        camera = str(record.get("camera") or "")
        # Extracting with --camera appends the camera to the id, by the name asked for: the recorded one, or an alias.
        if found is None and "-" in episode_id:
            ends = [f"-{safe_id(camera)}"] if camera else []
            ends.append(episode_id[episode_id.rindex("-") :])
            found = next((self._infos[i] for i in (episode_id.removesuffix(e) for e in ends) if i in self._infos), None)
        return found

    def _decoded_faults(
        self, record: dict[str, Any], reading: _Reading, info: EpisodeInfo
    ) -> Iterator[tuple[int | None, str]]:
        """Source frames whose hash is not the recorded one."""
        recorded = list(record["frame_sha256"])
        if recorded == reading.decoded:
            return
        if len(recorded) != len(reading.decoded):
            yield None, f"the source now has {len(reading.decoded)} frames, {len(recorded)} were recorded"
        wrong = _differing(recorded, reading.decoded)
        if not wrong:
            return
        # A shift is looked for before another camera, which costs decoding every other view.
        cause = _order_fault(recorded, reading.decoded)
        if cause is None:
            other = self._camera_with(recorded, [], info, record)
            cause = None if other is None else f"what was recorded are frames of camera '{other}'"
        cause = cause or "the source's content changed since"
        yield wrong[0], f"sha256 of the source's frame is not the recorded one ({_many(wrong, recorded)}): {cause}"

    def _shown_faults(
        self, record: dict[str, Any], reading: _Reading, info: EpisodeInfo, packet: Packet
    ) -> Iterator[tuple[int | None, str]]:
        """Packet frames that do not show the source's frame of the same number."""
        shown, resized = reading.shown, reading.resized
        wrong = [t for t in _differing(shown, resized) if t not in reading.rounding]
        if not wrong:
            return
        cause = _order_fault(shown, resized)
        if cause is None:
            other = self._camera_with([], shown, info, record, packet.size)
            cause = None if other is None else f"they show camera '{other}' instead of '{record.get('camera')}'"
        cause = cause or "they show something else"
        yield wrong[0], f"frames are not the source's ({_many(wrong, shown)}): {cause}"

    def _camera_with(
        self,
        decoded: Sequence[str],
        resized: Sequence[str],
        info: EpisodeInfo,
        record: dict[str, Any],
        size: tuple[int, int] | None = None,
    ) -> str | None:
        """The other camera whose frames have these digests, as decoded or at packet size."""
        for camera in info.cameras:
            if camera == record.get("camera"):
                continue
            try:
                frames = list(_digests(self.source.open(info, camera), size))
            except (EpisodeError, UnknownCameraError):
                continue
            digests, found = (resized, [small for _, small in frames]) if size else (decoded, [d for d, _ in frames])
            if _agreement(digests, found) >= _AGREE:
                return camera
        return None


def verified_source(directory: OutputDirectory, override: str | None) -> Source:
    """The source that the packets of an output directory were made from, or the one named.

    Raises:
        ConfigError: `directory` has no run.json and no source is named.
        SourceError: the source is not there.
    """
    kept = directory.root / "config.yaml"
    settings = load_config(kept).source if kept.exists() else None
    if override is not None:
        return open_source(override, settings)
    try:
        recorded = read_run(directory)["source"]
        return open_source(recorded["asked"] if ":" in recorded["asked"] else recorded["path"], settings)
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{directory.name_of(directory.root / 'run.json')} does not name the source; name it with --source"
        ) from error


def _count_faults(record: dict[str, Any], in_order: Sequence[str] | None) -> Iterator[tuple[int | None, str]]:
    """Recorded frames that are not the ones found by counting from the start of the video."""
    recorded = list(record["frame_sha256"])
    if in_order is None or len(recorded) != len(in_order):
        return
    wrong = _differing(recorded, in_order)
    if wrong:
        cause = _order_fault(recorded, in_order) or "other pictures"
        many = _many(wrong, recorded)
        yield wrong[0], f"counted from the start of the video, frames are not the recorded ones ({many}): {cause}"


def _read(episode: Episode, packet: Packet) -> _Reading:
    reading = _Reading()
    n_frames = packet.n_frames
    for t, frame in enumerate(episode.pixels):
        small = resize_rgb(frame, packet.size)
        reading.decoded.append(frame_digest(frame))
        reading.resized.append(frame_digest(small))
        if t >= n_frames:
            continue
        shown: NDArray[np.uint8] = packet.read("pixels", t, t + 1)[0]
        reading.shown.append(frame_digest(shown))
        if reading.shown[-1] != reading.resized[-1]:
            difference = np.abs(shown.astype(np.int16) - small)
            if difference.max() <= _ROUNDING:
                reading.rounding.add(t)
    for t in range(len(reading.shown), n_frames):
        reading.shown.append(frame_digest(packet.read("pixels", t, t + 1)[0]))
    return reading


def _digests(episode: Episode, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    for frame in episode.pixels:
        yield frame_digest(frame), frame_digest(resize_rgb(frame, size)) if size else ""


def _row_faults(name: str, packet: Packet, episode: Episode) -> Iterator[tuple[int | None, str]]:
    """Rows of proprioception that are not the source's."""
    given = getattr(episode, name)
    present = name in packet
    if given is None or not present:
        if (given is None) == present:
            yield None, f"the source {'has none' if present else 'has it, the packet does not'}"
        return
    in_packet, in_source = packet.read(name), np.asarray(given)
    if in_packet.shape[1:] != in_source.shape[1:]:
        yield None, f"shape {in_packet.shape} in the packet, {in_source.shape} in the source"
        return
    packet_rows, source_rows = ([_row_digest(row, in_packet.dtype) for row in rows] for rows in (in_packet, in_source))
    if len(packet_rows) != len(source_rows):
        yield None, f"{len(packet_rows)} rows in the packet, {len(source_rows)} in the source"
    wrong = _differing(packet_rows, source_rows)
    if wrong:
        cause = _order_fault(packet_rows, source_rows) or "other values"
        yield wrong[0], f"rows are not the source's ({_many(wrong, packet_rows)}): {cause}"


def _row_digest(row: NDArray[Any], dtype: np.dtype[Any]) -> str:
    # NaN has many bit patterns; all stand for "no value".
    row = np.nan_to_num(np.asarray(row, dtype), nan=np.finfo(dtype).max) + dtype.type(0)
    return hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest()


def _differing(digests: Sequence[str], source_digests: Sequence[str]) -> list[int]:
    return [t for t, (a, b) in enumerate(zip(digests, source_digests, strict=False)) if a != b]


def _order_fault(digests: Sequence[str], source_digests: Sequence[str]) -> str | None:
    """How `digests` came from `source_digests` by shifting or reordering, None where neither explains it."""
    now = _agreement(digests, source_digests)
    # Small shifts first: a clip that repeats itself agrees under several, and the first found is named.
    for size in range(1, min(_MOST_SHIFT, len(digests) - 1) + 1):
        for shift in (size, -size):
            a, b = (
                (digests[:-shift], source_digests[shift:]) if shift > 0 else (digests[-shift:], source_digests[:shift])
            )
            # More than now: frames that stand still agree under every shift, which explains nothing.
            if len(a) > 1 and _agreement(a, b) >= max(_AGREE, now + 1e-9):
                frames = "one frame" if size == 1 else f"{size} frames"
                return f"shifted by {frames}: frame t of the packet is frame t{shift:+d} of the source"
    place = {digest: t for t, digest in enumerate(source_digests)}
    places = [place[digest] for digest in digests if digest in place]
    if len(places) >= _AGREE * len(digests) and len(set(places)) > 1:
        repeated = len(places) - len(set(places)) - (len(source_digests) - len(set(source_digests)))
        if repeated > 0 and places == sorted(places):
            return f"{repeated} frames are repeats of others"
        return "the same frames in another order"
    return None


def _agreement(digests: Sequence[str], other_digests: Sequence[str]) -> float:
    """Share of positions with equal digests."""
    if not digests or not other_digests:
        return 0.0
    same = sum(a == b for a, b in zip(digests, other_digests, strict=False))
    # A shift may lose one frame at an end; a larger difference is missing content, and lowers the share.
    shorter, longer = sorted((len(digests), len(other_digests)))
    return same / (longer if longer - shorter > 1 else shorter)


def _many(wrong: Sequence[int], everything: Sequence[Any]) -> str:
    return f"{len(wrong)} of {len(everything)}"
