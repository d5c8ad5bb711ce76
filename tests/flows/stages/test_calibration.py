"""The hand's pose and the camera that it calibrates, as the stage stores them."""

from dataclasses import replace
from typing import ClassVar

import cv2
import numpy as np
import pytest

from extractors.handeye.problem import TrackedClip
from flows.config import load_config
from flows.stages import calibration
from flows.stages.calibration import CALIBRATION, found_camera, known_camera, thinned
from flows.stages.hand import read_hand
from flows.stages.placing import PLACING
from packers.schema import Dataset
from packers.writer import decode
from tests.benchmarks.handeye_scenes import HAND, OBJECT, STATIC, random_scene
from tests.extractors.test_kinematics import ARM
from tests.flows.stages.hand_inputs import CLEAR, SceneInputs, box_on_hand, scene_inputs

BRIDGE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


class Inputs:
    """Stands for `StageInputs`: a state with names, and a configuration."""

    def __init__(self, state, names=(), *settings):
        self.config = load_config(assignments=settings).resolved()
        self._state = None if state is None else Dataset(state, {"names": list(names)} if names else {})

    source: ClassVar = {"tags": []}
    camera_moves = False

    def read(self, name):
        return None if self._state is None or name != "state" else self._state.data

    def dataset(self, name):
        assert name == "state"
        return self._state


def state(n_frames=6, width=7):
    rows = np.zeros((n_frames, width), np.float32)
    rows[:, 0] = np.linspace(0.2, 0.4, n_frames)
    rows[:, 5:6] = 0.5
    return rows


def test_a_state_named_as_bridge_names_it_becomes_poses():
    hand, _ = read_hand(Inputs(state(), BRIDGE))
    assert hand.pose.shape == (6, 4, 4)
    np.testing.assert_allclose(hand.pose[:, 0, 3], np.linspace(0.2, 0.4, 6), rtol=1e-5)
    # Yaw turns about the base's z axis.
    np.testing.assert_allclose(hand.pose[0, :2, 0], [np.cos(0.5), np.sin(0.5)], rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "names", "settings", "words"),
    [
        (None, (), (), "no state"),
        (state(), (), (), "robot.state_names"),
        (state(width=3), ("j0", "j1", "j2"), (), "robot.urdf"),
        (state(width=6), ("x", "y", "z", "rx", "ry", "rz"), (), "rotation vector or three angles"),
        (state(width=14), [f"{arm}_{name}" for arm in ("left", "right") for name in BRIDGE], (), "robot.prefix"),
        (state() * 1000, BRIDGE, (), "robot.length_unit"),
        (state(), ("x", "y"), ("robot.state_names=[x, y]",), "2 names for a state of 7"),
    ],
)
def test_what_the_names_do_not_settle_is_refused_with_what_to_set(rows, names, settings, words):
    hand, reason = read_hand(Inputs(rows, names, *settings))
    assert hand is None
    assert words in reason


def test_settings_settle_it():
    rows = state(width=14)
    rows[:, 7] = 300
    names = [f"{arm}_{name}" for arm in ("left", "right") for name in BRIDGE]
    hand, reason = read_hand(Inputs(rows, names, "robot.prefix=right", "robot.length_unit=mm"))
    assert reason == ""
    np.testing.assert_allclose(hand.pose[:, 0, 3], 0.3, rtol=1e-5)
    assert hand.tags == ("hand-still",)


def test_joint_values_become_poses_by_the_users_urdf(tmp_path):
    (tmp_path / "arm.urdf").write_text(ARM)
    rows = np.array([[0, 0, 0, 1], [90, 0, 50, 1]], np.float32)
    settings = (
        f"robot.urdf={tmp_path}/arm.urdf",
        "robot.joints=[shoulder, elbow, slide, '-']",
        "robot.hand_link=hand",
        "robot.angle_unit=deg",
        "robot.length_unit=mm",
    )
    hand, reason = read_hand(Inputs(rows, (), *settings))
    assert reason == ""
    np.testing.assert_allclose(hand.pose[:, :3, 3], [[0.5, 0, 0.5], [0, 0.55, 0.5]], atol=1e-6)
    assert len(hand.report["urdf_sha256"]) == 64
    assert "3 names" in read_hand(Inputs(rows, (), settings[0], "robot.joints=[a, b, c]"))[1]


def test_dropped_rows_are_marked():
    rows = state()
    rows[2] = np.nan
    output = CALIBRATION.run(Inputs(rows, BRIDGE, "geometry.calibration=off"))
    np.testing.assert_array_equal(decode(output.datasets["hand_pose_valid"]), np.arange(6) != 2)
    assert np.isnan(decode(output.datasets["hand_pose"])[2]).all()
    assert output.report["tags"] == ["state-dropped"]


def position_error_m(inputs, datasets):
    apart = np.linalg.inv(inputs.scene.carrier_from_camera) @ decode(datasets["extrinsics"])
    return np.linalg.norm(apart[:3, 3])


@pytest.mark.parametrize("seed", [2, 3])
def test_a_clip_tells_its_camera_and_the_camera_places_the_object(seed):
    inputs = scene_inputs(seed)
    output = CALIBRATION.run(inputs)
    assert output.report["tags"] == ["calibrated-by-hand"]
    camera = output.report["camera"]
    assert camera["focal_px"] == pytest.approx(inputs.scene.focal_px, rel=3 * camera["focal_sigma"])
    assert position_error_m(inputs, output.datasets) < 3 * camera["position_sigma_m"]
    inputs.take("calibration", output)
    found = found_camera(inputs)
    assert (found.source, found.fx) == ("estimated", camera["focal_px"])
    placed = PLACING.run(inputs)
    pose, valid = (decode(placed.datasets[f"object_pose{part}"]) for part in ("", "_valid"))
    held = valid & inputs.scene.held
    # The object's frame is another than the truth's, so what it carries is compared: the median of its points.
    points = inputs.scene.points[inputs.scene.kind == OBJECT]
    true = np.einsum("tij,j->ti", inputs.scene.object_pose[:, :3, :3], np.median(points, axis=0))
    true += inputs.scene.object_pose[:, :3, 3]
    off = np.linalg.norm(pose[held, :3, 3] - true[held], axis=1)
    assert np.median(off) < 0.04
    np.testing.assert_allclose(decode(placed.datasets["centroids_base"])[valid], pose[valid, :3, 3], rtol=1e-5)
    # A mask that is seen beside the object's points moves its centre there, at their depth.
    known, (height, width) = known_camera(inputs), inputs.size
    inputs.arrays["masks/object"] = np.zeros((len(valid), height, width), np.bool_)
    inputs.arrays["masks/object"][1:, 30:41, 50:71] = True
    places = decode(PLACING.run(inputs).datasets["centroids_base"])
    in_camera, before = (
        (where - known.base_from_camera[:3, 3]) @ known.base_from_camera[:3, :3] for where in (places, pose[:, :3, 3])
    )
    np.testing.assert_allclose(in_camera[valid, 2], before[valid, 2], rtol=1e-4)
    seen = np.flatnonzero(valid)[1:]
    pixel = in_camera[seen, :2] / in_camera[seen, 2:] * known.focal_px + ((width - 1) / 2, (height - 1) / 2)
    np.testing.assert_allclose(pixel, np.broadcast_to((60.0, 35.0), pixel.shape), atol=0.05)


def test_relative_depth_is_put_into_metres_at_the_points_on_the_hand():
    inputs = scene_inputs(5)
    inputs.take("calibration", CALIBRATION.run(inputs))
    depth = np.repeat(np.linspace(2.0, 0.5, 256, dtype=np.float32)[:, None], 256, axis=1)
    # A map that is right at the tracks: the plane's depth does not fit the hand's, so each track paints its own.
    relative = np.repeat((3 / depth + 1)[None], len(inputs.scene.clip.xy), axis=0).astype(np.float32)
    camera = np.linalg.inv(inputs.scene.carrier_from_camera)
    for t, hand in enumerate(inputs.scene.clip.hand_pose):
        in_base = inputs.scene.points @ hand[:3, :3].T + hand[:3, 3]
        z = in_base @ camera[2, :3] + camera[2, 3]
        for track in np.flatnonzero(inputs.scene.clip.visibility[t] & (inputs.scene.kind == HAND)):
            x, y = np.rint(inputs.scene.clip.xy[t, track]).astype(int)
            if 0 <= x < 256 and 0 <= y < 256:
                relative[t, y, x] = 3 / z[track] + 1
    inputs.arrays["depth/relative"] = relative
    report = PLACING.run(inputs).report["depth"]
    assert report["points"] > 100
    assert report["inliers"] > 0.5
    if not report["reasons"]:
        assert report["sigma"] < 0.15


def test_a_wrist_cameras_depth_is_held_still_by_points_of_the_scene():
    scene = random_scene(4, replace(CLEAR, rig="wrist", seconds=(6, 6)))
    inputs = SceneInputs(scene)
    inputs.source["tags"], inputs.camera_moves = ["wrist-camera"], True
    inputs.take("calibration", CALIBRATION.run(inputs))
    assert inputs.results["calibration"].record.report["tags"] == ["calibrated-by-hand"]
    rng = np.random.default_rng(0)
    n_frames = len(scene.clip.xy)
    drift = np.stack([rng.uniform(0.8, 1.25, n_frames), rng.uniform(-0.5, 0.5, n_frames)], axis=1)
    truth = np.zeros((n_frames, 256, 256))
    # Each track paints its own depth around it; between them there is a wall at 45 cm.
    relative = np.empty_like(truth, np.float32)
    relative[:] = (drift[:, 0] * (3 / 0.45 + 1) + drift[:, 1])[:, None, None]
    for t, hand in enumerate(scene.clip.hand_pose):
        view = np.linalg.inv(hand @ scene.carrier_from_camera)
        for track in np.flatnonzero(scene.clip.visibility[t] & (scene.kind == STATIC)):
            x, y = np.rint(scene.clip.xy[t, track]).astype(int)
            if 0 <= x < 256 and 0 <= y < 256:
                truth[t, y, x] = view[2, :3] @ scene.points[track] + view[2, 3]
                around = np.s_[t, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                relative[around] = drift[t, 0] * (3 / truth[t, y, x] + 1) + drift[t, 1]
    inputs.arrays["depth/relative"] = relative
    placed = PLACING.run(inputs)
    assert placed.report["depth"]["reasons"] == []
    stabilizer, steady = (decode(placed.datasets[f"depth/{name}"]) for name in ("stabilizer", "stabilized"))
    by_hand = stabilizer[:, :1, None] * relative + stabilizer[:, 1:, None]
    np.testing.assert_allclose(steady, by_hand, atol=1e-3 * np.ptp(by_hand))
    known = truth > 0
    metres = decode(placed.datasets["depth/aligned"])
    assert np.median(np.abs(metres[known] / truth[known] - 1)) < 0.04


def spoiled(name):
    inputs = scene_inputs(5)
    return spoil(inputs, name)


def spoil(inputs, name):
    arrays, n_frames = inputs.arrays, len(inputs.arrays["state"])
    if name == "millimetres":
        arrays["state"][:, :3] *= 1000
    elif name == "constant state":
        arrays["state"][:] = arrays["state"][:1]
    elif name == "a hand that hardly moves":
        arrays["state"][:, :3] = arrays["state"][0, :3] + 0.02 * (arrays["state"][:, :3] - arrays["state"][0, :3])
    elif name == "another order of the quaternion":
        arrays["state"][:, 3:] = arrays["state"][:, [6, 3, 4, 5]]
    elif name == "mirrored":
        arrays["tracks/grid/xy"][..., 0] = 255 - arrays["tracks/grid/xy"][..., 0]
    elif name == "zoomed half-way":
        late = arrays["tracks/grid/xy"][n_frames // 2 :]
        late[:] = (late - 128) * 1.25 + 128
    elif name == "nudged half-way":
        arrays["tracks/grid/xy"][n_frames // 2 :] += [12, 5]
    elif name == "poses of another clip":
        rows = np.linspace(0, len(scene_inputs(7).arrays["state"]) - 1, n_frames).astype(int)
        arrays["state"] = scene_inputs(7).arrays["state"][rows]
    return inputs


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("millimetres", None),
        ("constant state", "hand-still"),
        ("a hand that hardly moves", "not-observable"),
        ("another order of the quaternion", "not-observable"),
        ("mirrored", "not-observable"),
        ("zoomed half-way", "not-observable"),
        ("nudged half-way", "camera-bumped"),
        ("poses of another clip", "not-observable"),
    ],
)
def test_what_would_tell_a_wrong_camera_is_refused_with_a_reason(name, tag):
    output = CALIBRATION.run(spoiled(name))
    assert "extrinsics" not in output.datasets
    assert output.report["reasons"]
    assert tag is None or tag in output.report["tags"]
    assert "calibrated-by-hand" not in output.report["tags"]


@pytest.mark.parametrize(
    "name",
    [
        "another order of the quaternion",
        "poses of another clip",
        "mirrored pictures",
        "pictures zoomed half-way",
        "pictures nudged half-way",
    ],
)
def test_points_matched_again_do_not_confirm_a_wrong_camera(name):
    inputs = scene_inputs(5, "tracks.robot=80")
    box_on_hand(inputs)
    seen = [inputs.arrays["pixels"], inputs.arrays["masks/robot"]]
    half = len(seen[0]) // 2
    if name == "mirrored pictures":
        seen = [np.ascontiguousarray(each[:, :, ::-1]) for each in seen]
    elif name == "pictures nudged half-way":
        seen = [np.concatenate([each[:half], np.roll(each[half:], (5, 12), (1, 2))]) for each in seen]
    elif name == "pictures zoomed half-way":
        zoom = cv2.getRotationMatrix2D((127.5, 127.5), 0, 1.25)
        late = [[cv2.warpAffine(np.uint8(frame), zoom, (256, 256)) for frame in each[half:]] for each in seen]
        seen = [
            np.concatenate([each[:half], np.asarray(then, each.dtype)]) for each, then in zip(seen, late, strict=True)
        ]
    else:
        spoil(inputs, name)
    inputs.arrays["pixels"], inputs.arrays["masks/robot"] = seen
    output = CALIBRATION.run(inputs)
    assert "extrinsics" not in output.datasets
    assert output.report["reasons"]
    assert "tracks/robot/xy" in output.datasets


def test_a_late_camera_is_calibrated_and_tagged():
    inputs = scene_inputs(5, recipe=replace(CLEAR, delay=(0.2, 0.2)))
    report = CALIBRATION.run(inputs).report
    assert report["tags"] == ["calibrated-by-hand", "time-offset"]
    assert report["camera"]["delay_s"] == pytest.approx(0.2, abs=0.05)


def test_rows_that_were_dropped_do_not_spoil_a_camera():
    inputs = scene_inputs(5)
    inputs.arrays["state"][10:14] = np.nan
    output = CALIBRATION.run(inputs)
    assert output.report["tags"] == ["calibrated-by-hand", "state-dropped"]
    assert position_error_m(inputs, output.datasets) < 0.05


@pytest.mark.parametrize("seed", [3, 8])
def test_points_on_the_robot_are_matched_again_before_the_camera_they_told(seed, monkeypatch):
    inputs = scene_inputs(seed)
    box_on_hand(inputs)
    again = CALIBRATION.run(inputs)
    monkeypatch.setattr(calibration, "LOOKS", 0)
    once = CALIBRATION.run(inputs)
    assert again.report["robot_tracks"]["matched_again"]
    assert not once.report["robot_tracks"]["matched_again"]
    assert again.report["camera"]["residual_px"] < 0.7 * once.report["camera"]["residual_px"]
    camera = again.report["camera"]
    assert camera["focal_px"] == pytest.approx(inputs.scene.focal_px, rel=max(3 * camera["focal_sigma"], 0.01))
    assert again.report["tags"] == ["calibrated-by-hand"]


@pytest.mark.parametrize("settings", [("tracks.robot=0",), ("tracks.backend=off",)])
def test_points_on_the_robot_are_left_out_where_they_are_not_asked_for(settings):
    inputs = scene_inputs(5, *settings)
    box_on_hand(inputs)
    output = CALIBRATION.run(inputs)
    assert "robot_tracks" not in output.report
    assert "tracks/robot/xy" not in output.datasets
    assert CALIBRATION.settings(inputs.config) != CALIBRATION.settings(scene_inputs(5).config)


def test_points_on_a_robot_that_hardly_moves_stay_as_they_were_followed():
    inputs = spoiled("a hand that hardly moves")
    box_on_hand(inputs)
    output = CALIBRATION.run(inputs)
    assert "not-observable" in output.report["tags"]
    assert output.report["robot_tracks"] == {
        "points": 240,
        "visible_share": pytest.approx(0.5, abs=0.5),
        "matched_again": False,
    }
    assert decode(output.datasets["tracks/robot/xy"]).shape == (len(inputs.arrays["state"]), 240, 2)


@pytest.mark.parametrize("n_frames", [1, 2, 40, 400, 2000])
@pytest.mark.parametrize("n_tracks", [1, 240, 800])
def test_a_clip_is_thinned_to_what_tells_as_much(n_frames, n_tracks):
    clip = TrackedClip(
        np.zeros((n_frames, n_tracks, 2), np.float32),
        np.ones((n_frames, n_tracks), bool),
        np.eye(4)[None].repeat(n_frames, 0),
        np.arange(n_frames) / 10,
        (64, 64),
    )
    of_scene, of_robot = (thinned(clip, of_robot=on_robot) for on_robot in (False, True))
    assert len(of_scene.timestamp) == min(n_frames, 160)
    assert min(n_frames, 2) <= len(of_robot.timestamp) <= len(of_scene.timestamp)
    assert of_robot.visibility.sum() <= max(11_000, 2 * n_tracks)
    assert of_robot.visibility.sum() >= 0.9 * min(clip.visibility.sum(), 10_000, 160 * n_tracks)
    for thin in (of_scene, of_robot):
        assert (thin.timestamp[0], thin.timestamp[-1]) == (clip.timestamp[0], clip.timestamp[-1])


def test_a_calibration_that_is_off_leaves_the_hand():
    output = CALIBRATION.run(scene_inputs(5, "geometry.calibration=off"))
    assert sorted(output.datasets) == ["hand_pose", "hand_pose_valid"]
    assert output.report["tags"] == []
