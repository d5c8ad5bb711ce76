import multiprocessing
import pickle
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from extractors.errors import PacketError
from packers import admission
from packers.admission import admit, check_digest
from packers.reader import Packet, read_dataset
from packers.validate import validate_packet
from tests.packers import examples
from tests.support import REPOSITORY


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return examples.write_example(tmp_path_factory.mktemp("packet"))


def test_depth_is_read_in_metres_with_nan_where_there_is_no_reading(path):
    with Packet(path) as packet:
        depth = packet["depth/metric"]
        attributes = packet.dataset_attributes("depth/metric")
    assert depth.dtype == np.float32
    assert np.isnan(depth[:, :, 0]).all()
    assert np.abs(depth[0, :, 1] - np.linspace(0.5, 2.0, examples.HEIGHT)).max() <= attributes["max_error"]


def test_a_window_is_that_part_of_the_whole(path):
    with Packet(path) as packet:
        for name in ("pixels", "depth/relative", "tracks/grid/xy", "timestamp", "action"):
            np.testing.assert_array_equal(packet.read(name, 2, 5), packet[name][2:5])
            assert packet.shape(name) == packet[name].shape
        np.testing.assert_array_equal(packet.read("pixels", 4), packet["pixels"][4:])
        assert (packet.n_frames, packet.size) == (examples.FRAMES, (examples.HEIGHT, examples.WIDTH))


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (-1, 2), (3, 3), (6, None)])
def test_a_window_beyond_the_clip_is_refused(path, start, stop):
    with Packet(path) as packet, pytest.raises(IndexError, match="it has 6"):
        packet.read("pixels", start, stop)


def test_an_absent_dataset_is_answered_with_those_that_are_there(path):
    with Packet(path) as packet:
        assert "depth/metric" in packet
        assert "masks" not in packet
        with pytest.raises(KeyError, match="tracks/grid/xy"):
            packet["tracks/other/xy"]


def _sum_of_frame(packet: Packet, frame: int) -> int:
    return int(packet.read("pixels", frame, frame + 1).sum())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_open_packet_may_be_carried_into_other_processes(path, method):
    with Packet(path) as packet:
        expected = [_sum_of_frame(packet, frame) for frame in range(packet.n_frames)]
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.starmap(_sum_of_frame, [(packet, frame) for frame in range(examples.FRAMES)])
        assert found == expected
        assert _sum_of_frame(packet, 0) == expected[0]


def test_a_handle_opened_before_a_fork_is_not_used_by_the_child(path):
    packet = Packet(path)
    expected = _sum_of_frame(packet, 1)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=lambda: results.put((_sum_of_frame(packet, 1), packet._inherited is not None)))
    child.start()
    child.join(60)
    assert results.get() == (expected, True)
    assert _sum_of_frame(packet, 1) == expected
    packet.close()


def test_a_pickled_packet_holds_no_file(path):
    with Packet(path) as packet:
        copy = pickle.loads(pickle.dumps(packet))
    assert copy._file is None
    assert copy.n_frames == examples.FRAMES
    copy.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "wanted CUEPACK1"),
        (b"\x89HDF\r\n\x1a\n" + bytes(2000), "no packet"),
        (b"CUEPACK1" + b"0" * 64, "damaged"),
        ((b"CUEPACK1" + b"z" * 64).ljust(600, b"\0"), "damaged"),
        ((b"CUEPACK1" + b"0" * 64).ljust(5000, b"\0"), "damaged"),
    ],
)
def test_what_is_no_packet_is_said_so(tmp_path, content, message):
    wrong = tmp_path / "e.h5"
    wrong.write_bytes(content)
    with pytest.raises(PacketError, match=message):
        Packet(wrong).__enter__()


def test_a_missing_packet_is_said_so(tmp_path):
    with pytest.raises(PacketError, match="No such file"):
        read_dataset(tmp_path / "e.h5", "pixels")


def test_another_schema_version_is_refused_unless_asked_for(tmp_path):
    path = examples.write_example(tmp_path)
    examples.tamper(path, lambda file: file.attrs.modify("schema", np.bytes_(b"cuepack/9")))
    with pytest.raises(
        PacketError, match=r"wanted schema cuepack/1 or cuepack/2 or cuepack/3 or cuepack/4, got 'cuepack/9'"
    ):
        Packet(path).__enter__()
    with Packet(path, any_group=True) as packet:
        assert packet.attributes["schema"] == "cuepack/9"


def test_any_flipped_byte_is_found_without_the_manifest(tmp_path, path):
    content = bytearray(path.read_bytes())
    check_digest(path)
    damaged = tmp_path / path.name
    places = [0, 7, 8, 71, 72, 300, 511, 512, 600, *np.random.default_rng(0).integers(513, len(content), 60)]
    for place in [*places, len(content) - 1]:
        flipped = bytearray(content)
        flipped[place] ^= 0x10
        damaged.write_bytes(flipped)
        with pytest.raises(PacketError):
            check_digest(damaged)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999])
def test_a_truncated_packet_does_not_open(tmp_path, path, keep):
    content = path.read_bytes()
    (tmp_path / path.name).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(PacketError, match="damaged"), Packet(tmp_path / path.name) as packet:
        packet["pixels"]


def test_a_damaged_packet_is_refused_before_hdf5_opens_it(tmp_path, monkeypatch):
    path = examples.write_example(tmp_path)
    content = bytearray(path.read_bytes())
    frame = examples.arrays()["pixels"][1][3].tobytes()
    content[content.index(frame) + 100] ^= 1
    path.write_bytes(content)

    def opened(*args, **options):
        raise AssertionError("HDF5 was asked to open it")

    monkeypatch.setattr(h5py, "File", opened)
    monkeypatch.setattr("packers.admission.examine", opened)
    for read in (lambda: Packet(path).attributes, lambda: read_dataset(path, "gripper"), lambda: admit(path)):
        with pytest.raises(PacketError, match="do not have the sha256"):
            read()


def test_a_packet_is_read_whole_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = examples.write_example(tmp_path)
    time.sleep(0.1)  # a file that was just written may change within a tick of the clock
    asked = []
    examine = admission.examine
    monkeypatch.setattr(admission, "examine", lambda task, path: asked.append(task) or examine(task, path))
    for _ in range(3):
        with Packet(path) as packet:
            assert packet.n_frames == examples.FRAMES
    assert asked == ["packet"]
    examples.tamper(path, examples.set_values("gripper", 0, 0.5))
    time.sleep(0.1)
    with Packet(path) as packet:
        assert packet["gripper"][0] == 0.5
    assert asked == ["packet"] * 2


def test_a_packet_of_the_first_version_is_read(tmp_path):
    path = examples.write_example(tmp_path)
    examples.tamper(path, examples.as_first_version)
    assert validate_packet(path) == []
    with Packet(path) as packet:
        assert packet.attributes["schema"] == "cuepack/1"
        assert packet.attributes["language_instruction"] == examples.attributes()["language_instruction"]
        assert packet.dataset_attributes("state")["names"] == ["x", "y", "größe"]


def test_no_text_is_kept_where_damage_is_not_noticed(path):
    # GCOL opens a collection of HDF5's global heap, which has no checksum.
    assert b"GCOL" not in path.read_bytes()
    with h5py.File(path) as file:
        assert file.attrs["language_instruction"].decode() == examples.attributes()["language_instruction"]
        assert file["state"].attrs["names"].tolist()[2].decode() == "größe"


def test_a_flat_reader_takes_a_packet_as_it_is(path):
    # What stable-worldmodel's HDF5 reader does (formats.md d): columns of one file, windows by ep_offset and ep_len.
    keys_to_load = ["pixels", "action", "state"]
    with h5py.File(path, "r", swmr=True) as file:
        lengths, offsets = file["ep_len"][:], file["ep_offset"][:]
        columns = {key: file[key] for key in keys_to_load}
        assert {len(column) for column in columns.values()} == {lengths.sum()}
        window = {key: column[offsets[0] + 1 : offsets[0] + 4] for key, column in columns.items()}
    assert (lengths.dtype, offsets.dtype) == (np.int32, np.int64)
    assert window["pixels"].shape == (3, examples.HEIGHT, examples.WIDTH, 3)
    assert window["action"].dtype == np.float32


def test_the_example_of_format_md_reads_a_packet(path, monkeypatch, capsys):
    text = (REPOSITORY / "packers" / "FORMAT.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("import")]) <= 5
    monkeypatch.chdir(Path(path).parent)
    exec(compile(code, "FORMAT.md", "exec"), namespace := {})
    with Packet(path) as packet:
        np.testing.assert_allclose(namespace["depth"], packet["depth/metric"], rtol=1e-6)
        np.testing.assert_array_equal(namespace["pixels"], packet["pixels"])
    assert "put the größe cup" in capsys.readouterr().out


@pytest.mark.parametrize("locking", [None, True, False, "best-effort"])
def test_a_packet_that_plain_h5py_holds_open_is_read_all_the_same(path, locking):
    with h5py.File(path, "r", locking=locking) as held, Packet(path) as packet:
        np.testing.assert_array_equal(packet["pixels"], held["pixels"][()])
    with Packet(path) as packet, h5py.File(path, "r", locking=False) as held:
        np.testing.assert_array_equal(packet["action"], held["action"][()])
