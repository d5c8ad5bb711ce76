"""Numbers that the cards rest on, against values known by construction."""

import numpy as np
import pytest

from scoring.actions import count_gripper_changes, measure_actions
from scoring.depth import depth_ranges, dynamic_range
from scoring.frames import measure_motion
from scoring.masks import flicker, measure_masks
from scoring.tracks import object_excursion


def tracks(xy, on_object, visibility=None):
    seen = np.ones(xy.shape[:2], bool) if visibility is None else visibility
    return {"xy": xy.astype(np.float32), "visibility": seen, "on_object": on_object}


def excursion(fields, camera_moves=False):
    """In pixels of frames 200 wide."""
    found = object_excursion(fields, 200, camera_moves=camera_moves)
    return None if found is None else 200 * found


def scene(n_frames=20, travel=30.0, jitter=0.0, seed=0):
    """60 points at rest, 40 that go `travel` px to the right."""
    rng = np.random.default_rng(seed)
    xy = np.repeat(rng.uniform(20, 200, (1, 100, 2)), n_frames, axis=0)
    xy[:, 60:, 0] += np.linspace(0, travel, n_frames)[:, None]
    return xy + rng.normal(0, jitter, xy.shape), np.arange(100) >= 60


def test_excursion_is_how_far_the_object_goes():
    xy, own = scene()
    assert excursion(tracks(xy, own)) == pytest.approx(30, abs=1e-3)


def test_an_object_that_comes_back_went_far_all_the_same():
    xy, own = scene()
    there_and_back = np.concatenate([xy, xy[::-1]])
    for moves in (False, True):
        assert excursion(tracks(there_and_back, own), moves) == pytest.approx(30, abs=1e-3)


def test_jitter_does_not_add_up():
    xy, own = scene(n_frames=200, travel=0, jitter=0.3)
    # Path lengths would sum to about 100 px.
    for moves in (False, True):
        assert excursion(tracks(xy, own), moves) < 2


@pytest.mark.parametrize("angle", [0.0, 0.02])
@pytest.mark.parametrize("zoom", [1.0, 1.01])
def test_the_cameras_motion_is_removed(angle, zoom):
    xy, own = scene()
    z = xy[..., 0] + 1j * xy[..., 1] - (110 + 110j)
    frame = np.arange(len(z))[:, None]
    z = z * (zoom * np.exp(1j * angle)) ** frame + (2 + 1j) * frame
    moved = np.stack([z.real, z.imag], axis=-1) + 110
    # Steps are summed in pictures that turn and zoom by up to 0.4 rad and 20 %.
    assert excursion(tracks(moved, own), camera_moves=True) == pytest.approx(30, rel=0.15)


def test_the_arm_among_the_background_is_outvoted():
    xy, own = scene(travel=0)
    xy[:, :15, 1] += np.linspace(0, 80, len(xy))[:, None]
    assert excursion(tracks(xy, own), camera_moves=True) < 1


def test_without_object_points_nothing_is_told():
    xy, own = scene()
    assert excursion(tracks(xy, np.zeros_like(own))) is None
    assert excursion(tracks(xy[:1], own)) is None


def test_relative_depth_ranges_from_minimum_to_maximum():
    depth = np.zeros((2, 4, 4), np.float32)
    depth[:, 0, 0], depth[0, 1, 1], depth[1, 1, 1] = -1, 2, 4
    assert depth_ranges(depth, "relative").tolist() == [3, 5]
    assert dynamic_range(depth, "relative") == 4


def test_metric_depth_ranges_from_p5_to_p95_of_its_readings():
    depth = np.linspace(1, 3, 101, dtype=np.float32).reshape(1, 1, 101)
    assert dynamic_range(depth, "metric") == pytest.approx(2.9 / 1.1, rel=1e-4)
    depth[0, 0, :5] = 0  # no reading
    assert dynamic_range(depth, "metric") == pytest.approx(2.9 / 1.196, rel=0.01)
    assert dynamic_range(np.full((2, 3, 3), np.nan), "metric") is None


def test_mask_areas_and_centres():
    masks = np.zeros((3, 20, 30), bool)
    masks[0, 4:8, 10:16] = masks[1, 4:6, 10:16] = True
    numbers = measure_masks(masks, 5.0)
    assert (600 * numbers.area).tolist() == pytest.approx([24, 12, 0])
    assert (30 * numbers.centre[0]).tolist() == pytest.approx([12.5, 5.5])
    assert np.isnan(numbers.centre[2]).all()
    assert numbers.coverage == pytest.approx(18 / 600)


def test_flicker_is_not_growth():
    growing, swinging = (np.zeros((9, 20, 20), bool) for _ in range(2))
    for t in range(9):
        growing[t, : 2 * t + 1] = True
        swinging[t, : 5 + 10 * (t % 2)] = True
    assert flicker(measure_masks(growing, 5.0)).max() == 0
    assert flicker(measure_masks(swinging, 5.0))[1:-1] == pytest.approx(2 / 3)


def test_dead_actions_are_zero_steps_or_unchanged_targets():
    t = np.arange(40)
    steps = np.stack([np.where(t < 30, np.sin(t), 0), np.where(t < 30, np.cos(2 * t), 0)], axis=1)
    assert measure_actions(steps, None, None, 5.0).dead == pytest.approx(10 / 40)
    targets = np.stack([5 + np.cumsum(np.where(t < 30, 0.1, 0)), 3 - np.cumsum(np.where(t < 30, 0.05, 0))], axis=1)
    assert measure_actions(targets, None, None, 5.0).dead == pytest.approx(10 / 39, abs=0.03)


def test_jerk_of_noise_and_of_a_sine():
    noise = np.random.default_rng(0).normal(size=(4000, 6))
    assert measure_actions(noise, None, None, 5.0).jerk == pytest.approx(np.sqrt(6), rel=0.03)
    sine = np.sin(2 * np.pi * np.arange(400) / 20)[:, None] * np.ones(3)
    # A sampled sine's second difference is 2 - 2 cos(w) of it.
    assert measure_actions(sine, None, None, 5.0).jerk == pytest.approx(2 - 2 * np.cos(2 * np.pi / 20), rel=0.02)


def test_saturation_counts_values_at_the_limit():
    wave = np.clip(np.sin(np.arange(200) * 0.37)[:, None] * np.array([1.0, 2.0]), -0.5, 0.5)
    assert measure_actions(wave, None, None, 5.0).saturated > 0.6
    assert measure_actions(np.sin(np.arange(200) * 0.37)[:, None], None, None, 5.0).saturated < 0.1


def test_rows_without_a_command_are_left_out():
    action = np.sin(np.arange(20) * 0.3)[:, None] * np.ones(3)
    action[7] = np.nan
    assert measure_actions(action, np.arange(20) < 19, None, 5.0).seconds == pytest.approx(18 / 5)


@pytest.mark.parametrize(
    ("opening", "changes"),
    [([1, 1, 0, 0, 1, 1], 2), ([0, 1] * 5, 9), ([1, 0.98, 1, 0.97], 0), ([1, 0.6, 0.5, 0.6, 1, 0], 1), ([1], 0)],
)
def test_gripper_reversals_have_hysteresis(opening, changes):
    assert count_gripper_changes(np.array(opening, np.float32)) == changes


def test_motion_ignores_changes_of_brightness():
    pixels = np.random.default_rng(0).integers(0, 100, (1, 64, 64, 3), dtype=np.uint8)
    brighter = np.concatenate([pixels, pixels + 50, pixels])
    assert measure_motion(brighter, 5.0).step1.max() < 1e-3


@pytest.mark.parametrize("fps", [5, 10, 15, 20, 30, 50, 60])
@pytest.mark.parametrize("steps", [True, False])
def test_the_same_motion_jerks_and_rests_the_same_at_any_rate(fps, steps):
    times = np.arange(round(12 * fps)) / fps
    moving = times < 9
    speed = np.where(moving, np.sin(2 * np.pi * times / 4), 0)[:, None] * np.array([1.0, 2.0, -0.5])
    commands = speed / fps if steps else 3 + np.cumsum(speed + np.where(moving, 0.3, 0)[:, None], axis=0) / fps
    numbers = measure_actions(commands, None, None, float(fps))
    # The sine of 20 commands at 5 a second gives 2 - 2 cos(2 pi / 20) = 0.10, the jolt where it stops the rest. Told
    # frame by frame it would be 36 times less at 30 a second.
    assert numbers.jerk == pytest.approx(0.3, abs=0.1)
    assert numbers.dead == pytest.approx(0.28, abs=0.06)


@pytest.mark.parametrize("fps", [5, 10, 30, 60])
def test_a_mask_that_swings_flickers_at_any_rate(fps):
    masks = np.zeros((4 * fps, 40, 40), bool)
    for t in range(len(masks)):
        masks[t, :20, : 30 if t % 2 else 20] = True
    assert (flicker(measure_masks(masks, float(fps))) > 0.25).mean() > 0.4
