"""What is known exactly about a recording: point tracks, visibility, centroids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flows.scenes.truth import is_seen, transform, unproject
from tests.tools.sample_scene import Recording

GRID = 20
N_OBJECT = 200
# The object's own queries are posed in the first frame that shows this many of its pixels.
MIN_QUERY_PIXELS = 40
# Track positions are rounded to this, which lets them compress.
XY_STEP_PX = 1.0 / 256.0


def truth_arrays(recording: Recording, seed: int) -> dict[str, NDArray[np.generic]]:
    """Ground truth of one recording, all in source pixels and metres; the keys are described in the sample's README."""
    depth, body = recording.depth, recording.body
    n_frames, height, width = depth.shape
    seen = np.isin(body, list(recording.object_ids))

    columns = np.round((np.arange(GRID) + 0.5) * width / GRID - 0.5).astype(int)
    rows = np.round((np.arange(GRID) + 0.5) * height / GRID - 0.5).astype(int)
    grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    grid_xy, grid_z, grid_vis, grid_body = follow(recording, grid, 0)
    grid_kind = np.where(np.isin(grid_body, list(recording.robot_ids)), 1, 0)
    grid_kind[np.isin(grid_body, list(recording.object_ids))] = 2

    query_frame = int(np.argmax(seen.sum(axis=(1, 2)) >= MIN_QUERY_PIXELS))
    y, x = np.nonzero(seen[query_frame])
    drawn = np.sort(np.random.default_rng(seed).permutation(len(y))[:N_OBJECT])
    obj_xy, obj_z, obj_vis, _ = follow(recording, np.stack([x[drawn], y[drawn]], axis=-1), query_frame)

    centroid_cam, centroid_px = np.full((n_frames, 3), np.nan), np.full((n_frames, 2), np.nan)
    for t in range(n_frames):
        y, x = np.nonzero(seen[t])
        if len(y):
            points = np.stack([x, y], axis=-1)
            centroid_cam[t] = unproject(recording.K, points, depth[t, y, x]).mean(axis=0)
            centroid_px[t] = points.mean(axis=0)
    (object_id,) = recording.object_ids
    return {
        "K": recording.K,
        "T_world_cam": np.tile(recording.T_world_cam, (n_frames, 1, 1)),
        "object_pose": recording.poses[:, object_id],
        "contact": recording.contact,
        "held": recording.held,
        "grid_xy": grid_xy,
        "grid_z": grid_z,
        "grid_vis": grid_vis,
        "grid_valid": grid_body >= 0,
        "grid_kind": grid_kind.astype(np.uint8),
        "obj_xy": obj_xy,
        "obj_z": obj_z,
        "obj_vis": obj_vis,
        "obj_query_frame": np.int32(query_frame),
        "centroid_cam": centroid_cam,
        "centroid_px": centroid_px,
        "object_pixels": seen.sum(axis=(1, 2)).astype(np.int32),
    }


def follow(
    recording: Recording, queries: NDArray[np.int_], query_frame: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.int32]]:
    """Where the surface points under some pixels of one frame are in all frames.

    Each point is tied to the rigid body it lies on and carried by that body's pose.

    Args:
        recording: T frames.
        queries: (N, 2) integer (x, y) pixels of frame `query_frame`.
        query_frame: 0 .. T - 1.

    Returns:
        xy (T, N, 2) in pixels, depth (T, N) in metres, visibility (T, N), and the body of each point (N,), -1 where the
        pixel shows none: such points are never visible.
    """
    x, y = queries[:, 0], queries[:, 1]
    body = recording.body[query_frame, y, x]
    on_surface = body >= 0
    owner = np.maximum(body, 0)
    world_from_body = recording.poses[:, owner]  # T N 4 4
    cam_from_world = np.linalg.inv(recording.T_world_cam)
    in_camera = unproject(recording.K, queries, recording.depth[query_frame, y, x])
    in_world = transform(recording.T_world_cam, in_camera)
    local = transform(np.linalg.inv(world_from_body[query_frame]), in_world)
    points = transform(cam_from_world, transform(world_from_body, local))  # T N 3
    z = points[..., 2]
    xy = points[..., :2] / z[..., None] * np.diag(recording.K)[:2] + recording.K[:2, 2]
    visible = [is_seen(recording.depth[t], recording.body[t], body, xy[t], z[t]) & on_surface for t in range(len(xy))]
    rounded = np.round(xy / XY_STEP_PX) * XY_STEP_PX
    return rounded.astype(np.float32), z.astype(np.float32), np.array(visible), body
