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

_RESIDUAL = 0.0045
"""Residual, widths, at which a background point keeps a quarter of its weight in the camera's motion: twice a tracker's
jitter."""

_GRACE = 0.013
"""Distance from the mask, widths, within which a point counts as on it: the error of either."""

_STILL = 5e-6
"""Step, widths, below which a point has not moved at all: no tracker that looks is so still."""

_FEWEST = 5
"""Object points that a verdict about them is made from."""

_LEFT_BEHIND = 0.05
"""Share of the samples of motionless points whose picture has changed, from which the points are frozen."""


def object_excursion(tracks: Fields, width: int, *, camera_moves: bool | None = None) -> float | None:
    """Median over object points of the farthest they get from where they are first seen, in widths; None without them.

    With a still camera that is the distance itself. A moving one's motion is taken off step by step: it is the
    similarity that carries the other points (iteratively reweighted least squares, weights of Geman and McClure, 1987:
    the arm and other moving things count little), and what is left of an object point's step is its own. Steps are
    summed, not their lengths, so that jitter does not add up.

    Args:
        tracks: `xy` (T, N, 2) pixels, `visibility` (T, N), `on_object` (N,).
        width: of the frames, pixels.
        camera_moves: as measured on the clip; None: not known, taken as still.
    """
    on_object = tracks["on_object"].astype(bool)
    if not on_object.any() or len(tracks["xy"]) < 2:
        return None
    xy, seen = tracks["xy"].astype(np.float64) / width, tracks["visibility"].astype(bool)
    seen = seen & np.isfinite(xy).all(axis=-1)
    xy = np.nan_to_num(xy)
    points = xy[..., 0] + 1j * xy[..., 1]
    if not camera_moves:
        first = points[np.argmax(seen, axis=0), np.arange(points.shape[1])]
        away = np.where(seen, np.abs(points - first), 0.0)[:, on_object & seen.any(axis=0)]
        return float(np.median(away.max(axis=0))) if away.shape[1] else 0.0
    both = seen[1:] & seen[:-1]
    carried = _camera_motion(points, both & ~on_object)
    steps = np.where(both, points[1:] - carried(points[:-1]), 0)[:, on_object]
    return float(np.median(np.abs(np.cumsum(steps, axis=0)).max(axis=0)))


def follows_object(tracks: Fields, masks: MaskNumbers | None) -> bool:
    """Whether the object's points tell how far it goes: some are seen both where the mask starts and where it ends up.

    Points that are lost while the object moves, and posed again where it rests, say that it did not move.
    """
    if masks is None or masks.ends is None:
        return True
    on_object = tracks["on_object"].astype(bool)
    seen = tracks["visibility"][:, on_object].astype(bool)
    first, last = masks.ends
    return int((seen[first] & seen[last]).sum()) >= min(_FEWEST, int(on_object.sum()))


def judge_tracks(signals: ClipSignals, masks: MaskNumbers | None, motion: Motion, settings: ScoringSettings) -> Card:
    """The card of both track sets."""
    assert signals.tracks
    card = Card()
    for name, fields in signals.tracks.items():
        seen, on_object = fields["visibility"].astype(bool), fields["on_object"].astype(bool)
        card.numbers[f"{name}_visible_mean"] = float(seen.mean())
        card.numbers[f"{name}_object_points"] = int(on_object.sum())
        _judge_kinks(card, name, fields, signals, settings)
        _judge_frozen(card, name, fields, signals, masks, motion, settings)
        _judge_lost(card, name, fields, masks, settings)
    foreground = signals.tracks.get("foreground")
    if foreground is None:
        card.add("no-foreground-tracks", "warn", "no foreground set: there is no object mask")
    elif signals.masks is not None and masks is not None:
        _judge_object_points(card, foreground, signals.masks, masks, settings)
    return card


def _judge_kinks(card: Card, name: str, fields: Fields, signals: ClipSignals, settings: ScoringSettings) -> None:
    """Points that leave the middle of their neighbours in time by far, or for another place: mass has no such path."""
    xy, seen = fields["xy"].astype(np.float64), fields["visibility"].astype(bool)
    if len(xy) < 3:
        return
    bend = xy[1:-1] - 0.5 * (xy[:-2] + xy[2:])
    whole = seen[1:-1] & seen[:-2] & seen[2:]
    # What all points do together is the camera's.
    kink = np.linalg.norm(bend - np.median(bend, axis=1, keepdims=True), axis=-1)
    # Between frames that are far apart in time real motion bends as well: half of what its speed allows at most. With
    # a moving camera near points bend away from far ones.
    least = max(settings.kink, 0.5 * settings.object_speed / signals.fps) * (3 if signals.camera_moves else 1)
    least *= signals.pixels.shape[2]
    wild = whole & (kink > least)
    share = float(wild.sum() / max(whole.sum(), 1))
    per_frame = wild.sum(axis=1) / np.maximum(whole.sum(axis=1), 1)
    card.numbers[f"{name}_kink_share"] = share
    bad = np.flatnonzero((per_frame > 0.25) & (whole.sum(axis=1) > 10)) + 1
    if share > settings.kink_share or len(bad):
        where = frames_text(bad if len(bad) else np.flatnonzero(per_frame > 0) + 1)
        card.add("tracks-jump", "fail", f"{name}: points leap at {where} ({share:.1%} of all samples)")


def _judge_frozen(
    card: Card,
    name: str,
    fields: Fields,
    signals: ClipSignals,
    masks: MaskNumbers | None,
    motion: Motion,
    settings: ScoringSettings,
) -> None:
    """Points that claim to be seen and stay while what is under them, or the mask that they belong to, goes."""
    width = signals.pixels.shape[2]
    xy = fields["xy"].astype(np.float64) / width
    if len(xy) < 3 or not motion.moves:
        return
    on_object, seen = fields["on_object"].astype(bool), fields["visibility"].astype(bool)
    if float(np.nanmax(np.abs(np.diff(xy, axis=0)))) < _STILL:
        left = _left_behind(fields["xy"][0], seen, signals.pixels, settings.frozen_change)
        card.numbers[f"{name}_left_behind"] = left
        if left > _LEFT_BEHIND:
            card.add("frozen-tracks", "fail", f"{name}: no point moves at all, yet the picture under them does")
            return
    if masks is None or masks.ends is None or masks.travel is None:
        return
    # Where the mask went from its first to its farthest place, the points that are seen at both should have gone.
    first, last = masks.ends
    told = on_object & seen[first] & seen[last]
    alike = 0.5 < masks.area[last] / masks.area[first] < 2
    if told.sum() < _FEWEST or not alike or masks.travel < 4 * settings.low_motion:
        return
    gone = float(np.median(np.linalg.norm(xy[last, told] - xy[first, told], axis=1)))
    if gone < 0.1 * masks.travel:
        reason = f"{name}: object points go {gone:.1%} of the frame's width while the mask goes {masks.travel:.0%}"
        card.add("frozen-tracks", "fail", reason)


def _left_behind(
    xy: NDArray[np.floating], seen: NDArray[np.bool_], pixels: NDArray[np.uint8], least_change: float
) -> float:
    """Share of the samples of points at `xy` (N, 2), pixels, at which the picture is not what it was first."""
    height, width = pixels.shape[1:3]
    x = np.clip(np.rint(np.nan_to_num(xy[:, 0])), 0, width - 1).astype(int)
    y = np.clip(np.rint(np.nan_to_num(xy[:, 1])), 0, height - 1).astype(int)
    under = pixels[:, y, x].mean(axis=-1)
    first = under[np.argmax(seen, axis=0), np.arange(under.shape[1])]
    changed = np.abs(under - first) > least_change
    return float(changed[seen].mean()) if seen.any() else 0.0


def _judge_lost(card: Card, name: str, fields: Fields, masks: MaskNumbers | None, settings: ScoringSettings) -> None:
    """Few points seen in the last quarter, where the object (if there is a mask) is still in view.

    Points posed again late are not seen early, and the other way round: where as many object points are seen as there
    should be, none are lost, whatever share of all that is.
    """
    seen, on_object = fields["visibility"].astype(bool), fields["on_object"].astype(bool)
    tail = np.arange(len(seen)) >= 0.75 * len(seen)
    groups = {"points": np.ones(len(on_object), bool)}
    if on_object.sum() >= _FEWEST:
        groups["object points"] = on_object
    for what, chosen in groups.items():
        frames = tail
        if what == "object points" and masks is not None:
            frames = tail & (masks.area > 0.5 * np.median(masks.area[masks.present])) if masks.present.any() else tail
        if not frames.any():
            continue
        share = float(seen[np.ix_(frames, chosen)].mean())
        card.numbers[f"{name}_{what.replace(' ', '_')}_seen_late"] = share
        enough = name == "foreground" and share * chosen.sum() >= settings.min_object_tracks
        if share < settings.lost_share and not enough:
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
    kernel = np.ones((2 * max(round(_GRACE * width), 1) + 1,) * 2, np.uint8)
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
        card.add("tracks-off-object", "fail", f"only {share:.0%} of the seen object points are on the mask")


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
        weight = use / np.square(1 + np.square(residual / _RESIDUAL))
        total = np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
        mean_here, mean_there = ((weight * z).sum(axis=1, keepdims=True) / total for z in (here, there))
        p, q = here - mean_here, there - mean_there
        size = (weight * np.square(np.abs(p))).sum(axis=1)
        a = np.where(enough & (size > 1e-12), (weight * q * p.conj()).sum(axis=1) / np.maximum(size, 1e-12), 1.0)
        b = np.where(enough, mean_there[:, 0] - a * mean_here[:, 0], 0)
    return lambda z: a[:, None] * z + b[:, None]
