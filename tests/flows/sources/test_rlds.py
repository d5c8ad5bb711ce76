"""BridgeData as RLDS."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from extractors.errors import (
    BlankCameraError,
    CorruptDataError,
    LengthMismatchError,
    MissingDataError,
    SourceError,
    UnknownCameraError,
)
from flows.sources.rlds import RldsSource, is_rlds
from flows.sources.tfrecord import masked_crc
from tests.flows.sources.bridge_builder import SIZE, picture, states
from tests.flows.sources.rlds_builder import (
    bridge_features,
    depth_png,
    example,
    oxe_features,
    oxe_steps_of,
    steps_of,
    write_build,
)
from tests.support import shared_data

JPEG_ERROR = 6.0
"""Mean grey levels that a smooth picture may lose to JPEG at quality 95."""


def _build(root, *flat, features=None):
    return RldsSource(write_build(root, {"train": [[example(one) for one in flat]]}, features))


def _open(root, flat, camera=None, features=None):
    source = _build(root, flat, features=features)
    (info,) = source.episodes()
    return source.open(info, camera)


def _shard(root, number=0, of=1, split="train"):
    return root / f"bridge_dataset-{split}.tfrecord-{number:05d}-of-{of:05d}"


# What is listed


def test_a_build_is_recognised_by_its_files(tmp_path):
    write_build(tmp_path / "build", {"train": [[example(steps_of(2))]]})
    assert is_rlds(tmp_path / "build")
    assert not is_rlds(tmp_path)
    _shard(tmp_path / "build").unlink()
    assert not is_rlds(tmp_path / "build")


def test_every_split_and_shard_is_listed_in_order(tmp_path):
    records = [example(steps_of(n)) for n in (2, 3, 4, 5)]
    source = RldsSource(write_build(tmp_path, {"val": [records[:1]], "train": [records[1:3], records[3:]]}))
    infos = list(source.episodes())
    assert [info.episode_id for info in infos] == ["train-00000", "train-00001", "train-00002", "val-00000"]
    assert [info.n_frames for info in infos] == [3, 4, 5, 2]
    assert [info.episode_index for info in infos] == [0, 1, 2, 3]
    assert infos[2].files[0] == _shard(tmp_path, 1, 2)
    assert all(source.open(info).n_frames == info.n_frames for info in infos)


def test_listing_reads_the_instruction_and_no_image(tmp_path):
    flat = steps_of(3)
    flat["steps/observation/image_0"] = [b"not an image"] * 3
    source = _build(tmp_path, flat, {**steps_of(1), "steps/language_instruction": [b""]})
    first, second = source.episodes()
    assert (first.language_instruction, first.n_frames, first.tags) == ("put the cup in the sink", 3, ())
    assert first.cameras == ("image_0", "image_1")
    assert set(second.tags) == {"no-language", "one-frame"}


def test_listing_stands_still_until_it_is_asked(tmp_path):
    source = _build(tmp_path, steps_of(2), steps_of(3))
    infos = source.episodes()
    assert next(infos).n_frames == 2
    _shard(tmp_path).write_bytes(b"")
    assert len(list(infos)) == 1  # promised by dataset_info.json


def test_a_build_without_dataset_info_is_read_from_its_files(tmp_path):
    source = _build(tmp_path, steps_of(2))
    (tmp_path / "dataset_info.json").unlink()
    source = RldsSource(tmp_path)
    assert source.dataset == "bridge_dataset"
    assert [info.n_frames for info in source.episodes()] == [2]


# Frames and rows


def test_frames_are_the_cameras_pictures(tmp_path):
    episode = _open(tmp_path, steps_of(4), "image_1")
    assert episode.pixels.shape == (4, *SIZE, 3)
    assert len(list(episode.pixels)) == 4
    for t, pixels in enumerate(episode.pixels):
        assert np.abs(pixels.astype(float) - picture(t + 20)).mean() < JPEG_ERROR


def test_rows_stay_as_stored_but_a_padded_last_action_is_no_command(tmp_path):
    episode = _open(tmp_path, steps_of(5))
    np.testing.assert_array_equal(episode.state, states(5).astype(np.float32))
    np.testing.assert_allclose(np.diff(episode.state[:, :6], axis=0), episode.action[:-1, :6], atol=1e-6)
    assert np.isnan(episode.action[-1]).all()
    assert episode.provenance["pad_action"] is True
    assert episode.action_valid.tolist() == [True] * 4 + [False]
    assert "padding" in episode.provenance["alignment"]
    assert episode.gripper[0] == 1.0
    np.testing.assert_allclose(episode.timestamp, np.arange(5) / 5)
    assert (episode.fps, episode.tags) == (5.0, ())


def test_a_real_last_action_is_valid(tmp_path):
    flat = steps_of(5)
    flat["steps/action"][-1] = 0.01
    flat["steps/action"][0] = 0.0
    episode = _open(tmp_path, flat)
    assert episode.action_valid.all()
    np.testing.assert_array_equal(episode.action, flat["steps/action"].astype(np.float32))
    assert episode.provenance["pad_action"] is False


def test_a_nan_in_an_action_makes_its_whole_row_nan_and_not_valid(tmp_path):
    flat = steps_of(5)
    flat["steps/action"][2, 1] = np.nan
    episode = _open(tmp_path, flat)
    assert episode.tags == ("nan-action",)
    assert episode.action_valid.tolist() == [True, True, False, True, False]
    np.testing.assert_array_equal(np.isnan(episode.action).all(axis=1), ~episode.action_valid)
    assert np.isfinite(episode.action[episode.action_valid]).all()


def test_a_nan_in_the_state_fails(tmp_path):
    flat = steps_of(5)
    flat["steps/observation/state"][3, 1] = np.nan
    with pytest.raises(CorruptDataError, match="row 3"):
        _open(tmp_path, flat)


def test_open_x_embodiment_fields_give_the_same_seven_columns(tmp_path):
    episode = _open(tmp_path, oxe_steps_of(5), features=oxe_features())
    expected = steps_of(5)["steps/action"]
    np.testing.assert_allclose(episode.action[:-1], expected[:-1], atol=1e-6)
    assert episode.camera_name == "image"
    assert episode.language_instruction == "put the cup in the sink"
    assert episode.provenance["action_columns"] == "world_vector rotation_delta open_gripper"


def test_the_light_look_agrees_with_the_full_decoding(tmp_path):
    source = _build(tmp_path, oxe_steps_of(7), features=oxe_features())
    (info,) = source.episodes()
    assert (info.n_frames, info.language_instruction) == (7, source.open(info).language_instruction)


# Cameras and depth


def test_black_views_are_told_by_their_pixels(tmp_path):
    flat = steps_of(3, cameras=4, black=(0, 3))
    assert _open(tmp_path, flat, features=bridge_features(4)).camera_name == "image_1"
    with pytest.raises(BlankCameraError, match="image_3"):
        _open(tmp_path, flat, "wrist", bridge_features(4))


def test_the_wrist_view_is_the_last_choice_and_tagged(tmp_path):
    episode = _open(tmp_path, steps_of(3, cameras=4, black=(0, 1, 2)), features=bridge_features(4))
    assert (episode.camera_name, episode.tags) == ("image_3", ("wrist-camera",))


def test_an_unknown_camera_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(UnknownCameraError, match=r"\['image_0', 'image_1'\]"):
        _open(tmp_path, steps_of(3), "image_9")


def test_16_bit_depth_is_metres_of_its_own_camera(tmp_path):
    flat = {**steps_of(3), "steps/observation/depth_0": [depth_png(500 + t) for t in range(3)]}
    features = bridge_features(depth=np.uint16)
    depth = _open(tmp_path, flat, features=features).recorded_depth
    assert depth.shape == (3, *SIZE)
    np.testing.assert_allclose([pixels[0, 0] for pixels in depth], [0.5, 0.501, 0.502], rtol=1e-6)
    assert _open(tmp_path, flat, "image_1", features).recorded_depth is None


def test_depth_that_holds_no_reading_is_absent(tmp_path):
    flat = {**steps_of(3), "steps/observation/depth_0": [depth_png(0)] * 3}
    assert _open(tmp_path, flat, features=bridge_features(depth=np.uint16)).recorded_depth is None


def test_8_bit_depth_is_left_out_with_a_tag(tmp_path):
    flat = {**steps_of(3), "steps/observation/depth_0": [depth_png(9, np.uint8)] * 3}
    episode = _open(tmp_path, flat, features=bridge_features(depth=np.uint8))
    assert episode.recorded_depth is None
    assert episode.tags == ("depth-8-bit-ignored",)


# Bad input


def test_the_checksum_is_that_of_the_published_test_vector():
    # CRC32C of "123456789" is 0xE3069283 (RFC 3720 and others); the mask is TFRecord's.
    assert masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_episodes_before_a_cut_are_read_and_the_rest_fail_one_by_one(tmp_path):
    source = _build(tmp_path, steps_of(2), steps_of(3), steps_of(4))
    path = _shard(tmp_path)
    third = list(source.episodes())[2].key["offset"]
    for length in (third - 50, third - 2, third, third + 5, third + 200, path.stat().st_size - 1):
        write_build(tmp_path, {"train": [[example(steps_of(n)) for n in (2, 3, 4)]]})
        path.write_bytes(path.read_bytes()[:length])
        infos = list(source.episodes())
        assert [info.episode_id for info in infos] == ["train-00000", "train-00001", "train-00002"]
        good = 1 if length < third else 2
        for info in infos[:good]:
            assert len(list(source.open(info).pixels)) == info.n_frames
        for info in infos[good:]:
            with pytest.raises(CorruptDataError, match="cut"):
                source.open(info)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path):
    source = _build(tmp_path, steps_of(2), steps_of(3))
    first, second = source.episodes()
    data = bytearray(_shard(tmp_path).read_bytes())
    data[second.key["offset"] + 900] ^= 4
    _shard(tmp_path).write_bytes(data)
    assert source.open(first).n_frames == 2
    with pytest.raises(CorruptDataError, match="checksum"):
        source.open(second)


def test_a_damaged_length_hides_what_follows_and_is_reported(tmp_path):
    source = _build(tmp_path, steps_of(2), steps_of(3), steps_of(4))
    data = bytearray(_shard(tmp_path).read_bytes())
    data[list(source.episodes())[1].key["offset"] + 1] ^= 1
    _shard(tmp_path).write_bytes(data)
    infos = list(source.episodes())
    assert len(infos) == 3
    assert source.open(infos[0]).n_frames == 2
    for info in infos[1:]:
        with pytest.raises(CorruptDataError):
            source.open(info)


def test_files_that_were_not_fetched_are_left_out_by_number_and_ids_stay(tmp_path):
    records = [[example(steps_of(2))], [example(steps_of(3))] * 2, [example(steps_of(4))]]
    source = RldsSource(write_build(tmp_path, {"train": records}))
    _shard(tmp_path, 1, 3).unlink()
    infos = list(source.episodes())
    assert [info.n_frames for info in infos] == [2, 4]
    assert [(info.episode_id, info.episode_index) for info in infos] == [("train-00000", 0), ("train-00003", 3)]
    assert [source.open(info).n_frames for info in infos] == [2, 4]
    (left,) = source.left_out()
    assert str(left) == "episodes: 1 of 3 files of split train are missing, 2 episodes"


def test_a_record_with_an_undecodable_image_fails_naming_the_step(tmp_path):
    flat = steps_of(4)
    flat["steps/observation/image_0"][2] = flat["steps/observation/image_0"][2][:-30]
    episode = _open(tmp_path, flat)
    with pytest.raises(CorruptDataError, match="step 2, image_0 of record 0"):
        list(episode.pixels)


def test_features_that_disagree_about_the_length_fail(tmp_path):
    flat = steps_of(4)
    flat["steps/action"] = flat["steps/action"][:3]
    with pytest.raises(LengthMismatchError, match="record 0"):
        _open(tmp_path, flat)


def test_a_record_that_lacks_a_feature_fails(tmp_path):
    flat = steps_of(4)
    del flat["steps/observation/state"]
    with pytest.raises(CorruptDataError, match=r"features\.json"):
        _open(tmp_path, flat)


def test_a_record_that_is_no_example_is_listed_and_fails(tmp_path):
    source = RldsSource(write_build(tmp_path, {"train": [[b"\x0a\x05nonsense", b"", example(steps_of(2))]]}))
    infos = list(source.episodes())
    assert [info.n_frames for info in infos] == [None, None, 2]
    for info in infos[:2]:
        with pytest.raises((CorruptDataError, MissingDataError)):
            source.open(info)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pythonClassName": "os.system"}'])
def test_features_that_cannot_be_used_refuse_the_source(tmp_path, text):
    _build(tmp_path, steps_of(2))
    (tmp_path / "features.json").write_text(text)
    with pytest.raises(SourceError, match=r"features\.json"):
        RldsSource(tmp_path)


def test_features_of_other_packages_are_not_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_feature.py").write_text("raise SystemExit('ran')")
    _build(tmp_path / "build", steps_of(2))
    path = tmp_path / "build/features.json"
    text = path.read_text().replace("tensorflow_datasets.core.features.text_feature.Text", "evil_feature.Text")
    assert json.loads(text)
    path.write_text(text)
    with pytest.raises(SourceError, match="evil_feature"):
        RldsSource(path.parent)
    assert "evil_feature" not in sys.modules


def test_a_build_without_images_is_refused(tmp_path):
    features = tfds.features.FeaturesDict(
        {"steps": tfds.features.Dataset({"observation": {"state": tfds.features.Tensor(shape=(7,), dtype=np.float32)}})}
    )
    with pytest.raises(SourceError, match="no RGB image"):
        _build(tmp_path, {"steps/observation/state": states(2)}, features=features)


# The sample


@pytest.mark.shared
def test_the_sample_has_25_trajectories_in_each_of_two_splits():
    source = RldsSource(shared_data("bridge_rlds", "bridge_dataset", "1.0.0"))
    infos = list(source.episodes())
    assert [info.episode_id for info in infos[:: len(infos) // 2]] == ["train-00000", "val-00000"]
    assert len(infos) == 50
    assert {info.n_frames for info in infos} == {10}
    texts = [info.language_instruction for info in infos[:25]]
    assert (texts.count("put carrot on plate"), texts.count("turn lever vertical to front")) == (8, 6)


@pytest.mark.shared
def test_the_samples_fourth_view_is_black_and_the_first_is_taken():
    source = RldsSource(shared_data("bridge_rlds", "bridge_dataset", "1.0.0"))
    for info in source.episodes():
        assert source.open(info).camera_name == "image_0"
        with pytest.raises(BlankCameraError):
            source.open(info, "image_3")


@pytest.mark.shared
def test_actions_of_the_sample_lead_to_the_next_state():
    source = RldsSource(shared_data("bridge_rlds", "bridge_dataset", "1.0.0"))
    errors: dict[int, list[float]] = {-1: [], 0: [], 1: []}
    for info in source.episodes():
        episode = source.open(info)
        moved = np.diff(episode.state[:, :3], axis=0)[1:-1]
        for shift in errors:
            commanded = episode.action[1 + shift : 1 + shift + len(moved), :3]
            errors[shift].append(float(np.linalg.norm(moved - commanded, axis=1).mean()))
    # The README of the sample speaks of about 2 mm; a row off is worse in the mean over trajectories.
    assert np.mean(errors[0]) < 0.005
    assert np.mean(errors[0]) < min(np.mean(errors[-1]), np.mean(errors[1]))


@pytest.mark.shared
def test_the_sample_is_decoded_as_tensorflow_datasets_decodes_it():
    root = shared_data("bridge_rlds", "bridge_dataset", "1.0.0")
    source = RldsSource(root)
    features = tfds.features.FeaturesDict.from_config(str(root))
    from flows.sources.tfrecord import read_record

    for info in list(source.episodes())[:3]:
        steps = list(
            features.deserialize_example_np(read_record(root / info.key["file"], info.key["offset"], ""))["steps"]
        )
        episode = source.open(info)
        np.testing.assert_array_equal(episode.state, [step["observation"]["state"] for step in steps])
        np.testing.assert_array_equal(episode.action, [step["action"] for step in steps])
        np.testing.assert_array_equal(list(episode.pixels), [step["observation"]["image_0"] for step in steps])
