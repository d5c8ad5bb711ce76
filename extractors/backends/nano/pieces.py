"""Which pieces of what looks like the handled thing are the thing: one piece a moment, or those that the hand cut."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

COVERED = 0.8
"""Share of the way between two pieces that is the robot's where the hand cut them; less may be a gap in the mask."""

FULL_SIZE = 0.75
"""Quantile, over the moments, of the largest piece's size that counts as the thing uncut: not the largest of all, which
may be a mistake. At 0.5, at 0.75 and without a limit, J of the
generated clips in docs/nano.md is the same to 0.001."""


def keep_one_thing(masks: Mask, shares: NDArray[np.floating], robot: Mask) -> None:
    """Clears, in `masks`, what is not the one thing that is handled; all are (M, H, W), `shares` the thing's in 0 .. 1.

    A moment keeps the piece with most of `shares`: what else looks like the thing, a finger of its colour, moves before
    it is touched, and would hide when that is. A piece beside it is kept too where the robot fills the way between them
    and both together are no larger than the thing uncut: a hand that is laid over a handle leaves two pieces of it.
    """
    pieces = [_pieces(mask, share) for mask, share in zip(masks, shares, strict=True)]
    sizes = [np.count_nonzero(of[0]) for of in pieces if of]
    full = np.quantile(sizes, FULL_SIZE) if sizes else 0.0
    for mask, of, hand in zip(masks, pieces, robot, strict=True):
        if len(of) > 1:
            mask[:] = _cut_by(hand, of, full)


def _pieces(mask: Mask, share: NDArray[np.floating]) -> list[Mask]:
    """The connected parts of `mask` (H, W), the one with most of `share` first."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    weights = np.bincount(labels.ravel(), share.ravel().astype(np.float64), minlength=count)
    return [labels == 1 + number for number in np.argsort(-weights[1:], kind="stable")]


def _cut_by(hand: Mask, pieces: Sequence[Mask], full: float) -> Mask:
    """The first of `pieces`, joined with those that `hand` parts from it, to at most `full` pixels."""
    kept = pieces[0].copy()
    for piece in pieces[1:]:
        if np.count_nonzero(kept) + np.count_nonzero(piece) <= full and _between(kept, piece, hand) >= COVERED:
            kept |= piece
    return kept


def _between(one: Mask, other: Mask, hand: Mask) -> float:
    """Share of `hand` on the straight way from `one` to `other` where they are nearest; they do not touch."""
    ends = [np.concatenate(_outlines(each)) for each in (one, other)]
    apart = np.square(ends[0][:, None] - ends[1][None]).sum(axis=2)
    first, last = (end[at] for end, at in zip(ends, np.unravel_index(apart.argmin(), apart.shape), strict=True))
    steps = int(np.abs(last - first).max())
    x, y = np.rint(np.linspace(first, last, steps + 1)[1:-1]).astype(int).T
    return float(hand[y, x].mean())


def _outlines(mask: Mask) -> list[NDArray[np.int32]]:
    """Points (n, 2) as (x, y) of every outline of `mask`."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [np.asarray(outline[:, 0], np.int32) for outline in found]
