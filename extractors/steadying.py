"""A moving camera's clip as a still one would show it: every frame is brought over one of them.

A homography does so exactly for a camera that only turns or zooms, and for a flat scene however it moves (Hartley and
Zisserman, Multiple View Geometry, 2004, 13.1). A table with things on it, seen by a camera that is nudged or trembles,
comes close; what stands up from it is then a little off, the more the farther the camera goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.camera_motion import clip_camera_motion, watched_frame
from extractors.geometry import sample_indices
from extractors.moments import picked
from extractors.types import Frames

Image = NDArray[np.uint8]
Places = NDArray[np.float32]
Floats = NDArray[np.float64]

NEAR_PX = 1.0
"""Distance at which a feature is where the homography says, in pixels of frames 224 wide (`watched_frame`)."""

UNLIKE_NEXT = 0.8
"""A feature's match is this much nearer than its next best (Lowe, 2004), or it does not count."""

MIN_AGREEING = 15
"""Features that must agree on a homography, which four always do."""

MIN_SHARED = 0.5
"""Share of the reference frame that a frame must show."""

MIN_FOUND = 0.8
"""Share of the frames that must be brought over the reference."""

FILL_FRAMES = 21
"""Frames from which what others do not show of the reference's view is taken."""


@dataclass(frozen=True, slots=True, eq=False)
class SteadyFrames:
    """Frames as seen from the reference; made again by each iteration. What a frame does not show is taken from `fill`.

    Attributes:
        pixels: (T, H, W, 3) uint8 RGB, as the camera has them.
        onto: (T, 3, 3), from pixels of each frame to pixels of the reference; NaN for frames that could not be brought
            over it, of which all is taken from `fill`.
        fill: (H, W, 3) uint8.
    """

    pixels: Frames
    onto: Floats
    fill: Image

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, 3)."""
        return tuple(self.pixels.shape)

    @property
    def found(self) -> NDArray[np.bool_]:
        """(T,) True for frames that were brought over the reference."""
        return np.asarray(np.isfinite(self.onto).all(axis=(1, 2)))

    def __len__(self) -> int:
        return len(self.pixels)

    def __iter__(self) -> Iterator[Any]:
        for frame, onto in zip(self.pixels, self.onto, strict=True):
            yield _brought_over(np.asarray(frame), onto, self.fill)

    def back(self, maps: NDArray[Any], at: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Maps of the steady view at any size as each frame shows them, also beyond the view.

        There, masks and labels (bool, uint8) are 0, and other maps (float32) go on as at the edge. Those of frames
        that were not brought over the reference are 0.

        Args:
            maps: (T, h, w), or (M, h, w) of the frames `at`.
            at: (M,) numbers of frames; all by default.
        """
        out = np.zeros_like(maps)
        resized = _resizing(self.shape[1:3], maps.shape[1:])
        smooth = np.issubdtype(maps.dtype, np.floating)
        options: dict[str, Any] = {
            "flags": cv2.WARP_INVERSE_MAP | (cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST),
            "borderMode": cv2.BORDER_REPLICATE if smooth else cv2.BORDER_CONSTANT,
        }
        for index, onto in enumerate(self.onto if at is None else self.onto[at]):
            if np.isfinite(onto).all():
                shown = maps[index] if smooth else maps[index].astype(np.uint8)
                there = resized @ onto @ np.linalg.inv(resized)
                out[index] = cv2.warpPerspective(shown, there, maps.shape[:0:-1], **options)
        return out


class _View(NamedTuple):
    """A frame as `watched_frame`, and its SIFT features: places (n, 2) as (x, y), and what they look like (n, 128)."""

    grey: Image
    at: Places
    look: NDArray[np.float32]

    @classmethod
    def of(cls, grey: Image) -> _View:
        keys, look = cv2.SIFT.create(nfeatures=600, contrastThreshold=0.02).detectAndCompute(grey, None)
        at = np.array([key.pt for key in keys], np.float32).reshape(-1, 2)
        return cls(grey, at, np.zeros((0, 128), np.float32) if look is None else np.asarray(look, np.float32))


def steadied(pixels: Frames) -> SteadyFrames | None:
    """The clip seen from its middle frame.

    None where fewer than `MIN_FOUND` of the frames can be brought over it, or do not stand still there. Each frame is
    matched with the reference, or else with the frame beside it, by SIFT features and by corners that Lucas-Kanade
    follows from where the frame beside it would have them.

    Args:
        pixels: (T, H, W, 3) uint8 RGB; iterated three times.
    """
    greys = [watched_frame(np.asarray(frame)) for frame in pixels]
    middle = len(greys) // 2
    reference = _View.of(greys[middle])
    onto = np.full((len(greys), 3, 3), np.nan)
    onto[middle] = np.eye(3)
    for order in (range(middle + 1, len(greys)), range(middle - 1, -1, -1)):
        last, beside = middle, reference
        for frame in order:
            view = _View.of(greys[frame])  # one at a time: features take ten times the memory of the picture
            found = _homography(view, reference, onto[last])
            if found is None and last != middle:
                step = _homography(view, beside, np.eye(3))
                found = None if step is None else onto[last] @ step
            if found is not None and _shared(found, reference.grey.shape) >= MIN_SHARED:
                onto[frame], last, beside = found, frame, view
    if np.isfinite(onto[:, 0, 0]).mean() < MIN_FOUND:
        return None
    watched = _resizing(pixels.shape[1:3], reference.grey.shape)
    onto = np.linalg.inv(watched) @ onto @ watched
    frames = SteadyFrames(pixels, onto, _fill(pixels, onto, middle))
    return frames if clip_camera_motion(frames).moving is False else None


def _homography(one: _View, other: _View, guess: Floats) -> Floats | None:
    """(3, 3) from `one` to `other`, near `guess` or not, where enough of what was matched agrees on it."""
    matched = zip(_alike(one, other), _followed(one, other, guess), strict=True)
    start, end = (np.concatenate(places) for places in matched)
    if len(start) < MIN_AGREEING:
        return None
    found, agree = cv2.findHomography(start, end, cv2.USAC_MAGSAC, NEAR_PX, maxIters=2000, confidence=0.999)
    return None if found is None or int(agree.sum()) < MIN_AGREEING else np.asarray(found, np.float64)


def _alike(one: _View, other: _View) -> tuple[Places, Places]:
    """Places (n, 2) of features of `one`, and those in `other` that look like them and like nothing else there."""
    if min(len(one.at), len(other.at)) < 2:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(one.look, other.look, k=2)
    kept = [first for first, second in pairs if first.distance < UNLIKE_NEXT * second.distance]
    return one.at[[match.queryIdx for match in kept]], other.at[[match.trainIdx for match in kept]]


def _followed(one: _View, other: _View, guess: Floats) -> tuple[Places, Places]:
    """Places (n, 2) of corners of `one`, and those in `other` to which Lucas-Kanade follows them there and back."""
    found = cv2.goodFeaturesToTrack(one.grey, 300, 0.01, 5)
    if found is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    corners = np.asarray(found, np.float32)
    start = np.asarray(cv2.perspectiveTransform(corners, guess), np.float32)
    options: dict[str, Any] = {"winSize": (15, 15), "maxLevel": 3, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    end, there, _ = cv2.calcOpticalFlowPyrLK(one.grey, other.grey, corners, start, **options)
    home, back, _ = cv2.calcOpticalFlowPyrLK(other.grey, one.grey, end, corners.copy(), **options)
    good = (there.ravel() == 1) & (back.ravel() == 1) & (np.linalg.norm(home - corners, axis=-1).ravel() < 0.5)
    return corners[good, 0], np.asarray(end, np.float32)[good, 0]


def _shared(onto: Floats, shape: tuple[int, ...]) -> float:
    """Share of the reference of `shape` (height, width) that a frame shows; 0 where the homography folds it over."""
    height, width = shape
    whole = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]]) - (0.5, 0.5, 0)
    corners = whole @ onto.T
    if (corners[:, 2] <= 0).any():
        return 0.0
    frame, reference = (np.asarray(each[:, :2] / each[:, 2:], np.float32) for each in (corners, whole))
    if not cv2.isContourConvex(frame) or cv2.contourArea(frame, oriented=True) <= 0:
        return 0.0
    return float(cv2.intersectConvexConvex(frame, reference)[0]) / (height * width)


def _fill(pixels: Frames, onto: Floats, reference: int) -> Image:
    """(H, W, 3) median of some of the frames; what one does not show is taken from the reference, which shows all."""
    chosen = np.union1d(sample_indices(len(pixels), FILL_FRAMES), [reference])
    shown = dict(zip(chosen.tolist(), map(np.asarray, picked(pixels, chosen)), strict=True))
    brought = [_brought_over(image, onto[frame], shown[reference]) for frame, image in shown.items()]
    return np.asarray(np.median(brought, axis=0), np.uint8)


def _brought_over(frame: Image, onto: Floats, fill: Image) -> Image:
    """(H, W, 3) the frame as seen from the reference, and `fill` where it does not show that."""
    out = fill.copy()
    if np.isfinite(onto).all():
        edge: dict[str, Any] = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_TRANSPARENT}
        cv2.warpPerspective(frame, onto, frame.shape[1::-1], dst=out, **edge)
    return out


def _resizing(size: tuple[int, ...], other: tuple[int, ...]) -> Floats:
    """(3, 3) from pixels (x, y) of pictures of `size` (height, width) to those of the same ones at size `other`."""
    y, x = other[0] / size[0], other[1] / size[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
