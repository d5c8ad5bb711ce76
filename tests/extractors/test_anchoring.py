"""Still backgrounds of drifting depth: known drift is found, and clips that cannot be anchored are left alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from extractors.anchoring import anchor_background as anchor
from extractors.anchoring import background_drift, still_background
from extractors.camera_motion import clip_camera_motion
from extractors.errors import ShapeError
from extractors.types import SceneTracks
from tests.benchmarks.depth_drift import drifted, load
from tests.support import shared_data

SIDE = 112


def anchor_background(relative, object_masks, robot_masks, pixels, **given):
    """With what the source stage measures of the camera."""
    moves = clip_camera_motion(pixels, cuts=given.get("cuts", ())).moving
    return anchor(relative, object_masks, robot_masks, pixels, **{"camera_moves": moves, "fps": 5.0} | given)


class Scene:
    """A textured slope, an arm that sweeps over it and a small object: pixels, inverse depth and masks."""

    def __init__(self, n_frames: int = 12, seed: int = 0, *, flat: bool = False):
        rng = np.random.default_rng(seed)
        texture = cv2.GaussianBlur(rng.uniform(0, 255, (SIDE, SIDE, 3)), (0, 0), 1.5)
        texture = np.clip((texture - 128) * 3 + 128, 0, 255)
        slope = np.full((SIDE, SIDE), 1.0) if flat else np.linspace(0.5, 2.0, SIDE)[:, None] * np.ones(SIDE)
        self.pixels = np.repeat(texture[None], n_frames, 0).astype(np.uint8)
        self.inverse = np.repeat(slope[None], n_frames, 0).astype(np.float32)
        self.robot = np.zeros((n_frames, SIDE, SIDE), np.bool_)
        self.object = np.zeros_like(self.robot)
        for t in range(n_frames):
            left = 5 + t * 70 // max(n_frames - 1, 1)
            self.robot[t, :60, left : left + 25] = True
            self.object[t, 60:75, left : left + 15] = True
        self.pixels[self.robot] = (40, 40, 40)
        self.pixels[self.object] = (250, 30, 30)
        self.inverse[self.robot] = 2.5
        self.inverse[self.object] = 2.2

    @property
    def background(self) -> NDArray[np.bool_]:
        return ~(self.robot | self.object)


def _drift(n_frames: int, seed: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    time = np.linspace(-1, 1, n_frames)
    return 1 + rng.normal(0, 0.05, n_frames) + 0.15 * time, 0.5 + rng.normal(0, 0.1, n_frames) - 0.2 * time


def _applied(inverse: NDArray[np.float32], scale: NDArray[np.float64], shift: NDArray[np.float64]):
    return (scale[:, None, None] * inverse + shift[:, None, None]).astype(np.float32)


@pytest.mark.parametrize("masks", ["object and robot", "object", "none"])
def test_a_known_drift_is_taken_out(masks: str):
    scene = Scene()
    scale, shift = _drift(len(scene.pixels))
    raw = _applied(scene.inverse, scale, shift)
    robot = scene.robot if masks == "object and robot" else None
    anchored = anchor_background(raw, None if masks == "none" else scene.object, robot, scene.pixels)
    assert anchored.values is not None
    assert anchored.stabilizer is not None
    # Undone up to one scale and shift for the whole clip.
    np.testing.assert_allclose(anchored.stabilizer[:, 0] * scale, np.median(scale), rtol=1e-3)
    assert background_drift(anchored.values, scene.background) < 0.01 * background_drift(raw, scene.background)
    assert np.median(anchored.stabilizer, axis=0) == pytest.approx([1, 0], abs=1e-6)


def test_the_raw_map_stays_recoverable():
    scene = Scene()
    raw = _applied(scene.inverse, *_drift(len(scene.pixels)))
    anchored = anchor_background(raw, scene.object, None, scene.pixels)
    assert anchored.values is not None
    assert anchored.stabilizer is not None
    assert anchored.values.dtype == anchored.stabilizer.dtype == np.float32
    scale, shift = anchored.stabilizer[:, 0, None, None], anchored.stabilizer[:, 1, None, None]
    np.testing.assert_array_equal(anchored.values, scale * raw + shift)
    np.testing.assert_allclose((anchored.values - shift) / scale, raw, rtol=1e-5)


def test_depth_without_drift_passes_unharmed():
    scene = Scene()
    anchored = anchor_background(scene.inverse, scene.object, None, scene.pixels)
    np.testing.assert_allclose(anchored.values, scene.inverse, rtol=1e-5)


def test_noise_does_not_shrink_the_scale():
    scene = Scene()
    noise = np.random.default_rng(0).normal(0, 0.05, scene.inverse.shape)  # 3 % of the spread
    scale, shift = _drift(len(scene.pixels))
    anchored = anchor_background(
        (_applied(scene.inverse, scale, shift) + noise).astype(np.float32), scene.object, None, scene.pixels
    )
    assert anchored.stabilizer is not None
    np.testing.assert_allclose(anchored.stabilizer[:, 0] * scale, np.median(scale), rtol=0.02)


def test_a_flat_background_gives_a_shift_only():
    scene = Scene(flat=True)
    rng = np.random.default_rng(0)
    shift = rng.normal(0, 0.2, len(scene.pixels))
    raw = _applied(scene.inverse, np.ones(len(shift)), shift) + rng.normal(0, 0.02, scene.inverse.shape)
    anchored = anchor_background(raw.astype(np.float32), scene.object, None, scene.pixels)
    assert anchored.stabilizer is not None
    assert anchored.report["scenes"][0]["fitted"] == "shift"
    np.testing.assert_array_equal(anchored.stabilizer[:, 0], 1)
    np.testing.assert_allclose(anchored.stabilizer[:, 1] + shift, np.median(shift), atol=0.01)


def test_black_frames_take_their_neighbours_scale():
    scene = Scene()
    scale = np.linspace(0.9, 1.1, 12)
    raw = _applied(scene.inverse, scale, np.zeros(12))
    scene.pixels[[5, 6]] = 0
    raw[[5, 6]] = np.random.default_rng(0).uniform(0, 3, raw[:2].shape)
    anchored = anchor_background(raw, scene.object, None, scene.pixels)
    assert anchored.stabilizer is not None
    assert anchored.report["scenes"][0]["interpolated_frames"] == [5, 6]
    np.testing.assert_allclose(anchored.stabilizer[:, 0] * scale, np.median(scale), rtol=0.02)


def test_a_change_of_exposure_hides_no_background():
    scene = Scene()
    scene.pixels = np.clip(scene.pixels.astype(int) + (np.arange(12)[:, None, None, None] - 6) * 3, 0, 255).astype(
        np.uint8
    )
    assert still_background(scene.pixels, scene.object)[:, 80:].mean() > 0.9


def test_pixels_near_moving_tracks_are_no_background():
    scene = Scene()
    scene.pixels[:] = scene.pixels[:1]  # what moves cannot be seen
    raw = scene.inverse.copy()
    raw[:, 80:110, 40:70] = np.linspace(0, 3, 12)[:, None, None]  # a hidden mover
    xy = np.stack(np.meshgrid(np.arange(42, 70, 5), np.arange(82, 110, 5)), -1).reshape(1, -1, 2).astype(np.float32)
    xy = xy + 1.5 * (np.arange(12) % 2)[:, None, None].astype(np.float32)
    seen = np.ones(xy.shape[:2], np.bool_)
    shares = [
        anchor_background(raw, None, None, scene.pixels, **tracks).report["scenes"][0]["background_share"]
        for tracks in ({}, {"tracks": SceneTracks(xy, seen, np.zeros(xy.shape[1], bool), SIDE)})
    ]
    assert shares[0] == 1
    assert shares[1] < 0.95


@pytest.mark.parametrize("step_px", [0.5, 3.0])
def test_a_moving_camera_is_left_alone(step_px: float):
    scene = Scene(n_frames=20)
    wide = np.concatenate([scene.pixels[0], scene.pixels[0][:, ::-1]], axis=1)
    moved = [
        cv2.warpAffine(wide, np.array([[1, 0, -step_px * t], [0, 1, 0]]), (SIDE, SIDE), flags=cv2.INTER_LINEAR)
        for t in range(20)
    ]
    anchored = anchor_background(scene.inverse, scene.object, None, np.stack(moved))
    assert anchored.values is None
    assert anchored.stabilizer is None
    assert anchored.report["reason"] == "the camera moves"


def test_nothing_to_see_is_a_reason_not_an_error():
    grey = np.full((6, SIDE, SIDE, 3), 90, np.uint8)
    anchored = anchor_background(np.ones((6, SIDE, SIDE), np.float32), None, None, grey)
    assert anchored.values is None
    assert "texture" in anchored.reason
    scene = Scene()
    covered = np.ones_like(scene.object)
    covered[:, :30, :30] = False
    assert anchor_background(scene.inverse, None, covered, scene.pixels).values is None


def test_depth_that_is_cut_off_at_zero_everywhere_is_left_alone():
    scene = Scene()
    anchored = anchor_background(np.zeros_like(scene.inverse), scene.object, None, scene.pixels)
    assert anchored.reason == "too little still background"


@pytest.mark.parametrize("n_frames", [1, 2, 3])
def test_the_shortest_clips_are_anchored(n_frames: int):
    scene = Scene(n_frames)
    raw = _applied(scene.inverse, *_drift(n_frames))
    anchored = anchor_background(raw, scene.object, scene.robot, scene.pixels)
    assert anchored.values is not None
    assert background_drift(anchored.values, scene.background) < 1e-4


def test_each_scene_is_anchored_to_itself():
    first, second = Scene(8), Scene(8, seed=5)
    pixels = np.concatenate([first.pixels, second.pixels])
    scale, shift = _drift(16)
    raw = _applied(np.concatenate([first.inverse, second.inverse]), scale, shift)
    objects = np.concatenate([first.object, second.object])
    assert anchor_background(raw, objects, None, pixels).reason == "the camera moves"
    anchored = anchor_background(raw, objects, None, pixels, cuts=(8,))
    assert anchored.stabilizer is not None
    for scene in (slice(0, 8), slice(8, 16)):
        np.testing.assert_allclose(anchored.stabilizer[scene, 0] * scale[scene], np.median(scale[scene]), rtol=1e-3)


def test_arrays_that_do_not_agree_are_refused():
    scene = Scene(3)
    with pytest.raises(ShapeError, match="pixels"):
        anchor_background(scene.inverse, None, None, scene.pixels[:2], camera_moves=False)
    with pytest.raises(ShapeError, match="object masks"):
        anchor_background(scene.inverse, scene.object[:2], None, scene.pixels)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["dev02_drawer_open", "dev03_coffee_push"])
def test_drift_put_into_true_depth_falls_fivefold_and_true_depth_is_kept(name: str):
    clip = load(shared_data("groundtruth_dev", f"{name}.npz"), (112, 112))
    raw = drifted(clip.inverse, seed=1, noise=0.01)
    anchored = anchor_background(raw, clip.object_masks, None, clip.pixels)
    assert anchored.values is not None
    assert background_drift(anchored.values, clip.background) * 5 < background_drift(raw, clip.background)
    kept = anchor_background(clip.inverse, clip.object_masks, None, clip.pixels)
    assert kept.values is not None
    known = clip.inverse > 0
    assert np.mean(np.abs(clip.inverse[known] / kept.values[known] - 1)) < 0.002  # AbsRel change under 0.2 %


@pytest.mark.parametrize("n_frames", [5, 12, 63, 200])
@pytest.mark.parametrize("width", [96, 112, 128, 224, 225])
def test_drift_is_measured_alike_at_any_width_and_length(n_frames, width):
    """Every 7th pixel was looked at once: at 224, which is 32 x 7, those are a few columns."""
    rng = np.random.default_rng(0)
    # Depth that differs from column to column alone, which a stride that divides the width sees little of.
    columns = np.where(np.arange(width) % 7 == 0, 1.0, 3.0) + 0.01 * np.arange(width)
    depth = np.broadcast_to(columns, (n_frames, 32, width)) + rng.normal(0, 0.02, (n_frames, 1, 1))
    background = np.ones(depth.shape, bool)
    assert background_drift(depth, background) == pytest.approx(0.02 / 3.7, rel=0.6)
