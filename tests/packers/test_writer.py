import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from extractors.errors import OutputError, PacketError, ShapeError
from packers import writer
from packers.reader import Packet, read_dataset
from packers.schema import Dataset
from packers.writer import canonical_json, decode, encode, write_group, write_packet
from tests.packers import examples
from tests.support import REPOSITORY, shared_data


@pytest.mark.parametrize("far_m", [0.3, 1.0, 3.5, 15.9])
def test_metric_depth_comes_back_within_its_stated_error(far_m):
    depth = np.random.default_rng(0).uniform(0.02, far_m, (3, 8, 9)).astype(np.float32)
    depth[0, 0, :2] = [0, np.nan]
    stored = encode("depth/metric", depth)
    values = decode(stored)
    assert np.isnan(values[0, 0, :2]).all()
    read = depth > 0
    assert stored.data.dtype == np.uint16
    assert stored.attributes["fill"] == 0
    assert np.abs(values - depth)[read].max() <= stored.attributes["max_error"] <= 0.125e-3
    np.testing.assert_array_equal(np.isfinite(values), read)


def test_metric_depth_beyond_sixteen_metres_is_stored_as_it_is():
    depth = np.array([[[0, 0.5], [np.nan, 80]]], np.float32)
    stored = encode("depth/metric", depth)
    assert stored.data.dtype == np.float32
    np.testing.assert_array_equal(decode(stored), [[[np.nan, 0.5], [np.nan, 80]]])
    assert np.isfinite(stored.data).all()


def test_a_reading_below_half_a_step_stays_a_reading():
    stored = encode("depth/metric", np.array([[[1e-5, 3], [3, 3]]]))
    assert decode(stored)[0, 0, 0] > 0
    assert stored.attributes["max_error"] >= 2**-12 - 1e-5


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 900), (1e5, 1e5 + 7)])
def test_relative_depth_keeps_its_scale_to_an_eight_thousandth_of_its_range(low, high):
    depth = np.random.default_rng(0).uniform(low, high, (4, 8, 9)).astype(np.float32)
    stored = encode("depth/relative", depth)
    error = np.abs(decode(stored).astype(float) - depth).max()
    assert error <= stored.attributes["max_error"]
    assert stored.attributes["max_error"] <= 1.5e-4 * (high - low) + 1e-7 * abs(high) * 4
    again = encode("depth/relative", decode(stored))
    np.testing.assert_array_equal(again.data, stored.data)


def test_flat_relative_depth_comes_back_exactly():
    np.testing.assert_array_equal(decode(encode("depth/relative", np.full((2, 3, 3), 7.25))), np.float32(7.25))


@pytest.mark.shared
@pytest.mark.parametrize("episode", ["dev00_pick_place", "dev08_wrist_pick_place"])
def test_true_depth_passes_through_unharmed(episode):
    with np.load(shared_data("groundtruth_dev", f"{episode}.npz")) as arrays:
        depth = arrays["depth"][::6]
    stored = encode("depth/metric", depth)
    seen = depth > 0
    error = np.abs(decode(stored) - depth)[seen]
    assert error.max() <= stored.attributes["max_error"] <= 0.125e-3
    # Issue 4 allows a change of AbsRel of 0.2 %; storage must be far below.
    assert (error / depth[seen]).mean() < 2e-4 * (1 if depth.max() > 1 else 3)
    np.testing.assert_array_equal(np.isfinite(decode(stored)), seen)


@pytest.mark.parametrize(
    ("name", "values", "frame"),
    [
        ("depth/relative", [1, np.nan], 1),
        ("depth/stabilized", [np.inf, 1], 0),
        ("depth/metric", [1, np.inf], 1),
        ("depth/metric", [-1, 1], 0),
    ],
)
def test_depth_that_the_schema_forbids_is_refused_with_its_frame(name, values, frame):
    with pytest.raises(PacketError, match=f"{name}, frame {frame}"):
        encode(name, np.array(values, float)[:, None, None])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("state", [[0, 0], [0, np.nan]], "state, frame 1: wanted finite"),
        ("state", [[0, 1e39]], "state, frame 0: wanted finite"),
        ("action", [[np.inf]], "action, frame 0: wanted finite values, NaN where action_valid"),
        ("gripper", [0, 1.5], "gripper, frame 1: wanted values of at most 1"),
        ("masks/score", [-0.1], "masks/score, frame 0: wanted values of at least 0"),
    ],
)
def test_values_out_of_the_schema_are_refused_with_their_frame(name, values, message):
    with pytest.raises(PacketError, match=message):
        encode(name, np.array(values, float))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("pixels", np.zeros((2, 4, 4, 3), np.float32)),
        ("pixels", np.zeros((2, 4, 4), np.uint8)),
        ("pixels", np.zeros((0, 4, 4, 3), np.uint8)),
        ("masks/object", np.zeros((2, 4, 4), np.uint8)),
        ("intrinsics", np.eye(4)),
        ("timestamp", np.array(["a"])),
        ("extra/words", np.array(["a"])),
    ],
)
def test_another_type_or_shape_is_refused(name, values):
    with pytest.raises(ShapeError, match=name):
        encode(name, values)


def test_a_misspelled_dataset_is_answered_with_the_nearest_name():
    with pytest.raises(PacketError, match="did you mean 'masks/object'"):
        encode("masks/objects", np.zeros((1, 2, 2), bool))


def test_an_extra_array_may_take_an_encoding_of_the_schema():
    depth = np.full((1, 2, 2), 1.5, np.float32)
    assert encode("extra/depth_estimated", depth, like="depth/metric").data.dtype == np.uint16
    assert encode("extra/depth_estimated", depth).data.dtype == np.float32
    with pytest.raises(PacketError):
        encode("depth/relative", depth, like="depth/metric")


def test_a_packet_holds_what_went_in(tmp_path):
    found = examples.datasets() | {"extra/raw": encode("extra/raw", np.arange(4), stage_key=examples.KEYS["masks"])}
    write_packet(tmp_path / "e.h5", found, examples.attributes("e"))
    with Packet(tmp_path / "e.h5") as packet:
        assert packet.attributes["source"] == examples.attributes()["source"]
        assert packet.attributes["language_instruction"] == "put the größe cup\non the plate"
        assert packet.modalities == tuple(sorted({*found, "ep_len", "ep_offset"} - {"extra/raw"}))
    for name, dataset in found.items():
        read = read_dataset(tmp_path / "e.h5", name)
        np.testing.assert_array_equal(read.data, dataset.data, strict=True)
        assert read.attributes == dict(dataset.attributes)


def test_equal_content_gives_equal_bytes_in_another_order_process_and_second(tmp_path):
    first = examples.write_example(tmp_path).read_bytes()
    time.sleep(1.1)
    found, root = examples.datasets(), examples.attributes()
    root["source"] = dict(reversed(root["source"].items()))
    (tmp_path / "other").mkdir()
    write_packet(tmp_path / "other" / "episode_0.h5", dict(reversed(found.items())), dict(reversed(root.items())))
    assert (tmp_path / "other" / "episode_0.h5").read_bytes() == first
    code = "import sys; from pathlib import Path; from tests.packers.examples import write_example; "
    code += "write_example(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, tmp_path / "other"], check=True, cwd=REPOSITORY)
    assert (tmp_path / "other" / "episode_0.h5").read_bytes() == first


def test_threads_that_write_at_once_write_the_same_bytes(tmp_path):
    folders = [tmp_path / str(number) for number in range(6)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(3) as pool:
        written = list(pool.map(examples.write_example, folders))
    assert len({path.read_bytes() for path in written}) == 1


def test_the_user_block_holds_the_sha256_of_what_follows(tmp_path):
    content = examples.write_example(tmp_path).read_bytes()
    assert content[:72] == b"CUEPACK1" + hashlib.sha256(content[512:]).hexdigest().encode()
    assert content[72:512] == bytes(440)
    assert content[512:516] == b"\x89HDF"


def test_hashes_of_five_thousand_frames_fit_into_an_attribute(tmp_path):
    path = examples.write_example(tmp_path, frames=5000, height=4, width=4)
    with h5py.File(path) as file:
        assert len(file.attrs["source"]) > 5 * 65536
    with Packet(path) as packet:
        assert packet.attributes["source"]["frame_sha256"] == examples.attributes(frames=5000)["source"]["frame_sha256"]
    first = path.read_bytes()
    assert examples.write_example(tmp_path, frames=5000, height=4, width=4).read_bytes() == first


def test_texts_that_hdf5_cannot_hold_are_kept_readable(tmp_path):
    root = examples.attributes("e") | {"language_instruction": "put\x00it", "tags": ["nul\x00", "name-\udce9"]}
    write_packet(tmp_path / "e.h5", examples.datasets(), root)
    with Packet(tmp_path / "e.h5") as packet:
        assert packet.attributes["language_instruction"] == "put\ufffdit"
        assert packet.attributes["tags"] == ["nul\x00", "name-\udce9"]


def test_json_has_no_nan():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"score": float("nan")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found, root: found.pop("timestamp"), "needs the datasets \\['timestamp'\\]"),
        (lambda found, root: root.pop("quality"), "root attributes \\['quality'\\]"),
        (lambda found, root: root.update(episode_id="../e"), "a packet is named"),
        (lambda found, root: root.update(fps=float("nan")), "attribute 'fps': wanted a finite"),
        (lambda found, root: root.update(scores={"score": float("inf")}), "attribute 'scores': wanted JSON"),
        (lambda found, root: found.update(depths=found["timestamp"]), "no dataset 'depths'"),
        (
            lambda found, root: found.update(gripper=Dataset(np.zeros(6, np.float32))),
            "needs the text attribute 'units'",
        ),
        (lambda found, root: found.update(timestamp=Dataset(np.zeros(5), found["timestamp"].attributes)), "T = 6"),
        (lambda found, root: found.update(state=Dataset(np.zeros((6, 3)), found["state"].attributes)), "use encode"),
    ],
)
def test_an_incomplete_packet_is_not_written(tmp_path, change, message):
    found, root = examples.datasets(), examples.attributes("e")
    change(found, root)
    with pytest.raises((PacketError, ShapeError), match=message):
        write_packet(tmp_path / "e.h5", found, root)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_the_old_packet_and_its_leftover_goes_with_the_next(tmp_path):
    path = examples.write_example(tmp_path)
    before = path.read_bytes()
    code = (
        "import os, sys; from pathlib import Path; from packers import writer; from tests.packers.examples import *\n"
        "writer._sign = lambda file: (print('half', flush=True), sys.stdin.read())\n"
        f"write_example(Path({str(tmp_path)!r}))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == b"half\n"
    assert len(list(tmp_path.iterdir())) == 2
    writing = next(found for found in tmp_path.iterdir() if found != path)
    examples.write_example(tmp_path)
    assert writing.exists(), "the file of a living writer was removed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert path.read_bytes() == before
    examples.write_example(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "pwrite", "ftruncate"])
def test_a_full_disk_stops_cleanly_and_keeps_the_old_packet(tmp_path, monkeypatch, call):
    path = examples.write_example(tmp_path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writer.os, call, full)
        with pytest.raises(OutputError, match="the disk is full"):
            examples.write_example(tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _write_under_a_limit(folder: str, limit: str) -> None:
    """Child of the test below: exit status 0 where the limit gave OutputError and later writes go well."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    arrays = {f"extra/{n}": encode(f"extra/{n}", np.random.default_rng(n).random((40, 64, 64))) for n in range(4)}
    try:
        write_group(Path(folder) / "big.h5", arrays, {"stage": {"text": "x" * 100_000}})
    except OutputError:
        write_group(Path(folder) / "small.h5", {}, {"stage": {}})
        sys.exit(0)
    sys.exit(3)


@pytest.mark.parametrize("limit", [20_000, 150_000, 3_000_000])
def test_hdf5_survives_a_disk_that_fills_up_while_it_writes(tmp_path, limit):
    # HDF5 itself brings the process down here with a segmentation fault; see _Disk.
    code = "import sys; from tests.packers import test_writer; test_writer._write_under_a_limit(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(tmp_path), str(limit)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["small.h5"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        write_group(tmp_path / "nowhere" / "e.h5", {}, {})


def test_an_unfinished_stage_keeps_any_attribute(tmp_path):
    write_group(tmp_path / "masks.h5", {}, {"stage": {"b": [1, None], "a": "ü"}, "count": 3, "note": '["text"]'})
    with Packet(tmp_path / "masks.h5", any_group=True) as group:
        assert group.attributes == {"stage": {"a": "ü", "b": [1, None]}, "count": 3, "note": '["text"]'}


def test_files_take_the_permissions_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        path = examples.write_example(tmp_path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640
