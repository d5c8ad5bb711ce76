import numpy as np
import pytest

from extractors.errors import GeometryError, ShapeError
from extractors.handeye.align import align_depth, align_frames


def known_points(seed, n=60, noise=0.03, outliers=0.0):
    """A relative map's values at points of known depth, and what makes it metric."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 1.4, n)
    scale, shift = rng.uniform(0.02, 30), rng.uniform(-2, 2)
    relative = (1 / depth * (1 + rng.normal(0, noise, n)) - shift) / scale
    wrong = rng.random(n) < outliers
    relative[wrong] += rng.uniform(-1, 1, wrong.sum()) / scale
    return relative, depth, scale, shift


@pytest.mark.parametrize("seed", range(10))
def test_scale_and_shift_bring_a_map_into_metres(seed):
    relative, depth, scale, shift = known_points(seed, outliers=0.15)
    found = align_depth(relative, depth, np.full_like(depth, 0.01))
    truth = np.linspace(0.5, 1.5, 200)
    metres = found.metres((1 / truth - shift) / scale)
    assert np.mean(np.abs(metres / truth - 1)) < 0.04


def test_errors_of_map_and_points_do_not_flatten_what_is_beyond_them():
    """Points of one hand, all within 25 cm; what is told of 1.6 m must not lean to either side."""
    off = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        depth = rng.uniform(0.7, 0.95, 400)
        scale, shift = rng.uniform(0.02, 30), rng.uniform(-2, 2)
        relative = (1 / depth * (1 + rng.normal(0, 0.03, 400)) - shift) / scale
        found = align_depth(relative, depth * (1 + rng.normal(0, 0.03, 400)), 0.03 * depth)
        off.append(float(found.metres(np.array([(1 / 1.6 - shift) / scale]))[0]) / 1.6 - 1)
    assert abs(np.median(off)) < 0.02
    assert np.quantile(np.abs(off), 0.9) < 0.08


def test_the_error_is_predicted():
    off = []
    for seed in range(200):
        relative, depth, scale, shift = known_points(seed, n=30)
        found = align_depth(relative, depth, np.full_like(depth, 0.01))
        value = (1 / 1.0 - shift) / scale
        off.append(abs(float(found.metres(np.array([value]))[0]) - 1) / float(found.sigma(np.array([value]))[0]))
    assert np.mean(np.array(off) < 2) >= 0.9


def test_what_does_not_tell_scale_from_shift_is_refused():
    with pytest.raises(GeometryError, match="one depth"):
        align_depth(np.full(20, 3.0), np.full(20, 1.0), np.full(20, 0.01))
    with pytest.raises(GeometryError, match="8 points"):
        align_depth(np.arange(5.0), np.ones(5), np.ones(5))
    with pytest.raises(ShapeError, match="three"):
        align_depth(np.arange(5.0), np.ones(4), np.ones(5))


def test_depth_beyond_the_map_is_no_reading():
    relative, depth, scale, shift = known_points(0, noise=0.001)
    found = align_depth(relative, depth, np.full_like(depth, 0.001))
    assert found.metres(np.array([(-0.5 - shift) / scale]))[0] == 0


def drifting_points(seed, n_frames=40, per_frame=12, noise=0.02):
    """Points of a clip whose map is on another scale and shift in each frame."""
    rng = np.random.default_rng(seed)
    frame = np.repeat(np.arange(n_frames), per_frame)
    depth = rng.uniform(0.3, 1.2, len(frame))
    pairs = np.stack([rng.uniform(0.8, 1.25, n_frames), rng.uniform(-0.2, 0.2, n_frames)], axis=1)
    map_value = 0.7 / depth * (1 + rng.normal(0, noise, len(frame))) + 0.1
    relative = (map_value - pairs[frame, 1]) / pairs[frame, 0]
    return relative, depth, frame, pairs


@pytest.mark.parametrize("seed", range(6))
def test_frames_that_drift_against_each_other_are_brought_onto_one_scale(seed):
    relative, depth, frame, pairs = drifting_points(seed)
    found = align_frames(relative, depth, np.full_like(depth, 0.005), frame, 40)
    assert found.measured.all()
    # A pair for all frames together is any: what counts are metres, of values that no point had.
    truth = np.linspace(0.35, 1.1, 30)
    for number, (scale, shift) in enumerate(pairs):
        seen = (0.7 / truth + 0.1 - shift) / scale
        metres = found.whole.metres(found.stabilizer[number, 0] * seen + found.stabilizer[number, 1])
        assert np.mean(np.abs(metres / truth - 1)) < 0.05
    one_for_all = align_depth(relative, depth, np.full_like(depth, 0.005))
    assert found.whole.residual < 0.5 * one_for_all.residual


def test_a_frame_without_points_lies_between_its_neighbours():
    relative, depth, frame, _ = drifting_points(3, per_frame=12)
    shown = ~np.isin(frame, [0, 20, 21])
    found = align_frames(relative[shown], depth[shown], np.full(shown.sum(), 0.005), frame[shown], 40)
    assert np.flatnonzero(~found.measured).tolist() == [0, 20, 21]
    np.testing.assert_allclose(found.stabilizer[20], (2 * found.stabilizer[19] + found.stabilizer[22]) / 3)
    np.testing.assert_allclose(found.stabilizer[0], found.stabilizer[1])


def test_a_wild_point_does_not_move_its_frame():
    relative, depth, frame, pairs = drifting_points(4)
    relative[np.flatnonzero(frame == 7)[2]] += 5.0
    found = align_frames(relative, depth, np.full_like(depth, 0.005), frame, 40)
    truth = np.linspace(0.35, 1.1, 30)
    seen = (0.7 / truth + 0.1 - pairs[7, 1]) / pairs[7, 0]
    metres = found.whole.metres(found.stabilizer[7, 0] * seen + found.stabilizer[7, 1])
    assert np.mean(np.abs(metres / truth - 1)) < 0.05


def test_the_clip_stays_on_the_models_own_scale():
    relative, depth, frame, _ = drifting_points(2)
    found = align_frames(relative, depth, np.full_like(depth, 0.005), frame, 40)
    np.testing.assert_allclose(np.median(found.stabilizer, axis=0), [1, 0], atol=0.05)


def test_a_map_the_wrong_way_round_and_one_without_points_are_refused():
    relative, depth, frame, _ = drifting_points(5)
    sigma = np.full_like(depth, 0.005)
    with pytest.raises(GeometryError, match="farther"):
        align_frames(-relative, depth, sigma, frame, 40)
    with pytest.raises(GeometryError, match="no frame shows 4"):
        align_frames(relative[::12], depth[::12], sigma[::12], frame[::12], 40)
