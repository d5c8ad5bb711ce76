"""Points matched in pictures of one body alone, and matched again where one knows where to look; by Lucas-Kanade.

Points that are followed from frame to frame drift. Where a body's motion and a camera are known, they say where each
point should be and how its patch looks from there: matched with the picture that it was posed in, a point has no drift,
and those that were lost are found again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.geometry import bounding_box

WINDOW, LOOP = 0.05, 0.003
"""Side of the window that is matched (11 pixels at 224), and farthest that a match and its way back may end from where
they began (0.7 pixels); shares of the frame's side, which is the root of its area."""

MARGIN, REACH = 0.009, 0.016
"""How far beyond its mask a body's own pixels are kept (2 pixels at 224: masks are rough), and how far its colours
reach out from there (deviation of a normal distribution); shares of the frame's side."""

FAR = 0.018
"""Farthest that a point is matched again from where it is looked for (4 pixels at 224), share of the frame's side."""

ALIKE, FORESHORTENED = 0.8, 0.3
"""Least correlation of a patch with the one that was posed, and least share of its area that it may be seen with."""

SAME = 0.02
"""Most that a patch's warp may change for it to look the same: a tenth of a pixel at the edge of a window of eleven."""


def body_alone(pixels: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(T, H, W, 3) a body before its own colours, blurred: an edge that stays still would be matched too.

    Args:
        pixels: (T, H, W, 3) RGB.
        masks: (T, H, W) of the body.
    """
    side = frame_side(pixels)
    margin, reach = round(MARGIN * side), max(REACH * side, 1.0)
    around = np.ones((2 * margin + 1,) * 2, np.uint8)
    beyond = margin + round(4 * reach)
    alone = pixels.copy()
    for frame, mask in zip(alone, masks, strict=True):
        if not mask.any():
            continue
        # Farther out no window with the body in it reaches.
        near = bounding_box(mask, beyond)
        kept = cv2.dilate(mask[near].astype(np.uint8), around).astype(np.float32)
        colours = cv2.GaussianBlur(frame[near] * kept[..., None], (0, 0), reach)
        colours /= cv2.GaussianBlur(kept, (0, 0), reach)[..., None] + 1e-3
        frame[near] = np.where(kept[..., None] > 0, frame[near], colours).astype(np.uint8)
    return alone


def match_again(
    alone: NDArray[np.uint8],
    xy: NDArray[np.floating],
    visible: NDArray[np.bool_],
    posed: NDArray[np.intp],
    expected: NDArray[np.floating],
    warps: NDArray[np.floating],
    riding: NDArray[np.bool_],
    before: NDArray[np.floating] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Tracks matched again with the picture they were posed in, each patch seen as it should look by then.

    Nothing adds up from frame to frame. What is matched are the pictures: where a track was seen it is looked for
    there, and only those that ride are found again where they were lost.

    Args:
        alone: (T, H, W, 3) RGB, as `body_alone` gives them.
        xy: (T, N, 2) pixels, tracks so far.
        visible: (T, N) bool, where they are seen.
        posed: (N,) the picture that each was posed in, where it is seen.
        expected: (T, N, 2) pixels, where each should be if it rides; NaN in all frames for those of which nobody knows,
            which stay as they are, and in some where it is behind the camera.
        warps: (T, N, 2, 2) maps offsets about the point in the picture it was posed in to those in each picture.
        riding: (N,) bool, those that ride.
        before: the `warps` that these tracks were matched again with already; where a patch looks the same by both,
            a track stays as it is.

    Returns:
        (T, N, 2) float32 and (T, N), as `xy` and `visible`.
    """
    side = frame_side(alone)
    xy, visible = np.array(xy, np.float32), visible.copy()
    ids = np.flatnonzero(np.isfinite(expected).any(axis=(0, 2)))
    posed = posed[ids]
    lost = ~visible[:, ids] & riding[ids] & np.isfinite(expected[:, ids]).all(axis=2)
    starts = np.where(lost[..., None], expected[:, ids], xy[:, ids]).astype(np.float32)
    done = posed == np.arange(len(alone))[:, None]
    if before is not None:
        done |= visible[:, ids] & (np.abs(warps[:, ids] - before[:, ids]).max(axis=(2, 3)) < SAME)
    looked_for = visible[:, ids] | lost
    visible[:, ids] = done
    xy[:, ids] = starts
    turned = np.linalg.det(warps[:, ids])
    todo = (turned > FORESHORTENED) & (turned < 1 / FORESHORTENED) & looked_for & ~visible[:, ids]
    todo &= ((starts > 0) & (starts < (alone.shape[2] - 1, alone.shape[1] - 1))).all(axis=2)
    patches = _Patches(window_px(side), FAR * side, LOOP * side)
    own = np.zeros((len(ids), patches.side, patches.side, 3), np.uint8)
    for frame in np.unique(posed):
        there = posed == frame
        own[there] = patches.cut(alone[frame], starts[frame, there], np.eye(2)[None])
    for frame in np.flatnonzero(todo.any(axis=1)):
        chosen = np.flatnonzero(todo[frame])
        start, warp = starts[frame, chosen], warps[frame, ids[chosen]]
        offset, kept = patches.match(own[chosen], patches.cut(alone[frame], start, warp))
        moved = start + np.einsum("nij,nj->ni", warp, offset)
        xy[frame, ids[chosen[kept]]], visible[frame, ids[chosen[kept]]] = moved[kept], True
    return xy, visible


@dataclass(frozen=True, slots=True, eq=False)
class _Patches:
    """Square patches about points, which are matched side by side in one picture.

    Attributes:
        window: side of what is matched, pixels.
        reach, loop: farthest that a match may be from the middle, and its way back from where it began.
    """

    window: int
    reach: float
    loop: float

    @property
    def side(self) -> int:
        """Of a patch."""
        return 2 * (self.window // 2 + int(np.ceil(self.reach)) + 3) + 1

    def cut(
        self, picture: NDArray[np.uint8], at: NDArray[np.floating], warps: NDArray[np.floating]
    ) -> NDArray[np.uint8]:
        """(n, side, side, 3) of `picture` about `at` (n, 2), offsets mapped by `warps` (n or 1, 2, 2)."""
        return _sampled(picture, at, self.side, warps).reshape(len(at), self.side, self.side, 3)

    def match(self, own: NDArray[np.uint8], seen: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(n, 2) where the middle of each patch of `own` is in `seen`, from the middle, and whether that is sure."""
        count, half = len(own), self.side // 2
        columns = int(np.ceil(np.sqrt(count)))
        row, column = np.divmod(np.arange(count), columns)
        begin = (np.stack([column, row], axis=1) * self.side + half).astype(np.float32)
        before, after = (self._side_by_side(each, columns) for each in (own, seen))
        there, kept = matched(before, after, begin, self.window, levels=1, loop=self.loop)
        offset = there - begin
        kept &= np.linalg.norm(offset, axis=1) < self.reach
        about = slice(half - self.window // 2, half + self.window // 2 + 1)
        kept &= _correlation(own[:, about, about], _sampled(after, there, self.window)) > ALIKE
        return offset, kept

    def _side_by_side(self, patches: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
        rows = -(-len(patches) // columns)
        full = np.zeros((rows * columns, *patches.shape[1:]), np.uint8)
        full[: len(patches)] = patches
        blocks = full.reshape(rows, columns, self.side, self.side, 3).swapaxes(1, 2)
        return blocks.reshape(rows * self.side, columns * self.side, 3)


def _correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.floating]:
    """(n,) of the colours of windows (n, ..., 3): 1 where they differ in light alone."""
    first, second = (each.reshape(len(each), -1).astype(np.float32) for each in (one, other))
    first -= first.mean(axis=1, keepdims=True)
    second -= second.mean(axis=1, keepdims=True)
    size = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray(np.einsum("ni,ni->n", first, second) / np.maximum(size, 1e-9))


def _sampled(
    picture: NDArray[np.uint8], at: NDArray[np.floating], side: int, warps: NDArray[np.floating] | None = None
) -> NDArray[np.uint8]:
    """(n, side^2, 3) colours of squares about places `at` (n, 2), offsets mapped by `warps` (n or 1, 2, 2)."""
    steps = np.arange(side, dtype=np.float32) - side // 2
    x, y = np.tile(steps, side), np.repeat(steps, side)
    by_x, by_y = np.moveaxis((np.eye(2)[None] if warps is None else warps).astype(np.float32), 2, 0)
    across, down = (at[:, k, None].astype(np.float32) + by_x[:, k, None] * x + by_y[:, k, None] * y for k in (0, 1))
    return np.asarray(cv2.remap(picture, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def matched(
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    start: NDArray[np.float32],
    window: int,
    *,
    levels: int,
    loop: float,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where points (N, 2) are in the picture after, and whether the match leads back to within `loop` pixels."""
    options: dict[str, Any] = {"winSize": (window,) * 2, "maxLevel": levels}
    begin = np.ascontiguousarray(start[:, None])
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, begin, None, **options)  # type: ignore[call-overload]
    home, back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, **options)  # type: ignore[call-overload]
    off = np.linalg.norm((home - begin)[:, 0], axis=1)
    return there[:, 0], np.asarray((found[:, 0] > 0) & (back[:, 0] > 0) & (off < loop))


def frame_side(pixels: NDArray[np.uint8]) -> float:
    """Root of the area of frames (T, H, W, 3), pixels."""
    return float(np.sqrt(pixels.shape[1] * pixels.shape[2]))


def window_px(side: float) -> int:
    """Side of the window that is matched in frames of a side, odd."""
    return int(max(2 * round(WINDOW * side / 2) + 1, 5))
