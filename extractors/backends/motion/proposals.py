"""What may be the object: things that lay still, left when the robot came, and are found again elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from extractors.backends.motion.extent import disc, find_extent
from extractors.backends.motion.following import carry, flow, follow, patch_error, patches, sample
from extractors.backends.motion.scene import Bools, Floats, MotionSettings, Scene, closing_frame, watch
from extractors.geometry import dilate
from extractors.types import Size


@dataclass(slots=True, eq=False)
class Proposal:
    """What may be the object.

    Attributes:
        kind: "tracked" or "departed", how it was found.
        points: (N, 2) home pixels (x, y).
        departure: first frame in which it has left home.
        prior: score before it was followed.
        extent: (h, w) bool, its pixels at home.
        score: in [0, 1], after the check.
        is_late: another good one leaves home before it.
        facts: what the score was made from, for the report.
    """

    kind: str
    points: Floats
    departure: int
    prior: float = 0.0
    extent: Bools = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    score: float = 0.0
    is_late: bool = False
    facts: dict[str, float] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """JSON types: how it was found, and what its score was made from."""
        facts = {name: round(value, 4) for name, value in self.facts.items()}
        return {
            "kind": self.kind,
            "departure": self.departure,
            "is_late": self.is_late,
            "motion_score": round(self.score, 4),
            **facts,
        }


def find_proposals(
    pixels: NDArray[np.uint8], gripper: NDArray[np.float32] | None, settings: MotionSettings
) -> tuple[Scene, list[Proposal]]:
    """The scene and its candidates, best first.

    Where the best one leaves home much later than the gripper signal says (a push, a handle), the home image is made
    again from all frames until then: the longer the window, the fewer places hide behind the arm.
    """
    contact = closing_frame(gripper)
    window = round(0.4 * len(pixels)) if contact is None else contact + 1
    window = min(max(window, 6), len(pixels))
    for _ in range(2):
        scene = watch(pixels, contact, window, settings)
        candidates = sorted(_propose(scene, settings), key=lambda each: -each.prior)[: settings.max_candidates]
        for candidate in candidates:
            _check(scene, candidate, settings)
        candidates = _ranked(candidates)
        if not candidates or candidates[0].score <= 0 or candidates[0].departure <= window + 4:
            break
        window = candidates[0].departure - 1
    return scene, candidates


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
        # Two frames: a departure is no more exact than that.
        each.is_late = bool(good) and each.departure > min(good) + 2
        each.score *= 0.5 if each.is_late else 1.0
    return sorted(proposals, key=lambda each: -each.score)


def _propose(scene: Scene, settings: MotionSettings) -> list[Proposal]:
    earliest = 2 if scene.contact is None else max(scene.contact - 3, 1)
    candidates = _tracked_groups(scene, settings, earliest) + _departed_regions(scene, earliest)
    for candidate in candidates:
        candidate.prior = _prior(scene, candidate)
    return candidates


def _tracked_groups(scene: Scene, settings: MotionSettings, earliest: int) -> list[Proposal]:
    """Groups of neighbouring points that lay still until `earliest` or later and were found again elsewhere."""
    points, found, at_home = _track_from_home(scene, settings)
    if not len(points):
        return []
    n_frames = scene.n_frames
    last_home = np.where(at_home.any(axis=0), n_frames - 1 - at_home[::-1].argmax(axis=0), -1)
    still = (at_home & (np.arange(n_frames)[:, None] <= last_home)).sum(axis=0) / np.maximum(last_home + 1, 1)
    n_found = found.sum(axis=0)
    chosen = (n_found >= settings.min_frames_moved) & (last_home >= earliest) & (last_home <= n_frames - 4)
    chosen &= still > 0.5
    seeds = np.zeros(scene.size, np.bool_)
    columns, rows = points.astype(int).T
    seeds[rows[chosen], columns[chosen]] = True
    groups, n_groups = ndimage.label(dilate(seeds, 3))
    group = np.where(chosen, groups[rows, columns], 0)
    out = []
    for number in range(1, n_groups + 1):
        member = group == number
        if member.sum() < 6:
            continue
        candidate = Proposal("tracked", points[member], int(np.median(last_home[member])) + 1)
        after = np.maximum(n_frames - 1 - last_home[member], 1)
        candidate.facts = {"found": float((n_found[member] / after).mean()), "still": float(still[member].mean())}
        out.append(candidate)
    return out


def _track_from_home(scene: Scene, settings: MotionSettings, spacing: int = 2) -> tuple[Floats, Bools, Bools]:
    """Points (N, 2) of the home image followed through the clip: found elsewhere (T, N), and at home (T, N).

    A point whose place shows home again is put back there; "found elsewhere" asks for its appearance, on foreground.
    """
    height, width = scene.size
    n_frames = scene.n_frames
    changed = np.zeros(scene.size, np.int64)
    for frame in range(max(scene.window - 3, 1), n_frames):
        changed += scene.blurred(frame, 5) > settings.foreground
    grid_y, grid_x = np.mgrid[1:height:spacing, 1:width:spacing]
    use = changed[grid_y, grid_x] >= 3
    points = np.stack([grid_x[use], grid_y[use]], -1).astype(np.float32)
    found = np.zeros((n_frames, len(points)), np.bool_)
    at_home = np.zeros_like(found)
    if not len(points):
        return points, found, at_home
    columns, rows = points.astype(int).T
    wanted = patches(scene.home, points)
    here = points
    for frame in range(n_frames):
        box = scene.blurred(frame, 5)
        at_home[frame] = box[rows, columns] < 10
        moved = flow(scene, frame, here) if frame else here
        here = np.where(at_home[frame][:, None], points, moved).astype(np.float32)
        error = patch_error(patches(scene.pixels[frame].astype(np.float32), here), wanted)
        found[frame] = (
            (error < settings.appearance)
            & ~at_home[frame]
            & (sample(box, here) > settings.foreground)
            & (np.linalg.norm(here - points, axis=-1) > settings.min_shift_px)
            & ((here > 0) & (here < np.array([width - 1, height - 1]))).all(axis=-1)
        )
    return points, found, at_home


def _departed_regions(scene: Scene, earliest: int, smallest: int = 25) -> list[Proposal]:
    """Connected regions that lay still until `earliest` or later and then never showed home again."""
    left = (scene.departure >= earliest) & (scene.departure <= scene.n_frames - 3) & (scene.stillness > 0.5)
    regions, n_regions = ndimage.label(cv2.morphologyEx(left.astype(np.uint8), cv2.MORPH_OPEN, disc(1)))
    out = []
    for number, where in enumerate(ndimage.find_objects(regions), start=1):
        member = regions[where] == number
        if n_regions == 0 or member.sum() < smallest:
            continue
        rows, columns = np.nonzero(member)
        points = np.stack([columns + where[1].start, rows + where[0].start], -1).astype(np.float32)
        departure = int(np.percentile(scene.departure[where][member], 20))
        candidate = Proposal("departed", points, departure)
        candidate.facts = {"found": 0.0, "still": float(scene.stillness[where][member].mean())}
        out.append(candidate)
    return out


def _prior(scene: Scene, candidate: Proposal) -> float:
    """Score in [0, 1] before the candidate was followed, which costs time."""
    height, width = scene.size
    columns, rows = candidate.points.astype(int).T
    n_pixels = len(columns) * (4 if candidate.kind == "tracked" else 1)
    border = _border_pixels(columns, rows, scene.size) * (n_pixels / len(columns)) ** 0.5 / np.sqrt(n_pixels)
    return float(
        _timing(candidate.departure, scene)
        * (1 - 0.7 * min(border, 1))
        * (1.1 - scene.arm_likeness[rows, columns].mean())
        * candidate.facts["still"]
        * min(n_pixels / (0.05 * height * width), 1.0) ** 0.25
        * (0.3 + 0.7 * candidate.facts["found"])
        / 1.1
    )


def _timing(departure: int, scene: Scene) -> float:
    """How well a departure fits the gripper: two frames after it closed, later rather than sooner."""
    if scene.contact is None:
        return float(np.exp(-0.5 * ((departure / scene.n_frames - 0.5) / 0.3) ** 2))
    late = departure - scene.contact - 2
    return float(np.exp(-late / 12.0) if late > 0 else np.exp(-0.5 * (late / 5.0) ** 2))


def _border_pixels(columns: NDArray[Any], rows: NDArray[Any], size: Size) -> int:
    """The length of contact with the border: pixels in the outermost two rows or columns, halved."""
    height, width = size
    near = (columns < 2) | (rows < 2) | (columns >= width - 2) | (rows >= height - 2)
    return int(near.sum()) // 2


def _check(scene: Scene, candidate: Proposal, settings: MotionSettings) -> None:
    """Follows the candidate, finds its extent at home, follows that, and scores it."""
    points, departure = candidate.points, candidate.departure
    for tolerance in (20.0, 13.0):
        last = min(scene.n_frames, departure + settings.horizon)
        motions, cost = follow(scene, points, range(max(departure - 1, 0), last), settings)
        matched = cost < tolerance
        extent = find_extent(scene, motions, matched, points, departure, last, settings)
        candidate.extent, candidate.departure = extent, departure
        if extent.sum() < 12:
            return
        points = _pixels_of(extent)
        departure = int(np.clip(np.percentile(scene.departure[extent], 25), 1, scene.n_frames - 2))
    candidate.points, candidate.departure = points, departure
    centre = points.mean(axis=0)[None]
    travel = max(float(np.linalg.norm(carry(motions[t], centre) - centre)) for t in range(departure, last))
    ring = dilate(extent, 5.5) & ~dilate(extent, 1)
    quiet = scene.distance[: max(int(0.7 * departure), 1)][:, ring]
    columns, rows = points.astype(int).T
    facts = {
        "timing": _timing(departure, scene),
        "followed": float(matched[departure:last].mean()),
        "travel_px": travel,
        "border": float(min(_border_pixels(columns, rows, scene.size) / np.sqrt(len(points)), 1.0)),
        "arm_likeness": float(scene.arm_likeness[extent].mean()),
        "restless": float((quiet > settings.foreground).mean()),
        "still": float(scene.stillness[extent].mean()),
        "area": float(extent.mean()),
    }
    candidate.facts = facts
    candidate.score = (
        facts["timing"]
        * (1 - facts["restless"]) ** 3
        * (1 - 0.7 * facts["border"])
        * (1.1 - facts["arm_likeness"])
        / 1.1
        * facts["still"]
        * min(facts["area"] / 0.03, 1.0) ** 0.33
        * (0.1 + 0.9 * facts["followed"])
        * min(travel / 10, 1.0)
    )


def _pixels_of(mask: Bools) -> Floats:
    rows, columns = np.nonzero(mask)
    return np.stack([columns, rows], -1).astype(np.float32)


def overlap(first: Proposal, second: Proposal) -> float:
    """Share of the smaller extent that the two have in common."""
    smaller = min(int(first.extent.sum()), int(second.extent.sum()))
    return float((first.extent & second.extent).sum()) / smaller if smaller else 0.0
