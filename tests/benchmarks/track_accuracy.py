"""Prints how good point tracks are on simulated episodes with exact ground truth.

    python -m tests.benchmarks.track_accuracy FOLDER [--baseline] [--contains dev03]
    python -m tests.benchmarks.track_accuracy FOLDER --tracker cotracker3|tapir --weights FILE

Per episode, and as means over fixed and over moving cameras: TAP-Vid's delta_avg, OA and AJ on the truth's own object
queries and on moving and static points of its grid; then, with the packet's own foreground queries (posed with the
true mask), the object tracks per frame that are right (seen in truth, claimed visible, within 8 px at 256).
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.build import TRACKERS
from extractors.track_queries import Posed
from extractors.tracks import PointTracker, TrackSet, extract_tracks
from extractors.types import Frames, Tracks
from scoring.truth.tapvid import TapVidScores, distances_256, split_by_motion, tapvid_scores
from tests.benchmarks.groundtruth import GroundTruth, read_folder

ALMOST_PX = 8.0
"""A track this near to the truth, at 256 x 256, is right."""

COLUMNS = ("object", "moving", "static")


class PlainLucasKanade:
    """The textbook baseline: grey pyramidal Lucas-Kanade from frame to frame, forward-backward check below 1.5 px."""

    at_once = 1

    def prepare(self, pixels: Frames) -> PlainLucasKanade:
        self._images = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in pixels]
        return self

    def track(self, queries: NDArray[np.float32], *, posed: Posed = "anywhere") -> Tracks:
        xy = np.zeros((len(self._images), len(queries), 2), np.float32)
        visible = np.zeros(xy.shape[:2], np.bool_)
        for frame in np.unique(queries[:, 0]).astype(int):
            chosen = np.flatnonzero(queries[:, 0] == frame)
            for order in (range(frame, len(self._images)), range(frame, -1, -1)):
                self._follow(list(order), queries[chosen, 1:], chosen, xy, visible)
        score = visible.astype(np.float32)
        return Tracks(xy, visible, score, score, queries)

    def _follow(self, order: list[int], start: Any, chosen: Any, xy: Any, visible: Any) -> None:
        place = np.ascontiguousarray(start[:, None])
        xy[order[0], chosen], visible[order[0], chosen] = start, True
        for before, frame in itertools.pairwise(order):
            options: dict[str, Any] = {"winSize": (21, 21), "maxLevel": 3}
            there, ok, _ = cv2.calcOpticalFlowPyrLK(self._images[before], self._images[frame], place, None, **options)
            back, _, _ = cv2.calcOpticalFlowPyrLK(self._images[frame], self._images[before], there, None, **options)
            loop = np.linalg.norm((back - place)[:, 0], axis=1)
            place = there
            xy[frame, chosen], visible[frame, chosen] = there[:, 0], (ok[:, 0] > 0) & (loop < 1.5)


class _Plain:
    def prepare(self, pixels: Frames) -> PlainLucasKanade:
        return PlainLucasKanade().prepare(pixels)

    def track(self, pixels: Frames, queries: NDArray[np.float32]) -> Tracks:
        return self.prepare(pixels).track(queries)


def judge(truth: GroundTruth, tracker: PointTracker) -> dict[str, Any]:
    """Scores of `tracker` on one episode: TAP-Vid per column, right tracks per frame, seconds per query set."""
    size = truth.episode.size
    clip = tracker.prepare(truth.episode.pixels)
    started = time.process_time()
    found = clip.track(truth.object_queries)
    middle = time.process_time()
    grid = clip.track(truth.grid_queries)
    ended = time.process_time()
    moving, static = split_by_motion(truth.grid_xy, truth.grid_visibility, size=size)
    scores = {
        "object": tapvid_scores(
            found.xy,
            found.visibility,
            truth.object_xy,
            truth.object_visibility,
            truth.object_queries[:, 0],
            size=size,
            mode="strided",
        )
    }
    for name, points in (("moving", moving), ("static", static)):
        scores[name] = tapvid_scores(
            grid.xy,
            grid.visibility,
            truth.grid_xy,
            truth.grid_visibility,
            truth.grid_queries[:, 0],
            size=size,
            points=points & truth.grid_valid,
        )
    return {"scores": scores, "seconds_object": middle - started, "seconds_grid": ended - middle}


def right_tracks(truth: GroundTruth, foreground: TrackSet) -> NDArray[np.int64]:
    """(T,) object tracks of the foreground set that are right.

    The truth knows its own queries only. A foreground query is judged by the truth's tracks that pass near its
    position in the frame where it was posed: the motion of the nearest three of them, by inverse distance.
    """
    size = truth.episode.size
    tracks = foreground.tracks
    n_frames = len(tracks.xy)
    right = np.zeros(n_frames, np.int64)
    for number in np.flatnonzero(foreground.on_object):
        frame, x, y = tracks.queries[number]
        true_xy, seen = _truth_near(truth, int(frame), np.array([x, y]))
        near = distances_256(tracks.xy[:, number], true_xy, size=size) < ALMOST_PX
        right += near & seen & tracks.visibility[:, number]
    return right


def _truth_near(truth: GroundTruth, frame: int, xy: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    apart = np.linalg.norm(truth.object_xy[frame] - xy, axis=1)
    apart = np.where(truth.object_visibility[frame], apart, apart + 1e3)
    nearest = np.argsort(apart, kind="stable")[:3]
    weights = 1.0 / (apart[nearest] + 0.1)
    weights /= weights.sum()
    offset = truth.object_xy[:, nearest] - truth.object_xy[frame, nearest]
    return xy + np.einsum("tnk,n->tk", offset, weights), truth.object_visibility[:, nearest[0]]


def report(folder: Path, tracker: PointTracker, contains: str) -> None:
    """Prints a line per episode, then the means."""
    print(
        f"{'episode':28s}"
        + "".join(f"{name + ' d_avg/OA/AJ':>24s}" for name in COLUMNS)
        + "   right min/mean   s obj/grid/sets"
    )
    rows: dict[bool, list[list[float]]] = {False: [], True: []}
    for truth in read_folder(folder, contains=contains):
        result = judge(truth, tracker)
        started = time.process_time()
        sets = extract_tracks(truth.episode.pixels, truth.object_mask, tracker, size=truth.episode.size)
        seconds = time.process_time() - started
        present = truth.object_mask.any(axis=(1, 2))
        # Without an object there is no such set.
        right = right_tracks(truth, sets["foreground"])[present] if "foreground" in sets else np.zeros(1)
        row = [value for name in COLUMNS for value in _three(result["scores"][name])]
        row += [float(right.min()), float(right.mean()), result["seconds_object"], result["seconds_grid"], seconds]
        rows[truth.moving_camera].append(row)
        print(_line(truth.episode.episode_id, row), flush=True)
    for moving, collected in rows.items():
        if collected:
            means = np.array([[0.0 if math.isnan(value) else value for value in row] for row in collected]).mean(axis=0)
            print(_line("mean, moving camera" if moving else "mean, fixed camera", means.tolist()))


def _three(scores: TapVidScores) -> tuple[float, float, float]:
    return scores.delta_avg, scores.occlusion_accuracy, scores.average_jaccard


def _line(name: str, row: list[float]) -> str:
    triples = "".join(f"{row[k]:12.3f}{row[k + 1]:6.3f}{row[k + 2]:6.3f}" for k in (0, 3, 6))
    return f"{name:28s}{triples}   {row[9]:6.0f}{row[10]:7.1f}     {row[11]:5.2f}{row[12]:6.2f}{row[13]:6.2f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of ground-truth episodes (*.npz)")
    parser.add_argument("--tracker", default="lucas-kanade", choices=sorted(TRACKERS), help="backend to judge")
    parser.add_argument("--weights", type=Path, help="published checkpoint, of trackers that are networks")
    parser.add_argument("--baseline", action="store_true", help="judge plain pyramidal Lucas-Kanade first")
    parser.add_argument("--contains", default="", help="only episodes whose file name has this in it")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.tracker != "lucas-kanade" and arguments.weights is None:
        parser.error(f"--tracker {arguments.tracker} wants --weights: quality with random ones says nothing")
    if arguments.baseline:
        print("plain pyramidal Lucas-Kanade")
        report(arguments.folder, _Plain(), arguments.contains)
    print(arguments.tracker)
    settings = {} if arguments.weights is None else {"weights": arguments.weights}
    report(arguments.folder, TRACKERS[arguments.tracker](**settings), arguments.contains)


if __name__ == "__main__":
    main()
