"""What an export to LeRobot will hold: decided by looking at every packet, before anything is written.

What all packets have becomes a feature (features.py says which); what only some have is an error that names them,
unless it is left out by name. Packets that differ in frame rate, shapes or units are refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from extractors.errors import ConfigError, PacketError
from packers.export.lerobot.features import LEROBOTS_OWN, Feature, camera_name, feature_of, is_per_frame
from packers.reader import Packet
from packers.schema import dataset_spec, is_observed

STOCK = ("pixels", "action", "state", "gripper", "contact", "phase", "timestamp")
"""What a data set has that stock LeRobot trains on, edits and merges: images of three channels, vectors and numbers
without NaN. Masks and depth would count among a policy's cameras; its editing tools refuse statistics of one channel,
arrays of two dimensions and NaN."""

TOLERANCE_S = 1e-4
"""LeRobot's own, between a timestamp and i / fps."""

_SIDES = {"train": 0, "val": 1}

_NAMED = 3  # packets that a message names


@dataclass(frozen=True, slots=True)
class ExportedEpisode:
    """One packet to be exported.

    Attributes:
        path, episode_id: the packet and its name.
        n_frames: frames that are exported; fewer than the packet has where its end is trimmed.
        task: its instruction.
    """

    path: Path
    episode_id: str
    n_frames: int
    task: str


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What will be written.

    Attributes:
        episodes: in their order.
        features: LeRobot's own columns apart.
        fps: frames per second, of all packets.
        left_out: datasets that were left out by name.
        splits: split -> episodes of the split, which follow each other; empty where no split was given.
        notes: what a user should know before training on it, as sentences.
    """

    episodes: tuple[ExportedEpisode, ...]
    features: tuple[Feature, ...]
    fps: float
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    splits: Mapping[str, int] = field(default_factory=dict)


def plan_lerobot(
    packets: Sequence[Path],
    *,
    only: Sequence[str] | None = None,
    splits: Mapping[Path, str] | None = None,
    ids: Mapping[Path, str] | None = None,
    without: Sequence[str] = (),
    pixels: Literal["video", "png"] = "video",
    trim: bool = False,
    done: Callable[[Path], None] = lambda path: None,
) -> ExportPlan:
    """Looks at every packet and decides what is exported; reads no pictures.

    Args:
        packets: in the order of the episodes.
        only: datasets or groups of them to export, and nothing else; what no packet has is passed over if it is in
            `STOCK`. None takes all.
        splits: packet -> "train" or "val"; episodes of "train" come first.
        ids: packet -> its episode's name, where it is not the packet's own.
        without: datasets to leave out, or groups of them such as `tracks/foreground`; `centroids` takes its
            `centroids_valid` and `centroids_sigma` along.
        pixels: "video" for H.264, which loses a little, "png" for images in the data files, which loses nothing.
        trim: leave out the frames at an episode's end that have no action.
        done: called with each packet that was looked at.

    Raises:
        ConfigError: `without` names something that no packet has, or `pixels`.
        PacketError: a packet is damaged, lacks what others have, or differs from the first in frame rate, or in a
            dataset's shape, unit or names.
    """
    if not packets:
        raise PacketError("wanted at least one packet to export, got none")
    survey = _Survey(tuple(without), trim, None if only is None else tuple(only), ids or {})
    sides = dict(splits or {})
    # LeRobot names a split by a range of episode numbers, so each side's packets must follow each other.
    packets = sorted(packets, key=lambda path: _SIDES.get(sides.get(path, ""), len(_SIDES)))
    for path in packets:
        with Packet(path) as packet:
            survey.add(packet)
        done(path)
    survey.check_names()
    datasets = survey.shared()
    camera = camera_name(survey.cameras[0]) if len(survey.cameras) == 1 else "camera"
    found = [feature_of(name, *survey.rows[name][:2], camera, pixels) for name in datasets]
    height, width = next(feature.shape[:2] for feature in found if feature.dataset == "pixels")
    if pixels == "video" and (height % 2 or width % 2):
        raise PacketError(f"frames of {height} x {width}: H.264 video wants even sides; export with --pixels png")
    return ExportPlan(
        episodes=tuple(survey.episodes),
        features=tuple(sorted(found, key=_feature_order)),
        fps=survey.fps,
        left_out=tuple(sorted(survey.left_out)),
        notes=tuple(survey.notes(camera)),
        splits=_split_counts(packets, sides),
    )


def _split_counts(packets: Sequence[Path], sides: Mapping[Path, str]) -> dict[str, int]:
    found = [sides.get(path) for path in packets]
    if not any(found):
        return {}
    lacks = [path.name for path, side in zip(packets, found, strict=True) if side is None]
    if lacks:
        raise ConfigError(f"{lacks[0]} is in no split ({len(lacks)} are not), others are; select again")
    return {side: found.count(side) for side in _SIDES if side in found}


@dataclass(slots=True)
class _Survey:
    """What the packets have in common, and what not."""

    without: tuple[str, ...]
    trim: bool
    only: tuple[str, ...] | None = None
    ids: Mapping[Path, str] = field(default_factory=dict)
    episodes: list[ExportedEpisode] = field(default_factory=list)
    # dataset -> shape of a row, attributes, name of the packet that had it first
    rows: dict[str, tuple[tuple[int, ...], dict[str, Any], str]] = field(default_factory=dict)
    holders: dict[frozenset[str], list[str]] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    cameras: list[str] = field(default_factory=list)
    fps: float = 0.0
    irregular: list[str] = field(default_factory=list)
    largest_offset_s: float = 0.0
    actionless: int = 0
    trimmed: int = 0
    loose: set[str] = field(default_factory=set)
    unobserved: set[str] = field(default_factory=set)

    def add(self, packet: Packet) -> None:
        """Takes in one packet."""
        attributes, name = packet.attributes, packet.path.name
        fps = float(attributes["fps"])
        if not self.episodes:
            self.fps = fps
        if not np.isfinite(fps) or fps <= 0 or abs(fps / self.fps - 1) > 1e-6:
            first = self.episodes[0].path.name if self.episodes else name
            raise PacketError(
                f"{name}: wanted {self.fps:g} frames per second as in {first}, got {fps:g}; LeRobot has one rate for "
                "all; export them apart with --selection"
            )
        present = {dataset for dataset in packet.modalities if dataset not in LEROBOTS_OWN}
        loose = {dataset for dataset in present if _is_loose(dataset)}
        self.loose |= loose
        present -= loose
        if self.only is not None:
            self.datasets |= present
            words = (*self.only, *self.without)
            present = {dataset for dataset in present if any(_covers(word, dataset) for word in words)}
        named = {dataset for dataset in present if any(_covers(word, dataset) for word in self.without)}
        self.left_out |= named
        for dataset in sorted(present - named):
            self._compare(packet, dataset)
        self.holders.setdefault(frozenset(present - named), []).append(name)
        camera = str(attributes["source"].get("camera") or "")
        if camera not in self.cameras:
            self.cameras.append(camera)
        kept = self._kept(packet, "action" in present - named)
        self._compare_times(packet, kept)
        self.episodes.append(
            ExportedEpisode(
                packet.path,
                self.ids.get(packet.path, str(attributes["episode_id"])),
                kept,
                str(attributes.get("language_instruction", "")),
            )
        )

    def check_names(self) -> None:
        """Refuses a name to leave out that no packet has."""
        if "pixels" in self.left_out:
            raise ConfigError("--without pixels: a LeRobot data set of packets has their pixels")
        for word in self.only or ():
            if word not in STOCK and not any(_covers(word, dataset) for dataset in self.datasets):
                near = difflib.get_close_matches(word, self.datasets, 1)
                hint = f"did you mean {near[0]}?" if near else f"they have {', '.join(sorted(self.datasets))}"
                raise ConfigError(f"--with {word}: no packet has it; {hint}")
        names = sorted(self.left_out | set(self.rows) | self.datasets)
        for word in self.without:
            if not any(_covers(word, dataset) for dataset in self.left_out):
                near = difflib.get_close_matches(word, names, 1)
                hint = f"did you mean {near[0]}?" if near else f"they have {', '.join(names)}"
                raise ConfigError(f"--without {word}: no packet has it; {hint}")

    def shared(self) -> list[str]:
        """The datasets that every packet has.

        Raises:
            PacketError: some packets lack what others have.
        """
        every = frozenset.intersection(*self.holders)
        unlike = set(self.rows) - every
        self.unobserved = {dataset for dataset in unlike if is_observed(dataset)}
        partial = sorted(unlike - self.unobserved)
        if not partial:
            return sorted(every)
        lacking: dict[str, list[str]] = {}
        for dataset in partial:
            without = [name for has, names in self.holders.items() if dataset not in has for name in names]
            lacking.setdefault(_group(dataset), without)
        words = [
            f"{group} ({len(names)}: {', '.join(names[:_NAMED])}{', ...' * (len(names) > _NAMED)})"
            for group, names in lacking.items()
        ]
        flags = " ".join(f"--without {group}" for group in lacking)
        raise PacketError(
            f"not all of {len(self.episodes)} packets have {'; '.join(words)}; leave that out with {flags}, leave the "
            "packets out with --selection, or extract them again"
        )

    def notes(self, camera: str) -> Iterator[str]:
        """What is unlike in the packet and in the export."""
        if len(self.cameras) > 1:
            yield (
                f"the packets show {len(self.cameras)} cameras ({', '.join(self.cameras[:_NAMED])}...): all are in "
                f"observation.images.{camera}; meta/cuepack.parquet says which is which"
            )
        if self.unobserved:
            names = ", ".join(sorted({_group(dataset) for dataset in self.unobserved}))
            yield f"left out, as not every clip shows enough to tell them: {names}"
        if self.loose:
            yield f"left out, as their points differ from clip to clip: {', '.join(sorted(self.loose))}"
        if self.irregular:
            yield (
                f"the times of {len(self.irregular)} of {len(self.episodes)} packets differ from frame / {self.fps:g} "
                f"by up to {self.largest_offset_s:.4f} s ({', '.join(self.irregular[:_NAMED])}): LeRobot's timestamp "
                "is frame / fps, cuepack.timestamp has the recorded times"
            )
        if self.trimmed:
            yield f"{self.trimmed} frames without an action at the ends of episodes are left out (--trim)"
        if self.actionless:
            yield (
                f"{self.actionless} frames have no action: their rows are NaN, cuepack.action_valid is false, and a "
                "policy trained on them learns NaN"
                + ("" if self.trim else "; --trim leaves out those at the ends of episodes")
            )

    def _compare(self, packet: Packet, dataset: str) -> None:
        shape, attributes = packet.shape(dataset), packet.dataset_attributes(dataset)
        row = shape[1:] if is_per_frame(dataset) else shape
        if is_per_frame(dataset) and shape[0] != packet.n_frames:
            raise PacketError(f"{packet.path.name}: wanted {packet.n_frames} rows of {dataset}, got {shape[0]}")
        first = self.rows.setdefault(dataset, (row, attributes, packet.path.name))
        spec = dataset_spec(dataset)
        # Values have other names in every clip, as things do; columns must not.
        alike = ("units", "convention", *(() if spec is not None and spec.names_values else ("names",)))
        for what, expected, got in (
            ("rows", first[0], row),
            *((word, first[1].get(word), attributes.get(word)) for word in alike),
        ):
            if expected != got:
                raise PacketError(
                    f"{packet.path.name}: wanted {dataset} with {what} {expected} as in {first[2]}, got {got}; leave "
                    f"it out with --without {_group(dataset)}, or export them apart with --selection"
                )

    def _kept(self, packet: Packet, has_action: bool) -> int:
        """Frames that are exported."""
        n_frames = packet.n_frames
        if not has_action:
            return n_frames
        valid = np.isfinite(packet.read("action")).all(axis=1)
        kept = int(np.flatnonzero(valid)[-1]) + 1 if self.trim and valid.any() else n_frames
        self.trimmed += n_frames - kept
        self.actionless += int((~valid[:kept]).sum())
        return kept

    def _compare_times(self, packet: Packet, kept: int) -> None:
        times = packet.read("timestamp")[:kept]
        offset = float(np.abs(times - np.arange(kept) / self.fps).max())
        if offset > TOLERANCE_S:
            self.irregular.append(packet.path.name)
            self.largest_offset_s = max(self.largest_offset_s, offset)


def _is_loose(dataset: str) -> bool:
    """Whether it has neither a row a frame nor one size: points of an object, as many as were tracked."""
    spec = dataset_spec(dataset)
    return spec is not None and isinstance(spec.dims[0], str) and spec.dims[0] in ("M", "P")


def _covers(word: str, dataset: str) -> bool:
    """Whether leaving `word` out leaves `dataset` out: itself, what is below it, and what belongs to it."""
    return dataset == word or dataset.startswith(f"{word}/") or dataset in (f"{word}_valid", f"{word}_sigma")


def _group(dataset: str) -> str:
    """The word that leaves `dataset` out with what cannot be without it."""
    if dataset.startswith("tracks/"):
        return dataset.rsplit("/", 1)[0]
    return dataset.removesuffix("_valid").removesuffix("_sigma")


def _feature_order(feature: Feature) -> tuple[int, str]:
    first = {"pixels": 0, "state": 1, "action": 2}
    return first.get(feature.dataset, 3), feature.key
