"""Whether what exists is taken for a stage, or the stage runs: pure functions of records, stamps and keys."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from flows.output.store import StageRecord, json_digest


class Decision(Enum):
    """What becomes of a stage."""

    TAKE_PACKED = "the packet's own result is taken; nothing runs"
    TAKE_SAVED = "the work file of an earlier run is taken; nothing runs"
    RUN = "the stage has to run"
    KEEP_PACKED = "it ran and made what the packet holds"
    KEEP_MADE = "it ran, and what it made is new"

    @property
    def action(self) -> str:
        """The word for it in a row: "reused", "unchanged" or "computed"; "" where nothing is decided yet."""
        return _ACTIONS[self]


_ACTIONS = {
    Decision.TAKE_PACKED: "reused",
    Decision.TAKE_SAVED: "reused",
    Decision.RUN: "",
    Decision.KEEP_PACKED: "unchanged",
    Decision.KEEP_MADE: "computed",
}


def decide(
    key: str | None,
    *,
    forced: bool,
    packed: StageRecord | None,
    saved: StageRecord | None,
    made: StageRecord | None = None,
) -> Decision:
    """What becomes of a stage.

    Args:
        key: what the stage's result would be kept under; None where only running it tells (a source whose files may
            have changed).
        forced: the user asked for the stage, or one before it, to run again.
        packed: the stage's record in the episode's packet.
        saved: the record in its work file.
        made: what running it made; None before that.
    """
    if made is not None:
        # A record holds the digests of all it made: equal records are equal bytes.
        return Decision.KEEP_PACKED if made == packed and not forced else Decision.KEEP_MADE
    if forced or key is None:
        return Decision.RUN
    if packed is not None and packed.key == key:
        return Decision.TAKE_PACKED
    if saved is not None and saved.key == key:
        return Decision.TAKE_SAVED
    return Decision.RUN


def known_source_key(record: StageRecord | None, *, same_files: bool, version: int, settings: str) -> str | None:
    """The key of a source that need not be read: its files, the stage's version and its settings are the recorded ones.

    Args:
        record: the source stage's, from the packet or a work file.
        same_files: whether the record was made from the files as they are now.
        version: the stage's code version now.
        settings: digest of its settings now.
    """
    if record is None or not same_files:
        return None
    if record.version != version or record.report.get("settings") != settings:
        return None
    return record.key


def packed_from(stamp: str, mark: str | None) -> str | None:
    """Says that the packet with this `mark` was made from the files with this `stamp`; None without a packet.

    It names both. A row tells what became of an episode in the last run, and that run may have failed, been filtered,
    or been killed between putting a packet in its place and writing the row: the packet is then of other files than
    the row's `source_stamp`, or is another packet than the row's.
    """
    return None if mark is None else json_digest([stamp, mark])


def row_fits_packet(row: Mapping[str, Any], stamp: str, mark: str | None) -> bool:
    """Whether the row says that this very packet was made from the files as they are now."""
    if mark is None:
        return False
    if row.get("packed_from") is not None:
        return bool(row["packed_from"] == packed_from(stamp, mark))
    # Rows of cuepack 0.1.0 have no such column; what was done then was done from the files of the row's own stamp.
    return row.get("status") == "done" and row.get("source_stamp") == stamp
