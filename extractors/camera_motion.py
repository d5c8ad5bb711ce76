"""Whether the camera moves: measured once on a clip, and handed on to every signal that asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import ShapeError
from extractors.geometry import sample_indices
from extractors.moments import picked
from extractors.types import Frames

_WIDTH = 224
"""Width, pixels, at which frames are compared; every other length here is in these pixels, whatever the packet's."""

_MOST_FRAMES = 240
"""Frames that are looked at: a camera that moves does so in more than one of 240."""

_MEDIAN_FRAMES = 63
"""Frames of the median image: more do not make it sharper, and its time grows with them."""

_MIN_CORNERS = 20
_MIN_CONTRAST = 3.0
"""Corners, and grey-level standard deviation, below which a frame shows too little to tell."""

_ALIKE = 0.8
"""Correlation of patches from which on a corner of the median image is the one that was found in a frame."""

_MIN_AGREEING = 3
"""Corners that must agree on where they are: fewer do by chance."""

_MIN_TOLD = 0.6
"""Share of a scene's frames that must tell whether they fit: of a moving camera's hardly any does."""

_PARTS = 3
"""A side; a part counts as textured where 0.3 of the frames have a corner in it, and as at rest where 0.1 of them have
one in place."""

_MIN_REST = 1 / 3
"""Share of the textured parts that must be at rest. Of generated clips still ones have 0.5 and more in 99 of 100, those
of a moving camera that carries a gripper in 0.09 of its picture 0.25 at most in 90 of 100."""


@dataclass(frozen=True, slots=True)
class CameraMotion:
    """Whether a camera moves.

    Attributes:
        moving: None where the clip shows too little to tell.
        steady_share: share of the judged frames that fit the clip's median image.
        n_judged: frames that tell, or all with enough texture where too few of those do.
    """

    moving: bool | None
    steady_share: float
    n_judged: int


def watched_frames(n_frames: int) -> NDArray[np.int64]:
    """Numbers of the frames of a clip that `camera_motion` wants, in order."""
    return sample_indices(n_frames, _MOST_FRAMES)


def watched_frame(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One RGB frame (H, W, 3) as `camera_motion` wants it: grey, 224 pixels wide, its shape kept."""
    height = max(round(frame.shape[0] * _WIDTH / frame.shape[1]), 1)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    how = cv2.INTER_AREA if frame.shape[1] > _WIDTH else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, (_WIDTH, height), interpolation=how), np.uint8)


def clip_camera_motion(pixels: Frames | Sequence[NDArray[np.uint8]], *, cuts: Sequence[int] = ()) -> CameraMotion:
    """`camera_motion` of a whole clip `pixels` (T, H, W, 3) uint8 RGB, iterated once."""
    numbers = watched_frames(len(pixels))
    watched = [watched_frame(np.asarray(frame)) for frame in picked(pixels, numbers)]
    return camera_motion(watched, numbers, cuts=cuts)


def camera_motion(
    frames: Sequence[NDArray[np.uint8]],
    numbers: NDArray[np.int64],
    *,
    cuts: Sequence[int] = (),
    near_px: float = 0.75,
    min_share: float = 0.03,
    min_steady: float = 0.9,
) -> CameraMotion:
    """Whether the camera moves, from corners of each frame sought in the median image of its scene.

    A still camera's corners are found where the median image has them, save those of the arm; a moving camera's median
    image is a blur that hardly any corner is found in. Distances from the median, not steps, are what counts, so the
    answer does not depend on the rate. A frame that an arm fills tells nothing. What is in place in a small part of the
    picture alone rides on the camera: a wrist camera's gripper, a caption.

    `tests/benchmarks/camera_motion.py` measures it on still clips, as they are and with motion put in.

    Args:
        frames: as `watched_frame` makes them.
        numbers: (len(frames),) their numbers in the clip, in order.
        cuts: first frames of the scenes after the first.
        near_px: a corner within this distance is in place.
        min_share: share of a frame's corners that must agree on their place.
        min_steady: share of steady frames below which the camera moves.

    Raises:
        ShapeError: another number of frames than of numbers.
    """
    if len(frames) != len(numbers):
        raise ShapeError(f"wanted one number for each of {len(frames)} frames, got {len(numbers)}")
    scene = np.searchsorted(np.sort(np.asarray(cuts, np.int64)), numbers, side="right")
    steady: list[bool] = []
    for which in np.unique(scene):
        members = [frames[place] for place in np.flatnonzero(scene == which).tolist()]
        # One picture alone cannot move.
        steady += [True] if len(members) == 1 else _steady_frames(members, near_px, min_share)
    if not steady:
        return CameraMotion(None, 0.0, 0)
    share = float(np.mean(steady))
    return CameraMotion(share < min_steady, share, len(steady))


class _Found(NamedTuple):
    """Corners found again.

    Attributes:
        n_sought: how many were sought.
        at, shift: (n, 2) where those that were found are, and how far from where they were sought.
    """

    n_sought: int
    at: NDArray[np.float32]
    shift: NDArray[np.float32]


def _steady_frames(frames: Sequence[NDArray[np.uint8]], near_px: float, min_share: float) -> list[bool]:
    """For each frame that tells, whether it fits the median of all; none does where the camera carries what fits."""
    median = _median_image(frames)
    of_median = _corners(median)
    judged: list[NDArray[np.uint8]] = []
    verdicts: list[bool | None] = []
    textured, at_rest = np.zeros((2, _PARTS, _PARTS))
    for grey in frames:
        corners = _corners(grey)
        if corners is None:
            continue
        found = [_found_again(_lit_as(grey, median), median, corners)]
        verdict = _in_place(found[0], near_px, min_share)
        if not verdict and of_median is not None:
            # Where an arm fills the picture, its corners are found anywhere, and its brightness is not the lamp's; what
            # it leaves of the scene's corners is in place.
            found.append(_found_again(median, grey, of_median, min_alike=_ALIKE))
            by_median = _in_place(found[1], near_px, min_share)
            verdict = verdict if by_median is None else by_median
        judged.append(grey)
        verdicts.append(verdict)
        textured += _parts(corners[:, 0], grey.shape)
        still = [each.at[np.linalg.norm(each.shift, axis=-1) < near_px] for each in found]
        at_rest += _parts(np.concatenate(still), grey.shape)
    telling = [verdict for verdict in verdicts if verdict is not None]
    rest = at_rest > 0.1 * len(verdicts)
    seen = rest | (textured > 0.3 * len(verdicts))
    if len(telling) < _MIN_TOLD * len(verdicts) or rest.sum() < _MIN_REST * seen.sum():
        return [False] * len(verdicts)
    # Frames that tell nothing of this scene but fit each other show another one: the camera was put elsewhere.
    strange = [grey for grey, verdict in zip(judged, verdicts, strict=True) if verdict is None]
    elsewhere = sum(_steady_frames(strange, near_px, min_share)) if len(strange) > 1 else 0
    return telling + [False] * elsewhere


def _in_place(found: _Found, near_px: float, min_share: float) -> bool | None:
    """Whether more corners agree that they have not moved than on any other place; None where too few agree."""
    least = max(min_share * found.n_sought, _MIN_AGREEING)
    near = np.linalg.norm(found.shift, axis=-1) < near_px
    moved = found.shift[~near]
    if near.sum() >= max(least, len(moved)):
        return True
    together = np.linalg.norm(moved[:, None] - moved[None], axis=-1) < near_px
    most = int(together.sum(axis=1).max(initial=0))
    if max(near.sum(), most) < least:
        return None
    return bool(near.sum() >= most)


def _parts(at: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(_PARTS, _PARTS) which parts of a picture of `shape` hold some of the points `at` (n, 2) as (x, y)."""
    out = np.zeros((_PARTS, _PARTS), np.bool_)
    column, row = np.clip(at * _PARTS / np.array(shape[1::-1]), 0, _PARTS - 1).astype(int).T
    out[row, column] = True
    return out


def _corners(grey: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """(n, 1, 2) places to look for, None where the picture shows too little to tell."""
    found = cv2.goodFeaturesToTrack(grey, 300, 0.01, 5) if grey.std() > _MIN_CONTRAST else None
    return None if found is None or len(found) < _MIN_CORNERS else np.asarray(found, np.float32)


def _lit_as(grey: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`grey` at the brightness of `other`: a flickering lamp or an adapting shutter is not motion.

    By the median ratio of their pixels, which an arm that covers less than half of the picture leaves as it is.
    """
    gain = float(np.median((other.astype(np.float32) + 1) / (grey.astype(np.float32) + 1)))
    return np.asarray(cv2.convertScaleAbs(grey, alpha=gain), np.uint8)


def _median_image(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The first frame for clips too short for a median to leave out the arm."""
    if len(frames) < 5:
        return frames[0]
    chosen = sample_indices(len(frames), _MEDIAN_FRAMES)
    chosen = chosen[: len(chosen) - (len(chosen) + 1) % 2]  # an even number would average two pictures into a ghost
    return np.asarray(np.median(np.stack([frames[place] for place in chosen]), axis=0), np.uint8)


def _found_again(
    grey: NDArray[np.uint8],
    other: NDArray[np.uint8],
    corners: NDArray[np.float32],
    *,
    round_trip_px: float = 0.5,
    min_alike: float = -1.0,
) -> _Found:
    """The corners of `grey` that Lucas-Kanade finds in `other` and back again, where they look `min_alike`."""
    tracked = partial(
        cv2.calcOpticalFlowPyrLK,
        winSize=(15, 15),
        maxLevel=2,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.03),
    )
    there, found, _ = map(np.asarray, tracked(grey, other, corners, corners.copy()))
    back, kept, _ = map(np.asarray, tracked(other, grey, there, there.copy()))
    good = (found.ravel() == 1) & (kept.ravel() == 1)
    good &= np.linalg.norm((back - corners).reshape(-1, 2), axis=1) < round_trip_px
    for number in np.flatnonzero(good) if min_alike > -1 else ():
        good[number] = _correlation(grey, corners[number, 0], other, there[number, 0]) >= min_alike
    return _Found(len(corners), corners[good, 0], (there - corners)[good, 0])


def _correlation(
    grey: NDArray[np.uint8], here: NDArray[np.float32], other: NDArray[np.uint8], there: NDArray[np.float32]
) -> float:
    """Of the 11 x 11 pixels around two places (x, y), in [-1, 1]."""
    one = cv2.getRectSubPix(grey, (11, 11), here.tolist())
    return float(cv2.matchTemplate(cv2.getRectSubPix(other, (11, 11), there.tolist()), one, cv2.TM_CCOEFF_NORMED)[0, 0])
