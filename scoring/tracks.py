"""Point tracks: lost, frozen, jumping, too few on the object, or off it; and how far the object goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scoring.card import Card, frames_text
from scoring.frames import Motion
from scoring.masks import MaskNumbers
from scoring.settings import ScoringSettings
from scoring.signals import ClipSignals

Fields = Mapping[str, NDArray[Any]]

_RESIDUAL_PX = 1.0
"""Residual at which a background point keeps a quarter of its weight in the camera's motion: twice a tracker's
jitter."""


def object_excursion(tracks: Fields) -> float | None:
    """Median over object points of the farthest they get from where they are first seen, pixels, camera removed.

    The camera's motion from frame to frame is the similarity that carries the other points (iteratively reweighted
    least squares, weights of Geman and McClure, 1987: the arm and other moving things count little); what is left of
    an object point's step is its own. Steps are summed, not their lengths, so that jitter does not add up. None
    without object points.
    """
    on_object = tracks["on_object"].astype(bool)
    if not on_object.any() or len(tracks["xy"]) < 2:
        return None
    xy, seen = tracks["xy"].astype(np.float64), tracks["visibility"].astype(bool)
    seen = seen & np.isfinite(xy).all(axis=-1)
    xy = np.nan_to_num(xy)
    points = xy[..., 0] + 1j * xy[..., 1]
    both = seen[1:] & seen[:-1]
    carried = _camera_motion(points, both & ~on_object)
    steps = np.where(both, points[1:] - carried(points[:-1]), 0)[:, on_object]
    return float(np.median(np.abs(np.cumsum(steps, axis=0)).max(axis=0)))


def judge_tracks(signals: ClipSignals, masks: MaskNumbers | None, motion: Motion, settings: ScoringSettings) -> Card:
    """The card of both track sets."""
    assert signals.tracks
    card = Card()
    for name, fields in signals.tracks.items():
        seen, on_object = fields["visibility"].astype(bool), fields["on_object"].astype(bool)
        card.numbers[f"{name}_visible_mean"] = float(seen.mean())
        card.numbers[f"{name}_object_points"] = int(on_object.sum())
        _judge_kinks(card, name, fields, settings)
        _judge_frozen(card, name, fields, masks, motion, settings)
        _judge_lost(card, name, fields, masks, settings)
    foreground = signals.tracks.get("foreground")
    if foreground is None:
        card.add("no-foreground-tracks", "warn", "no foreground set: there is no object mask")
    elif signals.masks is not None and masks is not None:
        _judge_object_points(card, foreground, signals.masks, masks, settings)
    return card


def _judge_kinks(card: Card, name: str, fields: Fields, settings: ScoringSettings) -> None:
    """Points that leave the middle of their neighbours in time by far, or for another place: mass has no such path."""
    xy, seen = fields["xy"].astype(np.float64), fields["visibility"].astype(bool)
    if len(xy) < 3:
        return
    bend = xy[1:-1] - 0.5 * (xy[:-2] + xy[2:])
    whole = seen[1:-1] & seen[:-2] & seen[2:]
    # What all points do together is the camera's.
    kink = np.linalg.norm(bend - np.median(bend, axis=1, keepdims=True), axis=-1)
    wild = whole & (kink > settings.kink_px)
    share = float(wild.sum() / max(whole.sum(), 1))
    per_frame = wild.sum(axis=1) / np.maximum(whole.sum(axis=1), 1)
    card.numbers[f"{name}_kink_share"] = share
    bad = np.flatnonzero((per_frame > 0.25) & (whole.sum(axis=1) > 10)) + 1
    if share > settings.kink_share or len(bad):
        where = frames_text(bad if len(bad) else np.flatnonzero(per_frame > 0) + 1)
        card.add("tracks-jump", "fail", f"{name}: points leap at {where} ({share:.1%} of all samples)")


def _judge_frozen(
    card: Card, name: str, fields: Fields, masks: MaskNumbers | None, motion: Motion, settings: ScoringSettings
) -> None:
    xy = fields["xy"].astype(np.float64)
    if len(xy) < 3 or not motion.moves:
        return
    on_object = fields["on_object"].astype(bool)
    if float(np.abs(np.diff(xy, axis=0)).max()) < 1e-3:
        card.add("frozen-tracks", "fail", f"{name}: no point moves at all, yet the picture does")
        return
    if masks is None or on_object.sum() < 5 or masks.present.sum() < 3:
        return
    # Where the mask went from its first to its farthest place, its points should have gone.
    centre = masks.centre[masks.present]
    far = np.linalg.norm(centre - centre[0], axis=1)
    present = np.flatnonzero(masks.present)
    first, last = present[0], present[int(np.argmax(far))]
    gone = float(np.median(np.linalg.norm(xy[last, on_object] - xy[first, on_object], axis=1)))
    alike = 0.5 < masks.area[last] / masks.area[first] < 2
    if alike and far.max() > 4 * settings.low_motion_px and gone < 0.1 * far.max():
        card.add("frozen-tracks", "fail", f"{name}: object points go {gone:.1f} px while the mask goes {far.max():.0f}")


def _judge_lost(card: Card, name: str, fields: Fields, masks: MaskNumbers | None, settings: ScoringSettings) -> None:
    """Few points seen in the last quarter, where the object (if there is a mask) is still in view."""
    seen, on_object = fields["visibility"].astype(bool), fields["on_object"].astype(bool)
    tail = np.arange(len(seen)) >= 0.75 * len(seen)
    groups = {"points": np.ones(len(on_object), bool)}
    if on_object.sum() >= 5:
        groups["object points"] = on_object
    for what, chosen in groups.items():
        frames = tail
        if what == "object points" and masks is not None:
            frames = tail & (masks.area > 0.5 * np.median(masks.area[masks.present])) if masks.present.any() else tail
        if not frames.any():
            continue
        share = float(seen[np.ix_(frames, chosen)].mean())
        card.numbers[f"{name}_{what.replace(' ', '_')}_seen_late"] = share
        if share < settings.lost_share:
            card.add("tracks-lost", "fail", f"{name}: {share:.0%} of the {what} are seen in the last quarter")
            return


def _judge_object_points(
    card: Card, fields: Fields, masks: NDArray[np.bool_], numbers: MaskNumbers, settings: ScoringSettings
) -> None:
    on_object = fields["on_object"].astype(bool)
    seen = fields["visibility"].astype(bool)[:, on_object]
    xy = np.rint(np.nan_to_num(fields["xy"][:, on_object], nan=-1)).astype(int)
    height, width = masks.shape[1:]
    inside = (xy >= 0).all(axis=-1) & (xy[..., 0] < width) & (xy[..., 1] < height)
    counts, hits = np.zeros(len(masks), int), 0
    kernel = np.ones((7, 7), np.uint8)
    for t in np.flatnonzero(numbers.present):
        grown = cv2.dilate(masks[t].view(np.uint8), kernel)
        use = seen[t] & inside[t]
        counts[t] = int(seen[t].sum())
        hits += int(grown[xy[t, use, 1], xy[t, use, 0]].sum())
    shown = counts[numbers.present]
    short = numbers.present & (counts < settings.min_object_tracks)
    share = hits / max(int(shown.sum()), 1)
    card.numbers |= {"object_points_seen_min": int(shown.min()) if len(shown) else 0, "in_mask_share": share}
    if short.sum() > settings.few_share * numbers.present.sum():
        reason = (
            f"fewer than {settings.min_object_tracks} object points are seen in {frames_text(np.flatnonzero(short))}"
        )
        card.add("few-object-tracks", "warn", reason)
    if shown.sum() and share < settings.off_object_share:
        card.add("tracks-off-object", "fail", f"only {share:.0%} of the seen object points lie on the mask")


def _camera_motion(points: NDArray[np.complex128], use: NDArray[np.bool_]) -> Any:
    """The map z -> a z + b per frame step that carries the points in `use` (T-1, N); identity where fewer than 8."""
    here, there = points[:-1], points[1:]
    enough = use.sum(axis=1) >= 8
    step = np.where(use, there - here, np.nan)
    shift = np.zeros(len(use), np.complex128)
    if enough.any():
        shift[enough] = np.nanmedian(step[enough].real, axis=1) + 1j * np.nanmedian(step[enough].imag, axis=1)
    a, b = np.ones(len(use), np.complex128), shift
    for _ in range(5):
        residual = np.abs(there - (a[:, None] * here + b[:, None]))
        weight = use / np.square(1 + np.square(residual / _RESIDUAL_PX))
        total = np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
        mean_here, mean_there = ((weight * z).sum(axis=1, keepdims=True) / total for z in (here, there))
        p, q = here - mean_here, there - mean_there
        size = (weight * np.square(np.abs(p))).sum(axis=1)
        a = np.where(enough & (size > 1e-6), (weight * q * p.conj()).sum(axis=1) / np.maximum(size, 1e-6), 1.0)
        b = np.where(enough, mean_there[:, 0] - a * mean_here[:, 0], 0)
    return lambda z: a[:, None] * z + b[:, None]
