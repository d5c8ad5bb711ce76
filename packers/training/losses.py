"""Losses beside the targets, torch: what weighs 0 takes no part, and where nothing weighs anything the loss is 0.

All of them return a scalar whose gradients are finite, values of weight 0 may be anything finite. Each sample counts
alike, however much of it is valid, and samples without anything valid do not count.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEAST_SCALE = 1e-3
"""Floor of the spread that a map is divided by, in its own unit: a map that is flat over its region stays finite."""


def scale_shift_invariant_l1(predicted: Tensor, target: Tensor, weight: Tensor, region: Tensor | None = None) -> Tensor:
    """L1 between maps that are each shifted by their median and scaled by their mean absolute deviation from it.

    After MiDaS (Ranftl et al. 2020, section 5, `L_ssimae`): what remains is blind to a scale and shift of the
    prediction. Relative depth needs it, as its scale is the model's own and changes from clip to clip.

    Args:
        predicted: (..., H, W).
        target: the same; each (H, W) is aligned by itself.
        weight: the same, at least 0; what each pixel counts in the loss.
        region: the same, bool: the pixels that medians and deviations are taken over; by default those
            whose `weight` is above 0. Give the full frame's with a "tight" weight: with the medians of
            the 2 % of pixels that are the object the loss scatters five times as much, and the scale 28 times
            (tests/packers/training/test_losses.py).
    """
    weight = weight.float()
    over = (weight > 0) if region is None else region.bool()
    weight = weight * over.flatten(-2).any(-1)[..., None, None]
    difference = (_aligned(predicted.float(), over) - _aligned(target.float(), over)).abs()
    return _mean(difference.flatten(-2), weight.flatten(-2))


def masked_huber(predicted: Tensor, target: Tensor, weight: Tensor, delta: float = 0.05) -> Tensor:
    """Huber loss of displacements.

    Args:
        predicted: (B, ..., 2), in shares of the frame's width as in `Tracks`.
        target: the same.
        weight: (B, ...), 1 where the point is seen.
        delta: where it goes from square to linear; a twentieth of the width is 11 px of 224, far more than trackers err
            by and less than a lost point jumps.
    """
    error = functional.huber_loss(predicted.float(), target.float(), reduction="none", delta=delta).mean(-1)
    return _mean(error.flatten(1), weight.float().flatten(1))


def sigma_weighted(predicted: Tensor, target: Tensor, sigma: Tensor, weight: Tensor, floor: float = 0.01) -> Tensor:
    """Huber loss of errors in units of their standard deviation: what is known badly counts less.

    Args:
        predicted: (B, ..., 3).
        target: the same, in the same unit.
        sigma: the same, one standard deviation of the target.
        weight: (B, ...), 1 where there is a centroid.
        floor: least deviation, in the same unit: 1 cm of metres, below which depth cameras and masks are not trusted.
    """
    scaled = (predicted.float() - target.float()) / sigma.float().clamp(min=floor)
    error = functional.huber_loss(scaled, torch.zeros_like(scaled), reduction="none").mean(-1)
    return _mean(error.flatten(1), weight.float().flatten(1))


def masked_mse(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Squared error of standardised vectors (B, n, D), such as shape descriptors; `weight` (B, n)."""
    return _mean(((predicted.float() - target.float()) ** 2).mean(-1), weight.float())


def masked_bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy of soft labels in [0, 1]: masks (B, n, h, w), contact (B, n, 2); `weight` (B, n)."""
    error = functional.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none")
    return _mean(error.flatten(2).mean(-1), weight.float())


def _aligned(values: Tensor, over: Tensor) -> Tensor:
    """(..., H, W) less their median over `over`, by their mean absolute deviation from it."""
    flat, counted = values.flatten(-2), over.flatten(-2)
    median = _median(flat, counted)
    centred = flat - median
    spread = (centred.abs() * counted).sum(-1, keepdim=True) / counted.sum(-1, keepdim=True).clamp(min=1)
    return (centred / spread.clamp(min=LEAST_SCALE)).reshape(values.shape)


def _median(flat: Tensor, counted: Tensor) -> Tensor:
    """The lower median of the values counted, (..., 1); 0 where none is. A gradient goes to the one it is."""
    ordered = flat.masked_fill(~counted, torch.inf).sort(-1).values
    count = counted.sum(-1, keepdim=True)
    return torch.where(count > 0, ordered, torch.zeros_like(ordered)).gather(-1, ((count - 1) // 2).clamp(min=0))


def _mean(error: Tensor, weight: Tensor) -> Tensor:
    """Weighted means of (..., K), then the mean of those that weigh anything."""
    total = weight.sum(-1)
    each = (error * weight).sum(-1) / total.clamp(min=1e-12)
    some = total > 0
    return torch.where(some, each, torch.zeros_like(each)).sum() / some.sum().clamp(min=1)
