"""Object masks from motion alone: a fixed camera, no weights.

The manipulated object rests, the robot comes, and then the object moves. From this one sentence:

1. *Moments* (extractors/moments.py): the clip is looked at five times a second, or more often where much changes.
2. *Home* (scene.py): the scene at first, the commonest colour of each pixel. What differs from it, shadows apart,
   is foreground.
3. *Proposals* (proposals.py): points of the home image that rested, left when the robot came, and are found again
   elsewhere (Lucas-Kanade tracks that keep their appearance and stand on foreground).
4. *Check* (following.py, extent.py): each proposal is followed as a whole through the clip. Two explanations of every
   pixel near it compete, "moves with the proposal" and "stays", as layers (Wang and Adelson, 1994). The arm and its
   shadow are told by restless surroundings before they leave home.
5. *Masks* (labels.py) of the best: colours of object, arm and background (Boykov and Jolly's region terms, 2001), the
   layer carried along, and the moment before decide each pixel.

Thresholds without another source were set on the simulated episodes of tests/benchmarks/mask_accuracy.py, and on others
recorded in the same way with other tasks, seeds and cameras. tests/benchmarks/ablation.py says what each step earns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.backends.motion.labels import label_clip
from extractors.backends.motion.proposals import Proposal, find_proposals
from extractors.backends.motion.scene import UNIFORM, Floats, MotionSettings, Scene, histogram, lookup
from extractors.camera_motion import clip_camera_motion
from extractors.errors import ConfigError
from extractors.geometry import resize_mask, resize_rgb
from extractors.moments import moments, nearest_moment, picked
from extractors.types import Episode, Masks, OnCpu, Size

MIN_MOMENTS = 5
"""Fewer tell no home image from a change of it."""

MIN_SIDE_PX = 24
"""Smaller frames have no texture that could be followed."""


LEAST_AGREEMENT = 0.03
"""Of a proposal that is taken for what a network sees as the object; docs/nano.md says on which episodes it was set."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a network sees in the moments.

    Attributes:
        robot, object: (M, h, w) in [0, 1], share of each pixel of being the robot's, or the object's.
    """

    robot: NDArray[np.float16]
    object: NDArray[np.float16]

    def judge(self, proposals: list[Proposal]) -> list[Proposal]:
        """Best first; their scores are how well they agree with what the network sees as the object.

        The agreement is the intersection over union of a proposal's home and the network's mean share of the object
        before the proposal departs: until then the object rests. It loses what the robot covers of that home: an arm
        that rests at first is proposed too.
        """
        for each in proposals:
            share, robot = (
                seen[: max(each.departure, 1)].mean(axis=0, dtype=np.float32) for seen in (self.object, self.robot)
            )
            common = float(share[each.extent].sum()) if each.extent.any() else 0.0
            each.facts["motion"] = each.score
            each.facts["robot"] = float(robot[each.extent].mean()) if each.extent.any() else 0.0
            agreement = common / max(float(share.sum() + each.extent.sum()) - common, 1e-6)
            each.score = agreement * (1.0 - each.facts["robot"]) ** 2
        return sorted(proposals, key=lambda each: -each.score)

    def own(self) -> tuple[NDArray[np.bool_], Floats]:
        """Its own object, where no proposal agrees: (M, h, w) bool, and (M,) mean share of the pixels."""
        masks = self.object > np.maximum(self.robot, 0.5)
        share = np.where(masks, self.object, 0).sum(axis=(1, 2), dtype=np.float32)
        return masks, np.asarray(share / np.maximum(masks.sum(axis=(1, 2)), 1), np.float32)


class MotionSegmenter(OnCpu):
    """Finds what starts to move when the robot touches it; see the module's text. Fixed cameras only."""

    name = "motion"

    def __init__(self, **settings: Any) -> None:
        """`settings` are `MotionSettings`' fields.

        Raises:
            ConfigError: an unknown setting.
        """
        try:
            self.settings = MotionSettings(**settings)
        except TypeError as error:
            names = sorted(MotionSettings.__dataclass_fields__)
            raise ConfigError(f"motion masks take the settings {names}, got {sorted(settings)}") from error

    def segment(self, episode: Episode, *, size: Size) -> Masks:
        """Masks of the object that starts to move; all False, with the reason in the report, where nothing does.

        The report holds the proposals, best first, with what motion knows of each, and the margin.
        """
        # Moments bound the cost and the memory, not the accuracy: 2,000 frames of 128 x 128 at 30 frames a second (each
        # of 40 generated ones 50 times) take 31 s of one core and 488 MiB, without them 169 s and 1,497 MiB.
        at = moments(episode.pixels, episode.fps)
        pixels = _working_pixels(episode, at, self.settings.working_px)
        report: dict[str, Any] = {"backend": self.name, "camera_motion": False, "candidates": [], "margin": 0.0}
        reason = _unusable(pixels)
        if reason is None and _camera_moves(episode, pixels):
            report["camera_motion"] = True
            reason = f"the camera moves; {self.name} masks need a fixed camera"
        robot, spread = None, nearest_moment(at, episode.n_frames)
        if reason is None:
            scene, proposals = find_proposals(pixels, self.settings)
            seen = self._look(pixels)
            least = self.settings.min_score
            if seen is not None:
                proposals, least = seen.judge(proposals), LEAST_AGREEMENT
                robot = np.stack([resize_mask(share > 0.5, size) for share in seen.robot])[spread]
            report |= _told(proposals, at)
            if proposals and proposals[0].score >= least:
                masks, cost = label_clip(scene, proposals[0])
                confidence = _confidence(scene, proposals, cost)
                return _spread_out(masks, confidence, spread, size, report, robot)
            if seen is not None:
                masks, confidence = seen.own()
                if masks.any():
                    report["drawn_by"] = "network"
                    return _spread_out(masks, confidence, spread, size, report, robot)
        report["reason"] = reason or "nothing that rested starts to move"
        empty = np.zeros((episode.n_frames, *size), np.bool_)
        return Masks(empty, np.zeros(episode.n_frames, np.float32), robot=robot, report=report)

    def _look(self, pixels: NDArray[np.uint8]) -> Seen | None:
        """What a network sees in the moments (M, h, w, 3); without one, nothing."""
        return None


def _told(proposals: list[Proposal], at: NDArray[np.int64]) -> dict[str, Any]:
    """The report's account of the proposals, best first; departures are frames of the clip. JSON types."""
    rows = [
        {
            "name": f"proposal {place}",
            "score": round(each.score, 4),
            "departure": int(at[min(each.departure, len(at) - 1)]),
            "is_late": each.is_late,
            **{name: round(value, 4) for name, value in each.facts.items()},
        }
        for place, each in enumerate(proposals)
    ]
    scores = [*(each.score for each in proposals), 0.0, 0.0]
    return {"candidates": rows, "margin": round(scores[0] - scores[1], 4)}


def _spread_out(
    masks: NDArray[np.bool_],
    confidence: Floats,
    moment: NDArray[np.int64],
    size: Size,
    report: dict[str, Any],
    robot: NDArray[np.bool_] | None,
) -> Masks:
    """The moments' masks and confidence in every frame, at `size`; `moment` (T,) is each frame's."""
    at_size = np.stack([resize_mask(mask, size) for mask in masks])[moment]
    present = at_size.any(axis=(1, 2))
    if not present.any():
        report["reason"] = "the object is smaller than a pixel at this size"
    # A pixel is one or the other; motion draws the object's border more sharply than a network draws the robot's.
    robot = None if robot is None else robot & ~at_size
    return Masks(at_size, confidence[moment] * present, robot=robot, report=report)


def _confidence(scene: Scene, proposals: list[Proposal], cost: Floats) -> Floats:
    """(T,) in [0, 1]: the best proposal's share of the score with the next and 0.1, less where it may be the arm.

    Less, too, in moments that it matches badly: a colour difference (`cost`) of 6 grey levels is what a good match has,
    one of 36 does not match. Colours lower the confidence and not the score: they tell an arm that comes alone, but on
    the simulated episodes they also speak against objects of the arm's colour.
    """
    score, rival = [*(each.score for each in proposals), 0.0][:2]
    home = scene.home[proposals[0].extent]
    arm = lookup(scene.arm_colours, home) + 0.04 * UNIFORM
    # Without the places to which the arm came and stayed: those would call its colours the scene's.
    other = lookup(histogram(scene.home[scene.stillness > 0.9]), home) + 0.04 * UNIFORM
    sure = score / (score + rival + 0.1) * (1.0 - float((arm / (arm + other)).mean()))
    return np.asarray(min(2 * sure, 1.0) * np.clip(1.2 - cost / 30.0, 0.0, 1.0), np.float32)


def _camera_moves(episode: Episode, pixels: NDArray[np.uint8]) -> bool:
    """As measured on the clip before; here where that was not done. False where the clip shows too little to tell."""
    moving = episode.camera_moves
    return bool(clip_camera_motion(pixels).moving if moving is None else moving)


def _working_pixels(episode: Episode, at: NDArray[np.int64], longer_px: int) -> NDArray[np.uint8]:
    height, width = episode.size
    # Flow and patches need some pixels to work on, so small frames are enlarged, but not into mush.
    factor = min(longer_px / max(height, width), 4.0)
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    return np.stack([resize_rgb(np.asarray(frame), size) for frame in picked(episode.pixels, at)])


def _unusable(pixels: NDArray[np.uint8]) -> str | None:
    if len(pixels) < MIN_MOMENTS:
        return f"the clip is too short: motion masks need {MIN_MOMENTS} moments that differ, it has {len(pixels)}"
    if min(pixels.shape[1:3]) < MIN_SIDE_PX:
        return "the frames are too small for motion masks"
    return None
