import h5py
import numpy as np
import pytest

from extractors.errors import PacketError
from packers.export.lewm import write_lewm
from packers.reader import Packet
from tests.packers.examples import write_example


def test_the_file_is_what_stable_worldmodels_reader_takes(tmp_path):
    packets = [write_example(tmp_path, name, frames) for name, frames in (("a", 7), ("b", 5))]
    joined = write_lewm(packets, tmp_path / "train.h5", ["centroids", "tracks/grid/visibility", "gripper"])
    assert (joined.episodes, joined.frames) == (2, 12)
    # As the reader opens it.
    with h5py.File(tmp_path / "train.h5", "r", swmr=True) as file:
        assert all(isinstance(item, h5py.Dataset) and item.ndim for item in file.values())
        assert set(file) == {
            "pixels", "action", "proprio", "centroids", "tracks_grid_visibility", "gripper", "ep_len", "ep_offset",
        }  # fmt: skip
        assert {len(file[name]) for name in set(file) - {"ep_len", "ep_offset"}} == {12}
        assert file["ep_len"][:].tolist() == [7, 5]
        assert file["ep_offset"][:].tolist() == [0, 7]
        assert file["ep_len"].dtype == np.int32
        assert file["ep_offset"].dtype == np.int64
        assert file["gripper"].shape == (12, 1)
        assert file["pixels"].chunks == (1, 24, 32, 3)
        for offset, path in zip((0, 7), packets, strict=True):
            with Packet(path) as packet:
                rows = slice(offset, offset + packet.n_frames)
                np.testing.assert_array_equal(file["pixels"][rows], packet["pixels"])
                np.testing.assert_array_equal(file["action"][rows], packet["action"])
                np.testing.assert_array_equal(file["proprio"][rows], packet["state"])
        assert np.isnan(file["action"][[6, 11]]).all()


def test_packets_that_do_not_fit_together_are_refused(tmp_path):
    a, b = write_example(tmp_path, "a"), write_example(tmp_path, "b", height=32)
    with pytest.raises(PacketError, match=r"b\.h5: wanted pixels"):
        write_lewm([a, b], tmp_path / "train.h5")
    with pytest.raises(PacketError, match="no row for each frame"):
        write_lewm([a], tmp_path / "train.h5", ["intrinsics"])
    with pytest.raises(PacketError, match="has no wrist"):
        write_lewm([a], tmp_path / "train.h5", ["wrist"])
    with pytest.raises(PacketError, match="at least one"):
        write_lewm([], tmp_path / "train.h5")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.h5", "b.h5"]
