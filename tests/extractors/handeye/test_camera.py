from dataclasses import replace

import numpy as np
import pytest

from extractors.errors import GeometryError, ShapeError
from extractors.handeye import judge
from extractors.handeye.camera import calibrate_camera
from tests.benchmarks.handeye import WRONG, error_of, scenes, without_object
from tests.benchmarks.handeye_scenes import HAND, STATIC, Recipe, random_lens, random_scene

EASY = Recipe(turn=(40, 60), travel=(0.3, 0.4), fps=(8, 8), seconds=(4, 5), n_hand=(15, 20), n_static=40)
"""A hand that turns, so that one clip tells everything."""


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tracks_without_noise_give_the_camera_exactly(seed):
    scene = random_scene(seed, replace(EASY, noise_px=0.01, missing=0.2))
    found = calibrate_camera([without_object(scene)])
    error = error_of(found, scene.focal_px, scene.carrier_from_camera)
    assert abs(error.focal) < 0.01
    assert error.position_m < 0.01
    assert error.rotation_deg < 0.3
    rides = found.riding & (scene.kind == HAND)
    assert rides.sum() >= 0.7 * (scene.kind == HAND).sum()
    np.testing.assert_allclose(found.points[rides], scene.points[rides], atol=0.01)
    assert not found.riding[scene.kind == STATIC].any()


@pytest.mark.parametrize("change", [{"size": (120, 160)}, {"pixel_aspect": 4 / 3}, {"size": (720, 1280)}])
def test_frames_of_any_size_and_squashed_ones(change):
    scene = random_scene(1, replace(EASY, noise_px=0.3, missing=0.2, **change))
    found = calibrate_camera([without_object(scene)])
    assert abs(found.focal_px / scene.focal_px - 1) < 0.04


@pytest.mark.parametrize("delay", [-0.25, 0.1, 0.3])
def test_a_clock_that_is_off_is_found(delay):
    scene = random_scene(4, replace(EASY, noise_px=0.5, missing=0.2, delay=(delay, delay)))
    found = calibrate_camera([without_object(scene)])
    assert abs(found.delay_s - delay) < max(0.02, 3 * found.delay_sigma_s)


def test_clips_of_one_camera_are_solved_together():
    group = scenes(1, replace(EASY, distance=(0.6, 0.7), field_of_view=(40, 50)), 4)[0]
    found = calibrate_camera([without_object(scene) for scene in group])
    error = error_of(found, group[0].focal_px, group[0].carrier_from_camera)
    assert found.observable, found.reasons
    assert abs(error.focal) < 0.05
    assert (error.sigmas < 3).all()
    assert found.focal_sigma < 0.7 * calibrate_camera([without_object(group[0])]).focal_sigma
    assert len(found.riding) == sum(scene.clip.visibility.shape[1] for scene in group)


def test_a_camera_on_the_wrist_is_the_same_equation():
    scene = random_scene(5, replace(EASY, rig="wrist", noise_px=0.3, missing=0.2, seconds=(6, 6)))
    found = calibrate_camera([scene.clip], rig="wrist")
    error = error_of(found, scene.focal_px, scene.carrier_from_camera)
    assert error.position_m < 0.02
    assert error.rotation_deg < 2


@pytest.mark.parametrize("wrong", ["mirrored video", "millimetres", "constant state", "camera nudged", "arm alone"])
def test_a_wrong_clip_is_refused_with_a_reason(wrong):
    found = calibrate_camera([WRONG[wrong](random_scene(2, EASY), np.random.default_rng(0))])
    assert not found.observable
    assert all(found.reasons)


def test_a_hand_that_does_not_turn_leaves_the_camera_unknown():
    scene = random_scene(0, replace(EASY, turn=(0.1, 0.2)))
    found = calibrate_camera([without_object(scene)])
    assert not found.observable
    assert found.position_sigma_m > 0.05


def test_equal_arguments_give_equal_results():
    clip = without_object(random_scene(3, EASY))
    one, other = calibrate_camera([clip]), calibrate_camera([clip])
    np.testing.assert_array_equal(one.covariance, other.covariance)


def test_too_few_tracks_are_an_answer_and_no_clip_is_an_error():
    scene = random_scene(0, EASY)
    nobody = replace(scene.clip, visibility=np.zeros_like(scene.clip.visibility))
    found = calibrate_camera([nobody])
    assert not found.observable
    assert np.isnan(found.focal_px)
    with pytest.raises(GeometryError, match="one clip at least"):
        calibrate_camera([])
    with pytest.raises(GeometryError, match="one frame size"):
        calibrate_camera([scene.clip, replace(scene.clip, size=(100, 100))])
    with pytest.raises(ShapeError, match="timestamp"):
        replace(scene.clip, timestamp=scene.clip.timestamp[:-1])


def test_clips_of_which_only_some_have_tracks_that_ride():
    scene, blind = (random_scene(seed, EASY) for seed in (0, 1))
    still = replace(blind.clip, visibility=blind.clip.visibility & (blind.kind == STATIC))
    found = calibrate_camera([without_object(scene), still])
    assert found.riding[: len(scene.kind)].any()
    assert not found.riding[len(scene.kind) :].any()


def test_what_the_tracks_of_a_clip_get_wrong_alike_widens_the_sigmas_of_many(monkeypatch):
    def inflation(error):
        lens = random_lens(np.random.default_rng(4), EASY)
        clips = []
        for seed in range(6):
            clip = without_object(random_scene(seed, replace(EASY, noise_px=0.5), lens=lens))
            middle = np.nanmean(clip.xy, axis=(0, 1))
            clips.append(replace(clip, xy=middle + (clip.xy - middle) * (1 + error * (-1) ** seed)))
        return calibrate_camera(clips).report["inflation"]

    exact, wrong = inflation(0.0), inflation(0.01)
    monkeypatch.setattr(judge, "MIN_CLIPS", 99)
    assert wrong > 1.15 * inflation(0.01)
    assert exact < 1.5 * inflation(0.0)
