"""Hand-eye calibration and held objects on ground-truth episodes, from true tracks with noise and from own tracks.

    python -m tests.benchmarks.handeye_groundtruth ../shared/data/groundtruth_dev [--own FOLDER] [--seed 0]

`--own FOLDER` runs the CPU profile's masks (motion) and tracks (lucas-kanade), kept in FOLDER for the next time;
without it tracks are the true ones with 1.5 px of noise at 256 px and 40 % of the observations missing.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractors.contact import estimate_contact
from extractors.errors import GeometryError
from extractors.geometry import resize_depth, unproject
from extractors.handeye.align import align_depth
from extractors.handeye.camera import calibrate_camera
from extractors.handeye.held import held_object
from extractors.handeye.known import KnownCamera
from extractors.handeye.problem import Calibration, Floats, TrackedClip
from extractors.types import Camera
from tests.benchmarks.groundtruth import GroundTruth, read_groundtruth
from tests.benchmarks.handeye import error_of


@dataclass(frozen=True, eq=False)
class Case:
    """One episode, ready to be judged.

    Attributes:
        clip: hand and background tracks, without the object's.
        of_object: the object's tracks whenever they are seen.
        held: (T,) bool.
        camera: the true one, at the clip's size.
        base_from_camera, hand, object_pose: (4, 4), (T, 4, 4), (T, 4, 4).
    """

    truth: GroundTruth
    clip: TrackedClip
    of_object: TrackedClip
    held: NDArray[np.bool_]
    camera: Camera
    base_from_camera: Floats
    hand: Floats
    object_pose: Floats


def read_case(path: Path, own: Path | None, seed: int) -> Case:
    """The episode of a file with its true or its own tracks."""
    truth = read_groundtruth(path)
    with np.load(path) as arrays:
        hand, camera_pose, object_pose = arrays["ee_pose"], arrays["T_world_cam"], arrays["object_pose"]
        kind, valid = arrays["grid_kind"], arrays["grid_valid"]
    size = truth.episode.size
    if own is None:
        rng = np.random.default_rng(seed)
        xy = np.concatenate([truth.grid_xy, truth.object_xy], axis=1)
        xy = xy + rng.normal(0, 1.5 * size[1] / 256, xy.shape)
        visible = np.concatenate([truth.grid_visibility & valid, truth.object_visibility], axis=1)
        visible &= rng.random(visible.shape) < 0.6
        on_object = np.concatenate([kind == 2, np.ones(truth.object_xy.shape[1], bool)])
        held = _truly_held(hand, object_pose)
    else:
        size, xy, visible, on_object, held = _own_tracks(truth, own)
    aspect = (size[0] / size[1]) / (truth.episode.size[0] / truth.episode.size[1])
    stamps = truth.episode.timestamp
    clip = TrackedClip(xy, visible & ~on_object, hand, stamps, size, aspect, name=path.stem)
    of_object = TrackedClip(xy[:, on_object], visible[:, on_object], hand, stamps, size, aspect, name=path.stem)
    assert truth.episode.camera is not None
    camera = truth.episode.camera.resized(size[1], size[0])
    return Case(truth, clip, of_object, held, camera, camera_pose[0], hand, object_pose)


def _truly_held(hand: Floats, thing: Floats) -> NDArray[np.bool_]:
    """Frames in which the object moves as the hand does: its pose in the hand changes by less than 2 mm a frame."""
    in_hand = (np.linalg.inv(hand) @ thing)[:, :3, 3]
    moved = np.linalg.norm(np.diff(thing[:, :3, 3], axis=0), axis=1)
    rides = (np.linalg.norm(np.diff(in_hand, axis=0), axis=1) < 0.002) & (moved > 0.003)
    return np.concatenate([[False], rides])


def _own_tracks(
    truth: GroundTruth, folder: Path
) -> tuple[tuple[int, int], Floats, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Size, tracks, visibility, on_object and held of the CPU profile, from the folder or made and kept there."""
    path = folder / f"own_{truth.episode.episode_id}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, **_made(truth))
    with np.load(path) as made:
        names = [name for name in ("grid", "foreground") if f"{name}_xy" in made]
        xy, visible = (np.concatenate([made[f"{name}_{what}"] for name in names], axis=1) for what in ("xy", "vis"))
        on_object = np.concatenate([made[f"{name}_obj"] for name in names])
        _, once = np.unique(np.concatenate([made[f"{name}_q"] for name in names]), axis=0, return_index=True)
        once.sort()
        height, width = made["size"]
        return (int(height), int(width)), xy[:, once], visible[:, once], on_object[once], made["held"]


def _made(truth: GroundTruth) -> dict[str, NDArray[np.generic]]:
    from extractors.backends.lucas_kanade import LucasKanade
    from extractors.backends.nano.segmenter import NanoSegmenter
    from extractors.tracks import extract_tracks

    episode = truth.episode
    size = (224, 224)
    masks = NanoSegmenter().segment(episode, size=size)
    sets = extract_tracks(episode.pixels, masks.object, LucasKanade(), size=size)
    out: dict[str, NDArray[np.generic]] = {"size": np.array(size), "mask": masks.object}
    for name, found in sets.items():
        out[f"{name}_xy"], out[f"{name}_vis"] = found.tracks.xy, found.tracks.visibility
        out[f"{name}_obj"], out[f"{name}_q"] = found.on_object, found.tracks.queries
    xy, visible = (np.concatenate([out[f"{name}_{what}"] for name in sets], axis=1) for what in ("xy", "vis"))
    on_object = np.concatenate([out[f"{name}_obj"] for name in sets])
    contact = estimate_contact(
        episode.gripper,
        masks=masks.object,
        robot_masks=None,
        fps=episode.fps,
        tracks_xy=xy,
        visibility=visible.astype(np.bool_),
        on_object=on_object.astype(np.bool_),
    )
    return out | {"held": contact.held}


def _path_error(found: Calibration, case: Case) -> float:
    """Median distance of the hand's path in the camera's frame from the truth, metres."""
    place = np.concatenate([case.hand[:, :3, 3], np.ones((len(case.hand), 1))], axis=1)
    ours, true = (np.linalg.inv(pose) @ place.T for pose in (found.carrier_from_camera, case.base_from_camera))
    return float(np.median(np.linalg.norm((ours - true)[:3], axis=0)))


def _held_errors(case: Case, camera: KnownCamera) -> str:
    """Errors of points, of the pose and of the centroid in the base frame, in words."""
    found = held_object(case.of_object, case.held, camera)
    if found.reasons:
        return "held object: " + "; ".join(found.reasons)
    frame = int(np.flatnonzero(found.trusted)[len(np.flatnonzero(found.trusted)) // 2])
    # The truth of a tracked point is the surface under it in a frame where it is seen.
    seen = case.of_object.visibility[frame] & np.isfinite(found.points).all(axis=1)
    depth = case.truth.depth[frame]
    shape, (height, width) = depth.shape, case.clip.size
    at = np.rint((case.of_object.xy[frame] + 0.5) * (shape[1] / width, shape[0] / height) - 0.5).astype(int)
    inside = seen & (at >= 0).all(axis=1) & (at < shape[::-1]).all(axis=1)
    surface = unproject(depth, case.truth.episode.camera)[at[inside, 1], at[inside, 0]]
    in_base = surface @ case.base_from_camera[:3, :3].T + case.base_from_camera[:3, 3]
    ours = found.points[inside] @ found.pose[frame, :3, :3].T + found.pose[frame, :3, 3]
    point = float(np.median(np.linalg.norm(ours - in_base, axis=1)))
    # Poses of two object frames are compared by where they carry the object's true middle, and by their turns since.
    still = np.linalg.inv(case.object_pose[frame]) @ found.pose[frame]
    after = np.flatnonzero(found.pose_valid)
    apart = np.linalg.inv(case.object_pose[after] @ still) @ found.pose[after]
    angle = np.degrees(np.arccos(np.clip((np.trace(apart[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)))
    moved = np.linalg.norm(apart[:, :3, 3], axis=1)
    return (
        f"held object: points {point * 100:.2f} cm (sigma {np.nanmedian(found.points_sigma) * 100:.2f}), pose from the "
        f"held frame {np.median(moved) * 100:.2f} cm {np.median(angle):.1f} degrees over {len(after)} of "
        f"{len(case.held)} frames, centroid {np.linalg.norm(np.median(ours - in_base, axis=0)) * 100:.2f} cm"
    )


def _aligned(case: Case, found: Calibration, seed: int) -> str:
    """AbsRel of a relative map made of the truth, aligned at the tracks that ride, with the found camera."""
    rng = np.random.default_rng(seed)
    depth = resize_depth(case.truth.depth, case.clip.size)
    scale, shift = rng.uniform(0.1, 20), rng.uniform(-1, 1)
    noisy = np.where(depth > 0, (1 / np.maximum(depth, 1e-3)) * (1 + rng.normal(0, 0.03, depth.shape)), 0)
    relative = (noisy - shift) / scale
    chosen = np.flatnonzero(found.riding)
    frame, index = np.nonzero(case.clip.visibility[:, chosen])
    points = np.einsum("fij,fj->fi", case.hand[frame, :3, :3], found.points[chosen[index]]) + case.hand[frame, :3, 3]
    z = (points - found.carrier_from_camera[:3, 3]) @ found.carrier_from_camera[:3, 2]
    xy = np.rint(case.clip.xy[frame, chosen[index]]).astype(int)
    inside = (xy >= 0).all(axis=1) & (xy < case.clip.size[::-1]).all(axis=1)
    known = relative[frame[inside], xy[inside, 1], xy[inside, 0]]
    try:
        fit = align_depth(known, z[inside], np.full(inside.sum(), 0.02))
    except GeometryError as error:
        return f"depth: {error}"
    metres = fit.metres(relative)
    good = (depth > 0) & (metres > 0)
    off = np.abs(metres[good] / depth[good] - 1)
    return (
        f"depth: AbsRel {np.mean(off):.1%} where {good.sum() / (depth > 0).sum():.0%} is told "
        f"(predicted {np.median(fit.sigma(relative)[good]):.1%})"
    )


def main() -> None:
    """Prints one block an episode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--own", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for path in sorted(args.folder.glob("*.npz")):
        if read_groundtruth(path).moving_camera:
            print(f"{path.stem}: its camera does not turn with the hand's recorded pose; not judged")
            continue
        case = read_case(path, args.own, args.seed)
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
            print("    with the found camera: " + _aligned(case, found, args.seed))
        for reason in found.reasons:
            print(f"    {reason}")
        exact = KnownCamera(case.camera.fx, case.base_from_camera)
        print(f"    with the true camera: {_held_errors(case, exact)}")
        if found.observable:
            ours = KnownCamera(found.focal_px, found.carrier_from_camera, found.delay_s, found.covariance)
            print(f"    with the found camera: {_held_errors(case, ours)}")


if __name__ == "__main__":
    main()
