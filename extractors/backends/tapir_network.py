"""The TAPIR network in its BootsTAPIR configuration: a first guess in each frame alone, then refinement over time.

Doersch et al., "TAPIR: Tracking Any Point with per-frame Initialization and temporal Refinement", ICCV 2023
(arXiv 2306.08637); BootsTAP, ACCV 2024 (arXiv 2402.00847). Module names are those of the published PyTorch checkpoint,
which loads strictly.

Frames are encoded at 256 x 256 and, for larger videos, again at a few higher resolutions (`pyramid`, `encode`). The
query's coarse features are compared with every cell of every frame at 256 x 256: the best cell and its surroundings
are the first guess, without regard to other frames (`guess`). Then, level by level and four times over: compare the
features around the current guess with the track's own, and let a mixer over time correct position, scores and the
track's features (`refine`). Queries do not influence each other.

Letters: N queries, n of them at once, T frames, C channels. Points are (x, y) in 256-pixels, see `tapir_features`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor, nn

from extractors.advance import advance
from extractors.backends.linear import Linear
from extractors.backends.tapir_features import (
    COARSE,
    COARSE_STRIDE,
    FINE,
    SIDE,
    Encoder,
    ExtraConvolutions,
    FeatureMaps,
    as_maps,
    patch_products,
)
from extractors.types import Size

BASE: Size = (256, 256)
"""Resolution of the first guess."""

ITERATIONS = 4
"""Refinements per level."""

TEMPERATURE = 20.0
"""Of the first guess's softmax in the published PyTorch model; its JAX twin has 10 for the same weights."""

_NEAR = 5.0
"""The first guess is the mean over cells nearer than this to the best one, in cells."""

_WIDTH, _BLOCKS, _FACTOR = 512, 12, 4
_PATCHES = 3 * 49
_TOKEN = 4 + FINE + COARSE + _PATCHES

_GUESS_COST = 8
"""A token's 16 maps of 32 x 32 cells take eight times as much as the mixer's hidden layer."""

_CACHED = 64
"""Tokens of which a CPU's cache holds the patches (64 KiB each) while they are read and multiplied."""

CPU_CHUNK = 2048
"""Tokens at once on a CPU: the mixer's hidden layer, 8 KiB each, and its neighbours stay at some 16 MiB."""


@dataclass(frozen=True, eq=False)
class State:
    """The current guess.

    Attributes:
        points: (n, T, 2) float32, in 256-pixels.
        logits: (n, T, 2) float32: occlusion, and that the true position is far from the one given.
    """

    points: Tensor
    logits: Tensor


def pyramid(size: Size) -> list[Size]:
    """Resolutions of refinement for a video of `size`, each side a multiple of 8: from 256 x 256 up to its own.

    Raises:
        ValueError: a side is 0.
    """
    count = math.ceil(max(math.log2(side / SIDE) for side in size)) + 1
    if size == BASE or count <= 1:
        return [BASE]

    def side_at(level: int, side: int) -> int:
        grown: float = SIDE * (side / SIDE) ** (level / (count - 1))
        return COARSE_STRIDE * int(grown // COARSE_STRIDE)

    return [(side_at(level, size[0]), side_at(level, size[1])) for level in range(count)]


class TapirNetwork(nn.Module):
    """Point tracker; see the file's first lines."""

    def __init__(self, *, causal: bool = False) -> None:
        """`causal`: the mixer looks back only, as the published online checkpoint wants; names and shapes are equal."""
        super().__init__()
        self.resnet_torch = Encoder()
        self.extra_convs = ExtraConvolutions()
        self.torch_cost_volume_track_mods = FirstGuess()
        self.torch_pips_mixer = Mixer(causal=causal)

    def encode(self, images: Tensor, resolution: Size) -> FeatureMaps:
        """Features of (t, 3, H, W) images in -1..1 at `resolution`, (height, width); each frame on its own."""
        if tuple(images.shape[-2:]) != resolution:
            images = F.interpolate(images, resolution, mode="bilinear", align_corners=False)
        fine, coarse = self.resnet_torch(images.contiguous(memory_format=torch.channels_last))
        return as_maps(fine, self.extra_convs(coarse))

    def guess(
        self, maps: FeatureMaps, queries: Tensor, *, temperature: float = TEMPERATURE, chunk: int = CPU_CHUNK
    ) -> State:
        """The first guess, frame by frame, without regard to where the query was posed.

        Args:
            maps: of the clip at 256 x 256.
            queries: (n, 3), (frame, x, y) in 256-pixels.
            temperature: of the softmax.
            chunk: tokens (query x frame) handled at once; bounds memory.
        """
        vectors = maps.at(queries)[:, FINE:]
        step = max(chunk // (_GUESS_COST * len(queries)), 1)
        states = []
        for first in range(0, maps.n_frames, step):
            cells = maps.coarse[first : first + step]
            costs = torch.matmul(vectors.to(cells.dtype), cells.flatten(1, 2).transpose(1, 2))  # t n cells
            costs = costs.view(*costs.shape[:2], *cells.shape[1:3]).transpose(0, 1)
            states.append(self.torch_cost_volume_track_mods(costs, temperature))
        return State(*(torch.cat(parts, dim=1) for parts in zip(*states, strict=True)))

    def refine(
        self,
        maps: FeatureMaps,
        queries: Tensor,
        state: State,
        *,
        iterations: int = ITERATIONS,
    ) -> Iterator[State]:
        """The guess after each iteration on one level.

        Args:
            maps: of the clip at the level's resolution.
            queries: (n, 3), (frame, x, y) in 256-pixels.
            state: positions from the level before, logits of the first guess.
            iterations: how many.
        """
        features = maps.at(queries)[:, None].expand(-1, maps.n_frames, -1)
        height, width = maps.resolution
        scale = state.points.new_tensor([SIDE / width, SIDE / height])
        # Two numbers stand where a position could be; the network was trained with zeros there.
        nothing = torch.zeros_like(state.points)
        for _ in range(iterations):
            seen = correlate(maps, state.points, features)
            delta = self.torch_pips_mixer(torch.cat([nothing, state.logits, features, seen], dim=-1)).float()
            state = State(state.points + delta[..., :2] * scale, state.logits + delta[..., 2:4])
            features = features + delta[..., 4:]
            yield state

    def forward(
        self,
        grids: Sequence[FeatureMaps],
        queries: Tensor,
        *,
        temperature: float = TEMPERATURE,
        iterations: int = ITERATIONS,
        chunk: int = CPU_CHUNK,
    ) -> State:
        """The result: the mean over levels of the values after each level's last iteration.

        Args:
            grids: features at 256 x 256, then at each level's resolution; equal ones may be one object.
            queries: (n, 3), (frame, x, y) in 256-pixels.
            temperature: of the first guess.
            iterations: per level.
            chunk: tokens of the first guess at once.
        """
        first = self.guess(grids[0], queries, temperature=temperature, chunk=chunk)
        points, results = put_queries(first.points, queries), []
        for maps in grids[1:]:
            # A level looks at the scores afresh, and goes on from the positions.
            *_, state = self.refine(maps, queries, State(points, first.logits), iterations=iterations)
            points = state.points
            results.append(state)
            advance(len(results), len(grids) - 1)
        return State(
            torch.stack([state.points for state in results]).mean(dim=0),
            torch.stack([state.logits for state in results]).mean(dim=0),
        )


def put_queries(points: Tensor, queries: Tensor) -> Tensor:
    """`points` (n, T, 2) with each of `queries` (n, 3) where it was posed in its own frame."""
    own = torch.arange(points.shape[1], device=points.device) == queries[:, :1].round()
    return torch.where(own[..., None], queries[:, None, 1:], points)


def correlate(maps: FeatureMaps, points: Tensor, features: Tensor) -> Tensor:
    """Products of tracks with what is around them, (n, T, 147): on the fine, the coarse and the pooled map.

    Args:
        maps: of the clip.
        points: (n, T, 2), in 256-pixels.
        features: (n, T, 384), fine then coarse.
    """
    n_points, n_frames = points.shape[:2]
    seen = torch.empty(n_points, n_frames, _PATCHES, dtype=features.dtype, device=points.device)
    some = max(_CACHED // n_frames, 1) if points.device.type == "cpu" else n_points
    for first in range(0, n_points, some):
        part = slice(first, first + some)
        fine, coarse = features[part, :, :FINE], features[part, :, FINE:]
        for index, (level, vectors) in enumerate(((maps.fine, fine), (maps.coarse, coarse), (maps.pooled, coarse))):
            seen[part, :, 49 * index : 49 * (index + 1)] = patch_products(level, points[part], vectors)
    return seen


class FirstGuess(nn.Module):
    """Position and scores from how alike a query is to each cell of one frame."""

    def __init__(self) -> None:
        super().__init__()
        self.hid1 = nn.Conv2d(1, 16, 3, padding=1)
        self.hid2 = nn.Conv2d(16, 1, 3, padding=1)
        self.hid3 = nn.Conv2d(16, 32, 3, stride=2)
        self.hid4 = nn.Linear(32, 16)
        self.occ_out = nn.Linear(16, 2)

    def forward(self, costs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """(n, t, h, w) products -> (n, t, 2) points in 256-pixels, (n, t, 2) logits; both float32."""
        hidden = F.relu_(self.hid1(costs.flatten(0, 1)[:, None]))
        heat = self.hid2(hidden)[:, 0].float()
        points = soft_argmax(heat * temperature) * heat.new_tensor([SIDE / heat.shape[2], SIDE / heat.shape[1]])
        inner = F.relu_(self.hid3(F.pad(hidden, (0, 2, 0, 2)))).mean(dim=(2, 3))
        logits = self.occ_out(F.relu_(self.hid4(inner))).float()
        return points.unflatten(0, costs.shape[:2]), logits.unflatten(0, costs.shape[:2])


def soft_argmax(heat: Tensor) -> Tensor:
    """(m, h, w) logits -> (m, 2), (x, y) in cells: the mean position of the cells near the best one, by probability."""
    height, width = heat.shape[1:]
    device = heat.device
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    centres = torch.stack([x, y], dim=-1).view(-1, 2) + 0.5
    heat = heat.flatten(1)
    best = centres[heat.argmax(dim=1)]
    near = (centres - best[:, None]).square().sum(dim=-1) < _NEAR**2
    weights = heat.softmax(dim=1) * near
    return weights @ centres / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)


class Mixer(nn.Module):
    """Corrections from tokens: blocks that mix neighbouring frames of a track, and channels of a frame."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.linear = Linear(_TOKEN, _WIDTH)
        self.blocks = nn.ModuleList(MixerBlock(causal=causal) for _ in range(_BLOCKS))
        self.layer_norm = nn.LayerNorm(_WIDTH, bias=False)
        self.linear_1 = Linear(_WIDTH, 4 + FINE + COARSE)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, T, 535) -> (n, T, 388): of x, y, the two logits, features."""
        path = self.linear(tokens)
        for block in self.blocks:
            path = block(path)
        out: Tensor = self.linear_1(self.layer_norm(path))
        return out


class MixerBlock(nn.Module):
    """Two depthwise convolutions over time, then two linear layers over channels, each beside a shortcut."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        # A causal network sees the two frames before, any other the one before and the one after.
        self._pad = (2, 0) if causal else (1, 1)
        self.layer_norm = nn.LayerNorm(_WIDTH, bias=False)
        self.mlp1_up = nn.Conv1d(_WIDTH, _FACTOR * _WIDTH, 3, groups=_WIDTH)
        self.mlp1_up_1 = nn.Conv1d(_FACTOR * _WIDTH, _FACTOR * _WIDTH, 3, groups=_FACTOR * _WIDTH)
        self.layer_norm_1 = nn.LayerNorm(_WIDTH, bias=False)
        self.conv_channels_mixer = ChannelMixer()

    def forward(self, path: Tensor) -> Tensor:
        """(n, T, 512) -> the same shape."""
        path = path + self._over_time(self.layer_norm(path))
        out: Tensor = self.conv_channels_mixer(self.layer_norm_1(path), add=path)
        return out

    def _over_time(self, normed: Tensor) -> Tensor:
        """The two convolutions and the sum over the four channels that each of the 512 becomes between them.

        Done as four pairs of plain depthwise convolutions, which a CPU does four times faster than the grouped ones:
        a pair's channels are next to each other in memory, and nothing four times as wide is written.
        """
        up, up_bias = _by_part(self.mlp1_up)
        down, down_bias = _by_part(self.mlp1_up_1)
        total = down_bias.sum(dim=1).to(normed.dtype).expand_as(normed)
        for part in range(_FACTOR):
            inner = self._depthwise(normed, up[:, part], up_bias[:, part])
            total = total + self._depthwise(F.gelu(inner, approximate="tanh"), down[:, part], None)
        return total

    def _depthwise(self, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(n, T, 512) by (512, 3) over time; as a picture of one row, channels last, a CPU does it fastest."""
        picture = F.pad(values, (0, 0, *self._pad)).transpose(1, 2)[:, :, None]
        out = F.conv2d(picture, weight[:, None, None], bias, groups=_WIDTH)
        return out[:, :, 0].transpose(1, 2)


def _by_part(convolution: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Weight (512, 4, 3) and bias (512, 4) of what each of the 512 channels becomes or comes from."""
    assert convolution.bias is not None
    return convolution.weight.view(_WIDTH, _FACTOR, 3), convolution.bias.view(_WIDTH, _FACTOR)


class ChannelMixer(nn.Module):
    """Two layers with a GELU, in its tanh approximation, between them.

    Not packed as other networks' are (`linear.pack_linears`): at this width the packed kernels took a fifth longer than
    plain ones (512 to 2048 and back, 1,024 to 4,096 rows, AMD EPYC without AVX-512, torch 2.13, 2026-11-28).
    """

    def __init__(self) -> None:
        super().__init__()
        self.mlp2_up = Linear(_WIDTH, _FACTOR * _WIDTH)
        self.mlp2_down = Linear(_FACTOR * _WIDTH, _WIDTH)

    def forward(self, tokens: Tensor, *, add: Tensor) -> Tensor:
        """(n, T, 512) -> the same shape; `add` is added."""
        out: Tensor = self.mlp2_down(self.mlp2_up(tokens, gelu="tanh"), add=add)
        return out
