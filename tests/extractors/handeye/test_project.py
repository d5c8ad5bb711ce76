import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from extractors.handeye.path import HandPath
from extractors.handeye.problem import N_CAMERA, CameraState
from extractors.handeye.project import (
    PROJECTING,
    Observations,
    carried_by,
    poses_at,
    project_only,
    project_points,
    stepped,
)
from tests.benchmarks.handeye_scenes import HAND, STATIC, Recipe, random_scene


@pytest.fixture(params=["fixed", "wrist"])
def view(request):
    """A camera, points, a path and where the points are seen, off the truth so that nothing cancels."""
    scene = random_scene(3, Recipe(rig=request.param, seconds=(2, 2), fps=(8, 8)))
    clip, origin = scene.clip, scene.clip.hand_pose[:, :3, 3].mean(axis=0)
    chosen = np.flatnonzero(scene.kind == (HAND if request.param == "fixed" else STATIC))[:5]
    frame, track = np.divmod(np.arange(len(clip.xy) * 5), 5)
    order = np.argsort(track, kind="stable")
    seen = Observations(clip.centred[frame, chosen[track]][order], frame[order], track[order], 5)
    points = scene.points[chosen] - (origin if request.param == "wrist" else 0)
    pose = scene.carrier_from_camera
    position = pose[:3, 3] - (0 if request.param == "wrist" else origin)
    state = CameraState(np.log(scene.focal_px / 256), pose[:3, :3], position, np.zeros(3), 0.03, 0.05)
    return state, points, [HandPath.through(clip.hand_pose, clip.timestamp, origin, request.param)], seen


def test_derivatives_by_the_camera_are_those_of_small_steps(view):
    state, points, paths, seen = view
    found = project_points(state, points, carried_by(poses_at(paths, state.delay_s), seen), seen)
    assert (found.depth > 0.02).all()
    for column, by_column in zip(PROJECTING, found.by_camera, strict=True):
        step = np.zeros(N_CAMERA)
        step[column] = 1e-6
        ahead, behind = stepped(state, step), stepped(state, -step)
        poses = [carried_by(poses_at(paths, each.delay_s), seen) for each in (ahead, behind)]
        xy = [project_only(*each, seen)[0] for each in ((ahead, points, poses[0]), (behind, points, poses[1]))]
        # A ninth of the frames stands at an end of the path, where it has a rate on one side only.
        inside = np.ones(len(seen.frame), bool) if column != 10 else (seen.frame > 0) & (seen.frame < 15)
        np.testing.assert_allclose(
            by_column[:, inside], ((xy[0] - xy[1]) / 2e-6)[:, inside], atol=2e-5, err_msg=str(column)
        )


def test_derivatives_by_a_point_are_those_of_small_steps(view):
    state, points, paths, seen = view
    poses = carried_by(poses_at(paths, state.delay_s), seen)
    found = project_points(state, points, poses, seen)
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = 1e-6
        ahead, behind = (project_only(state, points + sign * step, poses, seen)[0] for sign in (1, -1))
        np.testing.assert_allclose(found.by_point[axis], (ahead - behind) / 2e-6, atol=1e-5)


def test_sums_over_tracks_leave_empty_tracks_at_zero():
    seen = Observations(np.zeros((4, 2)), np.arange(4), np.array([1, 1, 3, 3]), 5)
    np.testing.assert_array_equal(seen.per_track(np.array([1.0, 2, 3, 4])), [0, 3, 0, 7, 0])
    np.testing.assert_array_equal(seen.renumbered().track, [0, 0, 1, 1])


def test_a_step_turns_about_the_cameras_own_axes():
    state = CameraState(0.0, Rotation.from_euler("x", 90, degrees=True).as_matrix(), np.zeros(3), np.zeros(3))
    step = np.zeros(N_CAMERA)
    step[3] = np.pi / 2
    turned = stepped(state, step).rotation
    np.testing.assert_allclose(turned @ [0, 0, 1], state.rotation @ [0, 0, 1], atol=1e-12)
