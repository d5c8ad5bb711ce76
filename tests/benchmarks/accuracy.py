"""The CPU profile against exact ground truth: masks, tracks on the truth's queries, and the packet's own tracks.

    python -m tests.benchmarks.accuracy sample
    python -m tests.benchmarks.accuracy ../shared/data/groundtruth_dev [--contains dev03]

Per episode and as the mean over fixed cameras: J and F of `nano` masks at packet size (DAVIS 2017); TAP-Vid
delta_avg, OA and AJ of `lucas-kanade` on the truth's own object queries, and on moving and static points of its grid;
object tracks per frame of the packet's own foreground set, posed with the mask, that are right (seen in truth,
claimed visible, within 8 px at 256); F1 of contact from these masks, the packet's tracks and the gripper signal. An
episode or metric that is missing counts as 0; contact where there is none to find does not count.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.build import SEGMENTERS, TRACKERS
from extractors.masks import recorded_masks
from extractors.track_queries import rescale_points
from extractors.tracks import TrackSet, extract_tracks
from extractors.types import Size
from flows.sources.bridge import BridgeRawSource
from flows.sources.sample import write_sample
from flows.stages.camera import joined_tracks
from scoring.truth.davis import contour_accuracy, region_similarity
from tests.benchmarks.groundtruth import GroundTruth, read_folder
from tests.benchmarks.mask_accuracy import contact_f1
from tests.benchmarks.track_accuracy import COLUMNS, judge, right_tracks

PACKET = (224, 224)
TARGETS = {"J": 0.50, "object delta_avg": 0.75, "object AJ": 0.60, "right tracks": 47, "contact": 0.90}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", help="folder of ground-truth episodes (*.npz), or: sample")
    parser.add_argument("--contains", default="", help="only episodes whose name has this in it")
    options = parser.parse_args()
    print(f"{platform.machine()}, {platform.python_version()}, {time.strftime('%Y-%m-%d')}")
    print(
        f"{'episode':26s}{'J':>6s}{'F':>6s}"
        + "".join(f"{name + ' d/OA/AJ':>19s}" for name in COLUMNS)
        + "   right contact"
    )
    with tempfile.TemporaryDirectory() as folder:
        if options.truth == "sample":
            truths = read_sample(Path(folder), options.contains)
        else:
            truths = read_folder(Path(options.truth), contains=options.contains)
        report([(truth.episode.episode_id, truth.moving_camera, measure(truth)) for truth in truths])


def measure(truth: GroundTruth) -> dict[str, float]:
    """All numbers of one episode, printed as they come."""
    # The simulated arm is several times as fast as a real one: its frames are taken for BridgeData's, 5 a second.
    episode = replace(truth.episode, fps=5.0, timestamp=np.arange(truth.episode.n_frames) / 5.0)
    masks = SEGMENTERS["nano"]().segment(episode, size=PACKET)
    true_masks = recorded_masks(episode, size=PACKET).object
    numbers = {
        "J": float(region_similarity(masks.object, true_masks).mean()),
        "F": float(contour_accuracy(masks.object, true_masks).mean()),
    }
    tracker = TRACKERS["lucas-kanade"]()
    for column, scores in judge(truth, tracker)["scores"].items():
        numbers |= {
            f"{column} delta_avg": scores.delta_avg,
            f"{column} OA": scores.occlusion_accuracy,
            f"{column} AJ": scores.average_jaccard,
        }
    sets = extract_tracks(truth.episode.pixels, masks.object, tracker, size=truth.episode.size)
    seen = truth.object_mask.any(axis=(1, 2))
    numbers["right tracks"] = (
        float(right_tracks(truth, sets["foreground"])[seen].mean()) if "foreground" in sets else 0.0
    )
    numbers = {name: value if np.isfinite(value) else 0.0 for name, value in numbers.items()}
    tracks = joined_tracks([_in_packet(each, truth.episode.size) for each in sets.values()], PACKET[1])
    numbers["contact"] = contact_f1(episode, masks, truth.contact, tracks)
    print(_line(str(truth.meta.get("name", truth.episode.episode_id)), numbers), flush=True)
    return numbers


def _in_packet(found: TrackSet, size: Size) -> dict[str, NDArray[Any]]:
    tracks = found.tracks
    return {
        "xy": rescale_points(tracks.xy, size, PACKET),
        "visibility": tracks.visibility,
        "on_object": found.on_object,
        "queries": tracks.queries,
    }


def report(rows: list[tuple[str, bool, dict[str, float]]]) -> None:
    """The means over fixed cameras, and how they stand to the targets."""
    fixed = [numbers for _, moving, numbers in rows if not moving]
    if not fixed:
        return
    mean = {name: float(np.nanmean([numbers[name] for numbers in fixed])) for name in fixed[0]}
    print(_line(f"mean of {len(fixed)} fixed", mean))
    for name, target in TARGETS.items():
        print(f"  {name}: {mean[name]:.3f}, target {target}: {'met' if mean[name] >= target else 'MISSED'}")


def read_sample(folder: Path, contains: str) -> Iterator[GroundTruth]:
    """The bundled sample's episodes with their truth, read from its BridgeData layout."""
    write_sample(folder)
    source = BridgeRawSource(folder / "bridge_raw")
    by_path = {str(info.key["path"]): info for info in source.episodes()}
    for name, where in json.loads((folder / "truth" / "episodes.json").read_text()).items():
        if contains not in name:
            continue
        episode = source.open(by_path[where["bridge_trajectory"]], where["bridge_camera"])
        assert episode.recorded_masks is not None
        assert episode.recorded_robot is not None
        assert episode.recorded_depth is not None
        with np.load(folder / "truth" / f"{name}.npz") as truth:
            surface = truth["grid_valid"] & np.isfinite(truth["grid_xy"]).all(axis=(0, 2))
            yield GroundTruth(
                episode=episode,
                object_mask=np.stack(list(episode.recorded_masks)),
                robot_mask=np.stack(list(episode.recorded_robot)),
                depth=np.stack(list(episode.recorded_depth)),
                grid_xy=truth["grid_xy"][:, surface],
                grid_visibility=truth["grid_vis"][:, surface],
                grid_valid=truth["grid_valid"][surface],
                grid_kind=truth["grid_kind"][surface],
                object_xy=truth["obj_xy"],
                object_visibility=truth["obj_vis"],
                object_query_frame=int(truth["obj_query_frame"]),
                centroid_cam=truth["centroid_cam"],
                contact=truth["contact"],
                moving_camera=False,
                meta={"name": name},
            )


def _line(name: str, numbers: dict[str, float]) -> str:
    columns = "".join(
        f"{numbers[f'{column} delta_avg']:7.3f}{numbers[f'{column} OA']:6.3f}{numbers[f'{column} AJ']:6.3f}"
        for column in COLUMNS
    )
    masks = f"{name[-25:]:26s}{numbers['J']:6.3f}{numbers['F']:6.3f}"
    return f"{masks}{columns}{numbers['right tracks']:8.1f}{numbers['contact']:8.3f}"


if __name__ == "__main__":
    main()
