"""The Video-Depth-Anything network: DINOv2 encoder, DPT head, temporal modules.

Chen et al., "Video Depth Anything: Consistent Depth Estimation for Super-Long Videos", CVPR 2025 (arXiv 2501.12375);
encoder: Oquab et al., DINOv2 (arXiv 2304.07193); head: Ranftl et al., DPT (arXiv 2103.13413). Module names are those of
the published checkpoints, which load strictly.

The forward pass comes in two parts, so that a frame seen by several windows is encoded once:
`frame_features` (one frame at a time) and `window_depth` (32 frames that see each other).

Letters: B windows, T frames of a window, N frames, P positions of a feature map, C channels; h = H / 14, w = W / 14.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor, nn

from extractors.backends.linear import Linear

ModelSize = Literal["vits", "vitb", "vitl"]

PATCH = 14
"""Pixels per patch side."""

WINDOW = 32
"""Frames that see each other: the length of the temporal position table."""

_TABLE_SIDE = 37
"""Patches per side of the position table (518 / 14)."""

_TEMPORAL_HEADS = 8
_CHUNK_TOKENS = 16_384
"""Tokens that a temporal module takes at once: bounds its widest activation (8 C per token)."""

attend: Callable[[Tensor, Tensor, Tensor], Tensor] = F.scaled_dot_product_attention
"""softmax(q k^T / sqrt(d)) v over the last two axes; the benchmark puts the unfused form here."""


@dataclass(frozen=True)
class Shape:
    """What differs between the three model sizes (paper, supplement; checked against the checkpoints' shapes)."""

    width: int
    depth: int
    heads: int
    taps: tuple[int, int, int, int]
    levels: tuple[int, int, int, int]
    features: int


SHAPES: dict[ModelSize, Shape] = {
    "vits": Shape(384, 12, 6, (2, 5, 8, 11), (48, 96, 192, 384), 64),
    "vitb": Shape(768, 12, 12, (2, 5, 8, 11), (96, 192, 384, 768), 128),
    "vitl": Shape(1024, 24, 16, (4, 11, 17, 23), (256, 512, 1024, 1024), 256),
}


@dataclass(frozen=True, eq=False)
class FrameFeatures:
    """All that a window needs of its frames: what depends on one frame alone, computed as far as it goes.

    Attributes:
        skip1: (N, F, 4h, 4w), skip input of the finest fusion, its residual unit applied.
        skip2: (N, F, 2h, 2w), likewise one level coarser.
        level3: (N, c3, h, w), before the first temporal module.
        level4: (N, c4, ceil(h/2), ceil(w/2)), before the second one.
    """

    skip1: Tensor
    skip2: Tensor
    level3: Tensor
    level4: Tensor

    def split(self) -> list[FrameFeatures]:
        """One `FrameFeatures` of N = 1 per frame, each owning its memory so that frames can be dropped singly."""
        n_frames = len(self.skip1)
        return [
            FrameFeatures(*(part[i : i + 1].clone() for part in (self.skip1, self.skip2, self.level3, self.level4)))
            for i in range(n_frames)
        ]


class VideoDepthNetwork(nn.Module):
    """Normalised frames in, one map per frame out: inverse depth, or metres for the metric checkpoints."""

    def __init__(self, size: ModelSize) -> None:
        super().__init__()
        shape = SHAPES[size]
        self.pretrained = Encoder(shape)
        self.head = Head(shape)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, 3, H, W) normalised, T <= 32, H and W multiples of 14 -> (B, T, H, W) float32."""
        n_windows, length = frames.shape[:2]
        features = self.frame_features(frames.flatten(0, 1)).split()
        depth = self.window_depth(features, [range(length)] * n_windows)
        return depth.view(n_windows, length, *depth.shape[1:])

    def frame_features(self, frames: Tensor) -> FrameFeatures:
        """(N, 3, H, W) normalised frames -> what each of them brings to any window."""
        h, w = frames.shape[-2] // PATCH, frames.shape[-1] // PATCH
        return self.head.frame_features(self.pretrained(frames), h, w)

    def window_depth(
        self, features: Sequence[FrameFeatures], decoded_slots: Sequence[Sequence[int]], *, batch: int = 4
    ) -> Tensor:
        """Depth of the slots of each window that are decoded.

        Args:
            features: of T frames per window, one frame each, window after window; a frame may occur several times.
            decoded_slots: per window, the slots whose maps are needed; the others only serve as context. Windows do
                not see each other.
            batch: frames decoded at once after the last temporal module (memory only).

        Returns:
            (total number of decoded slots, H, W) float32 in the order of `decoded_slots`.
        """
        return self.head.window_depth(features, decoded_slots, batch)


class Encoder(nn.Module):
    """DINOv2 vision transformer with 14 x 14 patches."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.taps = shape.taps
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _TABLE_SIDE**2, shape.width))
        self.mask_token = nn.Parameter(torch.zeros(1, shape.width))  # in the checkpoint, never used
        self.patch_embed = PatchEmbedding(shape.width)
        self.blocks = nn.ModuleList(EncoderBlock(shape.width, shape.heads) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> four (N, h * w, C) token maps, normalised, class token dropped."""
        h, w = frames.shape[-2] // PATCH, frames.shape[-1] // PATCH
        tokens = self.patch_embed(frames)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        tokens = tokens + self.positions(h, w).to(tokens.dtype)
        taps = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index in self.taps:
                taps.append(self.norm(tokens)[:, 1:])
        return taps

    def positions(self, h: int, w: int) -> Tensor:
        """(1, 1 + h * w, C) float32 position table; the class row is never resampled."""
        if h == w == _TABLE_SIDE:
            return self.pos_embed
        table = self.pos_embed.float()
        grid = table[:, 1:].view(1, _TABLE_SIDE, _TABLE_SIDE, -1).permute(0, 3, 1, 2)  # 1 C 37 37
        # The published models resample with these scale factors, not to a size: it shifts every sample a little.
        scale = ((h + 0.1) / _TABLE_SIDE, (w + 0.1) / _TABLE_SIDE)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class PatchEmbedding(nn.Module):
    """Patches to tokens, row by row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, h * w, C)."""
        tokens: Tensor = self.proj(frames)
        return tokens.flatten(2).transpose(1, 2)


class EncoderBlock(nn.Module):
    """Pre-norm transformer block with layer scale."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width)
        self.ls2 = LayerScale(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, C) -> the same shape."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        out: Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return out


class SelfAttention(nn.Module):
    """Multi-head attention among the tokens of one frame."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, C) -> the same shape."""
        n_frames, length, width = tokens.shape
        qkv = self.qkv(tokens).view(n_frames, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # N heads L d
        out: Tensor = self.proj(attend(q, k, v).transpose(1, 2).flatten(2))
        return out


class LayerScale(nn.Module):
    """One learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., C) -> the same shape."""
        return tokens * self.gamma


class FeedForward(nn.Module):
    """Two layers with an exact GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, 4 * width)
        self.fc2 = Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., C) -> the same shape."""
        out: Tensor = self.fc2(self.fc1(tokens, gelu="none"))
        return out


class Head(nn.Module):
    """DPT head whose two coarse levels and two coarse fusions are mixed over time."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        levels, features = shape.levels, shape.features
        self.projects = nn.ModuleList(nn.Conv2d(shape.width, level, 1) for level in levels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(levels[0], levels[0], 4, 4),
                nn.ConvTranspose2d(levels[1], levels[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(levels[3], levels[3], 3, 2, 1),
            ]
        )
        self.scratch = Fusions(levels, features)
        self.motion_modules = nn.ModuleList(
            TemporalModule(channels) for channels in (levels[2], levels[3], features, features)
        )

    def frame_features(self, taps: list[Tensor], h: int, w: int) -> FrameFeatures:
        """Four (N, h * w, C) taps -> all that follows from one frame alone."""
        maps = (tap.transpose(1, 2).reshape(len(tap), -1, h, w) for tap in taps)
        levels = [
            resize(project(level))
            for level, project, resize in zip(maps, self.projects, self.resize_layers, strict=True)
        ]
        scratch = self.scratch
        return FrameFeatures(
            skip1=scratch.refinenet1.resConfUnit1(scratch.layer1_rn(levels[0])),
            skip2=scratch.refinenet2.resConfUnit1(scratch.layer2_rn(levels[1])),
            level3=levels[2],
            level4=levels[3],
        )

    def window_depth(
        self, features: Sequence[FrameFeatures], decoded_slots: Sequence[Sequence[int]], batch: int
    ) -> Tensor:
        """See `VideoDepthNetwork.window_depth`."""
        scratch, motion, n_windows = self.scratch, self.motion_modules, len(decoded_slots)
        level3 = motion[0](torch.cat([frame.level3 for frame in features]), n_windows)
        level4 = motion[1](torch.cat([frame.level4 for frame in features]), n_windows)
        path = motion[2](scratch.refinenet4(scratch.layer4_rn(level4), level3.shape[-2:]), n_windows)
        skip3 = scratch.refinenet3.resConfUnit1(scratch.layer3_rn(level3))
        path = motion[3](scratch.refinenet3(path + skip3, features[0].skip2.shape[-2:]), n_windows)
        size = (features[0].level3.shape[-2] * PATCH, features[0].level3.shape[-1] * PATCH)
        length = len(features) // n_windows
        rows = [window * length + slot for window, slots in enumerate(decoded_slots) for slot in slots]
        depth = []
        for part in (rows[start : start + batch] for start in range(0, len(rows), batch)):
            skip2, skip1 = torch.cat([features[i].skip2 for i in part]), torch.cat([features[i].skip1 for i in part])
            depth.append(self._decode(path[part], skip2, skip1, size))
        return torch.cat(depth)

    def _decode(self, path: Tensor, skip2: Tensor, skip1: Tensor, size: tuple[int, int]) -> Tensor:
        scratch = self.scratch
        path = scratch.refinenet2(path + skip2, skip1.shape[-2:])
        path = scratch.refinenet1(path + skip1, (2 * skip1.shape[-2], 2 * skip1.shape[-1]))
        path = _bilinear(scratch.output_conv1(path), size)
        # Half precision loses the depth's last digits here; the published models run these layers in fp32 too.
        with torch.autocast(path.device.type, enabled=False):
            depth: Tensor = scratch.output_conv2(path.float())
        return depth[:, 0]


class Fusions(nn.Module):
    """The convolutions of the DPT head after the taps were resized."""

    def __init__(self, levels: tuple[int, int, int, int], features: int) -> None:
        super().__init__()
        self.layer1_rn = nn.Conv2d(levels[0], features, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(levels[1], features, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(levels[2], features, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(levels[3], features, 3, padding=1, bias=False)
        self.refinenet1 = Fusion(features)
        self.refinenet2 = Fusion(features)
        self.refinenet3 = Fusion(features)
        self.refinenet4 = Fusion(features)
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1), nn.ReLU()
        )


class Fusion(nn.Module):
    """Refines a path and makes it larger; the caller adds the skip input, `resConfUnit1` of the finer level."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.resConfUnit1 = ResidualUnit(features)  # that of refinenet4 is in the checkpoint, never used
        self.resConfUnit2 = ResidualUnit(features)

    def forward(self, path: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, F, ., .) -> (N, F, *size)."""
        # A 1 x 1 convolution commutes with the resize, whose weights sum to one, and is cheaper on the smaller map.
        return _bilinear(self.out_conv(self.resConfUnit2(path)), size)


class ResidualUnit(nn.Module):
    """Two 3 x 3 convolutions around the identity."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, path: Tensor) -> Tensor:
        """(N, F, ., .) -> the same shape."""
        out: Tensor = self.conv2(F.relu(self.conv1(F.relu(path))))
        return path + out


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


class TemporalModule(nn.Module):
    """Mixes the frames of a window at each position; adds what it finds to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.temporal_transformer = TemporalTransformer(channels)

    def forward(self, maps: Tensor, n_windows: int) -> Tensor:
        """(B * T, C, ., .) -> the same shape."""
        out: Tensor = self.temporal_transformer(maps, n_windows)
        return maps + out


class TemporalTransformer(nn.Module):
    """Group norm per frame, then one transformer block along time for each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(channels)])
        self.proj_out = Linear(channels, channels)

    def forward(self, maps: Tensor, n_windows: int) -> Tensor:
        """(B * T, C, ., .) -> the same shape, without the input added."""
        n_frames, channels = maps.shape[:2]
        normed = self.norm(maps).view(n_windows, n_frames // n_windows, channels, -1)
        sequences = normed.permute(0, 3, 1, 2)  # B P T C
        shape = sequences.shape
        per_chunk = max(1, _CHUNK_TOKENS // shape[2])
        chunks = [self._mix(chunk) for chunk in sequences.flatten(0, 1).split(per_chunk)]
        return torch.cat(chunks).view(shape).permute(0, 2, 3, 1).reshape(maps.shape)

    def _mix(self, sequences: Tensor) -> Tensor:
        sequences = self.proj_in(sequences)  # P T C
        for block in self.transformer_blocks:
            sequences = block(sequences)
        out: Tensor = self.proj_out(sequences)
        return out


class TemporalBlock(nn.Module):
    """Two attention steps and a gated feed-forward step, each added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(TemporalAttention(channels) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.ff = GatedFeedForward(channels)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, sequences: Tensor) -> Tensor:
        """(P, T, C) -> the same shape."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            sequences = sequences + attention(norm(sequences))
        out: Tensor = sequences + self.ff(self.ff_norm(sequences))
        return out


class TemporalAttention(nn.Module):
    """Attention among the frames at one position; the position table enters queries, keys and values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pos_encoder = TimeTable(channels)
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(channels, channels, bias=False)
        self.to_v = Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([Linear(channels, channels)])

    def forward(self, sequences: Tensor) -> Tensor:
        """(P, T, C) -> the same shape."""
        sequences = self.pos_encoder(sequences)
        n_positions, length, _ = sequences.shape
        q, k, v = (
            project(sequences).view(n_positions, length, _TEMPORAL_HEADS, -1).transpose(1, 2)  # P heads T d
            for project in (self.to_q, self.to_k, self.to_v)
        )
        out: Tensor = self.to_out[0](attend(q, k, v).transpose(1, 2).flatten(2))
        return out


class TimeTable(nn.Module):
    """Sines and cosines of the frame's place in the window (Vaswani et al. 2017, section 3.5)."""

    pe: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        time = torch.arange(WINDOW).unsqueeze(1)
        rate = torch.exp(torch.arange(0, channels, 2) * (-math.log(10_000.0) / channels))
        table = torch.stack([torch.sin(time * rate), torch.cos(time * rate)], dim=-1).flatten(1)
        self.register_buffer("pe", table.unsqueeze(0))  # 1 32 C

    def forward(self, sequences: Tensor) -> Tensor:
        """(P, T, C) -> the same shape."""
        return sequences + self.pe[:, : sequences.shape[1]].to(sequences.dtype)


class GatedFeedForward(nn.Module):
    """Linear to twice 4 C, one half gating the other through an exact GELU (GEGLU, arXiv 2002.05202)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Gate(channels), nn.Identity(), Linear(4 * channels, channels)])

    def forward(self, sequences: Tensor) -> Tensor:
        """(..., C) -> the same shape."""
        out: Tensor = self.net[2](self.net[0](sequences))
        return out


class Gate(nn.Module):
    """(..., C) -> (..., 4 C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = Linear(channels, 8 * channels)

    def forward(self, sequences: Tensor) -> Tensor:
        """First half times GELU of the second."""
        value, gate = self.proj(sequences).chunk(2, dim=-1)
        gated: Tensor = value * F.gelu(gate)
        return gated
