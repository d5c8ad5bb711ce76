"""Where a known camera should see points that ride, and how their patches look from there."""

from dataclasses import replace

import numpy as np
import pytest

from extractors.handeye.known import KnownCamera
from extractors.handeye.sight import sight
from tests.benchmarks.handeye_scenes import HAND, Recipe, random_scene


def seen_by_truth(scene, points, posed):
    camera = KnownCamera(scene.focal_px, scene.carrier_from_camera, scene.delay_s)
    return sight(scene.clip, camera, points, posed)


@pytest.mark.parametrize("aspect", [1.0, 4 / 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_points_are_expected_where_they_are_seen(seed, aspect):
    scene = random_scene(seed, replace(Recipe(), pixel_aspect=aspect, delay=(0.0, 0.0)))
    points = np.where((scene.kind == HAND)[:, None], scene.points, np.nan)
    seen = seen_by_truth(scene, points, np.zeros(len(points), int))
    on_hand = scene.kind == HAND
    np.testing.assert_allclose(seen.xy[:, on_hand], scene.exact_xy[:, on_hand], atol=0.05)
    assert np.isnan(seen.xy[:, ~on_hand]).all()
    assert np.isnan(seen.warps[:, ~on_hand]).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_patch_that_faced_the_camera_is_seen_as_it_has_turned(seed):
    scene = random_scene(seed, replace(Recipe(), delay=(0.0, 0.0), pixel_aspect=1.2))
    on_hand = np.flatnonzero(scene.kind == HAND)
    points, posed = scene.points[on_hand], np.arange(len(on_hand)) % len(scene.clip.timestamp)
    seen = seen_by_truth(scene, points, posed)
    # A step of a millimetre across the line of sight of the frame that the point was posed in.
    pose = np.linalg.inv(scene.clip.hand_pose[posed]) @ scene.carrier_from_camera
    ray = points - pose[:, :3, 3]
    across = np.cross(ray, pose[:, :3, 1])
    beside = points + 1e-3 * across / np.linalg.norm(across, axis=1, keepdims=True)
    offset = seen_by_truth(scene, beside, posed).xy - seen.xy
    own = offset[posed, np.arange(len(posed))]
    np.testing.assert_allclose(np.einsum("tnij,nj->tni", seen.warps, own), offset, atol=0.02)
    np.testing.assert_allclose(
        seen.warps[posed, np.arange(len(posed))], np.eye(2)[None].repeat(len(posed), 0), atol=1e-6
    )
