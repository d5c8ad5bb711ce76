import csv
import errno
import os

import h5py
import numpy as np
import pytest

from extractors.errors import OutputError, PacketError
from packers.export.lewm import write_lewm
from packers.reader import Packet
from packers.training import Depth, PacketDataset, Reading, Window
from packers.writer import encode, write_packet
from tests.packers import examples
from tests.packers.examples import write_example
from tests.packers.training import packets as many

CUES = ["centroids", "tracks/grid", "contact", "depth/metric", "masks/object", "shape_descriptors"]


def test_the_file_is_what_stable_worldmodels_reader_takes(tmp_path):
    packets = [write_example(tmp_path, name, frames) for name, frames in (("a", 7), ("b", 25))]
    joined = write_lewm(packets, tmp_path / "train.h5", ["centroids", "tracks/grid/visibility", "gripper"])
    assert (joined.episodes, joined.frames, joined.too_short) == (2, 32, 1)
    # As the reader opens it.
    with h5py.File(tmp_path / "train.h5", "r", swmr=True) as file:
        assert all(isinstance(item, h5py.Dataset) and item.ndim for item in file.values())
        own = {"pixels", "action", "observation", "proprio", "state", "centroids", "tracks_grid_visibility", "gripper"}
        valid = {f"{name}_valid" for name in own - {"pixels"}}
        assert set(file) == own | valid | {"episode_idx", "step_idx", "ep_len", "ep_offset"}
        assert {len(file[name]) for name in set(file) - {"ep_len", "ep_offset"}} == {32}
        assert (file["ep_len"][:].tolist(), file["ep_offset"][:].tolist()) == ([7, 25], [0, 7])
        assert file["ep_len"].dtype == file["ep_offset"].dtype == np.int64
        assert file["gripper"].shape == (32, 1)
        assert file["pixels"].chunks == (1, 24, 32, 3)
        assert file["episode_idx"][:, 0].tolist() == [0] * 7 + [1] * 25
        assert file["step_idx"][:, 0].tolist() == [*range(7), *range(25)]
        for offset, path in zip((0, 7), packets, strict=True):
            with Packet(path) as packet:
                rows = slice(offset, offset + packet.n_frames)
                np.testing.assert_array_equal(file["pixels"][rows], packet["pixels"])
                np.testing.assert_array_equal(file["action"][rows], np.nan_to_num(packet["action"]))
                np.testing.assert_array_equal(file["action_valid"][rows][:, 0], packet["action_valid"])
                np.testing.assert_array_equal(file["proprio"][rows], packet["state"])


def test_the_state_has_three_names_and_is_stored_once(tmp_path):
    write_lewm([write_example(tmp_path, "a")], tmp_path / "train.h5")
    with h5py.File(tmp_path / "train.h5") as file:
        places = {h5py.h5o.get_info(file[name].id).addr for name in ("observation", "proprio", "state")}
    assert len(places) == 1


def test_every_column_survives_the_clients_normaliser_and_converter(tmp_path):
    """Columns are numbers in two dimensions without NaN: it takes `x - mean` by column, and refuses bools and NaN."""
    write_lewm([write_example(tmp_path, "a", 9)], tmp_path / "train.h5", CUES, names="study")
    with h5py.File(tmp_path / "train.h5") as file:
        study = {"depth", "contact", "tracks", "track_visibility", "object_mask", "object_centroid", "object_shape"}
        assert study <= set(file)
        for name, column in file.items():
            if name in ("ep_len", "ep_offset", "pixels"):
                continue
            assert (column.ndim, column.dtype.kind in "fi") == (2, True), name
            scaled = (column[:] - column[:].mean(axis=0)) / np.maximum(column[:].std(axis=0), 1e-8)
            assert np.isfinite(scaled).all(), name
            if name in study:
                assert np.isin(file[f"{name}_valid"].shape[1], [1, column.shape[1]]), name
        assert not file["object_centroid_valid"][8].any()
        assert file["object_centroid_valid"][:8].all()


def test_depth_is_the_target_at_56_by_56(tmp_path):
    path = many.write(tmp_path, "e", 5, size=(112, 112))
    write_lewm([path], tmp_path / "train.h5", ["depth/metric", "masks/object"])
    target = PacketDataset(path, Window(5, 0), [Depth("depth/metric")], reading=Reading(cache=tmp_path))[0]
    with h5py.File(tmp_path / "train.h5") as file:
        assert file["depth_metric"].shape == (5, 56 * 56)
        np.testing.assert_array_equal(file["depth_metric"][:].reshape(5, 56, 56), target["depth"])
        np.testing.assert_array_equal(file["depth_metric_valid"][:].reshape(5, 56, 56), target["depth_weight"])
        assert file["masks_object"].shape == (5, 56 * 56)


def test_the_split_is_kept_in_the_list_of_episodes(tmp_path):
    packets = [write_example(tmp_path, name) for name in ("a", "b")]
    write_lewm(packets, tmp_path / "train.h5", splits=dict(zip(packets, ("train", "val"), strict=True)))
    rows = list(csv.DictReader((tmp_path / "train.h5.episodes.csv").read_text().splitlines()))
    assert [(row["episode_id"], row["split"]) for row in rows] == [("a", "train"), ("b", "val")]


def test_several_sources_are_one_file_with_padded_actions_and_a_column_that_names_them(tmp_path):
    packets = [many.write(tmp_path, "a", 7), many.write(tmp_path, "b", 9, action_width=14, source="arms")]
    write_lewm(packets, tmp_path / "train.h5", ids={packets[1]: "arms-b"})
    with h5py.File(tmp_path / "train.h5") as file:
        assert file["action"].shape == file["action_dims"].shape == (16, 14)
        assert file["action_dims"][:7].sum(axis=1).tolist() == [7] * 7
        assert file["action_dims"][7:].all()
        assert not file["action"][:7, 7:].any()
        with Packet(packets[0]) as packet:
            np.testing.assert_array_equal(file["action"][:7, :7], np.nan_to_num(packet["action"]))
        assert file["source_idx"][:, 0].tolist() == [0] * 7 + [1] * 9
        assert list(file["source_idx"].attrs["names"]) == ["bridge", "arms"]
        assert "observation_dims" not in file
    rows = list(csv.DictReader((tmp_path / "train.h5.episodes.csv").read_text().splitlines()))
    assert [(row["episode_id"], row["source"]) for row in rows] == [("a", "bridge"), ("arms-b", "arms")]


def test_states_of_several_widths_have_their_mask_under_all_three_names(tmp_path):
    found = examples.datasets(9)
    wide, names = np.ones((9, 5), np.float32), {"names": list("xyzab")}
    found["state"] = encode("state", wide, stage_key=examples.KEYS["source"], **names)
    write_packet(tmp_path / "b.h5", found, examples.attributes("b", 9))
    write_lewm([many.write(tmp_path, "a", 7, source="bridge_data_v2"), tmp_path / "b.h5"], tmp_path / "train.h5")
    with h5py.File(tmp_path / "train.h5") as file:
        for name in ("observation", "proprio", "state"):
            assert file[f"{name}_dims"][:].sum(axis=1).tolist() == [3] * 7 + [5] * 9


def test_only_what_lasts_from_the_first_motion_to_the_last_is_exported(tmp_path):
    path = many.write(tmp_path, "a", 12)
    with Packet(path) as packet:
        phase = packet["phase"]
    moved = tmp_path / "moved"
    moved.mkdir()
    found = examples.datasets(12)
    found["phase"] = encode("phase", phase, stage_key=examples.KEYS["geometry"], **examples.PHASE, active_span=[3, 9])
    write_packet(moved / "a.h5", found, examples.attributes("a", 12))
    write_lewm([moved / "a.h5", path], tmp_path / "train.h5", moving=True)
    with h5py.File(tmp_path / "train.h5") as file, Packet(moved / "a.h5") as packet:
        assert file["ep_len"][:].tolist() == [6, 12]
        assert file["step_idx"][:6, 0].tolist() == list(range(6))
        np.testing.assert_array_equal(file["pixels"][:6], packet["pixels"][3:9])
        np.testing.assert_array_equal(file["proprio"][:6], packet["state"][3:9])
    without = many.write(tmp_path, "c", 12, without=("phase",))
    with pytest.raises(PacketError, match="has no phase, which says where something moves"):
        write_lewm([without], tmp_path / "other.h5", moving=True)


def test_frame_rates_that_cannot_be_merged_are_refused_with_what_to_do(tmp_path):
    attributes = examples.attributes("b")
    attributes["fps"] = 30.0
    write_packet(tmp_path / "b.h5", examples.datasets(), attributes)
    with pytest.raises(PacketError, match=r"b\.h5 has 30 frames/s, a\.h5 5: .* export them apart"):
        write_lewm([write_example(tmp_path, "a"), tmp_path / "b.h5"], tmp_path / "train.h5")


def test_packets_that_do_not_fit_together_are_refused(tmp_path):
    a, b = write_example(tmp_path, "a"), write_example(tmp_path, "b", height=32)
    with pytest.raises(PacketError, match=r"b\.h5: wanted pixels"):
        write_lewm([a, b], tmp_path / "train.h5")
    with pytest.raises(PacketError, match="no row for each frame"):
        write_lewm([a], tmp_path / "train.h5", ["intrinsics"])
    with pytest.raises(PacketError, match=r"has no wrist; it has action"):
        write_lewm([a], tmp_path / "train.h5", ["wrist"])
    with pytest.raises(PacketError, match="no column for gripper"):
        write_lewm([a], tmp_path / "train.h5", ["gripper"], names="study")
    with pytest.raises(PacketError, match="would both be the column tracks"):
        write_lewm([a], tmp_path / "train.h5", ["tracks/grid", "tracks/foreground"], names="study")
    with pytest.raises(PacketError, match="at least one"):
        write_lewm([], tmp_path / "train.h5")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_a_list_of_episodes_that_cannot_be_written_leaves_the_old_one_whole(tmp_path, monkeypatch):
    packets = [write_example(tmp_path, name, 25) for name in ("a", "b")]
    target, index = tmp_path / "train.h5", tmp_path / "train.h5.episodes.csv"
    write_lewm(packets[:1], target)
    before = index.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    target.unlink()
    original = os.fsync
    # The joined file comes first and is synced by then; the list is what no longer fits.
    monkeypatch.setattr(os, "fsync", lambda descriptor: full(descriptor) if target.exists() else original(descriptor))
    with pytest.raises(OutputError, match=r"train\.h5.* No space left"):
        write_lewm(packets, target)
    assert index.read_bytes() == before
    assert {path.name for path in tmp_path.glob("*train*")} == {"train.h5", "train.h5.episodes.csv"}
