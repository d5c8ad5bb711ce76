"""What may be the object: points that rested, left when the robot came, and are found again elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from extractors.backends.motion.extent import find_extent
from extractors.backends.motion.following import flow, follow, patch_error, patches, sample
from extractors.backends.motion.scene import Bools, Floats, MotionSettings, Scene, watch
from extractors.geometry import dilate
from extractors.moments import RATE

SLACK = round(0.6 * RATE)
"""Moments in 0.6 s: a departure is no more exact than that, and what is found elsewhere for less is chance."""


@dataclass(slots=True, eq=False)
class Proposal:
    """What may be the object.

    Attributes:
        points: (N, 2) home pixels (x, y).
        departure: first moment in which it has left home.
        extent: (h, w) bool, its pixels at home.
        score: in [0, 1], after the check.
        is_late: another good one leaves home before it.
        facts: what the score was made from, for the report.
    """

    points: Floats
    departure: int
    extent: Bools = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    score: float = 0.0
    is_late: bool = False
    facts: dict[str, float] = field(default_factory=dict)


def find_proposals(pixels: NDArray[np.uint8], settings: MotionSettings) -> tuple[Scene, list[Proposal]]:
    """The scene and its proposals, best first, from moments (T, h, w, 3).

    The home image is made from the first two fifths of the moments. Where the best proposal leaves home much later, it
    is made again from all moments until then: the longer the window, the fewer places hide behind the arm. When the
    gripper closes is not asked: with it J was 0.003 lower on simulated episodes, and 0.13 on 24 generated ones.
    """
    window = round(0.4 * len(pixels))
    for _ in range(2):
        window = min(max(window, 2 * SLACK), len(pixels))
        scene = watch(pixels, window, settings)
        # The object was among the three largest groups in all simulated episodes.
        proposals = sorted(_groups(scene), key=lambda each: -len(each.points))[: settings.max_candidates]
        for each in proposals:
            _check(scene, each)
        proposals = _ranked(proposals)
        if not proposals or proposals[0].score <= 0 or proposals[0].departure <= window + SLACK:
            break
        window = proposals[0].departure - 1
    return scene, proposals


def _ranked(proposals: list[Proposal]) -> list[Proposal]:
    """Best first, after the scores of those are halved that leave home after another good one has.

    What the object comes to cover, or knocks against, leaves its home later than the object does.
    """
    best = max((each.score for each in proposals), default=0.0)
    good = [
        each.departure
        for each in proposals
        if each.score > 0 and each.score >= 0.5 * best and each.facts["followed"] >= 0.5
    ]
    for each in proposals:
        each.is_late = bool(good) and each.departure > min(good) + SLACK - 1
        each.score *= 0.5 if each.is_late else 1.0
    return sorted(proposals, key=lambda each: -each.score)


def _groups(scene: Scene) -> list[Proposal]:
    """Groups of neighbouring points that rested, left, and were found elsewhere."""
    points, found, at_home = _track_from_home(scene)
    if not len(points):
        return []
    n_moments = scene.n_moments
    last_home = np.where(at_home.any(axis=0), n_moments - 1 - at_home[::-1].argmax(axis=0), -1)
    rested = (at_home & (np.arange(n_moments)[:, None] <= last_home)).sum(axis=0) / np.maximum(last_home + 1, 1)
    chosen = (found.sum(axis=0) >= SLACK) & (last_home >= 1) & (rested > 0.5)
    seeds = np.zeros(scene.size, np.bool_)
    columns, rows = points.astype(int).T
    seeds[rows[chosen], columns[chosen]] = True
    near = scene.px(0.012)
    groups, n_groups = ndimage.label(dilate(seeds, near))
    group = np.where(chosen, groups[rows, columns], 0)
    members = [group == number for number in range(1, n_groups + 1)]
    # A third of the points in a disc of `near`: fewer cannot be followed.
    return [
        Proposal(points[member], int(np.median(last_home[member])) + 1)
        for member in members
        if member.sum() >= 0.2 * near**2 * np.pi
    ]


def _track_from_home(scene: Scene, spacing: int = 2) -> tuple[Floats, Bools, Bools]:
    """Points (N, 2) of the home image followed through the clip: found elsewhere (T, N), and at home (T, N).

    A point whose place shows home again is put back there; "found elsewhere" asks for its appearance, on foreground.
    """
    settings = scene.settings
    height, width = scene.size
    n_moments = scene.n_moments
    boxes = [scene.blurred(moment, 5) for moment in range(n_moments)]
    changed = np.sum([box > settings.foreground for box in boxes[max(scene.window - SLACK, 1) :]], axis=0)
    grid_y, grid_x = np.mgrid[1:height:spacing, 1:width:spacing]
    use = np.broadcast_to(changed, scene.size)[grid_y, grid_x] >= SLACK
    points = np.stack([grid_x[use], grid_y[use]], -1).astype(np.float32)
    found = np.zeros((n_moments, len(points)), np.bool_)
    at_home = np.zeros_like(found)
    if not len(points):
        return points, found, at_home
    columns, rows = points.astype(int).T
    looks = patches(scene.home, points)
    place = points
    for moment, box in enumerate(boxes):
        at_home[moment] = box[rows, columns] < settings.at_home
        moved = flow(scene, moment, place) if moment else place
        place = np.where(at_home[moment][:, None], points, moved).astype(np.float32)
        error = patch_error(patches(scene.pixels[moment].astype(np.float32), place), looks)
        found[moment] = (
            (error < settings.appearance)
            & ~at_home[moment]
            & (sample(box, place) > settings.foreground)
            & (np.linalg.norm(place - points, axis=-1) > scene.px(0.01))
            & ((place > 0) & (place < np.array([width - 1, height - 1]))).all(axis=-1)
        )
    return points, found, at_home


def _check(scene: Scene, proposal: Proposal) -> None:
    """Follows the proposal, finds its extent at home, follows that, and scores it.

    The score is a product of how large it is and how calm its surroundings were before it left (the arm's never are).
    Timing, the border, the arm's colours and how well it is followed chose no better on the simulated episodes.
    """
    points, departure = proposal.points, proposal.departure
    for tolerance in (20.0, 13.0):
        motions, cost = follow(scene, points, range(max(departure - 1, 0), scene.n_moments))
        matched = cost < tolerance
        extent = find_extent(scene, motions, matched, points, departure)
        proposal.extent, proposal.departure = extent, departure
        if extent.sum() < scene.smallest:
            return
        rows, columns = np.nonzero(extent)
        points = np.stack([columns, rows], -1).astype(np.float32)
        departure = int(np.clip(np.percentile(scene.departure[extent], 25), 1, scene.n_moments - 1))
    proposal.points, proposal.departure = points, departure
    ring = dilate(extent, scene.px(0.02)) & ~dilate(extent, scene.px(0.004))
    before = scene.distance[: max(int(0.7 * departure), 1)][:, ring]
    facts: dict[str, Any] = {
        "followed": float(matched[departure:].mean()),
        "restless": float((before > scene.settings.foreground).mean()) if ring.any() else 1.0,
        "area": float(extent.mean()),
    }
    proposal.facts = facts
    proposal.score = (1 - facts["restless"]) ** 3 * min(facts["area"] / 0.03, 1.0) ** 0.33
