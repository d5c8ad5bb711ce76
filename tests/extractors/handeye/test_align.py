import numpy as np
import pytest

from extractors.errors import GeometryError, ShapeError
from extractors.handeye.align import align_depth


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
