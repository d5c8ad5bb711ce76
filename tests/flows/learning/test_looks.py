import numpy as np
import pytest

from flows.learning import looks
from flows.learning.looks import other_look


@pytest.fixture
def clip():
    """Four equal frames of a thing on a table beside a robot."""
    classes = np.zeros((4, 24, 32), np.uint8)
    classes[:, :12, 4:10], classes[:, 14:20, 14:22] = 1, 2
    return np.array([[150, 140, 120], [30, 30, 30], [200, 40, 40]], np.uint8)[classes], classes


def test_a_seed_gives_the_same_look_again_and_another_seed_another(clip):
    made = [other_look(np.random.default_rng(seed), *clip, 4) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[0] != made[2]).any()
    assert all(each.shape == clip[0].shape and each.dtype == np.uint8 for each in made)


@pytest.mark.parametrize("change", [change for _, change in looks._CHANGES], ids=lambda change: change.__name__)
def test_what_stands_still_stays_still(clip, change):
    for seed in range(5):
        out = change(np.random.default_rng(seed), clip[0])
        assert out.shape == clip[0].shape
        steps = np.abs(np.diff(out.astype(int), axis=0))
        if change in (looks._noisy, looks._flickering):
            assert 0 < steps.mean() < 30
        else:
            assert steps.max() == 0
            assert (out != clip[0]).any()


def test_each_class_is_painted_as_a_whole(clip):
    pixels, classes = clip
    changed = 0
    for seed in range(20):
        out = looks._repainted(np.random.default_rng(seed), pixels, classes, 4).astype(int)
        inner = {0: (22, 2), 1: (4, 7), 2: (17, 18)}
        for k, (y, x) in inner.items():
            flat = out[:, y - 1 : y + 2, x - 1 : x + 2]
            assert np.ptp(flat.reshape(-1, 3), axis=0).max() <= 2, (seed, k)
            changed += bool((np.abs(flat - pixels[:, y - 1 : y + 2, x - 1 : x + 2].astype(int)) > 5).any())
    assert changed > 20
