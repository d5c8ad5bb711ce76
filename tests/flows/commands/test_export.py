import json
import shutil

import pytest
from click.testing import CliRunner

from flows.cli import main
from flows.output.manifest import Manifest
from flows.sources.detect import open_source
from tests.flows.viewing.served import write_output
from tests.packers.training import packets


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    root = tmp_path_factory.mktemp("export") / "an output"
    rows = write_output(root, frames=6)
    Manifest(root).write(row for row in rows.values() if row["episode_id"] != "damaged")
    return root


def cuepack(*arguments):
    return CliRunner().invoke(main, ["export", *(str(argument) for argument in arguments)])


def test_lerobot_export_has_the_order_of_the_selection_and_says_what_is_lost(output, tmp_path):
    (tmp_path / "selection.csv").write_text("episode_id\nep_2\nep_0\n")
    out = tmp_path / "set"
    arguments = (output, "--format", "lerobot", "--out", out, "--selection", tmp_path / "selection.csv", "--full")
    result = cuepack(*arguments, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["counts"], report["frames"], report["exit_code"]) == ({"packets": 2}, 12, 0)
    assert report["out"] == str(out)
    assert "cuepack.tracks.grid.xy" in report["features"]
    assert "pixels are LOSSY" in result.stderr
    assert "2 frames have no action" in result.stderr
    assert open_source(str(out)).kind == "lerobot-v3.0"
    refused = cuepack(*arguments)
    assert refused.exit_code == 2
    assert "exists already" in refused.stderr


def test_lerobot_export_takes_choices_and_refuses_what_makes_none(output, tmp_path):
    out = tmp_path / "set"
    packet = output / "packets" / "00" / "ep_0.h5"
    result = cuepack(
        packet,
        "--format",
        "lerobot",
        "--out",
        out,
        "--pixels",
        "png",
        "--trim",
        "--without",
        "tracks",
        "--full",
        "--json",
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["frames"] == 5
    assert report["psnr_db"] is None
    assert not [key for key in report["features"] if "tracks" in key]
    assert "tracks/grid/xy" in report["left_out"]
    assert "LOSSY" not in result.stderr
    wrong = cuepack(packet, "--format", "lerobot", "--out", tmp_path / "b", "--without", "trakcs/grid", "--full")
    assert wrong.exit_code == 2
    assert "did you mean tracks/grid" in wrong.stderr
    assert cuepack(packet, "--format", "lewm-hdf5", "--out", tmp_path / "a.h5", "--trim").exit_code == 2
    assert cuepack(packet, "--format", "lerobot", "--out", tmp_path / "b", "--with", "centrids").exit_code == 2
    both = cuepack(packet, "--format", "lerobot", "--out", tmp_path / "b", "--with", "centroids", "--full")
    assert both.exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_the_default_lerobot_export_has_what_stock_training_takes_trimmed_and_split(output, tmp_path):
    (tmp_path / "selection.csv").write_text("episode_id,split\nep_0,val\nep_2,train\n")
    selection, out = tmp_path / "selection.csv", tmp_path / "set"
    result = cuepack(output, "--format", "lerobot", "--out", out, "--selection", selection, "--json")
    assert result.exit_code == 0, result.output
    info = json.loads((out / "meta" / "info.json").read_text())
    assert info["splits"] == {"train": "0:1", "val": "1:2"}
    assert info["total_frames"] == 10  # the last frame of each has no action
    images = {key: f for key, f in info["features"].items() if f["dtype"] in ("image", "video")}
    assert [f["shape"][-1] for f in images.values()] == [3]
    assert all(len(f["shape"]) == 1 for key, f in info["features"].items() if key not in images)
    assert {"action", "observation.state", "cuepack.gripper"} <= set(info["features"])
    stats = json.loads((out / "meta" / "stats.json").read_text())
    assert "null" not in json.dumps(stats)
    more = cuepack(output, "--format", "lerobot", "--out", tmp_path / "more", "--with", "centroids", "--json")
    assert "cuepack.centroids" in json.loads(more.stdout)["features"]


def test_the_lewm_export_writes_a_file_for_each_split_and_says_what_is_too_short(output, tmp_path):
    (tmp_path / "selection.csv").write_text("episode_id,split\nep_0,val\nep_2,train\n")
    selection, out = tmp_path / "selection.csv", tmp_path / "set.h5"
    words = (output, "--format", "lewm-hdf5", "--out", out, "--split", "--names", "study", "--with", "tracks/grid")
    result = cuepack(*words, "--selection", selection, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["episodes"], report["files"]) == (2, [str(tmp_path / f"set-{side}.h5") for side in ("train", "val")])
    assert {"tracks", "track_visibility", "observation"} <= set(report["columns"])
    assert "2 episodes have fewer than 20 frames" in result.stderr
    assert "ep_2,0,6,train" in (tmp_path / "set-train.h5.episodes.csv").read_text()
    refused = cuepack(*words)
    assert refused.exit_code == 2
    assert "no packet is in the split train" in refused.stderr


def test_packets_of_episodes_that_no_longer_pass_are_left_out_aloud(output, tmp_path):
    root = tmp_path / "filtered"
    shutil.copytree(output, root)
    rows = Manifest(root).rows()
    rows["ep_0"]["status"] = "filtered"
    Manifest(root).write(rows.values())
    result = cuepack(root, "--format", "lewm-hdf5", "--out", tmp_path / "all.h5", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["counts"] == {
        "packets": sum(row["packet"] is not None for row in rows.values()) - 1
    }
    assert "1 packets of episodes that failed or were filtered since are left out, ep_0 for one" in result.stderr
    (tmp_path / "selection.csv").write_text("episode_id\nep_0\n")
    named = cuepack(
        root, "--format", "lewm-hdf5", "--out", tmp_path / "one.h5", "--json", "--selection", tmp_path / "selection.csv"
    )
    assert json.loads(named.stdout)["counts"] == {"packets": 1}
    assert "left out" not in named.stderr


def test_several_outputs_are_one_export_with_names_told_apart_and_a_split_of_their_own(output, tmp_path):
    other = tmp_path / "other"
    write_output(other, frames=6)
    words = ("--format", "lewm-hdf5", "--out", tmp_path / "all.h5")
    twice = cuepack(output, other, *words)
    assert twice.exit_code == 2
    assert "the same episode in two directories" in twice.stderr
    (tmp_path / "one.csv").write_text("episode_id\nep_0\nep_2\n")
    (tmp_path / "two.csv").write_text("episode_id\nep_1\n")
    selected = ("--selection", tmp_path / "one.csv", "--selection", tmp_path / "two.csv")
    result = cuepack(output, other, *words, *selected)
    assert result.exit_code == 0, result.output
    assert "3 packets -> " in result.output
    alike = cuepack(output, other, *words, *selected, "--val-share", "0.4")
    assert alike.exit_code == 2
    assert "none can be set apart" in alike.stderr
    one_for_two = cuepack(output, other, *words, "--selection", tmp_path / "one.csv")
    assert one_for_two.exit_code == 2
    assert "give one for each" in one_for_two.stderr
    wrong = cuepack(output, "--format", "lerobot", "--out", tmp_path / "set", "--windows", "moving")
    assert wrong.exit_code == 2
    assert "--windows moving is an option of --format lewm-hdf5 and swm-lance" in wrong.stderr


def test_val_share_writes_both_sides_and_counts_the_copies(tmp_path):
    for number in range(6):
        packets.write(tmp_path / "in" / "packets" / "00", f"episode_{number}", 6, episode=number)
    words = (tmp_path / "in", "--format", "lewm-hdf5", "--out", tmp_path / "set.h5", "--split", "--val-share", "0.3")
    result = cuepack(*words)
    assert result.exit_code == 0, result.output
    assert " val, 0 near-duplicates kept with what they repeat" in result.stdout
    found = [(tmp_path / f"set-{side}.h5.episodes.csv").read_text().count(f",{side},") for side in ("train", "val")]
    assert sum(found) == 6
    assert min(found) > 0
    counts = json.loads(cuepack(*words, "--json").stdout)["counts"]
    assert counts == {"packets": 6, "train": found[0], "val": found[1]}
    unsplit = cuepack(tmp_path / "in", "--format", "control", "--out", tmp_path / "videos", "--val-share", "0.3")
    assert unsplit.exit_code == 2
    assert "--val-share is an option of --format lewm-hdf5 and lerobot and webdataset" in unsplit.stderr
    (tmp_path / "one.csv").write_text("episode_id,split\nepisode_0,val\nepisode_2,train\n")
    both = cuepack(*words, "--selection", tmp_path / "one.csv")
    assert both.exit_code == 2
    assert "has a split already" in both.stderr
