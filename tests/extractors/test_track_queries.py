"""Query points of the track sets."""

import numpy as np
import pytest

from extractors.errors import GeometryError, ShapeError
from extractors.track_queries import background_points, grid_queries, object_queries, rescale_queries, robot_queries


def disc(n_frames, radius_of, size=96):
    """(T, size, size) masks of a disc around (48, 40)."""
    y, x = np.mgrid[:size, :size]
    return np.stack([np.hypot(x - 48, y - 40) < radius_of(t) for t in range(n_frames)])


def all_queries(masks, *, count=100, seed=0, **options):
    """Object points and background points of one set, and which are on the object."""
    on = object_queries(masks, count=count, seed=seed, **options)
    _, off = background_points(masks[0], np.zeros((0, 2), np.float32), count - len(on), seed=seed)
    return np.concatenate([on, off]), np.arange(count) < len(on)


def test_the_grid_holds_the_centres_of_its_cells_row_by_row():
    queries = grid_queries((4, 8), side=2, frame=3)
    np.testing.assert_array_equal(queries, [[3, 1.5, 0.5], [3, 5.5, 0.5], [3, 1.5, 2.5], [3, 5.5, 2.5]])
    assert queries.dtype == np.float32


def test_foreground_points_lie_on_the_mask_in_the_share_asked_for():
    masks = disc(5, lambda t: 20)
    queries, on_object = all_queries(masks, count=300, share=0.6)
    frame, x, y = np.rint(queries.T).astype(int)
    assert queries.shape == (300, 3)
    assert on_object.sum() == 180
    np.testing.assert_array_equal(masks[frame, y, x], on_object)
    assert len(np.unique(queries, axis=0)) == 300
    assert not np.array_equal(queries[:, 1], np.rint(queries[:, 1]))


def test_foreground_points_keep_off_the_border_and_spread_out():
    masks = disc(1, lambda t: 25)
    queries, on_object = all_queries(masks, count=100)
    xy = queries[on_object, 1:]
    assert np.linalg.norm(xy - [48, 40], axis=1).max() < 24.2
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + 1e3 * np.eye(len(xy))
    # 60 points on a disc of 24 px: a hexagonal packing would keep them 5.9 px apart, random points 1.6 on average.
    assert apart.min() > 3.0


def test_foreground_points_are_the_same_for_the_same_seed():
    masks = disc(3, lambda t: 12)
    first, again, other = (all_queries(masks, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_late_object_has_its_points_posed_late():
    masks = disc(6, lambda t: 15 if t >= 4 else 0)
    queries, on_object = all_queries(masks, count=50)
    assert set(queries[on_object, 0]) == {4}
    assert set(queries[~on_object, 0]) == {0}


def test_a_growing_object_has_points_posed_again_in_place_of_background():
    masks = disc(9, lambda t: 6 + 3 * t)
    queries, on_object = all_queries(masks, count=200, share=0.5)
    assert len(queries) == 200
    frames, counts = np.unique(queries[on_object, 0], return_counts=True)
    assert len(frames) > 1
    assert counts[0] == 100
    assert on_object.sum() == 100 + 25 * (len(frames) - 1)


@pytest.mark.parametrize("masks", [np.ones((2, 16, 16), bool), np.eye(16, dtype=bool)[None] & (np.arange(16) == 3)])
def test_a_full_or_one_pixel_mask_still_gives_the_count(masks):
    queries, on_object = all_queries(masks, count=40)
    assert len(queries) == len(on_object) == 40
    assert on_object.any()


def test_an_empty_mask_is_an_error_and_so_is_another_shape():
    with pytest.raises(GeometryError, match="no frame"):
        object_queries(np.zeros((3, 8, 8), bool))
    with pytest.raises(ShapeError, match="masks must be"):
        object_queries(np.zeros((8, 8), bool))
    with pytest.raises(ShapeError, match="masks must be"):
        object_queries(np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(ShapeError, match="share"):
        object_queries(np.ones((3, 8, 8), bool), share=1.5)


def test_background_points_are_those_tracked_anyway_and_off_the_object():
    masks = disc(2, lambda t: 20)
    known = grid_queries((96, 96), side=10)[:, 1:]
    reused, more = background_points(masks[0], known, 40)
    assert len(reused) == len(set(reused)) == 40
    assert len(more) == 0
    assert np.linalg.norm(known[reused] - [48, 40], axis=1).min() >= 22
    apart = np.linalg.norm(known[reused][:, None] - known[reused][None], axis=-1) + 1e3 * np.eye(40)
    # Cells are 9.6 px wide, and 40 of about 85 are wanted: most have no neighbour beside them.
    assert np.median(apart.min(axis=1)) > 9.7


def test_background_points_that_are_not_tracked_yet_are_drawn():
    masks = disc(2, lambda t: 20)
    known = np.array([[3.0, 3.0], [48.0, 40.0], [-0.6, 5.0], [95.4, 95.4], [96.0, 3.0]], np.float32)
    reused, more = background_points(masks[0], known, 30)
    assert sorted(reused) == [0, 3]
    assert more.shape == (28, 3)
    frame, x, y = np.rint(more.T).astype(int)
    assert not masks[frame, y, x].any()
    assert set(frame) == {0}


def test_queries_change_frame_size_each_axis_by_its_own_factor():
    queries = np.array([[2, -0.5, -0.5], [1, 3.5, 1.5]], np.float32)
    np.testing.assert_allclose(rescale_queries(queries, (2, 4), (8, 8)), [[2, -0.5, -0.5], [1, 7.5, 7.5]])


@pytest.mark.parametrize("n_frames", [1, 2, 3, 40, 500])
@pytest.mark.parametrize("radius", [0.5, 3, 20])
@pytest.mark.parametrize("count", [1, 7, 120])
def test_points_on_the_robot_lie_on_it_in_frames_that_show_it_well(n_frames, radius, count):
    masks = disc(n_frames, lambda t: radius if t >= n_frames // 2 else 0.3 * radius)
    masks[0] = False if n_frames > 1 else masks[0]
    queries = robot_queries(masks, count=count)
    assert queries.shape == (count, 3)
    assert queries.dtype == np.float32
    frames = queries[:, 0].astype(int)
    area = masks.sum(axis=(1, 2))
    assert (area[frames] >= 0.5 * np.quantile(area[area > 0], 0.9)).all()
    assert len(np.unique(frames)) <= min(8, count, int((area >= 0.5 * np.quantile(area[area > 0], 0.9)).sum()))
    x, y = (np.rint(queries[:, axis]).astype(int) for axis in (1, 2))
    assert masks[frames, y, x].all()
    np.testing.assert_array_equal(queries, robot_queries(masks, count=count))
