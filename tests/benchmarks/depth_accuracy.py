"""AbsRel, delta1 and background flicker of relative depth against episodes with exact depth.

    python -m tests.benchmarks.depth_accuracy FOLDER [FOLDER ...] [--backend nano]

A clip's relative inverse depth gets one scale and shift (least squares in 1/m over all frames' readings), as do the two
baselines: constant depth, and a plane, linear in the image, fitted to the clip's true inverse depth. Flicker is the
standard deviation over time of the aligned depth, relative, on pixels that show neither robot nor object in any frame;
median over those; of a moving camera it means nothing. Means are over the episodes with a fixed camera and with a
moving one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.build import DEPTH_ESTIMATORS
from extractors.depth import average_readings
from tests.benchmarks.groundtruth import GroundTruth, read_folder

PACKET = (224, 224)
Floats = NDArray[np.float64]


def scores(inverse: Floats, truth: Floats, known: NDArray[np.bool_]) -> tuple[float, float, Floats]:
    """AbsRel, delta1 and the aligned depth (T, H, W) of inverse depth `inverse` (T, H, W) against metres `truth`."""
    line = np.polyfit(inverse[known], 1 / truth[known], 1) if np.ptp(inverse[known]) > 0 else None
    aligned = np.full(truth.shape, np.mean(1 / truth[known])) if line is None else np.polyval(line, inverse)
    # Farther than anything in the clip is as wrong as the farthest: inverse depth near zero would outweigh all else.
    depth = 1 / np.maximum(aligned, 1 / truth[known].max())
    ratio = depth[known] / truth[known]
    return float(np.abs(ratio - 1).mean()), float((np.maximum(ratio, 1 / ratio) < 1.25).mean()), depth


def plane(truth: Floats, known: NDArray[np.bool_]) -> Floats:
    """(T, H, W) the best inverse depth of the form a + b x + c y for a whole clip."""
    y, x = np.mgrid[-1 : 1 : truth.shape[1] * 1j, -1 : 1 : truth.shape[2] * 1j]
    columns = np.stack([np.ones_like(x), x, y], -1)
    rows = np.broadcast_to(columns, (*truth.shape, 3))[known]
    found = np.linalg.lstsq(rows, 1 / truth[known], rcond=None)[0]
    return np.broadcast_to(columns @ found, truth.shape)


def measure(clip: GroundTruth, backend: str) -> dict[str, float]:
    """Name -> number of one clip."""
    truth = np.stack([average_readings(each, PACKET) for each in clip.depth]).astype(np.float64)
    known = truth > 0
    estimator = DEPTH_ESTIMATORS[backend]()
    start = time.process_time()
    found = estimator.estimate(clip.episode.pixels, size=PACKET).values.astype(np.float64)
    seconds = time.process_time() - start
    error, delta, depth = scores(found, truth, known)
    moving = [cv2.resize((each > 0).astype(np.uint8), PACKET[::-1]) for each in clip.object_mask | clip.robot_mask]
    still = ~cv2.dilate(np.max(moving, axis=0), np.ones((5, 5), np.uint8)).astype(bool) & known.all(axis=0)
    flicker = np.median((depth.std(axis=0) / depth.mean(axis=0))[still]) if still.any() else np.nan
    constant, of_plane = scores(np.zeros_like(truth), truth, known), scores(plane(truth, known), truth, known)
    return {
        "AbsRel": error,
        "delta1": delta,
        "flicker": float(flicker),
        "constant AbsRel": constant[0],
        "constant delta1": constant[1],
        "plane AbsRel": of_plane[0],
        "plane delta1": of_plane[1],
        "fps": len(truth) / max(seconds, 1e-9),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of ground-truth episodes (*.npz)")
    parser.add_argument("--backend", default="nano", choices=("nano",), help="default: nano")
    options = parser.parse_args()
    for folder in options.folders:
        rows: dict[str, list[list[float]]] = {"fixed": [], "moving": []}
        for clip in read_folder(folder):
            numbers = measure(clip, options.backend)
            rows["moving" if clip.moving_camera else "fixed"].append(list(numbers.values()))
            told = "  ".join(f"{name} {value:.3f}" for name, value in numbers.items())
            print(
                f"{clip.episode.episode_id[-26:]:27s}{told}{'  (camera moves)' if clip.moving_camera else ''}",
                flush=True,
            )
        for camera, of in rows.items():
            if of:
                told = "  ".join(
                    f"{name} {value:.3f}" for name, value in zip(numbers, np.nanmean(of, axis=0), strict=True)
                )
                print(f"{f'mean of {len(of)} {camera} cameras':27s}{told}")


if __name__ == "__main__":
    main()
