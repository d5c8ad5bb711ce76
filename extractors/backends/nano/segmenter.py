"""Masks of the manipulated thing, of the robot and of other things, as the network sees them. Fixed cameras only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from extractors.backends.nano.clips import answers, clip_scenery, handled_chance, read_context, working_size
from extractors.backends.nano.inputs import Pixels
from extractors.backends.nano.network import CLASSES
from extractors.backends.nano.pieces import keep_one_thing
from extractors.backends.nano.weights import load_network
from extractors.backends.nano.window import Window, action_window
from extractors.camera_motion import clip_camera_motion
from extractors.geometry import resize_rgb
from extractors.mask_choice import Handled
from extractors.moments import moments, nearest_moment, picked
from extractors.steadying import steadied
from extractors.things import resting_things
from extractors.types import Episode, Masks, OnCpu, Size, Things

SEEN = ("robot", "object", "thing")
"""Classes that are drawn."""

MIN_MOMENTS = 5
"""Fewer do not tell what passes from what stays."""

MIN_HANDLED = 0.7
"""Probability that anything is handled below which no object is drawn: none is then in 89 of 100 generated idle clips
(docs/nano.md), and in 2 of 100 of others."""

MIN_SIDE_PX = 24
"""Smaller frames show no things."""


class NanoSegmenter(OnCpu):
    """Asks the network of each pixel whether it is the robot's, the manipulated object's, another thing's, or none's.

    What moves is told from a still background: a moving camera's clip is seen as from one of its frames
    (`extractors.steadying`), and gets no masks where it does not stand still there.
    """

    name = "nano"

    def __init__(self, *, working_px: int = 160) -> None:
        """Loads the packaged weights; `working_px` is the longer side that the network sees.

        Raises:
            WeightsError: the weights are damaged.
        """
        self.working_px = working_px
        self._network = load_network()

    def segment(self, episode: Episode, *, size: Size) -> Masks:
        """Masks of what is handled; all False, with the reason in the report, where nothing is.

        The score is the mean share of the object's pixels of being the object's.
        """
        # Moments bound the cost and the memory, not the accuracy.
        at = moments(episode.pixels, episode.fps)
        if (reason := _too_little(episode, at)) is not None:
            return self._none(episode, size, {"moments": len(at), "reason": reason})
        frames = self._frames(episode, at)
        if not _camera_moves(episode, frames):
            return self._segment_still(episode, at, frames, size)
        return self._segment_moving(episode, size)

    def _segment_moving(self, episode: Episode, size: Size) -> Masks:
        """Of the clip as a still camera would show it, taken back to each frame."""
        steady = steadied(episode.pixels)
        if steady is None:
            reason = "the camera moves, and its frames cannot be brought over each other so that they stand still"
            return self._none(episode, size, {"camera_motion": True, "reason": reason})
        masks = self.segment(replace(episode, pixels=steady, camera_moves=False), size=size)
        report = {**masks.report, "camera_motion": True, "steadied": int(steady.found.sum())}
        score = np.where(steady.found, masks.score, 0).astype(np.float32)
        robot = None if masks.robot is None else steady.back(masks.robot)
        things = None if masks.things is None else replace(masks.things, labels=steady.back(masks.things.labels))
        return Masks(steady.back(masks.object), score, robot=robot, things=things, report=report)

    def _none(self, episode: Episode, size: Size, report: dict[str, Any]) -> Masks:
        """No masks, for the reason in `report`."""
        empty = np.zeros((episode.n_frames, *size), np.bool_)
        scores = np.zeros(episode.n_frames, np.float32)
        return Masks(empty, scores, report={"backend": self.name, "camera_motion": False, **report})

    def _segment_still(self, episode: Episode, at: NDArray[np.int64], frames: Pixels, size: Size) -> Masks:
        """Of a clip whose camera stands still, at its moments `at`, which the network sees as `frames`."""
        report: dict[str, Any] = {"backend": self.name, "moments": len(at), "camera_motion": False}
        far = self._look(frames)
        report["handled"] = round(far.handled, 3)
        of_object = far.shares[:, SEEN.index("object")]
        if far.handled < MIN_HANDLED:
            of_object[:] = 0
        window = action_window(of_object > 0.5, episode.size)
        near = None if window is None else self._look(self._cut(episode, at, window))
        seen, score = _masks(far, window, near, size)
        if not seen["object"].any():
            report["reason"] = "nothing is handled"
        labels = resting_things(seen["thing"], seen["robot"] | seen["object"])
        moment = nearest_moment(at, episode.n_frames)
        things = Things(labels[moment], ("",) * (1 + int(labels.max(initial=0))))
        return Masks(seen["object"][moment], score[moment], robot=seen["robot"][moment], things=things, report=report)

    def handled(self, episode: Episode) -> Handled:
        """How much each pixel looks like what is handled, of any clip and camera: to choose by, not to draw."""
        at = moments(episode.pixels, episode.fps)
        frames = self._frames(episode, at)
        steady = steadied(episode.pixels) if _camera_moves(episode, frames) else None
        if steady is None:
            return Handled(at, self._look(frames).shares[:, SEEN.index("object")])
        shares = self._look(self._frames(replace(episode, pixels=steady), at)).shares[:, SEEN.index("object")]
        return Handled(at, steady.back(shares.astype(np.float32), at))

    def _frames(self, episode: Episode, at: NDArray[np.int64]) -> Pixels:
        """The moments' frames (M, h, w, 3) at the size that the network sees."""
        size = working_size(episode.size, self.working_px)
        return np.stack([resize_rgb(np.asarray(frame), size) for frame in picked(episode.pixels, at)])

    def _cut(self, episode: Episode, at: NDArray[np.int64], window: Window) -> Pixels:
        """The moments' frames (M, h, w, 3) seen through `window`, from the source's own pixels."""
        part = slice(window.top, window.bottom), slice(window.left, window.right)
        size = working_size((window.bottom - window.top, window.right - window.left), self.working_px)
        return np.stack([resize_rgb(np.asarray(frame)[part], size) for frame in picked(episode.pixels, at)])

    def _look(self, frames: Pixels) -> _Look:
        """What the network says of frames (M, h, w, 3)."""
        scenery = clip_scenery(frames)
        context = read_context(self._network, frames, scenery)
        shares = np.empty((len(frames), len(SEEN), *frames.shape[1:3]), np.float16)
        for moment, (share, _) in enumerate(answers(self._network, frames, scenery, context)):
            # By torch: the classes lie side by side in memory, which numpy takes several times longer to copy.
            shares[moment] = torch.from_numpy(share)[[CLASSES.index(name) for name in SEEN]].half().numpy()
        return _Look(shares, handled_chance(context))


class _Look(NamedTuple):
    """Shares (M, 3, h, w) of `SEEN`, and the probability that anything is handled."""

    shares: NDArray[np.float16]
    handled: float


def _masks(
    far: _Look, window: Window | None, near: _Look | None, size: Size
) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.float32]]:
    """Masks (M, *size) of `SEEN`, and the object's mean share (M,) in its own; `near` is what `window` shows."""
    n_moments = len(far.shares)
    seen = {name: np.empty((n_moments, *size), np.bool_) for name in SEEN}
    of_object = np.empty((n_moments, *size), np.float16)
    for moment in range(n_moments):
        shares = np.stack([cv2.resize(share, size[::-1]) for share in far.shares[moment].astype(np.float32)])
        if window is not None and near is not None:
            window.blend(shares, near.shares[moment].astype(np.float32))
        for name, share in zip(SEEN, shares, strict=True):
            # More than all others together: no pixel is of two classes.
            seen[name][moment] = share > 0.5
        of_object[moment] = shares[SEEN.index("object")]
    keep_one_thing(seen["object"], of_object, seen["robot"])
    masked = zip(of_object, seen["object"], strict=True)
    score = [share[mask].mean(dtype=np.float32) if mask.any() else 0.0 for share, mask in masked]
    return seen, np.array(score, np.float32)


def _too_little(episode: Episode, at: NDArray[np.int64]) -> str | None:
    """Why an episode with so few moments or pixels gets no masks; None where it has enough."""
    if len(at) < MIN_MOMENTS:
        return f"the clip is too short: nano masks need {MIN_MOMENTS} moments that differ, it has {len(at)}"
    if min(episode.size) < MIN_SIDE_PX:
        return f"the frames are too small for nano masks: their shorter side has {min(episode.size)} pixels"
    return None


def _camera_moves(episode: Episode, frames: Pixels) -> bool:
    """As measured on the clip before; here where that was not done. False where the clip shows too little to tell."""
    moving = episode.camera_moves
    return bool(clip_camera_motion(frames).moving if moving is None else moving)
