"""The weight-free tracker: what it does beyond the contract of every tracker."""

import cv2
import numpy as np
import pytest

from extractors.backends.layers.layer import Layer
from extractors.backends.layers.motions import IDENTITY, apply, compose, fit_update, translation
from extractors.backends.layers.rule import LayerRule
from extractors.backends.lucas_kanade import LucasKanade
from extractors.track_queries import grid_queries
from extractors.tracks import extract_tracks
from tests.benchmarks.groundtruth import read_groundtruth
from tests.benchmarks.track_accuracy import judge, right_tracks
from tests.extractors.test_track_queries import all_queries
from tests.extractors.test_tracks import sliding_square, textured
from tests.support import shared_data


def test_motions_compose_in_the_order_named():
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    points = np.array([[1.0, 0.0], [2.0, 3.0]])
    both = compose(translation(np.array([5.0, 0.0])), turn)
    np.testing.assert_allclose(apply(both, points), apply(turn, points) + [[5.0, 0.0]] * 2)


def test_an_affine_motion_is_recovered_from_many_matches_with_outliers():
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 100, (80, 2))
    motion = np.array([[1.03, 0.02, 2.0], [-0.01, 0.98, -1.0]])
    end = apply(motion, start)
    end[:20] += rng.uniform(10, 30, (20, 2))
    found = fit_update(start, end, np.ones(80), fit_px=2.0, affinity=0.06)
    # The prior and the outliers leave less than a third of a pixel.
    assert np.abs(apply(found, start[20:]) - end[20:]).max() < 0.3


def test_few_matches_give_a_translation_and_none_gives_rest():
    start = np.array([[10.0, 10.0], [11.0, 10.0]])
    found = fit_update(start, start + np.array([[2.0, 3.0], [2.4, 3.0]]), np.ones(2), fit_px=2.0, affinity=0.06)
    np.testing.assert_allclose(found[:, :2], np.eye(2), atol=0.01)
    np.testing.assert_array_equal(fit_update(start, start + 5.0, np.zeros(2), fit_px=2.0, affinity=0.06), IDENTITY)


def test_a_layer_grows_and_turns_with_its_object():
    import cv2

    canvas = textured(128, 128)
    motions = [cv2.getRotationMatrix2D((64, 64), 2.0 * t, 1.0 + 0.02 * t) for t in range(8)]
    images = [cv2.warpAffine(canvas, motion, (128, 128)) for motion in motions]
    points = np.stack(np.meshgrid(np.arange(45, 85, 6.0), np.arange(45, 85, 6.0)), axis=-1).reshape(-1, 2)
    found = Layer(images, 0, points, LayerRule().at(images[0])).follow(range(8))
    assert np.abs(apply(found[-1], points) - apply(motions[-1], points)).max() < 1.0


def test_an_object_that_rests_before_it_moves_is_followed():
    pixels, masks = sliding_square(6)
    still = [np.repeat(pixels[:1], 8, axis=0), pixels]
    queries, on_object = all_queries(masks, count=100)
    tracks = LucasKanade().track(np.concatenate(still), queries)
    travel = np.median(tracks.xy[:, on_object] - tracks.xy[0, on_object], axis=1)
    np.testing.assert_allclose(travel[:8], 0, atol=0.05)
    np.testing.assert_allclose(travel[8:, 0], 3.0 * np.arange(6), atol=0.5)


def through_a_lamp(pixels):
    """Dimmed by up to a half, in waves."""
    light = 0.75 + 0.25 * np.sin(np.arange(len(pixels)))[:, None, None, None]
    return np.rint(pixels * light).astype(np.uint8)


def through_noise(pixels):
    """A sensor in the dark."""
    return np.clip(pixels + np.random.default_rng(3).normal(0, 14, pixels.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("through", [through_a_lamp, through_noise])
def test_neither_light_nor_noise_moves_what_stands_still(through):
    pixels, masks = sliding_square(12, size=128)
    pixels = through(pixels)
    rest = np.argwhere(~masks.any(axis=0))[::97, ::-1]
    rest = rest[(np.abs(rest - 64) < 58).all(axis=1)].astype(np.float32)
    still = LucasKanade().track(pixels, np.column_stack([np.full(len(rest), 5, np.float32), rest]))
    assert (np.abs(still.xy - rest).max(axis=(0, 2)) < 0.1).mean() > 0.9
    queries, on_object = all_queries(masks, count=100)
    travel = LucasKanade().track(pixels, queries).xy[:, on_object]
    np.testing.assert_allclose(np.median(travel - travel[0], axis=1)[:, 0], 3.0 * np.arange(12), atol=0.5)


def test_what_leaves_the_picture_is_hidden():
    pixels, masks = sliding_square(12, size=96, step=(5, 0))
    pixels, masks = pixels[:, 12:76, :52], masks[:, 12:76, :52]
    queries, on_object = all_queries(masks, count=60)
    tracks = LucasKanade().track(pixels, queries)
    outside = tracks.xy[..., 0] > 52
    assert outside[-1, on_object].mean() > 0.5
    assert not tracks.visibility[outside].any()


def test_large_frames_are_reduced_and_small_ones_enlarged_within_limits():
    tracker = LucasKanade()
    assert tracker._working_size((480, 640)) == (222, 296)
    assert tracker._working_size((64, 64)) == (256, 256)
    assert tracker._working_size((16, 16)) == (64, 64)
    assert tracker._working_size((1, 1)) == (4, 4)


def test_the_number_of_threads_changes_no_track():
    pixels, masks = sliding_square()
    before, made = cv2.getNumThreads(), []
    try:
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            made.append(extract_tracks(pixels, masks, LucasKanade(), size=(64, 64)))
    finally:
        cv2.setNumThreads(before)
    assert made[0].keys() == made[1].keys() == {"grid", "foreground"}
    for name in made[0]:
        np.testing.assert_array_equal(made[0][name].tracks.xy, made[1][name].tracks.xy)
        np.testing.assert_array_equal(made[0][name].tracks.visibility, made[1][name].tracks.visibility)


def test_a_blank_clip_has_tracks_at_rest():
    tracks = LucasKanade().track(np.zeros((4, 32, 48, 3), np.uint8), grid_queries((32, 48), side=4))
    np.testing.assert_allclose(tracks.xy, np.broadcast_to(tracks.xy[:1], tracks.xy.shape), atol=1e-3)
    assert tracks.visibility.all()


@pytest.mark.parametrize("n_frames", [1, 2, 3, 12])
@pytest.mark.parametrize("size", [(1, 1), (16, 40), (64, 64)])
def test_any_length_and_size_is_tracked(n_frames, size):
    pixels, _ = sliding_square(n_frames, size=96)
    queries = grid_queries(size, side=3, frame=n_frames - 1)
    tracks = LucasKanade().track(np.ascontiguousarray(pixels[:, 20 : 20 + size[0], 8 : 8 + size[1]]), queries)
    assert tracks.xy.shape == (n_frames, 9, 2)
    assert np.isfinite(tracks.xy).all()


@pytest.mark.shared
@pytest.mark.slow
def test_real_geometry_is_tracked_well_above_plain_lucas_kanade():
    truth = read_groundtruth(shared_data("groundtruth_dev", "dev00_pick_place.npz"))
    scores = judge(truth, LucasKanade())["scores"]["object"]
    # Plain pyramidal Lucas-Kanade has 0.81 and 0.61 here.
    assert scores.delta_avg > 0.85
    assert scores.average_jaccard > 0.7
    size = truth.episode.size
    sets = extract_tracks(truth.episode.pixels, truth.object_mask, LucasKanade(), size=size)
    assert right_tracks(truth, sets["foreground"]).min() >= 47
