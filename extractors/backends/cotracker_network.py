"""The CoTracker3 network, offline variant: image encoder, correlation with the query's surroundings, transformer.

Karaev et al., "CoTracker3: Simpler and Better Point Tracking by Pseudo-Labelling Real Videos" (arXiv 2410.11831).
Module names are those of the published checkpoint, which loads strictly.

A track is found by refining a guess. Each frame becomes a pyramid of feature maps (`encode`). Around each query a patch
of features is remembered (`Support`). Then, several times over: read the patches at the current guess in every frame,
correlate them with the support, and let a transformer over all points and frames correct positions and scores
(`refine`). Frames are encoded independently, and so are correlations of different points; the transformer sees all
points of a query set at once.

Letters: N points, T frames, V virtual tracks, C channels, n / t parts of N / T. Coordinates are (x, y) in pixels of the
finest feature map: image pixels / 4, the centre of the top-left pixel at (0, 0) in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor, nn

from extractors.advance import advance
from extractors.backends.linear import Gelu, Linear

STRIDE = 4
"""Image pixels per pixel of the finest feature map."""

LEVELS = 4
"""Levels of the feature pyramid, each half the size of the one before."""

CHANNELS = 128
"""Width of the feature maps."""

RADIUS = 3
"""A patch reaches so many pixels of its level to each side: 7 x 7."""

_SIDE = 2 * RADIUS + 1
_PATCH = _SIDE * _SIDE
_MOTION_UNIT = (512 / STRIDE, 384 / STRIDE)
"""Relative motion is divided by the model's own map size (x, y), whatever the size of the input."""

_TABLE_FRAMES = 60
_WIDTH = 384
_HEADS = 8
_VIRTUAL = 64
_TOKEN = 2 + LEVELS * 256 + 84

# A token's 8 x 8 x 128 patch is about five times as wide as the transformer's hidden layer.
_PATCH_COST = 5

CPU_CHUNK = 2560
"""Tokens at once on a CPU: buffers stay below the size from which the allocator returns them to the system."""

_CACHED = 48
"""Tokens of which a CPU's cache holds the patches (32 KiB each) while they are read, multiplied and interpolated."""


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """Feature pyramid of a clip.

    Attributes:
        levels: `LEVELS` tensors (T, W / 2**l, H / 2**l, C): x first, the order in which patches are laid out, and
            channels together, so that one pixel is one contiguous row.
    """

    levels: tuple[Tensor, ...]

    @classmethod
    def empty(cls, n_frames: int, height: int, width: int, *, dtype: torch.dtype, device: torch.device) -> FeatureMaps:
        """Room for `n_frames` images of `height` x `width`."""
        sizes = [(width // STRIDE >> level, height // STRIDE >> level) for level in range(LEVELS)]
        return cls(tuple(torch.empty(n_frames, *size, CHANNELS, dtype=dtype, device=device) for size in sizes))

    @property
    def n_frames(self) -> int:
        """T."""
        return len(self.levels[0])

    def put(self, first: int, part: FeatureMaps) -> None:
        """Stores the maps of some frames from frame `first` on."""
        for whole, some in zip(self.levels, part.levels, strict=True):
            whole[first : first + len(some)] = some

    def around(self, level: int, frames: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """The 8 x 8 pixels that a 7 x 7 patch at a fractional position is interpolated from.

        Args:
            level: of the pyramid.
            frames: int64, broadcasts to the leading dimensions of `coords`.
            coords: (..., 2) on the finest level.

        Returns:
            (..., 8, 8) int64, x first, the pixels' numbers for `read`, the map's border repeated outside, and (..., 2)
            the fraction of a pixel by which the patch is beyond the lower ones.
        """
        maps = self.levels[level]
        size = coords.new_tensor(maps.shape[1:3])
        position = coords / 2**level
        low = position.floor()
        fraction = position - low
        # Far outside, all pixels are the border's; the clamp keeps the conversion to integers defined.
        low = torch.minimum(low.clamp(min=-RADIUS - 1), size + RADIUS).long()
        reach = torch.arange(-RADIUS, RADIUS + 2, device=coords.device)
        x = (low[..., 0, None] + reach).clamp(0, maps.shape[1] - 1)
        y = (low[..., 1, None] + reach).clamp(0, maps.shape[2] - 1)
        return (frames[..., None] * maps.shape[1] + x)[..., None] * maps.shape[2] + y[..., None, :], fraction

    def read(self, level: int, pixels: Tensor, *, out: Tensor | None = None) -> Tensor:
        """The vectors of pixels named by `around`, (...) -> (..., C); into `out`, (pixels, C), if given."""
        vectors = torch.index_select(self.levels[level].view(-1, CHANNELS), 0, pixels.flatten(), out=out)
        return vectors.view(*pixels.shape, CHANNELS)


class Scratch:
    """Memory for what is large and short-lived, used over and over.

    On a CPU, fresh memory of some megabytes costs more than the work done in it: the system hands it out page by page,
    and the allocator returns it after each use.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Float32 room of `shape`; what was put into the last one of that name is gone."""
        length = math.prod(shape)
        if name not in self._kept or len(self._kept[name]) < length:
            self._kept[name] = torch.empty(length)
        return self._kept[name][:length].view(shape)


@dataclass(frozen=True, eq=False)
class Support:
    """What the queries look like.

    Attributes:
        levels: `LEVELS` tensors (N, 49, C): the vectors of a query's 7 x 7 patch, x-major; on a GPU zeros follow.
    """

    levels: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class State:
    """The current guess.

    Attributes:
        coords: (N, T, 2) float32 positions.
        logits: (N, T, 2) float32 logits of visibility and confidence.
    """

    coords: Tensor
    logits: Tensor


class CoTrackerNetwork(nn.Module):
    """Images and queries in, tracks with visibility and confidence out."""

    time_emb: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fnet = Encoder()
        self.updateformer = UpdateTransformer()
        self.corr_mlp = FeedForward(_PATCH * _PATCH, _WIDTH, 256, gelu="none")
        self.register_buffer("time_emb", time_table(_TABLE_FRAMES)[None])

    def forward(self, images: Tensor, queries: Tensor, *, iterations: int = 6) -> tuple[Tensor, Tensor, Tensor]:
        """The whole model in one call.

        Args:
            images: (T, 3, H, W) float RGB, 0..255, H and W multiples of 4.
            queries: (N, 3) float32, (frame, x, y) in pixels of `images`.
            iterations: refinements.

        Returns:
            Positions (N, T, 2) in pixels of `images`, probability of visibility (N, T), confidence (N, T).
        """
        maps = self.encode(images)
        support = self.support(maps, queries)
        *_, state = self.refine(maps, support, queries, iterations=iterations)
        visibility, confidence = state.logits.sigmoid().unbind(-1)
        return state.coords * STRIDE, visibility, confidence

    def encode(self, images: Tensor) -> FeatureMaps:
        """Feature pyramid of (t, 3, H, W) images, 0..255; frames do not see each other."""
        features = self.fnet(2 * images.float() / 255 - 1).float()
        features = features / features.square().sum(1, keepdim=True).clamp(min=1e-12).sqrt()
        levels = [features]
        for _ in range(LEVELS - 1):
            levels.append(F.avg_pool2d(levels[-1], 2))
        return FeatureMaps(tuple(level.permute(0, 3, 2, 1).contiguous() for level in levels))

    def support(self, maps: FeatureMaps, queries: Tensor) -> Support:
        """Features around each of `queries` (N, 3), (frame, x, y) in image pixels."""
        frames, coords = queries[:, 0].long(), queries[:, 1:].float() / STRIDE
        levels = []
        for level in range(LEVELS):
            pixels, fraction = maps.around(level, frames, coords)
            patch = interpolate_patch(maps.read(level, pixels), fraction).flatten(1, 2)
            # Tensor cores want rows of whole 16 bytes; NVIDIA's advice, not measured here.
            levels.append(patch if patch.device.type == "cpu" else F.pad(patch, (0, 0, 0, 56 - _PATCH)))
        return Support(tuple(levels))

    def refine(
        self,
        maps: FeatureMaps,
        support: Support,
        queries: Tensor,
        *,
        iterations: int,
        backward: bool = False,
        chunk: int = CPU_CHUNK,
    ) -> Iterator[State]:
        """The guess after each iteration.

        Args:
            maps: of the clip.
            support: of `queries`.
            queries: (N, 3), (frame, x, y) in image pixels.
            iterations: how many.
            backward: let time run backwards; the states are in the clip's own order all the same.
            chunk: tokens (point x frame) handled at once where they are independent; bounds memory, and moves the
                numbers by rounding only.
        """
        frames = torch.arange(maps.n_frames, device=queries.device)
        frames = frames.flip(0) if backward else frames
        start = queries[:, None, 1:].float() / STRIDE
        state = State(start.repeat(1, maps.n_frames, 1), start.new_zeros(len(queries), maps.n_frames, 2))
        table = self._time_table(maps.n_frames)
        # A CUDA device has an allocator of its own that keeps what it got, and half precision.
        scratch = Scratch() if queries.device.type == "cpu" and not torch.is_autocast_enabled("cpu") else None
        for iteration in range(iterations):
            tokens = self._embed(maps, frames, support, state, table, chunk, scratch)
            delta = self.updateformer(tokens, chunk)
            state = State(state.coords + delta[..., :2], state.logits + delta[..., 2:])
            advance(iteration + 1, iterations)
            yield State(state.coords.flip(1), state.logits.flip(1)) if backward else state

    def _embed(
        self,
        maps: FeatureMaps,
        frames: Tensor,
        support: Support,
        state: State,
        table: Tensor,
        chunk: int,
        scratch: Scratch | None,
    ) -> Tensor:
        """The transformer's input, (N, T, 384), made point by point: correlations of all points would not fit."""
        motion = encode_motion(state.coords)
        parts = []
        for part in _slices(len(state.coords), chunk // (_PATCH_COST * len(frames))):
            coords = state.coords[part]
            seen = [
                self.corr_mlp(correlate(maps, level, frames, coords, support.levels[level][part], scratch=scratch))
                for level in range(LEVELS)
            ]
            tokens = torch.cat([state.logits[part], *seen, motion[part]], dim=-1) + table
            parts.append(self.updateformer.input_transform(tokens))
        return torch.cat(parts)

    def _time_table(self, n_frames: int) -> Tensor:
        """(T, 1110): the checkpoint's table, resampled unless the clip has its length."""
        if n_frames == self.time_emb.shape[1]:
            return self.time_emb[0]
        table = F.interpolate(self.time_emb.transpose(1, 2), size=n_frames, mode="linear", align_corners=False)
        return table[0].T


def correlate(
    maps: FeatureMaps, level: int, frames: Tensor, coords: Tensor, support: Tensor, *, scratch: Scratch | None = None
) -> Tensor:
    """Dot products of the patches at `coords` with the support.

    Interpolation is linear, so it may as well follow the product: 49 numbers per pixel to blend in place of 128.

    Args:
        maps: of the clip.
        level: of the pyramid.
        frames: (T,) int64.
        coords: (n, T, 2), one position per point and frame.
        support: (n, 49 or more, C), of `Support`.
        scratch: of a CPU: the work is done for so few tokens at once that their pixels stay in its cache, and the
            result is kept here until the next call.

    Returns:
        (n, T, 2401), axes patch x, patch y, support x, support y.
    """
    pixels, fraction = maps.around(level, frames, coords)
    if scratch is None:
        return interpolate_patch(_products(maps, level, pixels, support, None), fraction).flatten(2)
    n_points, n_frames = coords.shape[:2]
    out = scratch.take("correlations", n_points, n_frames, _SIDE, _SIDE, _PATCH)
    for some in _slices(n_points, _CACHED // n_frames):
        for when in _slices(n_frames, _CACHED):
            products = _products(maps, level, pixels[some, when], support[some], scratch)
            interpolate_patch(products, fraction[some, when], scratch=scratch, out=out[some, when])
    return out.flatten(2)


def _products(maps: FeatureMaps, level: int, pixels: Tensor, support: Tensor, scratch: Scratch | None) -> Tensor:
    """(n, t, 8, 8) pixels, (n, 49 or more, C) support -> (n, t, 8, 8, 49)."""
    n_points, side = len(pixels), support.shape[1]
    vectors = maps.read(level, pixels, out=None if scratch is None else scratch.take("read", pixels.numel(), CHANNELS))
    vectors = vectors.view(n_points, -1, CHANNELS)
    out = None if scratch is None else scratch.take("products", n_points, vectors.shape[1], side)
    products = torch.bmm(vectors, support.transpose(1, 2), out=out)
    return products.view(*pixels.shape, side)[..., :_PATCH]


def interpolate_patch(
    pixels: Tensor, fraction: Tensor, *, scratch: Scratch | None = None, out: Tensor | None = None
) -> Tensor:
    """(..., 8, 8, C), x first, and (..., 2) fractions -> (..., 7, 7, C), bilinear; into `out` if given."""
    x, y = fraction.to(pixels.dtype)[..., None, None, None, :].unbind(-1)
    *leading, _, _, width = pixels.shape
    between = None if scratch is None else scratch.take("columns", *leading, _SIDE, _SIDE + 1, width)
    columns = torch.lerp(pixels[..., :-1, :, :], pixels[..., 1:, :, :], x, out=between)
    return torch.lerp(columns[..., :-1, :], columns[..., 1:, :], y, out=out)


def encode_motion(coords: Tensor) -> Tensor:
    """Steps to the next and from the previous frame, (N, T, 2) -> (N, T, 84), as multiples and sines."""
    step = (coords[:, :-1] - coords[:, 1:]) / coords.new_tensor(_MOTION_UNIT)
    motion = torch.cat([F.pad(step, (0, 0, 0, 1)), F.pad(-step, (0, 0, 1, 0))], dim=-1)
    octaves = 2.0 ** torch.arange(10, device=coords.device)
    angles = (motion[..., None, :] * octaves[:, None]).flatten(-2)  # octave-major
    return torch.cat([motion, angles.sin(), (angles + math.pi / 2).sin()], dim=-1)


def time_table(n_frames: int) -> Tensor:
    """(n_frames, 1110) sines and cosines of the frame number."""
    half = _TOKEN // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(n_frames, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class Encoder(nn.Module):
    """Residual network whose four scales are brought to a quarter of the image's size and mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.layer1 = _stage(64, 64, 1)
        self.layer2 = _stage(64, 96, 2)
        self.layer3 = _stage(96, 128, 2)
        self.layer4 = _stage(128, 128, 2)
        self.conv2 = nn.Conv2d(64 + 96 + 128 + 128, 256, 3, padding=1)
        self.conv3 = nn.Conv2d(256, CHANNELS, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(t, 3, H, W) in -1..1 -> (t, C, H // 4, W // 4), not normalised."""
        size = [images.shape[-2] // STRIDE, images.shape[-1] // STRIDE]
        path = F.relu_(normalise(self.conv1(images)))
        scales = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            path = layer(path)
            scales.append(F.interpolate(path, size, mode="bilinear", align_corners=True))
        out: Tensor = self.conv3(F.relu_(normalise(self.conv2(torch.cat(scales, dim=1)))))
        return out


class ResidualUnit(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride=stride)) if stride > 1 else None

    def forward(self, path: Tensor) -> Tensor:
        """(t, c, h, w) -> (t, channels, h / stride, w / stride)."""
        inner = F.relu_(normalise(self.conv1(path)))
        inner = F.relu_(normalise(self.conv2(inner)))
        shortcut = path if self.downsample is None else normalise(self.downsample(path))
        return F.relu_(inner + shortcut)


def _stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(ResidualUnit(channels_in, channels, stride), ResidualUnit(channels, channels, 1))


def normalise(maps: Tensor) -> Tensor:
    """Instance norm without learned parameters; written as one group per channel it is many times faster on a CPU."""
    return F.group_norm(maps, maps.shape[1], eps=1e-5)


class UpdateTransformer(nn.Module):
    """Attention over time within each track, and over tracks within each frame by way of virtual tracks."""

    def __init__(self) -> None:
        super().__init__()
        self.input_transform = Linear(_TOKEN, _WIDTH)
        self.virual_tracks = nn.Parameter(torch.zeros(1, _VIRTUAL, 1, _WIDTH))  # spelled as in the checkpoint
        self.time_blocks = nn.ModuleList(SelfBlock() for _ in range(3))
        self.space_virtual2point_blocks = nn.ModuleList(CrossBlock() for _ in range(3))
        self.space_virtual_blocks = nn.ModuleList(SelfBlock() for _ in range(3))
        self.space_point2virtual_blocks = nn.ModuleList(CrossBlock() for _ in range(3))
        self.flow_head = nn.Linear(_WIDTH, 2)
        self.vis_conf_head = nn.Linear(_WIDTH, 2)

    def forward(self, tokens: Tensor, chunk: int) -> Tensor:
        """Corrections (N, T, 4) float32, of x, y, visibility and confidence.

        Args:
            tokens: (N, T, 384), the output of `input_transform`.
            chunk: tokens at once, whole tracks in the time blocks and whole frames in the space blocks.
        """
        n_points, n_frames = tokens.shape[:2]
        # The virtual tracks begin alike in every frame, and attention over equal tokens is that over one of them.
        virtual = self.time_blocks[0](self.virual_tracks[0].float())
        tracks = torch.cat([tokens.float(), virtual.expand(-1, n_frames, -1)])
        for layer in range(3):
            for part in _slices(len(tracks) if layer else n_points, chunk // n_frames):
                tracks[part] = self.time_blocks[layer](tracks[part])
            for part in _slices(n_frames, chunk // len(tracks)):
                tracks[:, part] = self._across_tracks(layer, tracks[:, part], n_points)
        points = tracks[:n_points]
        with torch.autocast(points.device.type, enabled=False):
            return torch.cat([self.flow_head(points), self.vis_conf_head(points)], dim=-1)

    def _across_tracks(self, layer: int, tracks: Tensor, n_points: int) -> Tensor:
        """Points see each other only through the virtual tracks, so that the cost is linear in N."""
        points, virtual = torch.split(tracks.transpose(0, 1), [n_points, _VIRTUAL], dim=1)  # t N C, t V C
        virtual = self.space_virtual2point_blocks[layer](virtual, points)
        virtual = self.space_virtual_blocks[layer](virtual)
        points = self.space_point2virtual_blocks[layer](points, virtual)
        return torch.cat([points, virtual], dim=1).transpose(0, 1)


class SelfBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()
        self.mlp = FeedForward(_WIDTH, 4 * _WIDTH, _WIDTH, gelu="tanh")

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, L, 384): S sequences of L tokens -> the same shape."""
        normed = _norm(tokens)
        tokens = self.attn(normed, normed, add=tokens)
        out: Tensor = self.mlp(_norm(tokens), add=tokens)
        return out


class CrossBlock(nn.Module):
    """Pre-norm transformer block whose tokens look at another sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_context = nn.LayerNorm(_WIDTH)
        self.cross_attn = Attention()
        self.mlp = FeedForward(_WIDTH, 4 * _WIDTH, _WIDTH, gelu="tanh")

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """(S, L, 384) tokens, (S, M, 384) context -> the shape of the tokens."""
        tokens = self.cross_attn(_norm(tokens), self.norm_context(context), add=tokens)
        out: Tensor = self.mlp(_norm(tokens), add=tokens)
        return out


class Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = Linear(_WIDTH, _WIDTH)
        self.to_kv = Linear(_WIDTH, 2 * _WIDTH)
        self.to_out = Linear(_WIDTH, _WIDTH)

    def forward(self, tokens: Tensor, context: Tensor, *, add: Tensor) -> Tensor:
        """(S, L, 384) tokens, (S, M, 384) context -> the shape of the tokens; `add` is added."""
        q, k, v = (
            part.unflatten(-1, (_HEADS, -1)).transpose(1, 2)  # S heads L d
            for part in (self.to_q(tokens), *self.to_kv(context).chunk(2, dim=-1))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2), add=add)
        return out


class FeedForward(nn.Module):
    """Two layers with a GELU between them: exact (`none`) or in its `tanh` approximation."""

    def __init__(self, width_in: int, hidden: int, width: int, *, gelu: Gelu) -> None:
        super().__init__()
        self.fc1 = Linear(width_in, hidden)
        self.fc2 = Linear(hidden, width)
        self._gelu = gelu

    def forward(self, tokens: Tensor, *, add: Tensor | None = None) -> Tensor:
        """(..., width_in) -> (..., width); `add` is added."""
        out: Tensor = self.fc2(self.fc1(tokens, gelu=self._gelu), add=add)
        return out


def _norm(tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def _slices(length: int, step: int) -> Iterator[slice]:
    """`length` items in runs of `step`, of one at least."""
    step = max(step, 1)
    return (slice(first, min(first + step, length)) for first in range(0, length, step))
