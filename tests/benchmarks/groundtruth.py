"""Reads simulated episodes with exact ground truth (`*.npz`, one per file) as an `Episode` and the truth beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import CorruptDataError, MissingDataError
from extractors.types import Camera, Episode

STATIC, ROBOT, OBJECT = 0, 1, 2
"""Values of `GroundTruth.grid_kind`."""


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """One episode and what is known about it exactly; pixels and units are those of the source frames.

    Attributes:
        episode: what a source would give, with recorded depth, object and robot masks.
        object_mask, robot_mask: (T, H, W) bool, visible pixels.
        depth: (T, H, W) float32, metres along z, 0 where there is no surface.
        grid_xy, grid_visibility: (T, 400, 2) float32, (T, 400) bool, tracks of a 20 x 20 grid of frame 0.
        grid_valid, grid_kind: (400,) bool, the query hit a surface; (400,) int, `STATIC`, `ROBOT` or `OBJECT`.
        object_xy, object_visibility: (T, M, 2) float32, (T, M) bool, tracks of pixels of the object.
        object_query_frame: the frame on which those are posed.
        centroid_cam: (T, 3) float64, mean of the object's back-projected pixels, metres; NaN while it is hidden.
        contact: (T,) bool, robot and object touch.
        moving_camera: the camera is on the wrist.
        meta: simulator, task, seed, camera, stride.
    """

    episode: Episode
    object_mask: NDArray[np.bool_]
    robot_mask: NDArray[np.bool_]
    depth: NDArray[np.float32]
    grid_xy: NDArray[np.float32]
    grid_visibility: NDArray[np.bool_]
    grid_valid: NDArray[np.bool_]
    grid_kind: NDArray[np.integer]
    object_xy: NDArray[np.float32]
    object_visibility: NDArray[np.bool_]
    object_query_frame: int
    centroid_cam: NDArray[np.float64]
    contact: NDArray[np.bool_]
    moving_camera: bool
    meta: Mapping[str, Any]

    @property
    def object_queries(self) -> NDArray[np.float32]:
        """(M, 3) float32 as (frame, x, y), the truth's own queries on the object."""
        xy = self.object_xy[self.object_query_frame]
        return np.concatenate([np.full((len(xy), 1), self.object_query_frame), xy], axis=1).astype(np.float32)

    @property
    def grid_queries(self) -> NDArray[np.float32]:
        """(400, 3) float32 as (frame, x, y), the truth's own grid on frame 0."""
        return np.concatenate([np.zeros((len(self.grid_xy[0]), 1)), self.grid_xy[0]], axis=1).astype(np.float32)


def read_groundtruth(path: Path, *, episode_index: int = 0) -> GroundTruth:
    """The episode in the npz file `path`.

    Raises:
        CorruptDataError: the file is no npz, or an array is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return _from_arrays(arrays, path.stem, episode_index)
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise CorruptDataError(f"{path} is no ground-truth episode ({error}); record it again") from error


def read_folder(folder: Path, *, contains: str = "") -> Iterator[GroundTruth]:
    """The episodes of `folder` in name order, one at a time, those whose file name has `contains` in it.

    Raises:
        MissingDataError: there is none.
    """
    paths = sorted(path for path in folder.glob("*.npz") if contains in path.stem)
    if not paths:
        raise MissingDataError(f"no ground-truth episodes (*{contains}*.npz) in {folder}; check the folder")
    for index, path in enumerate(paths):
        yield read_groundtruth(path, episode_index=index)


def _from_arrays(arrays: Mapping[str, NDArray[Any]], name: str, index: int) -> GroundTruth:
    meta = json.loads(str(arrays["meta"]))
    object_mask, robot_mask = arrays["object_mask"] > 0, arrays["robot_mask"] > 0
    depth = arrays["depth"].astype(np.float32)
    return GroundTruth(
        episode=_episode(arrays, meta, name, index, object_mask, robot_mask, depth),
        object_mask=object_mask,
        robot_mask=robot_mask,
        depth=depth,
        grid_xy=arrays["grid_xy"],
        grid_visibility=arrays["grid_vis"],
        grid_valid=arrays["grid_valid"],
        grid_kind=arrays["grid_kind"],
        object_xy=arrays["obj_xy"],
        object_visibility=arrays["obj_vis"],
        object_query_frame=int(arrays["obj_query_frame"]),
        centroid_cam=arrays["centroid_cam"],
        contact=arrays["contact"],
        moving_camera=bool(meta["moving_camera"]),
        meta=meta,
    )


def _episode(
    arrays: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any],
    name: str,
    index: int,
    object_mask: NDArray[np.bool_],
    robot_mask: NDArray[np.bool_],
    depth: NDArray[np.float32],
) -> Episode:
    rgb, K = arrays["rgb"], arrays["K"]
    n_frames, height, width = rgb.shape[:3]
    # The simulator's time between two frames; the stride of its steps is counted in it.
    fps = 1.0 / float(meta["sim_dt"])
    action_valid = np.ones(n_frames, dtype=np.bool_)
    action_valid[-1] = False
    return Episode(
        episode_id=name,
        episode_index=index,
        camera_name=str(meta["camera"]),
        language_instruction=str(arrays["language_instruction"]),
        fps=fps,
        pixels=rgb,
        timestamp=np.arange(n_frames) / fps,
        action=arrays["action"],
        action_valid=action_valid,
        gripper=arrays["gripper_opening"],
        camera=Camera(K[0, 0], K[1, 1], K[0, 2], K[1, 2], width, height, source="calibrated"),
        recorded_depth=depth,
        recorded_masks=object_mask,
        recorded_robot=robot_mask,
        provenance={"kind": "groundtruth", "task": meta.get("task"), "seed": meta.get("seed")},
    )
