"""Points on the robot, from frame to frame."""

import numpy as np
import pytest

from extractors.matching import body_alone
from extractors.robot_tracks import follow_robot
from tests.extractors.test_tracks import sliding_square


@pytest.mark.parametrize("size", [48, 96, 224])
def test_points_on_a_sliding_square_go_with_it(size):
    step = (max(size // 48, 1), 0)
    pixels, masks = sliding_square(8, size=size, side=size // 3, start=(size // 8, size // 4), step=step)
    tracks = follow_robot(body_alone(pixels, masks), masks, count=40)
    went = tracks.xy - tracks.queries[None, :, 1:]
    since = np.arange(8)[:, None] - tracks.queries[None, :, 0]
    off = np.linalg.norm(went - since[..., None] * step, axis=-1)
    assert tracks.visibility.mean() > 0.6
    assert np.quantile(off[tracks.visibility], 0.9) < 0.02 * size


def test_a_point_is_seen_where_it_was_posed_and_stays_where_it_was_lost():
    pixels, masks = sliding_square(9, size=64)
    rng = np.random.default_rng(0)
    pixels[6:] = rng.integers(0, 255, pixels[6:].shape)
    masks[5:] = False
    tracks = follow_robot(body_alone(pixels, masks), masks, count=24)
    own = tracks.queries[:, 0].astype(int), np.arange(24)
    assert tracks.visibility[own].all()
    np.testing.assert_array_equal(tracks.xy[own], tracks.queries[:, 1:])
    assert not tracks.visibility[7:].any()
    np.testing.assert_array_equal(tracks.xy[8], tracks.xy[7])
    assert np.isfinite(tracks.xy).all()
    assert ((tracks.visibility_score > 0) == tracks.visibility).all()


@pytest.mark.parametrize("n_frames", [1, 2, 30])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (64, 64)])
def test_any_length_and_size_is_followed(n_frames, size):
    pixels, _ = sliding_square(n_frames, size=160)
    pixels = np.ascontiguousarray(pixels[:, 20 : 20 + size[0], 8 : 8 + size[1]])
    masks = np.ones(pixels.shape[:3], bool)
    tracks = follow_robot(body_alone(pixels, masks), masks, count=5)
    assert tracks.xy.shape == (n_frames, 5, 2)
    assert np.isfinite(tracks.xy).all()
    np.testing.assert_array_equal(tracks.xy, follow_robot(body_alone(pixels, masks), masks, count=5).xy)
