from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from flows.cli import main
from flows.sources.detect import open_source
from flows.sources.inspect import inspect_source
from tests.flows.sources.bridge_builder import write_trajectory
from tests.flows.sources.lerobot_builder import FRONT, SIDE, cut, numbered, write_v21, write_v30, write_video

LENGTHS = {0: 6, 1: 8, 2: 5}


@pytest.fixture
def joined(tmp_path):
    files = {FRONT: [[0, 1, 2]], SIDE: [[0, 1, 2]]}
    return write_v30(tmp_path / "set", LENGTHS, files=files, data=[[0], [1, 2]])


def faults(path) -> list[str]:
    report = inspect_source(open_source(str(path)))
    return [str(remark) for remark in report.remarks if remark.level == "fault"]


def notes(path) -> str:
    report = inspect_source(open_source(str(path)))
    return " | ".join(str(remark) for remark in report.remarks if remark.level == "note")


def edit_episodes(root, change) -> None:
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pa.Table.from_pylist(change(pq.read_table(path).to_pylist())), path)


def test_a_good_set_is_described_and_has_no_fault(joined):
    report = inspect_source(open_source(str(joined)))
    assert (report.episodes, report.frames, report.fps, report.language) == (3, 19, [10.0], 3)
    assert report.cameras == {FRONT: 3, SIDE: 3}
    assert report.columns["action"] == {"dtype": "float32", "shape": [3], "read_as": "action"}
    assert report.columns[FRONT]["read_as"] == "camera"
    assert report.looked_at == [4, 4]
    assert (report.faults, report.left_out) == (0, [])


def test_no_picture_is_decoded(joined, monkeypatch):
    monkeypatch.setattr("flows.sources.video.VideoDecoder.next", lambda decoder: pytest.fail("a picture was decoded"))
    assert faults(joined) == []


def test_what_would_fail_in_the_night_is_a_fault(joined):
    def change(rows):
        rows[1]["length"] = 9
        return rows

    edit_episodes(joined, change)
    (joined / "data/chunk-000/file-000.parquet").unlink()
    found = " | ".join(faults(joined))
    assert "episode 1: 9 rows in the table, 8 in the data" in found
    assert "data/chunk-000/file-000.parquet: the file is missing; the table puts 1 episodes into it" in found
    assert "the spans of episodes 1 (from 0.6000 s, 9 rows) and 2 (from 1.4000 s) overlap" in found


def test_what_is_odd_and_read_is_a_note(joined):
    def change(rows):
        for row in rows:
            row["data/file_index"] = 0
            row[f"videos/{FRONT}/from_timestamp"] = None
        return rows[:1] + rows

    edit_episodes(joined, change)
    assert faults(joined) == []
    for words in ("more than one row for episodes 0", "episode 1: its rows are in", "spans-from-lengths", "statistics"):
        assert words in notes(joined)


def test_videos_are_opened_and_cut_ones_are_faults(tmp_path):
    for name in ("a.mp4", "b.mkv", "c.avi"):
        write_video(tmp_path / name, [numbered(i) for i in range(30)], front=name == "a.mp4")
        assert faults(tmp_path / name) == []
        cut(tmp_path / name, 0.7)
        assert faults(tmp_path / name), name
    (tmp_path / "d.mp4").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert len(faults(tmp_path)) == 4
    assert any("Git-LFS pointer" in fault for fault in faults(tmp_path))


def test_trajectories_of_bridgedata_are_looked_into(tmp_path):
    good, bad = (write_trajectory(tmp_path, number=number) for number in range(2))
    assert faults(tmp_path) == []
    (tmp_path / bad / "policy_out.pkl").unlink()
    (tmp_path / good / "images0" / "im_2.jpg").unlink()
    found = " | ".join(faults(tmp_path))
    assert "policy_out.pkl is missing" in found
    assert "5 images up to number 5" in found


def test_time_that_is_up_is_said(joined):
    report = inspect_source(open_source(str(joined)), seconds=-1)
    assert report.looked_at == [0, 4]
    assert report.episodes == 3


def test_the_command_prints_and_exits_with_1_on_faults(tmp_path):
    root = write_v21(tmp_path / "set", {0: 4, 1: 4})
    result = CliRunner().invoke(main, ["inspect", str(root)])
    assert (result.exit_code, "episodes   2, 8 frames, 10 fps" in result.output) == (0, True), result.output
    (root / f"videos/chunk-000/{FRONT}/episode_000001.mp4").unlink()
    result = CliRunner().invoke(main, ["inspect", str(root), "--json"])
    shown = json.loads(result.stdout)
    assert (result.exit_code, shown["counts"]["faults"]) == (1, 1)
    assert shown["source"]["kind"] == "lerobot-v2.1"
    assert CliRunner().invoke(main, ["inspect", str(tmp_path / "none")]).exit_code == 2


def test_columns_that_are_left_out_are_named_with_the_setting_that_takes_them(tmp_path):
    root = write_v21(tmp_path / "set", {0: 4})
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["actions"] = info["features"].pop("action")
    (root / "meta/info.json").write_text(json.dumps(info))
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.rename_columns(["actions" if name == "action" else name for name in table.column_names]), path)
    result = CliRunner().invoke(main, ["inspect", str(root)])
    assert "left out   action: no column 'action'; the dataset has 'actions'; take it with --set" in result.output
    result = CliRunner().invoke(main, ["inspect", str(root), "--set", "source.columns.action=actions"])
    assert "left out" not in result.output
    assert "column     actions float32[3]: action" in result.output


def test_a_partial_download_is_said_once_and_is_no_fault(tmp_path):
    root = write_v21(tmp_path, {0: 3, 1: 4, 2: 5})
    for path in [*root.glob("data/**/*_000001.parquet"), *root.glob("videos/**/*_000001.mp4")]:
        path.unlink()
    report = inspect_source(open_source(str(root)))
    assert faults(root) == []
    assert any("no file of 1 of 3 episodes was fetched" in line for line in report.left_out)
