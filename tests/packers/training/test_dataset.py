import logging
import multiprocessing
import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors.errors import ConfigError, OutputError, PacketError
from packers.training import CONDITIONS, Choice, Depth, Masks, PacketDataset, Reading, Tracks, Window
from tests.packers import examples
from tests.packers.training import packets

EXAMPLE_DEPTH = (12, 16)


def conditions():
    """The study's conditions at the size of the examples, whose dilations are 2 and 4 px."""
    small = {"B": Depth(size=EXAMPLE_DEPTH), "C-tight": Depth(variant="tight", size=EXAMPLE_DEPTH)}
    small |= {"C-8": Depth(variant="dilate2", size=EXAMPLE_DEPTH), "C-20": Depth(variant="dilate4", size=EXAMPLE_DEPTH)}
    others = {name: CONDITIONS[name] for name in ("A", "D", "F", "G")}
    return {name: (target,) for name, target in small.items()} | others


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    for number, frames in enumerate((25, 4, 40, 13, 31)):
        packets.write(root / "packets" / f"{number:02}", f"episode_{number}", frames, episode=number)
    return root


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    window=st.builds(
        Window,
        history=st.integers(1, 4),
        horizon=st.integers(0, 3),
        frameskip=st.integers(1, 5),
        stride=st.integers(1, 4),
        ends=st.sampled_from(["drop", "pad"]),
    ),
    seed=st.integers(0, 1000),
)
def test_every_window_is_a_slice_of_the_packet_by_plain_h5py(folder, window, seed):
    dataset = PacketDataset(folder, window, ["masks/object", "timestamp", "tracks/grid/xy"])
    for number in np.random.default_rng(seed).integers(0, len(dataset), 6):
        sample = dataset[number]
        entry, start = dataset.entries[int(sample["packet"])], int(sample["start"])
        with h5py.File(entry.path) as file:
            length = len(file["pixels"])
            rows = np.minimum(np.arange(start, start + window.span), length - 1)
            for name in ("pixels", "masks/object", "timestamp", "tracks/grid/xy"):
                np.testing.assert_array_equal(sample[name], file[name][()][rows[:: window.frameskip]])
            np.testing.assert_array_equal(sample["state"], file["state"][()][rows[:: window.frameskip]])
            action, inside = file["action"][()][rows], np.arange(start, start + window.span) < length
            valid = file["action_valid"][()][rows] & inside
        np.testing.assert_array_equal(sample["action_valid"].ravel(), valid)
        expected = np.where(valid[:, None], action, 0)
        np.testing.assert_array_equal(sample["action"].reshape(window.span, -1), expected)
        np.testing.assert_array_equal(sample["frame_valid"], inside[:: window.frameskip])


def test_all_conditions_see_identical_pixels_and_actions(folder):
    window = Window(2, 1, 3)
    plain = PacketDataset(folder, window)
    for name, targets in conditions().items():
        dataset = PacketDataset(folder, window, targets)
        assert len(dataset) == len(plain)
        assert dataset.fingerprint == plain.fingerprint
        for number in (0, 17, len(plain) - 1):
            for key in ("pixels", "action", "action_valid", "state", "packet", "start"):
                np.testing.assert_array_equal(dataset[number][key], plain[number][key], err_msg=name)


def test_targets_are_what_the_packet_gives(folder):
    dataset = PacketDataset(folder, Window(2, 1), [Depth("depth/metric", "tight", size=None), "depth/metric"])
    sample = dataset[5]
    mask = PacketDataset(folder, Window(2, 1), ["masks/object"])[5]["masks/object"]
    np.testing.assert_array_equal(sample["depth_weight"] > 0, mask & np.isfinite(sample["depth/metric"]))
    np.testing.assert_array_equal(sample["depth"][mask], sample["depth/metric"][mask])
    assert sample["depth/metric"].dtype == np.float32
    assert np.isnan(sample["depth/metric"][:, :, 0]).all()


def test_a_packet_that_lacks_a_cue_gives_weights_of_zero(tmp_path):
    packets.write(tmp_path, "with_all", 6)
    packets.write(tmp_path, "without", 6, without=("depth/", "tracks/", "action", "state"))
    targets = [Depth(size=EXAMPLE_DEPTH), Tracks()]
    first, second = (PacketDataset(tmp_path, Window(2, 1), targets)[n] for n in (0, 4))
    assert first.keys() == second.keys()
    for key in first:
        assert (first[key].shape, first[key].dtype) == (second[key].shape, second[key].dtype), key
    for key in ("depth_weight", "tracks_weight", "action_valid", "action_dims", "state_valid", "depth", "action"):
        assert not second[key].any(), key
    assert first["depth_weight"].any()
    assert first["action_valid"].any()
    kept = PacketDataset(tmp_path, Window(2, 1), targets, Choice(require=("depth/relative",)))
    assert [entry.facts["episode_id"] for entry in kept.entries] == ["with_all"]
    assert kept.left_out == {"has no depth/relative": 1}


def test_actions_and_tracks_of_several_widths_are_padded_with_masks(tmp_path):
    packets.write(tmp_path / "a", "seven", 6, source="bridge")
    packets.write(tmp_path / "b", "nine", 6, action_width=9, source="droid")
    dataset = PacketDataset([tmp_path / "b", tmp_path / "a"], Window(2, 1), normalise="standard")
    wide, narrow = dataset[0], dataset[4]
    assert (wide["action"].shape, narrow["action"].shape) == ((3, 1, 9), (3, 1, 9))
    assert narrow["action_dims"].tolist() == [True] * 7 + [False] * 2
    assert wide["action_dims"].all()
    assert not narrow["action"][..., 7:].any()
    assert dataset.statistics["droid"]["action"].mean.shape == (9,)
    assert dataset.statistics["bridge"]["action"].mean.shape == (7,)


def test_frames_of_several_sizes_are_refused(tmp_path):
    packets.write(tmp_path, "a", 6)
    packets.write(tmp_path, "b", 6, size=(24, 40))
    with pytest.raises(ConfigError, match=r"\(24, 32, 3\), \(24, 40, 3\)"):
        PacketDataset(tmp_path, Window(2, 1))


@pytest.mark.parametrize(
    ("targets", "choose", "message"),
    [
        (["depth/other"], None, "none of 5 packets has depth/other"),
        (["intrinsics"], None, "no row for each frame"),
        (["tracks/grid/queries"], None, "no row for each frame"),
        ([Depth(), Depth(variant="tight")], None, "name them apart"),
        ([], Choice(require=("hand_frame",)), "no packet is left of 5: 5 has no hand_frame"),
        ([], Choice(min_scores={"score": 0.9}), "score is 0.7, below 0.9"),
        ([], Choice(quality={"masks": ("fail",)}), "quality of masks is pass"),
        ([], Choice(split="val", val_share=0), "none of 5 packets is in the split 'val'"),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_there(folder, targets, choose, message):
    with pytest.raises(ConfigError, match=message):
        PacketDataset(folder, Window(2, 1), targets, choose)


def test_episodes_shorter_than_a_window_are_counted_aloud(folder, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = PacketDataset(folder, Window(3, 1, 5))
    assert "2 of 5 episodes are shorter than a window of 20 frames" in caplog.text
    assert len(dataset) == (25 - 19) + (40 - 19) + (31 - 19)
    with pytest.raises(ConfigError, match="5 episodes of 4 to 40 frames"):
        PacketDataset(folder, Window(40, 1))


def test_windows_are_drawn_where_something_moves(tmp_path, caplog):
    speeds = np.zeros(30, np.float32)
    speeds[12:20] = 0.1
    moving = {"motion/object": speeds, "motion/object_valid": np.ones(30, bool)}
    still = {"motion/robot": np.zeros(30, np.float32), "motion/robot_valid": np.ones(30, bool)}
    packets.write(tmp_path, "a", 30, values=moving | still)
    packets.write(tmp_path, "b", 30, without=("motion",))
    dataset = PacketDataset(tmp_path, Window(3, 1, moving=0.5, mover="object"))
    found = [dataset.table.place(number) for number in range(len(dataset))]
    assert found == [(0, start) for start in range(10, 19)]
    assert dataset.left_out == {"has no motion/object": 1}
    np.testing.assert_array_equal(dataset[0]["pixels"], PacketDataset(tmp_path, Window(3, 1))[10]["pixels"])
    assert len(PacketDataset(tmp_path, Window(3, 1, moving=0.5))) == len(dataset)
    with pytest.raises(ConfigError, match="none moves in 50%"):
        PacketDataset(tmp_path, Window(3, 1, moving=0.5, mover="robot"))
    packets.write(tmp_path / "without", "c", 30, without=("motion",))
    with pytest.raises(ConfigError, match="none of 1 packets says when something moves"):
        PacketDataset(tmp_path / "without", Window(3, 1, moving=0.5))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_dataset_may_be_carried_into_other_processes(folder, method):
    dataset = PacketDataset(folder, Window(2, 1), [Tracks()])
    expected = [_sums(dataset, number) for number in range(0, len(dataset), 9)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(_sums, [(dataset, number) for number in range(0, len(dataset), 9)]) == expected


def _sums(dataset, number):
    return {key: float(np.nan_to_num(values).sum()) for key, values in dataset[number].items()}


def test_open_files_are_bounded_over_many_packets(tmp_path):
    first = packets.write(tmp_path / "packets", "episode_0", 6)
    for number in range(1, 400):
        os.link(first, first.with_name(f"episode_{number}.h5"))
    dataset = PacketDataset(tmp_path, Window(2, 1), reading=Reading(open_files=20, processes=1))
    before = len(os.listdir("/proc/self/fd"))
    for number in np.random.default_rng(0).integers(0, len(dataset), 2000):
        dataset[number]
        assert dataset.open_files <= 20
    assert len(os.listdir("/proc/self/fd")) <= before + 20
    with pytest.raises(ConfigError, match="at least 1 open file"):
        PacketDataset(tmp_path, Window(2, 1), reading=Reading(open_files=0, processes=1))


def test_the_index_is_kept_and_follows_what_changes(tmp_path, monkeypatch):
    paths = [packets.write(tmp_path, f"e{number}", 6) for number in range(4)]
    looked = []
    from packers.training import index

    look = index._look
    monkeypatch.setattr(index, "_look", lambda path: (looked.append(path), look(path))[1])
    PacketDataset(tmp_path, Window(2, 1))
    assert sorted(looked) == paths
    looked.clear()
    assert len(PacketDataset(tmp_path, Window(2, 1))) == 16
    assert looked == []
    packets.write(tmp_path, "e2", 9)
    assert len(PacketDataset(tmp_path, Window(2, 1))) == 19
    assert looked == [paths[2]]
    (tmp_path / ".training" / "index").write_bytes(b"CUEINDEX2\nnonsense")
    assert len(PacketDataset(tmp_path, Window(2, 1))) == 19


def test_an_index_that_cannot_be_written_names_the_way_out(tmp_path):
    packets.write(tmp_path / "in", "e", 6)
    (tmp_path / "in" / ".training").write_text("a file, no folder")
    with pytest.raises(OutputError, match=r"cache=\.\.\."):
        PacketDataset(tmp_path / "in", Window(2, 1))
    dataset = PacketDataset(tmp_path / "in", Window(2, 1), normalise="range", reading=Reading(cache=tmp_path / "cache"))
    assert len(dataset) == 4
    assert (tmp_path / "cache" / "statistics.json").exists()


@pytest.mark.parametrize("change", ["replace", "remove", "flip"])
def test_a_packet_that_changes_while_training_is_an_error_or_skipped_and_counted(tmp_path, change, caplog):
    packets.write(tmp_path, "good", 6)
    bad = packets.write(tmp_path, "worse", 6)
    strict, lenient = (PacketDataset(tmp_path, Window(2, 1), reading=Reading(damaged=d)) for d in ("error", "skip"))
    if change == "replace":
        packets.write(tmp_path, "worse", 7)
    elif change == "remove":
        bad.unlink()
    else:
        stamp, content = bad.stat(), bytearray(bad.read_bytes())
        content[strict.entries[1].arrays()["pixels"].addresses[1] + 50] ^= 1
        bad.write_bytes(content)
        os.utime(bad, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(PacketError, match=r"worse\.h5"):
        strict[4]
    assert lenient[4] is None
    assert "a window is skipped" in caplog.text
    assert lenient[0] is not None


def test_a_packet_of_another_schema_or_none_at_all_is_refused_or_left_out(tmp_path, caplog):
    packets.write(tmp_path, "good", 6)
    examples.tamper(packets.write(tmp_path, "later", 6), lambda file: file.attrs.modify("schema", "cuepack/9"))
    (tmp_path / "no_packet.h5").write_bytes(b"nothing")
    with pytest.raises(PacketError, match="later"):
        PacketDataset(tmp_path, Window(2, 1))
    dataset = PacketDataset(tmp_path, Window(2, 1), reading=Reading(damaged="skip"))
    assert dataset.left_out == {"is damaged": 2}
    assert len(dataset) == 4
    assert "cuepack/9" in caplog.text


def test_nan_actions_are_zero_masked_and_outside_the_statistics(tmp_path):
    action = np.arange(42, dtype=np.float32).reshape(6, 7)
    action[[1, 5]] = np.nan
    valid = np.isfinite(action).all(axis=1)
    packets.write(tmp_path, "e", 6, values={"action": action, "action_valid": valid})
    dataset = PacketDataset(tmp_path, Window(3, 0), normalise="standard")
    sample = dataset[0]
    assert sample["action_valid"].ravel().tolist() == [True, False, True]
    assert not sample["action"][1].any()
    statistics = dataset.statistics["bridge"]["action"]
    np.testing.assert_allclose(statistics.mean, action[valid].mean(axis=0))
    np.testing.assert_allclose(sample["action"][0, 0], (action[0] - statistics.mean) / statistics.std, rtol=1e-5)


def test_tracks_that_are_never_seen_weigh_nothing(tmp_path):
    packets.write(tmp_path, "e", 6, values={"tracks/grid/visibility": np.zeros((6, examples.POINTS), bool)})
    sample = PacketDataset(tmp_path, Window(2, 1), [Tracks()])[0]
    assert not sample["tracks_weight"].any()
    assert not sample["tracks"].any()


def test_a_pickled_dataset_holds_the_layouts_it_needs_and_no_open_file(folder):
    dataset = PacketDataset(folder, Window(2, 1))
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.open_files == 0
    assert set(copy.entries[0].kinds) == {"pixels", "action", "action_valid", "state"}
    np.testing.assert_array_equal(copy[3]["pixels"], dataset[3]["pixels"])


def test_importing_it_brings_in_no_torch():
    code = (
        "import sys, packers, packers.training as t; t.PacketBatches; t.CONDITIONS\n"
        "heavy = {'torch', 'pandas', 'scipy', 'cv2', 'prefect', 'av', 'flows', 'scoring'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_prepared_targets_are_those_that_are_cut_each_time(folder, tmp_path):
    targets = [Depth(size=EXAMPLE_DEPTH), Depth(variant="tight", size=None, name="tight"), Masks(size=(6, 8)), Tracks()]
    cut = PacketDataset(folder, Window(2, 1, 2), targets)
    prepared = PacketDataset(folder, Window(2, 1, 2), targets, reading=Reading(prepare=True, cache=tmp_path))
    for number in range(0, len(cut), 5):
        expected, found = cut[number], pickle.loads(pickle.dumps(prepared))[number]
        assert expected.keys() == found.keys()
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
            assert found[key].dtype == expected[key].dtype
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").rglob("*") if path.is_file()}
    assert len(files) == 3 * 5
    PacketDataset(folder, Window(1, 0), targets, reading=Reading(prepare=True, cache=tmp_path))
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in files.items())


@pytest.mark.parametrize("change", ["flip", "cut", "remove"])
def test_a_damaged_prepared_target_is_noticed(tmp_path, change):
    packets.write(tmp_path, "e", 6)
    dataset = PacketDataset(tmp_path, Window(2, 1), [Masks(size=(6, 8))], reading=Reading(prepare=True))
    path = next(path for path in (tmp_path / ".training" / "prepared").rglob("*") if path.is_file())
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content if change == "flip" else content[:300])
    if change == "remove":
        path.unlink()
    with pytest.raises(PacketError, match="missing" if change == "remove" else "damaged: frame"):
        [dataset[number] for number in range(len(dataset))]
