"""Depth whose still background stays still: scale and shift per frame, for cameras that do not move."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import ShapeError
from extractors.geometry import MAD_TO_SIGMA, dilate, fit_scale_shift, sample_indices, sample_values
from extractors.timing import WINDOW_S, frames_in
from extractors.types import SceneTracks

Floats = NDArray[np.float64]

_SAMPLES = 2500
"""Background pixels that a fit sees: its error falls with their root, its time grows with them."""

_FEWEST = 50
"""Readings that a frame's scale and shift are fitted to at least."""

_LEAST_BACKGROUND = 0.05
"""Share of the frames' pixels that are still background, below which a clip is left alone: a corner does not stand for
the scene's depth."""

_DRIFT_SAMPLES = 5000
"""Pixels whose wander is measured."""

_SPREAD_SAMPLES = 200_000
"""Values that a clip's spread of depth is measured on; a clip has up to 1e8."""


@dataclass(frozen=True, slots=True, eq=False)
class Anchored:
    """Depth on the scale of its clip's background, or why there is none.

    Attributes:
        values: (T, H, W) float32, scale * relative + shift, or None where the clip was left alone.
        stabilizer: (T, 2) float32, scale and shift of each frame: the raw map is (values - shift) / scale. The median
            scale is 1 and the median shift 0. None with `values`.
        reason: why the clip was left alone, "" where it was not.
        report: what was measured. JSON types only.
    """

    values: NDArray[np.float32] | None
    stabilizer: NDArray[np.float32] | None
    reason: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Reach:
    """Lengths in pixels of a frame `width` wide, each a share of it; as measured at 224 pixels.

    Attributes:
        outline: around object and robot, where the network blurs depth over outlines.
        change: around pixels that do not show the still scene: their shadows and borders.
        track: around a moving point, which stands for what is between it and the next.
        moving: how far a point of a moving thing goes in `WINDOW_S`.
        blur: side of the window that noise is averaged in, odd.
    """

    outline: float
    change: int
    track: int
    moving: float
    blur: int

    @classmethod
    def of(cls, width: int) -> _Reach:
        def pixels(share: float) -> int:
            return max(round(share * width), 1)

        return cls(0.0134 * width, pixels(0.018), pixels(0.027), 0.0045 * width, 2 * pixels(0.0045) + 1)


def anchor_background(
    relative: NDArray[np.float32],
    object_masks: NDArray[np.bool_] | None,
    robot_masks: NDArray[np.bool_] | None,
    pixels: NDArray[np.uint8],
    *,
    camera_moves: bool | None,
    fps: float,
    tracks: SceneTracks | None = None,
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
        camera_moves: as measured on the clip (`extractors.camera_motion`); None where it shows too little to tell.
        fps: frames per second.
        tracks: of any kind, in the same pixels.
        cuts: first frames of the scenes after the first.

    Returns:
        Anchored; without values for a moving camera, or where too little background is seen.

    Raises:
        ShapeError: the arrays do not agree.
        GeometryError: a rate that is not above 0.
    """
    _check_shapes(relative, pixels, object_masks, robot_masks)
    window = frames_in(WINDOW_S, fps)
    if camera_moves or camera_moves is None:
        reason = "the camera moves" if camera_moves else "too little texture to tell whether the camera moves"
        return Anchored(None, None, reason, {"reason": reason, "scenes": []})
    foreground = _foreground(relative.shape, object_masks, robot_masks)
    if tracks is not None:
        _add_moving_tracks(foreground, tracks, window)
    starts = [0, *sorted({int(cut) for cut in cuts if 0 < cut < len(relative)})]
    stabilizer, reports = np.empty((len(relative), 2), np.float32), []
    for first, past in zip(starts, [*starts[1:], len(relative)], strict=True):
        scene = slice(first, past)
        outcome = _anchor_scene(relative[scene], foreground[scene], pixels[scene])
        reports.append(outcome.report)
        if outcome.stabilizer is None:
            return Anchored(None, None, outcome.reason, {"reason": outcome.reason, "scenes": reports})
        stabilizer[scene] = outcome.stabilizer
    # In float32 from the stored pair, so that a reader who applies it gets these very numbers.
    values = stabilizer[:, :1, None] * relative + stabilizer[:, 1:, None]
    return Anchored(values, stabilizer, report={"reason": "", "scenes": reports})


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
    chosen = chosen[sample_indices(len(chosen), _DRIFT_SAMPLES)]
    seen = background.reshape(len(depth), -1)[:, chosen]
    series = np.where(seen, depth.reshape(len(depth), -1)[:, chosen], np.nan)
    low, high = np.percentile(sample_values(depth, _SPREAD_SAMPLES), [5, 95])
    return float(np.median(np.nanstd(series, axis=0)) / max(high - low, 1e-12))


def still_background(pixels: NDArray[np.uint8], foreground: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(T, H, W) bool: pixels that show the clip's median image and have no foreground or change near them.

    A frame's overall change of colour (exposure) is taken out first; the threshold follows the clip's noise.
    """
    reach = _Reach.of(pixels.shape[2])
    blur = (reach.blur, reach.blur)
    median = cv2.blur(_median_image(pixels), blur)
    change = np.empty(foreground.shape, np.uint8)
    for t, frame in enumerate(pixels):
        difference = cv2.blur(frame.astype(np.float32), blur) - median
        # Not more than an exposure changes: else a black frame would agree with an even table.
        difference -= np.clip(np.median(difference.reshape(-1, 3), axis=0), -25, 25)
        change[t] = np.minimum(np.abs(difference).max(-1), 255)
    # Half of a clip's pixels and more are still: the median change is noise. Below 6 of 255 is compression.
    threshold = max(6.0, 4.0 * float(np.median(change)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach.change + 1, 2 * reach.change + 1))
    out = np.empty(foreground.shape, np.bool_)
    for t in range(len(pixels)):
        unlike = ((change[t] > threshold) | foreground[t]).astype(np.uint8)
        out[t] = cv2.dilate(cv2.medianBlur(unlike, 3), kernel) == 0
    return out


def _anchor_scene(relative: NDArray[np.float32], foreground: NDArray[np.bool_], pixels: NDArray[np.uint8]) -> Anchored:
    report: dict[str, Any] = {}
    background = still_background(pixels, foreground)
    # A pixel at 0 was cut off by the network's last rectifier: it does not follow scale and shift.
    samples, seen = _sample(relative, background & (relative > 0))
    report["background_share"] = round(float(background.mean()), 3)
    enough = seen.sum(1) >= max(_FEWEST, 0.05 * samples.shape[1])
    few = background.mean() < _LEAST_BACKGROUND or samples.shape[1] < 2 * _FEWEST
    if few or not enough.any():
        return Anchored(None, None, "too little still background", report)
    scale, shift, with_scale = _fit_frames(samples, seen & enough[:, None])
    fitted = enough & np.isfinite(scale) & (scale > 0.1) & (scale < 10)
    if not fitted.any():
        return Anchored(None, None, "no frame fits the clip's background", report)
    frames = np.arange(len(scale))
    stabilizer = np.stack([np.interp(frames, frames[fitted], pair[fitted]) for pair in (scale, shift)], 1)
    stabilizer = stabilizer.astype(np.float32)
    anchored = stabilizer[:, :1, None] * relative + stabilizer[:, 1:, None]
    report |= {
        "fitted": "scale and shift" if with_scale else "shift",
        "interpolated_frames": [int(t) for t in frames[~fitted]],
        "drift_before": background_drift(relative, background),
        "drift_after": background_drift(anchored, background),
    }
    return Anchored(anchored, stabilizer, report=report)


def _sample(
    relative: NDArray[np.float32], background: NDArray[np.bool_], *, min_seen: float = 0.5
) -> tuple[Floats, NDArray[np.bool_]]:
    """(T, N) depth of pixels that are background most of the time, and (T, N) whether they are in that frame."""
    usual = np.flatnonzero(background.mean(0).ravel() >= min_seen)
    usual = usual[sample_indices(len(usual), _SAMPLES)]
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
    # Neighbouring pixels err alike: of each 50 samples count one. A slope counts when it is known to 2 %, or to 10 %
    # when it varies over the clip three times as much; else it would add more drift than it takes out.
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
    chosen = sample_indices(len(pixels), most)
    chosen = chosen[: len(chosen) - (len(chosen) + 1) % 2]  # an even number would average two pictures into a ghost
    return np.asarray(np.median(pixels[chosen], axis=0), np.float32)


def _foreground(
    shape: tuple[int, ...], object_masks: NDArray[np.bool_] | None, robot_masks: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    out = np.zeros(shape, np.bool_)
    for masks in (object_masks, robot_masks):
        if masks is not None:
            out |= dilate(masks, _Reach.of(shape[2]).outline)
    return out


def _add_moving_tracks(foreground: NDArray[np.bool_], tracks: SceneTracks, window: int) -> None:
    """Marks a disc around every visible point that moves within `window` frames before or after this one."""
    reach, xy, seen = _Reach.of(foreground.shape[2]), tracks.xy, tracks.seen
    window = min(window, max(len(xy) - 1, 1))
    step = np.linalg.norm(xy[window:] - xy[:-window], axis=-1) > reach.moving
    step &= seen[window:] & seen[:-window]
    moving = np.zeros(seen.shape, np.bool_)
    moving[window:] |= step
    moving[: len(moving) - window] |= step
    for t, frame in enumerate(foreground):
        disc = frame.astype(np.uint8)
        for x, y in xy[t][moving[t] & seen[t]]:
            cv2.circle(disc, (round(float(x)), round(float(y))), reach.track, 1, -1)
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
