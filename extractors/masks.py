"""Where the manipulated object is: the segmenters, recorded masks, and repair of flicker."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from extractors.errors import LengthMismatchError, MissingDataError, ShapeError
from extractors.geometry import as_masks, resize_mask
from extractors.types import Backend, Episode, Frames, Masks, OnCpu, Size


class Segmenter(Backend, Protocol):
    """Finds the manipulated object in one clip."""

    def segment(self, episode: Episode, *, size: Size) -> Masks:
        """Masks (T, height, width) of the object that the robot handles, at `size` (height, width).

        A clip without such an object does not raise: its masks are all False, its score is 0, and `report["reason"]`
        says what was looked for and not found. Where there is a choice, `report["candidates"]` lists what was
        considered, best first, each with its `score`; `report["margin"]` is the chosen one's lead over the next.
        """
        ...


class RecordedSegmenter(OnCpu):
    """Hands on the masks that the source records."""

    def segment(self, episode: Episode, *, size: Size) -> Masks:
        """See `recorded_masks`."""
        return recorded_masks(episode, size=size)


def recorded_masks(episode: Episode, *, size: Size) -> Masks:
    """The episode's recorded masks at another size.

    Args:
        episode: with `recorded_masks`; `recorded_robot` is used where there is one.
        size: (height, width) of the result.

    Returns:
        Score 1 where the object is present, 0 elsewhere. The report counts the frames with the object, and lists as
        `vanished_frames` those in which the source shows it and no pixel of the result is covered by half.

    Raises:
        MissingDataError: the episode has no recorded masks.
        LengthMismatchError: there are more or fewer masks than frames.
    """
    if episode.recorded_masks is None:
        raise MissingDataError(
            f"recorded masks of {episode.episode_id} were asked for and its source has none; use masks.backend=nano"
        )
    objects, in_source = _resize_all(episode, episode.recorded_masks, size, "object masks")
    present = objects.any(axis=(1, 2))
    robot = None
    if episode.recorded_robot is not None:
        robot, _ = _resize_all(episode, episode.recorded_robot, size, "robot masks")
    report = {
        "backend": "recorded",
        "frames_with_object": int(present.sum()),
        "vanished_frames": np.flatnonzero(in_source & ~present).tolist(),
    }
    if not present.any():
        report["reason"] = (
            "the recorded object is smaller than a pixel at this size"
            if in_source.any()
            else "the recorded masks show no object"
        )
    return Masks(object=objects, score=np.asarray(present, np.float32), robot=robot, report=report)


def repair_flicker(masks: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Masks without single-frame flicker: each pixel's lone absences are closed, its lone appearances removed.

    A pixel is judged by the raw masks of the frames before and after it alone, so the result does not depend on an
    order; the first and the last frame stay as they are.

    Args:
        masks: (T, H, W) bool.

    Returns:
        The repaired masks (T, H, W) bool, and what was done: `holes_closed_px` and `spikes_removed_px`, pixels, and
        `frames_filled` and `frames_cleared`, frames whose whole mask was missing or alone.

    Raises:
        ShapeError: `masks` is not (T, H, W) bool.
    """
    masks = as_masks(masks)
    if masks.ndim != 3:
        raise ShapeError(f"masks must be (T, H, W) bool, got {masks.shape}")
    repaired = masks.copy()
    before, middle, after = masks[:-2], masks[1:-1], masks[2:]
    # The median of three frames.
    repaired[1:-1] = (before & after) | (middle & (before | after))
    had, has = masks.any(axis=(1, 2)), repaired.any(axis=(1, 2))
    return repaired, {
        "holes_closed_px": int((repaired & ~masks).sum()),
        "spikes_removed_px": int((masks & ~repaired).sum()),
        "frames_filled": int((has & ~had).sum()),
        "frames_cleared": int((had & ~has).sum()),
    }


def _resize_all(episode: Episode, maps: Frames, size: Size, what: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The maps at `size`, and (T,) bool: the source's map has a True pixel."""
    n_frames = episode.n_frames
    if len(maps) != n_frames:
        raise LengthMismatchError(
            f"{episode.episode_id} has {n_frames} frames and {len(maps)} {what}; check the source"
        )
    out = np.zeros((n_frames, *size), np.bool_)
    in_source = np.zeros(n_frames, np.bool_)
    for frame, mask in enumerate(maps):
        in_source[frame] = mask.any()
        out[frame] = resize_mask(np.asarray(mask) > 0, size)
    return out, in_source
