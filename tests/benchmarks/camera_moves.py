"""How often a camera is taken for moving: still clips as they are, cut, and with motion put in.

    python -m tests.benchmarks.camera_moves FOLDER [--every 1]

FOLDER holds episodes of a still camera as `cuepack sample --scenes` writes them. All but the first row look through a
window of 0.8 of the picture, which stands still or moves; lengths are in pixels of 224, as `camera_motion` compares.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.camera_motion import clip_camera_motion
from tests.benchmarks.groundtruth import read_folder

WINDOW = 0.8
Path4 = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From when, 0 to 1 (T,), to the window's (T, 4): x and y in widths, enlargement, turn in radians."""


def _along(x: NDArray[np.float64], y: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    none = np.zeros_like(x)
    return np.stack([x, none if y is None else y, none + 1, none], axis=1)


def _shaken(when: NDArray[np.float64]) -> NDArray[np.float64]:
    return _along(*np.random.default_rng(0).normal(0, 2 / 224, (2, len(when))))


def _carried(when: NDArray[np.float64]) -> NDArray[np.float64]:
    turns = 2 * np.pi * when
    waves = [
        0.2 * np.sin(turns),
        0.12 * np.sin(0.7 * turns + 1),
        1 + 0.25 * np.sin(0.5 * turns),
        0.35 * np.sin(0.8 * turns),
    ]
    return np.stack(waves, axis=1)


PATHS: dict[str, Path4] = {
    "still": lambda when: _along(0 * when),
    "drifts by 4 px": lambda when: _along(0.6 * 4 / 224 * (when - 0.5), 0.8 * 4 / 224 * (when - 0.5)),
    "nudged by 4 px": lambda when: _along(4 / 224 * (when >= 0.6)),
    "nudged by 10 px": lambda when: _along(10 / 224 * (when >= 0.6)),
    "put 40 px aside": lambda when: _along(40 / 224 * ((when >= 0.7) - 0.5)),
    "shaken by 2 px": _shaken,
    "carried": _carried,
}


def moved(pixels: NDArray[np.uint8], path: Path4) -> NDArray[np.uint8]:
    """`pixels` (T, H, W, 3) seen through a window that goes along `path`."""
    height, width = pixels.shape[1:3]
    columns, rows = round(WINDOW * width), round(WINDOW * height)
    frames = []
    for frame, (x, y, scale, turn) in zip(pixels, path(np.linspace(0, 1, len(pixels))), strict=True):
        how = cv2.getRotationMatrix2D((width / 2, height / 2), np.degrees(turn), scale)
        how[:, 2] += np.array([columns - width, rows - height]) / 2 + np.array([x, y]) * columns
        frames.append(cv2.warpAffine(frame, how, (columns, rows), borderMode=cv2.BORDER_REFLECT))
    return np.stack(frames)


def with_gripper(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`pixels` with a chequered thing that rides on the camera, 0.3 x 0.3 of the picture below its middle."""
    out = pixels.copy()
    rows, columns = (round(0.3 * side) for side in pixels.shape[1:3])
    texture = np.random.default_rng(0).uniform(0, 255, (8, 8, 3)).astype(np.uint8)
    left = (pixels.shape[2] - columns) // 2
    out[:, -rows:, left : left + columns] = cv2.resize(texture, (columns, rows))
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take one episode of so many; default: 1")
    options = parser.parse_args()
    verdicts: dict[str, list[bool | None]] = defaultdict(list)
    for truth in itertools.islice(read_folder(options.folder), 0, None, options.every):
        pixels = np.stack([np.asarray(frame) for frame in truth.episode.pixels])
        clips = {"as it is": pixels} | {name: moved(pixels, path) for name, path in PATHS.items()}
        clips |= {f"{name}, a gripper in view": with_gripper(clips[name]) for name in ("still", "carried")}
        for name, clip in clips.items():
            verdicts[name].append(clip_camera_motion(clip).moving)
    print(f"{'clips':32}{'moving':>8}{'unknown':>9}")
    for name, of in verdicts.items():
        print(f"{name:32}{of.count(True) / len(of):8.3f}{of.count(None) / len(of):9.3f}")
    print(f"{len(of)} episodes")


if __name__ == "__main__":
    main()
