"""An index that lies, and packets that change after they were indexed: an error or right samples, never wrong ones."""

import hashlib
import os
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest

from extractors.errors import PacketError
from packers.reader import Packet
from packers.training import PacketDataset, Reading, Window
from packers.training.files import RowReader
from packers.training.index import FOLDER, OpenPackets, _save, index_packets
from tests.packers.training import packets

WINDOW = Window(2, 1, 1)
ADDRESSES = 7
"""Words of an array's head before its addresses."""


@pytest.fixture
def path(tmp_path):
    return packets.write(tmp_path / "in", "episode_0", 9)


def read_all(opened, names):
    for name in names:
        RowReader("never").read(opened[0], name, list(range(9)))


def entry_of(path):
    return index_packets([path], None)[0][0]


def place(entry, name):
    """Where the head of array `name` is in the layout."""
    return int(entry.layout[list(entry.kinds).index(name)])


def changed(entry, name, word, value):
    layout = np.array(entry.layout)
    layout[place(entry, name) + word] = value
    return replace(entry, layout=layout)


def swapped(entry, name="pixels"):
    layout = np.array(entry.layout)
    at = place(entry, name) + ADDRESSES
    layout[[at + 2, at + 3]] = layout[[at + 3, at + 2]]
    return replace(entry, layout=layout)


def twice(entry, name="pixels"):
    layout = np.array(entry.layout)
    at = place(entry, name) + ADDRESSES
    layout[at + 3] = layout[at + 2]
    return replace(entry, layout=layout)


def with_kind(entry, name, **changes):
    kind = replace(entry.kinds[name], **changes)
    return replace(entry, kinds=entry.kinds | {name: kind})


LIES = {
    "beyond the file": lambda e: changed(e, "pixels", ADDRESSES + 4, 10**15),
    "at the file's end": lambda e: changed(e, "pixels", ADDRESSES + 8, e.size - 10),
    "negative": lambda e: changed(e, "pixels", ADDRESSES, -4096),
    "in the user block": lambda e: changed(e, "pixels", ADDRESSES, 8),
    "two frames in each other's place": swapped,
    "one frame twice": twice,
    "a map twice": lambda e: twice(e, "depth/metric"),
    "huge chunks": lambda e: changed(e, "depth/metric", ADDRESSES + 9, 2**40),
    "empty chunks": lambda e: changed(e, "pixels", ADDRESSES + 9, 0),
    "a negative size": lambda e: changed(e, "masks/object", ADDRESSES + 9, -5),
    "more frames than chunks": lambda e: changed(e, "pixels", 0, 10_000),
    "no frames": lambda e: changed(e, "pixels", 0, 0),
    "no rows in a chunk": lambda e: changed(e, "pixels", 1, 0),
    "many rows in a chunk": lambda e: changed(e, "pixels", 1, 2**50),
    "more chunks than words": lambda e: changed(e, "pixels", 6, 2**60),
    "fewer chunks than none": lambda e: changed(e, "pixels", 6, -3),
    "a head beyond the layout": lambda e: replace(e, layout=np.full(40, 10**9, np.int64)),
    "no layout": lambda e: replace(e, layout=np.zeros(0, np.int64)),
    "huge rows": lambda e: with_kind(e, "pixels", row=(2**30, 2**30, 3)),
    "rows of nothing": lambda e: with_kind(e, "pixels", row=(0, 32, 3)),
    "objects": lambda e: with_kind(e, "pixels", dtype="|O"),
    "long texts": lambda e: with_kind(e, "pixels", dtype="|S2000000000"),
    "no type": lambda e: with_kind(e, "pixels", dtype="packet"),
    "wider numbers": lambda e: with_kind(e, "pixels", dtype="<u8"),
    "another length": lambda e: replace(e, facts=e.facts | {"n_frames": 10}),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_be_is_refused_before_anything_is_read_or_allocated(path, lie):
    opened = OpenPackets([LIES[lie](entry_of(path))], 1)
    names = ("pixels", "depth/metric", "masks/object")
    tracemalloc.start()
    try:
        with pytest.raises(PacketError, match="the index says of"):
            read_all(opened, names)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lie", ["one frame twice", "beyond the file", "huge chunks", "another length"])
def test_a_saved_index_that_lies_is_an_error_or_left_out_and_counted(path, lie, caplog):
    folder = path.parent
    packets.write(folder, "episode_1", 9)
    PacketDataset(folder, WINDOW, ["depth/metric"])
    entries, _ = index_packets(sorted(folder.glob("*.h5")), None)
    _save(folder / FOLDER / "index", [LIES[lie](entries[0]), entries[1]])
    with pytest.raises(PacketError, match="the index says of"):
        PacketDataset(folder, WINDOW, ["depth/metric"])
    data = PacketDataset(folder, WINDOW, ["depth/metric"], reading=Reading(damaged="skip"))
    assert data.left_out == {"is not what the index says": 1}
    assert [entry.facts["episode_id"] for entry in data.entries] == ["episode_1"]
    assert "the index says of" in caplog.text


@pytest.mark.parametrize("seed", range(12))
def test_an_index_with_other_bytes_is_made_again(path, seed):
    folder, file = path.parent, path.parent / FOLDER / "index"
    expected = PacketDataset(folder, WINDOW, ["depth/metric"])[1]
    content = file.read_bytes()
    rng = np.random.default_rng(seed)
    spoiled = bytearray(content)
    for at in rng.integers(0, len(content), 3):
        spoiled[at] ^= int(rng.integers(1, 256))
    file.write_bytes(bytes(spoiled) if seed % 3 else content[: int(rng.integers(0, len(content)))])
    sample = PacketDataset(folder, WINDOW, ["depth/metric"])[1]
    for key, values in expected.items():
        np.testing.assert_array_equal(sample[key], values, err_msg=key)
    assert file.read_bytes() == content


@pytest.mark.parametrize("head", [b"[]", b'{"kinds": 3}', b'{"kinds":[],"sets":[[7]],"packets":[]}', b"{" * 9000])
def test_a_head_that_is_none_is_made_again(path, head):
    folder, file = path.parent, path.parent / FOLDER / "index"
    PacketDataset(folder, WINDOW)
    body = len(head).to_bytes(8, "little") + head
    file.write_bytes(file.read_bytes()[:16] + hashlib.sha256(body).digest() + body)
    assert len(PacketDataset(folder, WINDOW)) == 7
    file.write_bytes(file.read_bytes()[:48] + b"\xff" * 8)
    assert len(PacketDataset(folder, WINDOW)) == 7


def test_a_packet_of_the_same_size_and_time_with_a_stream_that_unpacks_far_is_damaged(path):
    entry = entry_of(path)
    array = entry.arrays()["masks/object"]
    content, stamp = bytearray(path.read_bytes()), path.stat()
    room = array.sizes[0]
    stream = zlib.compress(bytes(room * 400), 9)[:room]
    content[array.addresses[0] : array.addresses[0] + len(stream)] = stream
    path.write_bytes(bytes(content))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    opened = OpenPackets([entry], 1)
    with pytest.raises(PacketError, match="damaged: masks/object, frame 0"):
        RowReader().read(opened[0], "masks/object", [0])


@pytest.mark.parametrize("change", ["replaced", "cut", "gone", "other bytes"])
def test_a_packet_that_changed_after_its_index_was_saved_is_seen(path, change):
    folder = path.parent
    data = PacketDataset(folder, WINDOW)
    pixels = data.entries[0].arrays()["pixels"].addresses[0]
    if change == "replaced":
        packets.write(folder, "episode_0", 12)
    elif change == "gone":
        path.unlink()
    elif change == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        stamp = path.stat()
        with path.open("r+b") as file:
            file.seek(pixels)
            file.write(b"\x55\xaa\x55\xaa")
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(PacketError):
        data[0]
    if change == "replaced":
        again = PacketDataset(folder, WINDOW)
        with Packet(path) as packet:
            np.testing.assert_array_equal(again[9]["pixels"], packet.read("pixels", 9, 12))
