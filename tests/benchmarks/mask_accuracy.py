"""J and F of masks against simulated episodes' exact ones, and contact from the masks found.

    python -m tests.benchmarks.mask_accuracy ../shared/data/groundtruth_dev

The episodes are played at 5 frames a second, BridgeData's rate, which they imitate in length and in motion from frame
to frame; `--fps 20` says what it costs when the stated rate is four times too high. Masks are compared at packet size,
over all frames; means are over the episodes with a fixed camera and over those with a moving one, each counting once.
Frames in which neither shows the object count 1. Contact is found from the masks and the gripper signal alone, without
tracks. `things` is the mean over the other things of generated episodes of the overlap with the number that covers each
best.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.build import SEGMENTERS
from extractors.contact import estimate_contact
from extractors.geometry import intersection_over_union, resize_masks
from extractors.masks import recorded_masks
from extractors.types import Episode, Masks, SceneTracks, Size, Things
from scoring.truth.davis import contour_accuracy, region_similarity

LEAST_SHOWN = 0.001
"""Share of the frame that a thing shows on average, at least: 50 pixels of a packet."""


@dataclass(frozen=True)
class MaskResult:
    """Means over one episode's frames, and what it took."""

    name: str
    moving_camera: bool
    region: float
    contour: float
    robot: float
    things: float
    contact: float
    is_empty: bool
    confidence: float
    n_frames: int
    cpu_s: float
    note: str


def contact_f1(episode: Episode, masks: Masks, truth: NDArray[np.bool_], tracks: SceneTracks | None = None) -> float:
    """F1 of the frames with contact, from what was found and the gripper signal; NaN where there is none."""
    found = estimate_contact(
        episode.gripper,
        fps=episode.fps,
        masks=masks.object,
        robot_masks=masks.robot,
        tracks=tracks,
        camera_moves=bool(masks.report.get("camera_motion")),
    )
    said = found.probability > 0.5
    return float(2 * (said & truth).sum() / (said.sum() + truth.sum())) if truth.any() else float("nan")


def things_found(found: Things | None, truth: NDArray[np.uint8]) -> float:
    """Mean over the other things of `truth` (T, H, W), numbers from 3 on, of the best overlap over the clip; or NaN.

    Of those that show `LEAST_SHOWN` of a frame on average.
    """
    numbers = [k for k in range(3, int(truth.max(initial=0)) + 1) if (truth == k).mean() >= LEAST_SHOWN]
    if found is None or not numbers:
        return float("nan")
    sizes = np.bincount(found.labels.ravel(), minlength=256)
    overlaps = []
    for number in numbers:
        own = truth == number
        common = np.bincount(found.labels[own], minlength=256)
        overlaps.append(float((common / np.maximum(sizes + own.sum() - common, 1))[1:].max()))
    return float(np.mean(overlaps))


def load_episode(path: Path, index: int, *, gripper: bool = True, fps: float = 5.0) -> tuple[Episode, bool]:
    """One file of the ground truth as an episode with recorded masks, and whether its camera moves."""
    with np.load(path) as data:
        meta = json.loads(str(data["meta"]))
        pixels = data["rgb"]
        episode = Episode(
            episode_id=path.stem,
            episode_index=index,
            camera_name=str(meta["camera"]),
            language_instruction=str(data["language_instruction"]),
            fps=fps,
            pixels=pixels,
            timestamp=np.arange(len(pixels)) / fps,
            gripper=data["gripper_opening"] if gripper else None,
            recorded_masks=data["object_mask"] > 0,
        )
    return episode, bool(meta["moving_camera"])


def measure(
    folder: Path,
    backend: str = "nano",
    size: Size = (224, 224),
    *,
    gripper: bool = True,
    fps: float = 5.0,
    **settings: Any,
) -> Iterator[MaskResult]:
    """One result per episode of `folder`, in name order; `settings` are the backend's."""
    segmenter = SEGMENTERS[backend](**settings)
    for index, path in enumerate(sorted(folder.glob("*.npz"))):
        episode, moving_camera = load_episode(path, index, gripper=gripper, fps=fps)
        start = time.process_time()
        masks = segmenter.segment(episode, size=size)
        seconds = time.process_time() - start
        truth = recorded_masks(episode, size=size).object
        with np.load(path) as data:
            contact, robot = data["contact"].astype(bool), resize_masks(data["robot_mask"] > 0, size)
            others = data["things"] if "things" in data else np.zeros((episode.n_frames, 1, 1), np.uint8)
        height, width = size
        others = np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for each in others])
        yield MaskResult(
            name=path.stem,
            moving_camera=moving_camera,
            region=float(region_similarity(masks.object, truth).mean()),
            contour=float(contour_accuracy(masks.object, truth).mean()),
            robot=float("nan") if masks.robot is None else float(intersection_over_union(masks.robot, robot).mean()),
            things=things_found(masks.things, others),
            contact=contact_f1(episode, masks, contact),
            is_empty=bool(truth.any() and not masks.object.any()),
            confidence=float(masks.score.mean()),
            n_frames=episode.n_frames,
            cpu_s=seconds,
            note=str(masks.report.get("reason", "")),
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of ground-truth episodes (*.npz)")
    parser.add_argument("--backend", default="nano", choices=sorted(SEGMENTERS), help="default: nano")
    parser.add_argument("--no-gripper", action="store_true", help="withhold the gripper signal")
    parser.add_argument("--choose", choices=("best", "first"), help="how a text backend chooses; default: its own")
    parser.add_argument("--fps", type=float, default=5.0, help="frame rate that is stated; default: 5")
    arguments = parser.parse_args()
    settings = {"choose": arguments.choose} if arguments.choose else {}
    if not any(arguments.folder.glob("*.npz")):
        parser.error(f"no *.npz in {arguments.folder}")
    results: dict[str, list[MaskResult]] = {"fixed": [], "moving": []}
    columns = ("J", "F", "robot", "things", "touch", "score", "frames", "cpu s")
    print(f"{'episode':32} " + " ".join(f"{column:>6}" for column in columns))
    for result in measure(
        arguments.folder, arguments.backend, gripper=not arguments.no_gripper, fps=arguments.fps, **settings
    ):
        results["moving" if result.moving_camera else "fixed"].append(result)
        print(
            f"{result.name:32} {result.region:6.3f} {result.contour:6.3f} {result.robot:6.3f} "
            f"{result.things:6.3f} {result.contact:6.3f} "
            f"{result.confidence:6.2f} "
            f"{result.n_frames:6d} {result.cpu_s:6.1f}  {result.note}",
            flush=True,
        )
    for camera, of in results.items():
        if not of:
            continue
        # A benchmark's column may be empty: no robot masks, no contact.
        rows = np.array([[each.region, each.contour, each.robot, each.things, each.contact] for each in of])
        means = [np.mean(column[np.isfinite(column)]) if np.isfinite(column).any() else np.nan for column in rows.T]
        print(f"{f'mean of {len(of)} {camera} cameras':32} " + " ".join(f"{mean:6.3f}" for mean in means))
        print(f"no mask at all where there is an object: {np.mean([each.is_empty for each in of]):.3f} of the episodes")


if __name__ == "__main__":
    main()
