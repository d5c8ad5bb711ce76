"""Centroids of rendered bodies, and of what real masks and depth do to them."""

from __future__ import annotations

import numpy as np
import pytest

from extractors.centroids import extract_centroids, relative_mapping
from extractors.errors import ConfigError, GeometryError, ShapeError
from extractors.geometry import dilate, project
from extractors.types import Camera, Depth
from tests.extractors.rendering import blur, box, metric, plane_patch, sphere

CAMERA = Camera(fx=300.0, fy=300.0, cx=127.5, cy=127.5, width=256, height=256, source="calibrated", sigma=0.0)
SQUASHED = Camera(fx=420.0, fy=560.0, cx=319.5, cy=239.5, width=640, height=480, source="calibrated").resized(256, 256)

PIXEL_M = 0.8 / 300
"""One pixel at 0.8 m. Rendering samples pixel centres: a mean over the outline of a body some 60 pixels wide is known
to a small part of a pixel; a tenth is allowed."""


@pytest.mark.parametrize("camera", [CAMERA, SQUASHED])
@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.8), (0.1, -0.08, 0.8)])
def test_a_sphere_has_the_centroid_of_its_visible_cap(camera, centre):
    radius = 0.06
    mask, depth = sphere(camera, centre, radius)
    found = extract_centroids(mask[None], metric(depth), camera)
    # Seen from afar, the visible hemisphere lies 2/3 of the radius before the centre, averaged over its disc; from
    # distance d the cap is smaller, which moves that by less than (radius / d) * radius.
    direction = np.array(centre) / np.linalg.norm(centre)
    expected = np.array(centre) - direction * radius * 2 / 3
    assert np.linalg.norm(found.xyz[0] - expected) < radius * radius / 0.8
    assert found.unit == "m"
    assert found.valid.all()


@pytest.mark.parametrize("camera", [CAMERA, SQUASHED])
def test_a_plane_patch_facing_the_camera_has_its_centre(camera):
    mask, depth = plane_patch(camera, (0.03, 0.05, 0.8), 0.2, 0.1)
    found = extract_centroids(mask[None], metric(depth), camera)
    np.testing.assert_allclose(found.xyz[0], (0.03, 0.05, 0.8), atol=0.5 * PIXEL_M * 300 / camera.fx)


@pytest.mark.parametrize("camera", [CAMERA, SQUASHED])
def test_a_box_facing_the_camera_has_the_centre_of_its_front(camera):
    mask, depth = box(camera, (0.0, 0.0, 0.8), (0.16, 0.12, 0.1))
    found = extract_centroids(mask[None], metric(depth), camera)
    np.testing.assert_allclose(found.xyz[0], (0.0, 0.0, 0.75), atol=0.1 * PIXEL_M)


def test_isotropic_back_projection_of_a_squashed_frame_would_be_wrong():
    mask, depth = plane_patch(SQUASHED, (0.1, 0.1, 0.8), 0.1, 0.1)
    found = extract_centroids(mask[None], metric(depth), SQUASHED).xyz[0]
    assert found[0] == pytest.approx(found[1], abs=PIXEL_M)
    pixel = project(found, SQUASHED) - (127.5, 127.5)
    assert pixel[0] < 0.8 * pixel[1] * 4 / 3  # equal offsets in metres are unequal ones in pixels


def test_the_robust_mean_of_masks_that_fit_is_the_plain_mean():
    mask, depth = box(CAMERA, (0.02, 0.0, 0.8), (0.1, 0.1, 0.1))
    robust, plain = (extract_centroids(mask[None], metric(depth), CAMERA, method=m) for m in ("robust", "mean"))
    np.testing.assert_array_equal(robust.xyz, plain.xyz)
    assert robust.report["mask_bleed_px"] == robust.report["soft_edge_px"] == 0


@pytest.mark.parametrize("sigma_px", [0.0, 1.0, 2.0])
def test_masks_that_bleed_onto_the_background_hardly_move_the_robust_mean(sigma_px):
    mask, depth = sphere(CAMERA, (0.05, 0.02, 0.8), 0.06, background=1.2)
    truth = extract_centroids(mask[None], metric(depth), CAMERA, method="mean").xyz
    grown, soft = dilate(mask, 3)[None], metric(blur(depth, sigma_px))
    errors = {
        m: np.linalg.norm(extract_centroids(grown, soft, CAMERA, method=m).xyz - truth) for m in ("robust", "mean")
    }
    assert errors["robust"] < errors["mean"] / 3
    assert errors["robust"] < 2 * PIXEL_M


def test_blurred_depth_under_masks_that_fit_is_repaired_at_the_edge():
    mask, depth = box(CAMERA, (0.0, 0.0, 0.8), (0.1, 0.1, 0.1), background=1.5)
    soft = metric(blur(depth, 2.0))
    errors = [
        np.linalg.norm(extract_centroids(mask[None], soft, CAMERA, method=m).xyz - (0, 0, 0.75))
        for m in ("robust", "mean")
    ]
    assert errors[0] < errors[1] / 3


def test_frames_without_a_mask_or_a_reading_are_nan_and_not_valid():
    mask, depth = box(CAMERA, (0.0, 0.0, 0.8), (0.1, 0.1, 0.1))
    masks = np.stack([mask, np.zeros_like(mask), mask])
    values = np.stack([depth, depth, np.zeros_like(depth)]).astype(np.float32)
    found = extract_centroids(masks, Depth(values, "metric"), CAMERA)
    assert found.valid.tolist() == [True, False, False]
    assert np.isnan(found.xyz[1:]).all()
    assert np.isnan(found.sigma[1:]).all()
    assert np.isfinite(found.sigma[0]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_readings_that_are_none_are_left_out(bad):
    mask, depth = plane_patch(CAMERA, (0.0, 0.0, 0.8), 0.2, 0.1)
    depth = depth.copy()
    depth[100:156:2, 100:156:2] = bad
    found = extract_centroids(mask[None], metric(depth), CAMERA)
    np.testing.assert_allclose(found.xyz[0], (0, 0, 0.8), atol=PIXEL_M)


def test_a_clip_without_any_mask_is_all_nan():
    found = extract_centroids(
        np.zeros((3, 256, 256), bool), Depth(np.ones((3, 256, 256), np.float32), "metric"), CAMERA
    )
    assert not found.valid.any()


def test_a_mask_of_everything_and_of_one_pixel_have_a_mean():
    values = np.full((2, 256, 256), 0.8, np.float32)
    masks = np.ones((2, 256, 256), bool)
    masks[1] = False
    masks[1, 60, 30] = True
    found = extract_centroids(masks, Depth(values, "metric"), CAMERA)
    np.testing.assert_allclose(found.xyz[0], (0, 0, 0.8), atol=1e-6)
    np.testing.assert_allclose(found.xyz[1], (0.8 * -97.5 / 300, 0.8 * -67.5 / 300, 0.8), atol=1e-6)


def test_millimetres_are_refused():
    with pytest.raises(GeometryError, match="millimetres"):
        extract_centroids(
            np.ones((1, 256, 256), bool), Depth(np.full((1, 256, 256), 800, np.float32), "metric"), CAMERA
        )


def test_sizes_and_methods_that_do_not_fit_are_refused():
    depth = Depth(np.ones((1, 256, 256), np.float32), "metric")
    with pytest.raises(ShapeError, match="one size"):
        extract_centroids(np.ones((2, 256, 256), bool), depth, CAMERA)
    with pytest.raises(ShapeError, match="camera"):
        extract_centroids(np.ones((1, 256, 256), bool), depth, CAMERA.resized(224, 224))
    with pytest.raises(ShapeError, match="bool"):
        extract_centroids(np.ones((1, 256, 256), np.uint8), depth, CAMERA)
    with pytest.raises(ConfigError, match="robust"):
        extract_centroids(np.ones((1, 256, 256), bool), depth, CAMERA, method="median")


def _relative_clip(scale, shift):
    mask, depth = box(CAMERA, (0.0, 0.0, 0.8), (0.1, 0.1, 0.1), background=1.5)
    near, depth_near = box(CAMERA, (0.0, 0.0, 0.7), (0.1, 0.1, 0.1), background=1.5)
    inverse = scale / np.stack([depth, depth_near]) + shift
    return np.stack([mask, near]), Depth(inverse.astype(np.float32), "relative")


def test_relative_depth_is_mapped_once_per_clip_and_flagged():
    masks, depth = _relative_clip(3.0, 0.5)
    found = extract_centroids(masks, depth, CAMERA)
    assert found.unit == "relative"
    mapping = found.report["inverse_depth"]
    inside = depth.values[0][masks[0]]
    expected = np.mean(1 / (mapping["scale"] * inside + mapping["shift"]))
    assert found.xyz[0, 2] == pytest.approx(expected, rel=1e-4)
    assert found.xyz[1, 2] < found.xyz[0, 2]  # a mapping per frame would hide that the box came nearer


def test_relative_centroids_do_not_depend_on_the_models_own_scale():
    first, second = (extract_centroids(*_relative_clip(*a), CAMERA).xyz for a in ((3.0, 0.5), (40.0, -7.0)))
    np.testing.assert_allclose(first, second, rtol=1e-4)


@pytest.mark.parametrize("width", [112, 200, 224, 225, 448])
@pytest.mark.parametrize("n_frames", [1, 7, 100, 448, 450, 894, 2000])
def test_the_mapping_does_not_depend_on_width_and_length(width, n_frames):
    """At 224 pixels 448 frames gave a scale of 1.086 in the place of 0.605, and 894 frames none at all."""
    inverse = np.linspace(0.0, 1.0, width, dtype=np.float32)
    mapping = relative_mapping(np.broadcast_to(inverse, (n_frames, 20, width)))
    assert mapping.scale == pytest.approx((1 - 1 / 2.2) / 0.9, rel=0.02)


def test_relative_depth_without_range_is_refused():
    with pytest.raises(GeometryError, match="range"):
        relative_mapping(np.full((2, 8, 8), 3.0))
    with pytest.raises(GeometryError, match="range"):
        relative_mapping(np.full((2, 8, 8), np.nan))


def test_sigma_of_the_focal_length_matches_a_monte_carlo():
    camera = Camera(fx=300, fy=300, cx=127.5, cy=127.5, width=256, height=256, source="assumed", sigma=0.1)
    mask, depth = box(camera, (0.15, -0.12, 0.8), (0.1, 0.1, 0.1))
    found = extract_centroids(mask[None], metric(depth), camera, depth_sigma=0.0, mask_sigma_px=0.0)
    rng = np.random.default_rng(0)
    samples = []
    for factor in rng.normal(1.0, 0.1, 400):
        drawn = Camera(300 * factor, 300 * factor, 127.5, 127.5, 256, 256)
        samples.append(extract_centroids(mask[None], metric(depth), drawn, method="mean").xyz[0])
    spread = np.std(samples, axis=0)
    np.testing.assert_allclose(found.sigma[0, :2], spread[:2], rtol=0.2)
    assert found.sigma[0, 2] == 0
    assert spread[2] < 1e-5  # depth does not depend on the focal length


def test_sigma_of_depth_and_mask_matches_a_monte_carlo():
    """Depth off by a common 3 %, each side of the mask off by 1.5 pixels (standard deviations)."""
    mask, depth = plane_patch(CAMERA, (0.15, 0.12, 0.8), 0.12, 0.12)
    found = extract_centroids(mask[None], metric(depth), CAMERA, depth_sigma=0.03, mask_sigma_px=1.5)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    rng = np.random.default_rng(1)
    samples = []
    for _ in range(400):
        top, bottom, left, right = np.rint(rng.normal(0, 1.5, 4)).astype(int)
        drawn = np.zeros_like(mask)
        drawn[rows[0] + top : rows[-1] + bottom + 1, columns[0] + left : columns[-1] + right + 1] = True
        values = metric(np.full_like(depth, 0.8) * rng.normal(1, 0.03))
        samples.append(extract_centroids(drawn[None], values, CAMERA, method="mean").xyz[0])
    np.testing.assert_allclose(found.sigma[0], np.std(samples, axis=0), rtol=0.2)
