"""What the network is trained for: classes of pixels, and inverse depth up to one scale and shift a clip."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor

from extractors.backends.nano.network import CLASSES, Answer

CLASS_WEIGHTS = (0.8, 1.0, 1.6, 1.0)
"""Of scene, robot, object, thing. The object covers a hundredth of the picture, but weights as unequal as that draw it
too wide: Dice asks for it instead."""

OBJECT = CLASSES.index("object")

DICE_WEIGHTS = {CLASSES.index("robot"): 0.5, OBJECT: 1.0}
"""Of robot and object."""

UNTOLD = 255
"""Class of all pixels of a frame of which the classes are not asked: the clip's background."""

FOCUS = 1.5
"""Exponent of the focal loss (Lin et al., 2017)."""

TRIMMED = 0.2
"""Share of the worst pixels that the depth loss leaves out (Ranftl et al., 2020)."""

FARTHER = 4.0
"""Times the clip's typical depth: farther pixels count as if they were as far, or the sky would outweigh the table."""

SCALES = 4
"""Of the gradient term, each half as large as the one before (Li and Snavely, 2018)."""


def class_loss(answer: Answer, classes: Tensor, n_clips: int = 1) -> Tensor:
    """Focal, Dice of robot and object over each clip, cross-entropy of the coarse answer and of there being an object.

    Args:
        answer: of whole clips of equal length, one after the other.
        classes: (n_clips * T, H, W) int64.
        n_clips: how many.
    """
    asked = (classes != UNTOLD).float()
    index = classes.clamp(max=len(CLASS_WEIGHTS) - 1)
    weights = torch.tensor(CLASS_WEIGHTS, device=classes.device)
    log_share = answer.logits.log_softmax(1)
    own = log_share.gather(1, index[:, None])[:, 0]
    other = 1 - own.exp()
    focal = -(asked * weights[index] * other.clamp(min=1e-6).pow(FOCUS) * own).sum() / asked.sum().clamp(min=1)
    small = classes[:, 2::4, 2::4]
    first = F.cross_entropy(answer.first, small, weight=weights, ignore_index=UNTOLD, reduction="sum")
    first = first / (small != UNTOLD).sum().clamp(min=1)
    handled = (classes == OBJECT).reshape(n_clips, -1).any(1).float()
    total = 2 * focal + 0.4 * first + 0.2 * F.binary_cross_entropy_with_logits(answer.handled, handled)
    for k, weight in DICE_WEIGHTS.items():
        total = total + weight * _dice(log_share[:, k].exp() * asked, (classes == k).float(), n_clips)
    return total


def depth_loss(predicted: Tensor, target: Tensor, n_clips: int = 1) -> Tensor:
    """Trimmed relative error of depth after each clip's best scale and shift; the error's gradient at `SCALES` sizes.

    Args:
        predicted: (n_clips * T, H, W).
        target: (n_clips * T, H, W) 1/m, 0 where it is not given.
        n_clips: how many.
    """
    given = (target > 0).float()

    def mean(values: Tensor) -> Tensor:
        clips = (values * given).reshape(n_clips, -1).sum(1) / given.reshape(n_clips, -1).sum(1).clamp(min=1)
        return clips.repeat_interleave(len(target) // n_clips)[:, None, None]

    aim = target - mean(target)
    aim = aim / (mean(aim.abs()) + 1e-3)
    off = predicted - mean(predicted)
    # The scale is kept positive, so that near stays near.
    scale = (mean(off * aim) / (mean(off.square()) + 1e-3)).clamp(min=0.05)
    error = given * (scale * off - aim)
    # An error of inverse depth, divided by it, is the relative error of depth, by which depth is judged.
    by_depth = (mean(target) / target.clamp(min=1e-3)).clamp(max=FARTHER)
    relative = error / mean(by_depth) * by_depth
    # A quarter of the pixels tells the trimmed mean well enough, and sorting all costs as much as a convolution.
    size = relative[:, ::2, ::2].abs().reshape(n_clips, -1)
    total = size.sort(1).values[:, : int(size.shape[1] * (1 - TRIMMED))].mean() * (1 - TRIMMED)
    for level in range(SCALES):
        part = error[:, :: 2**level, :: 2**level]
        total = total + 0.25 * (
            (part[:, 1:] - part[:, :-1]).abs().mean() + (part[:, :, 1:] - part[:, :, :-1]).abs().mean()
        )
    return total


def _dice(share: Tensor, truth: Tensor, n_clips: int) -> Tensor:
    """Mean over clips of 1 - Dice; of a clip without such pixels, the share that sees some."""
    seen, there = (maps.reshape(n_clips, -1) for maps in (share, truth))
    n_pixels = there.sum(1)
    overlap = 1 - 2 * (seen * there).sum(1) / (seen.sum(1) + n_pixels + 1.0)
    return torch.where(n_pixels > 0, overlap, seen.mean(1)).mean()
