import os

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.errors import PacketError
from packers.reader import Packet
from packers.training.files import RowReader, _fletcher32_fits
from packers.training.index import OpenPackets, index_packets
from tests.packers import examples
from tests.packers.training import packets


def opened(path):
    entries, _ = index_packets([path], None)
    return OpenPackets(entries, 1)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return packets.write(tmp_path_factory.mktemp("packet"), "episode_0", 9)


@pytest.mark.parametrize("verify", ["once", "always", "never"])
def test_every_dataset_is_what_h5py_reads(path, verify):
    reader, open_packets = RowReader(verify), opened(path)
    with h5py.File(path) as file, Packet(path) as packet:
        for name in packet.modalities:
            stored = file[name][()]
            rows = [*list(range(len(stored)))[::-1], 0]
            np.testing.assert_array_equal(reader.read(open_packets[0], name, rows), stored[rows], err_msg=name)
            assert reader.read(open_packets[0], name, [0]).dtype == stored.dtype


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70_000), st.integers(0, 2**32), st.sampled_from([0, 1, 255]))
def test_checksums_are_those_that_hdf5_writes(tmp_path_factory, count, seed, low):
    data = np.random.default_rng(seed).integers(min(low, 254), 256, count, dtype=np.uint8)
    with h5py.File.in_memory() as file:
        created = file.create_dataset("x", data=data, chunks=data.shape, fletcher32=True)
        stored = created.id.read_direct_chunk((0,))[1]
    assert _fletcher32_fits(stored[:-4], stored[-4:])
    flipped = bytearray(stored)
    flipped[seed % count] ^= 1 << (seed % 8)
    assert not _fletcher32_fits(bytes(flipped[:-4]), stored[-4:])


@pytest.mark.parametrize("size", [(1, 1, 3), (480, 640, 3), (1080, 1920, 3)])
def test_checksums_of_large_and_odd_frames_are_exact(size):
    data = np.full(size, 255, np.uint8)
    with h5py.File.in_memory() as file:
        created = file.create_dataset("x", data=data, chunks=size, fletcher32=True)
        stored = created.id.read_direct_chunk((0, 0, 0))[1]
    assert _fletcher32_fits(stored[:-4], stored[-4:])


def test_a_damaged_byte_of_any_dataset_is_found_on_reading_it(tmp_path):
    path = packets.write(tmp_path, "e", 4)
    entries, _ = index_packets([path], None)
    content = path.read_bytes()
    stamp = path.stat()
    for name, array in entries[0].arrays().items():
        at = array.addresses[0] + array.sizes[0] // 2
        # All bits of a byte: some single ones of a compressed stream mean nothing.
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        open_packets = OpenPackets(entries, 1)
        with pytest.raises(PacketError, match=f"damaged: {name}, frame 0"):
            RowReader().read(open_packets[0], name, [0])


def test_a_frame_is_verified_once_or_always_as_asked(tmp_path):
    path = packets.write(tmp_path, "e", 4)
    open_packets = opened(path)
    once, always = RowReader("once"), RowReader("always")
    once.read(open_packets[0], "pixels", [1])
    with path.open("r+b") as file:
        file.seek(open_packets[0].arrays["pixels"].addresses[1] + 5)
        file.write(b"\x00\x01")
    once.read(open_packets[0], "pixels", [1])
    with pytest.raises(PacketError, match=r"pixels, frame 1 cannot be read .its checksum differs"):
        always.read(open_packets[0], "pixels", [1])


def test_a_file_cut_short_while_it_is_open_is_damaged(tmp_path):
    path = packets.write(tmp_path, "e", 4)
    open_packets = opened(path)
    assert open_packets[0].arrays["pixels"].length == 4
    with path.open("r+b") as file:
        file.truncate(open_packets[0].arrays["pixels"].addresses[2] + 10)
    with pytest.raises(PacketError, match=r"pixels, frame 2 cannot be read .the file is cut short"):
        RowReader("never").read(open_packets[0], "pixels", [2])


def test_decoded_rows_are_kept_up_to_a_bound(tmp_path):
    paths = [packets.write(tmp_path, f"e{number}", 50) for number in range(6)]
    entries, _ = index_packets(paths, None)
    open_packets, reader = OpenPackets(entries, 6), RowReader(cache_bytes=20_000)
    for number in range(6):
        reader.read(open_packets[number], "tracks/grid/xy", [3, 7])
        assert 0 < reader.kept.held <= 20_000


def test_the_reader_takes_a_step_and_leaves_out_what_it_passes_over(path):
    with Packet(path) as packet:
        for name in ("pixels", "depth/metric", "action", "tracks/grid/xy"):
            for start, stop, step in ((0, 9, 2), (1, 8, 3), (4, 5, 10), (0, 9, 1)):
                np.testing.assert_array_equal(packet.read(name, start, stop, step), packet[name][start:stop:step])
        np.testing.assert_array_equal(packet.read("action", step=4), packet["action"][::4])
        with pytest.raises(IndexError, match="rows 0 to 9 by 0"):
            packet.read("pixels", 0, 9, 0)


def test_chunks_are_where_the_bytes_are(path):
    with Packet(path) as packet:
        chunks = packet.chunks("pixels")
        assert (chunks.rows, chunks.filters, chunks.shape) == (1, ("fletcher32",), packet.shape("pixels"))
        content = path.read_bytes()
        frame = packet.read("pixels", 5, 6).tobytes()
        assert content[chunks.addresses[5] : chunks.addresses[5] + len(frame)] == frame
        assert chunks.sizes[5] == len(frame) + 4
        assert packet.chunks("masks/object").filters == ("deflate",)
        assert packet.chunks("depth/metric").filters == ("shuffle", "deflate")


def test_what_is_stored_in_another_way_than_packets_are_is_refused(tmp_path):
    path = packets.write(tmp_path, "e", 4)

    def store_in_columns(file):
        rows = file["action"][()]
        attributes = dict(file["action"].attrs)
        del file["action"]
        file.create_dataset("action", data=rows, chunks=(2, 3)).attrs.update(attributes)

    examples.tamper(path, store_in_columns)
    with pytest.raises(PacketError, match="chunks of whole rows"):
        index_packets([path], None)
