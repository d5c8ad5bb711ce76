"""Weight-free masks and tracks of the same episodes at other frame rates, source sizes and lengths.

    python -m tests.benchmarks.rate_sweep ../shared/data/groundtruth_dev [--contains dev03] [--tracks]

An episode is taken to be recorded at 5 frames a second, BridgeData's rate: the simulated ones imitate its length and
its motion from frame to frame. Rates: each frame is repeated, or the frames between are blended from their neighbours;
gripper and timestamps go along. J is judged on the original frames. Lengths: the first frames alone. The mean J over
fixed cameras, and the CPU seconds an episode, are printed; with --tracks the mean delta_avg of the truth's object
queries.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.build import SEGMENTERS, TRACKERS
from extractors.masks import recorded_masks
from extractors.types import Episode
from scoring.truth.davis import region_similarity
from scoring.truth.tapvid import tapvid_scores
from tests.benchmarks.groundtruth import GroundTruth, read_folder

BASE_FPS = 5.0
PACKET = (224, 224)
RATES = (5, 10, 15, 30, 50)
SIDES = (128, 256, 512)
LENGTHS = (2, 3, 5, 8, 15, 30)


def at_rate(episode: Episode, fps: float, *, blend: bool = False) -> tuple[Episode, NDArray[np.int64]]:
    """The episode at `fps`, a multiple of 5, and the numbers (T,) of its original frames in it."""
    times = round(fps / BASE_FPS)
    pixels = np.stack([np.asarray(frame) for frame in episode.pixels])
    n_frames = len(pixels)
    place = np.arange((n_frames - 1) * times + 1) / times
    before = np.minimum(np.floor(place).astype(int), n_frames - 1)
    after = np.minimum(before + 1, n_frames - 1)
    part = (place - before)[:, None, None, None] if blend else np.zeros((len(place), 1, 1, 1))
    mixed = np.rint(pixels[before] * (1 - part) + pixels[after] * part).astype(np.uint8)
    changed = dataclasses.replace(
        episode,
        fps=fps,
        pixels=mixed,
        timestamp=np.arange(len(mixed)) / fps,
        gripper=None if episode.gripper is None else episode.gripper[before],
        action=None,
        action_valid=None,
        recorded_depth=None,
        recorded_masks=None,
        recorded_robot=None,
    )
    return changed, np.arange(n_frames) * times


def at_side(episode: Episode, side: int) -> Episode:
    """The episode with frames of `side` pixels in width."""
    height, width = episode.size
    size = (side, round(side * height / width))
    how = cv2.INTER_AREA if side < width else cv2.INTER_CUBIC
    return dataclasses.replace(
        episode,
        fps=BASE_FPS,
        pixels=np.stack([cv2.resize(np.asarray(frame), size, interpolation=how) for frame in episode.pixels]),
    )


def cut(episode: Episode, n_frames: int) -> Episode:
    """The first `n_frames` frames."""
    gripper = None if episode.gripper is None else episode.gripper[:n_frames]
    pixels = np.stack([np.asarray(frame) for frame in episode.pixels])[:n_frames]
    return dataclasses.replace(
        episode, fps=BASE_FPS, pixels=pixels, gripper=gripper, timestamp=np.arange(len(pixels)) / BASE_FPS
    )


def similarity(truth: GroundTruth, episode: Episode, original: NDArray[np.int64]) -> float:
    """Mean J of the `nano` masks in the `original` frames."""
    masks = SEGMENTERS["nano"]().segment(episode, size=PACKET).object[original]
    true_masks = recorded_masks(truth.episode, size=PACKET).object[: len(original)]
    return float(region_similarity(masks, true_masks).mean())


def track_accuracy(truth: GroundTruth, episode: Episode, original: NDArray[np.int64]) -> float:
    """delta_avg of `lucas-kanade` on the truth's object queries, in the `original` frames."""
    scale = episode.size[1] / truth.episode.size[1]
    queries = truth.object_queries.copy()
    queries[:, 0] = original[truth.object_query_frame]
    queries[:, 1:] = (queries[:, 1:] + 0.5) * scale - 0.5
    found = TRACKERS["lucas-kanade"]().track(episode.pixels, queries.astype(np.float32))
    xy = (found.xy[original] + 0.5) / scale - 0.5
    scores = tapvid_scores(
        xy,
        found.visibility[original],
        truth.object_xy,
        truth.object_visibility,
        truth.object_queries[:, 0],
        size=truth.episode.size,
        mode="strided",
    )
    return float(scores.delta_avg)


def conditions(lengths: bool) -> dict[str, Callable[[Episode], tuple[Episode, NDArray[np.int64]]]]:
    """Name -> what is done to an episode."""

    def whole(changed: Episode) -> tuple[Episode, NDArray[np.int64]]:
        return changed, np.arange(changed.n_frames)

    out: dict[str, Callable[[Episode], tuple[Episode, NDArray[np.int64]]]] = {}
    for fps in RATES:
        out[f"{fps} fps, repeated"] = lambda episode, fps=fps: at_rate(episode, fps)
    for fps in RATES[1:]:
        out[f"{fps} fps, blended"] = lambda episode, fps=fps: at_rate(episode, fps, blend=True)
    for fps in (20, 40):
        out[f"as it is, called {fps} fps"] = lambda episode, fps=fps: whole(
            dataclasses.replace(episode, fps=float(fps))
        )
    for side in SIDES:
        out[f"{side} px wide"] = lambda episode, side=side: whole(at_side(episode, side))
    if lengths:
        for n_frames in LENGTHS:
            out[f"first {n_frames} frames"] = lambda episode, n_frames=n_frames: whole(cut(episode, n_frames))
    return out


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of ground-truth episodes (*.npz)")
    parser.add_argument("--contains", default="", help="only episodes whose file name has this in it")
    parser.add_argument("--tracks", action="store_true", help="judge tracks instead of masks")
    options = parser.parse_args()
    truths = [truth for truth in read_folder(options.folder, contains=options.contains) if not truth.moving_camera]
    judge = track_accuracy if options.tracks else similarity
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.python_version()}, {time.strftime('%Y-%m-%d')}")
    for name, change in conditions(lengths=not options.tracks).items():
        started = time.process_time()
        values = [judge(truth, *change(truth.episode)) for truth in truths]
        seconds = (time.process_time() - started) / len(truths)
        each = " ".join(f"{value:.2f}" for value in values)
        print(f"{name:26s} mean {np.mean(values):.3f}  cpu s {seconds:5.1f}   {each}", flush=True)


if __name__ == "__main__":
    main()
