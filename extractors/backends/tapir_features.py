"""TAPIR's feature maps: the image encoder, and reads of its maps around points.

Doersch et al., "TAPIR: Tracking Any Point with per-frame Initialization and temporal Refinement", ICCV 2023
(arXiv 2306.08637); the extra convolutions: Doersch et al., "BootsTAP", ACCV 2024 (arXiv 2402.00847). Module names are
those of the published PyTorch checkpoint.

Points are (x, y) in *256-pixels*: the whole picture is 256 wide and 256 high whatever its resolution and shape, (0, 0)
is the outer corner of its first pixel. A map of w columns has cell k's centre at (k + 0.5) * 256 / w.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor, nn

from extractors.types import Size

SIDE = 256
"""Width and height of the picture in the units of points."""

FINE, COARSE = 128, 256
"""Channels of the fine and of the coarse features."""

FINE_STRIDE, COARSE_STRIDE = 4, 8
"""Image pixels per cell of the fine and of the coarse map."""

RADIUS = 3
"""A patch reaches so many cells to each side: 7 x 7."""

_BLOCK = 2 * RADIUS + 2
_STEM = 64
_EXTRA = 5


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """Features of a clip at one resolution, each cell's vector of length 1.

    Attributes:
        fine: (T, h / 4, w / 4, 128), channels together, so that one cell is one contiguous row.
        coarse: (T, h / 8, w / 8, 256).
        pooled: the coarse ones averaged 2 x 2; odd sizes lose their last row or column, the mean is not normalised.
    """

    fine: Tensor
    coarse: Tensor
    pooled: Tensor

    @classmethod
    def empty(cls, n_frames: int, resolution: Size, *, dtype: torch.dtype, device: torch.device) -> FeatureMaps:
        """Room for `n_frames` images of `resolution`."""
        rows, columns = resolution[0] // COARSE_STRIDE, resolution[1] // COARSE_STRIDE
        shapes = ((2 * rows, 2 * columns, FINE), (rows, columns, COARSE), (rows // 2, columns // 2, COARSE))
        return cls(*(torch.empty(n_frames, *shape, dtype=dtype, device=device) for shape in shapes))

    @property
    def n_frames(self) -> int:
        """T."""
        return len(self.fine)

    @property
    def resolution(self) -> Size:
        """(height, width) of the images."""
        return COARSE_STRIDE * self.coarse.shape[1], COARSE_STRIDE * self.coarse.shape[2]

    def put(self, first: int, part: FeatureMaps) -> None:
        """Stores the maps of some frames from frame `first` on."""
        self.fine[first : first + part.n_frames] = part.fine
        self.coarse[first : first + part.n_frames] = part.coarse
        self.pooled[first : first + part.n_frames] = part.pooled

    def at(self, queries: Tensor) -> Tensor:
        """The features of query points, (N, 3) as (frame, x, y) in 256-pixels -> (N, 384) float32, fine then coarse.

        Read trilinearly, the border repeated outside; a fractional frame mixes two.
        """
        return torch.cat([_read_at(self.fine, queries), _read_at(self.coarse, queries)], dim=1)


def _read_at(maps: Tensor, queries: Tensor) -> Tensor:
    """(T, h, w, C) maps, (N, 3) queries -> (N, C) float32."""
    limits = torch.tensor(maps.shape[:3], device=maps.device) - 1
    cells = queries[:, 1:] * queries.new_tensor([maps.shape[2], maps.shape[1]]) / SIDE - 0.5
    where = torch.stack([queries[:, 0], cells[:, 1], cells[:, 0]], dim=1)  # frame, row, column
    where = torch.minimum(where.clamp(min=0), limits)
    low = where.floor()
    fraction = where - low
    out = torch.zeros(len(queries), maps.shape[3], device=maps.device)
    for corner in torch.cartesian_prod(*(torch.arange(2, device=maps.device),) * 3):
        frame, row, column = torch.minimum(low.long() + corner, limits).unbind(1)
        weight = torch.where(corner > 0, fraction, 1 - fraction).prod(dim=1)
        out += weight[:, None] * maps[frame, row, column].float()
    return out


def patch_products(maps: Tensor, points: Tensor, features: Tensor) -> Tensor:
    """Dot products of each track's features with the 7 x 7 patch around its position, in every frame.

    Bilinear interpolation is linear and the 49 reads share their neighbours: each of the 8 x 8 cells is read and
    multiplied once, and numbers are blended in place of vectors.

    Args:
        maps: (T, h, w, C), cells outside count as zeros.
        points: (n, T, 2), in 256-pixels.
        features: (n, T, C).

    Returns:
        (n, T, 49) in the type of `features`, rows from top to bottom.
    """
    n_frames, height, width, channels = maps.shape
    cells, inside, fraction = _around(points, height, width)
    cells = cells + (height * width) * torch.arange(n_frames, device=points.device)[:, None, None]
    vectors = torch.index_select(maps.view(-1, channels), 0, cells.flatten()).view(-1, _BLOCK**2, channels)
    products = torch.bmm(vectors, features.reshape(-1, channels, 1).to(vectors.dtype))
    products = products.view(cells.shape).to(features.dtype).masked_fill_(~inside, 0.0)
    x, y = fraction.to(features.dtype)[..., None, None].unbind(-3)
    columns = torch.lerp(products[..., :-1], products[..., 1:], x)
    return torch.lerp(columns[..., :-1, :], columns[..., 1:, :], y).flatten(2)


def _around(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The 8 x 8 cells that a 7 x 7 patch is interpolated from.

    Returns:
        (n, T, 8, 8) int64, row by row, numbers of cells within a frame; the same in bool, False where the cell is
        outside of the map; and (n, T, 2), the fraction of a cell by which the patch is right of and below the first.
    """
    size = points.new_tensor([width, height])
    position = points * size / SIDE - 0.5
    low = position.floor()
    fraction = position - low
    # Beyond these limits no cell is inside; the clamp keeps the conversion to integers defined.
    low = torch.minimum(low.clamp(min=-_BLOCK), size + _BLOCK).long()
    reach = torch.arange(-RADIUS, RADIUS + 2, device=points.device)
    columns, rows = low[..., 0, None] + reach, low[..., 1, None] + reach
    inside = ((rows >= 0) & (rows < height))[..., :, None] & ((columns >= 0) & (columns < width))[..., None, :]
    cells = rows.clamp(0, height - 1)[..., :, None] * width + columns.clamp(0, width - 1)[..., None, :]
    return cells, inside, fraction


class Encoder(nn.Module):
    """Pre-activation residual network; its second and its last group are the fine and the coarse features."""

    def __init__(self) -> None:
        super().__init__()
        self.initial_conv = nn.Conv2d(3, _STEM, 7, stride=2, bias=False)
        self.block_groups = nn.ModuleList(
            [_Group(_STEM, _STEM, 1), _Group(_STEM, FINE, 2), _Group(FINE, COARSE, 2), _Group(COARSE, COARSE, 1)]
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(t, 3, h, w) in -1..1 -> (t, 128, h / 4, w / 4) and (t, 256, h / 8, w / 8), not normalised."""
        path = self.initial_conv(F.pad(images, (2, 4, 2, 4)))
        fine = self.block_groups[1](self.block_groups[0](path))
        return fine, self.block_groups[3](self.block_groups[2](fine))


class _Group(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [_Block(channels_in, channels, stride, project=True), _Block(channels, channels, 1, project=False)]
        )

    def forward(self, path: Tensor) -> Tensor:
        """(t, c, h, w) -> (t, channels, h / stride, w / stride)."""
        out: Tensor = self.blocks[1](self.blocks[0](path))
        return out


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int, *, project: bool) -> None:
        super().__init__()
        # At stride 2 the frame is padded on the right and below only, as the checkpoint was trained.
        self._pad = (1, 1, 1, 1) if stride == 1 else (0, 2, 0, 2)
        self.bn_0 = _FrameNorm(channels_in)
        self.conv_0 = nn.Conv2d(channels_in, channels, 3, stride=stride, bias=False)
        self.bn_1 = _FrameNorm(channels)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.proj_conv = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False) if project else None

    def forward(self, path: Tensor) -> Tensor:
        """(t, c, h, w) -> (t, channels, h / stride, w / stride)."""
        active = F.relu_(self.bn_0(path))
        shortcut = path if self.proj_conv is None else self.proj_conv(active)
        inner = self.conv_0(F.pad(active, self._pad))
        out: Tensor = self.conv_1(F.relu_(self.bn_1(inner))) + shortcut
        return out


class _FrameNorm(nn.Module):
    """Instance norm by the frame's own statistics.

    Written out: PyTorch's group norm, as fast, errs four times as much here (1e-4 in the coarse features, 2026-11-28),
    which moves first guesses beyond what two runs of the published model differ by; its instance norm is slower.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """(t, c, h, w) -> the same shape."""
        maps = maps.float()  # statistics of half-precision maps would be half-precise
        variance, mean = torch.var_mean(maps, dim=(2, 3), unbiased=False, keepdim=True)
        scale = self.weight[:, None, None] * (variance + 1e-5).rsqrt()
        return torch.addcmul(self.bias[:, None, None] - mean * scale, maps, scale)


class ExtraConvolutions(nn.Module):
    """What BootsTAPIR adds to TAPIR: five wide residual blocks on the coarse features."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_ExtraBlock() for _ in range(_EXTRA))

    def forward(self, coarse: Tensor) -> Tensor:
        """(t, 256, h, w) -> the same shape."""
        for block in self.blocks:
            coarse = block(coarse)
        return coarse


class _ExtraBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(COARSE)
        self.conv = nn.Conv2d(COARSE, 4 * COARSE, 3, padding=1)
        self.conv_1 = nn.Conv2d(4 * COARSE, COARSE, 3, padding=1)

    def forward(self, coarse: Tensor) -> Tensor:
        """(t, 256, h, w) -> the same shape."""
        # The residual starts from the normalised value, not from the input.
        normed = self.layer_norm(coarse.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        out: Tensor = normed + self.conv_1(F.gelu(self.conv(normed), approximate="tanh"))
        return out


def as_maps(fine: Tensor, coarse: Tensor) -> FeatureMaps:
    """What the encoder and the extra convolutions gave, (t, C, h, w), as maps."""
    fine, coarse = (F.normalize(maps, dim=1, eps=1e-6) for maps in (fine, coarse))
    pooled = F.avg_pool2d(coarse, 2)
    return FeatureMaps(*(maps.permute(0, 2, 3, 1).contiguous() for maps in (fine, coarse, pooled)))
