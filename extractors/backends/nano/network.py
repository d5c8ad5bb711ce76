"""The network: one encoder for each frame, what happens to each pixel before and after it, two heads.

A frame alone does not tell which of several things will be handled: the clip does. With a still camera a pixel shows
the same place all along, so features are pooled over time, pixel by pixel, separately over the frames until now and
from now on. From a first, coarse answer each class's mean look and its colours in the whole clip are taken, and every
pixel is compared with them: a thing in the hand looks as it did on the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor, nn

from extractors.backends.nano.colours import colour_bins, colour_tables, look_up
from extractors.backends.nano.inputs import CHANNELS

CLASSES = ("scene", "robot", "object", "thing")
"""In the order of the logits; `object` is the thing that is manipulated, `thing` another that could be."""

STRIDE = 16
"""Sides of the input are multiples of it."""


@dataclass(frozen=True, slots=True)
class Features:
    """A batch's maps at 1/2, 1/4, 1/8 and 1/16 of its size, and what of them is pooled over time (1/4 and 1/8).

    `look` (T, 16, H/4, W/4) and `colours` (T, H/2, W/2), numbers of bins, are compared with the classes'.
    """

    half: Tensor
    quarter: Tensor
    eighth: Tensor
    sixteenth: Tensor
    fine: Tensor
    coarse: Tensor
    look: Tensor
    colours: Tensor


@dataclass(frozen=True, slots=True)
class Looks:
    """What the classes look like in each of n clips.

    Attributes:
        mean: (n, 4, 16) mean look of each class.
        colours: (n, 4, bins) of `colour_tables`.
        handled: (n,) logit of there being an object at all.
    """

    mean: Tensor
    colours: Tensor
    handled: Tensor


@dataclass(frozen=True, slots=True)
class Pooled:
    """Largest pooled features of the frames until one and from it on, (T, C, h, w) each, at 1/4 and 1/8."""

    fine: tuple[Tensor, Tensor]
    coarse: tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the network says.

    Attributes:
        logits: (T, 4, H, W) of the classes.
        first: (T, 4, H/4, W/4), coarse ones.
        inverse_depth: (T, H, W) on no scale.
        handled: (n,) logit of each clip of there being an object at all.
    """

    logits: Tensor
    first: Tensor
    inverse_depth: Tensor
    handled: Tensor


class NanoNetwork(nn.Module):
    """Frames of one clip in, classes and relative inverse depth of each pixel out; 1.4 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        n_classes = len(CLASSES)
        self.stem = _conv(CHANNELS, 24, stride=2, side=4)
        self.at_half = _conv(24, 32)
        self.at_quarter = nn.Sequential(_conv(32, 64, stride=2), _conv(64, 64))
        self.at_eighth = nn.Sequential(_conv(64, 144, stride=2), _conv(144, 144))
        self.at_sixteenth = nn.Sequential(_conv(144, 224, stride=2), _conv(224, 224))
        self.whole = nn.Sequential(nn.Linear(224, 64), nn.ReLU(), nn.Linear(64, 224))
        self.slope = nn.Linear(224, 2)
        self.to_fine, self.to_coarse = nn.Conv2d(64, 16, 1), nn.Conv2d(144, 32, 1)
        self.to_look = nn.Conv2d(64, 16, 1)
        self.up_eighth = nn.Sequential(_conv(224 + 144 + 2 * 32, 96, side=1), _conv(96, 96))
        self.up_quarter = nn.Sequential(_conv(96 + 64 + 2 * 16, 64, side=1), _conv(64, 64))
        self.first = nn.Conv2d(64, n_classes, 1)
        self.handled = nn.Sequential(nn.Linear(2 * 64 + 2, 32), nn.ReLU(), nn.Linear(32, 1))
        self.second = _conv(64 + 3 * n_classes, 64)
        self.up_half = nn.Sequential(_conv(64 + 32 + n_classes, 32, side=1), _conv(32, 32))
        # Four pixels of the input to each of the half size.
        self.head = nn.Conv2d(32, 4 * (n_classes + 1), 1)

    def encode(self, inputs: Tensor) -> Features:
        """Features of frames (T, CHANNELS, H, W)."""
        half = self.at_half(self.stem(inputs))
        quarter = self.at_quarter(half)
        eighth = self.at_eighth(quarter)
        sixteenth = self.at_sixteenth(eighth)
        sixteenth = sixteenth + self.whole(sixteenth.mean((2, 3)))[:, :, None, None]
        look = F.normalize(self.to_look(quarter), dim=1)
        colours = colour_bins(inputs[:, :3])
        return Features(half, quarter, eighth, sixteenth, self.to_fine(quarter), self.to_coarse(eighth), look, colours)

    def first_answer(self, features: Features, pooled: Pooled) -> tuple[Tensor, Tensor]:
        """Maps (T, 64, H/4, W/4) and coarse logits (T, 4, H/4, W/4)."""
        up = F.interpolate(features.sixteenth, size=features.eighth.shape[2:], mode="nearest")
        eighth = self.up_eighth(torch.cat([up, features.eighth, *pooled.coarse], 1))
        up = F.interpolate(eighth, size=features.quarter.shape[2:], mode="nearest")
        maps = self.up_quarter(torch.cat([up, features.quarter, *pooled.fine], 1))
        return maps, self.first(maps)

    def looks(self, features: Features, maps: Tensor, first: Tensor, n_clips: int = 1) -> Looks:
        """What the classes look like in each clip, from its frames' maps and coarse logits."""
        shares = first.softmax(1).square()
        share, look = _by_clip(shares, n_clips), _by_clip(features.look, n_clips)
        mean = F.normalize(torch.einsum("ntkhw,ntchw->nkc", share, look), dim=2)
        handled = self._is_handled(share[:, :, CLASSES.index("object")].flatten(1), _by_clip(maps, n_clips))
        # Counting has no gradient.
        return Looks(mean, colour_tables(features.colours, shares.detach(), n_clips), handled)

    def _is_handled(self, share: Tensor, maps: Tensor) -> Tensor:
        """Logit (n,) from the object's share (n, pixels) and the maps (n, T, 64, h, w) of whole clips."""
        pixels = maps.transpose(1, 2).flatten(2)
        of_object = torch.einsum("np,ncp->nc", share, pixels) / (share.sum(1, keepdim=True) + 1)
        clues = [of_object, pixels.amax(2), share.amax(1, keepdim=True), share.mean(1, keepdim=True)]
        logit: Tensor = self.handled(torch.cat(clues, 1))[:, 0]
        return logit

    def answer(self, features: Features, maps: Tensor, first: Tensor, looks: Looks) -> Answer:
        """The classes and the inverse depth, given the clips' `looks`."""
        look = _by_clip(features.look, len(looks.mean))
        alike = torch.einsum("nkc,ntchw->ntkhw", looks.mean, look).flatten(0, 1)
        by_colour = _channels_last(look_up(looks.colours, features.colours).to(maps.dtype))
        quarter = self.second(torch.cat([maps, first.softmax(1), alike, F.avg_pool2d(by_colour, 2)], 1))
        up = F.interpolate(quarter, size=features.half.shape[2:], mode="nearest")
        out = F.pixel_shuffle(self.head(self.up_half(torch.cat([up, features.half, by_colour], 1))), 2)
        # Inverse depth of a plane is linear in the image: what is left is the residual to it.
        slope = self.slope(features.sixteenth.mean((2, 3)))
        height, width = out.shape[2:]
        y = torch.linspace(-1, 1, height, device=out.device)[None, :, None]
        x = torch.linspace(-1, 1, width, device=out.device)[None, None, :]
        depth = out[:, len(CLASSES)] + slope[:, 0, None, None] * x + slope[:, 1, None, None] * y
        logits = out[:, : len(CLASSES)]
        # An object's pixel: there is an object, and it is there.
        gate = F.logsigmoid(looks.handled).repeat_interleave(len(logits) // len(looks.handled))
        at = torch.tensor([name == "object" for name in CLASSES], device=logits.device)
        logits = logits + gate[:, None, None, None] * at[:, None, None]
        return Answer(logits, first, depth, looks.handled)

    def forward(self, inputs: Tensor, n_clips: int = 1) -> Answer:
        """Whole clips of equal length, one after the other, frames (n_clips * T, CHANNELS, H, W) in order of time."""
        features = self.encode(inputs)
        maps, first = self.first_answer(features, pool(features, n_clips))
        return self.answer(features, maps, first, self.looks(features, maps, first, n_clips))


def pool(features: Features, n_clips: int = 1) -> Pooled:
    """Over a clip's frames in order of time, each frame with itself."""

    def both(maps: Tensor) -> tuple[Tensor, Tensor]:
        clips = _by_clip(maps, n_clips)
        until, since = clips.cummax(1).values, clips.flip(1).cummax(1).values.flip(1)
        return _channels_last(until.flatten(0, 1)), _channels_last(since.flatten(0, 1))

    return Pooled(both(features.fine), both(features.coarse))


def _channels_last(maps: Tensor) -> Tensor:
    """As convolutions want it: joined to maps in that order, one in another order makes all of them copies."""
    return maps.contiguous(memory_format=torch.channels_last)


def _by_clip(maps: Tensor, n_clips: int) -> Tensor:
    return maps.reshape(n_clips, -1, *maps.shape[1:])


def _conv(n_in: int, n_out: int, *, stride: int = 1, side: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, side, stride=stride, padding=(side - 1) // 2, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )
