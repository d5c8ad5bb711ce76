"""Object masks from motion alone: a fixed camera, no weights.

The manipulated object lies still, the robot comes, and then the object moves. From this one sentence:

1. *Home* (motion_scene.py): the image before contact, the commonest colour of each pixel with later frames counting
   more. What differs from it, shadows apart, is foreground.
2. *Proposals* (motion_proposals.py): points of the home image that lay still, left when the robot came, and are found
   again elsewhere (Lucas-Kanade tracks that keep their appearance and stand on foreground); and regions that leave and
   do not return.
3. *Check* (motion_following.py, motion_extent.py): each proposal is followed as a whole through the clip. Two
   explanations of every pixel near it compete, "moves with the proposal" and "stays", as layers (Wang and Adelson,
   1994). The arm and its shadow are told by where they touch the image border, by colours seen moving before contact,
   and by restless surroundings before contact.
4. *Masks* (motion_labels.py) of the best few: colours of object, arm and background (Boykov and Jolly's region terms,
   2001), the layer carried along, and the previous frame's mask decide each pixel.
5. *Choice* (extractors/mask_choice.py): of these the one whose mask behaves as a manipulated object.

Thresholds without another source were set on the simulated episodes of tests/benchmarks/mask_accuracy.py, and on others
recorded in the same way with other tasks, seeds and cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.backends.motion.labels import label_clip
from extractors.backends.motion.proposals import Proposal, find_proposals, overlap
from extractors.backends.motion.scene import Floats, MotionSettings
from extractors.camera_motion import clip_camera_motion
from extractors.errors import ConfigError, LengthMismatchError
from extractors.geometry import resize_mask, resize_rgb
from extractors.mask_choice import ChooseBy, choose_candidate
from extractors.mask_watching import Candidate, ChoiceRule
from extractors.packed_masks import PackedMasks
from extractors.types import Episode, Frames, Masks, OnCpu, Size

MIN_FRAMES = 5
MIN_SIDE_PX = 24

RULE = ChoiceRule(weights={**ChoiceRule().weights, "confidence": 2.0})
"""How candidates are compared. A proposal's score is a product of what masks alone do not show, such as how its place
looked before the robot came, and so counts as much as the strongest cues. Weights from 1 to 4 choose alike on the
simulated episodes; less takes parts of the object, or what it comes to cover, for it, more leaves the cues no say."""


class MotionSegmenter(OnCpu):
    """Finds what starts to move when the robot touches it; see the module's text. Fixed cameras only."""

    def __init__(self, *, choose: ChooseBy = "best", **settings: Any) -> None:
        """How to look.

        Args:
            choose: "best" by how the masks of the best few proposals behave; "first" takes the best proposal.
            settings: `MotionSettings`' fields.

        Raises:
            ConfigError: an unknown setting.
        """
        try:
            self.settings = MotionSettings(**settings)
        except TypeError as error:
            names = sorted(MotionSettings.__dataclass_fields__)
            raise ConfigError(f"motion masks take the settings {names}, got {sorted(settings)}") from error
        self.choose = choose

    def segment(self, episode: Episode, *, size: Size) -> Masks:
        """Masks of the object that starts to move; all False, with the reason in the report, where there is none.

        The report holds the candidates with their cues and what motion knows of each, and the margin.

        Raises:
            LengthMismatchError: the gripper signal has another length than the clip.
        """
        gripper = episode.gripper
        if gripper is not None and len(gripper) != episode.n_frames:
            raise LengthMismatchError(
                f"{episode.episode_id} has {episode.n_frames} frames and {len(gripper)} gripper values; check it"
            )
        pixels = _working_pixels(episode.pixels, self.settings.working_px)
        report: dict[str, Any] = {"backend": "motion", "camera_motion": False, "proposals_dropped": []}
        field: list[Candidate] = []
        facts: dict[str, dict[str, Any]] = {}
        reason = _unusable(pixels)
        if reason is None and _camera_moves(episode, pixels):
            report["camera_motion"] = True
            reason = "the camera moves; motion masks need a fixed camera"
        if reason is None:
            scene, proposals = find_proposals(pixels, gripper, self.settings)
            kept, report["proposals_dropped"] = _worth_labelling(proposals, self.settings)
            report["contact_frame"] = scene.contact
            for place, proposal in enumerate(kept):
                masks, cost = label_clip(scene, proposal, self.settings)
                rival = max((other.score for other in kept if other is not proposal), default=0.0)
                confidence = _confidence(proposal.score, rival, cost) * masks.any(axis=(1, 2))
                name = f"{proposal.kind} {place}"
                field.append(Candidate(PackedMasks.of(masks), confidence, name=name))
                facts[name] = proposal.report()
                if self.choose == "first" and masks.any():
                    left = [{**each.report(), "reason": "the first is taken"} for each in kept[place + 1 :]]
                    report["proposals_dropped"] = left + report["proposals_dropped"]
                    break
        choice = choose_candidate(field, pixels, gripper, by=self.choose, rule=RULE)
        report |= {"choose": self.choose, **choice.report(field)}
        report["candidates"] = [{**row, **facts[row["name"]]} for row in report["candidates"]]
        if choice.index is None:
            report["reason"] = reason or "nothing that lay still starts to move"
            empty = np.zeros((episode.n_frames, *size), np.bool_)
            return Masks(empty, np.zeros(episode.n_frames, np.float32), report=report)
        chosen = field[choice.index]
        objects = np.stack([resize_mask(np.asarray(mask), size) for mask in chosen.masks])
        present = objects.any(axis=(1, 2))
        if not present.any():
            report["reason"] = "the object is smaller than a pixel at this size"
        return Masks(objects, chosen.confidence * present, report=report)


def _worth_labelling(
    proposals: Sequence[Proposal], settings: MotionSettings
) -> tuple[list[Proposal], list[dict[str, Any]]]:
    """The proposals that can still be chosen, best first, and reports of the others with the reason."""
    kept: list[Proposal] = []
    dropped = []
    for each in proposals:
        if each.score <= 0 or each.score < settings.min_score:
            why = "it scores less than min_score"
        elif any(overlap(each, better) >= 0.5 for better in kept):
            why = "it is part of a better one"
        elif kept and each.score < settings.rival_share * kept[0].score:
            why = "it scores far less than the best"
        elif len(kept) == settings.max_labelled:
            why = "there are better ones"
        else:
            kept.append(each)
            continue
        dropped.append({**each.report(), "reason": why})
    return kept, dropped


def _confidence(score: float, rival: float, cost: Floats) -> Floats:
    """(T,) in [0, 1]: the score's share with the best other one and 0.1, less in frames matched badly (`cost`)."""
    # A colour difference of 6 grey levels is what a good match has, one of 36 is no match.
    return np.asarray(score / (score + rival + 0.1) * np.clip(1.2 - cost / 30.0, 0.0, 1.0), np.float32)


def _camera_moves(episode: Episode, pixels: NDArray[np.uint8]) -> bool:
    """As measured on the clip before; here where that was not done. False where the clip shows too little to tell."""
    moving = episode.camera_moves
    return bool(clip_camera_motion(pixels).moving if moving is None else moving)


def _working_pixels(frames: Frames, longer_px: int) -> NDArray[np.uint8]:
    height, width = int(frames.shape[1]), int(frames.shape[2])
    # Thresholds are in working pixels, so small frames are enlarged, but not into mush.
    factor = min(longer_px / max(height, width), 4.0)
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    return np.stack([resize_rgb(np.asarray(frame), size) for frame in frames])


def _unusable(pixels: NDArray[np.uint8]) -> str | None:
    if len(pixels) < MIN_FRAMES:
        return f"motion masks need at least {MIN_FRAMES} frames, the clip has {len(pixels)}"
    if min(pixels.shape[1:3]) < MIN_SIDE_PX:
        return "the frames are too small for motion masks"
    return None
