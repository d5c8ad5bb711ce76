"""Geometry: truths by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.depth import average_readings
from extractors.errors import GeometryError, ShapeError
from extractors.geometry import (
    dilate,
    fit_scale_shift,
    project,
    resize_area,
    resize_depth,
    resize_frames,
    resize_mask,
    resize_masks,
    sample_indices,
    sample_values,
    unproject,
    unproject_points,
)
from extractors.types import Camera

VGA = Camera(fx=610.0, fy=605.0, cx=322.0, cy=236.0, width=640, height=480, source="calibrated", sigma=0.01)


def test_unprojected_pixels_project_back_onto_themselves():
    depth = np.random.default_rng(0).uniform(0.3, 2.0, (2, 480, 640))
    xy = project(unproject(depth, VGA), VGA)
    grid = np.stack(np.meshgrid(np.arange(640), np.arange(480)), axis=-1)
    np.testing.assert_allclose(xy, np.broadcast_to(grid, xy.shape), atol=1e-9)


def test_unprojecting_points_agrees_with_unprojecting_maps():
    depth = np.full((480, 640), 0.8)
    points = unproject_points(np.array([[100, 50], [639, 479]]), np.array([0.8, 0.8]), VGA)
    np.testing.assert_allclose(points, unproject(depth, VGA)[[50, 479], [100, 639]])


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, -np.inf])
def test_a_depth_that_is_no_reading_has_no_point(bad):
    depth = np.full((480, 640), 0.8)
    depth[10, 20] = bad
    points = unproject(depth, VGA)
    assert np.isnan(points[10, 20]).all()
    assert np.isfinite(points).all(-1).sum() == 480 * 640 - 1


def test_points_behind_the_camera_have_no_pixel():
    assert np.isnan(project(np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]), VGA)).all()


def test_depth_of_another_size_than_the_camera_is_refused():
    with pytest.raises(ShapeError, match="resize"):
        unproject(np.ones((256, 256)), VGA)


def test_a_squashed_frame_keeps_two_focal_lengths_and_gives_the_same_points():
    squashed = VGA.resized(256, 256)
    assert squashed.fx / squashed.fy == pytest.approx(VGA.fx / VGA.fy * 480 / 640)
    point = np.array([0.12, -0.07, 0.9])
    x, y = project(point, VGA)
    np.testing.assert_allclose(project(point, squashed), [(x + 0.5) * 256 / 640 - 0.5, (y + 0.5) * 256 / 480 - 0.5])


@pytest.mark.parametrize(("fx", "fy"), [(0.0, 600.0), (600.0, -1.0), (np.nan, 600.0)])
def test_a_focal_length_that_is_not_positive_is_refused(fx, fy):
    with pytest.raises(GeometryError, match="focal"):
        Camera(fx=fx, fy=fy, cx=1, cy=1, width=4, height=4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 0.5, 1, 1.5, 2, 2.9, 5, 8, 20]))
def test_dilation_is_the_exact_disc_at_borders_too(seed, radius):
    rng = np.random.default_rng(seed)
    mask = rng.random((23, 31)) < 0.01
    mask[0, 0] |= seed % 2 == 0
    rows, columns = np.mgrid[:23, :31]
    expected = np.zeros_like(mask)
    for r, c in np.argwhere(mask):
        expected |= (rows - r) ** 2 + (columns - c) ** 2 <= radius**2
    np.testing.assert_array_equal(dilate(mask, radius), expected)


def test_dilation_is_batched_and_leaves_empty_and_full_masks():
    masks = np.zeros((2, 3, 9, 9), bool)
    masks[1, 2] = True
    masks[0, 1, 4, 4] = True
    grown = dilate(masks, 3)
    assert grown.sum(axis=(-2, -1)).tolist() == [[0, 29, 0], [0, 0, 81]]  # 29 whole-number points in a disc of radius 3
    assert masks.sum() == 82


def test_dilation_refuses_what_is_no_mask_or_radius():
    with pytest.raises(ShapeError, match="bool"):
        dilate(np.zeros((4, 4), np.uint8), 2)
    with pytest.raises(GeometryError, match="radius"):
        dilate(np.zeros((4, 4), bool), -1)


@pytest.mark.parametrize("size", [(24, 32), (30, 20), (17, 45), (90, 130), (48, 64)])
def test_resizing_keeps_a_linear_ramp_where_the_pixel_rule_puts_it(size):
    ramp = np.add.outer(2.0 * np.arange(48), np.arange(64.0))
    out = resize_area(ramp, size)
    ys, xs = ((np.arange(n) + 0.5) * old / n - 0.5 for n, old in zip(size, (48, 64), strict=True))
    expected = np.add.outer(2.0 * ys, xs)
    inner = np.ix_((ys >= 0) & (ys <= 47), (xs >= 0) & (xs <= 63))  # beyond the outer centres the border is repeated
    # Averaging by whole-number factors is exact; by others a pixel's mean is off by less than a quarter of its slope.
    np.testing.assert_allclose(out[inner], expected[inner], atol=0.51 if size not in {(24, 32), (90, 130)} else 1e-3)


def test_shrinking_averages_areas_and_keeps_the_mean():
    image = np.random.default_rng(1).random((48, 60, 3))
    out = resize_area(image, (20, 25))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.mean((0, 1)), image.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(resize_area(image, (24, 30))[3, 4], image[6:8, 8:10].mean((0, 1)), atol=1e-6)


def test_each_axis_is_resized_by_its_own_rule():
    image = np.random.default_rng(2).random((40, 10))
    mixed = resize_area(image, (10, 20))
    down = image.reshape(10, 4, 10).mean(1)
    np.testing.assert_allclose(mixed, resize_area(down, (10, 20)), atol=1e-6)


def test_frames_are_resized_one_at_a_time_and_rounded_once():
    frames = np.random.default_rng(3).integers(0, 256, (3, 32, 40, 3), dtype=np.uint8)
    for size in ((16, 20), (48, 60), (16, 60), (32, 40)):
        out = resize_frames(frames, size)
        exact = np.stack([resize_area(f, size) for f in frames])
        assert out.shape == (3, *size, 3)
        assert np.abs(out - exact).max() <= 0.51


def test_frames_that_are_no_rgb_or_fewer_than_announced_are_refused():
    class Short:
        shape = (3, 8, 8, 3)

        def __len__(self):
            return 3

        def __iter__(self):
            yield np.zeros((8, 8, 3), np.uint8)

    with pytest.raises(ShapeError, match="announced"):
        resize_frames(Short(), (4, 4))
    with pytest.raises(ShapeError, match="uint8"):
        resize_frames(np.zeros((2, 8, 8, 3), np.float32), (4, 4))
    with pytest.raises(ShapeError, match="one"):
        resize_area(np.zeros((2, 8, 8, 3)), (4, 4))


def test_masks_keep_pixels_that_are_half_covered():
    masks = np.zeros((1, 8, 8), bool)
    masks[0, 2:5, 2:8] = True
    assert resize_masks(masks, (4, 4))[0].astype(int).tolist() == [[0] * 4, [0, 1, 1, 1], [0, 1, 1, 1], [0] * 4]


def test_resized_depth_does_not_mix_readings_with_holes():
    depth = np.full((2, 8, 8), 2.0, np.float32)
    depth[0, :, 0] = 0
    depth[1, :4] = np.nan
    depth[1, 7, 7] = np.inf
    out = resize_depth(depth, (4, 4))
    assert (out[0] == 2).all()
    assert (out[1, :2] == 0).all()
    assert (out[1, 2:] == 2).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(-5, 5))
def test_a_line_is_recovered_under_a_third_of_gross_outliers(seed, scale, shift):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, 400)
    y = scale * x + shift + rng.normal(0, 0.01, 400)
    y[:130] += rng.uniform(3, 30, 130)
    fit = fit_scale_shift(x, y)
    # 270 clean samples leave a standard error near 0.0002 in scale and 0.0012 in shift; ten times that is allowed.
    assert fit.scale == pytest.approx(scale, abs=0.003)
    assert fit.shift == pytest.approx(shift, abs=0.02)
    assert 0.55 < fit.inliers < 0.70


def test_fits_are_batched_over_frames_and_skip_what_is_not_valid():
    rng = np.random.default_rng(5)
    x = rng.random((4, 50))
    y = np.array([1, 2, -1, 0.5])[:, None] * x + np.array([0, 1, 2, 3])[:, None]
    y[0, :10] = np.nan
    valid = np.ones((4, 50), bool)
    y[1, :40], valid[1, :40] = 100, False
    fit = fit_scale_shift(x, y, valid)
    np.testing.assert_allclose(fit.scale, [1, 2, -1, 0.5], atol=1e-9)
    np.testing.assert_allclose(fit.shift, [0, 1, 2, 3], atol=1e-9)
    assert (fit.sigma < 1e-9).all()


@pytest.mark.parametrize("x", [[3.0, 3.0, 3.0], [1.0, np.nan, np.nan], [np.nan, np.nan, np.nan]])
def test_a_fit_that_is_not_determined_says_so(x):
    fit = fit_scale_shift(x, [1.0, 2.0, 3.0])
    assert np.isnan([fit.scale, fit.shift, fit.sigma]).all()


def test_a_fit_of_unequal_arrays_is_refused():
    with pytest.raises(ShapeError, match="one shape"):
        fit_scale_shift(np.ones(3), np.ones(4))


@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 5), (5, 5), (6, 5), (7, 5), (1000, 64), (224 * 224, 5000)])
def test_a_sample_is_in_order_spread_and_no_larger_than_asked(count, most):
    chosen = sample_indices(count, most)
    assert 0.9 * min(count, most) <= len(chosen) <= min(count, most)
    assert (np.diff(chosen) > 0).all()
    assert set(chosen.tolist()) <= set(range(count))
    if count > most:
        assert np.diff(chosen).max() <= 2 * count / most + 1


@pytest.mark.parametrize("width", [1, 2, 7, 31, 32, 64, 100, 112, 128, 192, 224, 225, 256, 320, 448, 512])
@pytest.mark.parametrize("n_frames", [1, 2, 3, 7, 32, 64, 100, 448, 449, 450, 894, 2000])
def test_a_sample_of_a_clip_sees_all_of_its_columns_and_frames(width, n_frames):
    """A stride that divides the width sees a few columns: at 224 pixels, 448 frames gave another depth than 400."""
    most = 20_000
    chosen = sample_indices(n_frames * 16 * width, most)
    columns, frames = chosen % width, chosen // (16 * width)
    # The mean of a uniform draw: within five of its standard deviations of the middle.
    slack = 5 / np.sqrt(12 * len(chosen))
    assert abs(columns.mean() - (width - 1) / 2) <= slack * width
    assert abs(frames.mean() - (n_frames - 1) / 2) <= slack * n_frames
    assert len(np.unique(columns)) == width


def test_few_valid_values_are_all_drawn_from():
    values = np.full((1000, 100), np.nan)
    values[500, :50] = np.arange(50)
    assert sorted(sample_values(values, 1000)) == list(range(50))
    assert len(sample_values(values, 1000, valid=values > 40)) == 9
    assert len(sample_values(np.full(10, np.nan), 5)) == 0
    assert set(sample_values(np.arange(100.0), 10)) <= set(range(100))


def test_half_of_a_pixel_is_enough_for_masks_and_depth_alike():
    mask = np.zeros((4, 4), bool)
    mask[:, 0] = True
    assert resize_masks(mask, (2, 2))[:, 0].all()
    assert resize_mask(mask, (2, 2))[:, 0].all()
    readings = np.where(mask, 2.0, 0.0)
    assert (resize_depth(readings, (2, 2))[:, 0] == 2).all()
    assert (average_readings(readings, (2, 2))[:, 0] == 2).all()
