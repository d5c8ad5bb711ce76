"""DAVIS's numbers about masks against the truth: region similarity J and contour accuracy F.

Definitions: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 5; Pont-Tuset et al., "The 2017 DAVIS Challenge on Video Object Segmentation", arXiv:1704.00675.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from extractors.errors import ShapeError
from extractors.geometry import intersection_over_union

CONTOUR_TOLERANCE = 0.008
"""Distance within which contours count as matched, of the image diagonal (DAVIS's `bound_th`)."""


@dataclass(frozen=True, slots=True)
class DavisStatistics:
    """DAVIS's three numbers about one measure over a clip.

    Attributes:
        mean: over all frames.
        recall: share of the frames above 0.5.
        decay: mean of the first quarter of the clip minus that of the last.
    """

    mean: float
    recall: float
    decay: float


def region_similarity(masks: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """J of each frame: intersection over union; 1 where both masks are empty.

    Args:
        masks: (T, H, W) bool.
        truth: (T, H, W) bool.

    Returns:
        (T,) float64 in [0, 1].

    Raises:
        ShapeError: not two (T, H, W) bool arrays of one shape.
    """
    _check_pair(masks, truth)
    return intersection_over_union(masks, truth)


def contour_accuracy(
    masks: NDArray[np.bool_], truth: NDArray[np.bool_], *, tolerance: float = CONTOUR_TOLERANCE
) -> NDArray[np.float64]:
    """F of each frame: harmonic mean of the contours' precision and recall; 1 where both masks are empty.

    A contour pixel is matched where the other contour passes within the disc of radius
    ceil(tolerance * image diagonal). An empty mask against a full one scores 0.

    Args:
        masks: (T, H, W) bool.
        truth: (T, H, W) bool.
        tolerance: of the image diagonal; 1 or more is a radius in pixels.

    Returns:
        (T,) float64 in [0, 1].

    Raises:
        ShapeError: not two (T, H, W) bool arrays of one shape.
    """
    _check_pair(masks, truth)
    radius = tolerance if tolerance >= 1 else np.ceil(tolerance * np.hypot(*masks.shape[1:]))
    pairs = zip(masks, truth, strict=True)
    return np.array([_contour_f(contour(mask), contour(true), radius) for mask, true in pairs])


def contour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(H, W) bool, True where a pixel of `mask` (H, W) differs from its right, lower or lower right neighbour.

    DAVIS's one-pixel contour, which is half a pixel up and left of the true one in both masks alike.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, lower, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask ^ right) | (mask ^ lower) | (mask ^ diagonal)


def summarise(per_frame: NDArray[np.float64]) -> DavisStatistics:
    """Mean, recall and decay of J or F (T,) over a clip, all frames included.

    Raises:
        ShapeError: no frame.
    """
    if per_frame.ndim != 1 or not len(per_frame):
        raise ShapeError(f"a summary needs (T,) values of at least one frame, got {per_frame.shape}")
    quarters = [part for part in np.array_split(per_frame, 4) if len(part)]
    return DavisStatistics(
        mean=float(per_frame.mean()),
        recall=float((per_frame > 0.5).mean()),
        decay=float(quarters[0].mean() - quarters[-1].mean()),
    )


def _contour_f(found: NDArray[np.bool_], true: NDArray[np.bool_], radius: float) -> float:
    if not found.any() or not true.any():
        return float(not found.any() and not true.any())
    precision = float((ndimage.distance_transform_edt(~true)[found] <= radius).mean())
    recall = float((ndimage.distance_transform_edt(~found)[true] <= radius).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _check_pair(masks: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
    for name, array in (("masks", masks), ("truth", truth)):
        if array.ndim != 3 or array.dtype != np.bool_:
            raise ShapeError(f"{name} must be (T, H, W) bool, got {array.shape} {array.dtype}")
    if masks.shape != truth.shape:
        raise ShapeError(f"masks and truth must have one shape, got {masks.shape} and {truth.shape}; resize one")
