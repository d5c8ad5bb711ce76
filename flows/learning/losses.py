"""What the network is trained for: classes of pixels, and inverse depth up to one scale and shift a clip."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor

from extractors.backends.nano.network import Answer

CLASS_WEIGHTS = (0.5, 1.0, 3.0, 1.0)
"""Of scene, robot, object, thing: the object covers a fiftieth of the picture."""

DICE_WEIGHTS = {1: 0.5, 2: 1.0}
"""Of robot and object."""

UNTOLD = 255
"""Class of all pixels of a frame of which the classes are not asked: the clip's background."""

FOCUS = 1.5
"""Exponent of the focal loss (Lin et al., 2017)."""

TRIMMED = 0.2
"""Share of the worst pixels that the depth loss leaves out (Ranftl et al., 2020)."""

SCALES = 4
"""Of the gradient term, each half as large as the one before (Li and Snavely, 2018)."""


def class_loss(answer: Answer, classes: Tensor) -> Tensor:
    """Focal cross-entropy, Dice of robot and object over the clip, and cross-entropy of the coarse answer."""
    weights = torch.tensor(CLASS_WEIGHTS)
    labelled = classes[:, 0, 0] != UNTOLD
    if not labelled.any():
        return answer.logits.new_zeros(())
    classes = classes[labelled]
    log_share = answer.logits[labelled].log_softmax(1)
    own = log_share.gather(1, classes[:, None])[:, 0]
    focal = -(weights[classes] * (1 - own.exp()) ** FOCUS * own).mean()
    small = classes[:, 2::4, 2::4]
    first = F.cross_entropy(answer.first[labelled], small, weight=weights)
    return (
        2 * focal
        + 0.4 * first
        + sum(weight * _dice(log_share[:, k].exp(), classes == k) for k, weight in DICE_WEIGHTS.items())
    )


def depth_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Trimmed absolute error after the clip's best scale and shift, and its gradient at `SCALES` sizes.

    Args:
        predicted: (T, H, W).
        target: (T, H, W) 1/m, 0 where it is not given.
    """
    given = target > 0
    middle = target[given].median()
    spread = (target[given] - middle).abs().mean() + 1e-3
    aim = (target - middle) / spread
    scale, shift = _best_line(predicted[given], aim[given])
    error = torch.where(given, predicted * scale + shift - aim, 0.0)
    # A quarter of the pixels tells the trimmed mean well enough, and sorting all costs as much as a convolution.
    size = error[:, ::2, ::2][given[:, ::2, ::2]].abs()
    total = size.sort().values[: int(len(size) * (1 - TRIMMED))].sum() / max(len(size), 1)
    for level in range(SCALES):
        part = error[:, :: 2**level, :: 2**level]
        total = total + 0.25 * (
            (part[:, 1:] - part[:, :-1]).abs().mean() + (part[:, :, 1:] - part[:, :, :-1]).abs().mean()
        )
    return total


def _best_line(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares scale and shift; the scale is kept positive, so that near stays near."""
    x_mean, y_mean = x.mean(), y.mean()
    scale = ((x - x_mean) * (y - y_mean)).sum() / ((x - x_mean).square().sum() + 1e-3 * len(x))
    scale = scale.clamp(min=0.05)
    return scale, y_mean - scale * x_mean


def _dice(share: Tensor, truth: Tensor) -> Tensor:
    if not truth.any():
        return share.mean()
    return 1 - 2 * (share * truth).sum() / (share.sum() + truth.sum() + 1.0)
