"""Accuracy and honesty of hand-eye calibration on generated episodes.

python -m tests.benchmarks.handeye [--count 100] [--rig fixed|wrist] [--noise 1.5] [--drift 0] [--pooled 10]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from extractors.errors import GeometryError
from extractors.handeye.camera import calibrate_camera
from extractors.handeye.problem import Calibration, Floats, TrackedClip
from tests.benchmarks.handeye_scenes import ARM, HAND, OBJECT, STATIC, Recipe, Scene, random_lens, random_scene


@dataclass(frozen=True)
class Error:
    """How far a calibration is from the truth.

    Attributes:
        focal: relative.
        position_m, rotation_deg: of the camera.
        sigmas: (3,) the same in the calibration's own sigmas, the largest over axes.
    """

    focal: float
    position_m: float
    rotation_deg: float
    sigmas: Floats


def degrees_of(turns: Floats) -> Floats:
    """(...) angle of rotation matrices (..., 3, 3)."""
    cosine = (np.trace(turns, axis1=-2, axis2=-1) - 1) / 2
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def error_of(found: Calibration, focal_px: float, carrier_from_camera: Floats) -> Error:
    """Errors of a calibration that was solved, observable or not."""
    apart = np.linalg.inv(carrier_from_camera) @ found.carrier_from_camera
    angle = float(degrees_of(apart[:3, :3]))
    focal = found.focal_px / focal_px - 1
    place = float(np.linalg.norm(apart[:3, 3]))
    sigmas = np.array(
        [abs(focal) / found.focal_sigma, place / found.position_sigma_m, angle / found.rotation_sigma_deg]
    )
    return Error(focal, place, angle, sigmas)


def scenes(count: int, recipe: Recipe, pooled: int, first: int = 0) -> list[list[Scene]]:
    """`count` cameras with `pooled` episodes each."""
    groups = []
    for seed in range(first, first + count):
        lens = random_lens(np.random.default_rng([seed, 1]), recipe)
        groups.append([random_scene(1000 * seed + k, recipe, lens=lens) for k in range(pooled)])
    return groups


def without_object(scene: Scene) -> TrackedClip:
    """The clip without the object's tracks, as the pipeline gives it: real objects turn in the hand."""
    return replace(scene.clip, visibility=scene.clip.visibility & (scene.kind != OBJECT))


def _mirrored(scene: Scene, rng: np.random.Generator) -> TrackedClip:
    clip = without_object(scene)
    xy = clip.xy.copy()
    xy[..., 0] = clip.size[1] - 1 - xy[..., 0]
    return replace(clip, xy=xy)


def _nudged(scene: Scene, rng: np.random.Generator) -> TrackedClip:
    clip = without_object(scene)
    xy = clip.xy.copy()
    xy[len(xy) // 2 :] += 0.06 * clip.size[1] * rng.choice([-1, 1], 2)
    return replace(clip, xy=xy)


def _other_path(scene: Scene, rng: np.random.Generator) -> TrackedClip:
    clip = without_object(scene)
    other = random_scene(int(rng.integers(10**6, 2 * 10**6)), Recipe(fps=(30, 30), seconds=(12, 12)))
    rows = np.linspace(0, len(other.clip.hand_pose) - 1, len(clip.hand_pose)).astype(int)
    return replace(clip, hand_pose=other.clip.hand_pose[rows])


def _reversed(scene: Scene, rng: np.random.Generator) -> TrackedClip:
    clip = without_object(scene)
    return replace(clip, hand_pose=clip.hand_pose[::-1])


def _millimetres(scene: Scene, rng: np.random.Generator) -> TrackedClip:
    clip = without_object(scene)
    pose = clip.hand_pose.copy()
    pose[:, :3, 3] *= 1000
    return replace(clip, hand_pose=pose)


def _left_handed(scene: Scene, rng: np.random.Generator) -> TrackedClip:
    clip = without_object(scene)
    flip = np.diag([1.0, -1.0, 1.0])
    pose = clip.hand_pose.copy()
    pose[:, :3, 3] @= flip
    pose[:, :3, :3] = flip @ pose[:, :3, :3] @ flip
    return replace(clip, hand_pose=pose)


def _inverse_turns(scene: Scene, rng: np.random.Generator) -> TrackedClip:
    clip = without_object(scene)
    pose = clip.hand_pose.copy()
    pose[:, :3, :3] = np.swapaxes(pose[:, :3, :3], 1, 2)
    return replace(clip, hand_pose=pose)


def _constant(scene: Scene, rng: np.random.Generator) -> TrackedClip:
    clip = without_object(scene)
    return replace(clip, hand_pose=np.repeat(clip.hand_pose[:1], len(clip.hand_pose), axis=0))


def _arm_alone(scene: Scene, rng: np.random.Generator) -> TrackedClip:
    return replace(scene.clip, visibility=scene.clip.visibility & ((scene.kind == ARM) | (scene.kind == STATIC)))


def _slipping(scene: Scene, rng: np.random.Generator) -> TrackedClip:
    """The object's tracks alone, and the object slides through the hand by a tenth of the frame's width."""
    clip = replace(scene.clip, visibility=scene.clip.visibility & (scene.held[:, None] | (scene.kind != OBJECT)))
    share = np.linspace(0, 1, len(clip.xy))[:, None, None]
    slide = share * rng.normal(0, 0.07, 2) * clip.size[1] * (scene.kind == OBJECT)[:, None]
    seen = clip.visibility & ((scene.kind == OBJECT) | (scene.kind == STATIC))
    return replace(clip, xy=clip.xy + slide, visibility=seen)


WRONG: dict[str, Callable[[Scene, np.random.Generator], TrackedClip]] = {
    "mirrored video": _mirrored,
    "camera nudged": _nudged,
    "poses of another clip": _other_path,
    "poses reversed": _reversed,
    "millimetres": _millimetres,
    "left-handed base": _left_handed,
    "turns inverted": _inverse_turns,
    "constant state": _constant,
    "arm alone": _arm_alone,
    "object slips": _slipping,
}
"""Clips that must be refused, or answered rightly (a nudge of nothing that is tracked)."""


def wrong_table(count: int) -> None:
    """How many clips of each wrong kind are refused, how many accepted and far off."""
    refused = accepted = 0
    for name, spoil in WRONG.items():
        rng = np.random.default_rng(0)
        off = fine = gone = 0
        for group in scenes(count, Recipe(), 1):
            scene = group[0]
            try:
                found = calibrate_camera([spoil(scene, rng)])
            except GeometryError:
                gone += 1
                continue
            if not found.observable:
                gone += 1
                continue
            error = error_of(found, scene.focal_px, scene.carrier_from_camera)
            bad = abs(error.focal) > 0.16 or error.position_m > 0.15 or error.rotation_deg > 6
            off, fine = off + bad, fine + (not bad)
        refused, accepted = refused + gone, accepted + off
        print(f"{name:24s} refused {gone:3d}  accepted and right {fine:3d}  accepted and far off {off:3d}")
    print(f"of the wrong ones {refused / max(refused + accepted, 1):.1%} are refused")


def line(name: str, errors: list[Error]) -> str:
    """One row of the table."""
    if not errors:
        return f"{name:28s} none"
    focal = np.abs([error.focal for error in errors])
    place = np.array([error.position_m for error in errors])
    angle = np.array([error.rotation_deg for error in errors])
    sigmas = np.array([error.sigmas for error in errors])
    within = " ".join(f"{share:4.0%}" for share in (sigmas <= 2).mean(axis=0))
    return (
        f"{name:28s} {len(errors):4d}  focal {np.median(focal):6.2%} (p90 {np.quantile(focal, 0.9):6.2%})  position "
        f"{np.median(place) * 100:5.2f} cm (p90 {np.quantile(place, 0.9) * 100:5.2f})  "
        f"rotation {np.median(angle):5.2f} (p90 {np.quantile(angle, 0.9):5.2f})  within two sigmas {within}"
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rig", choices=("fixed", "wrist"), default="fixed")
    parser.add_argument("--noise", type=float, default=1.5)
    parser.add_argument("--drift", type=float, default=0.0)
    parser.add_argument("--pooled", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--wrong", action="store_true", help="clips that must be refused")
    args = parser.parse_args()
    if args.wrong:
        wrong_table(args.count)
        return
    recipe = replace(Recipe(), rig=args.rig, noise_px=args.noise, drift_px=args.drift, delay=(-args.delay, args.delay))
    good, refused, seconds = [], [], []
    right = wrong = missed = 0
    clock: list[float] = []
    for group in scenes(args.count, recipe, args.pooled, args.first):
        start = time.perf_counter()
        found = calibrate_camera([without_object(scene) for scene in group], rig=args.rig)
        seconds.append(time.perf_counter() - start)
        kind = np.concatenate([scene.kind for scene in group])
        rides = (kind == STATIC) if args.rig == "wrist" else (kind == HAND) | (kind == OBJECT)
        right += int((found.riding & rides).sum())
        wrong += int((found.riding & ~rides).sum())
        missed += int((~found.riding & (kind == (STATIC if args.rig == "wrist" else HAND))).sum())
        if not np.isfinite(found.focal_px):
            refused.append(None)
            if args.verbose:
                print("nothing:", found.reasons)
            continue
        error = error_of(found, group[0].focal_px, group[0].carrier_from_camera)
        (good if found.observable else refused).append(error)
        clock.append(abs(found.delay_s - group[0].delay_s))
        if args.verbose:
            print(
                f"{len(seconds) - 1:3d} focal {error.focal:+.1%} ({found.focal_sigma:.1%}) position "
                f"{error.position_m * 100:.1f} ({found.position_sigma_m * 100:.1f}) cm "
                f"rotation {error.rotation_deg:.1f} ({found.rotation_sigma_deg:.1f}) "
                f"sigmas {error.sigmas.round(1)} riding {found.riding.sum()} wrong "
                f"{(found.riding & ~rides).sum()} residual {found.residual * 256:.2f} px inflation "
                f"{found.report['inflation']:.2f} {seconds[-1]:.1f} s {found.reasons}"
            )
    print(line("observable", good))
    print(line("refused, had they been used", [error for error in refused if error is not None]))
    print(f"nothing found: {sum(error is None for error in refused)}")
    off = [error for error in good if abs(error.focal) > 0.16 or error.position_m > 0.15 or error.rotation_deg > 6]
    poor = [error for error in refused if error is None or abs(error.focal) > 0.16 or error.position_m > 0.15]
    print(f"far off (16 %, 15 cm or 6 degrees): {len(off)} accepted, {len(poor)} refused")
    print(f"tracks: {right} ride and do, {wrong} ride and should not, {missed} of the hand are left out")
    print(f"clock: median {np.median(clock) * 1000:.0f} ms off; {np.median(seconds):.2f} s a solution (median)")


if __name__ == "__main__":
    main()
