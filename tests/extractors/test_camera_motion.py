"""Whether the camera moves: told alike at any rate, size and length."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from extractors.camera_motion import camera_motion, clip_camera_motion, watched_frames
from extractors.errors import ShapeError
from tests.benchmarks.depth_drift import load
from tests.support import shared_data

SIDE = 112


def picture(seed=0, width=4 * SIDE, height=SIDE):
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (height, width, 3)), (0, 0), 1.5)
    return np.clip((texture - 128) * 3 + 128, 0, 255).astype(np.uint8)


def swept(n_frames, *, speed=0.0, size=SIDE, seed=0):
    """An arm passes once; the picture moves by `speed` widths over the clip."""
    wide = picture(seed)
    frames = []
    for t in range(n_frames):
        shift = speed * SIDE * t / max(n_frames - 1, 1)
        frame = cv2.warpAffine(wide, np.array([[1, 0, -shift], [0, 1, 0]]), (SIDE, SIDE))
        left = 5 + t * 70 // max(n_frames - 1, 1)
        frame[:60, left : left + 25] = 40
        frames.append(cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR))
    return np.stack(frames)


@pytest.mark.parametrize("n_frames", [1, 2, 3, 4, 5, 6, 7, 64, 300])
def test_a_camera_that_stands_still_behind_an_arm_is_still_at_any_length(n_frames):
    motion = clip_camera_motion(swept(n_frames))
    assert motion.moving is False
    # At most 240 are drawn, one from each of as many parts; parts that share a frame give it once.
    assert motion.n_judged == n_frames if n_frames <= 240 else 0.8 * 240 < motion.n_judged <= 240


def filled_by_an_arm(pixels, *, left, textured):
    """The same with an arm over all columns from `left` on in a fifth of the frames."""
    arm = picture(5) // 2 if textured else np.full((SIDE, 4 * SIDE, 3), 60, np.uint8)
    out = pixels.copy()
    for t in range(2 * len(out) // 5, 3 * len(out) // 5):
        out[t, :, left:] = arm[:, 3 * t : 3 * t + SIDE - left]
    return out


@pytest.mark.parametrize("textured", [True, False])
@pytest.mark.parametrize("left", [20, 28, 40])
def test_an_arm_that_fills_the_picture_is_no_motion_of_the_camera(left, textured):
    assert clip_camera_motion(filled_by_an_arm(swept(30), left=left, textured=textured)).moving is False


@pytest.mark.parametrize("textured", [True, False])
def test_a_camera_that_drifts_behind_such_an_arm_moves(textured):
    moved = filled_by_an_arm(swept(30, speed=0.1), left=28, textured=textured)
    assert clip_camera_motion(moved).moving is True


@pytest.mark.parametrize(("n_frames", "size"), [(6, 112), (7, 224), (20, 56), (20, 448), (100, 112)])
def test_a_camera_that_drifts_moves_at_any_length_and_size(n_frames, size):
    assert clip_camera_motion(swept(n_frames, speed=0.5, size=size)).moving is True
    assert clip_camera_motion(swept(n_frames, size=size)).moving is False


def test_a_lamp_that_flickers_is_no_motion():
    pixels = swept(20)
    lamp = np.where(np.arange(20) % 2, 1.0, 0.8)[:, None, None, None]
    assert clip_camera_motion((pixels * lamp).astype(np.uint8)).moving is False


def test_too_little_to_see_is_not_told():
    assert clip_camera_motion(np.full((8, SIDE, SIDE, 3), 90, np.uint8)).moving is None


def test_an_arm_that_fills_the_picture_for_a_third_of_the_clip_tells_nothing():
    pixels = swept(30)
    pixels[10:20] = [picture(5 + t)[:, :SIDE] // 2 for t in range(10)]
    assert clip_camera_motion(pixels).moving is False


@pytest.mark.parametrize("at", [0.3, 0.5, 0.75])
def test_a_camera_that_is_put_far_aside_moves(at):
    pixels, aside = swept(30), swept(30, seed=5)
    past = round(at * len(pixels))
    assert clip_camera_motion(np.concatenate([pixels[:past], aside[past:]])).moving is True


@pytest.mark.parametrize("share", [0.15, 0.2, 0.3])
def test_what_a_camera_carries_does_not_hide_that_it_moves(share):
    wide, side = picture(3, width=12 * SIDE, height=2 * SIDE), round(share * SIDE)
    moved = np.stack([wide[3 * t : 3 * t + SIDE, 30 * t : 30 * t + SIDE] for t in range(30)])
    gripper = picture(4)[:side, :side]
    moved[:, -side:, 20 : 20 + side] = gripper
    assert clip_camera_motion(moved).moving is True
    still = swept(30)
    still[:, -side:, 20 : 20 + side] = gripper
    assert clip_camera_motion(still).moving is False


def test_another_scene_is_no_motion():
    pixels = np.concatenate([swept(8), swept(8, seed=5)])
    assert clip_camera_motion(pixels).moving is True
    assert clip_camera_motion(pixels, cuts=(8,)).moving is False


def test_frames_without_their_numbers_are_refused():
    with pytest.raises(ShapeError, match="one number"):
        camera_motion([np.zeros((8, 8), np.uint8)], watched_frames(2))


@pytest.mark.shared
@pytest.mark.parametrize(("name", "moves"), [("dev09_wrist_bin_picking", True), ("dev07_bin_picking", False)])
def test_a_wrist_camera_moves(name, moves):
    clip = load(shared_data("groundtruth_dev", f"{name}.npz"))
    assert clip_camera_motion(clip.pixels).moving is moves
