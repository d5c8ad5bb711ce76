"""Which pieces of what looks like the handled thing are the thing: one piece a moment, or those that the hand cut."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Mask = NDArray[np.bool_]

COVERED = 0.8
"""Share of the way between two pieces that is the robot's where the hand cut them; less may be a gap in the mask."""

FULL_SIZE = 0.75
"""Quantile, over the moments, of the largest piece's size that counts as the thing uncut: not the largest of all, which
may be a mistake. At 0.5, at 0.75 and without a limit, J of the generated clips in docs/nano.md is the same to 0.001."""


def keep_one_thing(masks: Mask, shares: NDArray[np.floating], robot: Mask) -> None:
    """Clears, in `masks`, what is not the one thing that is handled; all are (M, H, W), `shares` the thing's in 0 .. 1.

    A moment keeps the piece with most of `shares`: what else looks like the thing, a finger of its colour, moves before
    it is touched, and would hide when that is. A piece beside it is kept too where the robot fills the way between them
    and both together are no larger than the thing uncut: a hand that is laid over a handle leaves two pieces of it.
    """
    pieces = [_Pieces.of(mask, share) for mask, share in zip(masks, shares, strict=True)]
    sizes = [each.sizes[0] for each in pieces if len(each.sizes)]
    full = float(np.quantile(sizes, FULL_SIZE)) if sizes else 0.0
    for mask, each, hand in zip(masks, pieces, robot, strict=True):
        if len(each.sizes) > 1:
            mask[:] = each.cut_by(hand, full)


class _Pieces(NamedTuple):
    """The connected parts of a mask, the one with most of the share first.

    Attributes:
        labels: (H, W) int32.
        order: (n,) labels of the pieces.
        sizes: (n,) pixels of each.
    """

    labels: NDArray[np.int32]
    order: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, mask: Mask, share: NDArray[np.floating]) -> _Pieces:
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        weights = np.bincount(labels.ravel(), share.ravel().astype(np.float64), minlength=count)
        order = 1 + np.argsort(-weights[1:], kind="stable")
        return cls(np.asarray(labels, np.int32), order, np.bincount(labels.ravel(), minlength=count)[order])

    def cut_by(self, hand: Mask, full: float) -> Mask:
        """The first piece, joined with those that `hand` parts from it, to at most `full` pixels."""
        kept, size = self.labels == self.order[0], int(self.sizes[0])
        for label, more in zip(self.order[1:], self.sizes[1:], strict=True):
            if size + more <= full and _between(kept, piece := self.labels == label, hand) >= COVERED:
                kept, size = kept | piece, size + int(more)
        return np.asarray(kept, np.bool_)


def _between(one: Mask, other: Mask, hand: Mask) -> float:
    """Share of `hand` on the straight way from `one` to `other` where they are nearest; they do not touch."""
    ends = [np.concatenate(_outlines(each)) for each in (one, other)]
    apart, nearest = cKDTree(ends[0]).query(ends[1])
    last = ends[1][apart.argmin()]
    first = ends[0][nearest[apart.argmin()]]
    steps = int(np.abs(last - first).max())
    x, y = np.rint(np.linspace(first, last, steps + 1)[1:-1]).astype(int).T
    return float(hand[y, x].mean())


def _outlines(mask: Mask) -> list[NDArray[np.int32]]:
    """Points (n, 2) as (x, y) of every outline of `mask`."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [np.asarray(outline[:, 0], np.int32) for outline in found]
