"""Sources as people really have them: kinds of faults reported in public, rebuilt small, each with what is right."""

from __future__ import annotations

import json
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from extractors.errors import CorruptDataError, EpisodeError, LengthMismatchError, SourceError
from flows.config import ConfigError, SourceConfig, load_config
from flows.sources.bridge import BridgeRawSource
from flows.sources.detect import open_source
from flows.sources.lerobot import LeRobotSource
from flows.sources.pickles import load_pickle
from flows.sources.rlds import RldsSource
from flows.sources.video import scan_video
from flows.sources.videos import VideoFolderSource
from tests.flows.sources.bridge_builder import SIZE, jpeg, picture, write_trajectory
from tests.flows.sources.lerobot_builder import (
    FRONT,
    SIDE,
    code,
    columns,
    image_feature,
    number_of,
    numbered,
    pictures,
    write_info,
    write_lines,
    write_table,
    write_v21,
    write_v30,
    write_video,
)
from tests.flows.sources.rlds_builder import (
    bridge_features,
    example,
    oxe_features,
    oxe_steps_of,
    steps_of,
    write_build,
)

LENGTHS = {0: 6, 1: 8, 2: 5}


@pytest.fixture
def joined(tmp_path):
    """Three episodes in one video and one parquet file."""
    return write_v30(tmp_path / "set", LENGTHS, files={FRONT: [[0, 1, 2]], SIDE: [[0, 1, 2]]}, data=[[0, 1, 2]])


def settings(*assignments: str) -> SourceConfig:
    return load_config(None, [f"source.{assignment}" for assignment in assignments]).source


def opened(root: Path, *assignments: str) -> list:
    source = LeRobotSource(root, settings(*assignments))
    return [source.open(info) for info in source.episodes()]


def shown(episode) -> list[int]:
    return [number_of(frame) for frame in episode.pixels]


def own(index: int) -> list[int]:
    """Numbers of the frames that belong to an episode of the builders."""
    return [index * 32 + row for row in range(LENGTHS[index])]


def edit_episodes(root: Path, change) -> None:
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


# -- frames looked up by time


def mkv(path: Path, stamps_ms: list[int], codec: str = "mjpeg") -> None:
    """A Matroska file whose picture i has the stamp `stamps_ms[i]`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        packets = []
        for i in range(len(stamps_ms)):
            frame = av.VideoFrame.from_ndarray(numbered(i), format="rgb24")
            frame.pts = i
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for stamp, packet in zip(stamps_ms, packets, strict=True):
            packet.pts = packet.dts = stamp
            packet.time_base = Fraction(1, 1000)
            container.mux(packet)


REGULAR = [100 * i for i in range(30)]
REPEATED = {
    "at the start": [0, 0, *REGULAR[2:]],
    "at the end": [*REGULAR[:29], REGULAR[28]],
    "in a row": [*REGULAR[:10], *[REGULAR[10]] * 5, *REGULAR[11:26]],
    "everywhere": [200 * (i // 2) for i in range(30)],
    "all equal": [0] * 30,
}


@pytest.mark.parametrize("stamps", REPEATED.values(), ids=REPEATED)
def test_a_plain_video_with_repeated_stamps_gives_every_picture_once_in_order(tmp_path, stamps):
    mkv(tmp_path / "a.mkv", stamps)
    source = VideoFolderSource(tmp_path)
    episode = source.open(next(source.episodes()))
    assert shown(episode) == list(range(30))
    assert "timestamps-from-fps" in episode.tags
    assert (np.diff(episode.timestamp) > 0).all()


def test_a_clock_that_starts_at_100_s_is_no_cut_file(tmp_path):
    mkv(tmp_path / "a.mkv", [100_000 + stamp for stamp in REGULAR])
    scan = scan_video(tmp_path / "a.mkv")
    assert (len(scan.times), scan.times[0], scan.tags) == (30, 0.0, ())


@pytest.mark.parametrize("name", ["a.avi", "a.ts", "a.m4v", "a.mpg", "a.mkv", "a.mov"])
def test_every_container_gives_its_pictures_in_presentation_order(tmp_path, name):
    """AVI has no presentation stamps: with B-frames ffmpeg gives its pictures stamps in decoding order."""
    codec = "mpeg2video" if name == "a.mpg" else "libx264"
    write_video(tmp_path / name, [numbered(i) for i in range(20)], codec=codec, fps=25)
    source = VideoFolderSource(tmp_path)
    episode = source.open(next(source.episodes()))
    assert shown(episode) == list(range(20))
    assert episode.fps == 25
    assert episode.tags == ("no-language",)


def test_a_stream_that_starts_inside_a_group_of_pictures_is_what_decodes(tmp_path):
    write_video(tmp_path / "whole.ts", [numbered(i) for i in range(30)], gop=10)
    with av.open(str(tmp_path / "whole.ts")) as inside, av.open(str(tmp_path / "a.ts"), "w") as out:
        stream = out.add_stream_from_template(inside.streams.video[0])
        for number, packet in enumerate(inside.demux(video=0)):
            if number >= 4 and packet.size:
                packet.stream = stream
                out.mux(packet)
    (tmp_path / "whole.ts").unlink()
    source = VideoFolderSource(tmp_path)
    decoded = shown(source.open(next(source.episodes())))
    assert decoded == list(range(decoded[0], 30))
    assert 4 <= decoded[0] <= 10


@pytest.mark.parametrize("missing", ["column", "null", "NaN"])
def test_a_table_without_from_timestamp_gives_no_episode_anothers_frames(joined, missing):
    def without(table):
        for camera in (FRONT, SIDE):
            for end in ("from", "to"):
                name = f"videos/{camera}/{end}_timestamp"
                values = pa.array([None if missing == "null" else float("nan")] * 3, pa.float64())
                table = table.drop_columns([name]) if missing == "column" else with_column(table, name, values)
        return table

    edit_episodes(joined, without)
    for index, episode in enumerate(opened(joined)):
        assert shown(episode) == own(index)
        assert "spans-from-lengths" in episode.tags


@pytest.mark.parametrize(("said", "real"), [(30, Fraction(30000, 1001)), (24, Fraction(24000, 1001)), (50, 49)])
def test_a_rate_that_two_clocks_tell_differently_shifts_no_row(tmp_path, said, real):
    count = 1100
    root = tmp_path / "set"
    write_info(root, "v3.0", {0: count}, fps=said)
    frames = [numbered(i % 256) for i in range(count)]
    write_video(root / f"videos/{FRONT}/chunk-000/file_000.mp4", frames, fps=real, gop=60)
    write_table(root / "data/chunk-000/file-000.parquet", columns(0, count, fps=said))
    row = {"episode_index": 0, "tasks": ["x"], "length": count, "data/chunk_index": 0, "data/file_index": 0}
    row |= {f"videos/{FRONT}/{key}": 0 for key in ("chunk_index", "file_index", "from_timestamp")}
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist([row]))
    (episode,) = opened(root)
    assert shown(episode) == [i % 256 for i in range(count)]
    assert "timestamp-offset" in episode.tags
    drift = abs(count - 1) * abs(1 / float(real) - 1 / said)
    assert episode.provenance["frames"]["largest_offset_s"] == pytest.approx(drift, abs=0.01)


def test_spans_of_a_merge_that_all_begin_at_0_are_refused(joined):
    zeros = pa.array([0.0] * 3)
    edit_episodes(joined, lambda table: with_column(table, f"videos/{FRONT}/from_timestamp", zeros))
    source = LeRobotSource(joined)
    for info in source.episodes():
        with pytest.raises(LengthMismatchError, match="overlap"):
            source.open(info, "front")
        assert shown(source.open(info, "side")) == own(info.episode_index)


def test_a_leaked_picture_in_a_joined_video_is_refused_or_trimmed(joined):
    frames = [code(FRONT, e, row) for e, n in LENGTHS.items() for row in range(n)]
    write_video(joined / f"videos/{FRONT}/chunk-000/file_000.mp4", [numbered(255), *frames])
    source = LeRobotSource(joined)
    for info in source.episodes():
        with pytest.raises(LengthMismatchError, match="20 pictures for the 19 rows of 3 episodes"):
            source.open(info, "front")
    assert [shown(episode) for episode in opened(joined, "trim=start")] == [own(0), own(1), own(2)]


def test_one_picture_too_many_in_a_video_of_its_own_can_be_trimmed(tmp_path):
    root = write_v21(tmp_path, {0: 6})
    write_video(root / f"videos/chunk-000/{FRONT}/episode_000000.mp4", [numbered(i) for i in range(7)])
    with pytest.raises(LengthMismatchError, match=r"6 rows, 7 decoded.*source\.trim"):
        opened(root)
    for trim, first in (("start", 1), ("end", 0)):
        (episode,) = opened(root, f"trim={trim}")
        assert shown(episode) == list(range(first, first + 6))
        assert "pictures-trimmed" in episode.tags


# -- absence is an event


def renamed(root: Path, **names: str) -> Path:
    """A v2.1 set whose columns have other names."""
    write_v21(root, {0: 5})
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    info = json.loads((root / "meta/info.json").read_text())
    for old, new in names.items():
        old = old.replace("__", ".")
        info["features"][new] = info["features"].pop(old)
        table = table.rename_columns([new if name == old else name for name in table.column_names])
    pq.write_table(table, path)
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


@pytest.mark.parametrize(
    ("action", "state"),
    [("actions", "state"), ("actions.joint.position", "observation.states.joint.position"), ("Action", "joint_state")],
)
def test_columns_of_other_names_are_left_out_loudly_and_taken_when_named(tmp_path, action, state):
    root = renamed(tmp_path, action=action, observation__state=state)
    source = LeRobotSource(root)
    (info,) = source.episodes()
    episode = source.open(info)
    assert episode.action is episode.state is None
    assert {"no-action", "no-state"} <= set(episode.tags)
    left = {item.signal: item for item in source.left_out()}
    assert left["action"].setting == f"source.columns.action={action}"
    assert left["state"].setting == f"source.columns.state={state}"
    taken = LeRobotSource(root, load_config(None, [item.setting for item in left.values()]).source)
    episode = taken.open(info)
    np.testing.assert_array_equal(episode.state[:, 0], np.arange(5))
    np.testing.assert_array_equal(episode.action, -episode.state)
    assert taken.left_out() == ()
    assert episode.provenance["columns"] == {"action": [action], "state": [state]}


def test_several_columns_are_joined_in_the_order_named_and_unknown_ones_refused(tmp_path):
    root = renamed(tmp_path, action="actions.arm", observation__state="actions.hand")
    (episode,) = opened(root, "columns.action=[actions.hand, actions.arm]")
    assert episode.action.shape == (5, 6)
    np.testing.assert_array_equal(episode.action[:, :3], -episode.action[:, 3:])
    with pytest.raises(SourceError, match=r"source\.columns\.action.*'actions\.leg'.*actions\.arm"):
        opened(root, "columns.action=actions.leg")
    with pytest.raises(ConfigError, match="no key 'actoin' in section 'columns'; did you mean 'action'"):
        load_config(None, ["source.columns.actoin=x"])


def test_linked_folders_are_named_and_followed_when_asked(tmp_path):
    write_video(tmp_path / "other/b.mp4", [numbered(i) for i in range(3)])
    write_video(tmp_path / "set/a.mp4", [numbered(i) for i in range(3)])
    (tmp_path / "set/day2").symlink_to(tmp_path / "other")
    (tmp_path / "other/back").symlink_to(tmp_path / "set")
    (tmp_path / "set/b.gif").write_bytes(b"GIF89a")
    source = VideoFolderSource(tmp_path / "set")
    assert [info.episode_id for info in source.episodes()] == ["a"]
    links, unread = source.left_out()
    assert "day2" in links.found
    assert links.setting == "source.follow_links=true"
    assert "b.gif" in unread.found
    followed = VideoFolderSource(tmp_path / "set", settings("follow_links=true"))
    assert [info.episode_id for info in followed.episodes()] == ["a", "day2_b"]


def test_a_linked_scene_of_bridgedata_is_named_and_followed_when_asked(tmp_path):
    write_trajectory(tmp_path / "a/scene1")
    write_trajectory(tmp_path / "b/scene2")
    (tmp_path / "a/scene2").symlink_to(tmp_path / "b/scene2")
    (tmp_path / "a/scene1/up").symlink_to(tmp_path / "a")
    source = BridgeRawSource(tmp_path / "a")
    assert len(list(source.episodes())) == 1
    (left,) = source.left_out()
    assert "scene1/up, scene2" in left.found
    followed = open_source(str(tmp_path / "a"), settings("follow_links=true"))
    infos = list(followed.episodes())
    assert len(infos) == 2
    assert all(followed.open(info).n_frames > 1 for info in infos)


# -- tables written by others


@pytest.mark.parametrize("kind", [pa.float64(), pa.int32(), pa.float32(), pa.string(), pa.uint16()])
def test_whole_numbers_of_any_type_are_whole_numbers(joined, kind):
    def cast(table):
        for name in table.column_names:
            if name.endswith("_index") or name == "length":
                table = with_column(table, name, table[name].cast(kind))
        return table

    edit_episodes(joined, cast)
    for index, episode in enumerate(opened(joined)):
        assert shown(episode) == own(index)


def test_a_length_that_is_missing_is_that_of_the_rows(joined):
    edit_episodes(joined, lambda table: with_column(table, "length", pa.array([6.0, float("nan"), 5.0])))
    source = LeRobotSource(joined)
    infos = list(source.episodes())
    assert [info.n_frames for info in infos] == [6, None, 5]
    assert shown(source.open(infos[1])) == own(1)


@pytest.mark.parametrize(
    "cells",
    [
        pa.array(["put it in"] * 3),
        pa.array([["put it in"]] * 3),
        pa.array([b"put it in"] * 3, pa.binary()),
        pa.array(['["put it in"]'] * 3),
        pa.array(["put it in"] * 3).dictionary_encode(),
    ],
    ids=lambda cells: str(cells.type),
)
def test_tasks_of_any_type_are_the_instruction(joined, cells):
    (joined / "meta/tasks.parquet").unlink()
    edit_episodes(joined, lambda table: with_column(table, "tasks", cells))
    assert {episode.language_instruction for episode in opened(joined)} == {"put it in"}


def test_the_task_column_is_found_by_name_and_an_unclear_one_refused(joined):
    path = joined / "meta/tasks.parquet"
    names = [f"task {e}" for e in range(3)]
    table = {"category": ["a", "b", "c"], "task_index": [0.0, 1.0, 2.0], "task_description": names}
    write_table(path, pa.table(table))
    assert [episode.language_instruction for episode in opened(joined)] == names
    write_table(path, pa.table({"category": ["a"], "task_index": [0], "words": ["b"]}))
    with pytest.raises(SourceError, match="task_index and task"):
        opened(joined)


def test_tasks_that_are_numbers_are_looked_up(joined):
    edit_episodes(joined, lambda table: with_column(table, "tasks", pa.array([[0], [1], [2]])))
    infos = list(LeRobotSource(joined).episodes())
    assert [info.language_instruction for info in infos] == ["task 0", "task 1", "task 2"]


def test_doubled_episode_rows_are_one_where_equal_and_refused_where_not(joined):
    edit_episodes(joined, lambda table: pa.concat_tables([table, table.slice(1, 1)]))
    assert [shown(episode) for episode in opened(joined)] == [own(0), own(1), own(2)]
    longer = lambda table: with_column(table, "length", pa.array([6, 8, 5, 9]))  # noqa: E731
    edit_episodes(joined, longer)
    source = LeRobotSource(joined)
    infos = list(source.episodes())
    with pytest.raises(CorruptDataError, match="two rows for it that differ"):
        source.open(infos[1])


@pytest.mark.parametrize("stale", [[0, 0, 0], [0, 0, 1], [7, 7, 7], [None, None, None]])
def test_rows_are_found_in_the_file_that_has_them(tmp_path, stale):
    root = write_v30(tmp_path, LENGTHS, files={FRONT: [[0, 1, 2]], SIDE: [[0, 1, 2]]}, data=[[0], [1, 2]])
    edit_episodes(root, lambda table: with_column(table, "data/file_index", pa.array(stale, pa.int64())))
    for index, episode in enumerate(opened(root)):
        assert shown(episode) == own(index)
        assert (episode.state[:, 1] == index).all()
        # Without a number the file of the episode's own is tried first.
        right = stale[index] == (0 if index == 0 else 1) or (stale[index] is None and index < 2)
        assert ("stale-file-index" in episode.tags) == (not right)


@pytest.mark.parametrize("bad", [[[0, 1], [1]], ["x"], [[None]], [[0, 1, float("nan")]], {"a": 1}], ids=str)
def test_statistics_that_are_no_table_cost_no_episode(tmp_path, bad):
    root = write_v21(tmp_path, {0: 4})
    for name in ("observation.state", "action"):
        line = {"stats": {name: {"min": bad, "max": bad}}}
        write_lines(root / "meta" / "episodes_stats.jsonl", [line, {"stats": {name: {"min": [0], "max": [1]}}}])
        (episode,) = opened(root)
        assert episode.gripper is not None


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    root = write_v21(tmp_path, {0: 4})
    for name in ("info.json", "episodes.jsonl", "tasks.jsonl"):
        path = root / "meta" / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (episode,) = opened(root)
    assert episode.language_instruction == "task 0"


def image_set(root: Path, cells: pa.Array) -> Path:
    write_info(root, "v2.1", {0: len(cells)}, features={FRONT: image_feature()}, video_path=None)
    write_lines(root / "meta/episodes.jsonl", [{"episode_index": 0, "tasks": ["x"], "length": len(cells)}])
    write_table(root / "data/chunk-000/episode_000000.parquet", {**columns(0, len(cells)), FRONT: cells})
    return root


def test_image_cells_of_every_writer_are_pictures(tmp_path):
    arrays = [code(FRONT, 0, row) for row in range(3)]
    for row, array in enumerate(arrays):
        (tmp_path / "paths/frames").mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(tmp_path / f"paths/frames/{row}.png")
    cells = {
        "paths": pa.array([f"frames/{row}.png" for row in range(3)]),
        "lists": pa.array([array.tolist() for array in arrays], pa.list_(pa.list_(pa.list_(pa.uint8())))),
        "channels first": pa.array([array.transpose(2, 0, 1).tolist() for array in arrays]),
        "bytes": pa.array([cell["bytes"] for cell in pictures(arrays).to_pylist()], pa.binary()),
    }
    for name, column in cells.items():
        (episode,) = opened(image_set(tmp_path / name, column))
        np.testing.assert_array_equal(np.stack(list(episode.pixels)), arrays, err_msg=name)


# -- sense and orientation


def gripper_set(root: Path, values: list[list[float]], robot: str = "arm", name: str = "gripper_position") -> Path:
    lengths = {e: len(row) for e, row in enumerate(values)}
    write_v21(root, lengths, robot_type=robot)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.state"]["names"] = ["x", "y", name]
    (root / "meta/info.json").write_text(json.dumps(info))
    for e, row in enumerate(values):
        path = root / f"data/chunk-000/episode_{e:06d}.parquet"
        rows = pa.array([[0.0, 0.0, value] for value in row], pa.list_(pa.float32(), 3))
        pq.write_table(with_column(pq.read_table(path), "observation.state", rows), path)
    return root


GRASP, RELEASE = [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("values", "robot", "name", "begins_open", "guessed"),
    [
        ([GRASP] * 5, "franka", "gripper_position", True, True),
        ([RELEASE] * 5, "franka", "gripper_position", True, True),
        ([GRASP, RELEASE] * 3, "franka", "gripper_position", False, True),
        ([GRASP], "droid_franka", "gripper_position", True, False),
        ([RELEASE], "panda_robotiq_2f85", "gripper", False, False),
        ([GRASP] * 5, "so101_follower", "gripper.pos", False, False),
        ([GRASP] * 5, "arm", "gripper_closedness", True, False),
        ([GRASP] * 5, "droid", "gripper_width", False, False),
    ],
)
def test_which_end_of_a_gripper_is_open(tmp_path, values, robot, name, begins_open, guessed):
    episode = opened(gripper_set(tmp_path, values, robot, name))[0]
    assert episode.gripper[0] == (1.0 if begins_open else 0.0)
    assert ("gripper-sense-guessed" in episode.tags) == guessed
    for end in (0, 1):
        (first, *_) = opened(tmp_path, f"gripper_open={end}")
        assert first.gripper[0] == (values[0][0] if end == 1 else 1 - values[0][0])
        assert "gripper-sense-guessed" not in first.tags


def turned(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes the display matrix a, b, c, d (in whole numbers) into an mp4's track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    a, b, c, d = (65536 * value for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


MATRICES = {
    "as it is": ((1, 0, 0, 1), lambda f: f),
    "mirrored": ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
    "upside down mirror": ((1, 0, 0, -1), lambda f: f[::-1]),
    "half turn": ((-1, 0, 0, -1), lambda f: f[::-1, ::-1]),
    "quarter turn clockwise": ((0, 1, -1, 0), lambda f: f.swapaxes(0, 1)[:, ::-1]),
    "quarter turn back": ((0, -1, 1, 0), lambda f: f.swapaxes(0, 1)[::-1]),
    "transposed": ((0, 1, 1, 0), lambda f: f.swapaxes(0, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda f: f.swapaxes(0, 1)[::-1, ::-1]),
}


@pytest.mark.parametrize(("matrix", "expected"), MATRICES.values(), ids=MATRICES)
def test_a_display_matrix_turns_and_mirrors_the_pictures(tmp_path, matrix, expected):
    path = tmp_path / "a.mp4"
    write_video(path, [numbered(77)] * 3)
    source = VideoFolderSource(path)
    info = next(source.episodes())
    plain = next(iter(source.open(info).pixels))
    turned(path, matrix)
    episode = source.open(info)
    np.testing.assert_array_equal(next(iter(episode.pixels)), expected(plain))
    assert episode.size == expected(plain).shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_pictures_of_a_column(tmp_path, orientation):
    import io

    tall = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3) // 64 * 64
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    Image.fromarray(tall).save(data, "PNG", exif=exif)
    (episode,) = opened(image_set(tmp_path, pa.array([data.getvalue()] * 2, pa.binary())))
    turns = {1: tall, 2: tall[:, ::-1], 3: tall[::-1, ::-1], 4: tall[::-1], 5: tall.swapaxes(0, 1)}
    turns |= {6: np.rot90(tall, -1), 7: np.rot90(tall, -1)[::-1], 8: np.rot90(tall)}
    np.testing.assert_array_equal(next(iter(episode.pixels)), turns[orientation])


# -- a hostile world


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/tmp/cuepack-was-here) (w) file closefile showpage\n"
FOREIGN = {
    "PostScript": POSTSCRIPT,
    "GIF": b"GIF89a\x0a\x00\x0a\x00\x00\x00\x00;",
    "PPM": b"P6 2 2 255\n" + bytes(12),
    "XPM": b"/* XPM */\nstatic char *x[] = {",
    "Git-LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "SVG": b"<svg/>",
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("cell", ["bytes", "struct", "path"])
def test_a_cell_of_a_format_that_starts_programs_is_refused_unopened(tmp_path, monkeypatch, data, cell):
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail(f"a program was started: {a}"))
    cells = {"bytes": pa.array([data] * 2, pa.binary()), "path": pa.array(["x.png"] * 2)}
    cells["struct"] = pa.array([{"bytes": data, "path": "a.png"}] * 2)
    root = image_set(tmp_path, cells[cell])
    (root / "x.png").write_bytes(data)
    with pytest.raises(CorruptDataError, match=r"none of PNG, JPEG, WEBP, TIFF|Git-LFS"):
        opened(root)


PLAYLISTS = {
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile other.mp4\n",
    "dash": b'<?xml version="1.0"?><MPD><Period/></MPD>',
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "pgm": b"P5 64 48 255\n" + bytes(64 * 48),
}


@pytest.mark.parametrize("data", PLAYLISTS.values(), ids=PLAYLISTS)
def test_a_playlist_named_mp4_opens_no_other_file(tmp_path, data):
    write_video(tmp_path / "other.mp4", [numbered(i) for i in range(3)])
    (tmp_path / "a.mp4").write_bytes(data)
    source = VideoFolderSource(tmp_path / "a.mp4")
    with pytest.raises(CorruptDataError, match="no video of a kind that is read"):
        source.open(next(source.episodes()))


def test_files_without_end_and_odd_names_fail_their_own_episode(tmp_path):
    write_video(tmp_path / "good.mp4", [numbered(i) for i in range(3)])
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo.mp4")
    with (tmp_path / "sparse.mp4").open("wb") as file:
        file.truncate(2**40)
    (tmp_path / "http:x.mp4").write_bytes((tmp_path / "good.mp4").read_bytes())
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b.mp4")).write_bytes((tmp_path / "good.mp4").read_bytes())
    source = VideoFolderSource(tmp_path)
    results = {}
    for info in source.episodes():
        json.dumps(dict(info.key), ensure_ascii=False).encode()
        try:
            results[info.episode_id] = len(list(source.open(info).pixels))
        except EpisodeError as error:
            results[info.episode_id] = str(error).isprintable()
    assert results.pop("sparse") is True
    assert sorted(results.values()) == [3, 3, 3]


def test_a_video_of_frames_that_are_too_large_is_refused_and_so_is_one_that_grows(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", [numbered(i) for i in range(3)])
    monkeypatch.setattr("flows.sources.video.MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(CorruptDataError, match=r"claims frames of 3,072 pixels, at most 3,071"):
        scan_video(tmp_path / "a.mp4")
    small, large = ([numbered(i, size=size) for i in range(10)] for size in ((48, 64), (96, 128)))
    monkeypatch.setattr("flows.sources.video.MAX_PIXELS", 64 * 48)
    write_video(tmp_path / "small.ts", small)
    write_video(tmp_path / "large.ts", large)
    (tmp_path / "b.ts").write_bytes((tmp_path / "small.ts").read_bytes() + (tmp_path / "large.ts").read_bytes())
    with pytest.raises(CorruptDataError, match="decod"):
        scan_video(tmp_path / "b.ts")


@pytest.mark.parametrize("pixels", [(60_000, 60_000), (65_535, 1_000)])
def test_a_header_that_claims_a_huge_frame_decodes_nothing(tmp_path, pixels):
    import io

    from flows.sources.images import decode_rgb

    data = io.BytesIO()
    Image.new("RGB", (64, 48)).save(data, "JPEG")
    claimed = bytearray(data.getvalue())
    at = claimed.index(b"\xff\xc0")
    claimed[at + 5 : at + 9] = struct.pack(">HH", *pixels)
    with pytest.raises(CorruptDataError, match="its header claims"):
        decode_rgb(bytes(claimed), "x")
    with pytest.raises(CorruptDataError, match="its header claims"):
        opened(image_set(tmp_path, pa.array([bytes(claimed)] * 2, pa.binary())))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * 10**6,
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 10**6,
        b"\xff\xd8" + b"\xff\xe0\x00\x00" * 10**6,
        b"\x89PNG\r\n\x1a\n" + (struct.pack(">I4s", 0, b"IHDR") + struct.pack(">I", 0xA8A1AE0A)) * 10**6,
    ],
)
def test_a_header_without_end_is_left_early(data):
    from flows.sources.images import image_size

    with pytest.raises(CorruptDataError, match="cannot be decoded"):
        image_size(data, "x")


def test_a_parquet_file_that_claims_a_thousand_million_rows_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.sources.lerobot_tables.MAX_VALUES", 1000)
    root = write_v21(tmp_path, {0: 4})
    table = pa.table({**columns(0, 400)})
    write_table(root / "data/chunk-000/episode_000000.parquet", table)
    with pytest.raises(CorruptDataError, match="claims 1,200 values"):
        opened(root)


def test_a_column_twice_is_named(tmp_path):
    root = write_v21(tmp_path, {0: 4})
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("timestamp", table["timestamp"]), path)
    with pytest.raises(CorruptDataError, match="more than one column timestamp"):
        opened(root)


# -- awkward


def rlds_of(root: Path, name: str, flat: dict, features) -> RldsSource:
    """A build of another dataset's name."""
    write_build(root, {"train": [[example(flat)]]}, features)
    about = json.loads((root / "dataset_info.json").read_text())
    (root / "dataset_info.json").write_text(json.dumps({**about, "name": name}))
    for path in root.glob("*.tfrecord*"):
        path.rename(root / path.name.replace("bridge_dataset", name))
    return RldsSource(root)


@pytest.mark.parametrize("layout", ["oxe", "own"])
def test_another_robots_rlds_is_not_labelled_as_bridge(tmp_path, layout):
    flat = oxe_steps_of(4) if layout == "oxe" else steps_of(4)
    features = oxe_features() if layout == "oxe" else bridge_features()
    for name, is_bridge in (("toto", False), ("bridge", True)):
        source = rlds_of(tmp_path / name, name, flat, features)
        (info,) = source.episodes()
        episode = source.open(info)
        assert (len(episode.state_names) == 7) == is_bridge
        assert (episode.gripper is not None) == is_bridge
        assert ("fps-assumed" in episode.tags) != is_bridge
        assert (episode.provenance["camera_model"] is not None) == is_bridge
        np.testing.assert_array_equal(episode.state, np.float32(flat["steps/observation/state"]))


def test_an_action_in_parts_that_are_not_known_is_left_out_loudly(tmp_path):
    parts = {"joints": tfds.features.Tensor(shape=(6,), dtype=np.float32)}
    features = tfds.features.FeaturesDict(
        {
            "steps": tfds.features.Dataset(
                {
                    "observation": {
                        "image": tfds.features.Image(shape=(*SIZE, 3), encoding_format="jpeg"),
                        "joint_pos": tfds.features.Tensor(shape=(6,), dtype=np.float32),
                    },
                    "action": parts,
                }
            )
        }
    )
    flat = {"steps/observation/image": [jpeg(picture(t)) for t in range(3)]}
    flat |= {f"steps/{name}": np.zeros((3, 6)) for name in ("observation/joint_pos", "action/joints")}
    source = rlds_of(tmp_path, "other", flat, features)
    (info,) = source.episodes()
    assert {"no-action", "no-state"} <= set(source.open(info).tags)
    assert ["action/joints" in str(item) or "joint_pos" in str(item) for item in source.left_out()] == [True, True]


def test_compressed_records_and_pointers_are_named(tmp_path):
    import gzip

    write_build(tmp_path, {"train": [[example(steps_of(2))]]})
    path = next(tmp_path.glob("*.tfrecord*"))
    packed = {"compressed with gzip": gzip.compress(path.read_bytes()), "Git-LFS": FOREIGN["Git-LFS pointer"]}
    for words, data in packed.items():
        path.write_bytes(data)
        source = RldsSource(tmp_path)
        (info,) = source.episodes()
        with pytest.raises(CorruptDataError, match=words):
            source.open(info)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_are_read(tmp_path, protocol):
    folder = write_trajectory(tmp_path, protocol=protocol)
    source = BridgeRawSource(tmp_path)
    episode = source.open(next(source.episodes()))
    np.testing.assert_array_equal(episode.state, np.float32(load_pickle(folder / "obs_dict.pkl")["full_state"]))


@pytest.mark.parametrize("value", [2**5000, -(10**400), "x", None, {"a": 1}, 1j])
def test_numbers_that_are_none_fail_their_own_episode(tmp_path, value):
    for number, observed in enumerate(({"full_state": [[value] * 7] * 6}, {"time_stamp": [value] * 6})):
        write_trajectory(tmp_path, number=number, observed=observed)
    source = BridgeRawSource(tmp_path)
    for info in source.episodes():
        if value is None and info.episode_index == 1:
            assert source.open(info).tags
            continue
        with pytest.raises(EpisodeError):
            source.open(info)


@pytest.mark.parametrize("number", [3, 9, 1000, 10**12])
def test_gaps_in_bridgedatas_camera_numbers_are_no_matter(tmp_path, number):
    folder = write_trajectory(tmp_path, cameras=2, topics=["/cam0/image_raw", "/wrist/image_raw"])
    (folder / "images1").rename(folder / f"images{number}")
    source = BridgeRawSource(tmp_path)
    (info,) = source.episodes()
    assert info.cameras == ("images0", f"images{number}")
    assert source.open(info, f"images{number}").n_frames == 6


def test_an_instruction_in_utf_16_is_read(tmp_path):
    folder = write_trajectory(tmp_path)
    (folder / "lang.txt").write_bytes("put the pot on the towel\r\nconfidence: 1\r\n".encode("utf-16"))
    (info,) = BridgeRawSource(tmp_path).episodes()
    assert info.language_instruction == "put the pot on the towel"


@pytest.mark.parametrize("nested", [True, False])
def test_an_index_column_that_is_nested_or_text_fails_its_episodes(joined, nested):
    path = joined / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    cells = [[index] if nested else f"{index}" for index in table["episode_index"].to_pylist()]
    pq.write_table(with_column(table, "episode_index", pa.array(cells)), path)
    source = LeRobotSource(joined)
    for info in source.episodes():
        with pytest.raises(CorruptDataError, match="cannot be read"):
            source.open(info)


def test_a_footer_is_never_asked_for_its_statistics():
    """pyarrow 26 aborts the process over those of a damaged footer: fuzz case lerobot-v3.0, seed 5425."""
    folder = Path(__file__).parents[3] / "flows" / "sources"
    assert not [path.name for path in folder.glob("*.py") if ".statistics" in path.read_text(encoding="utf-8")]
