"""TAP-Vid's metrics on tracks whose errors are known by construction."""

import numpy as np
import pytest

from extractors.errors import ShapeError
from scoring.truth.tapvid import (
    THRESHOLDS_PX,
    distances_256,
    mean_scores,
    split_by_motion,
    tapvid_queries,
    tapvid_scores,
)

SIZE = (256, 256)


def perfect(n_frames=5, n_points=4):
    xy = np.random.default_rng(0).uniform(20, 200, (n_frames, n_points, 2))
    return xy, np.ones((n_frames, n_points), bool), np.zeros(n_points, int)


def test_the_truth_itself_scores_one():
    xy, visible, posed = perfect()
    scores = tapvid_scores(xy, visible, xy, visible, posed, size=SIZE)
    assert (scores.delta_avg, scores.occlusion_accuracy, scores.average_jaccard) == (1.0, 1.0, 1.0)
    assert scores.n_points == 4
    assert scores.n_visible == 16


@pytest.mark.parametrize(("error", "within"), [(0.5, 5), (1.5, 4), (2.0, 3), (3.0, 3), (5.0, 2), (10.0, 1), (20.0, 0)])
def test_a_constant_error_is_within_the_thresholds_above_it(error, within):
    xy, visible, posed = perfect()
    scores = tapvid_scores(xy + np.array([error, 0]), visible, xy, visible, posed, size=SIZE)
    assert scores.delta_avg == pytest.approx(within / 5)
    assert sum(scores.within) == within
    # A visible point beyond the threshold is a miss and a false positive: Jaccard is 0 there.
    assert scores.average_jaccard == pytest.approx(within / 5)
    assert scores.occlusion_accuracy == 1.0


def test_the_frame_of_the_query_and_those_before_it_are_not_judged():
    xy, visible, posed = perfect()
    posed[:] = 2
    wrong = xy.copy()
    wrong[:3] += 100
    assert tapvid_scores(wrong, visible, xy, visible, posed, size=SIZE).delta_avg == 1.0
    strided = tapvid_scores(wrong, visible, xy, visible, posed, size=SIZE, mode="strided")
    assert strided.delta_avg == pytest.approx(0.5)


def test_jaccard_counts_points_claimed_though_hidden():
    xy, visible, posed = perfect(n_frames=3, n_points=1)
    truth = visible.copy()
    truth[2] = False
    scores = tapvid_scores(xy, visible, xy, truth, posed, size=SIZE)
    # One true positive, one false positive.
    assert scores.average_jaccard == pytest.approx(0.5)
    assert scores.occlusion_accuracy == pytest.approx(0.5)
    assert scores.delta_avg == 1.0


def test_a_visible_point_claimed_hidden_lowers_jaccard_not_delta():
    xy, visible, posed = perfect(n_frames=3, n_points=1)
    claimed = visible.copy()
    claimed[2] = False
    scores = tapvid_scores(xy, claimed, xy, visible, posed, size=SIZE)
    assert scores.average_jaccard == pytest.approx(0.5)
    assert scores.delta_avg == 1.0


def test_a_misplaced_visible_point_counts_twice_in_the_denominator():
    xy, visible, posed = perfect(n_frames=3, n_points=1)
    off = xy.copy()
    off[2] += 50
    # TP 1, ground truth 2, false positives 1.
    assert tapvid_scores(off, visible, xy, visible, posed, size=SIZE).average_jaccard == pytest.approx(1 / 3)


def test_distances_are_scaled_to_256_each_axis_by_its_own_factor():
    truth = np.zeros((1, 1, 2))
    assert distances_256(truth + np.array([5, 0]), truth, size=(480, 640))[0, 0] == pytest.approx(2.0)
    assert distances_256(truth + np.array([0, 15]), truth, size=(480, 640))[0, 0] == pytest.approx(8.0)
    assert np.isinf(distances_256(truth + np.nan, truth, size=SIZE)[0, 0])


def test_a_missing_position_is_a_miss():
    xy, visible, posed = perfect(n_frames=2, n_points=2)
    lost = xy.copy()
    lost[1, 0] = np.nan
    assert tapvid_scores(lost, visible, xy, visible, posed, size=SIZE).delta_avg == pytest.approx(0.5)


def test_points_split_by_what_they_do_while_seen():
    xy = np.zeros((4, 4, 2))
    xy[:, 0, 0] = [0, 1, 2, 3]
    xy[:, 1, 0] = [0, 0.2, 0.4, 0.6]
    xy[3, 2, 0] = 50  # moves only while hidden
    visible = np.ones((4, 4), bool)
    visible[3, 2] = False
    visible[:, 3] = False
    moving, static = split_by_motion(xy, visible, size=SIZE)
    np.testing.assert_array_equal(moving, [True, False, False, False])
    np.testing.assert_array_equal(static, [False, True, True, False])
    off = xy.copy()
    off[:, 0] += 100
    assert tapvid_scores(off, visible, xy, visible, np.zeros(4), size=SIZE, points=static).delta_avg == 1.0
    assert tapvid_scores(off, visible, xy, visible, np.zeros(4), size=SIZE, points=moving).delta_avg == 0.0


def test_nothing_to_judge_is_nan_and_left_out_of_the_mean():
    xy, visible, posed = perfect(n_frames=1)
    nothing = tapvid_scores(xy, visible, xy, visible, posed, size=SIZE)
    assert np.isnan([nothing.delta_avg, nothing.occlusion_accuracy, nothing.average_jaccard]).all()
    xy, visible, posed = perfect()
    one = tapvid_scores(xy, visible, xy, visible, posed, size=SIZE)
    half = tapvid_scores(xy + np.array([3, 0]), visible, xy, visible, posed, size=SIZE)
    mean = mean_scores([one, half, nothing])
    assert mean.delta_avg == pytest.approx((1 + 3 / 5) / 2)
    assert len(mean.within) == len(THRESHOLDS_PX)


def test_arrays_that_disagree_are_refused():
    xy, visible, posed = perfect()
    with pytest.raises(ShapeError, match="true_xy"):
        tapvid_scores(xy, visible, xy[:, :2], visible, posed, size=SIZE)
    with pytest.raises(ShapeError, match="query_frames"):
        tapvid_scores(xy, visible, xy, visible, posed[:2], size=SIZE)
    with pytest.raises(ShapeError, match="threshold"):
        tapvid_scores(xy, visible.astype(float), xy, visible, posed, size=SIZE)


def test_first_queries_ask_once_where_a_point_is_seen_first():
    visible = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0]], bool)
    frames, points = tapvid_queries(visible, "first")
    assert frames.tolist() == [0, 2, 1]
    assert points.tolist() == [0, 1, 2]  # the last one is never seen


def test_strided_queries_ask_for_all_that_is_seen_in_every_fifth_frame():
    visible = np.zeros((11, 2), bool)
    visible[[0, 3, 10], 0] = visible[5:, 1] = True
    frames, points = tapvid_queries(visible, "strided")
    assert list(zip(frames.tolist(), points.tolist(), strict=True)) == [(0, 0), (5, 1), (10, 0), (10, 1)]
