"""The network: one encoder for each frame, what happens to each pixel before and after it, two heads.

A frame alone does not tell which of several things will be handled: the clip does. With a still camera a pixel shows
the same place all along, so features are pooled over time, pixel by pixel, separately over the frames until now and
from now on. From a first, coarse answer each class's mean look in the whole clip is taken, and every pixel is compared
with it: a thing in the hand looks as it did on the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor, nn

from extractors.backends.nano.inputs import CHANNELS

CLASSES = ("scene", "robot", "object", "thing")
"""In the order of the logits; `object` is the thing that is manipulated, `thing` another that could be."""

STRIDE = 16
"""Sides of the input are multiples of it."""


@dataclass(frozen=True, slots=True)
class Features:
    """A batch's maps at 1/2, 1/4, 1/8 and 1/16 of its size, and what of them is pooled over time (1/4 and 1/8)."""

    half: Tensor
    quarter: Tensor
    eighth: Tensor
    sixteenth: Tensor
    fine: Tensor
    coarse: Tensor
    look: Tensor


@dataclass(frozen=True, slots=True)
class Pooled:
    """Largest pooled features of the frames until one and from it on, (T, C, h, w) each, at 1/4 and 1/8."""

    fine: tuple[Tensor, Tensor]
    coarse: tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Answer:
    """Logits (T, 4, H, W) of the classes, coarse ones (T, 4, H/4, W/4), and inverse depth (T, H, W) on no scale."""

    logits: Tensor
    first: Tensor
    inverse_depth: Tensor


class NanoNetwork(nn.Module):
    """Frames of one clip in, classes and relative inverse depth of each pixel out; 0.54 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(CHANNELS, 16, stride=2)
        self.at_half = _conv(16, 24)
        self.at_quarter = nn.Sequential(_conv(24, 48, stride=2), _conv(48, 48))
        self.at_eighth = nn.Sequential(_conv(48, 96, stride=2), _conv(96, 96))
        self.at_sixteenth = nn.Sequential(_conv(96, 128, stride=2), _conv(128, 128))
        self.whole = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 128))
        self.slope = nn.Linear(128, 2)
        self.to_fine, self.to_coarse = nn.Conv2d(48, 12, 1), nn.Conv2d(96, 24, 1)
        self.to_look = nn.Conv2d(48, 16, 1)
        self.up_eighth = nn.Sequential(_conv(128 + 96 + 48, 64, side=1), _conv(64, 64))
        self.up_quarter = nn.Sequential(_conv(64 + 48 + 24, 40, side=1), _conv(40, 40))
        self.first = nn.Conv2d(40, len(CLASSES), 1)
        self.second = _conv(40 + 2 * len(CLASSES), 40)
        self.up_half = nn.Sequential(_conv(40 + 24, 24, side=1), _conv(24, 24))
        # Four pixels of the input to each of the half size.
        self.head = nn.Conv2d(24, 4 * (len(CLASSES) + 1), 1)

    def encode(self, inputs: Tensor) -> Features:
        """Features of frames (T, CHANNELS, H, W)."""
        half = self.at_half(self.stem(inputs))
        quarter = self.at_quarter(half)
        eighth = self.at_eighth(quarter)
        sixteenth = self.at_sixteenth(eighth)
        sixteenth = sixteenth + self.whole(sixteenth.mean((2, 3)))[:, :, None, None]
        look = F.normalize(self.to_look(quarter), dim=1)
        return Features(half, quarter, eighth, sixteenth, self.to_fine(quarter), self.to_coarse(eighth), look)

    def first_answer(self, features: Features, pooled: Pooled) -> tuple[Tensor, Tensor]:
        """Maps (T, 40, H/4, W/4) and coarse logits (T, 4, H/4, W/4)."""
        up = F.interpolate(features.sixteenth, size=features.eighth.shape[2:], mode="nearest")
        eighth = self.up_eighth(torch.cat([up, features.eighth, *pooled.coarse], 1))
        up = F.interpolate(eighth, size=features.quarter.shape[2:], mode="nearest")
        maps = self.up_quarter(torch.cat([up, features.quarter, *pooled.fine], 1))
        return maps, self.first(maps)

    def looks(self, features: Features, first: Tensor, n_clips: int = 1) -> Tensor:
        """(n_clips, 4, 16) mean look of each class in a clip, from its frames' coarse logits."""
        share, look = (_by_clip(maps, n_clips) for maps in (first.softmax(1).square(), features.look))
        return F.normalize(torch.einsum("ntkhw,ntchw->nkc", share, look), dim=2)

    def answer(self, features: Features, maps: Tensor, first: Tensor, looks: Tensor) -> Answer:
        """The classes and the inverse depth, given the clips' `looks`."""
        look = _by_clip(features.look, len(looks))
        alike = torch.einsum("nkc,ntchw->ntkhw", looks, look).flatten(0, 1)
        quarter = self.second(torch.cat([maps, first.softmax(1), alike], 1))
        up = F.interpolate(quarter, size=features.half.shape[2:], mode="nearest")
        out = F.pixel_shuffle(self.head(self.up_half(torch.cat([up, features.half], 1))), 2)
        # Inverse depth of a plane is linear in the image: what is left is the residual to it.
        slope = self.slope(features.sixteenth.mean((2, 3)))
        height, width = out.shape[2:]
        y = torch.linspace(-1, 1, height, device=out.device)[None, :, None]
        x = torch.linspace(-1, 1, width, device=out.device)[None, None, :]
        depth = out[:, len(CLASSES)] + slope[:, 0, None, None] * x + slope[:, 1, None, None] * y
        return Answer(out[:, : len(CLASSES)], first, depth)

    def forward(self, inputs: Tensor, n_clips: int = 1) -> Answer:
        """Whole clips of equal length, one after the other, frames (n_clips * T, CHANNELS, H, W) in order of time."""
        features = self.encode(inputs)
        maps, first = self.first_answer(features, pool(features, n_clips))
        return self.answer(features, maps, first, self.looks(features, first, n_clips))


def pool(features: Features, n_clips: int = 1) -> Pooled:
    """Over a clip's frames in order of time, each frame with itself."""

    def both(maps: Tensor) -> tuple[Tensor, Tensor]:
        clips = _by_clip(maps, n_clips)
        until, since = clips.cummax(1).values, clips.flip(1).cummax(1).values.flip(1)
        return until.flatten(0, 1), since.flatten(0, 1)

    return Pooled(both(features.fine), both(features.coarse))


def _by_clip(maps: Tensor, n_clips: int) -> Tensor:
    return maps.reshape(n_clips, -1, *maps.shape[1:])


def _conv(n_in: int, n_out: int, *, stride: int = 1, side: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, side, stride=stride, padding=side // 2, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )
