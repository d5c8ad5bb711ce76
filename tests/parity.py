"""Same weights and same input on both sides of a parity test.

The fixtures under tests/fixtures hold outputs of published models run with these weights on these clips.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

FIXTURES = Path(__file__).resolve().parent / "fixtures"

_COMPUTED = ("time_emb", "pos_encoder.pe")
_TOKENS = ("pos_embed", "cls_token", "mask_token", "virual_tracks")
_GAIN = {"flow_head.weight": 0.1, "vis_conf_head.weight": 0.3}
_SHIFT = {
    "vis_conf_head.bias": [0.9, -0.2],
    "output_conv2.2.bias": [1.0],
    "torch_cost_volume_track_mods.occ_out.bias": [-1.3, -4.4],
}
_ROW_GAIN = {
    "torch_cost_volume_track_mods.hid1.weight": [(0, 16, 0.3)],
    "torch_cost_volume_track_mods.hid2.weight": [(0, 1, 0.3)],
    "torch_cost_volume_track_mods.occ_out.weight": [(0, 1, 60.0), (1, 2, 15.0)],
    "torch_pips_mixer.linear.weight": [(0, 512, 8.0)],
    "torch_pips_mixer.linear_1.weight": [(0, 2, 3.0), (2, 4, 0.4), (4, 388, 0.03)],
}
"""Name -> first row, end row, factor: TAPIR's random updates would swamp its features otherwise."""

_CENTRE = {"torch_cost_volume_track_mods.hid1.weight": 1.0, "torch_cost_volume_track_mods.hid2.weight": 0.25}
"""Name -> what is added to the middle of a 3 x 3 kernel."""

Network = TypeVar("Network", bound=torch.nn.Module)


def seeded_tensor(key: str, like: torch.Tensor) -> torch.Tensor:
    """A weight that depends on its name and shape alone; tables that the model computes keep their value."""
    if key.endswith(_COMPUTED) or not like.is_floating_point():
        return like.clone()
    generator = torch.Generator("cpu").manual_seed(zlib.crc32(key.encode()))
    z = torch.randn(tuple(like.shape), generator=generator, dtype=torch.float32)
    last = key.rsplit(".", 1)[-1]
    if last in _TOKENS:
        z = 0.5 * z
    elif last == "gamma":
        z = 0.5 + 0.02 * z
    elif last == "bias":
        z = 0.02 * z
    elif z.ndim == 1:
        z = 1 + 0.02 * z
    else:
        z = z / math.sqrt(z.numel() / z.shape[0])
    for end, gain in _GAIN.items():
        z = z * gain if key.endswith(end) else z
    for first, end_row, factor in _ROW_GAIN.get(key, []):
        z[first:end_row] *= factor
    if key in _CENTRE:
        z[:, :, 1, 1] += _CENTRE[key]
    for end, shift in _SHIFT.items():
        z = z + torch.tensor(shift) if key.endswith(end) else z
    return z


def seed_model(model: Network) -> Network:
    """`model` in eval mode, every entry of its state dict overwritten."""
    state = model.state_dict()
    model.load_state_dict({key: seeded_tensor(key, value) for key, value in state.items()}, strict=True)
    model.eval()
    return model


def synthetic_clip(frames: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """(frames, height, width, 3) uint8: moving texture and a moving disc in integer arithmetic, the same anywhere."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    out = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        a = _triangle_wave(x * 5 + y * 3 + 7 * t + 11 * seed, 97)
        b = _triangle_wave(y * 6 - x * 2 - 4 * t + 503 + 5 * seed, 71)
        noise = ((x - t) * 73856093 ^ (y + t // 2) * 19349663) % 256
        centre_x, centre_y, radius = (width // 4 + 2 * t) % width, (height // 2 + t) % height, min(height, width) // 6
        disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < radius * radius
        rgb = np.stack([(3 * a + noise) // 4, (3 * b + noise) // 4, (a + b + noise) // 3], -1)
        rgb[disc] = np.stack([255 - a, (a + 2 * b) // 3, noise // 2 + 64], -1)[disc]
        out[t] = np.clip(rgb, 0, 255).astype(np.uint8)
    return out


def state_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every entry of a published checkpoint, from its `*.keys.json`."""
    entries: dict[str, Any] = json.loads(path.read_text())
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


def _triangle_wave(values: NDArray[np.int64], period: int) -> NDArray[np.int64]:
    phase = np.mod(values, 2 * period)
    return (np.where(phase < period, phase, 2 * period - phase) * 255) // period
