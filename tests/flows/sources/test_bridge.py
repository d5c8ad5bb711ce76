"""BridgeData V2 raw folders."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from itertools import pairwise

import cv2
import numpy as np
import pytest

from extractors.errors import (
    BlankCameraError,
    CorruptDataError,
    EpisodeError,
    LengthMismatchError,
    MissingDataError,
    UnknownCameraError,
    UnsafePickleError,
)
from flows.sources.bridge import BridgeRawSource, is_bridge_raw
from flows.sources.bridge_folders import logical_views, parse_language
from tests.flows.sources.bridge_builder import DATED, LATE, SIZE, jpeg, picture, png, states, write_trajectory
from tests.support import shared_data

JPEG_ERROR = 6.0
"""Mean grey levels that a smooth picture may lose to JPEG at quality 95."""

FIXTURE_STEP = 0.02
"""Metres between commanded and reached position; formats.md saw 3 to 19 mm on the released trajectories."""


def _only(root):
    source = BridgeRawSource(root)
    (info,) = source.episodes()
    return source, info


def _open(root, camera=None):
    source, info = _only(root)
    return source.open(info, camera)


# What is listed


def test_a_folder_is_recognised_at_any_depth_and_other_folders_are_not(tmp_path):
    folder = write_trajectory(tmp_path)
    assert is_bridge_raw(tmp_path)
    assert is_bridge_raw(folder.parents[2])
    (tmp_path / "other/raw").mkdir(parents=True)
    assert not is_bridge_raw(tmp_path / "other")
    assert not is_bridge_raw(folder / "lang.txt")


def test_episodes_come_in_the_order_people_count(tmp_path):
    for number in (10, 9, 2):
        write_trajectory(tmp_path, 2, number=number)
    infos = list(BridgeRawSource(tmp_path).episodes())
    assert [info.key["path"].rpartition("/")[2] for info in infos] == ["traj2", "traj9", "traj10"]
    assert [info.episode_index for info in infos] == [0, 1, 2]


def test_listing_opens_neither_images_nor_pickles(tmp_path):
    folder = write_trajectory(tmp_path, cameras=2)
    for path in folder.rglob("*.*"):
        if path.name != "lang.txt":
            path.write_bytes(b"not what it should be")
    _, info = _only(tmp_path)
    assert (info.n_frames, info.language_instruction, info.cameras) == (
        6,
        "put the cup in the sink",
        ("images0", "images1"),
    )


def test_the_files_of_an_episode_are_all_that_it_is_read_from(tmp_path):
    folder = write_trajectory(
        tmp_path, cameras=2, depth=np.uint16, topics=["/D435/color/image_raw", "/wrist/image_raw"]
    )
    _, info = _only(tmp_path)
    expected = {path for path in folder.rglob("*.*") if path.name != "agent_data.pkl"}
    assert set(info.files) == expected | {tmp_path / DATED / "config.json"}


def test_ids_that_would_be_equal_are_told_apart_and_stay_in_the_output_folder(tmp_path):
    for dated in ("a b/2022-03-08", "a_b/2022-03-08", "..a/2022-03-08", "x" * 200 + "/2022-03-08"):
        write_trajectory(tmp_path, 2, dated=dated)
    ids = [info.episode_id for info in BridgeRawSource(tmp_path).episodes()]
    assert ids == [info.episode_id for info in BridgeRawSource(tmp_path).episodes()]
    assert len({name.casefold() for name in ids}) == 4
    assert all(".." not in name and "/" not in name and len(name) < 200 for name in ids)


def test_packed_copies_and_links_to_folders_are_passed_over(tmp_path):
    write_trajectory(tmp_path / "root", 2)
    write_trajectory(tmp_path / "root", 2, dated="sink/lmdb_2022-03-08")
    write_trajectory(tmp_path / "outside", 2)
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")
    (tmp_path / "root/loop").symlink_to(tmp_path / "root")
    _only(tmp_path / "root")


def test_a_link_that_leads_out_of_the_source_is_not_read(tmp_path):
    folder = write_trajectory(tmp_path / "root")
    secret = tmp_path / "secret.jpg"
    (folder / "images0/im_3.jpg").rename(secret)
    (folder / "images0/im_3.jpg").symlink_to(secret)
    with pytest.raises(MissingDataError, match="lacks image 3"):
        _open(tmp_path / "root")


# Frames and rows


def test_frames_come_in_numeric_order_as_rgb(tmp_path):
    write_trajectory(tmp_path, 12)
    episode = _open(tmp_path)
    assert episode.pixels.shape == (12, *SIZE, 3)
    assert episode.provenance["frame_ids"] == list(range(12))
    for t, frame in enumerate(episode.pixels):
        assert np.abs(frame.astype(float) - picture(t)).mean() < JPEG_ERROR


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("bare", [False, True])
def test_action_t_is_what_leads_from_state_t_to_the_next(tmp_path, bare, protocol):
    write_trajectory(tmp_path, bare=bare, protocol=protocol)
    episode = _open(tmp_path)
    np.testing.assert_allclose(np.diff(episode.state[:, :6], axis=0), episode.action[:-1, :6], atol=1e-6)
    assert episode.action_valid.tolist() == [True] * 5 + [False]
    assert np.isnan(episode.action[5]).all()
    assert episode.provenance["pad_action"] is True
    assert episode.state.dtype == episode.action.dtype == np.float32
    np.testing.assert_array_equal(episode.state, states(6).astype(np.float32))


def test_gripper_is_the_states_opening_within_its_range(tmp_path):
    write_trajectory(tmp_path)
    episode = _open(tmp_path)
    assert episode.gripper[0] == 1.0
    assert episode.state[0, 6] > 1.0
    np.testing.assert_array_equal(episode.gripper[1:], episode.state[1:, 6])


def test_before_the_latency_fix_the_first_image_and_state_and_the_last_action_are_dropped(tmp_path):
    write_trajectory(tmp_path, 6, dated=LATE, depth=np.uint16)
    source, info = _only(tmp_path)
    episode = source.open(info)
    assert info.n_frames == episode.n_frames == len(episode.state) == len(episode.action) == 5
    assert episode.provenance["frame_ids"] == [1, 2, 3, 4, 5]
    assert "2021-06-18" in episode.provenance["alignment"]
    np.testing.assert_array_equal(episode.state, states(6)[1:].astype(np.float32))
    np.testing.assert_allclose(episode.action[:4, 0], np.diff(states(6)[:, 0])[:4], atol=1e-6)
    assert episode.action_valid.tolist() == [True] * 4 + [False]
    assert [round(float(depth[0, 0]) * 1000) for depth in episode.recorded_depth] == [101, 102, 103, 104, 105]
    assert episode.timestamp[0] == 0.0


def test_the_day_of_the_latency_fix_is_not_late(tmp_path):
    write_trajectory(tmp_path, 4, dated="sink/2021-07-23_00-00-00")
    assert _open(tmp_path).n_frames == 4


def test_an_action_for_every_frame_needs_no_padding(tmp_path):
    folder = write_trajectory(tmp_path, 4)
    (folder / "policy_out.pkl").write_bytes(pickle.dumps([np.full(7, t) for t in range(4)]))
    episode = _open(tmp_path)
    assert episode.action_valid.all()
    assert episode.provenance["pad_action"] is False


def test_one_frame_is_packed_with_a_tag(tmp_path):
    write_trajectory(tmp_path, 1)
    source, info = _only(tmp_path)
    episode = source.open(info)
    assert "one-frame" in info.tags
    assert "one-frame" in episode.tags
    assert episode.action.shape == (1, 7)
    assert not episode.action_valid.any()


def test_a_nan_in_an_action_makes_its_whole_row_nan_and_not_valid(tmp_path):
    folder = write_trajectory(tmp_path)
    rows = [np.arange(7.0) for _ in range(5)]
    rows[3][2] = np.nan
    (folder / "policy_out.pkl").write_bytes(pickle.dumps(rows))
    episode = _open(tmp_path)
    assert "nan-action" in episode.tags
    assert episode.action_valid.tolist() == [True, True, True, False, True, False]
    assert np.isnan(episode.action).any(axis=1).tolist() == np.isnan(episode.action).all(axis=1).tolist()
    np.testing.assert_array_equal(episode.action_valid, np.isfinite(episode.action[:, 0]))
    assert "row 3" in episode.provenance["alignment"]


# Time


def test_time_stamps_count_from_the_first_frame(tmp_path):
    write_trajectory(tmp_path, 4, stamps=[50.0, 50.21, 50.4, 50.62])
    episode = _open(tmp_path)
    np.testing.assert_allclose(episode.timestamp, [0, 0.21, 0.4, 0.62])
    assert episode.fps == 5.0
    assert episode.tags == ()


def test_stamps_that_clearly_say_another_rate_are_believed(tmp_path):
    write_trajectory(tmp_path, 4, stamps=[t / 15 for t in range(4)])
    assert _open(tmp_path).fps == 15.0


@pytest.mark.parametrize(
    ("stamps", "tag"),
    [
        (None, "no-timestamps"),
        ([0.0, 0.2, 0.2, 0.6], "irregular-timestamps"),
        ([0.0, 0.2, float("nan"), 0.6], "irregular-timestamps"),
    ],
)
def test_stamps_that_are_no_use_are_replaced_by_5_hz_and_tagged(tmp_path, stamps, tag):
    write_trajectory(tmp_path, 4, stamps=stamps)
    episode = _open(tmp_path)
    assert tag in episode.tags
    np.testing.assert_allclose(episode.timestamp, [0, 0.2, 0.4, 0.6])


# Language


@pytest.mark.parametrize(
    ("text", "instruction", "tags"),
    [
        (None, "", ("no-language",)),
        ("confidence: 1\n", "", ("no-language",)),
        ("put it\nconfidence: 0\n", "put it", ("low-confidence-language",)),
        ("put it\nconfidence: 1\n", "put it", ()),
        ("put it\n", "put it", ()),
        ("\n put\tthe\x00 pot \nlift the pot\nconfidence: 0.9\n", "put the pot", ()),
    ],
)
def test_language_is_the_first_line_and_doubts_are_tagged(tmp_path, text, instruction, tags):
    write_trajectory(tmp_path, 2, lang=text)
    source, info = _only(tmp_path)
    episode = source.open(info)
    assert info.language_instruction == episode.language_instruction == instruction
    assert info.tags == episode.tags == tags


def test_further_annotations_and_confidence_are_kept():
    language = parse_language("a\nb\nconfidence: 0.75\n")
    assert (language.others, language.confidence) == (("b",), 0.75)


# Cameras


def test_the_default_is_the_first_fixed_camera_that_shows_something(tmp_path):
    topics = ["/wrist/image_raw", "/blue/image_raw", {"name": "/D435/color/image_raw"}]
    write_trajectory(tmp_path, 3, cameras=3, black=(1,), topics=topics)
    episode = _open(tmp_path)
    assert episode.camera_name == "images2"
    assert episode.provenance["views"] == {"images0": "image_3", "images1": "image_1", "images2": "image_0"}
    assert episode.provenance["cameras"] == ["images0", "images1", "images2"]


def test_a_wrist_camera_is_taken_only_where_no_other_shows_anything_and_is_tagged(tmp_path):
    topics = ["/D435/color/image_raw", "/wrist/image_raw"]
    write_trajectory(tmp_path, 3, cameras=2, black=(0,), topics=topics)
    episode = _open(tmp_path)
    assert episode.camera_name == "images1"
    assert "wrist-camera" in episode.tags


@pytest.mark.parametrize(("asked", "given"), [("images1", "images1"), ("wrist", "images1"), ("image_0", "images0")])
def test_a_camera_is_named_by_folder_or_by_view(tmp_path, asked, given):
    write_trajectory(tmp_path, 3, cameras=2, topics=["/D435/color/image_raw", "/wrist/image_raw"])
    episode = _open(tmp_path, asked)
    assert episode.camera_name == given
    seed = 20 * int(given[-1])
    assert np.abs(next(iter(episode.pixels)).astype(float) - picture(seed)).mean() < JPEG_ERROR


def test_an_unknown_camera_is_refused_with_those_there_are(tmp_path):
    write_trajectory(tmp_path, 3, cameras=2)
    with pytest.raises(UnknownCameraError, match=r"images0 \(image_0\), images1 \(image_1\)"):
        _open(tmp_path, "images7")


def test_a_chosen_camera_that_is_all_black_fails(tmp_path):
    write_trajectory(tmp_path, 3, cameras=2, black=(1,))
    with pytest.raises(BlankCameraError, match="images1"):
        _open(tmp_path, "images1")


def test_a_camera_that_shows_one_frame_somewhere_is_not_blank(tmp_path):
    folder = write_trajectory(tmp_path, 6, black=(0,))
    (folder / "images0/im_1.jpg").write_bytes(jpeg(picture(1)))
    assert _open(tmp_path).camera_name == "images0"


def test_views_follow_the_topics_and_an_odd_config_gives_the_usual_order(tmp_path):
    names = ["images0", "images1", "images2", "images3"]
    usual = {name: f"image_{i}" for i, name in enumerate(names)}
    assert logical_views(names, tmp_path / "none.json") == (usual, "assumed order")
    (tmp_path / "odd.json").write_text('{"agent": []}')
    assert logical_views(names, tmp_path / "odd.json") == (usual, "assumed order")
    topics = ["/cam1/image_raw", "/cam2/image_raw", "/cam0/image_raw", "/wrist/image_raw"]
    (tmp_path / "config.json").write_text(json.dumps({"agent": {"env": ["", {"camera_topics": topics}]}}))
    views = dict(zip(names, ["image_1", "image_2", "image_0", "image_3"], strict=True))
    assert logical_views(names, tmp_path / "config.json") == (views, "config.json")


# Depth, masks, intrinsics


def test_depth_is_metres_of_the_first_camera_alone(tmp_path):
    write_trajectory(tmp_path, 3, cameras=2, depth=np.uint16)
    depth = _open(tmp_path).recorded_depth
    assert depth.shape == (3, *SIZE)
    for t, frame in enumerate(depth):
        assert frame.dtype == np.float32
        np.testing.assert_allclose(frame, (100 + t) / 1000, rtol=1e-6)
    assert _open(tmp_path, "images1").recorded_depth is None


def test_8_bit_depth_has_no_unit_and_is_left_out_with_a_tag(tmp_path):
    write_trajectory(tmp_path, 3, depth=np.uint8)
    episode = _open(tmp_path)
    assert episode.recorded_depth is None
    assert "depth-8-bit-ignored" in episode.tags


def test_depth_that_lacks_a_frame_fails(tmp_path):
    folder = write_trajectory(tmp_path, 3, depth=np.uint16)
    (folder / "depth_images0/im_1.png").unlink()
    with pytest.raises(MissingDataError, match="depth_images0 lacks image 1"):
        _open(tmp_path)


def test_a_damaged_depth_map_is_named(tmp_path):
    folder = write_trajectory(tmp_path, 3, depth=np.uint16)
    path = folder / "depth_images0/im_2.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptDataError, match=r"depth_images0/im_2\.png"):
        list(_open(tmp_path).recorded_depth)


def test_label_images_give_object_and_robot(tmp_path):
    folder = write_trajectory(tmp_path, 2, cameras=1)
    (folder / "masks0").mkdir()
    labels = np.zeros(SIZE, np.uint8)
    labels[2:5, 3:9], labels[10:, :] = 1, 2
    for t in range(2):
        (folder / f"masks0/im_{t}.png").write_bytes(png(labels))
    episode = _open(tmp_path)
    for masks, label in ((episode.recorded_masks, 1), (episode.recorded_robot, 2)):
        assert masks.shape == (2, *SIZE)
        assert len(list(masks)) == 2
        for mask in masks:
            assert mask.dtype == np.bool_
            np.testing.assert_array_equal(mask, labels == label)


def test_a_label_that_means_nothing_is_refused(tmp_path):
    folder = write_trajectory(tmp_path, 1)
    (folder / "masks0").mkdir()
    (folder / "masks0/im_0.png").write_bytes(png(np.full(SIZE, 255, np.uint8)))
    with pytest.raises(CorruptDataError, match="not a label image"):
        list(_open(tmp_path).recorded_masks)


def test_intrinsics_beside_the_images_are_calibrated(tmp_path):
    folder = write_trajectory(tmp_path, 2, cameras=2)
    entry = {"fx": 30.0, "fy": 31.0, "cx": 15.5, "cy": 11.5, "width": SIZE[1], "height": SIZE[0]}
    (folder / "intrinsics.json").write_text(json.dumps({"images0": entry}))
    camera = _open(tmp_path).camera
    assert (camera.fx, camera.fy, camera.cx, camera.cy, camera.source) == (30.0, 31.0, 15.5, 11.5, "calibrated")
    assert _open(tmp_path, "images1").camera is None


@pytest.mark.parametrize("change", [{"width": 640}, {"fx": 0.0}, {"fy": None}, {"cx": "left"}])
def test_intrinsics_that_do_not_fit_are_refused(tmp_path, change):
    folder = write_trajectory(tmp_path, 2)
    entry = {"fx": 30.0, "fy": 31.0, "cx": 15.5, "cy": 11.5, "width": SIZE[1], "height": SIZE[0], **change}
    (folder / "intrinsics.json").write_text(json.dumps({"images0": entry}))
    with pytest.raises(CorruptDataError, match=r"intrinsics\.json"):
        _open(tmp_path)


# Bad input


def test_a_cut_jpeg_is_named_wherever_it_is_cut(tmp_path):
    folder = write_trajectory(tmp_path)
    path = folder / "images0/im_4.jpg"
    data = path.read_bytes()
    for length in (0, 1, 30, len(data) // 2, len(data) - 2):
        path.write_bytes(data[:length])
        episode = _open(tmp_path)
        with pytest.raises(CorruptDataError, match=r"images0/im_4\.jpg"):
            list(episode.pixels)
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    with pytest.raises(CorruptDataError, match=r"im_4\.jpg"):
        list(_open(tmp_path).pixels)


def test_a_thumbnails_end_marker_does_not_hide_a_cut(tmp_path):
    folder = write_trajectory(tmp_path)
    path = folder / "images0/im_4.jpg"
    whole, thumbnail = path.read_bytes(), jpeg(picture(0, (8, 8)))
    with_thumbnail = whole[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + whole[2:]
    path.write_bytes(with_thumbnail)
    np.testing.assert_array_equal(
        list(_open(tmp_path).pixels)[4], cv2.imdecode(np.frombuffer(whole, "u1"), 1)[..., ::-1]
    )
    path.write_bytes(with_thumbnail[:-100])
    with pytest.raises(CorruptDataError, match="cut off"):
        list(_open(tmp_path).pixels)


def test_a_frame_of_another_size_is_refused(tmp_path):
    folder = write_trajectory(tmp_path)
    (folder / "images0/im_5.jpg").write_bytes(jpeg(picture(0, (16, 16))))
    with pytest.raises(CorruptDataError, match=r"im_5\.jpg is 16x16"):
        list(_open(tmp_path).pixels)


def test_gaps_in_the_image_numbers_are_named(tmp_path):
    folder = write_trajectory(tmp_path, 12)
    (folder / "images0/im_0.jpg").unlink()
    (folder / "images0/im_7.jpg").unlink()
    with pytest.raises(MissingDataError, match="lacks image 0, 7;"):
        _open(tmp_path)
    (folder / "images0/im_5.jpg").rename(folder / "images0/im_4000000000.jpg")
    with pytest.raises(MissingDataError, match="and more"):
        _open(tmp_path)


@pytest.mark.parametrize("n_actions", [0, 3, 4])
def test_other_numbers_of_actions_than_one_fewer_are_refused(tmp_path, n_actions):
    write_trajectory(tmp_path, 6, n_actions=n_actions)
    with pytest.raises(LengthMismatchError, match=f"6 images, 6 states and {n_actions} actions"):
        _open(tmp_path)


def test_images_and_states_must_agree_on_the_length(tmp_path):
    folder = write_trajectory(tmp_path, 6)
    (folder / "images0/im_5.jpg").unlink()
    with pytest.raises(LengthMismatchError, match="5 images, 6 states"):
        _open(tmp_path)


def test_time_stamps_must_agree_on_the_length(tmp_path):
    write_trajectory(tmp_path, 6, stamps=[0.0, 0.2])
    with pytest.raises(LengthMismatchError, match="2 time stamps"):
        _open(tmp_path)


@pytest.mark.parametrize("name", ["policy_out.pkl", "obs_dict.pkl"])
def test_a_missing_pickle_is_named(tmp_path, name):
    folder = write_trajectory(tmp_path)
    (folder / name).unlink()
    with pytest.raises(MissingDataError, match=name):
        _open(tmp_path)


@pytest.mark.parametrize("name", ["policy_out.pkl", "obs_dict.pkl"])
def test_a_cut_pickle_is_named(tmp_path, name):
    folder = write_trajectory(tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:-40])
    with pytest.raises(CorruptDataError, match=name):
        _open(tmp_path)


@pytest.mark.parametrize(
    ("observed", "error", "words"),
    [
        ({"full_state": None}, MissingDataError, "no full_state"),
        ({"full_state": np.zeros((6, 5))}, CorruptDataError, "5 numbers a row"),
        ({"full_state": np.zeros(6)}, CorruptDataError, "shape"),
        ({"full_state": "words"}, CorruptDataError, "not a table of numbers"),
        ({"full_state": np.where(np.arange(42).reshape(6, 7) == 9, np.nan, 0)}, CorruptDataError, "row 1"),
        ({"time_stamp": ["a"] * 6}, CorruptDataError, "time_stamp"),
    ],
)
def test_states_that_are_not_what_they_should_be_are_refused(tmp_path, observed, error, words):
    write_trajectory(tmp_path, observed=observed)
    with pytest.raises(error, match=words):
        _open(tmp_path)


@pytest.mark.parametrize("policy_out", [3, {"a": 1}, [{"other": 1}], [np.zeros(7)] * 4 + [np.zeros(3)], ["x"] * 5])
def test_actions_that_are_not_what_they_should_be_are_refused(tmp_path, policy_out):
    folder = write_trajectory(tmp_path)
    (folder / "policy_out.pkl").write_bytes(pickle.dumps(policy_out))
    with pytest.raises(EpisodeError, match=r"policy_out\.pkl"):
        _open(tmp_path)


def test_an_episode_without_images_is_listed_and_fails(tmp_path):
    folder = write_trajectory(tmp_path)
    shutil.rmtree(folder / "images0")
    source, info = _only(tmp_path)
    assert info.n_frames == 0
    with pytest.raises(MissingDataError, match="no images"):
        source.open(info)


def test_a_late_episode_of_one_image_has_none_left(tmp_path):
    write_trajectory(tmp_path, 1, dated=LATE)
    source, info = _only(tmp_path)
    assert info.n_frames == 0
    with pytest.raises(MissingDataError, match="latency"):
        source.open(info)


def test_an_episode_that_is_gone_fails_alone(tmp_path):
    write_trajectory(tmp_path)
    source, info = _only(tmp_path)
    with pytest.raises(MissingDataError, match="traj99"):
        source.open(dataclasses.replace(info, key={"path": f"{DATED}/raw/traj_group0/traj99"}))


# The released layout

BAD = {
    "image_gap": (MissingDataError, "lacks image 4;"),
    "length_mismatch": (LengthMismatchError, "10 images, 10 states and 6 actions"),
    "malicious_pickle": (UnsafePickleError, "obs_dict"),
    "malicious_pickle_policy": (UnsafePickleError, "policy_out"),
    "missing_policy_out": (MissingDataError, "policy_out"),
    "truncated_jpg": (CorruptDataError, r"im_5\.jpg"),
    "truncated_pickle": (CorruptDataError, "pkl"),
}
TAGGED = {
    "low_confidence_lang": "low-confidence-language",
    "missing_lang": "no-language",
    "nan_action": "nan-action",
}


@pytest.mark.shared
@pytest.mark.parametrize("name", BAD)
def test_a_bad_fixture_fails_for_its_reason(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    error, words = BAD[name]
    source, info = _only(shared_data("bridge_raw", "corrupt", name))
    with pytest.raises(error, match=words):
        list(source.open(info).pixels)
    assert not (tmp_path / "PICKLE_CODE_RAN").exists()


@pytest.mark.shared
@pytest.mark.parametrize("name", TAGGED)
def test_a_doubtful_fixture_is_read_with_a_tag(name):
    episode = _open(shared_data("bridge_raw", "corrupt", name))
    assert episode.tags == (TAGGED[name],)
    assert len(list(episode.pixels)) == 10


@pytest.mark.shared
def test_good_fixtures_have_the_lengths_their_description_gives():
    source = BridgeRawSource(shared_data("bridge_raw", "good"))
    episodes = [source.open(info) for info in source.episodes()]
    assert [episode.n_frames for episode in episodes] == [9, 28, 28, 10]
    assert [int(episode.action_valid.sum()) for episode in episodes] == [8, 27, 27, 9]
    assert [episode.recorded_depth is not None for episode in episodes] == [False, True, False, False]
    assert all(episode.tags == () for episode in episodes)
    depth = next(iter(episodes[1].recorded_depth))
    assert 0.2 < float(np.median(depth)) < 3.0


@pytest.mark.shared
def test_actions_of_the_good_fixtures_lead_to_the_next_state():
    source = BridgeRawSource(shared_data("bridge_raw", "good"))
    for info in source.episodes():
        episode = source.open(info)
        error = np.abs(np.diff(episode.state[:, :3], axis=0) - episode.action[:-1, :3]).max()
        assert error < FIXTURE_STEP
        if "no latency rule" in episode.provenance["alignment"]:  # a late one is a row apart on purpose
            wrong = [
                np.abs(after[:, :3] - before[:, :3] - episode.action[row : row + len(after), :3]).mean()
                for row, before, after in (
                    (0, episode.state[:-1], episode.state[1:]),
                    (1, episode.state[:-2], episode.state[1:-1]),
                )
            ]
            assert all(right < shifted for right, shifted in pairwise(wrong))
