"""Where the object is in space: the mean of its back-projected depth, and how well that is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError, GeometryError, ShapeError
from extractors.geometry import as_masks, sample_indices, sample_values
from extractors.types import Camera, Centroids, Depth

Method = Literal["robust", "mean"]

RELATIVE_FAR = 2.2
"""Depth ratio that the 5th and 95th percentile of a clip's relative inverse depth are taken to have: the median over
the fixed-camera ground-truth scenes (1.9 to 2.4 there, one with open background 5.6)."""

RELATIVE_LIMIT = 10.0
"""Largest relative depth, in units of the near end; inverse depth at or below its zero is put there."""

METRIC_LIMIT_M = 50.0
"""Metric depth whose median is above this is not in metres: no robot's table is 50 m away."""

DEPTH_SIGMA = {"metric": 0.02, "relative": 0.05}
"""Relative uncertainty of a whole depth map. Metric: the 2 % of the RealSense D400 data sheet. Relative: a plain guess
at how far a model's inverse depth is from affine; it does not cover the choice of RELATIVE_FAR."""

MASK_SIGMA_PX = 0.5
"""Uncertainty of a mask's border, pixels: a border drawn at whole pixels."""

_RELIEF = 0.024  # least step in depth that tells object from surroundings, relative; twice the D400's tolerance is 4 %
_SAMPLE = 8  # frames that the bleed of a clip is measured on
_READINGS = 200_000  # values that percentiles of a clip are taken of; it has up to 1e8


class _Reach(NamedTuple):
    """Layers of pixels around a mask's border in a frame `width` wide: shares of it, measured at 224 pixels.

    Attributes:
        around: how far outside the mask its surroundings are looked at.
        outside: nearest distance at which surroundings are taken as free of the object.
        soft: most layers inside the edge whose depth is taken as mixed.
        bleed: most layers that a clip's masks may bleed.
        ridge: how far a thin part's middle is looked for.
    """

    around: int
    outside: int
    soft: int
    bleed: int
    ridge: int

    @classmethod
    def of(cls, width: int) -> _Reach:
        def layers(share: float) -> int:
            return max(round(share * width), 1)

        return cls(layers(0.027), layers(0.0134), layers(0.0223), layers(0.0357), layers(0.018))


class InverseDepthMap(NamedTuple):
    """1 / z = scale * inverse + shift: what turns a clip's relative inverse depth into depth in the unit "relative"."""

    scale: float
    shift: float

    def depth(self, inverse: NDArray[Any]) -> NDArray[np.float32]:
        """Depth of relative inverse depth; 0 where it is not finite."""
        closeness = np.maximum(self.scale * np.asarray(inverse, np.float64) + self.shift, 1 / RELATIVE_LIMIT)
        return np.where(np.isfinite(closeness), 1 / closeness, 0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class MaskFit:
    """How a clip's masks lie on its depth.

    Attributes:
        bleed_px: layers of pixels by which the masks reach over the object's edge.
        soft_px: layers inside that edge whose depth is mixed with the surroundings (blurred depth), 0 if it is sharp.
    """

    bleed_px: int = 0
    soft_px: int = 0


class ObjectPixels(NamedTuple):
    """The object's pixels in one frame that are believed.

    Attributes:
        x, y: (P,) pixels.
        z: (P,) float64 depth; on borders with mixed depth, that of the nearest sure pixel.
        area_px: pixels of the object, those without a reading included.
        spread: standard deviation of `z`.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    z: NDArray[np.float64]
    area_px: int
    spread: float


def extract_centroids(
    masks: NDArray[np.bool_],
    depth: Depth,
    camera: Camera,
    *,
    method: Method = "robust",
    depth_sigma: float | None = None,
    mask_sigma_px: float = MASK_SIGMA_PX,
) -> Centroids:
    """Mean of the object's back-projected pixels, frame by frame.

    `robust` looks where the masks' borders lie on the depth, once per clip: layers of pixels whose depth is that of the
    surroundings are left out, and where depth is blurred the object's edge gets the depth of its inside. Masks that fit
    are left as they are, so the answer is the plain mean there. `mean` takes every masked reading.

    Relative inverse depth r becomes depth by one mapping per clip, 1 / z = scale * r + shift, such that the 95th
    percentile of the clip is at z = 1 and the 5th at `RELATIVE_FAR`; the unit is then "relative" and `report` holds
    the mapping.

    `sigma` adds, to first order and as independent: the camera's focal uncertainty (x and y scale with 1 / f), a common
    error of the depth map (all three scale with it), and the mask's border, which moves the mean by
    mask_sigma_px / sqrt(2) where opposite sides err independently, and in depth by the share of border pixels times
    the spread of depth.

    Args:
        masks: (T, H, W) bool, the object.
        depth: (T, H, W), metric (metres, 0 no reading) or relative inverse depth.
        camera: intrinsics of the H x W frames.
        method: "robust" or "mean".
        depth_sigma: relative uncertainty of the depth maps; None: `DEPTH_SIGMA` of the kind.
        mask_sigma_px: uncertainty of the mask's border, pixels.

    Returns:
        Centroids, NaN and not valid in frames without a masked reading.

    Raises:
        ShapeError: masks, depth and camera are not of one size.
        GeometryError: metric depth that cannot be in metres.
        ConfigError: no such method.
    """
    relative = depth_sigma if depth_sigma is not None else DEPTH_SIGMA[depth.kind]
    source = ObjectSurface.of(masks, depth, camera, method=method)
    xyz = np.full((len(masks), 3), np.nan)
    sigma = np.full((len(masks), 3), np.nan)
    for t, pixels in enumerate(source):
        if pixels is not None:
            xyz[t] = _mean_point(pixels, camera)
            sigma[t] = _point_sigma(xyz[t], pixels, camera, relative, mask_sigma_px)
    report: dict[str, Any] = {"method": method, "depth_sigma": relative, "mask_sigma_px": mask_sigma_px}
    if method == "robust":
        report |= {"mask_bleed_px": source.fit.bleed_px, "soft_edge_px": source.fit.soft_px}
    if source.mapping is not None:
        report["inverse_depth"] = {"scale": source.mapping.scale, "shift": source.mapping.shift}
    return Centroids(
        xyz=xyz.astype(np.float32),
        valid=np.isfinite(xyz).all(axis=1),
        sigma=sigma.astype(np.float32),
        unit="relative" if source.mapping is not None else "m",
        report=report,
    )


@dataclass(frozen=True, slots=True, eq=False)
class ObjectSurface:
    """The believed pixels of the object, one frame after another; what centroids and shape are made of.

    Attributes:
        masks: (T, H, W) bool.
        values: (T, H, W), the depth as given.
        mapping: what makes depth of relative inverse depth, None for metric depth.
        method: "robust" or "mean".
        fit: how the masks lie on the depth.
    """

    masks: NDArray[np.bool_]
    values: NDArray[np.float32]
    mapping: InverseDepthMap | None
    method: Method
    fit: MaskFit

    @classmethod
    def of(
        cls,
        masks: NDArray[np.bool_],
        depth: Depth,
        camera: Camera,
        *,
        method: Method = "robust",
        fit: MaskFit | None = None,
    ) -> ObjectSurface:
        """Checks the inputs and, unless `fit` tells, measures over the clip how the masks lie on the depth."""
        masks, values = as_masks(masks), np.asarray(depth.values)
        expected_shape = (len(values), camera.height, camera.width)
        if masks.ndim != 3 or masks.shape != values.shape or masks.shape != expected_shape:
            raise ShapeError(
                f"masks, depth and camera must be of one size (T, H, W), got masks {masks.shape}, "
                f"depth {values.shape}, camera {camera.height}x{camera.width}; resize to the packet's size first"
            )
        if method not in ("robust", "mean"):
            raise ConfigError(f"no centroid method named {method!r}; choose 'robust' or 'mean'")
        mapping = relative_mapping(values) if depth.kind == "relative" else None
        if mapping is None:
            _check_metres(values)
        surface = cls(masks, values, mapping, method, fit or MaskFit())
        if fit is not None or method == "mean":
            return surface
        return cls(masks, values, mapping, method, surface._measure_fit())

    @property
    def _reach(self) -> _Reach:
        return _Reach.of(self.masks.shape[2])

    def __iter__(self) -> Iterator[ObjectPixels | None]:
        for t in range(len(self.masks)):
            yield self._pixels(t)

    def _pixels(self, t: int) -> ObjectPixels | None:
        border = self._border(t)
        if border is None:
            return None
        keep, z = border.mask & border.valid, border.z
        dropped = 0
        if self.fit != MaskFit():
            keep, z = border.believed(self.fit)
            dropped = int((border.mask & border.valid & ~keep).sum())
        rows, columns = np.nonzero(keep)
        depth = z[keep].astype(np.float64)
        return ObjectPixels(
            x=columns.astype(np.float64) + border.left,
            y=rows.astype(np.float64) + border.top,
            z=depth,
            area_px=int(border.mask.sum()) - dropped,
            spread=float(depth.std()),
        )

    def _border(self, t: int) -> _Border | None:
        mask = self.masks[t]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return None
        margin = self._reach.around if self.method == "robust" else 0
        top, left = max(int(rows[0]) - margin, 0), max(int(columns[0]) - margin, 0)
        cut = np.s_[top : int(rows[-1]) + margin + 1, left : int(columns[-1]) + margin + 1]
        values = self.values[t][cut]
        z = self.mapping.depth(values) if self.mapping is not None else values.astype(np.float32)
        valid = np.isfinite(z) & (z > 0)
        if not (mask[cut] & valid).any():
            return None
        return _Border(mask[cut], np.where(valid, z, 0).astype(np.float32), valid, (top, left), self._reach)

    def _measure_fit(self) -> MaskFit:
        """Bleed and softness of the clip's masks, from a sample of its frames.

        A layer (pixels at one distance from the mask's border) has bled if most of it is nearer in depth to the
        surroundings than to the inside. What counts as inside depends on the answer, so it is asked four times, which
        is where it settled on all ground-truth clips.
        """
        present = np.flatnonzero(self.masks.any(axis=(1, 2)))
        sample = present[sample_indices(len(present), _SAMPLE)]
        borders = [border for t in sample if (border := self._border(int(t))) is not None]
        reach = self._reach
        fit = MaskFit(0, reach.soft)
        for _ in range(4):
            layers = _layer_memberships(borders, fit, reach.bleed)
            bleed = fit.bleed_px
            while bleed < reach.bleed and np.mean(layers[bleed] < 0.5) > 0.5:
                bleed += 1
            soft = 0
            while bleed + soft < reach.bleed and np.median(layers[bleed + soft]) < 0.9:
                soft += 1
            # One layer of grace: the innermost mixed layer is hard to tell from the inside it is compared with.
            last, fit = fit, MaskFit(bleed, min(soft + 1, reach.soft) if soft else 0)
            if fit == last:
                break
        return fit


def relative_mapping(inverse: NDArray[Any], *, far: float = RELATIVE_FAR) -> InverseDepthMap:
    """The clip's mapping from affine-invariant inverse depth to relative depth.

    Args:
        inverse: (T, H, W) relative inverse depth of a whole clip, larger is nearer.
        far: depth of the clip's 5th percentile, where its 95th is at 1; of the extremes, where 90 % of the clip is
            one value (a flat backdrop).

    Raises:
        GeometryError: nothing finite, or a clip without any range.
    """
    values = sample_values(inverse, _READINGS)
    low, high = np.percentile(values, (5, 95)) if len(values) else (0.0, 0.0)
    if low == high and len(values):
        low, high = values.min(), values.max()
    if not high > low:
        raise GeometryError(
            "relative depth has no range over the clip, so no depth follows from it; check the depth model's output"
        )
    scale = (1 - 1 / far) / (high - low)
    return InverseDepthMap(float(scale), float(1 - scale * high))


class _Border:
    """One frame cut to the surroundings of its mask.

    Attributes:
        mask: (h, w) bool.
        z: (h, w) float32 depth, 0 unknown.
        known: (h, w) bool, there is a reading.
        top, left: of the cut in the frame, pixels.
        reach: of the frame.
    """

    def __init__(
        self,
        mask: NDArray[np.bool_],
        z: NDArray[np.float32],
        valid: NDArray[np.bool_],
        corner: tuple[int, int],
        reach: _Reach,
    ) -> None:
        self.mask, self.z, self.valid, self.reach = mask, z, valid, reach
        self.top, self.left = corner

    @cached_property
    def inner(self) -> NDArray[np.float32]:
        """Distance of masked pixels from the mask's border, pixels; the frame's edge is none."""
        padded = cv2.copyMakeBorder(self.mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
        # A mask without any border has no distance to it, which OpenCV writes as a huge number.
        return np.minimum(distance, np.float32(sum(self.mask.shape)))

    @cached_property
    def layer(self) -> NDArray[np.int64]:
        """That distance in whole pixels, 1 at the border."""
        return np.asarray(np.ceil(self.inner - 0.5), np.int64)

    @cached_property
    def outside(self) -> NDArray[np.float32]:
        """Depth of the nearest surroundings, NaN if there are none."""
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * self.reach.outside - 1,) * 2)
        return self._nearest((cv2.dilate(self.mask.astype(np.uint8), disc) == 0) & self.valid)

    def membership(self, fit: MaskFit) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """How far each masked pixel's depth is on the object's side, and the depth of the nearest sure object pixel.

        Returns:
            (h, w) float32, 1 at the inside's depth, 0 at the surroundings', NaN where the two are alike or unknown; and
            (h, w) float32 depth.
        """
        inside = self._nearest(self._sure(fit))
        step = inside - self.outside
        clear = self.mask & self.valid & (np.abs(step) > _RELIEF * inside)
        share = np.full_like(self.z, np.nan)
        np.divide(self.z - self.outside, step, out=share, where=clear)
        return share, inside

    def believed(self, fit: MaskFit) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Pixels to keep, and their depth."""
        share, inside = self.membership(fit)
        unclear = np.isnan(share)
        keep = self.mask & self.valid
        if fit.bleed_px:
            # Two layers of grace, because a real mask does not bleed evenly.
            keep &= ~((share < 0.5) & self._within(fit.bleed_px + 2)) & ~(unclear & self._within(fit.bleed_px))
        if not keep.any():
            keep = self._sure(fit)
        if not fit.soft_px:
            return keep, self.z
        return keep, np.where(keep & ~unclear & self._within(fit.bleed_px + fit.soft_px), inside, self.z)

    def _within(self, layers: int) -> NDArray[np.bool_]:
        return np.asarray(self.inner <= layers + 0.5)

    def _sure(self, fit: MaskFit) -> NDArray[np.bool_]:
        """Object pixels behind the bleed and the soft edge; of thin parts, their middle."""
        depth_px = np.maximum(self.inner - fit.bleed_px, 0)
        width = 2 * (self.reach.ridge + fit.soft_px) + 1
        ridge = cv2.dilate(depth_px, np.ones((width, width), np.uint8))
        usable = self.mask & self.valid
        sure = usable & (depth_px > 0) & (depth_px >= np.minimum(max(fit.soft_px, 1) + 0.5, 0.7 * ridge))
        if not sure.any():
            inner = np.where(usable, self.inner, 0)
            sure = usable & (inner >= 0.8 * inner.max())
        return np.asarray(sure)

    def _nearest(self, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Depth of the nearest chosen pixel; NaN if there is none."""
        if not chosen.any():
            return np.full_like(self.z, np.nan)
        _, labels = cv2.distanceTransformWithLabels(
            (~chosen).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        depth = np.zeros(int(labels.max()) + 1, np.float32)
        depth[labels[chosen]] = self.z[chosen]
        return np.asarray(depth[labels])


def _layer_memberships(borders: list[_Border], fit: MaskFit, most: int) -> list[NDArray[np.float32]]:
    """Memberships of all clear pixels, layer by layer; a layer with too few of them to tell counts as the object's."""
    layers: list[list[NDArray[np.float32]]] = [[] for _ in range(most + 1)]
    for border in borders:
        share, layer = border.membership(fit)[0], border.layer
        clear = ~np.isnan(share)
        for k, found in enumerate(layers, start=1):
            found.append(share[clear & (layer == k)])
    joined = [np.concatenate(found) if found else np.ones(1, np.float32) for found in layers]
    return [found if len(found) >= 20 else np.ones(1, np.float32) for found in joined]


def _check_metres(values: NDArray[Any]) -> None:
    readings = sample_values(values, _READINGS, valid=values > 0)
    if len(readings) and np.median(readings) > METRIC_LIMIT_M:
        raise GeometryError(
            f"metric depth must be in metres, got a median of {np.median(readings):.0f}; "
            "this looks like millimetres: divide by 1000"
        )


def _mean_point(pixels: ObjectPixels, camera: Camera) -> NDArray[np.float64]:
    x = float(np.mean(pixels.z * (pixels.x - camera.cx)) / camera.fx)
    y = float(np.mean(pixels.z * (pixels.y - camera.cy)) / camera.fy)
    return np.array([x, y, float(pixels.z.mean())])


def _point_sigma(
    point: NDArray[np.float64], pixels: ObjectPixels, camera: Camera, depth_sigma: float, mask_sigma_px: float
) -> NDArray[np.float64]:
    focal = camera.sigma * np.abs(point * (1, 1, 0))
    depth = depth_sigma * np.abs(point)
    # The border of a disc of this area holds 2 sqrt(pi / area) of its pixels per pixel of width.
    border_share = min(1.0, 2 * np.sqrt(np.pi / max(pixels.area_px, 1)) * mask_sigma_px)
    shift = point[2] * mask_sigma_px / np.sqrt(2)
    mask = np.array([shift / camera.fx, shift / camera.fy, border_share * pixels.spread])
    return np.asarray(np.sqrt(focal**2 + depth**2 + mask**2))
