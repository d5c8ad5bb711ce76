"""What detectors leave to be done: duplicates, specks and holes of masks.

The `transformers` port of SAM 3 does these three only with a compiled kernel fetched from the hub, and skips them
silently without it. Here they are done always, so that results do not hang on a package.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from numpy.typing import NDArray
from torch import Tensor

from extractors.geometry import resize_mask
from extractors.types import Size


def keep_distinct(masks: Tensor, scores: Tensor, *, max_iou: float, most: int | None = None) -> Tensor:
    """Greedy non-maximum suppression by mask IoU.

    Args:
        masks: (N, h, w) bool.
        scores: (N,), higher wins; equal scores go by index.
        max_iou: a mask that overlaps a better one by more is dropped.
        most: keep at most so many.

    Returns:
        (K,) int64 indices kept, best first.
    """
    order = torch.argsort(scores.float(), descending=True, stable=True)
    if most is not None:
        # Hundreds of detections: the matrix below stays small, and the best are distinct soon.
        order = order[: 8 * most]
    flat = masks[order].flatten(1).float()
    inter = flat @ flat.T
    area = flat.sum(1)
    iou = (inter / (area[:, None] + area[None] - inter).clamp(min=1)).cpu().numpy()
    kept: list[int] = []
    for index in range(len(order)):
        if all(iou[index, other] <= max_iou for other in kept):
            kept.append(index)
            if most is not None and len(kept) == most:
                break
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


def clean_logits(logits: Tensor, *, max_area: int) -> Tensor:
    """Mask logits (N, h, w) with small holes filled (0.1) and small specks removed (-0.1).

    As in SAM 3's own tracker: a hole of up to `max_area` pixels is filled; a speck of up to `max_area` is removed if it
    is at most half of the whole mask, so that a small object stays.
    """
    if max_area <= 0 or not len(logits):
        return logits
    positive = (logits > 0).cpu().numpy()
    cleaned = np.stack([clean_mask(each, max_area=max_area) for each in positive])
    filled = torch.from_numpy(cleaned & ~positive).to(logits.device)
    removed = torch.from_numpy(positive & ~cleaned).to(logits.device)
    return logits.masked_fill(filled, 0.1).masked_fill(removed, -0.1)


def clean_mask(mask: NDArray[np.bool_], *, max_area: int) -> NDArray[np.bool_]:
    """A mask (h, w) bool without holes and specks of up to `max_area` pixels; see `clean_logits`."""
    filled = mask | (_small(~mask, max_area))
    # At most half of the mask: of an object smaller than that, nothing but crumbs is taken.
    return filled & ~_small(filled, min(max_area, int(filled.sum()) // 2))


def masks_at_size(logits: Tensor, size: Size) -> NDArray[np.bool_]:
    """Masks (N, height, width) from logits (N, h, w): enlarged smoothly, reduced by the area that is covered."""
    if not len(logits):
        return np.zeros((0, *size), np.bool_)
    height, width = max(size[0], logits.shape[1]), max(size[1], logits.shape[2])
    if (height, width) != tuple(logits.shape[1:]):
        logits = F.interpolate(logits[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
    masks = (logits > 0).cpu().numpy()
    if masks.shape[1:] == size:
        return np.asarray(masks, np.bool_)
    return np.stack([resize_mask(mask, size) for mask in masks.astype(np.bool_)])


def _small(mask: NDArray[np.bool_], max_area: int) -> NDArray[np.bool_]:
    """The 8-connected parts of `mask` of at most `max_area` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] <= max_area
    small[0] = False
    return np.asarray(small[labels], np.bool_)
