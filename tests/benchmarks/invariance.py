"""Do the cues depend on how a clip was sampled? The truth episodes at other rates, sizes, lengths, padded and mirrored.

    python -m tests.benchmarks.invariance ../shared/data/groundtruth_dev

The frames of the episodes are as far apart as BridgeData's at 5 a second, which is what they are taken for here.
`--clock recorded` takes the simulator's own clock, 16 to 40 frames/s, on which its arm is eight times as quick as a
real one. Other rates are made by interpolation: points, gripper, state and pictures linearly, masks and depth from
the nearest frame. Prints contact's F1 against the truth at each rate, with true tracks and masks and with degraded
ones, and how far scores move and which tags change from the clip as it is. Exit code 1 where F1 differs by more than
0.05 between 5, 15 and 30 frames/s or falls below 0.90, or a score moves by more than 0.05.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.contact import estimate_contact
from extractors.geometry import dilate, resize_area, resize_mask, resize_rgb
from extractors.types import SceneTracks
from flows.stages.quality import thin_axis
from scoring.report import Assessment, ClipSignals, assess
from scoring.settings import ScoringSettings
from tests.benchmarks.faults import truth_signals
from tests.benchmarks.groundtruth import GroundTruth, read_folder

SETTINGS = ScoringSettings()
PAPER_FPS = 5.0
RATES = (5, 10, 15, 30, 50)
SIZES = (112, 224, 448)
LENGTHS = (2, 6, 7, 20, 100, 500, 2000)
F1_LEAST, F1_APART, SCORE_APART = 0.90, 0.05, 0.05


@dataclass(frozen=True)
class Truth:
    """A clip of exact signals, with its contact.

    Attributes:
        name: the episode's.
        signals: at packet size.
        contact: (T,) bool, robot and object touch.
        source: what the signals were made from, where they can be made at another size.
    """

    name: str
    signals: ClipSignals
    contact: NDArray[np.bool_]
    source: GroundTruth | None = None

    @classmethod
    def of(cls, truth: GroundTruth, *, recorded_clock: bool = False, side: int = 224) -> Truth:
        signals = truth_signals(truth, (side, side))
        if not recorded_clock:
            times = np.arange(signals.n_frames) / PAPER_FPS
            signals = replace(signals, fps=PAPER_FPS, timestamp=times)
        return cls(truth.episode.episode_id, signals, np.asarray(truth.contact, bool), truth)


# --- the same clip, sampled otherwise --------------------------------------------------------------------------------


def at_rate(clip: Truth, fps: float) -> Truth:
    """The clip at `fps` frames a second, as long as it was."""
    signals = clip.signals
    count = int(np.floor((signals.n_frames - 1) * fps / signals.fps + 1e-9)) + 1
    places = np.minimum(np.arange(count) * signals.fps / fps, signals.n_frames - 1)
    changed = _taken(clip, places)
    steps = changed.signals.action
    if steps is not None:  # a step is shorter where more of them fill a second
        steps = np.asarray(steps * (signals.fps / fps), np.float32)
    times = np.arange(count) / fps
    return replace(changed, signals=replace(changed.signals, fps=fps, timestamp=times, action=steps))


def at_length(clip: Truth, n_frames: int) -> Truth:
    """The first `n_frames`; after the clip's end all rests, under a camera's noise."""
    last = clip.signals.n_frames - 1
    changed = _taken(clip, np.minimum(np.arange(n_frames), last).astype(float)).signals
    rng, pixels = np.random.default_rng(0), changed.pixels.copy()
    for frame in pixels[last + 1 :]:
        frame[:] = np.clip(frame + rng.normal(0, 4, frame.shape), 0, 255)
    times = np.arange(n_frames) / clip.signals.fps
    contact = clip.contact[np.minimum(np.arange(n_frames), last)]
    return replace(clip, signals=replace(changed, timestamp=times, pixels=pixels), contact=contact, source=None)


def _taken(clip: Truth, places: NDArray[np.float64]) -> Truth:
    """The clip at the frames `places`, which may be between two."""
    signals = clip.signals
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, signals.n_frames - 1)
    part = (places - low).astype(np.float32)
    nearest = np.where(part < 0.5, low, high)

    def between(values: NDArray[Any] | None) -> NDArray[Any] | None:
        if values is None:
            return None
        weight = part.reshape(-1, *(1,) * (values.ndim - 1))
        return np.asarray(values[low] * (1 - weight) + values[high] * weight)

    def picked(values: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if values is None else values[nearest]

    pixels = np.stack(
        [
            cv2.addWeighted(signals.pixels[a], float(1 - w), signals.pixels[b], float(w), 0)
            for a, b, w in zip(low, high, part, strict=True)
        ]
    )
    tracks = {
        name: {
            "xy": np.asarray(between(np.nan_to_num(fields["xy"])), np.float32),
            "visibility": fields["visibility"][low] & fields["visibility"][high],
            "on_object": fields["on_object"],
        }
        for name, fields in (signals.tracks or {}).items()
    }
    names = ("masks", "robot", "mask_score", "contact", "held", "centroids_valid")
    changed = replace(
        signals,
        n_frames=len(places),
        pixels=pixels,
        # A row without a command, the last of most data sets, commands rest where it is shown for longer.
        action=None if signals.action is None else np.nan_to_num(signals.action[low]),
        action_valid=np.arange(len(places)) < len(places) - 1,
        depth=between(signals.depth),
        state=between(signals.state),
        gripper=between(signals.gripper),
        frame_ids=list(range(len(places))),
        tracks=tracks,
        **{name: picked(getattr(signals, name)) for name in names},
    )
    return replace(clip, signals=changed, contact=clip.contact[nearest], source=None)


def at_size(clip: Truth, side: int) -> Truth:
    """The clip in packets of `side` x `side` pixels, from its source where it has one."""
    signals = clip.signals
    if clip.source is not None:
        made = truth_signals(clip.source, (side, side))
        return replace(clip, signals=replace(made, fps=signals.fps, timestamp=signals.timestamp))
    height, width = signals.pixels.shape[1:3]
    scale = np.array([side / width, side / height])

    def resized(masks: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        return None if masks is None else np.stack([resize_mask(mask, (side, side)) for mask in masks])

    depth = signals.depth
    if depth is not None:  # as the quality stage thins it
        rows = thin_axis(side)
        whole = np.stack([cv2.resize(d, (side, side), interpolation=cv2.INTER_NEAREST) for d in depth])
        depth = whole[:, rows][:, :, rows]
    matrix = None if signals.intrinsics is None else np.diag([*scale, 1.0]) @ signals.intrinsics
    tracks = {
        name: {**fields, "xy": ((fields["xy"] + 0.5) * scale - 0.5).astype(np.float32)}
        for name, fields in (signals.tracks or {}).items()
    }
    changed = replace(
        signals,
        pixels=np.stack([resize_rgb(frame, (side, side)) for frame in signals.pixels]),
        masks=resized(signals.masks),
        robot=resized(signals.robot),
        depth=depth,
        tracks=tracks,
        intrinsics=matrix,
    )
    return replace(clip, signals=changed)


def mirrored(clip: Truth) -> Truth:
    """Left and right exchanged."""
    signals = clip.signals
    width = signals.pixels.shape[2]
    tracks = {
        name: {**fields, "xy": (fields["xy"] * (-1, 1) + (width - 1, 0)).astype(np.float32)}
        for name, fields in (signals.tracks or {}).items()
    }
    flipped = {
        name: None if getattr(signals, name) is None else np.ascontiguousarray(getattr(signals, name)[:, :, ::-1])
        for name in ("pixels", "masks", "robot", "depth")
    }
    return replace(clip, signals=replace(signals, tracks=tracks, **flipped))


def padded(clip: Truth, share: float = 0.125) -> Truth:
    """Black bars of `share` of the frame above and below, the whole squashed back to the packet's size."""
    signals = clip.signals
    height = signals.pixels.shape[1]
    bar = round(share * height)
    inner = height - 2 * bar

    def squashed(images: NDArray[Any] | None, fill: float) -> NDArray[Any] | None:
        if images is None:
            return None
        rows = round(images.shape[1] * inner / height)
        top = (images.shape[1] - rows) // 2
        out = np.full_like(images, fill)
        for target, image in zip(out, images, strict=True):
            if image.dtype == np.bool_:
                target[top : top + rows] = resize_mask(image, (rows, image.shape[1]))
            elif image.dtype == np.uint8:
                target[top : top + rows] = resize_rgb(image, (rows, image.shape[1]))
            else:
                target[top : top + rows] = resize_area(np.nan_to_num(image), (rows, image.shape[1]))
        return out

    tracks = {
        name: {**fields, "xy": ((fields["xy"] + 0.5) * (1, inner / height) + (-0.5, bar - 0.5)).astype(np.float32)}
        for name, fields in (signals.tracks or {}).items()
    }
    changed = replace(
        signals,
        pixels=squashed(signals.pixels, 0),
        masks=squashed(signals.masks, False),
        robot=squashed(signals.robot, False),
        depth=squashed(signals.depth, np.nan),
        tracks=tracks,
    )
    return replace(clip, signals=changed)


# --- what is asked of it ---------------------------------------------------------------------------------------------


def touched(clip: Truth, *, degraded: bool = False) -> NDArray[np.bool_]:
    """(T,) where contact is found, from the clip's masks, tracks and gripper."""
    signals = clip.signals
    fields = (signals.tracks or {})["foreground"], (signals.tracks or {})["grid"]
    xy, seen = (np.concatenate([each[name] for each in fields], axis=1) for name in ("xy", "visibility"))
    own = np.concatenate([each["on_object"] for each in fields])
    masks, robot = signals.masks, signals.robot
    width = signals.pixels.shape[2]
    if degraded:  # what a tracker and a segmenter without weights give: jitter, losses, borders that bleed, no robot
        rng = np.random.default_rng(0)
        xy = xy + rng.normal(0, 0.15 * width / 224, xy.shape)
        seen = seen & (rng.random(seen.shape) > 0.1)
        assert masks is not None
        masks, robot = dilate(masks, 2 * width / 224), None
    found = estimate_contact(
        signals.gripper,
        fps=signals.fps,
        masks=masks,
        robot_masks=robot,
        tracks=SceneTracks(xy, seen, own, width),
        camera_moves=signals.camera_moves,
    )
    return np.asarray(found.probability > 0.5)


def contact_f1(clips: list[Truth], *, degraded: bool = False) -> float:
    """Mean over clips of F1 against the truth, frame by frame."""
    scores = []
    for clip in clips:
        found = touched(clip, degraded=degraded)
        scores.append(2 * (found & clip.contact).sum() / max(found.sum() + clip.contact.sum(), 1))
    return float(np.mean(scores))


def judged(clip: Truth) -> Assessment:
    """Scores and tags, contact as it is found at this sampling."""
    found = touched(clip)
    return assess(replace(clip.signals, contact=found.astype(np.float32)), SETTINGS)


def apart(first: Assessment, second: Assessment, *, names: tuple[str, ...] = ()) -> float:
    """Largest difference of a sub-score (those named, else all), told in both."""
    both = [name for name in first.scores if name in second.scores and (not names or name in names)]
    pairs = [(first.scores[name], second.scores[name]) for name in both]
    return max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)


VARIANTS: dict[str, Callable[[Truth], Truth]] = {
    **{f"{fps} frames/s": (lambda clip, fps=fps: at_rate(clip, fps)) for fps in RATES},
    **{f"{side} pixels": (lambda clip, side=side: at_size(clip, side)) for side in SIZES},
    "mirrored": mirrored,
    "padded": padded,
}


def report_contact(clips: list[Truth]) -> bool:
    """Prints F1 per rate; whether the targets are met."""
    fixed = [clip for clip in clips if not clip.signals.camera_moves]
    good = True
    for degraded in (False, True):
        scores = {fps: contact_f1([at_rate(clip, fps) for clip in fixed], degraded=degraded) for fps in RATES}
        print(
            "contact F1,", "degraded" if degraded else "true", {fps: round(score, 3) for fps, score in scores.items()}
        )
        asked = [scores[fps] for fps in (5, 15, 30)]
        good &= min(asked) >= F1_LEAST and max(asked) - min(asked) <= F1_APART
    return good


def report_variants(clips: list[Truth]) -> bool:
    """Prints, per variant, how far scores move and which tags change; whether no score moves too far."""
    before = [judged(clip) for clip in clips]
    good = True
    for name, change in VARIANTS.items():
        after = [judged(change(clip)) for clip in clips]
        # Bars make the object's share of the frame smaller, which is what the mask's score is about.
        told = tuple(part for part in before[0].scores if name != "padded" or part not in ("mask", "score"))
        furthest = max(apart(a, b, names=told) for a, b in zip(before, after, strict=True))
        total = max(apart(a, b, names=("score",)) for a, b in zip(before, after, strict=True))
        tags = [
            f"{clip.name}: {sorted(set(a.tags) ^ set(b.tags))}"
            for clip, a, b in zip(clips, before, after, strict=True)
            if set(a.tags) != set(b.tags)
        ]
        good &= furthest <= SCORE_APART
        print(f"{name:14} sub-scores move by {furthest:.3f} at most, the score by {total:.3f}; tags: {tags or 'equal'}")
    return good


def report_lengths(clips: list[Truth]) -> None:
    """Prints the tags that clips cut short or played to and fro get beside those of the clip."""
    for n_frames in LENGTHS:
        changed = set[str]()
        for clip in clips[:3] if n_frames > 500 else clips:
            changed |= set(judged(at_length(clip, n_frames)).tags) - set(judged(clip).tags)
        print(f"{n_frames:5} frames: tags beside those of the clip: {sorted(changed) or 'none'}", flush=True)


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of ground-truth .npz episodes")
    parser.add_argument("--clock", choices=("paper", "recorded"), default="paper")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    clips = [Truth.of(truth, recorded_clock=options.clock == "recorded") for truth in read_folder(options.folder)]
    good = report_contact(clips)
    good &= report_variants(clips)
    report_lengths(clips)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
