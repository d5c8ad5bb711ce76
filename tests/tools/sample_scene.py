"""A simulated table: the Sawyer arm of Meta-World picks one thing up and puts it somewhere else.

Arm, table, textures and the position-controlled hand are Meta-World's (MIT); the things on the table, the cameras and
the way-points are ours. One control step is 0.2 s of simulated time, so a recording is a true 5 Hz one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

CONTROL_S = 0.2
SETTLE_S = 3.0
WIDTH, HEIGHT = 320, 240
# Vertical field of view, degrees: one camera model for all episodes, as LeRobot's layout has one set of intrinsics.
FOVY = 33.0
MULTISAMPLES = 8
# Metres from the hand's origin to the fingertips, and the width that both fingers together can close (their joints).
FINGERTIP_M = 0.045
FINGER_TRAVEL_M = 0.07
# How far inside the object the fingers are told to be: 400 N/m times this is their force. Meta-World's own 1 m closes
# so hard that the fingers sink into what they hold.
GRIP_M = 0.2
# Least force between robot and object that counts as a touch; a held object weighs 1 N.
TOUCH_N = 0.01
# Geometry groups of Meta-World's models: 0 to 2 are drawn, 4 are collision shapes.
DRAWN_GROUPS = (0, 1, 2)

_SCENE = """
<mujoco>
  <include file="../scene/basic_scene.xml"/>
  <include file="../objects/assets/xyz_base_dependencies.xml"/>
  <asset>
    <texture name="t_wood" type="cube" file="../textures/wood4.png"/>
    <texture name="t_marble" type="cube" file="../textures/marble.png"/>
    <texture name="t_granite" type="cube" file="../textures/granite.png"/>
    <texture name="t_brick" type="cube" file="../textures/brick1.png"/>
    <texture name="t_plaster" type="cube" file="../textures/plaster1.png"/>
    <material name="wood" texture="t_wood" shininess=".2" specular=".2"/>
    <material name="marble" texture="t_marble" shininess=".2" specular=".2"/>
    <material name="granite" texture="t_granite" shininess=".2" specular=".2"/>
    <material name="brick" texture="t_brick" shininess=".2" specular=".2"/>
    <material name="plaster" texture="t_plaster" shininess=".2" specular=".2"/>
  </asset>
  <worldbody>
    <include file="../objects/assets/xyz_base.xml"/>
    {things}
  </worldbody>
  <actuator>
    <position ctrllimited="true" ctrlrange="-1 1" joint="r_close" kp="400"/>
    <position ctrllimited="true" ctrlrange="-1 1" joint="l_close" kp="400"/>
  </actuator>
  <equality><weld body1="mocap" body2="hand" relpose="0 0 0 1 0 0 0" torquescale="5" solref="0.02 1"/></equality>
</mujoco>
"""


@dataclass(frozen=True)
class Waypoint:
    """Where the hand goes next: fingertip position (m, world), turn about the vertical (rad), grip, control steps."""

    xyz: tuple[float, float, float]
    steps: int
    closed: bool = False
    yaw: float = 0.0


@dataclass(frozen=True)
class Script:
    """One episode to record.

    Attributes:
        name, instruction, noun: the episode's name, what the robot was told, and the object's name.
        things: MJCF bodies on the table; the manipulated one is called `object`.
        eye, target: a fixed camera and what it looks at, metres in the world.
        start: where the fingertips begin; path: what they do.
        place: where the object must lie at the end (m, world x and y), and within what distance.
        collection, date: where BridgeData's layout files the trajectory.
    """

    name: str
    instruction: str
    noun: str
    things: str
    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    start: Waypoint
    path: Sequence[Waypoint]
    place: tuple[float, float]
    tolerance_m: float
    collection: str
    date: str


@dataclass
class Recording:
    """T frames of one episode, everything exact.

    Attributes:
        pixels: (T, H, W, 3) uint8 RGB, multisampled.
        depth: (T, H, W) float32 metres along the optical axis at pixel centres, 0 where nothing was hit.
        body: (T, H, W) int32, the body whose surface is at the pixel centre, -1 for none.
        poses: (T, B, 4, 4) float64, body to world.
        K: (3, 3) float64 intrinsics, pixel centres at integers; T_world_cam: (4, 4) float64, OpenCV axes.
        object_ids, robot_ids: the bodies of the manipulated object, and of the arm with its gripper.
        state: (T, 7) fingertip xyz (m), roll, pitch, yaw (rad), opening (1 open, 0 closed).
        command: (T, 7) the same numbers as commanded, grip 1 or 0; `action` t is the step from row t to t + 1.
        joints, joint_speeds: (T, 7) float64, the arm's (rad, rad/s).
        contact, held: (T,) bool, the collision engine's: any part of the robot, or both fingers, touch the object.
    """

    script: Script
    K: NDArray[np.float64]
    T_world_cam: NDArray[np.float64]
    object_ids: frozenset[int]
    robot_ids: frozenset[int]
    pixels: NDArray[np.uint8]
    depth: NDArray[np.float32]
    body: NDArray[np.int32]
    poses: NDArray[np.float64]
    state: NDArray[np.float64]
    command: NDArray[np.float64]
    joints: NDArray[np.float64]
    joint_speeds: NDArray[np.float64]
    contact: NDArray[np.bool_]
    held: NDArray[np.bool_]

    @property
    def action(self) -> NDArray[np.float64]:
        """(T - 1, 7): xyz step (m), rotation step (rad), grip absolute (1 open, 0 closed)."""
        return np.concatenate([np.diff(self.command[:, :6], axis=0), self.command[1:, 6:]], axis=1)


def record(script: Script) -> Recording:
    """Play `script` and render one frame per control step.

    Raises:
        RuntimeError: the object does not lie where the script wants it, still, out of the gripper.
    """
    table = Table(script)
    rows = [table.observe()]
    previous = script.start
    for waypoint in script.path:
        for step in range(waypoint.steps):
            table.move(previous, waypoint, step / waypoint.steps, (step + 1) / waypoint.steps)
            rows.append(table.observe())
        previous = waypoint
    table.check_placed()
    table.close()
    return Recording(
        script, table.K, table.T_world_cam, table.object_ids, table.robot_ids, *map(np.array, zip(*rows, strict=True))
    )


class Table:
    """One running simulation."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.model = _load(script)
        self.data = mujoco.MjData(self.model)
        self.object_ids = _subtree(self.model, "object")
        self.robot_ids = _subtree(self.model, "base")
        self.K, self.T_world_cam = _place_camera(self.model, script)
        self._draw, self._measure = _renderers(self.model)
        self._options = mujoco.MjvOption()
        self._options.sitegroup[:] = 0
        self._options.geomgroup[:] = [group in DRAWN_GROUPS for group in range(6)]
        self._hand_down: NDArray[np.float64] | None = None
        self._command(script.start, script.start, 1.0)
        self._run(SETTLE_S)
        # Orientations are told relative to the hand as it hangs without a turn.
        self._hand_down = _about_z(-script.start.yaw) @ self.data.body("hand").xmat.reshape(3, 3)

    def move(self, origin: Waypoint, goal: Waypoint, start: float, end: float) -> None:
        """Run one control step, the command going smoothly from share `start` of the way to share `end`."""
        n = round(CONTROL_S / self.model.opt.timestep)
        for share in np.linspace(start, end, n + 1)[1:]:
            self._command(origin, goal, float(share))
            mujoco.mj_step(self.model, self.data)

    def observe(self) -> tuple[NDArray[np.generic], ...]:
        """One row of `Recording`, pixels first."""
        mujoco.mj_forward(self.model, self.data)
        touching = self._touching()
        pads = {self.model.body(name).id for name in ("rightpad", "leftpad")}
        joints = [self.model.joint(f"right_j{i}") for i in range(7)]
        q = np.array([self.data.qpos[j.qposadr[0]] for j in joints])
        dq = np.array([self.data.qvel[j.dofadr[0]] for j in joints])
        contact, held = np.bool_(touching), np.bool_(pads <= touching)
        return (*self._frame(), self._poses(), self._state(), self._commanded.copy(), q, dq, contact, held)

    def check_placed(self) -> None:
        """Raise RuntimeError unless the object lies still in its place."""
        body = self.data.body("object")
        off = float(np.linalg.norm(body.xpos[:2] - self.script.place))
        speed = float(np.linalg.norm(body.cvel[3:]))
        if off > self.script.tolerance_m or speed > 0.02 or self._touching():
            raise RuntimeError(f"{self.script.name}: object {off:.3f} m off its place, {speed:.3f} m/s, at {body.xpos}")

    def close(self) -> None:
        """Give the drawing contexts back; two tables must not draw in turns."""
        self._draw.close()
        self._measure.close()

    def _command(self, origin: Waypoint, goal: Waypoint, share: float) -> None:
        ease = share * share * (3.0 - 2.0 * share)
        xyz = np.array(origin.xyz) * (1.0 - ease) + np.array(goal.xyz) * ease
        yaw = origin.yaw * (1.0 - ease) + goal.yaw * ease
        self._commanded = np.array([*xyz, 0.0, 0.0, yaw, 0.0 if goal.closed else 1.0])
        self.data.mocap_pos[0] = xyz + FINGERTIP_M * np.array([0.0, 0.0, 1.0])
        turn, down, quaternion = np.zeros(4), np.array([1.0, 0.0, 1.0, 0.0]) / np.sqrt(2.0), np.zeros(4)
        mujoco.mju_axisAngle2Quat(turn, np.array([0.0, 0.0, 1.0]), yaw)
        mujoco.mju_mulQuat(quaternion, turn, down)
        self.data.mocap_quat[0] = quaternion
        grip = GRIP_M if goal.closed else -GRIP_M
        self.data.ctrl[:] = grip, -grip

    def _run(self, seconds: float) -> None:
        for _ in range(round(seconds / self.model.opt.timestep)):
            mujoco.mj_step(self.model, self.data)

    def _state(self) -> NDArray[np.float64]:
        hand = self.data.body("hand")
        assert self._hand_down is not None
        turn = hand.xmat.reshape(3, 3) @ self._hand_down.T
        roll = np.arctan2(turn[2, 1], turn[2, 2])
        pitch = -np.arcsin(np.clip(turn[2, 0], -1.0, 1.0))
        yaw = np.arctan2(turn[1, 0], turn[0, 0])
        right, left = (self.data.qpos[self.model.joint(name).qposadr[0]] for name in ("r_close", "l_close"))
        tip = hand.xpos - [0.0, 0.0, FINGERTIP_M]
        return np.array([*tip, roll, pitch, yaw, 1.0 - (right - left) / FINGER_TRAVEL_M])

    def _poses(self) -> NDArray[np.float64]:
        poses = np.tile(np.eye(4), (self.model.nbody, 1, 1))
        poses[:, :3, :3] = self.data.xmat.reshape(-1, 3, 3)
        poses[:, :3, 3] = self.data.xpos
        return poses

    def _touching(self) -> set[int]:
        found: set[int] = set()
        force = np.zeros(6)
        for i, contact in enumerate(self.data.contact):
            pair = {int(self.model.geom_bodyid[contact.geom1]), int(self.model.geom_bodyid[contact.geom2])}
            if not (pair & self.object_ids and pair & self.robot_ids):
                continue
            mujoco.mj_contactForce(self.model, self.data, i, force)
            # Contacts within the collision margin that carry nothing are no touch.
            if np.linalg.norm(force[:3]) > TOUCH_N:
                found |= pair & self.robot_ids
        return found

    def _frame(self) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32]]:
        self._draw.update_scene(self.data, camera="view", scene_option=self._options)
        pixels = self._draw.render().copy()
        measure = self._measure
        measure.update_scene(self.data, camera="view", scene_option=self._options)
        measure.enable_depth_rendering()
        depth = measure.render().copy()
        measure.disable_depth_rendering()
        measure.enable_segmentation_rendering()
        segments = measure.render().copy()
        measure.disable_segmentation_rendering()
        hit = (segments[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM)) & (segments[..., 0] >= 0)
        body = np.where(hit, self.model.geom_bodyid[np.clip(segments[..., 0], 0, None)], -1)
        return pixels, np.where(hit, depth, 0.0).astype(np.float32), body.astype(np.int32)


def _load(script: Script) -> mujoco.MjModel:
    """Meta-World's models are found by paths relative to the main file, so the scene is laid beside links to them."""
    import metaworld

    assets = Path(metaworld.__file__).parent / "assets"
    camera = f'<camera name="view" mode="fixed" fovy="{FOVY}"/>'
    with tempfile.TemporaryDirectory() as folder:
        for name in ("scene", "objects", "textures"):
            (Path(folder) / name).symlink_to(assets / name)
        path = Path(folder, "sample", "scene.xml")
        path.parent.mkdir()
        path.write_text(_SCENE.format(things=camera + script.things))
        model = mujoco.MjModel.from_xml_path(str(path))
    for geom in range(model.ngeom):
        name = model.body(model.geom_bodyid[geom]).name
        if name == "mocap":  # the marker that the hand is tied to
            model.geom_rgba[geom, 3] = 0.0
        if name in ("rightpad", "leftpad"):  # rubber instead of cyan and white
            model.geom_rgba[geom] = (0.16, 0.16, 0.17, 1.0)
    floor = model.geom("floor").id  # its fine tiles flicker at this resolution
    model.geom_matid[floor], model.geom_rgba[floor] = -1, (0.62, 0.61, 0.59, 1.0)
    return model


def _place_camera(model: mujoco.MjModel, script: Script) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    eye = np.array(script.eye)
    forward = np.array(script.target) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    T_world_cam = np.eye(4)
    T_world_cam[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    T_world_cam[:3, 3] = eye
    camera = model.camera("view").id
    quaternion = np.zeros(4)
    # MuJoCo's cameras look along -z with y up.
    mujoco.mju_mat2Quat(quaternion, (T_world_cam[:3, :3] @ np.diag([1.0, -1.0, -1.0])).flatten())
    model.cam_pos[camera], model.cam_quat[camera] = eye, quaternion
    focal = 0.5 * HEIGHT / np.tan(np.radians(FOVY) / 2.0)
    K = np.array([[focal, 0.0, (WIDTH - 1) / 2.0], [0.0, focal, (HEIGHT - 1) / 2.0], [0.0, 0.0, 1.0]])
    return K, T_world_cam


def _renderers(model: mujoco.MjModel) -> tuple[mujoco.Renderer, mujoco.Renderer]:
    """One that draws smooth edges, and one whose depth and masks are sampled at pixel centres."""
    model.vis.quality.offsamples = MULTISAMPLES
    draw = mujoco.Renderer(model, HEIGHT, WIDTH)
    model.vis.quality.offsamples = 0
    return draw, mujoco.Renderer(model, HEIGHT, WIDTH)


def _subtree(model: mujoco.MjModel, root: str) -> frozenset[int]:
    top = model.body(root).id
    found = {top}
    for body in range(top + 1, model.nbody):  # parents come before their children
        if model.body_parentid[body] in found:
            found.add(body)
    return frozenset(found)


def _about_z(angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
