"""Accuracy and cost of centroids, descriptors and contact on ground-truth episodes.

    python -m tests.benchmarks.geometry_accuracy ../shared/data/groundtruth_dev

Prints, per episode and over all: centroid error with true masks and depth (at the episode's size and at packet size),
the plain and the robust mean with masks dilated by 3 px and depth blurred (sigma 2 px), focal sigma against
Monte-Carlo, contact F1 and onset, with true and with degraded tracks and masks, cross-checks, and the cost against
decoding the same clip.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from extractors.centroids import extract_centroids
from extractors.consistency import check_consistency
from extractors.contact import estimate_contact
from extractors.geometry import dilate, project, resize_depth, resize_masks, unproject
from extractors.shape import describe_shape
from extractors.types import Camera, Depth, SceneTracks

PACKET = (224, 224)
PAPER_FPS = 5.0
"""The episodes' frames are as far apart as BridgeData's at 5 a second; invariance.py has other rates."""
BLEED_PX, BLUR_PX = 3, 2.0


class Clip:
    """One ground-truth episode."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as data:
            self.arrays = {name: data[name] for name in data.files}
        self.name = path.stem
        self.meta = json.loads(str(self.arrays["meta"]))
        k, (height, width) = self.arrays["K"], self.arrays["rgb"].shape[1:3]
        self.camera = Camera(k[0, 0], k[1, 1], k[0, 2], k[1, 2], width, height, source="calibrated", sigma=0.01)
        self.masks, self.robot = (self.arrays[m].astype(bool) for m in ("object_mask", "robot_mask"))
        self.depth = Depth(self.arrays["depth"].astype(np.float32), "metric")

    def tracks(self, width: int, height: int) -> SceneTracks:
        xy = np.concatenate([self.arrays["grid_xy"], self.arrays["obj_xy"]], axis=1)
        seen = np.concatenate([self.arrays["grid_vis"], self.arrays["obj_vis"]], axis=1) & np.isfinite(xy).all(-1)
        own = np.concatenate([self.arrays["grid_kind"] == 2, np.ones(self.arrays["obj_xy"].shape[1], bool)])
        scale = np.array([width, height]) / self.arrays["rgb"].shape[2:0:-1]
        return SceneTracks((xy + 0.5) * scale - 0.5, seen, own, width)


def blurred(depth: np.ndarray, sigma: float) -> np.ndarray:
    """Depth blurred over readings only."""
    known = (depth > 0).astype(np.float32)
    total = np.stack([cv2.GaussianBlur(d, (0, 0), sigma) for d in depth])
    weight = np.stack([cv2.GaussianBlur(w, (0, 0), sigma) for w in known])
    return np.where(weight > 0.5, total / np.maximum(weight, 1e-6), 0).astype(np.float32)


def centroid_numbers(clip: Clip) -> dict[str, float]:
    truth = clip.arrays["centroid_cam"]
    exact = extract_centroids(clip.masks, clip.depth, clip.camera)
    pixels = np.linalg.norm(project(exact.xyz, clip.camera) - project(truth, clip.camera), axis=1)
    small = Depth(resize_depth(clip.depth.values, PACKET), "metric")
    packet = extract_centroids(resize_masks(clip.masks, PACKET), small, clip.camera.resized(*PACKET[::-1]))
    bad = Depth(blurred(clip.depth.values, BLUR_PX), "metric")
    grown = dilate(clip.masks, BLEED_PX)
    plain, robust = (extract_centroids(grown, bad, clip.camera, method=m).xyz for m in ("mean", "robust"))
    return {
        "mm": 1000 * np.nanmax(np.linalg.norm(exact.xyz - truth, axis=1)),
        "px": float(np.nanmax(pixels)),
        "mm_packet": 1000 * np.nanmean(np.linalg.norm(packet.xyz - truth, axis=1)),
        "mm_plain": 1000 * np.nanmean(np.linalg.norm(plain - truth, axis=1)),
        "mm_robust": 1000 * np.nanmean(np.linalg.norm(robust - truth, axis=1)),
    }


def focal_sigma_ratio(clip: Clip, draws: int = 100) -> float:
    """Median over frames and the x and y axes of sigma over the spread under +-10 % focal length."""
    camera = replace(clip.camera, sigma=0.1)
    told = extract_centroids(clip.masks, clip.depth, camera, depth_sigma=0.0, mask_sigma_px=0.0).sigma
    points = unproject(clip.depth.values, clip.camera)
    mean = np.full((len(points), 3), np.nan)
    for t in np.flatnonzero(clip.masks.any(axis=(1, 2))):
        mean[t] = np.nanmean(points[t][clip.masks[t]], axis=0)
    factors = np.random.default_rng(0).normal(1, 0.1, draws)
    spread = np.std(mean[None, :, :2] / factors[:, None, None], axis=0)  # x and y go with 1 / f, pixel by pixel
    return float(np.nanmedian(told[:, :2] / spread))


def contact_numbers(clip: Clip, degraded: bool) -> tuple[np.ndarray, int, int]:
    """(true positives, found, true), onset found, onset true."""
    tracks, masks = clip.tracks(*PACKET[::-1]), resize_masks(clip.masks, PACKET)
    robot: np.ndarray | None = resize_masks(clip.robot, PACKET)
    if degraded:  # what a tracker and a segmenter without weights give: jitter, losses, borders that bleed, no robot
        rng = np.random.default_rng(0)
        jittered = tracks.xy + rng.normal(0, 0.15, tracks.xy.shape)
        seen = tracks.visibility & (rng.random(tracks.visibility.shape) > 0.1)
        tracks = SceneTracks(jittered, seen, tracks.on_object, tracks.width)
        masks, robot = dilate(masks, 2), None
    found = estimate_contact(
        clip.arrays["gripper_opening"], fps=PAPER_FPS, masks=masks, robot_masks=robot, tracks=tracks
    )
    truth, yes = clip.arrays["contact"].astype(bool), found.probability > 0.5
    first = np.flatnonzero(truth)
    return np.array([(truth & yes).sum(), yes.sum(), truth.sum()]), found.onset, int(first[0]) if len(first) else -1


def f1(counts: np.ndarray) -> float:
    return float(2 * counts[0] / max(counts[1] + counts[2], 1))


def cost_ratio(clip: Clip) -> tuple[float, float]:
    """Milliseconds per frame of decoding 640x480 JPEGs, and of centroids plus descriptors at packet size."""
    frames = [cv2.imencode(".jpg", cv2.resize(f, (640, 480)))[1] for f in clip.arrays["rgb"]]
    masks, depth = resize_masks(clip.masks, PACKET), Depth(resize_depth(clip.depth.values, PACKET), "metric")
    camera = clip.camera.resized(*PACKET[::-1])
    decode, geometry = [], []
    for _ in range(5):
        start = time.perf_counter()
        for frame in frames:
            cv2.cvtColor(cv2.imdecode(frame, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        decode.append(time.perf_counter() - start)
        start = time.perf_counter()
        describe_shape(masks, depth, camera, extract_centroids(masks, depth, camera))
        geometry.append(time.perf_counter() - start)
    return 1000 * min(decode) / len(frames), 1000 * min(geometry) / len(frames)


def report_centroids(clips: list[Clip]) -> None:
    print(
        f"{'centroids':28s} true mask, depth: max mm, px | packet size mm | dilated and blurred mm: plain robust ratio"
    )
    rows = []
    for clip in clips:
        row = centroid_numbers(clip)
        rows.append(row)
        print(
            f"{clip.name:28s} {row['mm']:8.3f} {row['px']:6.3f} | {row['mm_packet']:6.2f} | {row['mm_plain']:7.2f} "
            f"{row['mm_robust']:6.2f} {row['mm_plain'] / row['mm_robust']:5.1f}"
        )
    ratios = [r["mm_plain"] / r["mm_robust"] for r in rows]
    means = [np.mean([r[k] for r in rows]) for k in ("mm_plain", "mm_robust")]
    print(f"worst {max(r['mm'] for r in rows):.3f} mm, {max(r['px'] for r in rows):.3f} px; ", end="")
    print(f"robust nearer by {means[0] / means[1]:.1f} on the mean, {min(ratios):.1f} at least")
    print("focal sigma over Monte-Carlo:", " ".join(f"{focal_sigma_ratio(clip):.2f}" for clip in clips), "\n")


def report_contact(clips: list[Clip]) -> None:
    fixed = [c for c in clips if not c.meta["moving_camera"]]
    for degraded in (False, True):
        results = [contact_numbers(clip, degraded) for clip in fixed]
        print("contact, " + ("degraded tracks and masks, no robot mask" if degraded else "true tracks and masks"))
        for clip, (counts, onset, truth) in zip(fixed, results, strict=True):
            print(f"  {clip.name:28s} F1 {f1(counts):.3f}  onset {onset} (true {truth})")
        near = np.mean([abs(onset - truth) <= 1 for _, onset, truth in results])
        total = np.sum([counts for counts, _, _ in results], axis=0)
        mean = np.mean([f1(counts) for counts, _, _ in results])
        print(f"  F1 {f1(total):.3f} pooled, {mean:.3f} mean; onset within 1: {near:.2f}")
    plain = [(c.arrays["gripper_opening"] < 0.5, c.arrays["contact"].astype(bool)) for c in fixed]
    scores = [f1(np.array([(p & t).sum(), p.sum(), t.sum()])) for p, t in plain]
    print(f"  thresholding the gripper: {np.mean(scores):.3f} mean\n")


def report_consistency(clips: list[Clip]) -> None:
    for clip in clips:
        tracks, moves = clip.tracks(clip.camera.width, clip.camera.height), bool(clip.meta["moving_camera"])
        found = estimate_contact(
            clip.arrays["gripper_opening"],
            fps=PAPER_FPS,
            masks=clip.masks,
            robot_masks=clip.robot,
            tracks=tracks,
            camera_moves=moves,
        )
        numbers = check_consistency(
            centroids=extract_centroids(clip.masks, clip.depth, clip.camera),
            contact=found,
            ee_xyz=clip.arrays["ee_pose"][:, :3, 3],
            masks=clip.masks,
            depth=clip.depth,
            track_z=np.concatenate([clip.arrays["grid_z"], clip.arrays["obj_z"]], axis=1),
            tracks=tracks,
            fps=PAPER_FPS,
            camera_moves=moves,
        )
        print(f"{clip.name:28s}", {k: v if v is None else round(v, 3) for k, v in numbers.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of ground-truth .npz episodes")
    cv2.setNumThreads(1)
    clips = [Clip(path) for path in sorted(parser.parse_args().folder.glob("*.npz"))]
    report_centroids(clips)
    report_contact(clips)
    report_consistency(clips)
    costs = [cost_ratio(clip) for clip in clips]
    print("\ncost, ms a frame: 640x480 JPEG decoding, centroids + descriptors, ratio")
    for clip, (decode, geometry) in zip(clips, costs, strict=True):
        print(f"  {clip.name:28s} {decode:5.2f} {geometry:5.2f} {geometry / decode:5.2f}")
    decode, geometry = np.mean(costs, axis=0)
    print(f"  all: {decode:.2f} {geometry:.2f}, ratio {geometry / decode:.2f}")


if __name__ == "__main__":
    main()
