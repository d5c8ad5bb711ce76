"""Pure array maths: pixels and points, resizing, dilation, robust affine fits.

Pixel coordinates are (x, y) with the centre of the top-left pixel at (0, 0); camera axes are OpenCV's (x right, y down,
z forward). Every function works on any number of leading (frame) dimensions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from extractors.errors import GeometryError, ShapeError
from extractors.types import Camera, Frames, Size

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

TUKEY_TUNING = 4.685
"""Cut-off of Tukey's biweight in standard deviations, 95 % efficient on normal noise (Holland and Welsch 1977)."""


class AffineFit(NamedTuple):
    """target = scale * source + shift, one fit per leading index.

    Attributes:
        scale, shift: (...) float64, NaN where the fit is not determined.
        sigma: (...) float64, robust standard deviation of the residuals, in the unit of `target`.
        inliers: (...) float64 in [0, 1], share of the valid samples that the fit kept.
    """

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    sigma: NDArray[np.float64]
    inliers: NDArray[np.float64]


def sample_indices(count: int, most: int, *, seed: int = 0) -> NDArray[np.int64]:
    """At most `most` of the numbers 0 to `count` - 1, spread over all of them, in order; all where they are few enough.

    One number is drawn from each of `most` equal parts. A fixed stride would do worse than it looks: one that divides
    the frame's width sees a few columns alone (224 is 32 x 7), whatever the clip's length.
    """
    if count <= most:
        return np.arange(count, dtype=np.int64)
    parts = np.arange(most) + np.random.default_rng(seed).random(most)
    drawn = np.minimum(np.floor(parts * (count / most)).astype(np.int64), count - 1)
    # Neighbouring parts that are not whole numbers long may hold the same number; they are in order already.
    return drawn[np.diff(drawn, prepend=-1) > 0]


def sample_values(values: NDArray[Any], most: int, *, valid: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """At most `most` of the finite `values` (any shape), spread as by `sample_indices`; (n,), empty where none is.

    Args:
        values: numbers.
        most: values wanted at most.
        valid: of the same shape, values that count; None: all that are finite.
    """
    flat = np.asarray(values).reshape(-1)
    use = None if valid is None else np.asarray(valid, np.bool_).reshape(-1)
    chosen = sample_indices(len(flat), most)
    drawn = flat[chosen]
    kept = np.isfinite(drawn) if use is None else np.isfinite(drawn) & use[chosen]
    if kept.sum() >= most // 10 or len(flat) <= most:
        return np.asarray(drawn[kept])
    # Few are valid: the draw would rest on a handful, so it is made among those that are.
    every = np.flatnonzero(np.isfinite(flat) if use is None else np.isfinite(flat) & use)
    return np.asarray(flat[every[sample_indices(len(every), most)]])


def pixel_rays(camera: Camera, xy: NDArray[Any]) -> NDArray[np.float64]:
    """Where the rays of pixels `xy` (..., 2) meet the plane z = 1: (..., 2) float64."""
    return (np.asarray(xy, np.float64) - (camera.cx, camera.cy)) / (camera.fx, camera.fy)


def unproject(depth: NDArray[Any], camera: Camera) -> NDArray[np.float64]:
    """Points of whole depth maps.

    Args:
        depth: (..., H, W), z along the optical axis. Values that are not positive and finite have no point.
        camera: intrinsics of the H x W frames, fx and fy apart.

    Returns:
        (..., H, W, 3) float64, camera frame, in the unit of `depth`; NaN where there is no reading.

    Raises:
        ShapeError: the maps are not of the camera's size.
    """
    depth = np.asarray(depth, np.float64)
    if depth.ndim < 2 or depth.shape[-2:] != (camera.height, camera.width):
        raise ShapeError(
            f"depth must be (..., {camera.height}, {camera.width}) for this camera, got {depth.shape}; "
            "resize one of them (Camera.resized, resize_depth)"
        )
    z = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan)
    x = (np.arange(camera.width) - camera.cx) / camera.fx
    y = (np.arange(camera.height) - camera.cy) / camera.fy
    return np.stack([z * x, z * y[:, None], z], axis=-1)


def unproject_points(xy: NDArray[Any], z: NDArray[Any], camera: Camera) -> NDArray[np.float64]:
    """Points (..., 3) float64 of pixels `xy` (..., 2) at depth `z` (...); NaN where z is not positive and finite."""
    z = np.asarray(z, np.float64)
    z = np.where(np.isfinite(z) & (z > 0), z, np.nan)
    return np.concatenate([pixel_rays(camera, xy) * z[..., None], z[..., None]], axis=-1)


def project(points: NDArray[Any], camera: Camera) -> NDArray[np.float64]:
    """Pixels (..., 2) float64 of camera-frame `points` (..., 3); NaN for points that are not in front of the camera."""
    points = np.asarray(points, np.float64)
    if points.ndim < 1 or points.shape[-1] != 3:
        raise ShapeError(f"points must be (..., 3), got {points.shape}")
    z = np.where(points[..., 2:] > 0, points[..., 2:], np.nan)
    return points[..., :2] / z * (camera.fx, camera.fy) + (camera.cx, camera.cy)


def dilate(masks: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    """Masks grown by a Euclidean disc: True where a True pixel centre is within `radius_px`.

    What is outside the frame counts as background, so that a mask at the border grows as one inside does.

    Args:
        masks: (..., H, W) bool.
        radius_px: the disc's radius, pixels, 0 or more.

    Returns:
        (..., H, W) bool.

    Raises:
        ShapeError: `masks` is not (..., H, W) bool.
        GeometryError: the radius is negative or not finite.
    """
    masks = as_masks(masks)
    if not np.isfinite(radius_px) or radius_px < 0:
        raise GeometryError(f"a dilation radius must be 0 or more pixels, got {radius_px}")
    flat = masks.reshape(-1, *masks.shape[-2:])
    out = flat.copy()
    for grown, mask in zip(out, flat, strict=True):
        if not mask.any():
            continue
        rows, columns = bounding_box(mask, margin=int(np.ceil(radius_px)))
        background = (~mask[rows, columns]).astype(np.uint8)
        distance = cv2.distanceTransform(background, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # Squared distances are whole numbers: half of one is room enough for float rounding.
        grown[rows, columns] = distance.astype(np.float64) ** 2 <= np.floor(radius_px**2 + 1e-6) + 0.5
    return out.reshape(masks.shape)


def resize_area(maps: NDArray[Any], size: Size) -> NDArray[np.float32]:
    """Maps or images at another size: area averaging down, bilinear up, each axis by its own factor.

    Args:
        maps: (H, W) or (H, W, C) numbers or bool, one image.
        size: (height, width) wanted.

    Returns:
        (height, width[, C]) float32, in the unit of `maps`.

    Raises:
        ShapeError: not one image.
    """
    image = np.asarray(maps)
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ShapeError(f"resize_area takes one (H, W) or (H, W, C) image, got {image.shape}; iterate over frames")
    image = np.ascontiguousarray(image, np.float32)
    channels = image.shape[2:]
    # Axis by axis, because INTER_AREA averages only when both axes shrink.
    for axis, target in ((0, size[0]), (1, size[1])):
        if image.shape[axis] == target:
            continue
        shape = (target, image.shape[1]) if axis == 0 else (image.shape[0], target)
        how = cv2.INTER_AREA if target < image.shape[axis] else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, shape[::-1], interpolation=how), np.float32).reshape(*shape, *channels)
    return image


def resize_rgb(frame: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """One RGB frame (H, W, 3) uint8 at (height, width, 3) uint8, by the rule of `resize_area`, rounded once."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ShapeError(f"a frame must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
    if frame.shape[:2] == size:
        return frame
    if frame.shape[0] >= size[0] and frame.shape[1] >= size[1]:
        return np.asarray(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    return np.rint(resize_area(frame, size)).clip(0, 255).astype(np.uint8)


def resize_frames(frames: Frames, size: Size) -> NDArray[np.uint8]:
    """RGB frames at packet size, rounded once.

    Args:
        frames: T images (H, W, 3) uint8, iterated once.
        size: (height, width) wanted.

    Returns:
        (T, height, width, 3) uint8.

    Raises:
        ShapeError: a frame is not (H, W, 3) uint8, or there are fewer frames than announced.
    """
    out = np.empty((len(frames), *size, 3), np.uint8)
    n_done = 0
    for n_done, frame in enumerate(frames, start=1):
        if n_done > len(out):
            break
        out[n_done - 1] = resize_rgb(frame, size)
    if n_done != len(out):
        raise ShapeError(f"{len(out)} frames were announced and {n_done} came; check the source")
    return out


def resize_mask(mask: NDArray[np.bool_], size: Size) -> NDArray[np.bool_]:
    """One mask (H, W) bool at (height, width), by the rule of `resize_masks`.

    Raises:
        ShapeError: `mask` is not (H, W) bool.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ShapeError(f"a mask must be (H, W) bool, got {mask.shape} {mask.dtype}")
    return half_covered(resize_area(mask, size))


def resize_masks(masks: NDArray[np.bool_], size: Size) -> NDArray[np.bool_]:
    """Masks (..., H, W) at (..., height, width): True where at least half of the pixel's area is covered."""
    masks = as_masks(masks)
    flat = masks.reshape(-1, *masks.shape[-2:])
    out = np.empty((len(flat), *size), np.bool_)
    for small, mask in zip(out, flat, strict=True):
        small[:] = half_covered(resize_area(mask, size))
    return out.reshape(*masks.shape[:-2], *size)


def half_covered(share: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Where at least half of a pixel is covered: the one rule for masks and depth readings at another size."""
    # Area weights are sums of float32 numbers: an exact half may come out a few units in the last place below.
    return np.asarray(share >= 0.5 - 1e-6, np.bool_)


def intersection_over_union(masks: NDArray[np.bool_], others: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(T,) float64 in [0, 1], of two sets of T masks (T, H, W) bool; 1 where both masks are empty."""
    both = (masks & others).sum(axis=(1, 2))
    either = (masks | others).sum(axis=(1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def resize_depth(depth: NDArray[Any], size: Size) -> NDArray[np.float32]:
    """Depth maps (..., H, W) at (..., height, width), averaging readings only.

    A reading is positive and finite. A pixel of which less than half is covered by readings gets 0, no reading.
    """
    depth = np.asarray(depth, np.float32)
    if depth.ndim < 2:
        raise ShapeError(f"depth must be (..., H, W), got {depth.shape}")
    flat = depth.reshape(-1, *depth.shape[-2:])
    out = np.zeros((len(flat), *size), np.float32)
    for small, full in zip(out, flat, strict=True):
        valid = np.isfinite(full) & (full > 0)
        weight = resize_area(valid, size)
        total = resize_area(np.where(valid, full, 0), size)
        np.divide(total, weight, out=small, where=half_covered(weight))
    return out.reshape(*depth.shape[:-2], *size)


def fit_scale_shift(
    source: ArrayLike,
    target: ArrayLike,
    valid: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    iterations: int = 30,
    tuning: float = TUKEY_TUNING,
) -> AffineFit:
    """Robust fit of target = scale * source + shift.

    Iteratively reweighted least squares: the first half of the iterations minimises absolute residuals, which needs no
    scale and leads to the majority; the second half uses Tukey's biweight on the MAD of the residuals, which gives
    gross outliers no weight at all (Holland and Welsch 1977; Hampel et al. 1986, chapter 6).

    Args:
        source: (..., N) numbers.
        target: (..., N) numbers.
        valid: (..., N) bool, samples to use; those that are not finite are never used.
        weights: (..., N), prior weights, 0 or more.
        iterations: reweightings in all.
        tuning: cut-off of the biweight in standard deviations.

    Returns:
        AffineFit over the leading dimensions. NaN where fewer than two different source values are valid.

    Raises:
        ShapeError: the arrays do not have one shape.
    """
    x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if x.shape != y.shape or x.ndim < 1:
        raise ShapeError(f"source and target must have one shape (..., N), got {x.shape} and {y.shape}")
    prior = np.isfinite(x) & np.isfinite(y)
    if valid is not None:
        prior = prior & np.broadcast_to(np.asarray(valid, np.bool_), x.shape)
    base = np.where(prior, np.asarray(1.0 if weights is None else weights, np.float64), 0.0)
    x, y = np.where(prior, x, 0.0), np.where(prior, y, 0.0)
    weight, spread = base, _nan_median(np.abs(y), base > 0)
    scale, shift = _weighted_line(x, y, weight)
    for i in range(iterations):
        residual = np.abs(y - scale[..., None] * x - shift[..., None])
        spread = MAD_TO_SIGMA * _nan_median(residual, base > 0)
        # Without a floor, points that lie on the line exactly would get infinite weight.
        floor = np.maximum(spread * 1e-3, 1e-12 * (1.0 + _nan_median(np.abs(y), base > 0)))[..., None]
        if i < iterations // 2:
            weight = base / np.maximum(residual, floor)
        else:
            reach = tuning * np.maximum(spread[..., None], floor)
            weight = base * np.square(np.maximum(1.0 - np.square(residual / reach), 0.0))
        scale, shift = _weighted_line(x, y, weight)
    counts = np.maximum((base > 0).sum(-1), 1)
    return AffineFit(scale, shift, np.where(np.isfinite(scale), spread, np.nan), (weight > 0).sum(-1) / counts)


def as_masks(masks: NDArray[Any]) -> NDArray[np.bool_]:
    """`masks` if they are (..., H, W) bool.

    Raises:
        ShapeError: they are not.
    """
    masks = np.asarray(masks)
    if masks.ndim < 2 or masks.dtype != np.bool_:
        raise ShapeError(f"masks must be (..., H, W) bool, got {masks.shape} {masks.dtype}; compare with a threshold")
    return masks


def bounding_box(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Slices (rows, columns) around the True pixels of a mask that has some, `margin` pixels wider if there is room."""
    out = []
    for axis in (1, 0):
        where = np.flatnonzero(mask.any(axis=axis))
        out.append(slice(max(int(where[0]) - margin, 0), int(where[-1]) + margin + 1))
    return out[0], out[1]


def _weighted_line(
    x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total = weight.sum(-1)
    safe = np.where(total > 0, total, 1.0)
    mean_x, mean_y = (weight * x).sum(-1) / safe, (weight * y).sum(-1) / safe
    dx, dy = x - mean_x[..., None], y - mean_y[..., None]
    variance, covariance = (weight * dx * dx).sum(-1), (weight * dx * dy).sum(-1)
    # A spread that is only rounding of the values themselves says nothing about the slope.
    has_slope = (total > 0) & (variance > 1e-18 * (weight * x * x).sum(-1))
    scale = np.divide(covariance, variance, out=np.full_like(total, np.nan, dtype=np.float64), where=has_slope)
    return scale, mean_y - scale * mean_x


def _nan_median(values: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Median over the last axis of the valid values, 0 where there are none."""
    ordered = np.sort(np.where(valid & np.isfinite(values), values, np.inf), axis=-1)
    count = (valid & np.isfinite(values)).sum(-1)
    low = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[..., None], -1)[..., 0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[-1] - 1)[..., None], -1)[..., 0]
    return np.where(count > 0, 0.5 * (low + high), 0.0)


def axis_taps(n_in: int, n_out: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Source pixels and weights of each target pixel along one axis, with x' = (x + 0.5) * n_out / n_in - 0.5.

    Returns:
        indices (n_out, k) and weights (n_out, k) that sum to 1: the covered area when the axis shrinks, bilinear with
        the border repeated when it grows.
    """
    step = n_in / n_out
    if n_out >= n_in:
        position = np.clip((np.arange(n_out) + 0.5) * step - 0.5, 0, n_in - 1)
        low = np.minimum(position.astype(np.intp), max(n_in - 2, 0))
        high_weight = position - low
        indices = np.stack([low, np.minimum(low + 1, n_in - 1)], axis=1)
        return indices, np.stack([1 - high_weight, high_weight], axis=1).astype(np.float32)
    start = np.arange(n_out) * step
    indices = start.astype(np.intp)[:, None] + np.arange(int(np.ceil(step)) + 1)
    covered = np.minimum(indices + 1, (start + step)[:, None]) - np.maximum(indices, start[:, None])
    weights = np.where(indices < n_in, np.maximum(covered, 0), 0) / step
    return np.minimum(indices, n_in - 1), weights.astype(np.float32)


def axis_matrix(n_in: int, n_out: int) -> NDArray[np.float32]:
    """`axis_taps` as a (n_out, n_in) matrix."""
    indices, weights = axis_taps(n_in, n_out)
    matrix = np.zeros((n_out, n_in), np.float32)
    np.add.at(matrix, (np.arange(n_out)[:, None], indices), weights)
    return matrix
