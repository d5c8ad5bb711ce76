"""The mask of a followed thing in every moment: colours, the layer carried along, and the moment before decide."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from extractors.backends.motion.extent import layer_costs, moved_moments, window_around
from extractors.backends.motion.following import Motion, follow
from extractors.backends.motion.proposals import Proposal
from extractors.backends.motion.scene import LEVELS, UNIFORM, Bools, Floats, Scene, histogram, lookup
from extractors.geometry import dilate, sample_indices


def label_clip(scene: Scene, proposal: Proposal) -> Bools:
    """Masks (T, h, w) bool in all moments."""
    departure = proposal.departure
    motions, cost = follow(scene, proposal.points, range(max(departure - 1, 0), scene.n_moments))
    extent = _refined_extent(scene, proposal, motions, cost)
    out = np.zeros(scene.pixels.shape[:3], np.bool_)
    visible = scene.distance[:departure] < scene.settings.foreground
    for moment in range(departure):
        out[moment] = extent & (cv2.blur(visible[moment].astype(np.float32), (3, 3)) > 0.45)
    labeller = _Labeller(scene, extent)
    for moment in range(departure, scene.n_moments):
        out[moment] = labeller.label(moment, motions[moment])
    return out


def _refined_extent(scene: Scene, proposal: Proposal, motions: Motion, cost: Floats) -> Bools:
    """The proposal's home pixels, decided by layer costs and by the colours of object and background together."""
    extent, home = proposal.extent, scene.home
    reach = scene.px(0.1)
    where = window_around(proposal.points, scene.size, reach)
    stays = _uncovered_cost(scene, proposal, extent)
    static = stays < 12
    near = np.zeros(scene.size, np.bool_)
    near[where] = dilate(extent[where], reach)
    colours = 0.9 * histogram(home[extent & ~static]) + 0.1 * UNIFORM
    others = 0.95 * histogram(home[near & static & ~extent]) + 0.05 * UNIFORM
    evidence = 0.8 * np.clip(np.log(lookup(colours, home) / lookup(others, home)), -3, 3)
    moments = moved_moments(scene, motions, cost < 13.0, proposal.points, proposal.departure)
    carried = np.full(scene.size, 40, np.float32)
    if len(moments):
        carried[where] = layer_costs(scene, motions, moments, where)[0]
    lead = np.clip((np.minimum(stays, 50) - carried) / 8, -2, np.where(carried < 16, 2, 0))
    evidence += lead - 5 * (static & (carried > 10)) - 3 * (scene.stillness < 0.35)
    smooth = cv2.GaussianBlur(np.where(near, evidence, -5).astype(np.float32), (0, 0), 1.0)
    refined = _tidy(smooth > 0, extent, scene.smallest)
    return refined if refined.sum() >= scene.smallest else extent


def _uncovered_cost(scene: Scene, proposal: Proposal, extent: Bools, most: int = 14) -> Floats:
    """(h, w) difference from home after departure, grey levels, over the moments in which the arm does not cover it."""
    first = min(proposal.departure + 2, scene.n_moments - 1)
    after = first + sample_indices(scene.n_moments - first, most)
    around = histogram(scene.home[~dilate(extent, scene.px(0.1))])
    arm = np.stack(
        [
            lookup(scene.arm_colours, scene.pixels[t]) > 4 * np.maximum(lookup(around, scene.pixels[t]), 0.02 * UNIFORM)
            for t in after
        ]
    )
    distance = scene.distance[after].astype(np.float32)
    free = (~arm).sum(axis=0)
    # Where the arm always covers the pixel, its difference counts after all.
    ordered = np.sort(np.where(arm & (free >= 2), np.inf, distance), axis=0)
    share = np.where(free >= 2, 0.3 * (free - 1), 0.2 * (len(after) - 1)).round().astype(int)
    cost = np.take_along_axis(ordered, share[None], axis=0)[0]
    return np.asarray(cv2.GaussianBlur(cost.astype(np.float32), (0, 0), 0.7), np.float32)


class _Labeller:
    """Decides moment by moment which pixels are the object, in the order of time."""

    def __init__(self, scene: Scene, extent: Bools) -> None:
        self._scene = scene
        self._colours = 0.85 * histogram(scene.home[extent]) + 0.15 * UNIFORM
        self._background = 0.95 * histogram(scene.home[~extent]) + 0.05 * UNIFORM
        self._arm = 0.97 * scene.arm_colours + 0.03 * UNIFORM
        self._signed = _signed_distance(extent)
        self._vacated = dilate(extent, 2)
        self._before: tuple[Bools, Motion] | None = None

    def label(self, moment: int, motion: Motion) -> Bools:
        """(h, w) bool mask of one moment; `motion` (2, 3) carries the home extent there."""
        height, width = self._scene.size
        carried = cv2.warpAffine(self._signed, motion, (width, height), borderValue=-30)
        prior = np.clip(carried / 1.5, -4, 3)
        core = carried > 0
        if self._before is not None:
            mask, last = self._before
            step = (_square(motion) @ np.linalg.inv(_square(last)))[:2]
            kept = cv2.warpAffine(_signed_distance(mask), step, (width, height), borderValue=-30)
            prior = np.maximum(prior, np.clip((kept - 1) / 3.0, -4, 1.5))
            core |= kept > 0
        evidence = cv2.GaussianBlur((prior + self._likelihood(moment)).astype(np.float32), (0, 0), 0.9)
        mask = _tidy(evidence > 0, core & (evidence > 0), self._scene.smallest)
        self._before = (mask, motion) if mask.any() else None
        return mask

    def _likelihood(self, moment: int) -> NDArray[np.float64]:
        """(h, w) log of the pixel's likelihood as object over that as anything else, within -4 .. 4."""
        scene, image = self._scene, self._scene.pixels[moment]
        background = lookup(self._background, image)
        # Laplacian noise of 5 levels per channel around home, as a share of a bin's volume.
        unchanged = (
            np.exp(scene.distance[moment].astype(np.float64) / -5.0) / (8 * np.pi * 5.0**3) * (256 / LEVELS) ** 3
        )
        unchanged = np.where(self._vacated, 0.5 * background, np.maximum(unchanged, 1e-7))
        others = 0.5 * lookup(self._arm, image) + unchanged
        ratio: NDArray[np.float64] = np.clip(np.log(lookup(self._colours, image) / others), -4, 4)
        return ratio


def _tidy(mask: Bools, core: Bools, smallest_hole: float) -> Bools:
    """The connected parts of `mask` of which `core` covers more than 15 %, small holes closed."""
    regions, n_regions = ndimage.label(mask)
    if not n_regions:
        return mask
    covered = np.bincount(regions[core], minlength=n_regions + 1)
    area = np.bincount(regions.ravel(), minlength=n_regions + 1)
    good = covered > 0.15 * area
    good[0] = False
    kept: Bools = good[regions]
    holes, _ = ndimage.label(~kept)
    small = np.bincount(holes.ravel()) < smallest_hole
    small[0] = False
    filled: Bools = kept | small[holes]
    return filled


def _signed_distance(mask: Bools) -> Floats:
    """(h, w) pixels to the mask's edge, positive inside."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    return np.asarray(inside - cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3), np.float32)


def _square(motion: Motion) -> Motion:
    return np.concatenate([motion, [[0.0, 0.0, 1.0]]])
