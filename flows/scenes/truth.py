"""What is known exactly about a drawn world: tracks of surface points, their visibility, centroids.

A point is tied to the rigid body under its pixel and carried by that body's pose. It is seen in a frame where one of
the four pixels around its place shows the same body at the same depth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.scenes.drawing import Drawn
from flows.scenes.world import World

GRID, N_OBJECT = 20, 200
"""Points on a side of the grid of frame 0; most points of the thing."""

MIN_QUERY_SHARE = 0.0005
"""The thing's own points are posed in the first frame of which it covers so much."""

DEPTH_TOLERANCE_M, SLOPE_FACTOR, MAX_SLOPE_M = 0.006, 1.5, 0.01
"""How far a pixel's depth may be off its point's: more on surfaces seen at a grazing angle, so that these do not
flicker."""


def tracks_and_centroids(world: World, drawn: Drawn, target: int, n_robot: int) -> dict[str, NDArray[np.generic]]:
    """Arrays named as in the bundled sample's `truth`, pixels and metres.

    Args:
        world: its poses.
        drawn: its frames.
        target: body of the manipulated thing.
        n_robot: the first so many bodies are the robot's.
    """
    seen = drawn.body == target
    n_frames, height, width = seen.shape
    columns, rows = (np.round((np.arange(GRID) + 0.5) * side / GRID - 0.5).astype(int) for side in (width, height))
    grid = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
    grid_xy, grid_z, grid_vis, grid_body = _follow(world, drawn, grid, 0)
    query_frame = int(np.argmax(seen.mean(axis=(1, 2)) >= MIN_QUERY_SHARE))
    y, x = np.nonzero(seen[query_frame])
    chosen = np.sort(np.random.default_rng(0).permutation(len(y))[:N_OBJECT])
    obj_xy, obj_z, obj_vis, obj_body = _follow(world, drawn, np.stack([x[chosen], y[chosen]], -1), query_frame)
    centroid_cam, centroid_px = np.full((n_frames, 3), np.nan), np.full((n_frames, 2), np.nan)
    for t in np.flatnonzero(seen.any(axis=(1, 2))):
        pixels = np.stack(np.nonzero(seen[t])[::-1], -1)
        centroid_cam[t] = unproject(drawn.K, pixels, drawn.depth[t][seen[t]]).mean(axis=0)
        centroid_px[t] = pixels.mean(axis=0)
    return {
        "grid_xy": grid_xy,
        "grid_z": grid_z,
        "grid_vis": grid_vis,
        "grid_valid": drawn.depth[0][grid[:, 1], grid[:, 0]] > 0,
        "grid_kind": np.where(grid_body == target, 2, (grid_body >= 0) & (grid_body < n_robot)).astype(np.uint8),
        "grid_body": grid_body,
        "obj_xy": obj_xy,
        "obj_z": obj_z,
        "obj_vis": obj_vis,
        "obj_body": obj_body,
        "obj_query_frame": np.int32(query_frame),
        "centroid_cam": centroid_cam,
        "centroid_px": centroid_px,
        "object_pixels": seen.sum(axis=(1, 2)).astype(np.int32),
    }


def _follow(
    world: World, drawn: Drawn, queries: NDArray[np.int_], query_frame: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.int16]]:
    """Xy (T, N, 2), depth (T, N), visibility (T, N) and body (N,) of pixels (N, 2) of one frame."""
    x, y = queries.T
    body, depth = drawn.body[query_frame, y, x], drawn.depth[query_frame, y, x]
    scene = np.broadcast_to(np.eye(4), (len(world.poses), 1, 4, 4))
    # Body -1, the scene, is the last of the poses.
    world_from_body = np.concatenate([world.poses, scene], axis=1)[:, body]
    camera_from_world = np.linalg.inv(world.cameras)[:, None]
    in_world = transform(world.cameras[query_frame], unproject(drawn.K, queries, depth))
    local = transform(np.linalg.inv(world_from_body[query_frame]), in_world)
    points = transform(camera_from_world, transform(world_from_body, local))
    z = np.where(np.abs(points[..., 2]) < 1e-9, 1e-9, points[..., 2])
    xy = points[..., :2] / z[..., None] * np.diag(drawn.K)[:2] + drawn.K[:2, 2]
    frames = zip(drawn.depth, drawn.body, xy, z, strict=True)
    visible = np.array([is_seen(depth_of, body_of, body, *at) for depth_of, body_of, *at in frames]) & (depth > 0)
    return xy.astype(np.float32), z.astype(np.float32), visible, body


def is_seen(
    depth: NDArray[np.floating],
    body_at: NDArray[np.integer],
    body: NDArray[np.integer],
    xy: NDArray[np.float64],
    z: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Whether points are seen in a frame: (N,).

    Args:
        depth: (H, W) metres.
        body_at: (H, W) the body that each pixel shows.
        body: (N,) that each point belongs to.
        xy: (N, 2) where it is, pixels.
        z: (N,) how far, metres.
    """
    height, width = depth.shape
    slope_y, slope_x = np.abs(np.gradient(depth))
    tolerance = DEPTH_TOLERANCE_M + SLOPE_FACTOR * np.minimum(slope_x + slope_y, MAX_SLOPE_M)
    inside = (xy > -0.5).all(axis=1) & (xy[:, 0] < width - 0.5) & (xy[:, 1] < height - 0.5) & (z > 0.0)
    corner = np.floor(np.where(inside[:, None], xy, 0.0)).astype(int)
    found = np.zeros(len(xy), np.bool_)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = np.clip(corner[:, 0] + dx, 0, width - 1), np.clip(corner[:, 1] + dy, 0, height - 1)
        found |= (body_at[y, x] == body) & (np.abs(depth[y, x] - z) < tolerance[y, x])
    return np.asarray(found & inside)


def unproject(intrinsics: NDArray[np.float64], xy: NDArray[Any], z: NDArray[np.floating]) -> NDArray[np.float64]:
    """Camera-frame points (N, 3) in metres of pixels (N, 2) at depths (N,)."""
    rays = (xy - intrinsics[:2, 2]) / np.diag(intrinsics)[:2]
    return np.concatenate([rays * z[:, None], z[:, None]], axis=1)


def transform(pose: NDArray[np.floating], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """`points` (..., 3) in the frame that `pose` (..., 4, 4) maps them to."""
    return np.asarray(np.einsum("...ij,...j->...i", pose[..., :3, :3], points) + pose[..., :3, 3])
