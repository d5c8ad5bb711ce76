import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from extractors.errors import GeometryError
from extractors.handeye.path import HandPath


def poses(times):
    """A hand that goes on a circle and turns at 0.5 rad/s about a slanted axis."""
    pose = np.repeat(np.eye(4)[None], len(times), axis=0)
    pose[:, :3, 3] = np.stack([np.cos(times), np.sin(times), 0.1 * times], axis=1)
    pose[:, :3, :3] = Rotation.from_rotvec(0.5 * times[:, None] * [0.6, 0, 0.8]).as_matrix()
    return pose


@pytest.mark.parametrize("fps", [3.0, 5.0, 30.0, 60.0])
@pytest.mark.parametrize("rig", ["fixed", "wrist"])
def test_poses_between_rows_and_their_rates(fps, rig):
    times = np.arange(0, 4, 1 / fps)
    path = HandPath.through(poses(times), times, np.zeros(3), rig)
    delay = 0.37 / fps
    found, truth = path.at(delay), poses(times + delay)
    if rig == "wrist":
        truth = np.linalg.inv(truth)
    inner = slice(1, -2)
    # Natural splines err at their ends; 2 mm and 0.2 degrees at 3 Hz on a circle of 1 m.
    np.testing.assert_allclose(found.translation[inner], truth[inner, :3, 3], atol=4e-3 if fps < 10 else 1e-4)
    np.testing.assert_allclose(found.rotation[inner], truth[inner, :3, :3], atol=2e-3)
    ahead, behind = path.at(delay + 1e-6), path.at(delay - 1e-6)
    rate = (ahead.translation - behind.translation) / 2e-6
    np.testing.assert_allclose(found.translation_rate[inner], rate[inner], atol=1e-5)
    np.testing.assert_allclose(
        found.rotation_rate[inner], ((ahead.rotation - behind.rotation) / 2e-6)[inner], atol=1e-5
    )


def test_dropped_rows_are_bridged():
    times = np.arange(20) / 10
    pose = poses(times)
    truth = pose.copy()
    pose[7:9] = np.nan
    found = HandPath.through(pose, times, np.zeros(3)).at(0.0)
    np.testing.assert_allclose(found.translation, truth[:, :3, 3], atol=2e-3)


def test_beyond_its_ends_nothing_was_recorded():
    times = np.arange(10) / 10
    found = HandPath.through(poses(times), times, np.zeros(3)).at(0.3)
    np.testing.assert_array_equal(found.inside, times + 0.3 <= 0.95)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda pose, times: (pose * np.nan, times), "two poses"),
        (lambda pose, times: (pose, times * 0), "increase"),
        (lambda pose, times: (pose * 2, times), "no rotations"),
    ],
)
def test_what_is_no_path_is_refused(spoil, what):
    times = np.arange(5) / 5
    with pytest.raises(GeometryError, match=what):
        HandPath.through(*spoil(poses(times), times), np.zeros(3))
