"""A moving camera's clip, brought to stand still and back."""

import cv2
import numpy as np
import pytest

from extractors.camera_motion import clip_camera_motion
from extractors.steadying import steadied

SIZE = (120, 160)
"""Of the frames that the camera takes of a larger world."""


def world():
    """A blurred noise texture, (240, 320, 3) uint8."""
    grain = np.random.default_rng(5).normal(0, 60, (240, 320, 3)).astype(np.float32)
    return (cv2.GaussianBlur(grain, (0, 0), 2) * 4 + 128).clip(0, 255).astype(np.uint8)


def trembling(n_frames):
    return np.random.default_rng(1).normal(0, 1.5, (n_frames, 2)), np.zeros(n_frames)


def nudged(n_frames):
    return np.where(np.arange(n_frames)[:, None] > n_frames / 3, (14.0, -9.0), 0.0), np.zeros(n_frames)


def swaying(n_frames):
    when = np.linspace(0, 2 * np.pi, n_frames)
    return 12 * np.stack([np.sin(when), np.cos(when)], 1), 0.1 * np.sin(when)


def seen(picture, shifts, turns, size, how=cv2.INTER_LINEAR):
    """What a camera at those places sees of `picture`, whose middle is before it: (T, *size, ...)."""
    height, width = size
    frames = []
    for (x, y), turn in zip(shifts, turns, strict=True):
        matrix = cv2.getRotationMatrix2D((160, 120), np.degrees(turn), 160 / max(size) * (width / 160) ** 2)
        matrix[:, 2] += (width / 2 - 160 + x * width / 160, height / 2 - 120 + y * width / 160)
        frames.append(cv2.warpAffine(picture, matrix, (width, height), flags=how))
    return np.stack(frames)


def clip(path, n_frames=12, size=SIZE):
    """Frames in which a square crosses the world, and where it is (T, *size)."""
    shifts, turns = path(n_frames)
    frames, masks = [], []
    for number, at in enumerate(np.linspace(120, 180, n_frames).astype(int)):
        picture, mask = world(), np.zeros((240, 320), np.uint8)
        picture[110:130, at : at + 20], mask[110:130, at : at + 20] = (220, 30, 30), 1
        now = slice(number, number + 1)
        frames.append(seen(picture, shifts[now], turns[now], size)[0])
        masks.append(seen(mask, shifts[now], turns[now], size, cv2.INTER_NEAREST)[0] > 0)
    return np.stack(frames), np.stack(masks)


def in_steady_view(masks, steady):
    size = masks.shape[:0:-1]
    pairs = zip(masks.astype(np.uint8), steady.onto, strict=True)
    return np.stack([cv2.warpPerspective(mask, onto, size) for mask, onto in pairs]) > 0


@pytest.mark.parametrize("path", [trembling, nudged, swaying])
@pytest.mark.parametrize(("n_frames", "size"), [(12, SIZE), (40, SIZE), (12, (96, 96)), (12, (240, 320))])
def test_what_rests_stands_still_and_masks_come_back(path, n_frames, size):
    pixels, masks = clip(path, n_frames, size)
    assert clip_camera_motion(pixels).moving is True
    steady = steadied(pixels)
    assert steady is not None
    assert steady.found.all()
    still = np.stack(list(steady))
    assert still.shape == pixels.shape
    assert clip_camera_motion(still).moving is False
    reference = n_frames // 2
    np.testing.assert_array_equal(still[reference], pixels[reference])
    there = in_steady_view(masks, steady)
    for given in (there, there.astype(np.uint8)):
        back = steady.back(given)
        assert back.dtype == given.dtype
        assert ((back > 0) & masks).sum() / ((back > 0) | masks).sum() > 0.85


def test_maps_of_another_size_go_back_to_the_same_places():
    pixels, masks = clip(nudged)
    steady = steadied(pixels)
    there = in_steady_view(masks, steady).astype(np.uint8)
    small = np.stack([cv2.resize(each, (80, 60), interpolation=cv2.INTER_NEAREST_EXACT) for each in there]) > 0
    back = np.stack([cv2.resize(each.astype(np.uint8), SIZE[::-1]) for each in steady.back(small)]) > 0
    assert (back & masks).sum() / (back | masks).sum() > 0.75


def test_depth_beyond_the_view_goes_on_as_at_its_edge():
    pixels, _ = clip(nudged)
    steady = steadied(pixels)
    slope = np.broadcast_to(np.linspace(1, 2, SIZE[1], dtype=np.float32), (12, *SIZE))
    back = steady.back(slope)
    assert back.dtype == np.float32
    assert back.min() >= 1
    # 14 pixels of the first frames' right are not in the view of the later one.
    np.testing.assert_allclose(back[0, :, -5:], 2, atol=1e-3)
    np.testing.assert_allclose(back[0, 60, 60], slope[0, 60, 74], atol=0.01)


def test_a_frame_that_shows_something_else_is_left_out():
    pixels, _ = clip(trembling)
    pixels[3] = np.random.default_rng(2).integers(0, 255, pixels[3].shape, dtype=np.uint8)
    steady = steadied(pixels)
    assert np.flatnonzero(~steady.found).tolist() == [3]
    assert not steady.back(np.ones((12, 60, 80), bool))[3].any()
    np.testing.assert_array_equal(list(steady)[3], steady.fill)


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((12, *SIZE, 3), 90, np.uint8),
        np.random.default_rng(0).integers(0, 255, (12, *SIZE, 3), dtype=np.uint8),
        np.stack([world()[:120, :160], world()[120:, 160:]] * 6),
    ],
    ids=["blank", "noise", "two places"],
)
def test_what_cannot_be_brought_together_is_refused(pixels):
    assert steadied(pixels) is None


def test_lazy_frames_are_decoded_a_few_times_only():
    class Counted:
        shape = (12, *SIZE, 3)
        passes = 0

        def __len__(self):
            return 12

        def __iter__(self):
            self.passes += 1
            return iter(clip(swaying)[0])

    frames = Counted()
    assert steadied(frames) is not None
    assert frames.passes == 3
