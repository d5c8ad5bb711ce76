"""Centroids and contact on the simulated episodes beside the checkout (see tests/benchmarks/geometry_accuracy.py)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from extractors.centroids import extract_centroids
from extractors.contact import estimate_contact
from extractors.geometry import dilate, project
from extractors.types import Camera, Depth
from tests.support import shared_data

pytestmark = pytest.mark.shared

FIXED = (
    "dev00_pick_place",
    "dev01_hammer",
    "dev02_drawer_open",
    "dev03_coffee_push",
    "dev04_box_close",
    "dev05_assembly",
    "dev06_basketball",
    "dev07_bin_picking",
)


def load(name, *fields):
    with np.load(shared_data("groundtruth_dev", f"{name}.npz")) as data:
        return [data[field] for field in fields]


def clip(name):
    k, mask, depth, truth = load(name, "K", "object_mask", "depth", "centroid_cam")
    height, width = mask.shape[1:]
    camera = Camera(k[0, 0], k[1, 1], k[0, 2], k[1, 2], width, height, source="calibrated", sigma=0.01)
    return mask.astype(bool), depth.astype(np.float32), camera, truth


@pytest.mark.parametrize("name", ["dev00_pick_place", "dev09_wrist_bin_picking"])
def test_true_masks_and_depth_give_the_true_centroid(name):
    masks, depth, camera, truth = clip(name)
    found = extract_centroids(masks, Depth(depth, "metric"), camera)
    assert np.nanmax(np.linalg.norm(found.xyz - truth, axis=1)) < 0.001
    assert np.nanmax(np.linalg.norm(project(found.xyz, camera) - project(truth, camera), axis=1)) < 0.5
    np.testing.assert_array_equal(found.valid, np.isfinite(truth).all(axis=1))


@pytest.mark.parametrize("name", ["dev02_drawer_open", "dev03_coffee_push", "dev06_basketball"])
def test_the_robust_mean_is_three_times_nearer_with_bleeding_masks_and_blurred_depth(name):
    masks, depth, camera, truth = clip(name)
    soft = Depth(np.stack([cv2.GaussianBlur(d, (0, 0), 2.0) for d in depth]), "metric")
    errors = [
        np.nanmean(np.linalg.norm(extract_centroids(dilate(masks, 3), soft, camera, method=m).xyz - truth, axis=1))
        for m in ("robust", "mean")
    ]
    assert errors[0] < errors[1] / 3


def test_contact_on_fixed_cameras():
    """F1 of at least 0.92 and an onset within one frame in 9 of 10 episodes."""
    scores, errors = [], []
    fields = ("gripper_opening", "contact", "object_mask", "robot_mask", "grid_xy", "obj_xy", "grid_vis", "obj_vis")
    for name in FIXED:
        opening, truth, masks, robot, grid, own, grid_seen, own_seen, kind = load(name, *fields, "grid_kind")
        xy = np.concatenate([grid, own], axis=1)
        found = estimate_contact(
            opening,
            masks=masks.astype(bool),
            robot_masks=robot.astype(bool),
            tracks_xy=xy,
            visibility=np.concatenate([grid_seen, own_seen], axis=1) & np.isfinite(xy).all(-1),
            on_object=np.concatenate([kind == 2, np.ones(own.shape[1], bool)]),
        )
        yes, truth = found.probability > 0.5, truth.astype(bool)
        scores.append(2 * (yes & truth).sum() / (yes.sum() + truth.sum()))
        errors.append(abs(found.onset - np.flatnonzero(truth)[0]))
    assert np.mean(scores) >= 0.92
    assert np.mean(np.array(errors) <= 1) >= 0.9
