"""A held object's tracks are matched again before its points are told."""

from dataclasses import replace

import numpy as np
import pytest

from extractors.handeye.held import held_object
from extractors.handeye.known import KnownCamera
from extractors.handeye.problem import TrackedClip
from extractors.matching import body_alone
from extractors.robot_tracks import follow_robot
from flows.stages.calibration import CALIBRATION
from flows.stages.placing import PLACING, object_seen_again
from packers.writer import decode
from tests.flows.stages.hand_inputs import box_on_hand, scene_inputs

SIDE_M = 0.07


def held_box(seed):
    """A box that the hand holds all along: inputs, its tracks, the true camera and the pictures of it alone."""
    inputs = scene_inputs(seed)
    box_on_hand(inputs, SIDE_M)
    masks = inputs.arrays["masks/robot"]
    alone = body_alone(inputs.arrays["pixels"], masks)
    tracks = follow_robot(alone, masks, count=80)
    true = inputs.scene.clip
    clip = TrackedClip(tracks.xy, tracks.visibility, true.hand_pose, true.timestamp, inputs.size)
    return inputs, tracks, clip, KnownCamera(inputs.scene.focal_px, inputs.scene.carrier_from_camera), alone


def off_the_box(found):
    """(n,) metres of the points that ride from the faces of the box, whose middle is the hand's origin."""
    points = found.points[np.isfinite(found.points).all(axis=1)] + found.hand_from_object[:3, 3]
    return np.abs(np.abs(points).max(axis=1) - SIDE_M / 2)


@pytest.mark.parametrize("seed", [3, 8, 11])
def test_points_matched_again_are_nearer_to_what_they_are_on(seed):
    _, _, clip, camera, alone = held_box(seed)
    held = np.ones(len(clip.timestamp), np.bool_)
    before = held_object(clip, held, camera)
    after = held_object(object_seen_again(clip, before, camera, alone), held, camera)
    assert not after.reasons
    assert np.median(off_the_box(after)) < 0.7 * np.median(off_the_box(before))
    assert after.residual <= before.residual


def test_frames_in_which_nobody_knows_where_it_is_keep_their_tracks():
    _, _, clip, camera, alone = held_box(3)
    found = held_object(clip, np.ones(len(clip.timestamp), np.bool_), camera)
    unknown = np.arange(len(clip.timestamp)) % 3 == 0
    again = object_seen_again(clip, replace(found, pose_valid=found.pose_valid & ~unknown), camera, alone)
    np.testing.assert_array_equal(again.xy[unknown], clip.xy[unknown])
    np.testing.assert_array_equal(again.visibility[unknown], clip.visibility[unknown])
    assert (again.xy[~unknown] != clip.xy[~unknown]).any()


def test_an_objects_mask_makes_its_points_truer():
    def placed(masked):
        inputs, tracks, clip, _, _ = held_box(3)
        inputs.take("calibration", CALIBRATION.run(inputs))
        fields = {"xy": tracks.xy, "visibility": tracks.visibility, "queries": tracks.queries}
        inputs.arrays |= {f"tracks/foreground/{name}": array for name, array in fields.items()}
        inputs.arrays["tracks/foreground/on_object"] = np.ones(len(tracks.queries), np.bool_)
        inputs.arrays["tracks/grid/on_object"][:] = False
        inputs.arrays["held"] = np.ones(len(clip.timestamp), np.bool_)
        if masked:
            inputs.arrays["masks/object"] = inputs.arrays["masks/robot"]
        return PLACING.run(inputs)

    plain, masked = placed(False), placed(True)
    assert masked.report["object"]["residual_px"] < plain.report["object"]["residual_px"]
    sigmas = [np.median(decode(each.datasets["object_points_sigma"])) for each in (plain, masked)]
    assert sigmas[1] < sigmas[0]
