import cv2
import numpy as np
import pytest

from extractors.errors import MissingDataError
from extractors.mask_linking import Detection, MaskLinker, rgb_frames

SIZE = (64, 96)
RED, BLUE = (200, 40, 40), (40, 40, 200)


def scene(boxes_of):
    """Frames and masks of coloured squares: `boxes_of(t)` gives (colour, x, y) rows, 12 px wide."""
    table = cv2.GaussianBlur(np.random.default_rng(0).integers(60, 140, (*SIZE, 3), dtype=np.uint8), (0, 0), 1)
    grain = np.random.default_rng(1).integers(-20, 20, (12, 12, 3))
    frames, masks = [], []
    for boxes in boxes_of:
        frame, shown = table.copy(), []
        for colour, x, y in boxes:
            mask = np.zeros(SIZE, bool)
            mask[y : y + 12, x : x + 12] = True
            frame[y : y + 12, x : x + 12] = np.clip(np.array(colour) + grain, 0, 255)
            shown.append(mask)
        frames.append(frame)
        masks.append(shown)
    return np.stack(frames), masks


def detector(frames, masks, prompt="cube", without=()):
    """Sees exactly what is there, except in the frames of `without`; counts its looks."""
    looks = []

    def detect(image):
        t = next(index for index, frame in enumerate(frames) if frame is image or (frame == image).all())
        looks.append(t)
        return [] if t in without else [Detection(mask, 0.9, prompt) for mask in masks[t]]

    return detect, looks


def iou(one, other):
    union = (one | other).sum()
    return (one & other).sum() / union if union else 1.0


def test_masks_between_key_frames_follow_the_object():
    frames, masks = scene([[(RED, 10 + 2 * t, 20)] for t in range(13)])
    detect, looks = detector(frames, masks)
    (found,) = MaskLinker(detect, size=SIZE, every=6).link(frames, len(frames))
    assert looks == [0, 6, 12]
    # Half a gap of 6 frames, each of which may cost a quarter of a pixel at the borders of 12 px.
    assert min(iou(mask, truth[0]) for mask, truth in zip(found.masks, masks, strict=True)) > 0.6
    assert found.confidence[0] == pytest.approx(0.9)
    assert 0 < found.confidence[3] < 0.9


def test_two_objects_keep_their_identities():
    frames, masks = scene([[(RED, 8 + 3 * t, 8), (BLUE, 80 - 3 * t, 40)] for t in range(15)])
    detect, _ = detector(frames, masks)
    found = MaskLinker(detect, size=SIZE, every=4).link(frames, len(frames))
    assert len(found) == 2
    for candidate in found:
        which = 0 if candidate.masks[0][14, 10] else 1
        assert all(iou(candidate.masks[t], masks[t][which]) > 0.5 for t in range(15))


def test_an_object_that_leaves_and_returns_is_the_same_one():
    there = [t < 7 or t > 14 for t in range(22)]
    frames, masks = scene([[(RED, 40, 20)] if shown else [] for shown in there])
    detect, looks = detector(frames, masks)
    (found,) = MaskLinker(detect, size=SIZE, every=5).link(frames, len(frames))
    present = found.masks.present
    assert present[:7].all()
    assert not present[8:14].any()
    assert present[15:].all()
    # Looked for again as soon as it was gone, not only at the next key frame.
    assert 7 in looks


def test_an_object_found_late_is_followed_back_to_the_key_frame_before():
    frames, masks = scene([[(RED, 40 + t, 20)] for t in range(11)])
    detect, _ = detector(frames, masks, without=(0, 5))
    (found,) = MaskLinker(detect, size=SIZE, every=5).link(frames, len(frames))
    assert found.masks.present.tolist() == [t > 5 for t in range(11)]


def test_more_objects_than_can_be_followed_are_not_begun():
    frames, _ = scene([[(RED, 40, 20)] for _ in range(3)])
    rng = np.random.default_rng(0)

    def detect(image):
        return [Detection(rng.random(SIZE) > 0.99, float(rng.random()), "object") for _ in range(300)]

    found = MaskLinker(detect, size=SIZE, every=1, max_objects=7).link(frames, len(frames))
    assert len(found) == 7


def test_no_detections_give_no_candidates_and_missing_frames_are_named():
    frames, _ = scene([[] for _ in range(3)])
    assert MaskLinker(lambda image: [], size=SIZE).link(frames, 3) == []
    with pytest.raises(MissingDataError, match="4 frames were announced and 3 came"):
        MaskLinker(lambda image: [], size=SIZE).link(frames, 4)


def test_grey_frames_become_rgb():
    for frames in (np.full((2, 4, 5), 7, np.uint8), np.full((2, 4, 5, 1), 7, np.uint8)):
        assert [frame.shape for frame in rgb_frames(frames)] == [(4, 5, 3)] * 2
