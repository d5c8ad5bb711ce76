"""The published long-video scheme of Video-Depth-Anything done plainly: the oracle of tests and benchmarks.

Nothing is shared between windows and nothing is left out: each window encodes its 32 frames, every map is decoded, and
the whole clip is held at source size.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from numpy.typing import NDArray
from torch import Tensor

from extractors.backends.vda_network import VideoDepthNetwork
from extractors.backends.video_depth_anything import network_size, prepare

KEYFRAMES = [0, 12, 24, 25, 26, 27, 28, 29, 30, 31]


def window_frames(n_frames: int) -> list[list[int]]:
    """Frames in the 32 slots of every window."""
    windows: list[list[int]] = []
    for start in range(0, n_frames, 22):
        slots = [min(start + slot, n_frames - 1) for slot in range(32)]
        if windows:
            slots[:10] = [windows[-1][slot] for slot in KEYFRAMES]
        windows.append(slots)
    return windows


def stitch(raw: list[NDArray[np.float32]], n_frames: int, *, align: bool = True) -> NDArray[np.float32]:
    """Raw maps of every window, (32, H, W) each -> (n_frames, H, W)."""
    out = list(raw[0])
    reference = [raw[0][0], raw[0][12]]
    for maps in raw[1:]:
        scale, shift = 1.0, 0.0
        if align:
            p, t = np.stack(maps[:2]).ravel().astype(np.float64), np.stack(reference).ravel().astype(np.float64)
            scale, shift = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), t, rcond=None)[0]
        aligned = np.maximum(scale * maps + shift, 0).astype(np.float32)
        for i in range(8):
            out[-8 + i] = out[-8 + i] * (1 - i / 7) + aligned[2 + i] * (i / 7)
        out.extend(aligned[10:])
        reference[1] = aligned[12]
    return np.stack(out[:n_frames]).astype(np.float32)


def published_depth(
    network: VideoDepthNetwork, pixels: NDArray[np.uint8], input_size: int, *, batch: int = 4
) -> NDArray[np.float32]:
    """(T, H, W, 3) uint8 -> (T, H, W); every window on its own."""
    height, width = pixels.shape[1:3]
    size = network_size(height, width, input_size)
    device = network.pretrained.cls_token.device
    images = torch.cat([prepare(torch.from_numpy(frame[None]).to(device), size) for frame in pixels])
    raw = []
    with torch.inference_mode():
        for frames in window_frames(len(pixels)):
            features = [
                feature
                for start in range(0, 32, batch)
                for feature in network.frame_features(images[frames[start : start + batch]]).split()
            ]
            maps = network.window_depth(features, [range(32)], batch=batch)
            raw.append(
                F.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=True)[:, 0].cpu().numpy()
            )
    return stitch(raw, len(pixels))


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with the score matrix written out, as the published code does without its optional extension."""
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
