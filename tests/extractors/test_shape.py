"""Descriptors of rendered bodies."""

from __future__ import annotations

import numpy as np
import pytest

from extractors.centroids import extract_centroids
from extractors.errors import ShapeError
from extractors.geometry import dilate
from extractors.shape import describe_shape
from extractors.types import DESCRIPTOR_NAMES, Camera, Depth
from tests.extractors.rendering import blur, box, metric, plane_patch, sphere

CAMERA = Camera(fx=300.0, fy=300.0, cx=127.5, cy=127.5, width=256, height=256, source="calibrated")
SQUASHED = Camera(fx=420.0, fy=560.0, cx=319.5, cy=239.5, width=640, height=480, source="calibrated").resized(256, 256)


def describe(masks, depth, camera=CAMERA, method="robust"):
    centroids = extract_centroids(masks, depth, camera, method=method)
    return describe_shape(masks, depth, camera, centroids), centroids


def column(shape, name):
    return shape.values[:, DESCRIPTOR_NAMES.index(name)]


@pytest.mark.parametrize("camera", [CAMERA, SQUASHED])
@pytest.mark.parametrize("tilt", [0.0, 0.5])
def test_a_plane_patch_has_the_spread_of_a_rectangle(camera, tilt):
    mask, depth = plane_patch(camera, (0.02, -0.03, 0.8), 0.2, 0.1, tilt=tilt)
    shape, _ = describe(mask[None], metric(depth), camera)
    # A uniform rectangle of side a has standard deviation a / sqrt(12); perspective over a tilted one weighs its near
    # part more, and one pixel of outline is 2 % of 0.1 m: 4 % in all.
    np.testing.assert_allclose(shape.values[0, 3:5], (0.2 / np.sqrt(12), 0.1 / np.sqrt(12)), rtol=0.04)
    assert shape.values[0, 5] < 1e-6
    assert column(shape, "e2_e1")[0] == pytest.approx(0.5, rel=0.05)
    assert column(shape, "e3_e1")[0] < 1e-5


@pytest.mark.parametrize("camera", [CAMERA, SQUASHED])
def test_a_sphere_has_the_spread_of_its_visible_cap(camera):
    radius = 0.05
    mask, depth = sphere(camera, (0.0, 0.0, 1.2), radius)
    shape, _ = describe(mask[None], metric(depth), camera)
    # Over the disc of a far hemisphere: R / 2 across, R / (3 sqrt 2) along the view. At 24 radii the cap is a few
    # per cent smaller.
    np.testing.assert_allclose(shape.values[0, 3:6], radius * np.array([0.5, 0.5, 1 / np.sqrt(18)]), rtol=0.05)
    assert column(shape, "e3_e1")[0] == pytest.approx(0.471, rel=0.06)


def test_a_box_seen_from_the_front_shows_its_front_only():
    mask, depth = box(CAMERA, (0.0, 0.0, 0.8), (0.16, 0.08, 0.1))
    shape, centroids = describe(mask[None], metric(depth))
    np.testing.assert_allclose(shape.values[0, 3:5], (0.16 / np.sqrt(12), 0.08 / np.sqrt(12)), rtol=0.03)
    assert column(shape, "depth_range")[0] == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(shape.values[0, :3], centroids.xyz[0])


def test_depth_range_is_that_of_a_tilted_plane_without_its_tails():
    mask, depth = plane_patch(CAMERA, (0.0, 0.0, 1.0), 0.1, 0.3, tilt=0.6)
    shape, _ = describe(mask[None], metric(depth))
    # 90 % of the tilted side's extent in z. Pixels are spread evenly in the image and not on the patch, where the far
    # half is foreshortened more: the share of a length of 0.3 m at 1 m changes by 3 %.
    assert column(shape, "depth_range")[0] == pytest.approx(0.9 * 0.3 * np.sin(0.6), rel=0.03)


def test_visibility_is_corrected_for_distance_and_sees_occlusion():
    frames = [plane_patch(CAMERA, (0.0, 0.0, z), 0.2, 0.1) for z in (0.7, 0.9, 1.2)]
    masks, depth = np.stack([f[0] for f in frames]), np.stack([f[1] for f in frames])
    masks[2, :, :128] = False
    shape, _ = describe(masks, metric(depth))
    np.testing.assert_allclose(column(shape, "visibility"), (1, 1, 0.5), rtol=0.04)  # outline pixels: 2 of 50


def test_a_turning_object_changes_its_numbers_smoothly():
    """Extents of a nearly square patch cross each other as it tilts; no axis may jump, no sign flip."""
    frames = [plane_patch(CAMERA, (0.0, 0.0, 0.8), 0.14, 0.16, tilt=a) for a in np.linspace(-1.0, 1.0, 81)]
    shape, _ = describe(np.stack([f[0] for f in frames]), metric(np.stack([f[1] for f in frames])))
    steps = np.abs(np.diff(shape.values[:, 3:6], axis=0))
    assert (shape.values[:, 3] >= shape.values[:, 4]).all()
    assert (shape.values[:, 4] >= shape.values[:, 5]).all()
    assert steps.max() < 0.0025  # under one pixel (2.7 mm) a step


def test_bleeding_masks_and_blurred_depth_keep_the_extents():
    mask, depth = sphere(CAMERA, (0.0, 0.0, 0.8), 0.08, background=1.3)
    clean = describe(mask[None], metric(depth))[0].values[0]
    robust = describe(dilate(mask, 3)[None], metric(blur(depth, 1.5)))[0].values[0]
    plain = describe(dilate(mask, 3)[None], metric(blur(depth, 1.5)), method="mean")[0].values[0]
    assert np.abs(robust[3:6] - clean[3:6]).max() < np.abs(plain[3:6] - clean[3:6]).max() / 3


def test_frames_without_an_object_are_nan_and_not_valid():
    mask, depth = box(CAMERA, (0.0, 0.0, 0.8), (0.16, 0.08, 0.1))
    shape, _ = describe(np.stack([mask, np.zeros_like(mask)]), metric(np.stack([depth, depth])))
    assert shape.valid.tolist() == [True, False]
    assert np.isnan(shape.values[1]).all()
    assert np.isfinite(shape.values[0]).all()


def test_a_pixel_and_a_line_of_pixels_have_finite_descriptors():
    masks = np.zeros((2, 256, 256), bool)
    masks[0, 40, 50] = True
    masks[1, 40, 50:90] = True
    shape, _ = describe(masks, metric(np.full((2, 256, 256), 0.8)))
    assert shape.valid.all()
    assert shape.values[0, 3:9].tolist() == [0, 0, 0, 0, 0, 0]
    line = 40 * 0.8 / 300 / np.sqrt(12)
    np.testing.assert_allclose(shape.values[1, 3:6], (line, 0, 0), atol=1e-4)
    assert shape.values[1, 6:8].tolist() == [0, 0]


def test_a_mask_of_everything_is_described():
    shape, _ = describe(np.ones((1, 256, 256), bool), metric(np.full((1, 256, 256), 0.8)))
    assert shape.valid.all()
    assert column(shape, "visibility")[0] == 1


def test_relative_depth_gives_relative_descriptors():
    mask, depth = box(CAMERA, (0.0, 0.0, 0.8), (0.16, 0.08, 0.1), background=1.5)
    shape, _ = describe(mask[None], Depth((1 / depth[None]).astype(np.float32), "relative"))
    assert shape.unit == "relative"
    assert column(shape, "e2_e1")[0] == pytest.approx(0.5, rel=0.03)  # ratios across the view need no scale


def test_centroids_of_another_clip_are_refused():
    mask, depth = box(CAMERA, (0.0, 0.0, 0.8), (0.16, 0.08, 0.1))
    _, centroids = describe(mask[None], metric(depth))
    with pytest.raises(ShapeError, match="length"):
        describe_shape(np.stack([mask, mask]), metric(np.stack([depth, depth])), CAMERA, centroids)
