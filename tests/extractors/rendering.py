"""Bodies rendered by ray casting at pixel centres: masks and depth whose truth is known by construction."""

from __future__ import annotations

import cv2
import numpy as np

from extractors.types import Camera, Depth


def rays(camera: Camera) -> np.ndarray:
    """(H, W, 3) directions with z = 1."""
    x, y = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    return np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, np.ones(x.shape)], axis=-1)


def sphere(camera: Camera, centre, radius, background=2.0):
    """Mask and depth (H, W) of a sphere before a plane at depth `background`."""
    d, c = rays(camera), np.asarray(centre, float)
    a, b = (d * d).sum(-1), d @ c
    under = b * b - a * (c @ c - radius**2)
    mask = under > 0
    return mask, np.where(mask, (b - np.sqrt(np.maximum(under, 0))) / a, background)


def box(camera: Camera, centre, size, background=2.0):
    """Mask and depth of an axis-aligned box."""
    d, c, half = rays(camera), np.asarray(centre, float), np.asarray(size, float) / 2
    safe = np.where(d == 0, 1e-12, d)
    first, second = (c - half) / safe, (c + half) / safe
    enter, leave = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
    mask = enter < leave
    return mask, np.where(mask, enter, background)


def plane_patch(camera: Camera, centre, width, height, background=2.0, tilt=0.0):
    """Mask and depth of a rectangle, turned by `tilt` radians about its own x axis."""
    d, c = rays(camera), np.asarray(centre, float)
    down = np.array([0.0, np.cos(tilt), np.sin(tilt)])
    normal = np.array([0.0, -np.sin(tilt), np.cos(tilt)])
    z = (c @ normal) / (d @ normal)
    offset = d * z[..., None] - c
    mask = (np.abs(offset[..., 0]) < width / 2) & (np.abs(offset @ down) < height / 2)
    return mask, np.where(mask, z, background)


def metric(depth: np.ndarray) -> Depth:
    """One frame, or frames, as metric Depth."""
    return Depth(np.asarray(depth, np.float32).reshape(-1, *depth.shape[-2:]), "metric")


def blur(depth: np.ndarray, sigma_px: float) -> np.ndarray:
    """Depth as a model gives it: edges smeared over pixels."""
    return cv2.GaussianBlur(depth, (0, 0), sigma_px) if sigma_px else depth
