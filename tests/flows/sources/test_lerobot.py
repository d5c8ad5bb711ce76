from __future__ import annotations

import json
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from extractors.errors import (
    BlankCameraError,
    CorruptDataError,
    EpisodeError,
    LengthMismatchError,
    MissingDataError,
    SourceError,
    UnknownCameraError,
)
from flows.sources import lerobot
from flows.sources.lerobot import LeRobotSource, fetch_lerobot, is_lerobot
from tests.flows.sources.lerobot_builder import (
    FRONT,
    NAMES,
    SIDE,
    camera_of,
    code,
    columns,
    cut,
    image_feature,
    number_of,
    pictures,
    video_feature,
    write_info,
    write_lines,
    write_table,
    write_v21,
    write_v30,
    write_video,
)
from tests.flows.sources.test_video import ffmpeg_frames, psnr
from tests.support import shared_data

LENGTHS = {4: 7, 5: 9, 7: 5}
VECTOR = {"dtype": "float32", "shape": [3], "names": NAMES}


@pytest.fixture(params=["h264", "av1"])
def joined(request, tmp_path):
    """Three episodes; the cameras are split over files independently of each other and of the rows."""
    codec = {"h264": "libx264", "av1": "libsvtav1"}[request.param]
    files = {FRONT: [[4, 5], [7]], SIDE: [[4], [5, 7]]}
    return write_v30(tmp_path / "set", LENGTHS, files=files, data=[[4], [5, 7]], codec=codec)


def episodes(root: Path) -> dict[int, object]:
    return {info.episode_index: info for info in LeRobotSource(root).episodes()}


def open_one(root: Path, index: int, camera: str | None = None):
    return LeRobotSource(root).open(episodes(root)[index], camera)


def edit_info(root: Path, **changes) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_rows(root: Path, name: str, change) -> None:
    path = root / "data" / "chunk-000" / name
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def replaced(table: pa.Table, name: str, values) -> pa.Table:
    at = table.column_names.index(name)
    return table.set_column(at, name, pa.array(list(values), table.schema.field(name).type))


@pytest.mark.parametrize("camera", [FRONT, SIDE])
@pytest.mark.parametrize("index", LENGTHS)
def test_each_camera_of_a_joined_video_is_looked_up_by_itself(joined, index, camera):
    episode = open_one(joined, index, camera)
    frames = list(episode.pixels)
    assert episode.pixels.shape == (LENGTHS[index], 48, 64, 3)
    assert [number_of(frame) for frame in frames] == [index * 32 + row for row in range(LENGTHS[index])]
    assert {camera_of(frame) for frame in frames} == {camera}


def test_the_listing_of_v30_tells_what_the_tables_tell(joined):
    source = LeRobotSource(joined)
    listed = list(source.episodes())
    assert source.kind == "lerobot-v3.0"
    assert source.dataset == "set"
    assert [info.episode_id for info in listed] == ["episode_000004", "episode_000005", "episode_000007"]
    assert [info.n_frames for info in listed] == [7, 9, 5]
    assert [info.language_instruction for info in listed] == ["task 4", "task 5", "task 7"]
    assert listed[0].cameras == (FRONT, SIDE)
    assert listed[0].tags == ()
    assert {file.relative_to(joined).as_posix() for file in listed[1].files} == {
        "data/chunk-000/file-001.parquet",
        f"videos/{FRONT}/chunk-000/file_000.mp4",
        f"videos/{SIDE}/chunk-000/file_001.mp4",
        "meta/info.json",
        "meta/tasks.parquet",
    }
    json.dumps(listed[0].key)


@pytest.mark.parametrize("one_group", [True, False])
def test_rows_of_a_joined_file_are_those_of_the_episode(tmp_path, one_group):
    root = write_v30(
        tmp_path, LENGTHS, files={FRONT: [[4, 5, 7]], SIDE: [[4, 5, 7]]}, data=[[4, 5, 7]], one_group=one_group
    )
    for index, n_rows in LENGTHS.items():
        episode = open_one(root, index)
        assert episode.state.dtype == episode.action.dtype == np.float32
        np.testing.assert_array_equal(episode.state[:, 0], np.arange(n_rows))
        assert (episode.state[:, 1] == index).all()
        np.testing.assert_array_equal(episode.action, -episode.state)
        assert episode.action_valid.all()
        np.testing.assert_allclose(episode.timestamp, np.arange(n_rows) / 10, atol=1e-6)
        assert episode.state_names == tuple(NAMES)
        assert episode.language_instruction == f"task {index}"
        assert episode.provenance["frame_ids"] == list(range(n_rows))
        json.dumps(episode.provenance)


def test_one_row_group_of_many_episodes_is_read_once(tmp_path, monkeypatch):
    root = write_v30(tmp_path, LENGTHS, files={FRONT: [[4, 5, 7]], SIDE: [[4, 5, 7]]}, data=[[4, 5, 7]], one_group=True)
    source, reads = LeRobotSource(root), []
    read = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", lambda *a, **k: reads.append(1) or read(*a, **k))
    for info in source.episodes():
        source.open(info)
    assert len(reads) == 1


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_v2_has_one_video_and_one_table_for_each_episode(tmp_path, version):
    root = write_v21(tmp_path, LENGTHS, version=version)
    assert LeRobotSource(root).kind == f"lerobot-{version}"
    for index, n_rows in LENGTHS.items():
        episode = open_one(root, index, "side")
        assert episode.camera_name == SIDE
        assert [number_of(frame) for frame in episode.pixels] == [index * 32 + row for row in range(n_rows)]
        assert {camera_of(frame) for frame in episode.pixels} == {SIDE}
        assert episode.tags == ()


def test_timestamps_that_start_late_do_not_shift_the_frames(tmp_path):
    # seen in a published v2.0 dataset: the first row is at 1/fps, and the file has one frame for each row
    root = write_v21(tmp_path / "a", {0: 8})
    late = (np.arange(8, dtype=np.float32) + 1) / 10
    edit_rows(root, "episode_000000.parquet", lambda table: replaced(table, "timestamp", late))
    joined = write_v30(tmp_path / "b", {0: 8, 1: 8}, files={FRONT: [[0, 1]], SIDE: [[0, 1]]}, data=[[0], [1]])
    edit_rows(joined, "file-001.parquet", lambda table: replaced(table, "timestamp", late))
    for folder, index in ((root, 0), (joined, 1)):
        episode = open_one(folder, index)
        assert [number_of(frame) for frame in episode.pixels] == [index * 32 + row for row in range(8)]
        assert episode.tags == ("timestamp-offset",)


def test_wrong_totals_and_rate_in_info_are_tagged_and_harmless(joined):
    edit_info(joined, total_frames=999, fps=30)
    episode = open_one(joined, 5)
    assert episode.tags == ("fps-mismatch", "wrong-totals")
    assert episode.fps == pytest.approx(10)
    assert [number_of(frame) for frame in episode.pixels] == [5 * 32 + row for row in range(9)]


def test_no_task_is_a_tag_and_several_are_one(tmp_path):
    root = write_v21(tmp_path, {0: 3, 1: 3})
    write_lines(root / "meta" / "episodes.jsonl", [{"episode_index": e, "tasks": [], "length": 3} for e in (0, 1)])
    assert open_one(root, 0).language_instruction == "task 0"
    assert open_one(root, 0).tags == ()
    edit_rows(root, "episode_000000.parquet", lambda table: replaced(table, "task_index", [1, 1, 0]))
    assert open_one(root, 0).language_instruction == "task 1"
    assert open_one(root, 0).tags == ("several-tasks",)
    (root / "meta" / "tasks.jsonl").unlink()
    assert open_one(root, 1).tags == ("no-language",)


def test_actions_that_are_not_finite_are_marked_and_states_refused(tmp_path):
    root = write_v21(tmp_path, {0: 3, 1: 1})
    holes = [[0, 0, 0], [np.nan, 0, 0], [1, 1, 1]]
    edit_rows(root, "episode_000000.parquet", lambda table: replaced(table, "action", holes))
    episode = open_one(root, 0)
    assert episode.tags == ("nan-action",)
    assert episode.action_valid.tolist() == [True, False, True]
    assert open_one(root, 1).tags == ("one-frame",)
    edit_rows(root, "episode_000000.parquet", lambda table: replaced(table, "observation.state", holes))
    with pytest.raises(CorruptDataError, match="row 1 is not finite"):
        open_one(root, 0)


# -- cameras


def black(camera: str, episode: int, row: int) -> np.ndarray:
    return np.zeros((48, 64, 3), np.uint8) if camera == FRONT else code(camera, episode, row)


def test_a_black_camera_is_passed_over_and_refused_when_asked_for(tmp_path):
    root = write_v21(tmp_path, {0: 4}, paint=black, codec="libsvtav1")
    assert open_one(root, 0).camera_name == SIDE
    with pytest.raises(BlankCameraError, match="front is black"):
        open_one(root, 0, "front")


def test_a_camera_that_is_black_only_at_first_is_not_black(tmp_path):
    def late(camera, episode, row):
        return code(camera, episode, row) if row == 3 else np.zeros((48, 64, 3), np.uint8)

    assert open_one(write_v21(tmp_path, {0: 4}, paint=late), 0).camera_name == FRONT


def test_an_unknown_camera_names_the_ones_there_are(joined):
    with pytest.raises(UnknownCameraError, match=r"frnt.*images\.front.*images\.side"):
        open_one(joined, 4, "frnt")


def test_fixed_cameras_go_before_wrist_cameras_and_depth_is_none(tmp_path):
    cameras = ["observation.images.a_wrist", "observation.images.b_eye_in_hand", "observation.images.z_table"]
    depth = "observation.images.a_depth"
    features = {
        "action": VECTOR,
        **{key: image_feature() for key in cameras},
        depth: image_feature(1),
        "observation.images.c": video_feature(**{"video.is_depth_map": True}),
    }
    write_info(tmp_path, "v2.1", {0: 2}, features=features, video_path=None)
    write_lines(tmp_path / "meta" / "episodes.jsonl", [{"episode_index": 0, "tasks": ["x"], "length": 2}])
    image = pictures([code(SIDE, 0, row) for row in range(2)])
    write_table(
        tmp_path / "data/chunk-000/episode_000000.parquet",
        {**columns(0, 2), **dict.fromkeys([*cameras, depth], image)},
    )
    info = episodes(tmp_path)[0]
    assert set(info.cameras) == set(cameras)
    assert info.tags == ("depth-video-unread", "no-state")
    assert open_one(tmp_path, 0).camera_name == "observation.images.z_table"
    assert open_one(tmp_path, 0, "b_eye_in_hand").camera_name == "observation.images.b_eye_in_hand"


def test_a_camera_without_a_single_file_is_not_there(tmp_path):
    root = write_v21(tmp_path, {0: 3})
    (root / f"videos/chunk-000/{FRONT}/episode_000000.mp4").unlink()
    assert episodes(root)[0].cameras == (SIDE,)
    assert open_one(root, 0).camera_name == SIDE


# -- image-typed features


def image_set(root: Path, n_rows: int = 4) -> Path:
    name = "observation.images.top"
    features = {
        "observation.state": VECTOR,
        "action": VECTOR,
        name: image_feature(),
        "observation.depth.top": image_feature(1, is_depth_map=True, depth_unit="mm"),
        "observation.masks.top": image_feature(1),
    }
    lengths = {0: n_rows, 1: n_rows}
    write_info(root, "v3.0", lengths, features=features, video_path=None)
    labels = np.zeros((48, 64), np.uint8)
    labels[:8], labels[8:20] = 1, 2
    tables = []
    for episode in lengths:
        depth = [np.full((48, 64), 1000 + 100 * episode + row, np.uint16) for row in range(n_rows)]
        extra = {
            name: pictures([code(SIDE, episode, row) for row in range(n_rows)]),
            "observation.depth.top": pictures(depth),
            "observation.masks.top": pictures([labels] * n_rows),
        }
        tables.append(pa.table({**columns(episode, n_rows, task=episode), **extra}))
    write_table(root / "data/chunk-000/file-000.parquet", pa.concat_tables(tables), row_group_size=100)
    rows = [
        {"episode_index": e, "tasks": ["x"], "length": n_rows, "data/chunk_index": 0, "data/file_index": 0}
        for e in lengths
    ]
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(rows))
    camera = {"fx": 60, "fy": 70, "cx": 31.5, "cy": 23.5, "width": 64, "height": 48}
    (root / "meta" / "intrinsics.json").write_text(json.dumps({name: camera}))
    return root


def test_pictures_depth_masks_and_intrinsics_of_image_features(tmp_path):
    episode = open_one(image_set(tmp_path), 1)
    assert episode.pixels.shape == (4, 48, 64, 3)
    for row, image in enumerate(episode.pixels):
        np.testing.assert_array_equal(image, code(SIDE, 1, row))
    assert episode.recorded_depth.shape == (4, 48, 64)
    depth = np.stack(list(episode.recorded_depth))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth[:, 0, 0], [1.1, 1.101, 1.102, 1.103], rtol=1e-6)
    assert next(iter(episode.recorded_masks)).sum() == 8 * 64
    assert next(iter(episode.recorded_robot)).sum() == 12 * 64
    assert (episode.camera.fx, episode.camera.cx, episode.camera.source) == (60, 31.5, "calibrated")


def test_a_picture_that_claims_to_be_huge_is_reported(tmp_path):
    root = image_set(tmp_path)
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    key = "observation.images.top"
    cells = table[key].to_pylist()
    claimed = bytearray(cells[1]["bytes"])
    claimed[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in the header
    claimed[29:33] = zlib.crc32(claimed[12:29]).to_bytes(4, "big")
    pq.write_table(replaced(table, key, [{**cells[0], "bytes": bytes(claimed)}, *cells[1:]]), path)
    with pytest.raises(CorruptDataError, match=r"row 0 of observation\.images\.top.*header claims 60000 x 60000"):
        list(open_one(root, 0).pixels)


def test_a_picture_that_is_torn_or_only_named_is_reported(tmp_path):
    root = image_set(tmp_path)
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    key = "observation.images.top"
    cells = table[key].to_pylist()
    torn = [{**cell, "bytes": cell["bytes"][:60]} if row == 5 else cell for row, cell in enumerate(cells)]
    pq.write_table(replaced(table, key, torn), path)
    assert len(list(open_one(root, 0).pixels)) == 4
    with pytest.raises(CorruptDataError, match=r"row 1 of observation\.images\.top"):
        list(open_one(root, 1).pixels)
    named = [{"bytes": None, "path": f"pictures/{row}.png"} for row in range(8)]
    pq.write_table(replaced(table, key, named), path)
    (root / "pictures").mkdir()
    for row in range(4):
        (root / "pictures" / f"{row}.png").write_bytes(cells[row]["bytes"])
    assert [number_of(image) for image in open_one(root, 0).pixels] == [0, 1, 2, 3]
    with pytest.raises(MissingDataError, match=r"pictures/4\.png"):
        open_one(root, 1)
    pq.write_table(replaced(table, key, [{"bytes": None, "path": "../../secret.png"}] * 8), path)
    with pytest.raises(MissingDataError, match="leads out of the dataset"):
        open_one(root, 0)


# -- gripper


@pytest.mark.parametrize(
    ("values", "name", "stats", "opening", "convention"),
    [
        ([0.1, 0.5, 1.01], "gripper", None, [0.1, 0.5, 1.0], "already 0..1"),
        ([0.1, 0.1, 0.1], "gripper", (0.05, 1.0), [0.1, 0.1, 0.1], "already 0..1"),
        ([0, 50, 100], "main_gripper.pos", None, [0, 0.5, 1], "episode range 0..100"),
        ([0, 50, 50], "gripper.pos", (0, 100), [0, 0.5, 0.5], "dataset range 0..100"),
        ([0, 0.02, 0.02], "gripper_width", (0, 0.08), [0, 0.25, 0.25], "dataset range 0..0.08"),
        ([0, 0.5, 1], "gripper_closed", None, [1, 0.5, 0], "larger is closed"),
        ([7, 7, 7], "gripper", None, None, "unit unknown"),
    ],
)
def test_the_gripper_is_normalised_and_says_how(tmp_path, values, name, stats, opening, convention):
    root = write_v21(tmp_path, {0: 3})
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    features["observation.state"]["names"] = ["x", "y", name]
    edit_info(root, features=features)
    rows = [[0, 0, value] for value in values]
    edit_rows(root, "episode_000000.parquet", lambda table: replaced(table, "observation.state", rows))
    if stats:
        low, high = stats
        line = {"stats": {"observation.state": {"min": [0, 0, low], "max": [1, 1, high]}}}
        write_lines(root / "meta" / "episodes_stats.jsonl", [line, line])
    episode = open_one(root, 0)
    assert convention in episode.provenance["gripper"]["convention"]
    assert episode.provenance["gripper"]["from"] == f"observation.state[{name}]"
    if opening is None:
        assert episode.gripper is None
    else:
        np.testing.assert_allclose(episode.gripper, opening, atol=1e-6)
    np.testing.assert_array_equal(episode.state[:, 2], np.array(values, np.float32))


@pytest.mark.parametrize(
    "names", [NAMES, [NAMES], {"motors": NAMES}, {"axes": {"x": 0, "y": 1, "gripper": 2}}], ids=str
)
def test_names_of_every_shape_are_flattened(tmp_path, names):
    root = write_v21(tmp_path, {0: 3})
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    features["observation.state"]["names"] = names
    edit_info(root, features=features)
    assert open_one(root, 0).state_names == tuple(NAMES)


# -- bad input


def test_parts_that_disagree_about_the_length_are_refused(tmp_path):
    root = write_v21(tmp_path, {0: 6, 1: 6, 2: 6, 3: 6})
    rows = [{"episode_index": e, "tasks": ["x"], "length": 7 if e == 0 else 6} for e in range(4)]
    write_lines(root / "meta" / "episodes.jsonl", rows)
    for index, count in ((1, 5), (2, 8)):
        path = root / f"videos/chunk-000/{FRONT}/episode_{index:06d}.mp4"
        write_video(path, [code(FRONT, index, row) for row in range(count)])
    with pytest.raises(LengthMismatchError, match=r"should have 7 rows by the episode table.*has 6"):
        open_one(root, 0)
    with pytest.raises(LengthMismatchError, match="6 rows, 5 decoded"):
        open_one(root, 1)
    with pytest.raises(LengthMismatchError, match="6 rows, 8 decoded"):
        open_one(root, 2)
    assert "wrong-totals" in open_one(root, 3).tags


@pytest.mark.parametrize("too_late", [1, 2])
def test_an_end_that_is_the_last_pictures_time_is_understood_and_an_earlier_one_refused(tmp_path, too_late):
    root = write_v30(tmp_path, LENGTHS, files={FRONT: [[4, 5, 7]], SIDE: [[4, 5, 7]]}, data=[[4, 5, 7]])
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    ends = [end - 0.1 * too_late for end in table[f"videos/{FRONT}/to_timestamp"].to_pylist()]
    table = replaced(table, f"videos/{FRONT}/to_timestamp", ends)
    # A gap between two spans, as an episode taken out of the table leaves it: counting the whole file is of no use.
    pq.write_table(table.filter(pc.not_equal(table["episode_index"], 5)), path)
    if too_late == 1:
        assert [number_of(frame) for frame in open_one(root, 7).pixels] == [(7 * 32 + row) % 256 for row in range(5)]
    else:
        with pytest.raises(LengthMismatchError, match="holds 3 pictures for 5 rows"):
            open_one(root, 7)


def test_missing_and_cut_files_fail_their_own_episode_alone(tmp_path):
    files = {FRONT: [[4], [5], [7]], SIDE: [[4, 5, 7]]}
    root = write_v30(tmp_path, LENGTHS, files=files, data=[[4], [5], [7]])
    (root / "data/chunk-000/file-000.parquet").unlink()
    cut(root / "data/chunk-000/file-001.parquet", 0.7)
    (root / f"videos/{FRONT}/chunk-000/file_002.mp4").unlink()
    assert len(episodes(root)) == 3
    with pytest.raises(MissingDataError, match=r"data/chunk-000/file-000\.parquet"):
        open_one(root, 4)
    with pytest.raises(CorruptDataError, match=r"data/chunk-000/file-001\.parquet"):
        open_one(root, 5)
    with pytest.raises(MissingDataError, match=r"front/chunk-000/file_002\.mp4"):
        open_one(root, 7)
    assert len(list(open_one(root, 7, "side").pixels)) == 5


def test_a_joined_video_that_is_cut_fails_the_episodes_behind_the_cut(tmp_path):
    lengths = dict.fromkeys(range(4), 30)
    files = {FRONT: [[0, 1, 2, 3]], SIDE: [[0, 1, 2, 3]]}
    root = write_v30(tmp_path, lengths, files=files, data=[[0, 1, 2, 3]], front=True)
    cut(root / f"videos/{FRONT}/chunk-000/file_000.mp4", 0.8)
    assert len(list(open_one(root, 0, "front").pixels)) == 30
    with pytest.raises(CorruptDataError, match="0 of 30 frames decoded"):
        open_one(root, 3, "front")
    assert len(list(open_one(root, 1, "front").pixels)) == 30
    torn = open_one(root, 2, "front")
    with pytest.raises(CorruptDataError, match=r"[1-9]\d? of 30 frames decoded"):
        list(torn.pixels)


def test_an_empty_episode_has_no_row(joined):
    edit_rows(joined, "file-000.parquet", lambda table: table.slice(0, 0))
    with pytest.raises(MissingDataError, match="no row of episode 4"):
        open_one(joined, 4)


@pytest.mark.parametrize("stamps", [[0, 0.2, 0.1], [0, np.nan, 0.2]])
def test_timestamps_that_do_not_increase_are_refused(tmp_path, stamps):
    root = write_v21(tmp_path, {0: 3})
    edit_rows(root, "episode_000000.parquet", lambda table: replaced(table, "timestamp", stamps))
    with pytest.raises(CorruptDataError, match="should be finite and increase"):
        open_one(root, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebase_version": "v4.0"}, r"v2\.0, v2\.1, v3\.0 are read.*v4\.0"),
        ({"codebase_version": "v1.6"}, r"v1\.6"),
        ({"fps": 0}, "should be positive"),
        ({"fps": None}, "fps should be positive"),
        ({"data_path": "../{episode_index}.parquet"}, "leads out of the dataset"),
        ({"data_path": "/etc/{episode_index}.parquet"}, "leads out of the dataset"),
        ({"video_path": "{video_key.__class__}.mp4"}, "placeholder"),
        ({"video_path": "{episode_index:0999999999d}.mp4"}, "placeholder"),
        ({"features": []}, "not a LeRobot"),
    ],
)
def test_an_info_that_cannot_be_used_is_refused_at_once(tmp_path, changes, message):
    write_info(tmp_path, "v2.1", {0: 3}, **changes)
    assert is_lerobot(tmp_path)
    with pytest.raises(SourceError, match=message):
        LeRobotSource(tmp_path)


def test_tables_that_cannot_be_read_are_refused(tmp_path):
    assert not is_lerobot(tmp_path)
    write_info(tmp_path, "v2.1", {0: 3})
    with pytest.raises(SourceError, match=r"episodes\.jsonl"):
        list(LeRobotSource(tmp_path).episodes())
    (tmp_path / "meta" / "episodes.jsonl").write_text('{"episode_index": 0, "length": 3}\n{"epis')
    with pytest.raises(SourceError, match=r"episodes\.jsonl"):
        list(LeRobotSource(tmp_path).episodes())
    (tmp_path / "meta" / "info.json").write_text("{")
    with pytest.raises(SourceError, match=r"info\.json"):
        LeRobotSource(tmp_path)
    write_info(tmp_path, "v3.0", {0: 3})
    (tmp_path / "meta" / "episodes.jsonl").unlink()
    with pytest.raises(SourceError, match="no episode table"):
        list(LeRobotSource(tmp_path).episodes())


def test_a_video_key_cannot_climb_out_of_the_dataset(tmp_path):
    features = {"../../x": video_feature(), "action": VECTOR}
    write_info(tmp_path, "v2.1", {0: 3}, features=features, video_path="{video_key}/{episode_index}.mp4")
    write_lines(tmp_path / "meta" / "episodes.jsonl", [{"episode_index": 0, "tasks": ["x"], "length": 3}])
    with pytest.raises(SourceError, match="leads out of the dataset"):
        list(LeRobotSource(tmp_path).episodes())


def test_a_hub_that_cannot_be_reached_is_a_clear_error(monkeypatch):
    def unreachable(*args, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(SourceError, match=r"someone/something.*no route to host.*give the folder"):
        fetch_lerobot("someone/something")


def test_the_hub_is_asked_for_a_dataset(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **options: asked.update(options, name=name) or str(tmp_path)
    )
    assert fetch_lerobot("a/b") == tmp_path
    assert asked == {"name": "a/b", "repo_type": "dataset"}


def test_episodes_are_listed_in_index_order_once_each(tmp_path):
    write_info(tmp_path, "v2.1", {0: 3, 1: 3, 2: 3})
    rows = [{"episode_index": e, "tasks": ["x"], "length": 3} for e in (2, 0, 1, 1)]
    write_lines(tmp_path / "meta" / "episodes.jsonl", rows)
    for episode in range(3):
        touch(tmp_path / f"data/chunk-000/episode_{episode:06d}.parquet")
    assert list(episodes(tmp_path)) == [0, 1, 2]


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_episodes_that_a_partial_download_lacks_are_one_line_and_no_failures(tmp_path):
    files = {FRONT: [[4], [5], [7]], SIDE: [[4], [5], [7]]}
    root = write_v30(tmp_path, LENGTHS, files=files, data=[[4], [5], [7]])
    for number in (1, 2):
        (root / f"data/chunk-000/file-{number:03d}.parquet").unlink()
        for camera in (FRONT, SIDE):
            (root / f"videos/{camera}/chunk-000/file_{number:03d}.mp4").unlink()
    source = LeRobotSource(root)
    assert [info.episode_index for info in source.episodes()] == [4]
    assert "episodes: no file of 2 of 3 episodes was fetched; the first is data/chunk-000/file-001.parquet" in [
        str(line) for line in source.left_out()
    ]
    assert len(list(open_one(root, 4).pixels)) == LENGTHS[4]


def test_listing_many_episodes_reads_no_data_file(tmp_path):
    # 6,000 episodes in two tables with statistics beside them; a data file that is read is found to be none.
    count = 6000
    for number in range(6):
        touch(tmp_path / f"data/chunk-000/file-{number:03d}.parquet")
    write_info(tmp_path, "v3.0", dict.fromkeys(range(count), 30))
    for number, part in enumerate(np.array_split(np.arange(count), 2)):
        n = len(part)
        table = {
            "episode_index": part,
            "tasks": [["put it there"]] * n,
            "length": np.full(n, 30),
            "data/chunk_index": np.zeros(n, int),
            "data/file_index": part // 1000,
            "stats/action/mean": [[0.0] * 50] * n,
        }
        for camera in (FRONT, SIDE):
            numbers = {"chunk_index": np.zeros(n, int), "file_index": part // 500, "from_timestamp": part * 3.0}
            table |= {f"videos/{camera}/{key}": value for key, value in numbers.items()}
        write_table(tmp_path / f"meta/episodes/chunk-000/file-{1 - number:03d}.parquet", pa.table(table))
    start = time.process_time()
    listed = list(LeRobotSource(tmp_path).episodes())
    assert [info.episode_index for info in listed] == list(range(count))
    assert time.process_time() - start < 10  # 0.5 s here; 60,000 must stay far below two minutes


# -- real data

GOOD = ["lerobot_v20/video_av1", "lerobot_v21/video_av1", "lerobot_v21/image", "lerobot_v30/video_av1"]
GOOD += ["lerobot_v30/video_h264", "lerobot_v30/image", "real_extra/lerobot_v20_gr1_sim"]


@pytest.mark.shared
@pytest.mark.parametrize("name", [*GOOD, "real_extra/lerobot_v21_g1_teleop"])
def test_rows_of_real_datasets_are_those_of_the_file(name):
    root = shared_data(name)
    source = LeRobotSource(root)
    for info in source.episodes():
        episode = source.open(info)
        table = pq.read_table(root / episode.provenance["path"], filters=[("episode_index", "==", info.episode_index)])
        for key, values in (("observation.state", episode.state), ("action", episode.action)):
            np.testing.assert_array_equal(values, np.array(table[key].to_pylist(), np.float32))
        np.testing.assert_array_equal(episode.timestamp, table["timestamp"].to_numpy().astype(np.float64))
        assert episode.language_instruction
        assert set(episode.tags) <= {"timestamp-offset"}


G1 = pytest.param("real_extra/lerobot_v21_g1_teleop", marks=pytest.mark.slow)


@pytest.mark.shared
@pytest.mark.parametrize("name", [*(name for name in GOOD if "image" not in name), G1])
def test_real_frames_are_those_of_an_independent_decoder(name):
    root = shared_data(name)
    source = LeRobotSource(root)
    for info in list(source.episodes())[-2:]:
        for camera in info.cameras:
            episode = source.open(info, camera)
            frames = episode.provenance["frames"]
            reference = ffmpeg_frames(root / frames["path"], episode.pixels.shape)
            first = round(frames.get("from_timestamp", 0.0) * episode.fps)
            pairs = zip(episode.pixels, reference[first : first + episode.n_frames], strict=True)
            assert min(psnr(mine, theirs) for mine, theirs in pairs) >= 45


CORRUPT = {
    "lerobot_v30/corrupt_truncated_mp4": {1: CorruptDataError},
    "lerobot_v30/corrupt_total_frames_mismatch": {},
    "lerobot_v30/corrupt_missing_data_parquet": {1: MissingDataError},
    "lerobot_v30/corrupt_missing_video": {},
    "lerobot_v21/corrupt_truncated_mp4": {1: CorruptDataError},
    "lerobot_v21/corrupt_total_frames_mismatch": {},
    "lerobot_v21/corrupt_missing_parquet": {1: MissingDataError},
    "lerobot_v21/corrupt_episode_length_mismatch": {1: LengthMismatchError},
}


@pytest.mark.shared
@pytest.mark.parametrize("name", CORRUPT)
def test_one_bad_episode_of_a_real_dataset_fails_alone(name):
    source = LeRobotSource(shared_data(name))
    failed = {}
    for info in source.episodes():
        try:
            assert len(list(source.open(info).pixels)) == info.n_frames
        except EpisodeError as error:
            failed[info.episode_index] = type(error)
        assert ("wrong-totals" in info.tags) == ("total_frames" in name or "episode_length" in name)
    assert failed == CORRUPT[name]


@pytest.mark.shared
def test_a_missing_video_of_a_real_dataset_is_named_when_its_camera_is_asked_for():
    root = shared_data("lerobot_v30", "corrupt_missing_video")
    with pytest.raises(MissingDataError, match=r"image_1/chunk-000/file-002\.mp4"):
        open_one(root, 2, "image_1")
    assert lerobot.is_lerobot(root)
