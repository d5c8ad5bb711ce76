import pandas as pd
import pytest

from extractors.errors import OutputError
from flows.output.manifest import FIRST_COLUMNS, Manifest


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
