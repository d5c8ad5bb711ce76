"""Depth whose still background stays still: scale and shift per frame, for cameras that do not move."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import ShapeError
from extractors.geometry import MAD_TO_SIGMA, dilate, fit_scale_shift

Floats = NDArray[np.float64]

MOVING_CAMERA = "moving-camera"
"""Tag of clips whose camera moves."""

_SAMPLES = 2500
"""Background pixels that a fit sees: its error falls with their root, its time grows with them."""


@dataclass(frozen=True, slots=True, eq=False)
class Anchored:
    """Depth on the scale of its clip's background, or why there is none.

    Attributes:
        values: (T, H, W) float32, scale * relative + shift, or None where the clip was left alone.
        stabilizer: (T, 2) float32, scale and shift of each frame: the raw map is (values - shift) / scale. The median
            scale is 1 and the median shift 0. None with `values`.
        reason: why the clip was left alone, "" where it was not.
        tags: ("moving-camera",) where that is why.
        report: what was measured. JSON types only.
    """

    values: NDArray[np.float32] | None
    stabilizer: NDArray[np.float32] | None
    reason: str = ""
    tags: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CameraMotion:
    """Whether a camera moves.

    Attributes:
        moving: None where the clip shows too little to tell.
        steady_share: share of the judged frames that lie on the clip's median image.
        n_judged: frames with enough texture to tell.
    """

    moving: bool | None
    steady_share: float
    n_judged: int


def anchor_background(
    relative: NDArray[np.float32],
    object_masks: NDArray[np.bool_] | None,
    robot_masks: NDArray[np.bool_] | None,
    pixels: NDArray[np.uint8],
    *,
    tracks_xy: NDArray[np.float32] | None = None,
    tracks_visibility: NDArray[np.bool_] | None = None,
    cuts: Sequence[int] = (),
) -> Anchored:
    """Takes out of relative depth what makes its still background drift.

    Every frame gets the scale and shift that bring its background onto the clip's: pixels that are neither object nor
    robot, that show the clip's median image, and that no moving track is near. A frame without enough of them (black,
    or covered by the arm) takes its neighbours'. Scenes between cuts are anchored each to itself.

    Args:
        relative: (T, H, W) float32 inverse depth.
        object_masks: (T, H, W) bool, or None.
        robot_masks: (T, H, W) bool, or None; the arm is then found by its motion alone.
        pixels: (T, H, W, 3) uint8 RGB of the same size.
        tracks_xy: (T, N, 2) pixels, tracks of any kind.
        tracks_visibility: (T, N) bool.
        cuts: first frames of the scenes after the first.

    Returns:
        Anchored; without values for a moving camera, or where too little background is seen.

    Raises:
        ShapeError: the arrays do not agree.
    """
    _check_shapes(relative, pixels, object_masks, robot_masks)
    foreground = _foreground(relative.shape, object_masks, robot_masks)
    if tracks_xy is not None and tracks_visibility is not None:
        _add_moving_tracks(foreground, tracks_xy, tracks_visibility)
    starts = [0, *sorted({int(cut) for cut in cuts if 0 < cut < len(relative)})]
    stabilizer, reports = np.empty((len(relative), 2), np.float32), []
    for first, past in zip(starts, [*starts[1:], len(relative)], strict=True):
        scene = slice(first, past)
        outcome = _anchor_scene(relative[scene], foreground[scene], pixels[scene])
        reports.append(outcome.report)
        if outcome.stabilizer is None:
            return Anchored(None, None, outcome.reason, outcome.tags, {"reason": outcome.reason, "scenes": reports})
        stabilizer[scene] = outcome.stabilizer
    # In float32 from the stored pair, so that a reader who applies it gets these very numbers.
    values = stabilizer[:, :1, None] * relative + stabilizer[:, 1:, None]
    return Anchored(values, stabilizer, report={"reason": "", "scenes": reports})


def camera_motion(
    pixels: NDArray[np.uint8],
    foreground: NDArray[np.bool_] | None = None,
    *,
    near_px: float = 0.75,
    min_share: float = 0.03,
    min_steady: float = 0.9,
) -> CameraMotion:
    """Whether the camera moves, from corners of each frame sought in the clip's median image.

    A still camera's corners lie where the median image has them, save those of the arm; a moving camera's median
    image is a blur that hardly any corner is found in. Measured on 21 still and 2 wrist-camera clips
    (`groundtruth_dev`, BridgeData V2 and LeRobot videos) at 224 px: at least 0.96 of the frames of every still clip are
    steady, at most 0.12 of the moving ones'; of still clips with a drift of 0.1 px a frame or a jolt of 1.5 px put in,
    at most 0.85 (jitter of 0.3 px: from 0.87, 1 px: up to 0.71).

    Args:
        pixels: (T, H, W, 3) uint8 RGB at packet size.
        foreground: (T, H, W) bool, where corners do not count.
        near_px: a corner within this distance is in place.
        min_share: share of a frame's corners that must be in place.
        min_steady: share of steady frames below which the camera moves.
    """
    if len(pixels) == 1:
        return CameraMotion(False, 1.0, 1)
    median = _grey(_median_image(pixels).astype(np.uint8))
    steady = []
    for t, frame in enumerate(pixels):
        grey = _grey(frame)
        allowed = None if foreground is None else (~foreground[t]).astype(np.uint8)
        corners = cv2.goodFeaturesToTrack(grey, 300, 0.01, 5, mask=allowed) if grey.std() > 3 else None
        if corners is None or len(corners) < 20:
            continue
        shift = _found_shift(grey, median, np.asarray(corners, np.float32))
        near = np.linalg.norm(shift, axis=-1) < near_px
        steady.append(near.sum() >= max(0.5 * len(shift), min_share * len(corners), 1))
    if not steady:
        return CameraMotion(None, 0.0, 0)
    share = float(np.mean(steady))
    return CameraMotion(share < min_steady, share, len(steady))


def background_drift(depth: NDArray[np.floating], background: NDArray[np.bool_], *, min_seen: float = 0.5) -> float:
    """How much a still background moves in depth, in parts of the clip's depth.

    The median over pixels of the standard deviation in time, divided by the clip's p5-p95 spread.

    Args:
        depth: (T, H, W).
        background: (T, H, W) bool, where still background is seen.
        min_seen: share of the frames in which a pixel must be background to count.
    """
    shown = background.mean(0) >= min_seen
    if not shown.any():
        return float("nan")
    chosen = np.flatnonzero(shown)
    chosen = chosen[:: max(1, len(chosen) // 5000)]
    seen = background.reshape(len(depth), -1)[:, chosen]
    series = np.where(seen, depth.reshape(len(depth), -1)[:, chosen], np.nan)
    low, high = np.percentile(depth.reshape(len(depth), -1)[:, ::7], [5, 95])
    return float(np.median(np.nanstd(series, axis=0)) / max(high - low, 1e-12))


def still_background(
    pixels: NDArray[np.uint8], foreground: NDArray[np.bool_], *, margin_px: int = 4
) -> NDArray[np.bool_]:
    """(T, H, W) bool: pixels that show the clip's median image and have no foreground or change within `margin_px`.

    A frame's overall change of colour (exposure) is taken out first; the threshold follows the clip's noise.
    """
    median = _median_image(pixels)
    change = np.empty(foreground.shape, np.uint8)
    for t, frame in enumerate(pixels):
        difference = cv2.blur(frame.astype(np.float32), (3, 3)) - cv2.blur(median, (3, 3))
        # Not more than an exposure changes: else a black frame would agree with an even table.
        difference -= np.clip(np.median(difference.reshape(-1, 3), axis=0), -25, 25)
        change[t] = np.minimum(np.abs(difference).max(-1), 255)
    # Half of a clip's pixels and more are still: the median change is noise. Below 6 of 255 is compression.
    threshold = max(6.0, 4.0 * float(np.median(change)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin_px + 1, 2 * margin_px + 1))
    out = np.empty(foreground.shape, np.bool_)
    for t in range(len(pixels)):
        unlike = ((change[t] > threshold) | foreground[t]).astype(np.uint8)
        out[t] = cv2.dilate(cv2.medianBlur(unlike, 3), kernel) == 0
    return out


def _anchor_scene(relative: NDArray[np.float32], foreground: NDArray[np.bool_], pixels: NDArray[np.uint8]) -> Anchored:
    motion = camera_motion(pixels, foreground)
    report: dict[str, Any] = {"steady_share": round(motion.steady_share, 3), "judged_frames": motion.n_judged}
    if motion.moving or motion.moving is None:
        reason = "the camera moves" if motion.moving else "too little texture to tell whether the camera moves"
        return Anchored(None, None, reason, (MOVING_CAMERA,) if motion.moving else (), report)
    background = still_background(pixels, foreground)
    # A pixel at 0 was cut off by the network's last rectifier: it does not follow scale and shift.
    samples, seen = _sample(relative, background & (relative > 0))
    report["background_share"] = round(float(background.mean()), 3)
    enough = seen.sum(1) >= max(50, 0.05 * samples.shape[1])
    if samples.shape[1] < 100 or not enough.any():
        return Anchored(None, None, "too little still background", (), report)
    scale, shift, with_scale = _fit_frames(samples, seen & enough[:, None])
    known = enough & np.isfinite(scale) & (scale > 0.1) & (scale < 10)
    if not known.any():
        return Anchored(None, None, "no frame fits the clip's background", (), report)
    frames = np.arange(len(scale))
    stabilizer = np.stack([np.interp(frames, frames[known], pair[known]) for pair in (scale, shift)], 1)
    stabilizer = stabilizer.astype(np.float32)
    anchored = stabilizer[:, :1, None] * relative + stabilizer[:, 1:, None]
    report |= {
        "fitted": "scale and shift" if with_scale else "shift",
        "interpolated_frames": [int(t) for t in frames[~known]],
        "drift_before": background_drift(relative, background),
        "drift_after": background_drift(anchored, background),
    }
    return Anchored(anchored, stabilizer, report=report)


def _sample(
    relative: NDArray[np.float32], background: NDArray[np.bool_], *, min_seen: float = 0.5
) -> tuple[Floats, NDArray[np.bool_]]:
    """(T, N) depth of pixels that are background most of the time, and (T, N) whether they are in that frame."""
    usual = np.flatnonzero(background.mean(0).ravel() >= min_seen)
    if len(usual) > _SAMPLES:
        usual = np.sort(np.random.default_rng(0).choice(usual, _SAMPLES, replace=False))
    n_frames = len(relative)
    return relative.reshape(n_frames, -1)[:, usual].astype(np.float64), background.reshape(n_frames, -1)[:, usual]


def _fit_frames(samples: Floats, seen: NDArray[np.bool_]) -> tuple[Floats, Floats, bool]:
    """Scale and shift (T,) that take each frame to the clip's reference, and whether the scale was fitted.

    The reference starts as the frame that shows most background and becomes the median of the aligned frames. Frames
    are fitted as scale' * reference + shift' and the pair inverted, because the noise is in the frame: the other way
    round it would shrink every scale.
    """
    reference = np.where(seen[seen.sum(1).argmax()], samples[seen.sum(1).argmax()], np.nan)
    scale, shift, with_scale = np.ones(len(samples)), np.zeros(len(samples)), True
    for _ in range(3):
        slope, offset, with_scale = _fit_to(reference, samples, seen)
        scale, shift = 1 / slope, -offset / slope
        scale, shift = _centred(scale, shift)
        aligned = np.where(seen, scale[:, None] * samples + shift[:, None], np.nan)
        reference = _median_known(aligned, axis=0)
    return scale, shift, with_scale


def _fit_to(reference: Floats, samples: Floats, seen: NDArray[np.bool_]) -> tuple[Floats, Floats, bool]:
    """Solves sample = slope * reference + offset per frame; slope 1 throughout where a flat background cannot tell."""
    valid = seen & np.isfinite(reference)
    target = np.broadcast_to(reference, samples.shape)
    chunks = [slice(start, start + 64) for start in range(0, len(samples), 64)]
    fits = [fit_scale_shift(target[part], samples[part], valid[part], iterations=16) for part in chunks]
    slope, offset, sigma = (
        np.concatenate([getattr(fit, name) for fit in fits]) for name in ("scale", "shift", "sigma")
    )
    # Neighbouring pixels err alike: of each 50 count one. A slope counts when it is known to 2 %, or to 10 % when it
    # varies over the clip three times as much; else it would add more drift than it takes out.
    independent = np.maximum(valid.sum(1) / 50, 1)
    error = sigma / np.maximum(np.nanstd(reference) * np.sqrt(independent), 1e-12) / np.maximum(np.abs(slope), 1e-6)
    fitted = np.isfinite(slope)
    usual = float(np.median(error[fitted])) if fitted.any() else np.inf
    varies = float(np.median(np.abs(slope[fitted] / np.median(slope[fitted]) - 1))) if fitted.any() else 0.0
    if usual < 0.02 or (usual < 0.1 and MAD_TO_SIGMA * varies > 3 * usual):
        return np.where(np.abs(slope) > 1e-6, slope, np.nan), offset, True
    difference = np.where(valid, samples - target, np.nan)
    some = valid.any(1)
    return np.where(some, 1.0, np.nan), _median_known(difference, axis=1), False


def _median_known(values: Floats, axis: int) -> Floats:
    """Median of what is not NaN, NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.asarray(np.nanmedian(values, axis=axis), np.float64)


def _centred(scale: Floats, shift: Floats) -> tuple[Floats, Floats]:
    """The same alignment on the scale on which the median frame is left as it is."""
    factor = 1 / np.nanmedian(scale)
    scale, shift = scale * factor, shift * factor
    return scale, shift - np.nanmedian(shift)


def _median_image(pixels: NDArray[np.uint8], most: int = 63) -> NDArray[np.float32]:
    """(H, W, 3) float32; the first frame for clips too short for a median to leave out the arm."""
    if len(pixels) < 5:
        return np.asarray(pixels[0], np.float32)
    chosen = np.unique(np.linspace(0, len(pixels) - 1, most).round().astype(int))
    chosen = chosen[: len(chosen) - (len(chosen) + 1) % 2]  # an even number would average two pictures into a ghost
    return np.asarray(np.median(pixels[chosen], axis=0), np.float32)


def _grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def _found_shift(
    grey: NDArray[np.uint8], other: NDArray[np.uint8], corners: NDArray[np.float32], *, round_trip_px: float = 0.5
) -> NDArray[np.float32]:
    """(n, 2) shifts of the corners that Lucas-Kanade finds in `other` and back again."""
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
    shift: NDArray[np.float32] = (there - corners).reshape(-1, 2)[good]
    return shift


def _foreground(
    shape: tuple[int, ...], object_masks: NDArray[np.bool_] | None, robot_masks: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    out = np.zeros(shape, np.bool_)
    for masks in (object_masks, robot_masks):
        if masks is not None:
            out |= dilate(masks, 3)  # the network blurs depth over outlines
    return out


def _add_moving_tracks(
    foreground: NDArray[np.bool_],
    xy: NDArray[np.float32],
    visibility: NDArray[np.bool_],
    *,
    moving_px: float = 1.0,
    radius_px: int = 6,
) -> None:
    """Marks a disc around every visible point that moves more than `moving_px` to or from this frame."""
    step = np.linalg.norm(np.diff(xy, axis=0), axis=-1) > moving_px
    seen = visibility & np.isfinite(xy).all(-1)
    step &= seen[1:] & seen[:-1]
    moving = np.zeros(visibility.shape, np.bool_)
    moving[1:] |= step
    moving[:-1] |= step
    for t, frame in enumerate(foreground):
        disc = frame.astype(np.uint8)
        for x, y in xy[t][moving[t]]:
            cv2.circle(disc, (round(float(x)), round(float(y))), radius_px, 1, -1)
        frame |= disc > 0


def _check_shapes(
    relative: NDArray[Any],
    pixels: NDArray[Any],
    object_masks: NDArray[np.bool_] | None,
    robot_masks: NDArray[np.bool_] | None,
) -> None:
    if relative.ndim != 3 or pixels.shape != (*relative.shape, 3):
        raise ShapeError(f"wanted depth (T, H, W) and pixels (T, H, W, 3), got {relative.shape} and {pixels.shape}")
    for name, masks in (("object", object_masks), ("robot", robot_masks)):
        if masks is not None and masks.shape != relative.shape:
            raise ShapeError(f"{name} masks must be {relative.shape} as the depth is, got {masks.shape}")
