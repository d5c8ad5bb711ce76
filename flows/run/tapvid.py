"""TAP-Vid's files: videos with points that people marked, as RoboTAP, TAP-Vid-DAVIS and RGB-Stacking are published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import CorruptDataError, SourceError
from flows.sources.files import natural_key
from flows.sources.images import decode_rgb
from flows.sources.pickles import load_pickle

MAX_BYTES = 16 * 2**30
"""Largest pickle that is read; RoboTAP's parts have some 3 GB."""


@dataclass(frozen=True, slots=True, eq=False)
class MarkedVideo:
    """One video and its points.

    Attributes:
        name: of the video, after that of its file.
        pixels: (T, H, W, 3) uint8 RGB.
        places: (T, N, 2) float32, x and y as shares of width and height: 0 is the outer edge of the first pixel, 1
            that of the last one.
        visible: (T, N) bool.
    """

    name: str
    pixels: NDArray[np.uint8]
    places: NDArray[np.float32]
    visible: NDArray[np.bool_]


def tapvid_files(path: Path) -> list[Path]:
    """The pickles at `path`, a folder or one file, in natural order.

    Raises:
        SourceError: none is there.
    """
    files = [path] if path.is_file() else sorted(path.glob("**/*.pkl"), key=lambda file: natural_key(str(file)))
    if not files:
        raise SourceError(f"no .pkl file in {path}; name the folder or file of TAP-Vid, RoboTAP or the like")
    return files


def read_tapvid(file: Path) -> Iterator[tuple[str, MarkedVideo | CorruptDataError]]:
    """Each video of one pickle by name, or what is wrong with it.

    Raises:
        CorruptDataError: the file is cut, or holds no videos.
        UnsafePickleError: it asks for anything but arrays and plain containers; nothing of it was run.
    """
    content = load_pickle(file, file.name, max_bytes=MAX_BYTES)
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, dict) or not content:
        raise CorruptDataError(f"{file.name} wants a dict or list of videos, got {_shown(content)}; fetch it again")
    for key, entry in content.items():
        name = f"{file.stem}/{key}"
        try:
            yield name, _video(name, entry)
        except CorruptDataError as error:
            yield name, error


def _video(name: str, entry: Any) -> MarkedVideo:
    """Raises CorruptDataError unless `entry` is a video with points."""
    if not isinstance(entry, dict) or not {"video", "points", "occluded"} <= entry.keys():
        raise CorruptDataError(f"{name} wants video, points and occluded, got {_shown(entry)}; fetch it again")
    pixels = entry["video"]
    if isinstance(pixels, list | tuple | np.ndarray) and len(pixels) and isinstance(pixels[0], bytes):
        pixels = np.stack([decode_rgb(data, f"{name}, frame {index}") for index, data in enumerate(pixels)])
    points, occluded = np.asarray(entry["points"]), np.asarray(entry["occluded"])
    shape = np.shape(pixels)
    if len(shape) != 4 or shape[-1] != 3 or min(shape) < 1 or np.asarray(pixels).dtype != np.uint8:
        raise CorruptDataError(f"{name} wants a video of (T, H, W, 3) uint8, got {_shown(pixels)}; fetch it again")
    if occluded.ndim != 2 or occluded.shape[1] != shape[0] or points.shape != (*occluded.shape, 2):
        raise CorruptDataError(
            f"{name} wants points (N, {shape[0]}, 2) and occluded (N, {shape[0]}), got {points.shape} and "
            f"{occluded.shape}; fetch it again"
        )
    places = np.asarray(points, np.float32).transpose(1, 0, 2)
    visible = ~np.asarray(occluded, np.bool_).T
    if not np.isfinite(places[visible]).all():
        raise CorruptDataError(f"{name} has visible points that are not finite; fetch it again")
    return MarkedVideo(name, np.asarray(pixels), np.ascontiguousarray(places), np.ascontiguousarray(visible))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict of {sorted(map(str, value))[:5]}"
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return type(value).__name__
