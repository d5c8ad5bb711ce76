"""Boundaries of phases against exact ground truth.

    python -m tests.benchmarks.phases ../shared/data/groundtruth_dev [--exact]

The truth is the same rule on exact signals: touch from the physics engine, speeds of the object's and the hand's pose.
Frames are as far apart as BridgeData's at 5 a second. A true boundary is found where the phase that begins there begins
within two frames of it. Rows: the weight-free profile (`motion` masks, `lucas-kanade` tracks), with the hand's position
as BridgeData has it and without; with --exact only the cues are exact (masks, tracks), the rest is estimated.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractors.build import SEGMENTERS, TRACKERS
from extractors.contact import estimate_contact
from extractors.geometry import resize_masks
from extractors.motion import WIDTH_M, describe_motion, find_phases
from extractors.phases import PHASES, phase_ends
from extractors.tracks import extract_tracks
from extractors.types import SceneTracks
from tests.benchmarks.geometry_accuracy import PACKET, PAPER_FPS, Clip
from tests.benchmarks.groundtruth import GroundTruth, read_groundtruth

WITHIN = 2
"""Frames by which a boundary may be off."""


def true_phases(clip: Clip, timestamp: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Codes (T,) of the rule on exact signals."""
    arrays = clip.arrays
    opening, contact = arrays["gripper_opening"], arrays["contact"].astype(bool)
    was_open = np.maximum.accumulate(opening) > 0.5
    held = contact & was_open & (opening < 0.5)
    speeds = []
    for name in ("object_pose", "ee_pose"):
        place = arrays[name][:, :3, 3]
        reach = np.arange(len(place))
        before, after = np.maximum(reach - 1, 0), np.minimum(reach + 1, len(place) - 1)
        seconds = np.maximum(timestamp[after] - timestamp[before], 1e-9)
        speeds.append((np.linalg.norm(place[after] - place[before], axis=1) / WIDTH_M / seconds).astype(np.float32))
    return find_phases(contact.astype(np.float32), held, *speeds, timestamp)


def found_phases(
    clip: Clip, cues: tuple[SceneTracks, NDArray[np.bool_], NDArray[np.bool_] | None], hand: bool, moves: bool
) -> NDArray[np.uint8]:
    """Codes (T,) from what a packet has."""
    tracks, masks, robot = cues
    timestamp = np.arange(len(masks)) / PAPER_FPS
    contact = estimate_contact(
        clip.arrays["gripper_opening"], fps=PAPER_FPS, masks=masks, robot_masks=robot, tracks=tracks, camera_moves=moves
    )
    place = clip.arrays["ee_pose"][:, :3, 3] if hand else None
    return describe_motion(
        timestamp, tracks=tracks, masks=masks, robot_masks=robot, contact=contact, hand=place, camera_moves=moves
    ).phase


def weight_free(truth: GroundTruth) -> tuple[SceneTracks, NDArray[np.bool_], None]:
    """Tracks and masks of the CPU profile, at packet size."""
    masks = SEGMENTERS["motion"]().segment(truth.episode, size=PACKET)
    sets = extract_tracks(truth.episode.pixels, masks.object, TRACKERS["lucas-kanade"](), size=PACKET)
    parts = list(sets.values())
    tracks = SceneTracks(
        np.concatenate([part.tracks.xy for part in parts], axis=1),
        np.concatenate([part.tracks.visibility for part in parts], axis=1),
        np.concatenate([part.on_object for part in parts]),
        PACKET[1],
    )
    return tracks, masks.object, None


def exact(clip: Clip) -> tuple[SceneTracks, NDArray[np.bool_], NDArray[np.bool_]]:
    """The same from the truth."""
    return clip.tracks(*PACKET[::-1]), resize_masks(clip.masks, PACKET), resize_masks(clip.robot, PACKET)


def judged(true: NDArray[np.uint8], found: NDArray[np.uint8]) -> tuple[int, int, int]:
    """(true boundaries, those found, boundaries found in all)."""
    starts = [(name, first) for name, first, _ in phase_ends(found) if first]
    boundaries = [(name, first) for name, first, _ in phase_ends(true) if first]
    near = sum(any(n == name and abs(f - first) <= WITHIN for n, f in starts) for name, first in boundaries)
    return len(boundaries), near, len(starts)


def rows(folder: Path, with_exact: bool) -> Iterator[tuple[str, bool, str, tuple[int, int, int], float, str]]:
    """(cues, whether the camera moves, episode, counts, share of unknown frames, both told) of each episode."""
    for path in sorted(folder.glob("*.npz")):
        clip, truth = Clip(path), read_groundtruth(path)
        true = true_phases(clip, np.arange(len(clip.masks)) / PAPER_FPS)
        cues = exact(clip) if with_exact else weight_free(truth)
        for hand in (True, False):
            found = found_phases(clip, cues, hand, truth.moving_camera)
            told = f"{letters(true)}\n{'':36s}{letters(found)}"
            name = "with the hand's position" if hand else "image and gripper alone"
            yield name, truth.moving_camera, path.stem, judged(true, found), float((found == 0).mean()), told


def letters(codes: NDArray[np.uint8]) -> str:
    """A letter a frame."""
    return "".join("?iagtrbup"[code] for code in codes)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--exact", action="store_true", help="masks and tracks from the truth")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.python_version()}, {time.strftime('%Y-%m-%d')}")
    print(f"? {PHASES[0]}, b retract, u push; the first line of an episode is the truth")
    totals: dict[tuple[str, bool], list[int]] = {}
    for name, moving, episode, counts, unknown, told in rows(options.folder, options.exact):
        print(f"{episode:26s} {counts[1]:2d} of {counts[0]:2d}  {told}  {name}, {unknown:.0%} unknown", flush=True)
        total = totals.setdefault((name, moving), [0, 0, 0])
        totals[name, moving] = [a + b for a, b in zip(total, counts, strict=True)]
    for (name, moving), (there, near, found) in totals.items():
        camera = "moving camera" if moving else "fixed camera"
        print(
            f"{camera}, {name}: {near} of {there} boundaries within {WITHIN} frames ({near / there:.0%}), {found} found"
        )


if __name__ == "__main__":
    main()
