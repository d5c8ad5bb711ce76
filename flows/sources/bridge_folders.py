"""The folder tree of BridgeData V2: where trajectories are, what their files say without being decoded."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any, overload

from extractors.errors import EpisodeError, MissingDataError, SourceError
from flows.sources.files import decode_text, natural_key, read_bytes, read_json
from flows.sources.folders import shown_path

logger = logging.getLogger(__name__)

LATENCY_FIXED = date(2021, 7, 23)
"""Folders dated before this day were recorded with a camera delay of one step (upstream conversion code)."""

LOW_CONFIDENCE = 0.5
"""Annotations whose confidence is below this are tagged; the files hold 0 and 1, so any value between would do."""

WRIST_VIEW = "image_3"

_DATED = re.compile(r"\d{4}-\d{2}-\d{2}")
_IMAGE = re.compile(r"im_([0-9]+)\.(?:jpe?g|png)", re.IGNORECASE)
_IMAGE_FOLDER = re.compile(r"(?:images|depth_images|masks)[0-9]+")
_CAMERA_FOLDER = re.compile(r"images[0-9]+")
_FIXED_TOPIC = re.compile(r"/(cam0|camera0|D435)/")
_CONFIDENCE = re.compile(r"confidence\s*:?\s*([-+0-9.eE]*)", re.IGNORECASE)
_READ_FILES = ("lang.txt", "obs_dict.pkl", "policy_out.pkl", "intrinsics.json")
_LANGUAGE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What a trajectory's folder holds, by name.

    Attributes:
        path: the folder.
        images: image folder ("images0", "depth_images0", "masks0") -> image number -> file name, numbers ascending.
        files: names of the other files.
    """

    path: Path
    images: Mapping[str, Mapping[int, str]]
    files: frozenset[str]

    @property
    def cameras(self) -> tuple[str, ...]:
        """The camera folders that hold images, in name order."""
        return tuple(
            sorted(
                (name for name in self.images if _CAMERA_FOLDER.fullmatch(name) and self.images[name]), key=natural_key
            )
        )


@dataclass(frozen=True, slots=True)
class TrajectoryFiles(Sequence[Path]):
    """The files an episode is read from, listed when looked at.

    60,000 trajectories have some seven million images: as paths, gigabytes.
    """

    root: Path
    relative: str
    follow_links: bool = False

    def __len__(self) -> int:
        return len(self._paths())

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        return self._paths()[index]

    def __iter__(self) -> Iterator[Path]:
        return iter(self._paths())

    def _paths(self) -> list[Path]:
        try:
            trajectory = list_trajectory(self.root, self.relative, follow_links=self.follow_links)
        except MissingDataError:
            return []
        beside = [trajectory.path / name for name in _READ_FILES if name in trajectory.files]
        images = [
            trajectory.path / folder / name for folder, names in trajectory.images.items() for name in names.values()
        ]
        config = config_path(self.root, self.relative)
        return [*beside, *images, *([config] if config.is_file() else [])]


@dataclass(frozen=True, slots=True)
class Language:
    """What lang.txt says.

    Attributes:
        instruction: its first line, "" where there is none.
        others: further annotations of the same trajectory.
        confidence: the annotator's, None where it is not given.
    """

    instruction: str = ""
    others: tuple[str, ...] = ()
    confidence: float | None = None

    @property
    def tags(self) -> tuple[str, ...]:
        """What is worth knowing: "no-language", "low-confidence-language"."""
        if not self.instruction:
            return ("no-language",)
        low = self.confidence is not None and self.confidence < LOW_CONFIDENCE
        return ("low-confidence-language",) if low else ()


class Walk:
    """The relative path of every raw/traj_group*/traj* below a folder.

    Lazy, folders in natural order. Folders named after lmdb (packed copies) are passed over, and linked folders unless
    they are asked for: a dataset must not hand in files of this machine.

    Attributes:
        links: linked folders that were passed over so far, relative to the root.
    """

    def __init__(self, root: Path, *, follow_links: bool = False) -> None:
        self.links: dict[str, None] = {}
        self._root = os.fspath(root)
        self._follow = follow_links

    def __iter__(self) -> Iterator[str]:
        """The trajectories.

        Raises:
            SourceError: a folder cannot be read.
        """
        try:
            yield from self._walk(self._root, "", {os.path.realpath(self._root)})
        except OSError as error:
            raise SourceError(f"source folder {error.filename} cannot be read: {error.strerror}") from error

    def _walk(self, folder: str, relative: str, above: set[str]) -> Iterator[str]:
        for name in self._folders(folder, relative):
            path, inner = os.path.join(folder, name), f"{relative}{name}/"
            real = os.path.realpath(path)
            if real in above:  # a link to a folder that it is in
                continue
            groups = [g for g in self._folders(path, inner) if g.startswith("traj_group")] if name == "raw" else []
            for group in groups:
                for trajectory in self._folders(os.path.join(path, group), f"{inner}{group}/"):
                    if trajectory.startswith("traj"):
                        yield f"{inner}{group}/{trajectory}"
            if not groups and "lmdb" not in name:
                yield from self._walk(path, inner, above | {real})

    def _folders(self, folder: str, relative: str) -> list[str]:
        folders, _, links = _list(folder, follow_links=self._follow)
        self.links |= dict.fromkeys(shown_path(relative + link) for link in links)
        return folders


def _list(
    folder: str, inside: tuple[str, ...] | None = None, *, follow_links: bool = False
) -> tuple[list[str], list[str], list[str]]:
    """Names of the subfolders, sorted, of the files, and of the linked folders that are left out.

    Links to files that lead out of the folders `inside` are left out with a warning.
    """
    folders: list[str] = []
    files: list[str] = []
    links: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=follow_links):
                folders.append(entry.name)
            elif entry.is_dir():
                links.append(entry.name)
            elif inside is None or not entry.is_symlink() or _is_inside(entry.path, inside):
                files.append(entry.name)
            else:
                logger.warning("%s leads out of the source and is not followed", shown_path(entry.path))
    return sorted(folders, key=natural_key), files, sorted(links)


def _is_inside(path: str, folders: tuple[str, ...]) -> bool:
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(folder) for folder in folders)


def list_trajectory(root: Path, relative: str, *, follow_links: bool = False) -> Trajectory:
    """What the folder `relative` holds; no file is opened.

    Raises:
        MissingDataError: the folder is gone or cannot be read.
    """
    path = root / relative
    inside: tuple[str, ...] = (os.path.realpath(root),)
    if follow_links:
        inside = (*inside, os.path.realpath(path))
    try:
        folders, files, _ = _list(os.fspath(path), inside, follow_links=follow_links)
        image_folders = [name for name in folders if _IMAGE_FOLDER.fullmatch(name)]
        images = {name: _list_images(path / name, inside) for name in image_folders}
    except OSError as error:
        raise MissingDataError(f"trajectory folder {relative} cannot be read: {error.strerror}") from error
    return Trajectory(path, images, frozenset(files))


def _list_images(folder: Path, inside: tuple[str, ...]) -> dict[int, str]:
    _, files, _ = _list(os.fspath(folder), inside)
    # A number of thousands of digits is none to Python, and no recording counts that far.
    return dict(
        sorted((int(match[1]), file) for file in files if (match := _IMAGE.fullmatch(file)) and len(match[1]) < 16)
    )


def config_path(root: Path, relative: str) -> Path:
    """The config.json that belongs to a trajectory, beside its raw; it may be missing."""
    return root.joinpath(*PurePosixPath(relative).parts[:-3], "config.json")


def had_latency(root: Path, relative: str) -> tuple[bool, str]:
    """Whether the camera was a step late, by the date in the folder's name, and the reason in words."""
    parts = relative.split("/")
    dated = parts[-4] if len(parts) > 3 else root.resolve().name
    match = _DATED.match(dated)
    try:
        day = date.fromisoformat(match[0]) if match else None
    except ValueError:
        day = None
    if day is None:
        return False, "no latency rule: the folder has no date"
    if day < LATENCY_FIXED:
        return True, f"latency rule: dated {day}, so the first image and state and the last action are dropped"
    return False, f"no latency rule: dated {day}"


def read_language(trajectory: Trajectory) -> Language:
    """What lang.txt says; "" where it is missing, which this dataset allows."""
    if "lang.txt" not in trajectory.files:
        return Language()
    try:
        return parse_language(decode_text(read_bytes(trajectory.path / "lang.txt", "lang.txt")[:_LANGUAGE_BYTES]))
    except EpisodeError as error:
        logger.warning("%s: lang.txt cannot be read: %s", trajectory.path, error)
        return Language()


def parse_language(text: str) -> Language:
    """The annotations of a lang.txt: lines with the word confidence are not instructions."""
    instructions: list[str] = []
    confidence: float | None = None
    for line in text.splitlines():
        if match := _CONFIDENCE.search(line):
            confidence = _number(match[1]) if confidence is None else confidence
        elif words := "".join(c if c.isprintable() else " " for c in line).split():
            instructions.append(" ".join(words))
    return (
        Language(instructions[0], tuple(instructions[1:]), confidence) if instructions else Language("", (), confidence)
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


CAMERA_MODELS = {"image_0": "d435", "image": "d435", "image_1": "c920", "image_2": "c920"}
"""View -> a name of extractors/cameras.py, as the BridgeData V2 paper (section 3) gives the hardware: a fixed RealSense
D435 over the shoulder, Logitech C920s elsewhere. Sources without a calibration say nothing better."""


def logical_views(cameras: Sequence[str], config: Path) -> tuple[dict[str, str], str]:
    """Which view each camera folder shows, and how that is known.

    The number in a folder's name is the position of its topic in config.json, not the view: images1 can be the wrist.

    Args:
        cameras: "images0", "images1", ...
        config: the config.json beside raw; it may be missing.

    Returns:
        camera folder -> "image_0" (fixed, over the shoulder), "image_1", "image_2" (position varies) or "image_3"
        (wrist); and "config.json" or "assumed order".
    """
    numbers = {int(name.removeprefix("images")): name for name in cameras}
    topics = _camera_topics(config)
    if topics is None:
        return {name: f"image_{number}" for number, name in numbers.items()}, "assumed order"
    taken: set[str] = set()
    views: dict[str, str] = {}
    for number in sorted({*range(len(topics)), *numbers}):
        topic = topics[number] if number < len(topics) else ""
        preferred = [WRIST_VIEW] if "wrist" in topic else ["image_0"] if _FIXED_TOPIC.search(topic) else []
        # Numbers may have gaps of any size, so names never run out.
        free = (f"image_{n}" for n in chain((1, 2), count(4)))
        view = next(name for name in chain(preferred, free) if name not in taken)
        taken.add(view)
        if number in numbers:
            views[numbers[number]] = view
    return views, "config.json"


def _camera_topics(config: Path) -> list[str] | None:
    try:
        if not config.exists():
            return None
        found: Any = read_json(config)["agent"]["env"][1]["camera_topics"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        logger.warning("%s names no camera topics (%r); the usual order of cameras is assumed", config, error)
        return None
    if not isinstance(found, list):
        return None
    # A topic is a string, or a dict with its name and settings.
    return [str(topic.get("name", "")) if isinstance(topic, dict) else str(topic) for topic in found[:1000]]
