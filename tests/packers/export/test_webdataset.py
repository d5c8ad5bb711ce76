import io
import json
import tarfile

import numpy as np
import pytest

from extractors.errors import ConfigError, PacketError
from packers.export.webdataset import write_webdataset
from packers.reader import Packet
from tests.packers.training import packets


def samples(shard):
    """As WebDataset groups them: members in a row that share the name before the first dot."""
    found = {}
    with tarfile.open(shard) as file:
        for member in file:
            key, ending = member.name.split(".", 1)
            found.setdefault(key, {})[ending] = file.extractfile(member).read()
    return found


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        packets.write(tmp_path / "in", f"ep.{number}", 6 + number)
    return tmp_path


def test_a_sample_is_an_episode_as_the_packet_has_it(folder):
    paths = sorted((folder / "in").glob("*.h5"))
    written = write_webdataset(paths, folder / "out", ["tracks/grid", "depth/metric"])
    assert (written.episodes, written.frames, written.shards) == (5, 40, ("all-000000.tar",))
    found = samples(folder / "out" / "all-000000.tar")
    assert list(found) == [f"ep-{number}" for number in range(5)]
    assert json.loads(found["ep-2"]["json"])["episode_id"] == "ep.2"
    with Packet(paths[2]) as packet:
        for name in ("pixels", "action", "tracks/grid/xy", "tracks/grid/on_object", "depth/metric"):
            array = np.load(io.BytesIO(found["ep-2"][f"{name.replace('/', '_')}.npy"]))
            np.testing.assert_array_equal(array, packet[name])


def test_shards_are_of_bounded_size_keep_the_split_and_are_equal_when_written_again(folder):
    paths = sorted((folder / "in").glob("*.h5"))
    splits = {path: "val" if path.stem == "ep.1" else "train" for path in paths}
    written = write_webdataset(paths, folder / "a", splits=splits, shard_bytes=100_000)
    assert written.shards == ("train-000000.tar", "train-000001.tar", "val-000000.tar")
    assert list(samples(folder / "a" / "val-000000.tar")) == ["ep-1"]
    write_webdataset(paths, folder / "b", splits=splits, shard_bytes=100_000)
    for name in written.shards:
        assert (folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes()


def test_what_cannot_be_is_refused_and_leaves_nothing(folder):
    paths = sorted((folder / "in").glob("*.h5"))
    with pytest.raises(PacketError, match="has no wrist; it has action"):
        write_webdataset(paths, folder / "out", ["wrist"])
    with pytest.raises(ConfigError, match="in no split"):
        write_webdataset(paths, folder / "out", splits={paths[0]: "val"})
    assert [path.name for path in folder.iterdir()] == ["in"]
    with pytest.raises(ConfigError, match="exists already"):
        write_webdataset(paths, folder / "in")
