"""Hand-eye calibration and held objects on ground-truth episodes, from true tracks with noise.

    python -m tests.benchmarks.handeye_groundtruth ../shared/data/groundtruth_dev [--seed 0]

Tracks have 1.5 px of noise at 256 px, and 40 % of the observations are missing. Own masks and tracks, in packets, are
what `handeye_packets` judges.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractors.errors import GeometryError
from extractors.geometry import resize_depth, unproject
from extractors.handeye.align import align_depth
from extractors.handeye.camera import calibrate_camera
from extractors.handeye.held import held_object
from extractors.handeye.known import KnownCamera
from extractors.handeye.problem import Calibration, Floats, TrackedClip
from extractors.types import Camera
from flows.stages.placing import known_depths
from tests.benchmarks.groundtruth import GroundTruth, read_groundtruth
from tests.benchmarks.handeye import degrees_of, error_of


@dataclass(frozen=True, eq=False)
class Case:
    """One episode, ready to be judged.

    Attributes:
        clip: hand and background tracks, without the object's.
        of_object: the object's tracks whenever they are seen.
        held: (T,) bool.
        camera: the true one, at the clip's size.
        base_from_camera, hand, object_pose: (4, 4), (T, 4, 4), (T, 4, 4).
        exact_xy: (T, N, 2) where the object's tracks would be without noise; None where nobody knows.
    """

    truth: GroundTruth
    clip: TrackedClip
    of_object: TrackedClip
    held: NDArray[np.bool_]
    camera: Camera
    base_from_camera: Floats
    hand: Floats
    object_pose: Floats
    exact_xy: Floats | None = None


def read_case(path: Path, seed: int) -> Case:
    """The episode of a file with its true tracks, made worse."""
    truth = read_groundtruth(path)
    with np.load(path) as arrays:
        hand, camera_pose, object_pose = arrays["ee_pose"], arrays["T_world_cam"], arrays["object_pose"]
        kind, valid = arrays["grid_kind"], arrays["grid_valid"]
    size = truth.episode.size
    rng = np.random.default_rng(seed)
    exact = np.concatenate([truth.grid_xy, truth.object_xy], axis=1)
    xy = exact + rng.normal(0, 1.5 * size[1] / 256, exact.shape)
    visible = np.concatenate([truth.grid_visibility & valid, truth.object_visibility], axis=1)
    visible &= rng.random(visible.shape) < 0.6
    on_object = np.concatenate([kind == 2, np.ones(truth.object_xy.shape[1], bool)])
    held = _truly_held(hand, object_pose)
    stamps = truth.episode.timestamp
    clip = TrackedClip(xy, visible & ~on_object, hand, stamps, size, name=path.stem)
    of_object = TrackedClip(xy[:, on_object], visible[:, on_object], hand, stamps, size, name=path.stem)
    assert truth.episode.camera is not None
    camera = truth.episode.camera.resized(size[1], size[0])
    return Case(truth, clip, of_object, held, camera, camera_pose[0], hand, object_pose, exact[:, on_object])


def _truly_held(hand: Floats, thing: Floats) -> NDArray[np.bool_]:
    """Frames in which the object moves as the hand does: its pose in the hand changes by less than 2 mm a frame."""
    in_hand = (np.linalg.inv(hand) @ thing)[:, :3, 3]
    moved = np.linalg.norm(np.diff(thing[:, :3, 3], axis=0), axis=1)
    rides = (np.linalg.norm(np.diff(in_hand, axis=0), axis=1) < 0.002) & (moved > 0.003)
    return np.concatenate([[False], rides])


def _path_error(found: Calibration, case: Case) -> float:
    """Median distance of the hand's path in the camera's frame from the truth, metres."""
    place = np.concatenate([case.hand[:, :3, 3], np.ones((len(case.hand), 1))], axis=1)
    ours, true = (np.linalg.inv(pose) @ place.T for pose in (found.carrier_from_camera, case.base_from_camera))
    return float(np.median(np.linalg.norm((ours - true)[:3], axis=0)))


def since(frame: int, pose: Floats, valid: NDArray[np.bool_], true: Floats) -> tuple[Floats, Floats]:
    """Metres and degrees by which each valid pose (T, 4, 4) is off, if that of `frame` is right.

    The object's frame is another than the truth's: what is constant between the two is taken from `frame`.
    """
    still = np.linalg.inv(true[frame]) @ pose[frame]
    apart = np.linalg.inv(true[valid] @ still) @ pose[valid]
    return np.asarray(np.linalg.norm(apart[:, :3, 3], axis=1)), degrees_of(apart[:, :3, :3])


def held_errors(case: Case, camera: KnownCamera) -> tuple[str, float]:
    """Errors of points, of the pose and of the centroid in the base frame, in words; that of points in metres."""
    found = held_object(case.of_object, case.held, camera)
    if found.reasons:
        return "held object: " + "; ".join(found.reasons), float("nan")
    frame = int(np.flatnonzero(found.trusted)[len(np.flatnonzero(found.trusted)) // 2])
    # The truth of a tracked point is the surface under it in a frame where it is seen: under where it is, if that is
    # known, as half a centimetre of a noisy track's surface is the noise's.
    seen = case.of_object.visibility[frame] & np.isfinite(found.points).all(axis=1)
    depth = case.truth.depth[frame]
    shape, (height, width) = depth.shape, case.clip.size
    xy = case.of_object.xy if case.exact_xy is None else case.exact_xy
    at = np.rint((xy[frame] + 0.5) * (shape[1] / width, shape[0] / height) - 0.5).astype(int)
    inside = seen & (at >= 0).all(axis=1) & (at < shape[::-1]).all(axis=1)
    if not inside.any():
        return "held object: none of its points is seen in the middle of the frames that tell it", float("nan")
    surface = unproject(depth, case.truth.episode.camera)[at[inside, 1], at[inside, 0]]
    in_base = surface @ case.base_from_camera[:3, :3].T + case.base_from_camera[:3, 3]
    ours = found.points[inside] @ found.pose[frame, :3, :3].T + found.pose[frame, :3, 3]
    point = float(np.median(np.linalg.norm(ours - in_base, axis=1)))
    moved, angle = since(frame, found.pose, found.pose_valid, case.object_pose)
    return (
        f"held object: points {point * 100:.2f} cm (sigma {np.nanmedian(found.points_sigma) * 100:.2f}), pose from the "
        f"held frame {np.median(moved) * 100:.2f} cm {np.median(angle):.1f} degrees over {len(moved)} of "
        f"{len(case.held)} frames, centroid {np.linalg.norm(np.median(ours - in_base, axis=0)) * 100:.2f} cm",
        point,
    )


def aligned(case: Case, camera: KnownCamera, seed: int) -> tuple[str, float]:
    """AbsRel of a relative map made of the truth, aligned at the tracks that ride, as `placing` does; in words too."""
    rng = np.random.default_rng(seed)
    depth = resize_depth(case.truth.depth, case.clip.size)
    scale, shift = rng.uniform(0.1, 20), rng.uniform(-1, 1)
    noisy = np.where(depth > 0, (1 / np.maximum(depth, 1e-3)) * (1 + rng.normal(0, 0.03, depth.shape)), 0)
    relative = (noisy - shift) / scale
    try:
        known = known_depths(case.clip, camera, relative)
        fit = align_depth(known.value, known.depth_m, known.sigma_m)
    except GeometryError as error:
        return f"true map: {error}", float("nan")
    metres = fit.metres(relative)
    good = (depth > 0) & (metres > 0)
    off = np.abs(metres[good] / depth[good] - 1)
    return (
        f"true map, 3 % noise: AbsRel {np.mean(off):.1%} where {good.sum() / (depth > 0).sum():.0%} is told "
        f"(predicted {np.median(fit.sigma(relative)[good]):.1%})"
    ), float(np.mean(off))


def main() -> None:
    """Prints one block an episode, and what held objects' points are off by before the true camera."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    points = []
    for path in sorted(args.folder.glob("*.npz")):
        if read_groundtruth(path).moving_camera:
            print(f"{path.stem}: its camera does not turn with the hand's recorded pose; not judged")
            continue
        case = read_case(path, args.seed)
        start = time.process_time()
        found = calibrate_camera([case.clip])
        seconds = time.process_time() - start
        print(f"{path.stem}: {'observable' if found.observable else 'refused'}, {seconds:.1f} s of CPU")
        if np.isfinite(found.focal_px):
            error = error_of(found, case.camera.fx, case.base_from_camera)
            print(
                f"    focal {error.focal:+.1%} ({found.focal_sigma:.1%})  position {error.position_m * 100:.1f} cm "
                f"({found.position_sigma_m * 100:.1f})  rotation {error.rotation_deg:.1f} degrees "
                f"({found.rotation_sigma_deg:.1f})  hand's path {_path_error(found, case) * 100:.1f} cm  riding "
                f"{found.riding.sum()}  residual {found.residual:.2%} of the width"
            )
        for reason in found.reasons:
            print(f"    {reason}")
        exact = KnownCamera(case.camera.fx, case.base_from_camera)
        said, off = held_errors(case, exact)
        points.append(off)
        print(f"    with the true camera: {said}")
        if found.observable:
            ours = KnownCamera(found.focal_px, found.carrier_from_camera, found.delay_s, found.covariance)
            print(f"    with the found camera: {held_errors(case, ours)[0]}; {aligned(case, ours, args.seed)[0]}")
    told = [off * 100 for off in points if np.isfinite(off)]
    if told:
        median, most = np.quantile(told, [0.5, 0.9])
        print(f"points of {len(told)} held objects before the true camera: {median:.2f} cm, nine in ten {most:.2f}")


if __name__ == "__main__":
    main()
