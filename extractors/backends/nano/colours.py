"""Which colours a clip's robot, object and other things have: a thing in the hand has those that it had on the table.

A histogram of each class over the clip (Swain and Ballard, 1991), filled from a first answer, tells of every pixel how
well its colour speaks for each class. Nothing here is trained: what the network learns is how far to believe it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor

LEVELS = 8
"""Of each channel in a histogram."""

NEIGHBOUR = 0.2
"""What a bin gives to each of its two neighbours, channel by channel: noise and light shift colours a little."""

FEW = 20.0
"""Pixels of half the size: a class with fewer has little to say."""


def colour_bins(planes: Tensor) -> Tensor:
    """(T, H/2, W/2) int64 bins of the mean colour of four pixels; `planes` is (T, 3, H, W) in -1 .. 1."""
    level = ((F.avg_pool2d(planes.float(), 2) + 1) * (LEVELS / 2)).long().clamp(0, LEVELS - 1)
    return (level[:, 0] * LEVELS + level[:, 1]) * LEVELS + level[:, 2]


def colour_tables(bins: Tensor, shares: Tensor, n_clips: int) -> Tensor:
    """(n_clips, K, LEVELS ** 3) chance of each class, given a colour, if all classes were as frequent.

    Args:
        bins: (n_clips * T, h, w) of `colour_bins`, clip after clip.
        shares: (n_clips * T, K, h', w') of each class in each pixel, at any size.
        n_clips: how many.
    """
    size = bins.shape[1:]
    weights = F.interpolate(shares.float(), size=size, mode="bilinear").reshape(n_clips, -1, *shares.shape[1:2], *size)
    weights = weights.transpose(1, 2).flatten(2)
    where = bins.reshape(n_clips, 1, -1).expand_as(weights)
    counts = weights.new_zeros((*weights.shape[:2], LEVELS**3)).scatter_add(2, where, weights)
    counts = counts.reshape(*counts.shape[:2], LEVELS, LEVELS, LEVELS)
    for channel in (2, 3, 4):
        counts = _blurred(counts, channel)
    counts = counts.flatten(2)
    likely = counts / (counts.sum(2, keepdim=True) + FEW)
    return likely / (likely.sum(1, keepdim=True) + 1e-6)


def look_up(tables: Tensor, bins: Tensor) -> Tensor:
    """(n_clips * T, K, h, w) of the clips' `tables` for pixels with these `bins`."""
    n_clips, n_classes = tables.shape[:2]
    where = bins.reshape(n_clips, 1, -1).expand(-1, n_classes, -1)
    found = tables.gather(2, where).reshape(n_clips, n_classes, -1, *bins.shape[1:])
    return found.transpose(1, 2).flatten(0, 1)


def _blurred(counts: Tensor, axis: int) -> Tensor:
    """Each bin shared with its neighbours along `axis`; nothing leaves at the ends."""
    n_bins = counts.shape[axis]
    lower = torch.cat([counts.narrow(axis, 0, 1), counts.narrow(axis, 0, n_bins - 1)], axis)
    upper = torch.cat([counts.narrow(axis, 1, n_bins - 1), counts.narrow(axis, n_bins - 1, 1)], axis)
    return counts + NEIGHBOUR * (lower + upper - 2 * counts)
