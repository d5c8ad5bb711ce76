"""Where a thing that the hand carried stood before it was taken up, and where after it was put down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from extractors.geometry import MAD_TO_SIGMA
from extractors.handeye.adjust import PER_DISTANCE
from extractors.handeye.known import KnownCamera
from extractors.handeye.problem import CameraState, Floats, TrackedClip
from extractors.handeye.project import NEAREST_M

REST_M, REST_RAD = 0.015, 0.08
"""How far an object is believed to move when it is grasped or let go: fingers that close push it, and what is let go
settles. On generated ones turned by 0 to 20 degrees at their grasp 0.05 to 0.15 rad do as well (docs/benchmarks.md)."""

GRASP_S = 0.5
"""By how many seconds the frames that are said to be held may begin late or end early: two frames of 5 Hz and some."""


@dataclass(frozen=True, slots=True, eq=False)
class Rest:
    """A time in which the thing stands still.

    Attributes:
        frames: (T,) bool.
        edge: the frame in which the hand took it up or let it go.
        xy: (N, 2) median places of the tracks, widths from the frame's centre.
        count: (N,) frames in which each was seen.
        scatter: deviation of a track's places about their median, widths of the frame.
        pose, sigma: (4, 4) object to base; (2,) metres and degrees. Nearer to the grasp than the motion of a `Body`:
            how far a thing turned and how deep it is are told together, and each of them badly.
    """

    frames: NDArray[np.bool_]
    edge: int
    xy: Floats
    count: NDArray[np.intp]
    scatter: float
    pose: Floats
    sigma: Floats


def rests_of(held: NDArray[np.bool_], stretch: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """Frames before a grasp and after its release (T,) each, where there are some, up to where it is held another time.

    Args:
        held: (T,) bool.
        stretch: (T,) bool, one run of `held`.
    """
    frames, others = np.flatnonzero(stretch), np.flatnonzero(held & ~stretch)
    index = np.arange(len(stretch))
    before, after = others[others < frames[0]], others[others > frames[-1]]
    first = before[-1] if len(before) else -1
    last = after[0] if len(after) else len(held)
    rests = (first < index) & (index < frames[0]), (frames[-1] < index) & (index < last)
    yield from (rest for rest in rests if rest.any())


def find_rest(
    clip: TrackedClip,
    camera: KnownCamera,
    frames: NDArray[np.bool_],
    *,
    carried: Floats,
    usual: int,
    points: Floats,
    sigma: Floats,
    scale: float,
) -> Rest | None:
    """The one pose of a rest, where at least six points are seen and agree with it.

    Args:
        clip: the object's tracks.
        camera: the fixed camera.
        frames: (T,) bool.
        carried: (T, 4, 4) object to base, if the hand had it in every frame.
        usual: the held frame that is nearest.
        points: (N, 3) metres in the object's frame; NaN where nobody knows.
        sigma: (N, 3) of these.
        scale: noise of the tracks, widths of the frame.
    """
    xy, count, scatter = _places(clip, frames)
    usable = (count > 0) & np.isfinite(points).all(axis=1)
    if usable.sum() < 6:
        return None
    seen, resting = xy[usable], points[usable]
    state = camera.state(clip.size[1], np.zeros(3))

    def off(pose: Floats) -> Floats:
        return _projected(state, resting @ pose[:3, :3].T + pose[:3, 3]) - seen

    # The grasp is the moment whose hand would have the thing where it stood: the held frames may begin after it.
    edges = np.flatnonzero(frames & (np.abs(clip.timestamp - clip.timestamp[usual]) <= GRASP_S))
    edges = np.append(edges, usual)
    edge = int(edges[np.argmin([np.median(np.linalg.norm(off(carried[each]), axis=1)) for each in edges])])
    near = carried[edge]
    depth = max(float(camera.depth_m(near[:3, 3])), 0.1)
    # A point's own error is the same in every frame of the rest: frames average noise away, not that.
    weight = 1 / np.hypot(scale, sigma[usable].mean(axis=1) * state.focal / depth)

    def errors(step: Floats) -> Floats:
        weighed = (off(_stepped(near, step)) * weight[:, None]).ravel()
        return np.concatenate([weighed, step[:3] / REST_RAD, step[3:] / REST_M])

    fitted = least_squares(errors, np.zeros(6), loss="soft_l1")
    spread = float(np.median(np.linalg.norm(errors(fitted.x)[:-6].reshape(-1, 2), axis=1))) * PER_DISTANCE
    if spread > 3:
        return None
    covariance = np.linalg.inv(fitted.jac.T @ fitted.jac) * max(spread, 1.0) ** 2
    deviation = np.array([np.sqrt(np.trace(covariance[3:, 3:])), np.degrees(np.sqrt(np.trace(covariance[:3, :3])))])
    return Rest(frames, edge, xy, count, scatter, _stepped(near, fitted.x), deviation)


def _stepped(pose: Floats, step: Floats) -> Floats:
    """A pose turned about its own axes by the rotation vector step[:3], and shifted by step[3:]."""
    moved = pose.copy()
    moved[:3, :3] = pose[:3, :3] @ Rotation.from_rotvec(step[:3]).as_matrix()
    moved[:3, 3] += step[3:]
    return moved


def _projected(state: CameraState, places: Floats) -> Floats:
    """(N, 2) widths from the centre, of places (N, 3) in the base frame."""
    in_camera = (places - state.position) @ state.rotation
    return np.asarray(state.focal * in_camera[:, :2] / np.maximum(in_camera[:, 2:], NEAREST_M))


def _places(clip: TrackedClip, rest: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.intp], float]:
    """`Rest`'s `xy`, `count` and `scatter`."""
    visible = clip.visibility[rest] & np.isfinite(clip.xy[rest]).all(axis=2)
    count = visible.sum(axis=0)
    places = np.where(visible[..., None], clip.centred[rest], np.nan)
    median = np.zeros((len(count), 2))
    median[count > 0] = np.nanmedian(places[:, count > 0], axis=0)
    off = np.abs(places - median)[visible]
    return median, count, float(np.median(off)) * MAD_TO_SIGMA if len(off) else 0.0
