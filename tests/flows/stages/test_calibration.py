"""The hand's pose and the camera that it calibrates, as the stage stores them."""

from typing import ClassVar

import numpy as np
import pytest

from flows.config import load_config
from flows.stages.calibration import CALIBRATION, read_hand
from packers.schema import Dataset
from packers.writer import decode

BRIDGE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


class Inputs:
    """Stands for `StageInputs`: a state with names, and a configuration."""

    def __init__(self, state, names=(), *settings):
        self.config = load_config(assignments=settings).resolved()
        self._state = None if state is None else Dataset(state, {"names": list(names)} if names else {})

    source: ClassVar = {"tags": []}
    camera_moves = False

    def read(self, name):
        return None if self._state is None or name != "state" else self._state.data

    def dataset(self, name):
        assert name == "state"
        return self._state


def state(n_frames=6, width=7):
    rows = np.zeros((n_frames, width), np.float32)
    rows[:, 0] = np.linspace(0.2, 0.4, n_frames)
    rows[:, 5:6] = 0.5
    return rows


def test_a_state_named_as_bridge_names_it_becomes_poses():
    hand, _ = read_hand(Inputs(state(), BRIDGE))
    assert hand.pose.shape == (6, 4, 4)
    np.testing.assert_allclose(hand.pose[:, 0, 3], np.linspace(0.2, 0.4, 6), rtol=1e-5)
    # Yaw turns about the base's z axis.
    np.testing.assert_allclose(hand.pose[0, :2, 0], [np.cos(0.5), np.sin(0.5)], rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "names", "settings", "words"),
    [
        (None, (), (), "no state"),
        (state(), (), (), "robot.state_names"),
        (state(width=3), ("j0", "j1", "j2"), (), "robot.urdf"),
        (state(width=6), ("x", "y", "z", "rx", "ry", "rz"), (), "rotation vector or three angles"),
        (state(width=14), [f"{arm}_{name}" for arm in ("left", "right") for name in BRIDGE], (), "robot.prefix"),
        (state() * 1000, BRIDGE, (), "robot.length_unit"),
        (state(), ("x", "y"), ("robot.state_names=[x, y]",), "2 names for a state of 7"),
    ],
)
def test_what_the_names_do_not_settle_is_refused_with_what_to_set(rows, names, settings, words):
    hand, reason = read_hand(Inputs(rows, names, *settings))
    assert hand is None
    assert words in reason


def test_settings_settle_it():
    rows = state(width=14)
    rows[:, 7] = 300
    names = [f"{arm}_{name}" for arm in ("left", "right") for name in BRIDGE]
    hand, reason = read_hand(Inputs(rows, names, "robot.prefix=right", "robot.length_unit=mm"))
    assert reason == ""
    np.testing.assert_allclose(hand.pose[:, 0, 3], 0.3, rtol=1e-5)
    assert hand.tags == ("hand-still",)


def test_dropped_rows_are_marked():
    rows = state()
    rows[2] = np.nan
    output = CALIBRATION.run(Inputs(rows, BRIDGE, "geometry.calibration=off"))
    np.testing.assert_array_equal(decode(output.datasets["hand_pose_valid"]), np.arange(6) != 2)
    assert np.isnan(decode(output.datasets["hand_pose"])[2]).all()
    assert output.report["tags"] == ["state-dropped"]
