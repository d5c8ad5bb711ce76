import numpy as np
import pytest

from extractors.errors import GeometryError, ShapeError
from extractors.hand_pose import hand_pose_from_state

BRIDGE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


def path(rows=20):
    state = np.zeros((rows, 7))
    state[:, 0] = np.linspace(0.2, 0.4, rows)
    state[:, 3:6] = (0.1, -0.4, 0.7)
    return state


def test_bridge_angles_turn_about_the_base_axes_roll_first():
    roll, pitch, yaw = 0.1, -0.4, 0.7
    c, s = np.cos, np.sin
    rx = np.array([[1, 0, 0], [0, c(roll), -s(roll)], [0, s(roll), c(roll)]])
    ry = np.array([[c(pitch), 0, s(pitch)], [0, 1, 0], [-s(pitch), 0, c(pitch)]])
    rz = np.array([[c(yaw), -s(yaw), 0], [s(yaw), c(yaw), 0], [0, 0, 1]])
    found = hand_pose_from_state(path(), BRIDGE)
    np.testing.assert_allclose(found.pose[3, :3, :3], rz @ ry @ rx, atol=1e-6)
    np.testing.assert_allclose(found.pose[:, 0, 3], path()[:, 0], atol=1e-6)
    assert found.valid.all()
    assert found.tags == ()


@pytest.mark.parametrize("order", [("qx", "qy", "qz", "qw"), ("qw", "qx", "qy", "qz")])
def test_a_quaternion_is_read_by_name_in_any_order(order):
    values = {"qx": 0.0, "qy": 0.0, "qz": np.sin(0.25), "qw": np.cos(0.25)}
    state = np.zeros((5, 7))
    state[:, 0] = np.arange(5) / 10
    state[:, 3:] = [values[name] for name in order]
    names = ("eef_pos.x", "eef_pos.y", "eef_pos.z", *(f"eef_{name}" for name in order))
    turned = hand_pose_from_state(state, names).pose[0, :3, :3]
    np.testing.assert_allclose(turned[:2, :2], [[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]], atol=1e-6)


def test_degrees_and_millimetres_are_refused_until_they_are_set():
    state = path() * ([1000.0] * 3 + [180 / np.pi] * 3 + [1.0])
    with pytest.raises(GeometryError, match=r"robot\.length_unit"):
        hand_pose_from_state(state, BRIDGE)
    with pytest.raises(GeometryError, match=r"robot\.angle_unit"):
        hand_pose_from_state(state, BRIDGE, length_unit="mm")
    found = hand_pose_from_state(state, BRIDGE, length_unit="mm", angle_unit="deg")
    np.testing.assert_allclose(found.pose, hand_pose_from_state(path(), BRIDGE).pose, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ((), "state_names"),
        ([f"joint_{k}" for k in range(7)], "urdf"),
        (("x", "y", "z", "rx", "ry", "rz", "gripper"), "rotation vector"),
        (("x", "y", "z", "a", "b", "c", "gripper"), "no turn"),
    ],
)
def test_names_that_do_not_say_are_refused_with_what_to_set(names, what):
    with pytest.raises(GeometryError, match=what):
        hand_pose_from_state(path(), names)


def test_of_two_hands_one_must_be_named():
    names = [f"{side}_{name}" for side in ("left", "right") for name in BRIDGE[:6]]
    state = np.concatenate([path()[:, :6], path()[:, :6] + 0.1], axis=1)
    with pytest.raises(GeometryError, match=r"robot\.prefix"):
        hand_pose_from_state(state, names)
    right = hand_pose_from_state(state, names, prefix="right")
    np.testing.assert_allclose(right.pose[:, 0, 3], path()[:, 0] + 0.1, atol=1e-6)


def test_dropped_rows_are_nan_and_a_still_hand_is_tagged():
    state = np.repeat(path()[:1], 10, axis=0)
    state[4] = np.nan
    found = hand_pose_from_state(state, BRIDGE)
    assert found.tags == ("hand-still", "state-dropped")
    assert not found.valid[4]
    assert np.isnan(found.pose[4]).all()
    assert found.report["dropped_rows"] == 1


def test_names_must_fit_the_rows():
    with pytest.raises(ShapeError, match="7"):
        hand_pose_from_state(path(), BRIDGE[:6])
