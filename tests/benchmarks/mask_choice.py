"""How often the chooser takes the manipulated object's true mask out of a field of wrong ones.

    python -m tests.benchmarks.mask_choice ../shared/data/groundtruth_dev

Candidates of each episode: the true mask; the arm's; the hand's (the arm's part next to the object); both at once; a
still thing of one colour, and the one nearest to the arm's way; a blob that wanders; the place where the object lay at
first; and noise. All but the first, the arm and the still things are made here. Every candidate has the same
confidence, so that only behaviour tells. Masks are also shown eroded, flickering (a third of the frames missing, the
rest of changing size) and late (missing for the first third): once all candidates alike, once the true one alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.backends.nano.segmenter import NanoSegmenter
from extractors.mask_choice import Candidate, choose_handled
from tests.benchmarks.groundtruth import GroundTruth, read_folder

Bools = NDArray[np.bool_]

TRUE = "object"


@dataclass(frozen=True)
class Result:
    """What was chosen in one episode under one condition."""

    episode: str
    condition: str
    chosen: str
    margin: float
    scores: dict[str, float]


def measure(folder: Path) -> Iterator[Result]:
    """One result per condition and episode in which something is handled."""
    watcher = NanoSegmenter()
    for truth in read_folder(folder):
        if not truth.object_mask.any():
            continue
        handled = watcher.handled(truth.episode)
        for condition, field in conditions(candidates(truth)):
            names = list(field)
            choice = choose_handled([_candidate(name, masks) for name, masks in field.items()], handled)
            yield Result(
                episode=truth.episode.episode_id,
                condition=condition,
                chosen=names[choice.index] if choice.index is not None else "none",
                margin=choice.margin,
                scores=dict(zip(names, choice.scores, strict=True)),
            )


def _candidate(name: str, masks: Bools) -> Candidate:
    """Of the confidence that all others have."""
    return Candidate(masks, masks.any(axis=(1, 2)) * np.float32(0.7), name)


def conditions(clean: dict[str, Bools]) -> Iterator[tuple[str, dict[str, Bools]]]:
    """Name and masks of each condition."""
    yield "clean", clean
    for name, damage in DAMAGES.items():
        yield f"all {name}", {key: damage(masks, index) for index, (key, masks) in enumerate(clean.items())}
        yield f"true {name}", {**clean, TRUE: damage(clean[TRUE], 0)}


def candidates(truth: GroundTruth, *, seed: int = 0) -> dict[str, Bools]:
    """The field of one episode: name -> (T, H, W) bool."""
    rng = np.random.default_rng(seed)
    obj, arm = truth.object_mask, truth.robot_mask
    n_frames = len(obj)
    field = {TRUE: obj, "arm": arm, "hand": _hand(obj, arm), "both": obj | arm}
    things = _still_things(np.asarray(truth.episode.pixels[0]), obj.any(axis=0))  # type: ignore[index]
    if things:
        way = cv2.distanceTransform((~arm.any(axis=0)).astype(np.uint8), cv2.DIST_L2, 3)
        # Kept behind what passes in front of it, as a detector's mask would be.
        near = min(things, key=lambda thing: float(way[thing].mean()))
        field["near thing"] = near[None] & ~arm & ~obj
        field["still thing"] = things[int(rng.integers(len(things)))][None] & ~arm & ~obj
    field["place"] = np.repeat(obj[:1], n_frames, axis=0) & ~arm
    field["wanderer"] = _wanderer(obj, rng)
    field["noise"] = _noise(obj, rng)
    return field


def _hand(obj: Bools, arm: Bools) -> Bools:
    """The part of the arm within an eighth of the frame's width of its point nearest to the object."""
    out = np.zeros_like(arm)
    for frame, (thing, robot) in enumerate(zip(obj, arm, strict=True)):
        if not thing.any() or not robot.any():
            continue
        distance = cv2.distanceTransform((~thing).astype(np.uint8), cv2.DIST_L2, 3)
        tip = np.unravel_index(np.where(robot, distance, np.inf).argmin(), robot.shape)
        y, x = np.ogrid[: robot.shape[0], : robot.shape[1]]
        out[frame] = robot & (np.hypot(y - tip[0], x - tip[1]) < robot.shape[1] / 8)
    return out


def _still_things(image: NDArray[np.uint8], occupied: Bools, *, spacing: int = 12) -> list[Bools]:
    """Regions of one colour, 0.2 to 5 % of the frame, clear of the object's way."""
    smooth = cv2.bilateralFilter(image, 7, 30, 7)
    things: list[Bools] = []
    for y in range(spacing // 2, image.shape[0], spacing):
        for x in range(spacing // 2, image.shape[1], spacing):
            if occupied[y, x] or any(thing[y, x] for thing in things):
                continue
            filled = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.uint8)
            flags = 4 | cv2.FLOODFILL_MASK_ONLY | (255 << 8)
            cv2.floodFill(smooth, filled, (x, y), (0, 0, 0), (6, 6, 6), (6, 6, 6), flags)
            region = (filled[1:-1, 1:-1] > 0) & ~occupied
            if 0.002 < region.mean() < 0.05:
                things.append(region)
    return things


def _wanderer(obj: Bools, rng: np.random.Generator) -> Bools:
    """A disc of the object's area that walks about and belongs to nothing in the image."""
    n_frames, height, width = obj.shape
    radius = max(float(np.sqrt(np.median(obj.sum(axis=(1, 2))) / np.pi)), 3.0)
    phase = rng.uniform(0, 2 * np.pi, 2)
    y, x = np.ogrid[:height, :width]
    t = np.arange(n_frames) / 12
    cx, cy = width * (0.5 + 0.3 * np.sin(t + phase[0])), height * (0.5 + 0.3 * np.sin(1.3 * t + phase[1]))
    return np.stack([np.hypot(x - a, y - b) < radius for a, b in zip(cx, cy, strict=True)])


def _noise(obj: Bools, rng: np.random.Generator) -> Bools:
    """A few random blobs, others in each frame, covering what the object covers."""
    share = min(max(float(obj.mean()), 0.005), 0.1)
    out = np.empty_like(obj)
    for frame in out:
        field = cv2.GaussianBlur(rng.standard_normal(frame.shape).astype(np.float32), (0, 0), 4)
        frame[:] = field > np.quantile(field, 1 - share)
    return out


def _eroded(masks: Bools, seed: int) -> Bools:
    """Half of each mask's area gone from its border."""
    out = np.zeros_like(masks)
    for small, mask in zip(out, masks, strict=True):
        if mask.any():
            depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
            small[:] = mask & (depth > np.median(depth[mask]))
            if not small.any():
                small[:] = mask
    return out


def _flickering(masks: Bools, seed: int) -> Bools:
    """A third of the frames empty, the others eroded or dilated by up to 2 px."""
    rng = np.random.default_rng(100 + seed)
    out = masks.copy()
    for mask in out:
        if rng.random() < 1 / 3:
            mask[:] = False
            continue
        change = int(rng.integers(-2, 3))
        kernel = np.ones((2 * abs(change) + 1,) * 2, np.uint8)
        how = cv2.dilate if change > 0 else cv2.erode
        changed = how(mask.astype(np.uint8), kernel) > 0
        mask[:] = changed if changed.any() else mask
    return out


def _late(masks: Bools, seed: int) -> Bools:
    """Nothing in the first third of the clip."""
    out = masks.copy()
    out[: len(out) // 3] = False
    return out


DAMAGES: dict[str, Callable[[Bools, int], Bools]] = {"eroded": _eroded, "flickering": _flickering, "late": _late}


def main() -> None:
    """Prints what was chosen wrongly, and a table of hits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of ground-truth episodes (*.npz)")
    parser.add_argument("--scores", action="store_true", help="print every candidate's score")
    arguments = parser.parse_args()
    if not any(arguments.folder.glob("*.npz")):
        parser.error(f"no *.npz in {arguments.folder}")
    results: dict[str, list[Result]] = {}
    for result in measure(arguments.folder):
        results.setdefault(result.condition, []).append(result)
        if result.chosen != TRUE or arguments.scores:
            best = sorted(result.scores.items(), key=lambda item: -item[1])[: 9 if arguments.scores else 3]
            told = ", ".join(f"{name} {score:.2f}" for name, score in best)
            print(f"{result.episode:28} {result.condition:16} took {result.chosen:12} {told}", flush=True)
    print(f"\n{'condition':18} {'right':>9} {'margin: least':>14} {'median':>7}")
    for condition, each in results.items():
        right = [result.margin for result in each if result.chosen == TRUE]
        least, median = (min(right), float(np.median(right))) if right else (float("nan"),) * 2
        print(f"{condition:18} {len(right):4d} / {len(each):<2d} {least:14.2f} {median:7.2f}")


if __name__ == "__main__":
    main()
