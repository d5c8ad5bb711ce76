"""Draws one training window of a packet: frames, depth, depth of the object, soft mask, displacements.

python -m tests.tools.training_figure PACKET OUT.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from packers.training import Depth, Masks, PacketDataset, Reading, Tracks, Window

TILE = 168


def main() -> None:
    packet, out = Path(sys.argv[1]), Path(sys.argv[2])
    near = Depth("depth/metric"), Depth("depth/metric", "tight", name="tight"), Masks(), Tracks("foreground")
    dataset = PacketDataset(packet, Window(3, 1, 5), near, reading=Reading(cache=out.parent / ".figure"))
    # The window in which the tracked points move most.
    samples = [dataset[number] for number in range(len(dataset))]
    sample = max(samples, key=lambda s: float(np.abs(s["tracks"]).sum()))
    shown = sample["depth_weight"] > 0
    low, high = np.quantile(sample["depth"][shown], [0.02, 0.98])
    rows = [
        [_tile(frame[..., ::-1]) for frame in sample["pixels"]],
        [_tile(_coloured(d, w, low, high)) for d, w in zip(sample["depth"], sample["depth_weight"], strict=True)],
        [_tile(_coloured(d, w, low, high)) for d, w in zip(sample["tight"], sample["tight_weight"], strict=True)],
        [_tile(np.repeat((255 * m).astype(np.uint8)[..., None], 3, axis=2)) for m in sample["mask"]],
        [_arrows(sample, at, dataset) for at in range(4)],
    ]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    if not cv2.imwrite(str(out), picture):
        raise SystemExit(f"{out} cannot be written")


def _tile(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    resized = cv2.resize(np.ascontiguousarray(image), (TILE, TILE), interpolation=cv2.INTER_NEAREST)
    return cv2.copyMakeBorder(resized, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def _coloured(depth: NDArray[np.float32], weight: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    level = np.clip(255 * (high - depth) / (high - low), 0, 255).astype(np.uint8)
    return np.where(weight[..., None] > 0, cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS), 40).astype(np.uint8)


def _arrows(sample: dict[str, NDArray], at: int, dataset: PacketDataset) -> NDArray[np.uint8]:
    """The displacements of a frame drawn from where the points were at the anchor."""
    tokens = PacketDataset(dataset.entries[0].path, dataset.window, ["tracks/foreground/xy"], reading=dataset.reading)[
        int(sample["start"])
    ]
    scale = TILE / sample["pixels"].shape[2]
    picture = cv2.resize(sample["pixels"][0][..., ::-1] // 2, (TILE, TILE))
    for start, moved, seen in zip(
        tokens["tracks/foreground/xy"][0], sample["tracks"][at], sample["tracks_weight"][at], strict=True
    ):
        if seen:
            ends = np.rint(np.stack([start, start + moved * sample["pixels"].shape[2]]) * scale).astype(int)
            cv2.line(picture, ends[0].tolist(), ends[1].tolist(), (80, 220, 255), 1, cv2.LINE_AA)
            cv2.circle(picture, ends[1].tolist(), 1, (80, 220, 255), -1)
    return cv2.copyMakeBorder(picture, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))


if __name__ == "__main__":
    main()
