"""How still a drifting background becomes: known drift put into true depth, then anchored.

    python -m tests.benchmarks.depth_drift

True inverse depth at packet size gets a scale and shift per frame and a slow ramp of both; a second run adds noise. Per
clip, with the true robot masks and without: the background's drift before and after (median standard deviation in time
over the p5-p95 spread), the median scale, the rank correlation inside the object mask between anchored and true depth
(all frames together; in brackets that of true depth with the noise alone), and the AbsRel change that anchoring does to
true depth.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from extractors.anchoring import Anchored, anchor_background, background_drift
from extractors.camera_motion import clip_camera_motion
from extractors.geometry import resize_area, resize_depth, resize_frames, resize_masks

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "groundtruth_dev"


@dataclass(frozen=True)
class Clip:
    """An episode at packet size; `inverse` (T, H, W) is 1 / depth in 1/m, 0 in the sky."""

    name: str
    pixels: NDArray[np.uint8]
    inverse: NDArray[np.float32]
    object_masks: NDArray[np.bool_]
    robot_masks: NDArray[np.bool_]

    def anchored(self, inverse: NDArray[np.float32], *, robot: bool) -> Anchored:
        """`inverse` anchored, with the true robot masks or without."""
        return anchor_background(
            inverse,
            self.object_masks,
            self.robot_masks if robot else None,
            self.pixels,
            camera_moves=clip_camera_motion(self.pixels).moving,
            fps=5.0,
        )

    @property
    def background(self) -> NDArray[np.bool_]:
        """(T, H, W) bool, the true still background: neither arm nor object (4 px around them left out), nor sky."""
        moving = (self.object_masks | self.robot_masks).astype(np.uint8)
        grown = np.stack([cv2.dilate(mask, np.ones((9, 9), np.uint8)) for mask in moving])
        return (grown == 0) & (self.inverse > 0)


def load(path: Path, size: tuple[int, int] = (224, 224)) -> Clip:
    """One file of `groundtruth_dev`."""
    data = np.load(path)
    depth = resize_depth(data["depth"], size)
    inverse = np.divide(1, depth, out=np.zeros_like(depth), where=depth > 0)
    object_masks, robot_masks = (resize_masks(data[name] > 0, size) for name in ("object_mask", "robot_mask"))
    return Clip(path.stem, resize_frames(data["rgb"], size), inverse, object_masks, robot_masks)


def drifted(
    inverse: NDArray[np.float32], seed: int, *, jitter: float = 0.05, ramp: float = 0.15, noise: float = 0.0
) -> NDArray[np.float32]:
    """Inverse depth with a known drift, in parts of its spread; noise is smooth over 10 px, new in each frame."""
    rng = np.random.default_rng(seed)
    n_frames, height, width = inverse.shape
    low, high = np.percentile(inverse[inverse > 0], [5, 95])
    time = np.linspace(-1, 1, n_frames)
    scale = 1 + rng.normal(0, jitter, n_frames) + ramp * time
    shift = (rng.normal(0, jitter, n_frames) - ramp * time) * (high - low)
    coarse = rng.normal(0, noise * (high - low), (n_frames, height // 10 + 1, width // 10 + 1)).astype(np.float32)
    smooth = np.stack([resize_area(frame, (height, width)) for frame in coarse])
    moved = scale[:, None, None] * inverse + shift[:, None, None] + smooth
    lift = max(0.0, float(-moved[inverse > 0].min())) + 0.1  # a model's inverse depth is positive
    return np.where(inverse > 0, moved + lift, 0).astype(np.float32)


def absrel_change(clip: Clip, *, robot: bool) -> float:
    """Mean |change| / depth that anchoring does to true depth, in percent."""
    anchored = clip.anchored(clip.inverse, robot=robot)
    assert anchored.values is not None, anchored.reason
    known = clip.inverse > 0
    return 100 * float(np.mean(np.abs(clip.inverse[known] / anchored.values[known] - 1)))


def main() -> int:
    """Prints one line per clip and kind of mask; 1 if a target of issue 4 is missed."""
    missed = 0
    for noise in (0.0, 0.01):
        print(f"noise {noise:.0%} of the spread")
        print(
            "clip                    robot masks drift before  after     times median scale  rank corr.        AbsRel %"
        )
        for path in sorted(DATA.glob("dev*.npz")):
            if "640x480" not in path.name:
                clip = load(path)
                missed += sum(not _line(clip, noise, robot) for robot in (True, False))
    return int(missed > 0)


def _line(clip: Clip, noise: float, robot: bool) -> bool:
    """Prints a line; whether it meets the targets."""
    raw = drifted(clip.inverse, seed=4, noise=noise)
    anchored = clip.anchored(raw, robot=robot)
    label = f"{clip.name:24s}{'true' if robot else 'none':10s}"
    if anchored.values is None or anchored.stabilizer is None:
        print(f"{label}  left alone: {anchored.reason}")
        return clip.name.startswith(("dev08", "dev09"))
    before, after = (background_drift(depth, clip.background) for depth in (raw, anchored.values))
    scale = float(np.median(anchored.stabilizer[:, 0]))
    noisy = drifted(clip.inverse, seed=4, jitter=0, ramp=0, noise=noise)
    rank, ceiling = (_rank_in_object(clip, depth) for depth in (anchored.values, noisy))
    change = absrel_change(clip, robot=robot)
    print(
        f"{label}{before:14.4f}{after:9.5f}{before / max(after, 1e-9):10.1f}{scale:12.3f}{rank:12.4f} ({ceiling:.4f})"
        f"{change:10.4f}"
    )
    return before / after >= 5 and abs(scale - 1) <= 0.05 and rank >= min(0.98, ceiling - 0.01) and change < 0.2


def _rank_in_object(clip: Clip, depth: NDArray[np.float32]) -> float:
    return float(spearmanr(depth[clip.object_masks], clip.inverse[clip.object_masks]).statistic)


if __name__ == "__main__":
    sys.exit(main())
