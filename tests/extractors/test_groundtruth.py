"""Centroids and contact on the simulated episodes beside the checkout (see tests/benchmarks/geometry_accuracy.py)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from extractors.centroids import extract_centroids
from extractors.geometry import dilate, project
from extractors.types import Camera, Depth
from tests.benchmarks.groundtruth import read_groundtruth
from tests.benchmarks.invariance import Truth, at_rate, contact_f1, touched
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


def fixed_clips():
    return [Truth.of(read_groundtruth(shared_data("groundtruth_dev", f"{name}.npz"))) for name in FIXED]


def test_contact_on_fixed_cameras():
    """F1 of at least 0.92 and an onset within one frame in 9 of 10 episodes."""
    clips = fixed_clips()
    assert contact_f1(clips) >= 0.92
    errors = [abs(np.argmax(touched(clip)) - np.argmax(clip.contact)) for clip in clips]
    assert np.mean(np.array(errors) <= 1) >= 0.9


def test_contact_does_not_depend_on_the_rate():
    clips = fixed_clips()
    scores = [contact_f1([at_rate(clip, fps) for clip in clips]) for fps in (5, 15, 30)]
    assert min(scores) >= 0.90
    assert max(scores) - min(scores) <= 0.05
