"""Boundaries of phases against exact ground truth.

    python -m tests.benchmarks.phases ../shared/data/groundtruth_dev [--exact]
    python -m tests.benchmarks.phases --scenes 40 [--drawn]

The truth of simulated episodes is the same rule on exact signals: touch from the physics engine, speeds of the object's
and the hand's pose. Touch is sampled at frames, and a finger that pushes bounces: what moves between two sampled
touches without coming to rest is touched throughout, as is the motion that leads to the first of them. Frames are as
far apart as BridgeData's at 5 a second. A true boundary is found where the phase that begins there begins within two
frames of it. Rows: the weight-free profile (`motion` masks, `lucas-kanade` tracks), with the hand's position as
BridgeData has it and without; with --exact only the cues are exact (masks, tracks), the rest is estimated.
--sampled-touch judges by touches as they were sampled.

The truth of generated episodes (--scenes, extra scenes) knows no rule: a phase is the way-points between which the hand
moves, holds or lets go. Each is made at several frame rates; a boundary is found within two frames of 5 a second, and
within two of its own where those last longer. Signals are exact; with --drawn masks and tracks are exact and the rest
is estimated from pictures of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
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
from extractors.timing import WINDOW_S, frames_in
from extractors.tracks import extract_tracks
from extractors.types import SceneTracks
from flows.scenes.drawing import Painter
from flows.scenes.episodes import Recording, arrays, record
from flows.scenes.world import World, random_world
from tests.benchmarks.geometry_accuracy import PACKET, PAPER_FPS, Clip
from tests.benchmarks.groundtruth import GroundTruth, read_groundtruth

WITHIN = 2
"""Frames by which a boundary may be off."""


RATES = (5.0, 8.0, 10.0, 15.0, 30.0)
"""Frames per second at which generated episodes are judged."""

FINE = 60.0
"""Frames per second at which their truth is sampled."""

SCENE, LONGEST, SCENES_SEED = (128, 128), 100_000, 19
"""Size of generated episodes, pixels, and more frames than any has. The seed is no other judge's."""

DRAGS = ("push", "pull")
"""Skills that grasp nothing."""

REST_M = 0.001
"""What moves less from one frame of 5 a second to the next has come to rest: the speed at which the rule begins."""


def true_phases(clip: Clip, timestamp: NDArray[np.float64], sampled: bool = False) -> NDArray[np.uint8]:
    """Codes (T,) of the rule on exact signals; `sampled`: touches as the frames have them."""
    arrays = clip.arrays
    opening, contact = arrays["gripper_opening"], arrays["contact"].astype(bool)
    thing = arrays["object_pose"][:, :3, 3]
    if not sampled:
        contact = whole_touches(contact, thing)
    was_open = np.maximum.accumulate(opening) > 0.5
    held = contact & was_open & (opening < 0.5)
    speeds = (exact_speed(thing, timestamp), exact_speed(arrays["ee_pose"][:, :3, 3], timestamp))
    return find_phases(contact.astype(np.float32), held, *speeds, timestamp)


def whole_touches(contact: NDArray[np.bool_], place: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Touches (T,), with the motion of `place` (T, 3) metres that leads to one or goes on between two."""
    arrives = np.concatenate([[False], np.linalg.norm(np.diff(place, axis=0), axis=1) > REST_M])
    whole = contact.copy()
    for start, stop in runs_of(arrives):
        touches = np.flatnonzero(contact[start:stop])
        if len(touches):
            whole[start : start + touches[-1] + 1] = True
    return whole


def runs_of(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, stop) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def exact_speed(place: NDArray[np.floating], timestamp: NDArray[np.float64]) -> NDArray[np.float32]:
    """Speed (T,) of positions (T, 3) in metres, as widths per second at 1 m, over `WINDOW_S`."""
    last = len(place) - 1
    reach = frames_in(WINDOW_S / 2, 1 / float(np.median(np.diff(timestamp))))
    before, after = np.maximum(np.arange(last + 1) - reach, 0), np.minimum(np.arange(last + 1) + reach, last)
    seconds = np.maximum(timestamp[after] - timestamp[before], 1e-9)
    return (np.linalg.norm(place[after] - place[before], axis=1) / WIDTH_M / seconds).astype(np.float32)


def found_phases(
    clip: Clip,
    cues: tuple[SceneTracks, NDArray[np.bool_], NDArray[np.bool_] | None],
    hand: bool,
    moves: bool,
    fps: float = PAPER_FPS,
) -> NDArray[np.uint8]:
    """Codes (T,) from what a packet has."""
    tracks, masks, robot = cues
    timestamp = np.arange(len(masks)) / fps
    contact = estimate_contact(
        clip.arrays["gripper_opening"], fps=fps, masks=masks, robot_masks=robot, tracks=tracks, camera_moves=moves
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
    # What begins with the clip is no boundary, and within two frames of one all the same.
    starts = [(name, first) for name, first, _ in phase_ends(found)]
    boundaries = [(name, first) for name, first, _ in phase_ends(true) if first]
    near = sum(any(n == name and abs(f - first) <= WITHIN for n, f in starts) for name, first in boundaries)
    return len(boundaries), near, sum(first > 0 for _, first in starts)


def thing_of(world: World) -> NDArray[np.float64]:
    """Poses (T, 4, 4) of the thing that is handled."""
    return np.asarray(world.poses[:, world.bodies.index("object")])


def made_phases(world: World) -> NDArray[np.uint8]:
    """Codes (T,) of a generated episode by its way-points; a thing that is turned far is "transport" too."""
    hand, thing = (
        np.concatenate([[False], np.abs(np.diff(poses, axis=0)).max(axis=(1, 2)) > 1e-7])
        for poses in (world.hand, thing_of(world))
    )
    codes = np.full(len(world.times), PHASES.index("idle"), np.uint8)
    touches = runs_of(world.contact) if world.skill != "idle" else []
    if not touches:
        return codes
    for start, stop in touches:
        moved = np.flatnonzero(thing[start:stop])
        travel = slice(start + moved[0], start + moved[-1] + 1) if len(moved) else slice(stop, stop)
        if world.skill in DRAGS:
            codes[start:stop] = PHASES.index("unknown")
            codes[travel] = PHASES.index("push")
        else:
            codes[start:stop] = PHASES.index("grasp")
            codes[travel] = PHASES.index("transport")
            codes[travel.stop : stop] = PHASES.index("release")
    first, last = touches[0][0], touches[-1][1]
    for span, name in ((slice(0, first), "approach"), (slice(last, None), "retract")):
        moved = np.flatnonzero(hand[span])
        if len(moved):
            begins = moved[0] if name == "approach" else 0
            ends = first if name == "approach" else last + moved[-1] + 1
            codes[span.start + begins : ends] = PHASES.index(name)
    return codes


def found_in_scene(world: World) -> NDArray[np.uint8]:
    """Codes (T,) of the rule on a generated episode's exact signals."""
    held = world.contact & (world.skill not in DRAGS)
    speeds = [exact_speed(xyz, world.times) for xyz in (thing_of(world)[:, :3, 3], world.hand[:, :3, 3])]
    return find_phases(world.contact.astype(np.float32), held, *speeds, world.times)


def found_in_pictures(recording: Recording, fps: float) -> NDArray[np.uint8]:
    """Codes (T,) from the exact masks and tracks of a drawn episode."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "scene.npz"
        np.savez(path, **arrays(recording))
        clip = Clip(path)
    return found_phases(clip, exact(clip), True, False, fps)


def scenes(count: int, fps: float, drawn: bool) -> Iterator[tuple[World, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Episodes at `fps`: the world as it is at `FINE`, its true codes, and what is found (at `fps`)."""
    painter = Painter() if drawn else None
    for number in range(count):
        seed: tuple[int, ...] = (SCENES_SEED, number)
        if painter is None:
            found = found_in_scene(random_world(np.random.default_rng(seed), fps=fps, frames=LONGEST))
        else:
            recording = record(painter, seed, SCENE, fps=fps, frames=LONGEST)
            found, seed = found_in_pictures(recording, fps), recording.seed
        fine = random_world(np.random.default_rng(seed), fps=FINE, frames=LONGEST)
        yield fine, made_phases(fine), found
    if painter is not None:
        painter.close()


def judge_scenes(count: int, drawn: bool) -> None:
    """Prints, for each frame rate and phase, boundaries found of those there are, and by how much they are off."""
    for fps in RATES[:: 2 if drawn else 1]:
        off: dict[str, list[float]] = {}
        for fine, true, found in scenes(count, fps, drawn):
            starts = [(name, first / fps) for name, first, _ in phase_ends(found)]
            for name, first, _ in phase_ends(true):
                gaps = [abs(second - fine.times[first]) for same, second in starts if same == name]
                if first:
                    off.setdefault(name, []).append(min(gaps, default=np.inf))
        within = max(WITHIN / PAPER_FPS, WITHIN / fps)
        near = {name: sum(gap <= within for gap in gaps) for name, gaps in off.items()}
        told = ", ".join(f"{name} {near[name]} of {len(off[name])} ({np.median(off[name]):.2f} s)" for name in off)
        there = sum(map(len, off.values()))
        print(
            f"{fps:2g} frames/s: {sum(near.values())} of {there} ({sum(near.values()) / there:.0%}): {told}", flush=True
        )


def rows(
    folder: Path, with_exact: bool, sampled: bool
) -> Iterator[tuple[str, bool, str, tuple[int, int, int], float, str]]:
    """(cues, whether the camera moves, episode, counts, share of unknown frames, both told) of each episode."""
    for path in sorted(folder.glob("*.npz")):
        clip, truth = Clip(path), read_groundtruth(path)
        true = true_phases(clip, np.arange(len(clip.masks)) / PAPER_FPS, sampled)
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
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--exact", action="store_true", help="masks and tracks from the truth")
    parser.add_argument("--sampled-touch", action="store_true")
    parser.add_argument("--scenes", type=int, default=0, help="so many generated episodes instead of a folder")
    parser.add_argument("--drawn", action="store_true", help="and signals from exact masks and tracks of them")
    options = parser.parse_args()
    if (options.folder is None) == (options.scenes == 0):
        parser.error("name a folder of ground truth, or --scenes N")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.python_version()}, {time.strftime('%Y-%m-%d')}")
    if options.scenes:
        judge_scenes(options.scenes, options.drawn)
        return
    print(f"? {PHASES[0]}, b retract, u push; the first line of an episode is the truth")
    totals: dict[tuple[str, bool], list[int]] = {}
    for name, moving, episode, counts, unknown, told in rows(options.folder, options.exact, options.sampled_touch):
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
