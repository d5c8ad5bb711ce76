import json

import numpy as np
import pytest

from packers.training import Choice, PacketDataset, Shape, Window
from packers.training.statistics import column_statistics
from tests.packers.training import packets


def test_statistics_leave_out_what_is_no_number():
    values = np.array([[1, 5, np.nan], [3, np.nan, np.nan], [np.inf, 5, np.nan]], np.float32)
    found = column_statistics(values)
    np.testing.assert_array_equal(found.count, [2, 2, 0])
    np.testing.assert_array_equal(found.mean, [2, 5, np.nan])
    np.testing.assert_array_equal(found.std, [1, 0, np.nan])
    np.testing.assert_array_equal([found.minimum[0], found.maximum[0], found.q50[0]], [1, 3, 2])


@pytest.mark.parametrize("how", ["standard", "range"])
def test_a_constant_column_is_centred_and_not_divided(how):
    found = column_statistics(np.array([[2.0], [2.0], [2.0 + 1e-8]]))
    np.testing.assert_allclose(found.normalised(np.array([[2.0], [2.1]], np.float32), how), [[0], [0.1]], atol=1e-5)


def test_the_range_maps_the_outer_percentiles_to_one():
    values = np.random.default_rng(0).normal(3, 2, (5000, 1))
    scaled = column_statistics(values).normalised(values.astype(np.float32), "range")
    np.testing.assert_allclose(np.quantile(scaled, [0.01, 0.99]), [-1, 1], atol=1e-4)


def test_they_are_of_the_training_split_kept_beside_the_selection_and_made_again_when_packets_change(tmp_path):
    for number in range(8):
        packets.write(tmp_path / "packets", f"e{number}", 6, episode=number)
    path = tmp_path / "selection-s.csv"
    path.write_text("episode_id,split\n" + "".join(f"e{n},{'val' if n < 3 else 'train'}\n" for n in range(8)))
    kept = tmp_path / "selection-s.statistics.json"
    train, val = (PacketDataset(path, Window(2, 1), choose=s, normalise="standard") for s in ("train", "val"))
    state = np.concatenate([sample["state"] for sample in PacketDataset(path, Window(1, 0), choose="train")])
    np.testing.assert_allclose(train.statistics["bridge"]["state"].mean, state.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(val.statistics["bridge"]["state"].std, state.std(axis=0), rtol=1e-5)
    stored, stamp = json.loads(kept.read_text()), kept.stat().st_mtime_ns
    assert stored["packets"] == 5
    PacketDataset(path, Window(3, 1), choose="val", normalise="range")
    assert kept.stat().st_mtime_ns == stamp
    packets.write(tmp_path / "packets", "e7", 6, episode=7, values={"state": np.full((6, 3), 100.0)})
    changed = PacketDataset(path, Window(2, 1), choose="train", normalise="standard")
    assert changed.statistics["bridge"]["state"].maximum[0] == 100
    assert json.loads(kept.read_text())["fingerprint"] != stored["fingerprint"]


def test_each_source_has_its_own(tmp_path):
    packets.write(tmp_path, "a", 6, source="bridge", values={"state": np.zeros((6, 3)) + 1})
    packets.write(tmp_path, "b", 6, source="droid", values={"state": np.zeros((6, 3)) + 9})
    dataset = PacketDataset(tmp_path, Window(1, 0), normalise="standard")
    assert {s: dataset.statistics[s]["state"].mean[0] for s in ("bridge", "droid")} == {"bridge": 1, "droid": 9}
    assert not dataset[0]["state"].any()
    assert not dataset[7]["state"].any()


def test_descriptors_are_standardised_over_their_valid_rows(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(3):
        shape = np.abs(rng.normal(1, 0.2, (6, 10))).astype(np.float32)
        shape[:, 6:8] = 0.5
        shape[5] = np.nan
        packets.write(tmp_path, f"e{number}", 6, episode=number, values={"shape_descriptors": shape})
    dataset = PacketDataset(tmp_path, Window(6, 0), [Shape()], Choice())
    values = np.concatenate([s["shape"][s["shape_weight"] > 0] for s in dataset])
    assert len(values) == 15
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.delete(values.std(axis=0), [6, 7], axis=0), 1, atol=1e-4)
    assert not dataset[0]["shape"][5].any()
