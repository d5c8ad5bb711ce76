"""Points of the scene that nothing moves or covers, through light, noise and motion that are put into clips.

    python -m tests.benchmarks.still_points FOLDER [--most 5]

FOLDER holds ground-truth episodes before a camera that stands (`cuepack sample --scenes N --out FOLDER`). Each is
taken as it is, and with: a lamp that dims by up to a half, a sensor's noise of 14 grey levels, a camera that pans by
40 pixels and turns by 4 degrees, and one that shakes by 3 pixels. Points are posed in four frames where no mask ever
comes near. Per kind, over episodes: median error in pixels, shares within 1 and 4 pixels, share seen, and seconds of
the processor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.backends.lucas_kanade import LucasKanade
from tests.benchmarks.groundtruth import read_groundtruth

KINDS = ("as it is", "lamp", "noise", "pan", "shake")

POINTS = 60

EDGE = 40
"""Nearest that a point may be to the picture's edge in the clip as it is, pixels: motion carries it towards it."""


def main() -> None:
    """Prints one row a kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=5, help="episodes")
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}
    for number, path in enumerate(sorted(options.folder.glob("*.npz"))[: options.most]):
        truth = read_groundtruth(path)
        pixels = np.stack(list(truth.episode.pixels))
        moving = truth.object_mask.any(axis=0) | truth.robot_mask.any(axis=0)
        for kind in KINDS:
            found = _measured(kind, pixels, moving, np.random.default_rng(number))
            if found is not None:
                rows[kind].append(found)
    for kind, measured in rows.items():
        median, within_1, within_4, seen, seconds = np.mean(measured, axis=0)
        print(
            f"{kind:10s} {len(measured)} episodes: {median:.2f} px, within 1 px {within_1:.0%}, 4 px {within_4:.0%}, "
            f"seen {seen:.0%}, {seconds:.1f} s"
        )


def _measured(
    kind: str, pixels: NDArray[np.uint8], moving: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[float, ...] | None:
    n_frames, (height, width) = len(pixels), pixels.shape[1:3]
    free = ~cv2.dilate(moving.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
    free[:EDGE], free[-EDGE:], free[:, :EDGE], free[:, -EDGE:] = False, False, False, False
    places = np.argwhere(free)[:, ::-1].astype(np.float64)
    if len(places) < POINTS:
        return None
    places = rng.choice(places, POINTS, replace=False)
    motions = _motions(kind, n_frames, (width, height), rng)
    clip = np.stack(
        [
            _shown(kind, frame, motion, t / n_frames, rng)
            for t, (frame, motion) in enumerate(zip(pixels, motions, strict=True))
        ]
    )
    true = np.stack([places @ motion[:, :2].T + motion[:, 2] for motion in motions])
    posed = rng.choice([0, n_frames // 3, n_frames // 2, n_frames - 1], POINTS)
    inside = ((true >= 0) & (true <= (width - 1, height - 1))).all(axis=2)
    kept = inside[posed, np.arange(POINTS)]
    queries = np.column_stack([posed, true[posed, np.arange(POINTS)]])[kept].astype(np.float32)
    began = time.process_time()
    tracks = LucasKanade().track(clip, queries)
    seconds = time.process_time() - began
    error = np.linalg.norm(tracks.xy - true[:, kept], axis=2)[inside[:, kept]]
    seen = tracks.visibility[inside[:, kept]].mean()
    return float(np.median(error)), float((error < 1).mean()), float((error < 4).mean()), float(seen), seconds


def _motions(kind: str, n_frames: int, size: tuple[int, int], rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """(2, 3) each: what the camera's motion does to the picture."""
    time_share = np.arange(n_frames) / n_frames - 0.5
    shift, turn, zoom = np.zeros((n_frames, 2)), np.zeros(n_frames), np.ones(n_frames)
    if kind == "pan":
        shift = np.stack([40 * time_share * rng.choice([-1, 1]), 20 * np.sin(3 * time_share)], axis=1)
        turn, zoom = 4 * time_share, 1 + 0.1 * time_share
    elif kind == "shake":
        shift, turn = rng.normal(0, 3, (n_frames, 2)), rng.normal(0, 0.4, n_frames)
        zoom = 1 + rng.normal(0, 0.004, n_frames)
    motions = []
    for frame in range(n_frames):
        motion = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), float(turn[frame]), float(zoom[frame]))
        motion[:, 2] += shift[frame]
        motions.append(np.asarray(motion, np.float64))
    return motions


def _shown(
    kind: str, frame: NDArray[np.uint8], motion: NDArray[np.float64], share: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    shown = np.asarray(cv2.warpAffine(frame, motion, frame.shape[1::-1], borderMode=cv2.BORDER_REFLECT), np.float64)
    if kind == "lamp":
        shown = shown * (0.75 + 0.25 * np.sin(2 * np.pi * share))
    elif kind == "noise":
        shown = shown + rng.normal(0, 14, shown.shape)
    return np.clip(shown, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
