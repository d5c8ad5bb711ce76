"""TAPIR done plainly, for comparison: each step as the papers and the published model's description put it.

Encoder in PyTorch's default layout, one interpolated read for each of a patch's 49 positions, grouped convolutions over
time and a sum of four, 64 queries at a time. It shares no code with the product but the reading of names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor

Weights = Mapping[str, Tensor]

CHUNK = 64
"""Queries at once, as published."""

_HEADS = "torch_cost_volume_track_mods"
_MIXER = "torch_pips_mixer"


def encode(weights: Weights, images: Tensor, resolution: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(t, 3, H, W) images in -1..1 -> fine (t, 128, h / 4, w / 4) and coarse (t, 256, h / 8, w / 8), normalised."""
    images = F.interpolate(images, resolution, mode="bilinear", align_corners=False)
    path = F.conv2d(F.pad(images, (2, 4, 2, 4)), weights["resnet_torch.initial_conv.weight"], stride=2)
    fine = path
    for group, stride in enumerate((1, 2, 2, 1)):
        for block in range(2):
            name = f"resnet_torch.block_groups.{group}.blocks.{block}"
            path = _residual(weights, name, path, stride if block == 0 else 1)
        fine = path if group == 1 else fine
    for index in range(5):
        name = f"extra_convs.blocks.{index}"
        affine = weights[f"{name}.layer_norm.weight"], weights[f"{name}.layer_norm.bias"]
        path = F.layer_norm(path.permute(0, 2, 3, 1), (256,), *affine).permute(0, 3, 1, 2)
        inner = F.conv2d(path, weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"], padding=1)
        inner = F.gelu(inner, approximate="tanh")
        path = path + F.conv2d(inner, weights[f"{name}.conv_1.weight"], weights[f"{name}.conv_1.bias"], padding=1)
    return _unit(fine), _unit(path)


def _residual(weights: Weights, name: str, path: Tensor, stride: int) -> Tensor:
    active = F.relu(_instance_norm(weights, f"{name}.bn_0", path))
    projection = weights.get(f"{name}.proj_conv.weight")
    shortcut = path if projection is None else F.conv2d(active, projection, stride=stride)
    padded = F.pad(active, (1, 1, 1, 1) if stride == 1 else (0, 2, 0, 2))
    inner = F.conv2d(padded, weights[f"{name}.conv_0.weight"], stride=stride)
    inner = F.relu(_instance_norm(weights, f"{name}.bn_1", inner))
    return F.conv2d(inner, weights[f"{name}.conv_1.weight"], padding=1) + shortcut


def _instance_norm(weights: Weights, name: str, maps: Tensor) -> Tensor:
    return F.instance_norm(maps, weight=weights[f"{name}.weight"], bias=weights[f"{name}.bias"], eps=1e-5)


def _unit(maps: Tensor) -> Tensor:
    return maps / maps.square().sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt()


def follow(
    weights: Weights,
    grids: Sequence[tuple[Tensor, Tensor]],
    queries: Tensor,
    *,
    temperature: float = 20.0,
    iterations: int = 4,
    by_height: bool = False,
) -> Tensor:
    """(N, T, 4): x, y in 256-pixels, logits of occlusion and of expected distance.

    Args:
        weights: of the published checkpoint.
        grids: what `encode` gave at 256 x 256, then at each level's resolution.
        queries: (N, 3), (frame, x, y) in 256-pixels.
        temperature: of the first guess.
        iterations: per level.
        by_height: read maps that are not square where the published PyTorch model does, see `correlate`.
    """
    found = []
    for some in queries.split(CHUNK):
        vectors = query_features(grids[0], some)
        points, first = _guess(weights, grids[0][1], vectors[:, 128:], temperature)
        own = torch.arange(points.shape[1]) == some[:, :1].round()
        points = torch.where(own[..., None], some[:, None, 1:], points)
        levels = []
        for grid in grids[1:]:
            logits, height, width = first, 8 * grid[1].shape[2], 8 * grid[1].shape[3]
            features = query_features(grid, some)[:, None].repeat(1, points.shape[1], 1)
            for _ in range(iterations):
                seen = correlate(grid, points, features, by_height=by_height)
                delta = mix(weights, torch.cat([torch.zeros_like(points), logits, features, seen], dim=-1))
                points = points + delta[..., :2] * torch.tensor([256 / width, 256 / height])
                logits, features = logits + delta[..., 2:4], features + delta[..., 4:]
            levels.append(torch.cat([points, logits], dim=-1))
        found.append(torch.stack(levels).mean(dim=0))
    return torch.cat(found)


def query_features(grid: tuple[Tensor, Tensor], queries: Tensor) -> Tensor:
    """(N, 384): fine and coarse maps read over (t, y, x) at (N, 3) queries (frame, x, y) in 256-pixels."""
    parts = []
    for maps in grid:
        n_frames = len(maps)
        where = torch.stack([queries[:, 1] / 256, queries[:, 2] / 256, (queries[:, 0] + 0.5) / n_frames], dim=1)
        clip = maps.transpose(0, 1)[None]
        read = F.grid_sample(clip, 2 * where[None, None, None] - 1, padding_mode="border", align_corners=False)
        parts.append(read[0, :, 0, 0].T)
    return torch.cat(parts, dim=1)


def _guess(weights: Weights, coarse: Tensor, vectors: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    costs = torch.einsum("tchw,nc->nthw", coarse, vectors)
    n, t, height, width = costs.shape
    hidden = F.relu(_convolved(weights, "hid1", costs.reshape(n * t, 1, height, width), padding=1))
    heat = (_convolved(weights, "hid2", hidden, padding=1) * temperature).flatten(1).softmax(dim=1)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    centres = torch.stack([x.flatten(), y.flatten()], dim=1)
    best = centres[heat.argmax(dim=1)]
    kept = heat * ((centres[None] - best[:, None]).square().sum(dim=-1) < 25)
    points = torch.einsum("mk,kd->md", kept, centres) / kept.sum(dim=1, keepdim=True).clamp(min=1e-12)
    inner = F.relu(_convolved(weights, "hid3", F.pad(hidden, (0, 2, 0, 2)), stride=2)).mean(dim=(2, 3))
    inner = F.relu(F.linear(inner, weights[f"{_HEADS}.hid4.weight"], weights[f"{_HEADS}.hid4.bias"]))
    logits = F.linear(inner, weights[f"{_HEADS}.occ_out.weight"], weights[f"{_HEADS}.occ_out.bias"])
    return (points * torch.tensor([256 / width, 256 / height])).view(n, t, 2), logits.view(n, t, 2)


def _convolved(weights: Weights, name: str, maps: Tensor, **how: int) -> Tensor:
    return F.conv2d(maps, weights[f"{_HEADS}.{name}.weight"], weights[f"{_HEADS}.{name}.bias"], **how)


def correlate(grid: tuple[Tensor, Tensor], points: Tensor, features: Tensor, *, by_height: bool = False) -> Tensor:
    """(n, T, 147) products with the patches around `points` (n, T, 2), each of 49 positions read on its own.

    `by_height`: the published PyTorch model divides x by the map's height too before it reads, which moves the reads
    on maps that are not square; its JAX twin, which the weights come from, does not.
    """
    fine, coarse = grid
    reach = torch.arange(-3, 4.0)
    dy, dx = torch.meshgrid(reach, reach, indexing="ij")
    offsets = torch.stack([dx.flatten(), dy.flatten()], dim=1)
    seen = []
    for maps, vectors in (
        (fine, features[..., :128]),
        (coarse, features[..., 128:]),
        (F.avg_pool2d(coarse, 2, 2), features[..., 128:]),
    ):
        height, width = maps.shape[-2:]
        where = (points * torch.tensor([width / 256, height / 256]))[..., None, :] + offsets
        where = 2 * where / torch.tensor([height if by_height else width, height]) - 1
        patches = F.grid_sample(maps, where.transpose(0, 1), padding_mode="zeros", align_corners=False)  # T C n 49
        seen.append(torch.einsum("tcnp,ntc->ntp", patches, vectors))
    return torch.cat(seen, dim=-1)


def mix(weights: Weights, tokens: Tensor) -> Tensor:
    """(n, T, 535) -> (n, T, 388)."""

    def of(name: str) -> Tensor:
        return weights[f"{_MIXER}.{name}"]

    path = F.linear(tokens, of("linear.weight"), of("linear.bias"))
    for index in range(12):
        block = f"blocks.{index}"
        inner = F.layer_norm(path, (512,), of(f"{block}.layer_norm.weight")).transpose(1, 2)
        inner = F.conv1d(inner, of(f"{block}.mlp1_up.weight"), of(f"{block}.mlp1_up.bias"), padding=1, groups=512)
        inner = F.gelu(inner, approximate="tanh")
        inner = F.conv1d(inner, of(f"{block}.mlp1_up_1.weight"), of(f"{block}.mlp1_up_1.bias"), padding=1, groups=2048)
        path = path + inner.unflatten(1, (512, 4)).sum(dim=2).transpose(1, 2)
        inner = F.layer_norm(path, (512,), of(f"{block}.layer_norm_1.weight"))
        channels = f"{block}.conv_channels_mixer"
        inner = F.gelu(
            F.linear(inner, of(f"{channels}.mlp2_up.weight"), of(f"{channels}.mlp2_up.bias")), approximate="tanh"
        )
        path = path + F.linear(inner, of(f"{channels}.mlp2_down.weight"), of(f"{channels}.mlp2_down.bias"))
    path = F.layer_norm(path, (512,), of("layer_norm.weight"))
    return F.linear(path, of("linear_1.weight"), of("linear_1.bias"))
