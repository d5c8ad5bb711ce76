from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from extractors.errors import CorruptDataError, MissingDataError, SourceError, UnknownCameraError
from flows.sources.videos import VideoFolderSource, instruction_from_name, is_video_folder
from tests.flows.sources.lerobot_builder import cut, number_of, numbered, write_video
from tests.support import shared_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos whose numbers sort differently as text, one in a folder, and a file that is no video."""
    for name, count in (("clip_10.mp4", 4), ("clip_9.mp4", 6), ("deep/put_cup_in_sink.mkv", 3)):
        write_video(tmp_path / name, [numbered(i) for i in range(count)])
    (tmp_path / "notes.txt").write_text("no video")
    return tmp_path


def test_videos_are_listed_in_natural_order_and_below_folders(folder):
    source = VideoFolderSource(folder)
    listed = list(source.episodes())
    assert source.kind == "videos"
    assert [info.episode_id for info in listed] == ["clip_9", "clip_10", "deep_put_cup_in_sink"]
    assert [info.episode_index for info in listed] == [0, 1, 2]
    assert [info.key["path"] for info in listed] == ["clip_9.mp4", "clip_10.mp4", "deep/put_cup_in_sink.mkv"]
    assert [info.language_instruction for info in listed] == ["", "", "put cup in sink"]
    assert [info.tags for info in listed] == [("no-language",), ("no-language",), ("language-from-name",)]
    assert {info.cameras for info in listed} == {("video",)}


def test_an_episode_has_the_frames_that_decode_and_nothing_else(folder):
    source = VideoFolderSource(folder)
    episode = source.open(next(source.episodes()), "video")
    assert episode.pixels.shape == (6, 48, 64, 3)
    assert [number_of(frame) for frame in episode.pixels] == list(range(6))
    np.testing.assert_allclose(episode.timestamp, np.arange(6) / 10, atol=1e-6)
    assert episode.fps == 10
    assert episode.action is episode.state is episode.gripper is None
    assert episode.provenance["frame_ids"] == list(range(6))


def test_one_file_is_a_source_too(folder):
    source = VideoFolderSource(folder / "clip_9.mp4")
    (info,) = source.episodes()
    assert (source.dataset, source.root, info.key) == ("clip_9", folder, {"path": "clip_9.mp4"})
    assert source.open(info).n_frames == 6


def test_what_holds_videos_is_told_from_what_does_not(folder, tmp_path_factory):
    assert is_video_folder(folder)
    assert is_video_folder(folder / "clip_9.mp4")
    assert not is_video_folder(folder / "notes.txt")
    empty = tmp_path_factory.mktemp("empty")
    assert not is_video_folder(empty)
    with pytest.raises(SourceError, match="no video"):
        VideoFolderSource(empty)


def test_two_files_that_would_share_an_id_get_different_ones(tmp_path):
    write_video(tmp_path / "a.mp4", [numbered(1)])
    for name in ("a.mkv", "a.avi", "A.mp4", "b_c.mp4", "b/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "a.mp4", tmp_path / name)
    ids = [info.episode_id for info in VideoFolderSource(tmp_path).episodes()]
    assert len({identifier.casefold() for identifier in ids}) == 6


def test_one_frame_is_a_tag(tmp_path):
    write_video(tmp_path / "a.mp4", [numbered(1)])
    source = VideoFolderSource(tmp_path)
    episode = source.open(next(source.episodes()))
    assert episode.n_frames == 1
    assert episode.tags == ("no-language", "one-frame")


def test_bad_files_fail_when_opened_and_not_when_listed(folder):
    cut(folder / "clip_9.mp4", 0.5)
    source = VideoFolderSource(folder)
    first, second, third = source.episodes()
    (folder / "clip_10.mp4").unlink()
    with pytest.raises(CorruptDataError, match=r"clip_9\.mp4"):
        source.open(first)
    with pytest.raises(MissingDataError, match=r"clip_10\.mp4"):
        source.open(second)
    with pytest.raises(UnknownCameraError, match="'video'"):
        source.open(third, "wrist")


@pytest.mark.parametrize(
    ("name", "instruction"),
    [
        ("bridge_data_v1_berkeley_toykitchen1_put_banana_on_plate", "put banana on plate"),
        ("realkitchen1_counter_pick_up_sponge_and_wipe_plate", "pick up sponge and wipe plate"),
        ("tool_chest_pick_up_closest_rainbow_Allen_key_set", "pick up closest rainbow Allen key set"),
        ("Close-the drawer", "close the drawer"),
        ("folding_table_fold_cloth_pnp_01", ""),
        ("toykitchen7_drawer_pnp_01", ""),
        ("push_sweep_toykitchen6_00", ""),
        ("many_skills_00", ""),
        ("recording_2024_05_01", ""),
        ("open", ""),
    ],
)
def test_an_instruction_is_taken_from_a_name_only_where_it_is_one(name, instruction):
    assert instruction_from_name(name) == instruction


@pytest.mark.shared
def test_every_real_teaser_video_opens():
    source = VideoFolderSource(shared_data("real_extra", "bridge_teaser_videos"))
    episodes = [source.open(info) for info in source.episodes()]
    assert [episode.n_frames for episode in episodes] == [39, 29, 27, 30, 25, 25, 36, 30, 20, 35, 38, 91, 79, 32]
    assert {episode.pixels.shape[1:] for episode in episodes} == {(240, 320, 3)}
    assert sum(bool(episode.language_instruction) for episode in episodes) == 11
