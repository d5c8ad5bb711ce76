import json

import numpy as np
from click.testing import CliRunner

from flows.cli import main
from packers.training.summary import MOST_COLUMNS
from tests.packers.training import packets


def run(*words):
    return CliRunner().invoke(main, ["stats", *map(str, words)])


def test_a_directory_is_described_by_source(tmp_path):
    folder = tmp_path / "packets" / "00"
    state = np.arange(18, dtype=np.float32).reshape(6, 3)
    packets.write(folder, "a", 6, tags=["no-grasp"], values={"state": state})
    packets.write(folder, "b", 6, tags=["no-grasp", "low-motion"], values={"state": state})
    packets.write(folder, "c", 10, action_width=9, source="droid", without=("tracks/", "state"))
    done = run(tmp_path, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["stats"]
    assert (found["episodes"], found["frames"], found["lengths"]) == (3, 22, [6, 6.0, 10])
    assert found["hours"] == round(22 / 5 / 3600, 6)
    assert found["tags"] == {"no-grasp": 2, "low-motion": 1}
    assert (found["coverage"]["pixels"], found["coverage"]["tracks/grid/xy"]) == (3, 2)
    assert found["quality"] == {"masks": {"pass": 3}}
    bridge, droid = (found["sources"][name]["columns"] for name in ("bridge", "droid"))
    assert [column["mean"] for column in bridge["state"]] == state.mean(axis=0).tolist()
    assert bridge["action"][0]["count"] == 10
    assert (len(bridge["action"]), len(droid["action"]), "state" in droid) == (7, 9, False)
    text = run(tmp_path).stdout
    for words in ("3 episodes, 22 frames", "droid: 1 episodes", "action 8", "no-grasp 2", "66.7%  tracks/grid/xy"):
        assert words in text


def test_an_action_of_very_many_columns_is_described_in_part_and_the_rest_counted(tmp_path):
    packets.write(tmp_path / "packets" / "00", "a", 6, action_width=MOST_COLUMNS + 5)
    found = json.loads(run(tmp_path, "--json").stdout)["stats"]["sources"]["bridge"]
    assert len(found["columns"]["action"]) == MOST_COLUMNS
    assert found["columns_left_out"] == {"action": 5}
    assert "action: 5 more columns, not listed" in run(tmp_path).stdout


def test_a_packet_that_cannot_be_read_is_listed_and_the_rest_described(tmp_path):
    folder = tmp_path / "packets" / "00"
    packets.write(folder, "a", 6)
    (folder / "b.h5").write_bytes(b"nothing")
    done = run(tmp_path, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["counts"] == {"packets": 1, "left_out": 1}
    assert "left out" in done.stderr
    (folder / "a.h5").unlink()
    assert run(tmp_path).exit_code == 1


def test_a_directory_without_packets_is_refused(tmp_path):
    assert run(tmp_path).exit_code == 2
