"""Accuracy and honesty of hand-eye calibration on generated episodes.

python -m tests.benchmarks.handeye [--count 100] [--rig fixed|wrist] [--noise 1.5] [--drift 0] [--pooled 10]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np

from extractors.handeye.camera import calibrate_camera
from extractors.handeye.problem import Calibration, Floats, TrackedClip
from tests.benchmarks.handeye_scenes import HAND, OBJECT, STATIC, Recipe, Scene, random_lens, random_scene


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


def error_of(found: Calibration, focal_px: float, carrier_from_camera: Floats) -> Error:
    """Errors of a calibration that was solved, observable or not."""
    apart = np.linalg.inv(carrier_from_camera) @ found.carrier_from_camera
    angle = np.degrees(np.arccos(np.clip((np.trace(apart[:3, :3]) - 1) / 2, -1, 1)))
    focal = found.focal_px / focal_px - 1
    place = float(np.linalg.norm(apart[:3, 3]))
    sigmas = np.array(
        [abs(focal) / found.focal_sigma, place / found.position_sigma_m, angle / found.rotation_sigma_deg]
    )
    return Error(focal, place, float(angle), sigmas)


def scenes(count: int, recipe: Recipe, pooled: int, first: int = 0) -> list[list[Scene]]:
    """`count` cameras with `pooled` episodes each."""
    groups = []
    for seed in range(first, first + count):
        lens = random_lens(np.random.default_rng([seed, 1]), recipe)
        groups.append([random_scene(1000 * seed + k, recipe, lens=lens) for k in range(pooled)])
    return groups


def while_held(scene: Scene) -> TrackedClip:
    """The clip with the object's tracks used while it is held only, as the pipeline's contact signal allows."""
    visible = scene.clip.visibility & (scene.held[:, None] | (scene.kind != OBJECT))
    return replace(scene.clip, visibility=visible)


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
        f"{np.median(place) * 100:5.2f} cm (p90 {np.quantile(place, 0.9) * 100:5.2f})  rotation {np.median(angle):5.2f} "
        f"(p90 {np.quantile(angle, 0.9):5.2f})  within two sigmas {within}"
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
    args = parser.parse_args()
    recipe = replace(Recipe(), rig=args.rig, noise_px=args.noise, drift_px=args.drift, delay=(-args.delay, args.delay))
    good, refused, seconds = [], [], []
    right, wrong, missed, clock = 0, 0, 0, []
    for group in scenes(args.count, recipe, args.pooled, args.first):
        start = time.perf_counter()
        found = calibrate_camera([while_held(scene) for scene in group], rig=args.rig)
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
                f"{error.position_m * 100:.1f} ({found.position_sigma_m * 100:.1f}) cm rotation {error.rotation_deg:.1f} "
                f"({found.rotation_sigma_deg:.1f}) sigmas {error.sigmas.round(1)} riding {found.riding.sum()} wrong "
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
