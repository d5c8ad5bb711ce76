import json

import pandas as pd
import pytest

from extractors.errors import OutputError
from flows.output import manifest as manifest_module
from flows.output.directory import OutputDirectory
from flows.output.manifest import FIRST_COLUMNS, Manifest, after
from flows.output.rebuild import rebuild_manifest


def row(number: int, **more):
    return {"episode_id": f"e{number}", "episode_index": number, "status": "done", **more}


def test_journalled_rows_are_seen_before_and_after_a_merge(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.add(row(1, score=0.5))
    assert manifest.rows()["e1"]["score"] == 0.5
    manifest.merge()
    manifest.add(row(0, score=None))
    manifest.merge()
    assert list(manifest.rows()) == ["e0", "e1"]
    assert manifest.rows()["e0"]["score"] is None


def test_parquet_and_csv_hold_the_same_rows_in_the_promised_column_order(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.write([row(0, seconds_masks=0.25, language_instruction='put "a", b\nc')])
    parquet, csv = pd.read_parquet(manifest.parquet), pd.read_csv(manifest.csv)
    assert tuple(parquet.columns[: len(FIRST_COLUMNS)]) == FIRST_COLUMNS
    assert list(csv.columns) == list(parquet.columns)
    assert csv["language_instruction"][0] == 'put "a", b\nc'
    assert parquet["episode_index"][0] == 0


def test_a_merge_with_nothing_new_writes_nothing(tmp_path):
    written = []
    manifest = Manifest(tmp_path, put=written.append)
    manifest.add(row(0))
    manifest.merge()
    assert written == [manifest.parquet, manifest.csv]
    manifest.merge()
    assert len(written) == 2
    manifest.csv.unlink()
    manifest.merge()
    assert len(written) == 4


def test_rows_are_read_a_few_thousand_at_a_time_and_share_equal_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_module, "_ROWS_AT_ONCE", 10)
    decoded = []
    as_read = manifest_module._cells

    def cells(name, column, shared):
        decoded.append(len(column))
        return as_read(name, column, shared)

    monkeypatch.setattr(manifest_module, "_cells", cells)
    manifest = Manifest(tmp_path)
    manifest.write(row(number, run_key="k" * 64, sha256=f"{number:064x}") for number in range(100))
    merged = manifest._merged()
    next(merged)
    columns = len(pd.read_parquet(manifest.parquet).columns)
    assert decoded == [10] * columns
    rows = [*merged]
    assert decoded == [10] * columns * 10
    assert len({id(each["run_key"]) for each in rows}) == 1


def test_a_line_cut_off_by_a_crash_loses_only_itself(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.add(row(1))
    journal = tmp_path / ".work" / "rows.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"episode_id": "e2", "sta')
    manifest.add(row(3))
    assert sorted(manifest.rows()) == ["e1", "e3"]


def test_a_later_row_replaces_an_earlier_one(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.add(row(1) | {"status": "failed"})
    manifest.merge()
    manifest.add(row(1))
    assert manifest.rows()["e1"]["status"] == "done"


def test_a_manifest_that_is_no_parquet_names_the_way_to_rebuild_it(tmp_path):
    (tmp_path / "manifest.parquet").write_text("no")
    with pytest.raises(OutputError, match="manifest rebuild"):
        Manifest(tmp_path).rows()


def named(name: str, **more):
    return {"episode_id": name, "episode_index": 0, "status": "done", **more}


def test_a_journal_line_torn_inside_a_letter_costs_its_own_episode(tmp_path, caplog):
    manifest = Manifest(tmp_path)
    manifest.add(named("a"))
    journal = tmp_path / ".work" / "rows.jsonl"
    torn = json.dumps(named("b", language_instruction="la tâche"), ensure_ascii=False).encode()
    journal.write_bytes(journal.read_bytes() + torn[: torn.index("â".encode()) + 1])
    with caplog.at_level("WARNING", "cuepack"):
        assert list(manifest.rows()) == ["a"]
    assert "1 damaged lines" in caplog.text
    manifest.add(named("c"))
    manifest.merge()
    assert list(Manifest(tmp_path).rows()) == ["a", "c"]


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"null",
        b"7",
        b'"a"',
        b"{}",
        b'{"episode_id": 5, "status": "done"}',
        b'{"episode_id": "../x", "status": "done"}',
        b'{"episode_id": "x", "status": ["done"]}',
        b'{"episode_id": "x", "status": "done", "packet": {"a": 1}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"episode_id": "x"',
    ],
)
def test_what_is_no_row_is_left_out(tmp_path, line):
    manifest = Manifest(tmp_path)
    manifest.add(named("a"))
    with (tmp_path / ".work" / "rows.jsonl").open("ab") as file:
        file.write(line + b"\n")
    manifest.add(named("b"))
    manifest.merge()
    assert list(manifest.rows()) == ["a", "b"]


@pytest.mark.parametrize(
    "damage",
    [
        {"n_frames": "many"},
        {"n_frames": 10**30, "score": float("nan"), "bytes": [1]},
        {"score": "high", "seconds_masks": {}, "episode_index": 0.5},
        {"language_instruction": ["put"], "tags": {"a": 1}, "error": "\ud800\x00"},
        {"recorded_at": "yesterday"},
    ],
)
def test_rows_of_damaged_values_can_be_merged_and_read(tmp_path, damage):
    manifest = Manifest(tmp_path)
    manifest.add(named("a") | damage)
    manifest.add(named("b", n_frames=7))
    manifest.merge()
    rows = Manifest(tmp_path).rows()
    assert list(rows) == ["a", "b"]
    assert rows["b"]["n_frames"] == 7


def test_a_table_that_is_no_manifest_is_named_and_rebuilt(tmp_path):
    pd.DataFrame({"episode": ["a"]}).to_parquet(tmp_path / "manifest.parquet")
    with pytest.raises(OutputError, match="manifest rebuild"):
        Manifest(tmp_path).rows()
    (tmp_path / ".work" / "rows.jsonl").mkdir(parents=True)
    rebuilt = rebuild_manifest(OutputDirectory.open(tmp_path))
    assert rebuilt.aside is not None
    assert rebuilt.aside.name == "manifest.parquet.unreadable"
    assert Manifest(tmp_path).rows() == {}


def test_a_journal_left_behind_does_not_bring_old_rows_back(tmp_path):
    left_behind, others = Manifest(tmp_path / "a"), Manifest(tmp_path / "b")
    left_behind.add(named("x", status="failed", recorded_at=100.0))
    others.add(named("x", recorded_at=200.0))
    others.merge()
    (tmp_path / "b" / "manifest.parquet").rename(tmp_path / "a" / "manifest.parquet")
    assert left_behind.rows()["x"]["status"] == "done"
    left_behind.add(named("x", status="filtered", recorded_at=201.0))
    assert left_behind.rows()["x"]["status"] == "filtered"


def test_a_row_comes_after_the_one_it_replaces_though_the_clock_went_back(monkeypatch):
    monkeypatch.setattr(manifest_module.time, "time", lambda: 50.0)
    assert after(None)["recorded_at"] == 50.0
    assert after({"recorded_at": 90.0})["recorded_at"] > 90.0
