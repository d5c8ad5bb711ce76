"""Which tracks may ride on the hand, and cameras to start from: closed form, from an affine camera.

A far camera sees a point of a hand that moves without turning at x = A t + b: A (2 x 3) is the same for every point of
the hand, b is each point's own. So a few tracks give A by linear least squares, the others vote, and A's two rows are
the camera's x and y axes times f / Z. Which f goes with which Z the affine camera does not tell: the solver is started
from several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from extractors.handeye.path import HandPath
from extractors.handeye.problem import CameraState, Floats, Rig, TrackedClip

NOISE_WIDTHS = 0.006
"""Noise of tracks that the affine fit weighs the hand's turns with: 1.5 px at 256."""

MOVES_WIDTHS = 0.008
"""A track whose deviation over time is smaller stands still, or is too short to tell (2 px at 256)."""

MOVES_NOISES = 1.6
"""A track that moves deviates by more than this many times its jitter from its mean."""

MIN_SEEN_SHARE = 0.25
"""A track must be seen over this share of the hand's travel."""

CLEARLY = 0.6
"""A delay is started from if it leaves less than this part of what none leaves."""

FOCAL_STARTS = (0.5, 0.75, 1.1, 1.6, 2.4)
"""Focal lengths to start from, widths of the frame: 90, 67, 49, 35 and 24 degrees across."""


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """An affine camera that some tracks of the clips agree on.

    Attributes:
        axes: (2, 3) widths of the frame per metre.
        riding: (N,) bool, tracks of all clips that agree.
        score: how many tracks agree, counted by how well and how long.
        delay_s: by how much poses are ahead of images.
    """

    axes: Floats
    riding: NDArray[np.bool_]
    score: float
    delay_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What of each track enters an affine fit, at one delay.

    Attributes:
        count: (N,) frames in which the track is used.
        motion: (N,) deviation of the track from its mean, widths of the frame.
        seen_share: (N,) deviation of the hand's path while the track is seen over that of the whole path.
        pp: (N, 3, 3), px: (N, 3, 2), xx: (N,): sums of products of hand positions and pixels, after each track's own
            mean and its own answer to the hand's turns are taken out.
    """

    count: Floats
    motion: Floats
    seen_share: Floats
    pp: Floats
    px: Floats
    xx: Floats


def affine_sums(clips: Sequence[TrackedClip], paths: Sequence[HandPath], delay_s: float, lever_m: float) -> Sums:
    """Sums over the frames of each track, all clips' tracks in order.

    A point off the hand's frame moves when the hand turns, by up to `lever_m` a radian: x = A t + b + C w with w the
    rotation vector, and C (2 x 3) the track's own, held near zero by what a lever of that length can do.
    """
    parts = [_clip_sums(clip, path, delay_s, lever_m) for clip, path in zip(clips, paths, strict=True)]
    return Sums(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _clip_sums(clip: TrackedClip, path: HandPath, delay_s: float, lever_m: float) -> tuple[Floats, ...]:
    poses = path.at(delay_s)
    used = (clip.visibility & poses.inside[:, None]).astype(np.float64)
    count = used.sum(axis=0)
    xy = np.where(used[..., None] > 0, clip.centred, 0.0)
    place = poses.translation
    turned = Rotation.from_matrix(poses.rotation @ poses.rotation[len(place) // 2].T).as_rotvec()
    nuisance = np.concatenate([np.ones((len(place), 1)), turned], axis=1)  # (T, 4)
    regressors = np.concatenate([nuisance, place], axis=1)  # (T, 7)
    products = (regressors[:, :, None] * regressors[:, None]).reshape(len(place), -1)
    kk = (used.T @ products).reshape(-1, 7, 7)
    kx = (regressors.T @ xy.reshape(len(place), -1)).reshape(7, -1, 2).swapaxes(0, 1)
    xx = np.einsum("tna,tna->n", xy, xy)
    centred = xx - (kx[:, 0] ** 2).sum(axis=1) / np.maximum(count, 1)
    spread = np.trace(kk[:, 4:, 4:], axis1=1, axis2=2) - (kk[:, 0, 4:] ** 2).sum(axis=1) / np.maximum(count, 1)
    travel = np.sqrt(np.maximum(spread, 0) / np.maximum(count, 1))
    whole = np.sqrt(place.var(axis=0).sum())
    # One width per metre is a usual size of A: a lever's answer is then as many widths a radian as it has metres.
    ridge = np.diag([1e-9, *[(NOISE_WIDTHS / lever_m) ** 2] * 3])
    taken = np.linalg.solve(kk[:, :4, :4] + ridge, np.concatenate([kk[:, :4, 4:], kx[:, :4]], axis=2))
    return (
        count,
        np.sqrt(np.maximum(centred, 0) / np.maximum(count, 1)),
        travel / max(float(whole), 1e-9),
        kk[:, 4:, 4:] - np.einsum("nki,nkj->nij", kk[:, :4, 4:], taken[..., :3]),
        kx[:, 4:] - np.einsum("nki,nka->nia", kk[:, :4, 4:], taken[..., 3:]),
        np.maximum(xx - np.einsum("nka,nka->n", kx[:, :4], taken[..., 3:]), 0),
    )


def moving_tracks(clips: Sequence[TrackedClip], sums: Sums) -> NDArray[np.bool_]:
    """(N,) bool: seen for long enough, and moved enough against their own noise, to say what they move with."""
    noise = np.concatenate([_noise(clip) for clip in clips])
    return np.asarray(
        (sums.count >= 4)
        & (sums.seen_share >= MIN_SEEN_SHARE)
        & (sums.motion >= np.maximum(MOVES_WIDTHS, MOVES_NOISES * noise))
    )


def _noise(clip: TrackedClip) -> Floats:
    """(N,) deviation of a track's jitter, widths of the frame; 0 where it is never seen for three frames on end.

    From second differences: white noise has second differences of six times its variance; smooth motion has hardly any.
    """
    seen = clip.visibility[2:] & clip.visibility[1:-1] & clip.visibility[:-2]
    second = np.where(seen[..., None], clip.centred[2:] - 2 * clip.centred[1:-1] + clip.centred[:-2], 0.0)
    count = seen.sum(axis=0)
    noise: Floats = np.sqrt((second**2).sum(axis=(0, 2)) / (6 * np.maximum(count, 1)))
    return noise


def affine_groups(
    clips: Sequence[TrackedClip],
    paths: Sequence[HandPath],
    delays: Sequence[float],
    *,
    lever_m: float,
    most: int = 2,
    seed: int = 0,
) -> list[Affine]:
    """Groups of tracks that move as points of the hand would, best first, no track in two.

    Hypotheses come from single tracks and from random threes of neighbours in the list of candidates (neighbours were
    posed near each other); each is refitted to those that agree with it.
    """
    sums = _sums_where_most_agree(clips, paths, delays[::3], lever_m, seed)
    left = moving_tracks(clips, sums)
    groups: list[Affine] = []
    while len(groups) < most and left.sum() >= 3:
        found = _best_group(sums, left, seed)
        if found is None:
            break
        _, agrees, _ = found
        groups.append(_with_delay(clips, paths, delays, agrees, lever_m))
        left &= ~agrees
    return sorted(groups, key=lambda group: -group.score)


def _sums_where_most_agree(
    clips: Sequence[TrackedClip], paths: Sequence[HandPath], delays: Sequence[float], lever_m: float, seed: int
) -> Sums:
    """Sums at the coarse delay at which the best group is largest, none unless another's is clearly larger.

    At half a second off the tracks of a hand agree with each other but with no axes, so no group would be found.
    """
    best, most = affine_sums(clips, paths, 0.0, lever_m), 0.0
    for delay in sorted({0.0, *delays}, key=abs):
        sums = affine_sums(clips, paths, delay, lever_m)
        moving = moving_tracks(clips, sums)
        found = _best_group(sums, moving, seed) if moving.sum() >= 3 else None
        votes = found[2] if found is not None else 0.0
        if votes > (1.2 if delay else 1.0) * most:
            best, most = sums, votes
    return best


def _best_group(sums: Sums, left: NDArray[np.bool_], seed: int) -> tuple[Floats, NDArray[np.bool_], float] | None:
    candidates = np.flatnonzero(left)
    rng = np.random.default_rng(seed)
    alone = candidates[:: max(len(candidates) // 150, 1), None]
    near = rng.integers(len(candidates), size=(150, 1)) + rng.permuted(np.tile(np.arange(-10, 11), (150, 1)), axis=1)
    inside = (near >= 0) & (near < len(candidates))
    first_three = np.argsort(~inside, axis=1, kind="stable")[:, :3]
    threes = candidates[np.take_along_axis(near, first_three, axis=1)]
    axes = np.concatenate([_fit(sums, alone), _fit(sums, threes)])
    votes = _votes(sums, axes) * left
    first_best = int(votes.sum(axis=1).argmax())
    best = axes[first_best], votes[first_best] > 0, float(votes[first_best].sum())
    for _ in range(3):
        if best[1].sum() < 3:
            return None
        axes = _fit(sums, np.flatnonzero(best[1]))
        votes = _votes(sums, axes) * left
        best = axes, votes > 0, float(votes.sum())
    return best if best[1].sum() >= 3 else None


def _fit(sums: Sums, chosen: NDArray[np.intp], ridge: float = 1e-3) -> Floats:
    """Axes (..., 2, 3) of the chosen tracks (..., K); directions that the hand did not take are left at zero."""
    pp, px = sums.pp[chosen].sum(axis=-3), sums.px[chosen].sum(axis=-3)
    held = ridge * np.trace(pp, axis1=-2, axis2=-1)[..., None, None] + 1e-12
    return np.asarray(np.swapaxes(np.linalg.solve(pp + held * np.eye(3), px), -1, -2))


def _votes(sums: Sums, axes: Floats, tolerance: float = 0.2) -> Floats:
    """(..., N) 0 for a track that moves otherwise, up to 1 for one that follows axes (..., 2, 3).

    The tolerance is in parts of a track's own motion.

    A fifth: a hand that comes 20 cm nearer at 1 m moves a tenth faster than the affine camera has it.
    """
    rest = _rest(sums, axes)
    allowed = sums.count * ((tolerance * sums.motion) ** 2 + 2 * NOISE_WIDTHS**2)
    votes: Floats = np.maximum(1 - rest / np.maximum(allowed, 1e-12), 0)
    return votes * np.minimum(sums.seen_share, 1)


def _with_delay(
    clips: Sequence[TrackedClip],
    paths: Sequence[HandPath],
    delays: Sequence[float],
    agrees: NDArray[np.bool_],
    lever_m: float,
) -> Affine:
    """The group at the delay with which it agrees best, none unless another is clearly better.

    Noise alone moves the best delay of a hand that goes at an even pace by tenths of a second.
    """
    tried: dict[float, tuple[float, Floats]] = {}
    alone = _tracks_of(clips, agrees)
    for delay in {0.0, *delays}:
        sums = affine_sums(alone, paths, delay, lever_m)
        axes = _fit(sums, np.arange(len(sums.count)))
        rest = _rest(sums, axes) / np.maximum(sums.count, 1)
        tried[delay] = float(np.median(rest)), axes
    delay = min(tried, key=lambda each: (tried[each][0], abs(each)))
    if tried[delay][0] > CLEARLY * tried[0.0][0]:
        delay = 0.0
    votes = _votes(affine_sums(clips, paths, delay, lever_m), tried[delay][1])
    return Affine(tried[delay][1], agrees, float((votes * agrees).sum()), delay)


def _tracks_of(clips: Sequence[TrackedClip], chosen: NDArray[np.bool_]) -> list[TrackedClip]:
    """The clips with those of their tracks alone that are `chosen` (N,), of all clips one after the other."""
    ends = np.cumsum([clip.visibility.shape[1] for clip in clips])
    parts = np.split(chosen, ends[:-1])
    return [
        replace(clip, xy=clip.xy[:, part], visibility=clip.visibility[:, part])
        for clip, part in zip(clips, parts, strict=True)
    ]


def _rest(sums: Sums, axes: Floats) -> Floats:
    """(..., N) sum of squares that axes (..., 2, 3) leave of each track."""
    square = np.swapaxes(axes, -1, -2) @ axes
    inside = square.reshape(*square.shape[:-2], 9) @ sums.pp.reshape(-1, 9).T
    across = axes.reshape(*axes.shape[:-2], 6) @ np.swapaxes(sums.px, 1, 2).reshape(-1, 6).T
    return np.asarray(np.maximum(sums.xx - 2 * across + inside, 0))


def start_cameras(group: Affine, turned: Floats, centre: Floats, rig: Rig) -> Iterator[CameraState]:
    """Cameras to start from.

    Args:
        group: the affine camera.
        turned: (3, 3) rotation of a pose in the middle of the path.
        centre: (2,) mean place of the group's tracks in the frame, widths from its centre.
        rig: "wrist" starts with the camera at the hand's frame and the scene before it; "fixed" with the points at
            the hand's frame and the camera away from it.
    """
    size = max(float(np.linalg.norm(group.axes)) / np.sqrt(2), 1e-6)
    for rotation in _rotations(group.axes):
        for focal in FOCAL_STARTS:
            away = rotation @ np.array([*(centre / focal), 1.0]) * np.clip(focal / size, 0.1, 5.0)
            if rig == "wrist":
                yield CameraState(np.log(focal), rotation, np.zeros(3), turned.T @ away, group.delay_s)
            else:
                yield CameraState(np.log(focal), rotation, -away, np.zeros(3), group.delay_s)


def _rotations(axes: Floats) -> Iterator[Floats]:
    """Camera-to-carrier rotations whose x and y axes fit `axes` best, and those of a path that stays in a plane.

    With a planar path the component of each axis across the plane is unknown but for its size: two cameras, mirror
    images in the plane, see the same.
    """
    left, values, right = np.linalg.svd(axes, full_matrices=True)
    nearest = left @ right[:2]
    yield _completed(nearest)
    # Weak perspective wants two equal singular values; what lacks in the second is hidden across the path.
    if values[1] < 0.9 * values[0]:
        lacking = np.sqrt(1 - (values[1] / values[0]) ** 2)
        for sign in (1.0, -1.0):
            second = (values[1] / values[0]) * right[1] + sign * lacking * right[2]
            yield _completed(left @ np.stack([right[0], second]))


def _completed(rows: Floats) -> Floats:
    """Camera-to-carrier rotation from the camera's x and y axes, as rows (2, 3) in the carrier's frame."""
    return np.stack([rows[0], rows[1], np.cross(rows[0], rows[1])], axis=1)
