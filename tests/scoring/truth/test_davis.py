import numpy as np
import pytest

from extractors.errors import ShapeError
from scoring.truth.davis import contour, contour_accuracy, region_similarity, summarise


def square(x, y, side, size=(64, 64)):
    mask = np.zeros((1, *size), bool)
    mask[0, y : y + side, x : x + side] = True
    return mask


def test_a_mask_agrees_with_itself():
    mask = square(10, 12, 20)
    assert region_similarity(mask, mask) == [1.0]
    assert contour_accuracy(mask, mask) == [1.0]


def test_a_shift_by_half_the_side_leaves_a_third_of_the_union():
    assert region_similarity(square(10, 10, 20), square(20, 10, 20))[0] == pytest.approx(1 / 3)


def test_two_empty_masks_agree_and_one_empty_mask_does_not():
    empty = np.zeros((1, 64, 64), bool)
    assert region_similarity(empty, empty) == [1.0]
    assert contour_accuracy(empty, empty) == [1.0]
    for score in (region_similarity, contour_accuracy):
        assert score(empty, square(5, 5, 9)) == [0.0]
        assert score(square(5, 5, 9), empty) == [0.0]


def test_a_contour_within_the_tolerance_is_matched_wholly():
    # the diagonal of 64 x 64 is 90.5 px, so the tolerance is ceil(0.72) = 1 px
    assert contour_accuracy(square(10, 10, 20), square(11, 10, 20)) == [1.0]
    assert contour_accuracy(square(10, 10, 20), square(13, 10, 20))[0] < 0.8


def test_contour_f_is_the_harmonic_mean_of_precision_and_recall():
    # two squares far apart, one of them found: every found pixel is right, half of the true ones are found
    found = square(5, 5, 12)
    truth = found | square(40, 40, 12)
    assert contour_accuracy(found, truth)[0] == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_the_contour_is_one_pixel_wide_and_closed():
    line = contour(square(10, 10, 20)[0])
    # DAVIS's contour of a 20 px square: the four sides of the 21 px one around its top left
    assert line.sum() == 4 * 20
    assert not line[15, 15]


def test_a_mask_over_the_whole_image_has_no_contour():
    assert not contour(np.ones((8, 8), bool)).any()


def test_the_summary_gives_mean_recall_and_decay():
    result = summarise(np.array([1.0, 0.8, 0.4, 0.2]))
    assert (result.mean, result.recall, result.decay) == pytest.approx((0.6, 0.5, 0.8))
    assert summarise(np.array([0.7])).decay == 0.0
    with pytest.raises(ShapeError, match="at least one frame"):
        summarise(np.zeros(0))


def test_other_shapes_and_types_are_refused():
    with pytest.raises(ShapeError, match="bool"):
        region_similarity(np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), bool))
    with pytest.raises(ShapeError, match="one shape"):
        contour_accuracy(np.zeros((1, 4, 4), bool), np.zeros((2, 4, 4), bool))
