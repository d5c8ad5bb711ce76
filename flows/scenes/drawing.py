"""Renders a world with MuJoCo: colours, depth, and the body seen at each pixel.

Software rendering is fast enough: `MUJOCO_GL=egl` (Debian: libegl1, libgl1-mesa-dri) or `osmesa` (libosmesa6).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError
from extractors.types import Size
from flows.scenes.poses import quaternion, turn
from flows.scenes.textures import Rng
from flows.scenes.world import World


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A world's frames.

    Attributes:
        rgb: (T, H, W, 3) uint8, four samples a pixel.
        depth: (T, H, W) float32, metres along the optical axis at pixel centres, 0 where nothing is seen.
        body: (T, H, W) int16, index into `World.bodies` at pixel centres, -1 for the scene.
        K: (3, 3) float64, pixel centres at integers.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    body: NDArray[np.int16]
    K: NDArray[np.float64]


class Painter:
    """One off-screen drawing context, for any number of worlds."""

    def __init__(self) -> None:
        """Opens it.

        Raises:
            ConfigError: MuJoCo is not installed, or finds no way to draw.
        """
        os.environ.setdefault("MUJOCO_GL", "egl")
        how = "pip install 'cuepack[scenes]', and on Debian apt-get install libegl1 libgl1-mesa-dri, MUJOCO_GL=egl"
        try:
            import mujoco

            self._mujoco: Any = mujoco
            # MuJoCo's own choice is made at its first import, which may be another's, before the variable was set.
            renderer = import_module(f"mujoco.{os.environ['MUJOCO_GL']}")
            self._context: Any = renderer.GLContext(64, 64)
            self._context.make_current()
        except (ImportError, AttributeError, RuntimeError, OSError) as error:
            raise ConfigError(f"generating scenes needs MuJoCo and a software renderer ({error}): {how}") from error

    def close(self) -> None:
        """Frees the context."""
        self._context.free()

    def draw(self, world: World, size: Size, every: int = 1) -> Drawn:
        """Every `every`th frame of `world` at `size` (height, width)."""
        mujoco = self._mujoco
        self._context.make_current()  # another painter's may be
        model = mujoco.MjModel.from_xml_string(world.xml, world.pictures)
        data = mujoco.MjData(model)
        mocap = [int(model.body_mocapid[model.body(name).id]) for name in world.bodies]
        body_of = np.full(model.nbody, -1, np.int16)
        for index, name in enumerate(world.bodies):
            body_of[model.body(name).id] = index
        model.vis.global_.offheight, model.vis.global_.offwidth = size
        model.vis.quality.shadowsize = 4 * max(size)
        surface = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        try:
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, surface)
            scene = mujoco.MjvScene(model, maxgeom=2000)
            frames = []
            for poses, camera in zip(world.poses[::every], world.cameras[::every], strict=True):
                data.mocap_pos[mocap] = poses[:, :3, 3]
                data.mocap_quat[mocap] = [quaternion(each[:3, :3]) for each in poses]
                _place_camera(model, camera)
                mujoco.mj_kinematics(model, data)
                mujoco.mj_camlight(model, data)
                frames.append(self._frame(model, data, scene, surface, size))
        finally:
            surface.free()
        rgb, depth, geom = (np.stack(column) for column in zip(*frames, strict=True))
        owner = np.append(body_of[model.geom_bodyid], np.int16(-1))
        focal = size[0] / 2 / np.tan(np.radians(world.fovy) / 2)
        intrinsics = np.array([[focal, 0, (size[1] - 1) / 2], [0, focal, (size[0] - 1) / 2], [0, 0, 1]])
        return Drawn(rgb, np.where(geom >= 0, depth, 0).astype(np.float32), owner[geom], intrinsics)

    def _frame(self, model: Any, data: Any, scene: Any, surface: Any, size: Size) -> tuple[Any, Any, Any]:
        mujoco = self._mujoco
        camera = mujoco.MjvCamera()
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
        every = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, every, scene)
        rect = mujoco.MjrRect(0, 0, size[1], size[0])
        rgb = np.empty((*size, 3), np.uint8)
        mujoco.mjr_render(rect, scene, surface)
        mujoco.mjr_readPixels(rgb, None, rect, surface)
        flags = (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR)
        # The second pass needs no shadows, which cost as much as the picture.
        shaded = scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW]
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        for flag in flags:
            scene.flags[flag] = True
        ids, depth = np.empty((*size, 3), np.uint8), np.empty(size, np.float32)
        mujoco.mjr_render(rect, scene, surface)
        mujoco.mjr_readPixels(ids, depth, rect, surface)
        for flag in flags:
            scene.flags[flag] = False
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shaded
        number = ids.astype(np.int32) @ (1, 256, 65536)
        geom_of = np.full(scene.ngeom + 1, -1, np.int32)
        for index in range(scene.ngeom):
            drawn = scene.geoms[index]
            if drawn.segid >= 0 and drawn.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                geom_of[drawn.segid + 1] = drawn.objid
        near, far = model.vis.map.znear, model.vis.map.zfar
        metres = near / (1 - depth * (1 - near / far))
        return np.flipud(rgb), np.flipud(metres), np.flipud(geom_of[np.minimum(number, scene.ngeom)])


def _place_camera(model: Any, camera: NDArray[np.float64]) -> None:
    # MuJoCo's cameras look along -z with y up, OpenCV's along z with y down.
    model.cam_pos[0] = camera[:3, 3]
    model.cam_quat[0] = quaternion(camera[:3, :3] @ turn(0, np.pi))


def shade(rng: Rng, pixels: NDArray[np.uint8], depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The clip as light from all sides would show it: what lies behind its surroundings gets less.

    Depth's unsharp mask (Luft, Colditz and Deussen, 2006); MuJoCo's lamps leave corners as bright as ridges.

    Args:
        rng: strength and width are drawn from it.
        pixels: (T, H, W, 3).
        depth: (T, H, W) metres, 0 where nothing is seen.
    """
    strength, width = rng.uniform(5, 25), rng.uniform(0.012, 0.05) * pixels.shape[2]
    near = np.log(np.where(depth > 0, depth, 10.0)).astype(np.float32)
    behind = np.stack([each - cv2.GaussianBlur(each, (0, 0), width) for each in near])
    # What is far behind has air around it.
    kept = np.exp(-strength * np.clip(behind, 0, None) * np.exp(-((behind / 0.06) ** 2)))
    return np.asarray(pixels * kept[..., None], np.uint8)
