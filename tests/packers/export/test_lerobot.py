import io
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from extractors.errors import ConfigError, OutputError, PacketError
from flows.sources.lerobot import LeRobotSource
from packers.export.lerobot.dataset import FileSizes, plan_lerobot, write_lerobot
from packers.export.lerobot.features import LEROBOTS_OWN, is_per_frame
from packers.export.lerobot.files import LONGEST_VIDEO_S
from packers.reader import Packet
from packers.writer import write_packet
from tests.packers.examples import attributes, datasets, replaced, tamper, write_example

PSNR_DB = 35.0
"""What crf 18 keeps of a smooth clip at least (measured here: 40 dB); noise and sharp colours, halved in 4:2:0, lose
more."""


def disc_clip(frames, phase, height=48, width=64):
    """A soft disc that moves over slow shades."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    shades = 110 + 60 * np.sin(x / 20 + phase)[..., None] * [1, 0.8, 0.6] + 30 * np.cos(y / 15)[..., None]
    disc = 50 / (1 + np.exp(np.hypot(x - 20 - t, y - 24) - 9))
    return np.clip(shades + disc[..., None] * [1, -0.5, -1], 0, 255).astype(np.uint8)


def write_clip(folder: Path, name: str, frames: int, *, task="put the cup on the plate", without=(), fps=5.0, **values):
    """A packet of every dataset but `without`, with pixels that a video can hold, and `values` in place of others."""
    pixels = disc_clip(frames, phase=len(name))
    found = replaced(datasets(frames, height=48, width=64), "pixels", pixels)
    for dataset, value in values.items():
        found = replaced(found, dataset, value)
    found = {dataset: value for dataset, value in found.items() if not dataset.startswith(tuple(without))}
    about = attributes(name, frames) | {"language_instruction": task, "fps": fps}
    path = folder / f"{name}.h5"
    write_packet(path, found, about)
    return path


@pytest.fixture(scope="module")
def packets(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("packets")
    cases = (("a", 7, "put the cup on the plate"), ("bb", 5, "fold the größe\ncloth"), ("ccc", 40, "fold the cup"))
    paths = [write_clip(folder, name, frames, task=task) for name, frames, task in cases]
    return [*paths, write_clip(folder, "dddd", 6)]


@pytest.fixture(scope="module")
def dataset(packets, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("lerobot") / "set"
    write_lerobot(plan_lerobot(packets), target)
    return target


def info(root):
    return json.loads((root / "meta" / "info.json").read_text())


def psnr(got, wanted):
    error = ((np.asarray(got, np.float64) - wanted) ** 2).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


def rows(root):
    tables = [pq.ParquetFile(path).read() for path in sorted((root / "data").glob("*/*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def feature_rows(root, key, episode, table=None):
    """The values of a feature as arrays, whatever way they are stored."""
    feature = info(root)["features"][key]
    values = [row[key] for row in (table or rows(root)) if row["episode_index"] == episode]
    if feature["dtype"] == "image":
        return np.stack([np.array(Image.open(io.BytesIO(value["bytes"]))) for value in values])
    return np.array(values, feature["dtype"])


def test_phases_are_subtasks_by_name(dataset):
    names = pd.read_parquet(dataset / "meta" / "subtasks.parquet")
    assert names.index.name == "subtask"
    assert info(dataset)["features"]["subtask_index"] == {"dtype": "int64", "shape": [1], "names": None}
    assert [names.iloc[code].name for code in feature_rows(dataset, "subtask_index", 0)][2:4] == ["approach", "grasp"]


def test_our_reader_gets_back_what_the_packets_have(packets, dataset):
    source = LeRobotSource(dataset)
    listed = list(source.episodes())
    assert source.kind == "lerobot-v3.0"
    assert [one.n_frames for one in listed] == [7, 5, 40, 6]
    for one, path in zip(listed, packets, strict=True):
        assert "wrong-totals" not in one.tags
        episode = source.open(one)
        with Packet(path) as packet:
            n_frames = packet.n_frames
            # Our reader gives instructions as one line.
            assert episode.language_instruction == " ".join(packet.attributes["language_instruction"].split())
            assert (episode.camera_name, episode.fps) == ("observation.images.images0", 5.0)
            np.testing.assert_array_equal(episode.timestamp, (np.arange(n_frames) / 5.0).astype(np.float32))
            np.testing.assert_array_equal(episode.action, packet["action"])
            np.testing.assert_array_equal(episode.action_valid, packet["action_valid"])
            np.testing.assert_array_equal(episode.state, packet["state"])
            assert list(episode.state_names) == packet.dataset_attributes("state")["names"]
            assert psnr(np.stack(list(episode.pixels)), packet["pixels"]) > PSNR_DB


def test_every_cue_is_exact(packets, dataset):
    about = json.loads((dataset / "meta" / "cuepack.json").read_text())
    key_of = {entry["dataset"]: key for key, entry in about["features"].items()}
    table = rows(dataset)
    for index, path in enumerate(packets):
        with Packet(path) as packet:
            loose = {name for name in packet.modalities if name.startswith(("object_points", "scene_points"))}
            assert set(key_of) | set(LEROBOTS_OWN) | loose == set(packet.modalities)
            for name in set(key_of) - {"pixels"}:
                wanted = packet[name]
                if not is_per_frame(name):
                    wanted = np.broadcast_to(wanted, (packet.n_frames, *wanted.shape))
                got = feature_rows(dataset, key_of[name], index, table)
                assert got.dtype == (np.int64 if name == "phase" else wanted.dtype), name
                np.testing.assert_array_equal(got, wanted, err_msg=name)
    # What LeRobot takes for a policy's input or output goes by the beginning of the name.
    policy = {key for key in info(dataset)["features"] if key.startswith(("observation", "action"))}
    assert policy == {"observation.images.images0", "observation.state", "action"}


def test_lerobots_own_columns_and_tables(dataset):
    table = rows(dataset)
    assert [row["index"] for row in table] == list(range(58))
    assert [row["frame_index"] for row in table] == [*range(7), *range(5), *range(40), *range(6)]
    assert [row["index"] for row in table if row["next.done"]] == [6, 11, 51, 57]
    assert [row["task_index"] for row in table] == [0] * 7 + [1] * 5 + [2] * 40 + [0] * 6
    tasks = pd.read_parquet(dataset / "meta" / "tasks.parquet")
    assert tasks.index.tolist() == ["put the cup on the plate", "fold the größe\ncloth", "fold the cup"]
    assert tasks["task_index"].tolist() == [0, 1, 2]
    episodes = pq.ParquetFile(dataset / "meta" / "episodes" / "chunk-000" / "file-000.parquet").read().to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in episodes] == [
        (0, 7), (7, 12), (12, 52), (52, 58),
    ]  # fmt: skip
    key = "videos/observation.images.images0"
    spans = [(row[f"{key}/from_timestamp"], row[f"{key}/to_timestamp"]) for row in episodes]
    assert spans == [(0, 1.4), (1.4, 2.4), (2.4, 10.4), (10.4, 11.6)]
    assert {key: info(dataset)[key] for key in ("total_episodes", "total_frames", "total_tasks", "fps", "splits")} == {
        "total_episodes": 4, "total_frames": 58, "total_tasks": 3, "fps": 5, "splits": {"train": "0:4"},
    }  # fmt: skip
    about = pq.ParquetFile(dataset / "meta" / "cuepack.parquet").read().to_pylist()
    assert [row["episode_id"] for row in about] == ["a", "bb", "ccc", "dddd"]
    assert json.loads(about[2]["datasets"])["intrinsics"]["sigma"] == 0.1
    assert json.loads(about[2]["source"])["frame_ids"] == list(range(40))


def test_statistics_are_those_of_the_rows(packets, dataset):
    stats = json.loads((dataset / "meta" / "stats.json").read_text())
    opened = [Packet(path) for path in packets]
    action = np.concatenate([packet["action"] for packet in opened]).astype(np.float64)
    action = action[np.isfinite(action).all(axis=1)]
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats["action"][name], getattr(action, name)(axis=0), rtol=1e-12, err_msg=name)
    assert stats["action"]["count"] == [len(action)] == [54]
    pixels = np.concatenate([packet["pixels"] for packet in opened]) / 255
    for name in ("min", "max", "mean", "std"):
        wanted = getattr(pixels, name)(axis=(0, 1, 2))[:, None, None]
        np.testing.assert_allclose(stats["observation.images.images0"][name], wanted, rtol=1e-12, err_msg=name)
    covered = np.concatenate([packet["masks/object"] for packet in opened]).mean()
    np.testing.assert_allclose(stats["cuepack.masks.object"]["mean"], [[[covered]]])
    assert stats["index"]["std"] == [pytest.approx(np.arange(58).std())]
    # Every image has them, as LeRobot fills its own in; points of tracks, which mean nothing across episodes, none.
    features = info(dataset)["features"]
    assert {key for key, feature in features.items() if feature["dtype"] in ("image", "video")} <= set(stats)
    assert not [key for key in stats if key.startswith("cuepack.tracks") and key.endswith("xy")]
    rows = pq.ParquetFile(dataset / "meta" / "episodes" / "chunk-000" / "file-000.parquet").read().to_pylist()
    assert rows[1]["stats/action/count"] == [4]
    assert np.shape(rows[1]["stats/cuepack.depth.metric/q50"]) == (1, 1, 1)


def test_an_episode_without_a_valid_row_has_no_statistics(tmp_path):
    nothing = {"centroids": np.full((4, 3), np.nan), "centroids_sigma": np.full((4, 3), np.nan)}
    nothing |= {
        "centroids_valid": np.zeros(4, bool),
        "action": np.full((4, 7), np.nan),
        "action_valid": np.zeros(4, bool),
    }
    path = write_clip(tmp_path, "a", 4, **nothing)
    write_lerobot(plan_lerobot([path]), tmp_path / "set")
    (row,) = pq.ParquetFile(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").read().to_pylist()
    assert row["stats/cuepack.centroids/min"] is None
    assert "cuepack.centroids" not in json.loads((tmp_path / "set" / "meta" / "stats.json").read_text())


def test_small_files_hold_whole_episodes_each(packets, tmp_path, monkeypatch):
    monkeypatch.setattr("packers.export.lerobot.dataset._EPISODE_ROWS", 3)
    write_lerobot(plan_lerobot(packets), tmp_path / "set", sizes=FileSizes(data_mb=0.2, video_mb=0.005))
    assert len(list((tmp_path / "set" / "data").glob("*/*.parquet"))) > 1
    assert len(list((tmp_path / "set" / "videos").glob("*/*/*.mp4"))) > 1
    source = LeRobotSource(tmp_path / "set")
    listed = list(source.episodes())
    assert [one.n_frames for one in listed] == [7, 5, 40, 6]
    about = pq.ParquetFile(tmp_path / "set" / "meta" / "cuepack.parquet").read(["episode_index"])
    assert about["episode_index"].to_pylist() == [0, 1, 2, 3]
    for one, path in zip(listed, packets, strict=True):
        with Packet(path) as packet:
            assert psnr(np.stack(list(source.open(one).pixels)), packet["pixels"]) > PSNR_DB
            np.testing.assert_array_equal(source.open(one).action, packet["action"])


@pytest.mark.parametrize("fps", [29.97, 30000 / 1001, 14.286])
def test_frames_are_found_at_rates_that_are_no_whole_numbers(tmp_path, fps):
    grey = np.broadcast_to((40 + 8 * np.arange(25))[:, None, None, None], (25, 48, 64, 3)).astype(np.uint8)
    paths = [write_clip(tmp_path, name, 25, fps=fps, timestamp=np.arange(25) / fps, pixels=grey) for name in "ab"]
    plan = plan_lerobot(paths)
    assert not [note for note in plan.notes if "times" in note]
    write_lerobot(plan, tmp_path / "set")
    source = LeRobotSource(tmp_path / "set")
    for one in source.episodes():
        episode = source.open(one)
        assert episode.fps == fps
        # Every frame is 8 counts brighter than the one before it.
        np.testing.assert_allclose(np.stack(list(episode.pixels)), grey, atol=3)


def test_no_video_is_longer_than_float32_seconds_can_tell_apart(tmp_path):
    # Frames at 0.02 Hz: 30 of them are 1500 s.
    slow = [write_clip(tmp_path, name, 15, fps=0.02, timestamp=np.arange(15) * 50.0) for name in ("a", "b")]
    write_lerobot(plan_lerobot(slow), tmp_path / "set")
    (table,) = (tmp_path / "set" / "meta" / "episodes").glob("*/*.parquet")
    ends = [row["videos/observation.images.images0/to_timestamp"] for row in pq.ParquetFile(table).read().to_pylist()]
    assert ends == [750.0, 750.0]
    assert max(ends) <= LONGEST_VIDEO_S
    assert np.spacing(np.float32(LONGEST_VIDEO_S)) < 1e-4


def test_png_keeps_every_pixel(packets, tmp_path):
    written = write_lerobot(plan_lerobot(packets[:2], pixels="png"), tmp_path / "set")
    assert written.psnr_db is None
    assert info(tmp_path / "set")["video_path"] is None
    source = LeRobotSource(tmp_path / "set")
    for one, path in zip(source.episodes(), packets, strict=False):
        with Packet(path) as packet:
            np.testing.assert_array_equal(np.stack(list(source.open(one).pixels)), packet["pixels"])


def test_odd_sides_are_for_png_alone(tmp_path):
    odd = write_example(tmp_path, "odd", height=25)
    with pytest.raises(PacketError, match=r"25 x 32.*even sides.*--pixels png"):
        plan_lerobot([odd])
    assert plan_lerobot([odd], pixels="png").features[0].shape == (25, 32, 3)


def test_what_not_every_clip_can_tell_is_left_out_and_said(tmp_path):
    whole = write_clip(tmp_path, "whole", 4)
    part = write_clip(tmp_path, "part", 4, without=("centroids_base", "object_points", "object_pose", "depth/aligned"))
    plan = plan_lerobot([whole, part])
    keys = {feature.key for feature in plan.features}
    assert "cuepack.extrinsics" in keys
    assert not [key for key in keys if "base" in key or "object_pose" in key or "aligned" in key]
    assert any("not every clip" in note and "centroids_base" in note for note in plan.notes)
    assert any("object_points" in note for note in plan.notes)


def test_what_only_some_packets_have_is_refused_or_left_out_by_name(tmp_path):
    whole = write_clip(tmp_path, "whole", 4)
    part = write_clip(tmp_path, "part", 4, without=("tracks/foreground", "masks/robot"))
    with pytest.raises(PacketError) as refused:
        plan_lerobot([whole, part])
    assert "masks/robot (1: part.h5); tracks/foreground (1: part.h5)" in str(refused.value)
    assert "--without masks/robot --without tracks/foreground" in str(refused.value)
    plan = plan_lerobot([whole, part], without=["masks/robot", "tracks/foreground", "centroids"])
    keys = {feature.key for feature in plan.features}
    assert "cuepack.tracks.grid.xy" in keys
    assert not [key for key in keys if "foreground" in key or "masks.robot" in key or key.endswith("centroids")]
    assert {"masks/robot", "tracks/foreground/xy", "centroids", "centroids_valid"} <= set(plan.left_out)
    with pytest.raises(ConfigError, match="masks/robots: no packet has it; did you mean masks/robot"):
        plan_lerobot([whole], without=["masks/robots"])
    with pytest.raises(ConfigError, match="has their pixels"):
        plan_lerobot([whole], without=["pixels"])


def test_packets_that_do_not_fit_together_are_refused(tmp_path):
    first = write_clip(tmp_path, "first", 4)
    faster = write_clip(tmp_path, "faster", 4, fps=10.0, timestamp=np.arange(4) / 10)
    with pytest.raises(PacketError, match=r"faster\.h5: wanted 5 frames per second as in first\.h5, got 10"):
        plan_lerobot([first, faster])
    wider = write_clip(tmp_path, "wider", 4, action=np.zeros((4, 8), np.float32), action_valid=np.ones(4, bool))
    with pytest.raises(PacketError, match=r"wider\.h5: wanted action with rows \(7,\) as in first\.h5, got \(8,\)"):
        plan_lerobot([first, wider])
    assert plan_lerobot([first, wider], without=["action"])
    smaller = write_example(tmp_path, "smaller", 4)
    with pytest.raises(PacketError, match=r"smaller\.h5: wanted .* with rows"):
        plan_lerobot([first, smaller])
    relative = write_clip(tmp_path, "relative", 4)
    tamper(relative, lambda file: file["centroids"].attrs.__setitem__("units", "relative"))
    with pytest.raises(PacketError, match=r"centroids with units m as in first\.h5, got relative"):
        plan_lerobot([first, relative])
    with pytest.raises(PacketError, match="at least one"):
        plan_lerobot([])


def test_times_that_are_not_regular_are_said_and_kept(tmp_path):
    times = np.array([0, 0.21, 0.4, 0.63])
    path = write_clip(tmp_path, "a", 4, timestamp=times)
    plan = plan_lerobot([path, write_clip(tmp_path, "b", 4)])
    (note,) = [note for note in plan.notes if "times" in note]
    assert "1 of 2 packets differ from frame / 5 by up to 0.0300 s (a.h5)" in note
    write_lerobot(plan, tmp_path / "set")
    np.testing.assert_array_equal(feature_rows(tmp_path / "set", "cuepack.timestamp", 0), times)
    regular = (np.arange(4) / 5).astype(np.float32)
    np.testing.assert_array_equal(feature_rows(tmp_path / "set", "timestamp", 0), regular)


def test_frames_without_an_action_are_said_and_trimmed_at_the_end(packets, tmp_path):
    assert "4 frames have no action" in " ".join(plan_lerobot(packets).notes)
    plan = plan_lerobot(packets, trim=True)
    assert "4 frames without an action at the ends of episodes are left out" in " ".join(plan.notes)
    assert write_lerobot(plan, tmp_path / "set").frames == 54
    source = LeRobotSource(tmp_path / "set")
    for one, path in zip(source.episodes(), packets, strict=True):
        episode = source.open(one)
        with Packet(path) as packet:
            np.testing.assert_array_equal(episode.action, packet["action"][:-1])
            assert len(list(episode.pixels)) == packet.n_frames - 1


def test_several_cameras_share_one_name_and_are_recorded(tmp_path):
    paths = [write_clip(tmp_path, name, 4) for name in ("a", "b")]
    tamper(
        paths[1],
        lambda file: file.attrs.__setitem__("source", np.bytes_(file.attrs["source"].replace(b"images0", b"images1"))),
    )
    plan = plan_lerobot(paths)
    assert plan.features[0].key == "observation.images.camera"
    assert "2 cameras (images0, images1" in plan.notes[0]
    write_lerobot(plan, tmp_path / "set")
    about = pq.ParquetFile(tmp_path / "set" / "meta" / "cuepack.parquet").read().to_pylist()
    assert [row["camera"] for row in about] == ["images0", "images1"]


def test_nothing_is_overwritten_and_nothing_half_written_stays(packets, tmp_path):
    target = tmp_path / "set"
    target.mkdir()
    plan = plan_lerobot(packets[:1])
    with pytest.raises(ConfigError, match="exists already"):
        write_lerobot(plan, target)
    with pytest.raises(ConfigError, match="wanted a new folder"):
        write_lerobot(plan, tmp_path / "no" / "set")
    target.rmdir()
    broken = write_clip(tmp_path, "broken", 4)
    with h5py.File(broken) as file:
        start = file["pixels"].id.get_chunk_info(3).byte_offset
    plan = plan_lerobot([packets[0], broken])
    content = bytearray(broken.read_bytes())
    content[start : start + 1000] = bytes(1000)
    broken.write_bytes(content)
    with pytest.raises(PacketError, match=r"broken\.h5: damaged"):
        write_lerobot(plan, target)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.h5"]


def test_an_interrupted_or_failed_export_leaves_no_folder(packets, tmp_path, monkeypatch):
    plan = plan_lerobot(packets[:2])

    def interrupt(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lerobot(plan, tmp_path / "set", done=interrupt)
    assert not list(tmp_path.iterdir())

    def no_space(self, table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("packers.export.lerobot.files.ParquetFiles.write", no_space)
    with pytest.raises(OutputError, match=r"set cannot be written.*No space left"):
        write_lerobot(plan, tmp_path / "set")
    assert not list(tmp_path.iterdir())
