"""The manifest: one row per episode, the record of what was done. Parquet for programs, csv for people."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from extractors.errors import OutputError
from packers.atomic import written_whole
from packers.locks import held
from packers.plain_files import MAX_TABLE_BYTES, open_plain

FIRST_COLUMNS = (
    "episode_id",
    "episode_index",
    "status",
    "stage",
    "packet",
    "sha256",
    "error_type",
    "error",
    "camera",
    "n_frames",
    "language_instruction",
    "score",
    "score_task",
    "score_length",
    "score_displacement",
    "score_mask",
    "score_depth",
    "tags",
)

MOTION_COLUMNS = {
    "active_seconds": "motion_active_s",
    "robot_seconds": "motion_robot_s",
    "object_seconds": "motion_object_s",
}
"""Numbers of the card of motion, and the columns that `cuepack select` filters by."""

STATUSES = frozenset({"done", "failed", "filtered"})

COST_PREFIXES = ("seconds_", "device_seconds_", "waited_", "padding_", "peak_mb_", "stored_bytes_")
"""Columns of what each stage cost in the run that made the row; each is followed by the stage's name. `waited_` is
followed by device_, cpu_ or memory_ first. Nothing else depends on them, and a packet does not hold them."""

_WHOLE_NUMBERS = ("episode_index", "n_frames", "bytes", "stored_bytes_")
_FRACTIONS = ("score", "motion_", "mask_recorded_j", "recorded_at", *COST_PREFIXES)
_GREATEST = 2**63 - 1
_ROWS_AT_ONCE = 4096
_OF_ONE_ROW = frozenset({"episode_id", "source_id", "packet", "sha256", "source_stamp", "packed_from"})
"""Columns whose texts are different in each row."""

_TICK_S = 1e-3
"""A row that replaces another is later than it by this at least, whatever the clock says."""

log = logging.getLogger("cuepack")

_ID = re.compile(r"[A-Za-z0-9_.-]+")

MERGE_SHARE = 0.02
"""Most of a run's time that merging the manifest between shards may take."""

Row = dict[str, Any]


class Manifest:
    """The rows of one output directory.

    Finished rows go to a journal at once, and into manifest.parquet and .csv when `merge` is called, so that neither
    a crash nor a second run on the same directory loses one.

    Args:
        root: the local folder of the directory.
        put: called with each file at the top that was written (`OutputDirectory.put`).
    """

    def __init__(self, root: Path, put: Callable[[Path], None] = lambda path: None) -> None:
        self.root = root
        self._put = put
        self.parquet = root / "manifest.parquet"
        self.csv = root / "manifest.csv"
        self._journal = root / ".work" / "rows.jsonl"
        self._merged_at, self._merge_seconds = -math.inf, 0.0

    def rows(self) -> dict[str, Row]:
        """Every row by episode id, journal included.

        Raises:
            OutputError: manifest.parquet is there and cannot be read.
        """
        rows = {row["episode_id"]: row for row in self._merged()} if self.parquet.exists() else {}
        for row in self._journalled():
            # A journal that was left on a machine is older than what others merged since.
            if _moment(row) >= _moment(rows.get(row["episode_id"])):
                rows[row["episode_id"]] = row
        return rows

    def _merged(self) -> Iterator[Row]:
        """The rows of manifest.parquet, a few thousand decoded at a time: all at once take twice the memory of rows."""
        # Most texts are those of many rows: the run's key, a camera, tags, instructions.
        shared: dict[str, str] = {}
        try:
            open_plain(self.parquet, MAX_TABLE_BYTES).close()
            with pq.ParquetFile(self.parquet) as file:
                for batch in file.iter_batches(_ROWS_AT_ONCE):
                    names = batch.schema.names
                    columns = [_cells(*column, shared) for column in zip(names, batch.columns, strict=True)]
                    for cells in zip(*columns, strict=True):
                        yield self._checked(dict(zip(names, cells, strict=True)))
        except OutputError:
            raise
        except Exception as error:  # pyarrow raises many kinds for one thing: not a readable table
            raise OutputError(
                f"{self.parquet} cannot be read ({error}); `cuepack manifest rebuild {self.root}` makes it again"
            ) from error

    def _checked(self, row: Row) -> Row:
        if not is_row(row):
            raise OutputError(
                f"{self.parquet} holds a row that does not belong in a manifest (episode {row.get('episode_id')!r}); "
                f"`cuepack manifest rebuild {self.root}` makes it again"
            )
        return row

    def add(self, row: Mapping[str, Any]) -> None:
        """Journals one finished row; safe from several threads and processes."""
        line = json.dumps(after(None) | dict(row), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            with self.locked(), self._journal.open("ab+") as file:
                # A crash may have cut the last line off; without the newline this row would be lost with it.
                if file.tell() and not _ends_a_line(file):
                    line = b"\n" + line
                file.write(line)
        except OSError as error:
            raise OutputError(f"{self._journal} cannot be written: {error}; free space or fix permissions") from error

    def merge(self) -> None:
        """Folds the journal into manifest.parquet and manifest.csv, sorted by episode index, then id.

        Without a journal both are as they should be, and stay: a finished batch is not written again.
        """
        with self.locked():
            if not self._journal.exists() and self.parquet.exists() and self.csv.exists():
                return
            # Under the lock from reading to forgetting: a row that another process adds in between would be lost.
            self.write(self.rows().values())
            self.forget_journal()

    def merge_if_due(self) -> None:
        """Merges unless the last merge was so recent that merging would take a notable share of the run's time.

        With 60,000 rows a merge takes seconds, and the journal loses nothing meanwhile.
        """
        if time.monotonic() - self._merged_at >= self._merge_seconds / MERGE_SHARE:
            started = time.monotonic()
            self.merge()
            self._merged_at = time.monotonic()
            self._merge_seconds = self._merged_at - started

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces both files by `rows`, also behind a URI; half-written ones of a killed process go.

        The caller holds `locked`.
        """
        table = _table(rows)
        self.root.mkdir(parents=True, exist_ok=True)
        # Parquet first: it is what is read back, and a crash between the two leaves a csv that is merely old.
        for path in (self.parquet, self.csv):
            try:
                with written_whole(path) as temporary:
                    if path == self.parquet:
                        table.to_parquet(temporary, index=False)
                    else:
                        table.to_csv(temporary, index=False)
            except OSError as error:
                raise OutputError(f"{path} cannot be written: {error}; free space or fix permissions") from error
            self._put(path)

    def set_aside(self) -> Path | None:
        """Renames an unreadable manifest.parquet, and a journal that is not a file, to `*.unreadable`.

        The caller holds `locked`.

        Returns:
            Where manifest.parquet was put, None where it was missing.
        """
        aside = self.parquet.with_name(f"{self.parquet.name}.unreadable")
        if self._journal.exists() and not self._journal.is_file():
            os.replace(self._journal, self._journal.with_name(f"{self._journal.name}.unreadable"))
        if not self.parquet.exists():
            return None
        os.replace(self.parquet, aside)
        return aside

    def forget_journal(self) -> None:
        """Empties the journal, whose rows were just written. The caller holds `locked`.

        Raises:
            OutputError: it cannot be removed. Its rows are in the manifest too, so nothing is lost or wrong.
        """
        try:
            self._journal.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self._journal} cannot be removed: {error}; free space or fix permissions") from error

    def _journalled(self) -> Iterator[Row]:
        """The rows of the journal; a damaged line costs its own episode, which is looked at again.

        Lines are decoded one by one: a crash may cut a line off inside a letter.
        """
        damaged = 0
        try:
            with open_plain(self._journal, MAX_TABLE_BYTES) as file:
                for line in file:
                    try:
                        row = json.loads(line.decode("utf-8"))
                    except (ValueError, RecursionError):
                        row = None
                    if is_row(row):
                        yield row
                    else:
                        damaged += 1
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"{self._journal} cannot be read: {error}; fix permissions, or remove it") from error
        if damaged:
            log.warning("%s: %d damaged lines are left out; their episodes are looked at again", self._journal, damaged)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the files at the top of the directory for this process: one writer at a time."""
        with held(self.root / ".work" / "manifest.lock"):
            yield


def is_row(value: Any) -> bool:
    """Whether a value read from a manifest or a journal can be a row; what it says is not looked at."""
    # Manifests come from strangers too: an id becomes a path, so letters outside `_ID` are refused.
    if not isinstance(value, dict):
        return False
    name, status, packet = (value.get(key) for key in ("episode_id", "status", "packet"))
    if not (isinstance(name, str) and isinstance(status, str) and isinstance(packet, str | None)):
        return False
    return _ID.fullmatch(name) is not None and status in STATUSES


def after(earlier: Mapping[str, Any] | None) -> Row:
    """The column that puts a new row after the episode's earlier one: seconds since 1970, UTC.

    Two machines that work on one directory behind a URI by turns each keep a journal; only this tells whose row is
    newer. Where a clock went back, the row is a moment later than the earlier one.
    """
    return {"recorded_at": round(max(time.time(), _moment(earlier) + _TICK_S), 3)}


def assessment_columns(report: Mapping[str, Any]) -> Row:
    """The manifest's columns for scores, quality and tags, from the `quality` stage's report."""
    columns: Row = {"tags": ";".join(report["tags"])}
    for name, value in report["scores"].items():
        if name == "score" or isinstance(value, int | float | None):
            columns[name if name == "score" else f"score_{name}"] = value
    for modality, card in report["quality"].items():
        columns[f"quality_{modality}"] = card["status"]
    for name, column in MOTION_COLUMNS.items():
        columns[column] = (report["quality"].get("motion") or {}).get("numbers", {}).get(name)
    return columns


def _moment(row: Mapping[str, Any] | None) -> float:
    """When a row was made; rows of cuepack 0.1.0, which do not say, come before all others."""
    moment = None if row is None else row.get("recorded_at")
    return float(moment) if isinstance(moment, int | float) and math.isfinite(moment) else 0.0


def _ends_a_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    # Column by column: a copy of every row would double the memory that a million of them take.
    listed = sorted(rows, key=lambda row: (_plain("episode_index", row.get("episode_index")) or 0, row["episode_id"]))
    names = {name for row in listed for name in row}
    columns = [*FIRST_COLUMNS, *sorted(names - set(FIRST_COLUMNS))]
    return pd.DataFrame({name: _column(name, listed) for name in columns}, columns=columns)


def _column(name: str, rows: Sequence[Mapping[str, Any]]) -> pd.Series[Any]:
    """A column of the type that its name fixes: pandas would guess float64 for whole numbers with gaps."""
    values = pd.Series([_plain(name, row.get(name)) for row in rows], dtype=object)
    if _is_whole(name):
        return values.astype("Int64")
    return values.astype("Float64" if name.startswith(_FRACTIONS) else "string")


def _is_whole(name: str) -> bool:
    return name in _WHOLE_NUMBERS or name.startswith(_WHOLE_NUMBERS[-1])


def _plain(name: str, value: Any) -> Any:
    """What the column's type can hold: damaged numbers are left out, lone surrogates and NUL are written out."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if _is_whole(name):
        return int(value) if is_number and math.isfinite(value) and abs(value) <= _GREATEST else None
    if name.startswith(_FRACTIONS):
        return float(value) if is_number and abs(value) <= sys.float_info.max else None
    if isinstance(value, str | list | dict):
        # Some csv readers stop at NUL, and UTF-8 cannot hold the lone surrogates of file names in other encodings.
        return str(value).replace("\x00", "\ufffd").encode("utf-8", "backslashreplace").decode()
    return value


def _cells(name: str, column: pa.Array, shared: dict[str, str]) -> list[Any]:
    """A column's cells as they were before they were written: NaN is None, and equal texts are one text."""
    cells: list[Any] = column.to_pylist()
    if pa.types.is_floating(column.type):
        return [None if cell != cell else cell for cell in cells]
    if name not in _OF_ONE_ROW and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return [cell if cell is None else shared.setdefault(cell, cell) for cell in cells]
    return cells
