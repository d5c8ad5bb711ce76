"""What `meta/info.json` of a LeRobot dataset says: version, features, path templates."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

from extractors.errors import SourceError
from flows.sources.cells import number, text, whole
from flows.sources.files import read_json

READABLE = ("v2.0", "v2.1", "v3.0")
_PLACEHOLDERS = {"episode_chunk", "episode_index", "chunk_index", "file_index", "video_key"}
_MAX_FEATURES = 10_000

MAX_NAME = 255
"""Bytes of the longest name of a file or folder."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the dataset.

    Attributes:
        key: full name, `observation.images.image_0`.
        dtype: "video", "image", "float32", ...
        names: names of the elements of a vector, () where unknown; of an image's axes.
        shape: as declared; for pictures the file decides.
        is_depth: marked as a depth map (`is_depth_map`, older `video.is_depth_map`).
        depth_unit: "mm" or "m" where a depth map says so.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    is_depth: bool
    depth_unit: str | None

    @property
    def is_picture(self) -> bool:
        """Whether its values are images, as files or as bytes."""
        return self.dtype in ("video", "image")

    @property
    def channels(self) -> int | None:
        """Channels of a picture, by the names of its axes: (H, W, C) and (C, H, W) are both published."""
        for name, size in zip(self.names, self.shape, strict=False):
            if name in ("channel", "channels"):
                return size
        return self.shape[2] if len(self.shape) == 3 else None


@dataclass(frozen=True, slots=True)
class Info:
    """`meta/info.json`, parsed.

    Attributes:
        version: "v2.0", "v2.1" or "v3.0".
        fps: as declared; the rows' timestamps decide.
        total_episodes, total_frames: as declared, None where absent.
        chunks_size: episodes in one chunk folder (v2.x).
        data_path, video_path: templates relative to the root; `video_path` is None without videos.
        features: by key, in name order.
        robot_type: "" where unknown.
    """

    version: str
    fps: float
    total_episodes: int | None
    total_frames: int | None
    chunks_size: int
    data_path: str
    video_path: str | None
    features: Mapping[str, Feature]
    robot_type: str


def read_info(root: Path) -> Info:
    """`meta/info.json` of the dataset at `root`.

    Raises:
        SourceError: it is missing, no JSON, of a version that is not read, or has a template that leaves the root.
    """
    path = root / "meta" / "info.json"
    raw = read_json(path)
    try:
        info = _info(raw)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path} is not a LeRobot info.json ({type(error).__name__}: {error})") from error
    for template in filter(None, (info.data_path, info.video_path)):
        _check_template(template)
    return info


def _info(raw: Any) -> Info:
    features = raw["features"]
    if len(features) > _MAX_FEATURES:
        raise ValueError(f"{len(features)} features, at most {_MAX_FEATURES} are read")
    fps = number(raw["fps"])
    chunks_size = whole(raw.get("chunks_size")) or 1000
    if fps is None or fps <= 0:
        raise SourceError(f"info.json: fps should be positive, got {raw['fps']!r}; correct it")
    video_path = raw.get("video_path")
    return Info(
        version=_version(str(raw["codebase_version"])),
        fps=fps,
        total_episodes=_total(raw.get("total_episodes")),
        total_frames=_total(raw.get("total_frames")),
        chunks_size=chunks_size,
        data_path=str(raw["data_path"]),
        video_path=None if video_path is None else str(video_path),
        features={key: _feature(key, features[key]) for key in sorted(features.keys())},
        robot_type=text(raw.get("robot_type")),
    )


def _total(value: Any) -> int | None:
    """A total, -1 for anything but a number: it differs from every count, and nothing else depends on it."""
    try:
        return whole(value)
    except ValueError:
        return -1


def relative_path(template: str, fields: Mapping[str, int | str]) -> str:
    """`template` filled in, as a posix path that stays below the dataset's root.

    Raises:
        SourceError: a placeholder has no value, or the path leaves the root.
    """
    try:
        path = template.format(**fields)
    except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
        raise SourceError(f"path template {template!r} cannot be filled from {sorted(fields)}: {error}") from error
    return _below_root(template, path)


@lru_cache(maxsize=1024)  # a file of v3.0 serves many episodes
def _below_root(template: str, path: str) -> str:
    pure = PurePosixPath(path)
    try:
        longest = max((len(os.fsencode(part)) for part in pure.parts), default=0)
    except UnicodeEncodeError:
        longest = MAX_NAME + 1
    if longest > MAX_NAME or len(path) > 10 * MAX_NAME:
        raise SourceError(f"path template {template[:80]!r} makes no name that a disk can hold; correct info.json")
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
        raise SourceError(f"path template {template!r} leads out of the dataset: {path!r}; correct info.json")
    return str(pure)


def _version(text: str) -> str:
    match = re.fullmatch(r"v?(\d+)\.(\d+).*", text)
    major, minor = (int(match[1]), int(match[2])) if match else (0, 0)
    if major == 2:
        return f"v2.{min(minor, 1)}"
    if major == 3:
        return "v3.0"
    raise SourceError(f"LeRobot datasets of version {', '.join(READABLE)} are read, this one is {text!r}; convert it")


def _feature(key: str, raw: Mapping[str, Any]) -> Feature:
    # `info` is today's name, `video_info` the older one; both are hints.
    hints = {**(raw.get("video_info") or {}), **(raw.get("info") or {})}
    return Feature(
        key=key,
        dtype=str(raw["dtype"]),
        shape=tuple(whole(size) or 0 for size in raw.get("shape") or ()),
        names=_flat_names(raw.get("names")),
        is_depth=bool(hints.get("is_depth_map") or hints.get("video.is_depth_map")),
        depth_unit=text(hints.get("depth_unit")) or None,
    )


def _flat_names(names: Any) -> tuple[str, ...]:
    """A list, a nested list, a dict of lists or a dict of positions, as a flat tuple."""
    if isinstance(names, Mapping):
        if all(isinstance(value, int) for value in names.values()):
            return tuple(sorted(names, key=lambda name: names[name]))
        return tuple(name for value in names.values() for name in _flat_names(value))
    if isinstance(names, list):
        return tuple(name for value in names for name in (_flat_names(value) or (str(value),)))
    return ()


def _check_template(template: str) -> None:
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise SourceError(f"path template {template!r} is none: {error}; correct info.json") from error
    for _, name, width, conversion in parts:
        # Attribute look-ups and huge paddings in a format string are an attack, not a path.
        if name is not None and (
            name not in _PLACEHOLDERS or conversion or not re.fullmatch(r"(0?\d{1,2}d?)?", width or "")
        ):
            raise SourceError(
                f"path template {template!r}: placeholder {name!r} should be one of {sorted(_PLACEHOLDERS)}, "
                "as in {episode_index:06d}; correct info.json"
            )
    relative_path(template, dict.fromkeys(_PLACEHOLDERS, 0))
