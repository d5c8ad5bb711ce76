"""Sizes of parquet columns: those that pyarrow gives of good files, and an error for every damaged one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extractors.errors import CorruptDataError, SourceError
from flows.sources import lerobot_tables
from flows.sources.lerobot_tables import open_parquet, read_tasks
from flows.sources.parquet_footer import column_sizes

# Every byte of the footer changed in turn, the file opened and read: what must not happen ends the process.
EVERY_BYTE = """
import struct, sys
from pathlib import Path
from extractors.errors import CuepackError
from flows.sources.lerobot_tables import PARQUET_FAULTS, open_parquet
path = Path(sys.argv[1])
good = path.read_bytes()
start = len(good) - 8 - struct.unpack("<I", good[-8:-4])[0]
refused = read = 0
for at in range(start, len(good) - 8):
    for change in (1, 128):
        path.write_bytes(good[:at] + bytes([good[at] ^ change]) + good[at + 1 :])
        try:
            with open_parquet(path, ["tasks", "index"], "it") as file:
                file.read(["tasks", "index"])
            read += 1
        except (CuepackError, *PARQUET_FAULTS):
            refused += 1
print(refused, read)
"""


def table(rows: int = 50) -> pa.Table:
    return pa.table(
        {
            "index": np.arange(rows),
            "tasks": [["put it there"] * (k % 3) for k in range(rows)],
            "image": [{"bytes": b"x" * k, "path": None} for k in range(rows)],
            "done": [k % 2 == 0 for k in range(rows)],
            "state": pa.array(np.zeros((rows, 7), np.float32).tolist(), pa.list_(pa.float32(), 7)),
        }
    )


@pytest.mark.parametrize("options", [{}, {"row_group_size": 7}, {"compression": "zstd", "write_page_index": True}])
def test_sizes_are_those_that_pyarrow_gives(tmp_path, options):
    path = tmp_path / "t.parquet"
    pq.write_table(table(), path, **options)
    metadata = pq.read_metadata(path)
    chunks = [
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    ]
    assert [(size.name, size.values, size.size) for size in column_sizes(path)] == [
        (chunk.path_in_schema.split(".")[0], chunk.num_values, chunk.total_uncompressed_size) for chunk in chunks
    ]


def test_a_footer_of_which_any_byte_is_wrong_ends_no_process(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(table().select(["tasks", "index"]), path, store_schema=False)
    done = subprocess.run([sys.executable, "-c", EVERY_BYTE, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused, read = map(int, done.stdout.split())
    assert refused > read > 0


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" + b"\xff" * 8 + b"PAR1", b"\x15" * 400 + b"\x90\x01\x00\x00PAR1"]
)
def test_what_has_no_footer_is_refused(tmp_path, content):
    path = tmp_path / "t.parquet"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"parquet|damaged|nested"):
        column_sizes(path)


def test_more_values_than_can_be_read_are_refused_before_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_tables, "MAX_VALUES", 10_000)
    path = tmp_path / "t.parquet"
    # Few rows, many values.
    pq.write_table(pa.table({"x": [[True] * 10_001]}), path)
    with pytest.raises(CorruptDataError, match="claims 10,001 values"):
        open_parquet(path, ["x"], "x.parquet")


def test_one_long_text_in_many_rows_is_refused_before_it_is_many(tmp_path):
    texts = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["x" * 2**22])
    (tmp_path / "meta").mkdir()
    path: Path = tmp_path / "meta" / "tasks.parquet"
    written = pa.table({"task_index": np.arange(100_000), "task": texts})
    pq.write_table(written, path, dictionary_pagesize_limit=2**24, compression="zstd")
    assert path.stat().st_size < 2**20
    with pytest.raises(SourceError, match="a text of 4,194,304 bytes"):
        read_tasks(tmp_path, "v3.0")


def test_a_table_with_lists_of_texts_in_several_row_groups_is_read(tmp_path):
    (tmp_path / "meta").mkdir()
    written = pa.table({"task_index": np.arange(9), "task": [f"do {k}" for k in range(9)], "also": [["a", "b"]] * 9})
    pq.write_table(written, tmp_path / "meta" / "tasks.parquet", row_group_size=2)
    assert read_tasks(tmp_path, "v3.0") == {k: f"do {k}" for k in range(9)}
    rows = list(lerobot_tables._rows(tmp_path / "meta" / "tasks.parquet", ["also"]))
    assert rows == [{"also": ["a", "b"]}] * 9
