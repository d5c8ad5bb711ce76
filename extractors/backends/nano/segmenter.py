"""Masks of the manipulated thing and of the robot: a network sees which, motion tells where its border is.

Fixed cameras only. The manipulated object rests, the robot comes, and then the object moves:

1. *Moments* (extractors/moments.py): the clip is looked at five times a second, or more often where much changes.
2. *Seen* (clips.py): what the network takes for the robot and for the object, in each moment.
3. *Home* (motion/scene.py): the scene at first, the commonest colour of each pixel. What differs from it, shadows
   apart, is foreground.
4. *Proposal* (motion/proposals.py): the place at which the object is seen most while it rests is followed as a whole
   through the clip (motion/following.py). Two explanations of every pixel near it compete, "moves with it" and "stays",
   as layers (Wang and Adelson, 1994; motion/extent.py).
5. *Drawn* (motion/labels.py): colours of object, arm and background (Boykov and Jolly's region terms, 2001), the layer
   carried along, and the moment before draw the object in each moment.
6. *Masks*: in each pixel the network's log-odds and motion's word are added. Motion's word counts as much as what it
   drew agrees with what the network sees over the whole clip: not at all where it followed something else.

Thresholds of 3 to 5 without another source were set on simulated episodes of the kind that
tests/benchmarks/mask_accuracy.py reads, recorded with other tasks, seeds and cameras; those of 4's start and of 6 on
generated ones (docs/nano.md). tests/benchmarks/ablation.py says what each step earns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.backends.motion.labels import label_clip
from extractors.backends.motion.proposals import Proposal, find_proposal
from extractors.backends.motion.scene import Floats, MotionSettings
from extractors.backends.nano.clips import answers, clip_scenery, read_context, working_frames, working_size
from extractors.backends.nano.network import CLASSES
from extractors.backends.nano.weights import load_network
from extractors.camera_motion import clip_camera_motion
from extractors.errors import ConfigError
from extractors.geometry import resize_mask, resize_rgb
from extractors.moments import moments, nearest_moment, picked
from extractors.types import Episode, Masks, OnCpu, Size

MIN_MOMENTS = 5
"""Fewer tell no home image from a change of it."""

MIN_SIDE_PX = 24
"""Smaller frames have no texture that could be followed."""

MOTION_WEIGHT = 12.0
"""Log-odds of motion's word where all that it drew is what the network sees; docs/nano.md says on what it was set."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the network sees in the moments.

    Attributes:
        robot, object: (M, h, w) in [0, 1], share of each pixel of being the robot's, or the object's.
    """

    robot: NDArray[np.float16]
    object: NDArray[np.float16]

    def agreement(self, masks: NDArray[np.bool_]) -> float:
        """Of masks (M, h, w) with the object's share, over all moments: intersection over union."""
        share = self.object.astype(np.float32)
        common = float(share[masks].sum())
        return common / max(float(share.sum()) + float(masks.sum()) - common, 1e-6)

    def decide(self, drawn: NDArray[np.bool_] | None, agreement: float = 0.0) -> tuple[NDArray[np.bool_], Floats]:
        """The object's masks (M, h, w) bool by the network and by what motion drew, and their (M,) mean certainty.

        `agreement` is that of `drawn`.
        """
        share = np.clip(self.object.astype(np.float32), 1e-3, 1 - 1e-3)
        odds = np.log(share / (1 - share))
        if drawn is not None:
            # A drawn border is no more exact than a pixel.
            words = np.stack([cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0) for mask in drawn])
            odds += MOTION_WEIGHT * agreement * (2 * words - 1)
        masks = odds > 0
        certain = np.where(masks, 1 / (1 + np.exp(-odds)), 0).sum(axis=(1, 2), dtype=np.float32)
        return masks, np.asarray(certain / np.maximum(masks.sum(axis=(1, 2)), 1), np.float32)


class NanoSegmenter(OnCpu):
    """Finds what starts to move when the robot touches it; see the module's text. Fixed cameras only."""

    name = "nano"

    def __init__(self, *, network_px: int = 128, **settings: Any) -> None:
        """Loads the packaged weights; `network_px` is the longer side that the network sees.

        The rest are `MotionSettings`' fields.

        Raises:
            ConfigError: an unknown setting.
            WeightsError: the weights are damaged.
        """
        try:
            self.settings = MotionSettings(**settings)
        except TypeError as error:
            names = sorted(["network_px", *MotionSettings.__dataclass_fields__])
            raise ConfigError(f"nano masks take the settings {names}, got {sorted(settings)}") from error
        self._network_px = network_px
        self._network = load_network()

    def segment(self, episode: Episode, *, size: Size) -> Masks:
        """Masks of the object that starts to move; all False, with the reason in the report, where nothing does.

        The report holds what motion followed; `margin` is how far that agrees with what the network sees.
        """
        # Moments bound the cost and the memory, not the accuracy.
        at = moments(episode.pixels, episode.fps)
        pixels = _working_pixels(episode, at, self.settings.working_px)
        report: dict[str, Any] = {"backend": self.name, "camera_motion": False, "candidates": [], "margin": 0.0}
        reason = _unusable(pixels)
        if reason is None and _camera_moves(episode, pixels):
            report["camera_motion"] = True
            reason = f"the camera moves; {self.name} masks need a fixed camera"
        if reason is not None:
            report["reason"] = reason
            empty = np.zeros((episode.n_frames, *size), np.bool_)
            return Masks(empty, np.zeros(episode.n_frames, np.float32), report=report)
        seen = self._look(pixels)
        scene, proposal = find_proposal(pixels, seen.object, self.settings)
        drawn, agreement = None, 0.0
        if proposal is not None:
            drawn = label_clip(scene, proposal)
            agreement = seen.agreement(drawn)
            report["margin"] = round(agreement, 4)
            report["candidates"] = [_told(proposal, report["margin"], at)]
        masks, confidence = seen.decide(drawn, agreement)
        return _spread_out(masks, confidence, seen.robot, nearest_moment(at, episode.n_frames), size, report)

    def _look(self, pixels: NDArray[np.uint8]) -> Seen:
        """What the network sees in the moments (M, h, w, 3)."""
        height, width = pixels.shape[1:3]
        frames = working_frames(pixels, working_size((height, width), self._network_px))
        scenery = clip_scenery(frames)
        context = read_context(self._network, frames, scenery)
        robot, thing = np.empty(pixels.shape[:3], np.float16), np.empty(pixels.shape[:3], np.float16)
        for moment, (shares, _) in enumerate(answers(self._network, frames, scenery, context)):
            robot[moment] = cv2.resize(shares[CLASSES.index("robot")], (width, height))
            thing[moment] = cv2.resize(shares[CLASSES.index("object")], (width, height))
        return Seen(robot, thing)


def _told(proposal: Proposal, agreement: float, at: NDArray[np.int64]) -> dict[str, Any]:
    """The report's account of the proposal; its departure is a frame of the clip. JSON types."""
    return {
        "name": "proposal",
        "score": agreement,
        "departure": int(at[min(proposal.departure, len(at) - 1)]),
        "area": round(float(proposal.extent.mean()), 4),
    }


def _spread_out(
    masks: NDArray[np.bool_],
    confidence: Floats,
    robot_share: NDArray[np.float16],
    moment: NDArray[np.int64],
    size: Size,
    report: dict[str, Any],
) -> Masks:
    """The moments' masks and confidence in every frame, at `size`; `moment` (T,) is each frame's."""
    at_size = np.stack([resize_mask(mask, size) for mask in masks])
    # A pixel is one or the other; motion draws the object's border more sharply than a network draws the robot's.
    robot = np.stack([resize_mask(share > 0.5, size) for share in robot_share]) & ~at_size
    present = at_size.any(axis=(1, 2))
    if not present.any():
        report["reason"] = "the object is smaller than a pixel at this size" if masks.any() else "nothing is handled"
    return Masks(at_size[moment], (confidence * present)[moment], robot=robot[moment], report=report)


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
        return f"the clip is too short: nano masks need {MIN_MOMENTS} moments that differ, it has {len(pixels)}"
    if min(pixels.shape[1:3]) < MIN_SIDE_PX:
        return "the frames are too small for nano masks"
    return None
