"""Ten numbers about the object's visible surface, frame by frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from extractors.centroids import MaskFit, ObjectPixels, ObjectSurface
from extractors.errors import ShapeError
from extractors.types import Camera, Centroids, Depth, ShapeDescriptors


def describe_shape(
    masks: NDArray[np.bool_],
    depth: Depth,
    camera: Camera,
    centroids: Centroids,
) -> ShapeDescriptors:
    """Position, extents, ratios, depth range and visibility of the object.

    - x, y, z: the centroid.
    - e1 >= e2 >= e3: standard deviations of the visible surface's points along their principal axes (square roots of
      the eigenvalues of the covariance), in the centroid's unit. Eigenvalues, unlike axes, have no sign and no order to
      jump in: the three numbers change continuously with the points.
    - e2/e1, e3/e1: 0 where e1 is 0 (a single pixel).
    - depth range: between the 5th and 95th percentile of the points' z, so that a few stray pixels do not set it.
    - visibility: visible area over the clip's largest. The area is the object's pixels times z^2 / (fx fy), what they
      cover at the object's distance, so that an object going away stays as visible as it was.

    Args:
        masks: (T, H, W) bool, the object.
        depth: (T, H, W), as given to `extract_centroids`.
        camera: intrinsics of the H x W frames.
        centroids: of the same masks and depth; their `report` says which pixels were believed.

    Returns:
        ShapeDescriptors (T, 10), NaN and not valid where the centroid is not.

    Raises:
        ShapeError: arrays of different lengths or sizes.
        GeometryError: metric depth that cannot be in metres.
    """
    if len(centroids.xyz) != len(masks):
        raise ShapeError(f"centroids and masks must have one length, got {len(centroids.xyz)} and {len(masks)}")
    values = np.full((len(masks), 10), np.nan)
    areas = np.full(len(masks), np.nan)
    report = centroids.report
    fit = MaskFit(report.get("mask_bleed_px", 0), report.get("soft_edge_px", 0))
    surface = ObjectSurface.of(masks, depth, camera, method=report.get("method", "mean"), fit=fit)
    for t, pixels in enumerate(surface):
        if pixels is None or not centroids.valid[t]:
            continue
        low, high = np.percentile(pixels.z, (5, 95))
        extents = _extents(pixels, camera)
        ratios = extents[1:] / extents[0] if extents[0] > 0 else np.zeros(2)
        values[t, :9] = (*centroids.xyz[t], *extents, *ratios, high - low)
        areas[t] = pixels.area_px * float(centroids.xyz[t, 2]) ** 2 / (camera.fx * camera.fy)
    if np.isfinite(areas).any():
        values[:, 9] = areas / np.nanmax(areas)
    return ShapeDescriptors(
        values=values.astype(np.float32), valid=np.isfinite(values).all(axis=1), unit=centroids.unit
    )


def _extents(pixels: ObjectPixels, camera: Camera) -> NDArray[np.float64]:
    points = np.stack(
        [pixels.z * (pixels.x - camera.cx) / camera.fx, pixels.z * (pixels.y - camera.cy) / camera.fy, pixels.z]
    )
    centred = points - points.mean(axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(centred @ centred.T / points.shape[1])[::-1]
    # Flat and thin sets have eigenvalues of zero, which rounding may put a hair below, or above.
    return np.sqrt(np.where(eigenvalues > 1e-14 * np.square(points).mean(), eigenvalues, 0.0))
