"""The whole product on ground-truth episodes: packets whose camera the hand calibrates, against the truth.

    python -m tests.benchmarks.handeye_packets ../shared/data/groundtruth_dev OUT [--contains dev0] [--set KEY=VALUE]
    python -m tests.benchmarks.handeye_packets FOLDER OUT --pooled

The episodes become a source with the hand's pose in the state (x, y, z and a quaternion); what the truth knows beside
it is held back. Packets are made with the profile `cpu` in the folder OUT and kept there for the next time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from extractors.handeye.known import KnownCamera
from extractors.handeye.problem import Floats, TrackedClip
from extractors.types import Episode
from flows.run.calibrate import packet_tracks, solve_all
from flows.run.carry_out import carry_out, run_shard_plainly
from flows.run.progress import RunProgress
from flows.run.shard import ALL_STAGES
from flows.sources.base import EpisodeInfo, LeftOut
from flows.stages.base import SCENE_TRACKS
from flows.stages.calibration import telling_tracks
from flows.stages.placing import matched_again
from packers.reader import Packet
from tests.benchmarks.groundtruth import GroundTruth, read_groundtruth
from tests.benchmarks.handeye import degrees_of
from tests.benchmarks.handeye_groundtruth import Case, aligned, held_errors, since
from tests.flows.batches import array_plan

NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw")


@dataclass(frozen=True)
class TruthSource:
    """Ground-truth episodes as robots record them: pictures, state, gripper; no camera, masks or depth."""

    root: Path
    contains: str = ""
    kind: str = "groundtruth"
    dataset: str = "groundtruth"

    def episodes(self) -> Iterator[EpisodeInfo]:
        paths = sorted(path for path in self.root.glob("*.npz") if self.contains in path.stem)
        for index, path in enumerate(paths):
            episode = read_groundtruth(path).episode
            yield EpisodeInfo(
                episode_id=path.stem,
                episode_index=index,
                n_frames=episode.n_frames,
                language_instruction=episode.language_instruction,
                cameras=(episode.camera_name,),
                fps=episode.fps,
                files=(path,),
            )

    def left_out(self) -> tuple[LeftOut, ...]:
        return ()

    def reread(self, episode: Episode) -> None:
        return None

    def open(self, info: EpisodeInfo, camera: str | None = None) -> Episode:
        truth = read_groundtruth(info.files[0], episode_index=info.episode_index)
        hand = hand_of(info.files[0])
        state = np.concatenate([hand[:, :3, 3], Rotation.from_matrix(hand[:, :3, :3]).as_quat()], axis=1)
        return replace(
            truth.episode,
            state=state.astype(np.float32),
            state_names=NAMES,
            camera=None,
            recorded_depth=None,
            recorded_masks=None,
            recorded_robot=None,
            provenance={
                "dataset": self.dataset,
                "kind": self.kind,
                "path": info.files[0].name,
                "episode_index": info.episode_index,
                "camera": truth.episode.camera_name,
                "frame_ids": list(range(truth.episode.n_frames)),
            },
            tags=("wrist-camera",) if truth.moving_camera else (),
        )


def hand_of(path: Path) -> Floats:
    """(T, 4, 4) the true pose of the hand."""
    with np.load(path) as arrays:
        pose: Floats = arrays["ee_pose"].astype(np.float64)
    return pose


@dataclass
class Errors:
    """How far one episode is off; NaN where nothing was found. Lengths in metres, turns in degrees.

    Attributes:
        observable: the camera was not refused.
        focal, place, turn: error of the camera's focal length (relative), position and rotation, each with its sigma.
        object_place, object_turn: median error of the object's pose since the held frame.
        centroid: median error of `centroids_base`.
        points: of the held object, median, before the true camera.
        true_map: AbsRel of a relative map made of the true depth with 3 % noise, aligned by the packet's camera.
        depth: AbsRel of `depth/aligned`.
        cost: share of the episode's seconds that calibration and placing take.
    """

    observable: bool = False
    focal: tuple[float, float] = (np.nan, np.nan)
    place: tuple[float, float] = (np.nan, np.nan)
    turn: tuple[float, float] = (np.nan, np.nan)
    object_place: float = np.nan
    object_turn: float = np.nan
    centroid: float = np.nan
    points: float = np.nan
    true_map: float = np.nan
    depth: float = np.nan
    cost: float = np.nan


def describe(packet: Packet, path: Path) -> tuple[list[str], Errors]:
    """What a packet says of its camera and object, and how far it is off."""
    truth, errors = read_groundtruth(path), Errors()
    with np.load(path) as arrays:
        camera_pose, object_pose = arrays["T_world_cam"], arrays["object_pose"]
    report = packet.attributes["stages"]["calibration"]["report"]
    camera = report.get("camera")
    errors.observable = "calibrated-by-hand" in report["tags"]
    lines = [f"{path.stem}: {', '.join(report['tags'])}"]
    if camera is not None:
        carrier = np.eye(4) if report["rig"] == "fixed" else hand_of(path)[0]
        fx = truth.episode.camera.resized(*packet.size[::-1]).fx
        lines.append(_camera(camera, np.linalg.inv(camera_pose[0]) @ carrier, fx, errors))
    lines += [f"    {reason}" for reason in report["reasons"]]
    placed = packet.attributes["stages"]["placing"]["report"]
    lines += [
        f"    {name}: {reason}"
        for name, part in placed.items()
        if isinstance(part, dict)
        for reason in part.get("reasons", ())
    ]
    if "object_pose" in packet:
        lines.append(_object(packet, object_pose, errors))
    if "centroids_base" in packet:
        centre = np.einsum("ij,tj->ti", camera_pose[0][:3, :3], truth.centroid_cam) + camera_pose[0][:3, 3]
        off = np.linalg.norm(packet.read("centroids_base") - centre, axis=1)
        sigma = np.nanmedian(np.linalg.norm(packet.read("centroids_base_sigma"), axis=1))
        errors.centroid = float(np.nanmedian(off))
        lines.append(f"    centroids_base {errors.centroid * 100:.1f} cm off, sigma {sigma * 100:.1f}")
    if "depth/aligned" in packet:
        lines.append(_depth(packet, truth.depth, errors))
    if not truth.moving_camera:
        lines += _by_own_tracks(packet, truth, camera_pose[0], object_pose, hand_of(path), errors)
    return lines, errors


def _camera(camera: Mapping[str, Any], true_from_carrier: Floats, fx: float, errors: Errors) -> str:
    """How far a camera is off, and what it says of itself."""
    apart = true_from_carrier @ np.asarray(camera["carrier_from_camera"])
    errors.focal = camera["focal_px"] / fx - 1, camera["focal_sigma"]
    errors.place = float(np.linalg.norm(apart[:3, 3])), camera["position_sigma_m"]
    errors.turn = float(degrees_of(apart[:3, :3])), camera["rotation_sigma_deg"]
    return (
        f"    focal {errors.focal[0]:+.1%} ({errors.focal[1]:.1%})  place {errors.place[0] * 100:.1f} cm "
        f"({errors.place[1] * 100:.1f})  turn {errors.turn[0]:.1f} degrees ({errors.turn[1]:.1f})  residual "
        f"{camera['residual_px']:.2f} px, {camera['tracks_riding']} of {camera['tracks_moving']} tracks"
    )


def pooled(packets: Sequence[Path], folder: Path) -> list[str]:
    """What `cuepack calibrate --one-camera` makes of packets whose true camera is one."""
    lines = []
    for set_up in solve_all(packets, one_camera=True)[0]:
        said = "; ".join(set_up.reasons) or "observable"
        lines.append(f"together, {len(set_up.episodes)} episodes ({len(set_up.apart)} set apart): {said}")
        if set_up.camera is not None:
            path = folder / f"{set_up.episodes[0]}.npz"
            with np.load(path) as arrays:
                true_from_base = np.linalg.inv(arrays["T_world_cam"][0])
            fx = read_groundtruth(path).episode.camera.resized(*set_up.size[::-1]).fx
            lines.append(_camera(set_up.camera, true_from_base, fx, Errors()))
        left_out = [residual for residual in set_up.left_out.values() if residual is not None]
        if left_out:
            lines.append(f"    left one out: {np.median(left_out):.2f} px (worst {max(left_out):.2f})")
    return lines


def _by_own_tracks(
    packet: Packet, truth: GroundTruth, base_from_camera: Floats, object_pose: Floats, hand: Floats, errors: Errors
) -> list[str]:
    """The object's points before the true camera, and a true map aligned by the camera that was found."""
    exact, stamps = truth.episode.camera.resized(*packet.size[::-1]), packet.read("timestamp")
    everything = packet_tracks(packet, SCENE_TRACKS)
    telling = packet_tracks(packet, telling_tracks(on_wrist=False, of_robot="tracks/robot/xy" in packet))
    clips = [
        TrackedClip(tracks.xy[:, of], tracks.visibility[:, of], hand, stamps, packet.size, exact.fy / exact.fx)
        for tracks, of in ((telling, ~telling.on_object), (everything, everything.on_object))
    ]
    held = packet.read("held") if "held" in packet else np.zeros(len(stamps), np.bool_)
    camera = KnownCamera(exact.fx, base_from_camera)
    if "masks/object" in packet and clips[1].visibility.shape[1]:
        clips[1] = matched_again(clips[1], held, camera, packet.read("pixels"), packet.read("masks/object"))[1]
    case = Case(truth, *clips, held, exact, base_from_camera, hand, object_pose)
    said, errors.points = held_errors(case, camera)
    lines = [f"    with the true camera: {said}"]
    if errors.observable:
        report = packet.attributes["stages"]["calibration"]["report"]["camera"]
        pose, covariance = np.asarray(report["carrier_from_camera"]), np.asarray(report["covariance"])
        said, errors.true_map = aligned(case, KnownCamera(report["focal_px"], pose, report["delay_s"], covariance), 0)
        lines.append(f"    {said}")
    return lines


def _object(packet: Packet, true: Floats, errors: Errors) -> str:
    pose, valid = packet.read("object_pose"), packet.read("object_pose_valid")
    held = np.flatnonzero(packet.read("held") & valid)
    frame = int(held[len(held) // 2]) if len(held) else int(np.flatnonzero(valid)[0])
    moved, angle = since(frame, pose, valid, true)
    sigma = np.nanmedian(packet.read("object_pose_sigma"), axis=0)
    errors.object_place, errors.object_turn = float(np.median(moved)), float(np.median(angle))
    return (
        f"    object pose since the held frame {errors.object_place * 100:.1f} cm ({sigma[0] * 100:.1f})  "
        f"{errors.object_turn:.1f} degrees ({sigma[1]:.1f}) in {valid.sum()} of {len(valid)} frames, "
        f"{len(packet.read('object_points'))} points"
    )


def _depth(packet: Packet, true: Floats, errors: Errors) -> str:
    import cv2

    aligned = np.nan_to_num(packet.read("depth/aligned"))
    exact = np.stack([cv2.resize(frame, packet.size[::-1], interpolation=cv2.INTER_NEAREST) for frame in true])
    both = (aligned > 0) & (exact > 0)
    sigma = packet.dataset_attributes("depth/aligned")["sigma"]
    errors.depth = float(np.mean(np.abs(aligned[both] / exact[both] - 1)))
    return f"    depth/aligned AbsRel {errors.depth:.1%}, predicted {sigma:.1%}"


FAR = (0.08, 0.08)
"""Relative error of the focal length, and metres, from which a camera counts as wrong."""


def summary(rows: list[Errors]) -> list[str]:
    """What the episodes say together."""
    solved = [row for row in rows if np.isfinite(row.focal[0])]
    seen = [row for row in solved if row.observable]
    wrong = [row for row in solved if abs(row.focal[0]) > FAR[0] or row.place[0] > FAR[1]]
    lines = [
        f"{len(rows)} episodes, {len(solved)} with a solution, {len(seen)} observable; of {len(wrong)} that are off by "
        f"more than {FAR[0]:.0%} or {FAR[1] * 100:.0f} cm {sum(not row.observable for row in wrong)} are refused"
    ]
    for name, unit in (("focal", "%"), ("place", "cm"), ("turn", "degrees")):
        pairs = np.abs([getattr(row, name) for row in seen]).reshape(-1, 2)
        if len(pairs):
            middle, most = np.quantile(pairs[:, 0], (0.5, 0.9)) * (1 if unit == "degrees" else 100)
            within = np.mean(pairs[:, 0] <= 2 * pairs[:, 1])
            lines.append(f"{name}: median {middle:.1f} {unit}, nine in ten {most:.1f}, within two sigmas {within:.0%}")
    for name, unit, factor in (
        ("object_place", "cm", 100),
        ("object_turn", "degrees", 1),
        ("centroid", "cm", 100),
        ("points", "cm", 100),
        ("true_map", "% AbsRel", 100),
        ("depth", "% AbsRel", 100),
        ("cost", "% of the seconds", 100),
    ):
        values = np.array([getattr(row, name) for row in rows])
        values = values[np.isfinite(values)]
        if len(values):
            lines.append(f"{name}: median {np.median(values) * factor:.1f} {unit} in {len(values)} episodes")
    return lines


def main() -> None:
    """Prints one block an episode, what each stage cost, and what all say together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--contains", default="")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--pooled", action="store_true", help="the episodes have one camera: solve it together too")
    args = parser.parse_args()
    plan = array_plan(TruthSource(args.folder, args.contains), args.out, ("run.profile=cpu", *args.set))
    with RunProgress(len(plan.jobs), len(ALL_STAGES), quiet=True) as progress:
        outcome = carry_out(plan, progress, run_shard_plainly)
    found: list[Errors] = []
    for row in sorted(outcome.rows, key=lambda row: str(row["episode_id"])):
        if row["status"] != "done":
            print(f"{row['episode_id']}: {row['status']}: {row.get('error')}")
            continue
        with Packet(args.out / str(row["packet"])) as packet:
            lines, errors = describe(packet, args.folder / f"{row['episode_id']}.npz")
        print("\n".join(lines))
        cost = {stage: row.get(f"seconds_{stage}", 0.0) for stage in ALL_STAGES}
        print("    seconds: " + ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in cost.items()))
        if cost["calibration"]:
            errors.cost = (cost["calibration"] + cost["placing"]) / sum(cost.values())
        found.append(errors)
    print("\n".join(summary(found)))
    if args.pooled:
        done = [args.out / str(row["packet"]) for row in outcome.rows if row["status"] == "done"]
        print("\n".join(pooled(done, args.folder)))


if __name__ == "__main__":
    main()
