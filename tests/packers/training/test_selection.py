import os

import pytest

from extractors.errors import ConfigError
from flows.output.directory import OutputDirectory
from flows.output.selection import Candidate, Pick, choose, write_selection
from packers.training import Choice, PacketDataset, Reading, Window
from tests.packers.training import packets

WINDOW = Window(2, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("out")
    for number in range(20):
        for camera in ("front", "side"):
            packets.write(root / "packets" / "00", f"episode_{number:02}_{camera}", 6, episode=number)
    return root


def write(folder, name="best", count=12, **changes):
    candidates = [
        Candidate(f"episode_{n:02}_{c}", 0.5, "", f"episode_{n:02}", {"packet": f"packets/00/episode_{n:02}_{c}.h5"})
        for n in range(count)
        for c in ("front", "side")
    ]
    path = folder / f"selection-{name}.csv"
    write_selection(
        OutputDirectory.open(folder),
        path.name,
        choose(candidates, Pick("random", count=2 * count, val_share=0.3, **changes)),
    )
    return path


def names(dataset):
    return [entry.facts["episode_id"] for entry in dataset.entries]


def test_the_order_and_split_are_the_selections_own(folder):
    path = write(folder)
    rows = [line.split(",") for line in path.read_text().splitlines()[2:]]
    split = {row[0]: row[2] for row in rows}
    train, val = (PacketDataset(path, WINDOW, choose=side) for side in ("train", "val"))
    assert names(PacketDataset(path, WINDOW)) == [row[0] for row in rows]
    assert names(train) == [row[0] for row in rows if split[row[0]] == "train"]
    assert names(val) == [row[0] for row in rows if split[row[0]] == "val"]
    assert names(val)


def test_a_folders_episodes_are_never_in_two_splits_and_keep_their_side(folder):
    train, val = (
        {name.rsplit("_", 1)[0] for name in names(PacketDataset(folder, WINDOW, choose=Choice(split=s, val_share=0.4)))}
        for s in ("train", "val")
    )
    assert not train & val
    assert len(train | val) == 20
    paths = sorted(folder.rglob("*.h5"))[:10]
    some = PacketDataset(paths, WINDOW, choose=Choice(split="val", val_share=0.4))
    assert {name.rsplit("_", 1)[0] for name in names(some)} == {p.stem.rsplit("_", 1)[0] for p in paths} & val


def test_both_splits_have_an_episode_even_of_two(tmp_path):
    for number in range(2):
        packets.write(tmp_path, f"e{number}", 6, episode=number)
    for seed in range(5):
        sides = [names(PacketDataset(tmp_path, WINDOW, choose=Choice(s, 0.1, seed))) for s in ("train", "val")]
        assert sorted(sides[0] + sides[1]) == ["e0", "e1"]
        assert all(sides)


def test_packets_are_filtered_by_tags(tmp_path):
    packets.write(tmp_path, "e0", 6, tags=["no-grasp"])
    packets.write(tmp_path, "e1", 6, tags=["low-motion", "depth-drift"])
    packets.write(tmp_path, "e2", 6)
    assert names(PacketDataset(tmp_path, WINDOW, choose=Choice(without_tags=("no-grasp",)))) == ["e1", "e2"]
    assert names(PacketDataset(tmp_path, WINDOW, choose=Choice(with_tags=("depth-drift", "low-motion")))) == ["e1"]


def test_a_selection_that_names_absent_packets_is_refused_or_counted(folder, caplog):
    path = write(folder, "more", 22)
    with pytest.raises(ConfigError, match="names 4 absent packets"):
        PacketDataset(path, WINDOW)
    dataset = PacketDataset(path, WINDOW, choose=Choice(absent="skip"))
    assert dataset.left_out == {"is not there": 4}
    assert len(names(dataset)) == 40
    assert "4 packets that a selection names" in caplog.text


def test_a_selection_of_ids_alone_is_found_by_name(folder):
    path = folder / "selection-ids.csv"
    path.write_text("episode_id\nepisode_07_side\nepisode_01_front\n")
    assert names(PacketDataset(path, WINDOW)) == ["episode_07_side", "episode_01_front"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("episode_id,split\n", "is empty"),
        ("name\na\n", "wanted a column episode_id"),
        ("episode_id\na\na\n", "names a more than once"),
        ("episode_id\n" + "".join(f"e{number}\n" for number in [*range(20_000), 7]), "names e7 more than once"),
        ("episode_id,split\na,test\n", "train or val, got 'test'"),
        ("episode_id,split,source_id\na,train,x\nb,val,x\n", "episode x in both splits"),
        ("# sha256=00\nepisode_id\na\n", "was changed after"),
    ],
)
def test_a_selection_that_cannot_be_trusted_is_refused(tmp_path, text, message):
    path = tmp_path / "selection-x.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        PacketDataset(path, WINDOW)


def test_an_empty_folder_or_nothing_at_all_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no packets"):
        PacketDataset(tmp_path, WINDOW)
    with pytest.raises(ConfigError, match="nothing is at"):
        PacketDataset(tmp_path / "other", WINDOW)
    with pytest.raises(ConfigError, match="empty list"):
        PacketDataset([], WINDOW)


def test_a_uri_is_fetched_once_and_gives_the_same_windows(folder, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(folder / "packets"), "/lab/packets", recursive=True)
    selection = write(folder)
    memory.put(str(selection), "/lab/selection-best.csv")
    reading = Reading(cache=tmp_path)
    whole, chosen = (
        PacketDataset(uri, WINDOW, reading=reading) for uri in ("memory://lab", "memory://lab/selection-best.csv")
    )
    assert len(whole) == len(PacketDataset(folder, WINDOW))
    assert names(chosen) == names(PacketDataset(selection, WINDOW))
    stamps = {p: os.stat(p).st_mtime_ns for p in tmp_path.rglob("*.h5")}
    PacketDataset("memory://lab", WINDOW, reading=reading)
    assert {p: os.stat(p).st_mtime_ns for p in tmp_path.rglob("*.h5")} == stamps
    with pytest.raises(ConfigError, match=r"Reading\(cache=\.\.\.\)"):
        PacketDataset("memory://lab", WINDOW)
    with pytest.raises(ConfigError, match="cannot be read"):
        PacketDataset("memory://nowhere/e.h5", WINDOW, reading=reading)
