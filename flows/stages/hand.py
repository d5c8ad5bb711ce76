"""The pose of the robot's hand, from the state that the source records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError, GeometryError
from extractors.hand_pose import METRES, HandPose, hand_from_poses, hand_pose_from_state
from extractors.kinematics import hand_poses, read_urdf
from flows.config import RobotConfig
from flows.stages.base import StageInputs


def read_hand(inputs: StageInputs) -> tuple[HandPose | None, str]:
    """The hand's pose from the state, or why there is none."""
    state, robot = inputs.read("state"), inputs.config.robot
    if state is None:
        return None, "the source records no state"
    if robot.urdf is not None:
        return _hand_of_joints(state, robot)
    names = robot.state_names or tuple(inputs.dataset("state").attributes.get("names", ()))
    if len(names) not in (0, state.shape[1]):
        return None, f"robot.state_names has {len(names)} names for a state of {state.shape[1]} numbers"
    try:
        hand = hand_pose_from_state(
            state, names, prefix=robot.prefix, length_unit=robot.length_unit, angle_unit=robot.angle_unit
        )
    except GeometryError as error:
        return None, str(error)
    return hand, ""


def _hand_of_joints(state: NDArray[Any], robot: RobotConfig) -> tuple[HandPose | None, str]:
    """The hand's pose from joint values and the robot's description."""
    assert robot.urdf is not None
    if len(robot.joints) != state.shape[1]:
        return None, f"robot.joints has {len(robot.joints)} names for a state of {state.shape[1]} numbers; - for others"
    chosen = [index for index, name in enumerate(robot.joints) if name != "-"]
    try:
        joints = read_urdf(Path(robot.urdf).read_text(encoding="utf-8"))
        slides = {joint.name for joint in joints.values() if joint.kind == "prismatic"}
        names = [robot.joints[index] for index in chosen]
        angle = np.pi / 180 if robot.angle_unit == "deg" else 1.0
        units = [METRES[robot.length_unit] if name in slides else angle for name in names]
        pose = hand_poses(joints, names, state[:, chosen] * units, robot.hand_link)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"robot.urdf: {robot.urdf} cannot be read ({error})") from error
    except GeometryError as error:
        return None, str(error)
    about = {"names": names, "urdf_sha256": robot.urdf_sha256, "convention": "forward kinematics"}
    return hand_from_poses(pose, about), ""
