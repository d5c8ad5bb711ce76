"""The one decision about what is redone, as a table; and what it means for a source that changes."""

import os

import pytest

from flows.output.manifest import Manifest
from flows.output.store import StageRecord
from flows.run.reuse import Decision, decide, known_source_key, packed_from, row_fits_packet
from packers.reader import Packet
from tests.flows.run.test_shard import extract, packets
from tests.support import ArraySource

OLD, NEW = StageRecord("old", 1, outputs={"a": "1"}), StageRecord("new", 1, outputs={"a": "2"})
SAME_KEY_OTHER_BYTES = StageRecord("old", 1, outputs={"a": "2"})


@pytest.mark.parametrize(
    ("key", "forced", "packed", "saved", "made", "decision"),
    [
        # Nothing exists yet.
        ("new", False, None, None, None, Decision.RUN),
        # The packet's result has the key; a work file with it comes second.
        ("old", False, OLD, None, None, Decision.TAKE_PACKED),
        ("old", False, OLD, OLD, None, Decision.TAKE_PACKED),
        ("new", False, OLD, NEW, None, Decision.TAKE_SAVED),
        ("new", False, None, NEW, None, Decision.TAKE_SAVED),
        # Neither has it.
        ("new", False, OLD, OLD, None, Decision.RUN),
        # What was asked for again runs, whatever exists.
        ("old", True, OLD, OLD, None, Decision.RUN),
        # A source whose files may have changed has no key before it is read.
        (None, False, OLD, OLD, None, Decision.RUN),
        # Having run: the packet keeps what is equal to the last byte, and nothing else.
        ("old", False, OLD, None, OLD, Decision.KEEP_PACKED),
        ("old", False, OLD, None, SAME_KEY_OTHER_BYTES, Decision.KEEP_MADE),
        ("new", False, OLD, None, NEW, Decision.KEEP_MADE),
        ("new", False, None, None, NEW, Decision.KEEP_MADE),
        ("old", True, OLD, None, OLD, Decision.KEEP_MADE),
    ],
)
def test_what_becomes_of_a_stage(key, forced, packed, saved, made, decision):
    assert decide(key, forced=forced, packed=packed, saved=saved, made=made) is decision


def test_every_decision_has_its_word():
    assert [decision.action for decision in Decision] == ["reused", "reused", "", "unchanged", "computed"]


@pytest.mark.parametrize(
    ("same_files", "version", "settings", "known"),
    [(True, 2, "s", True), (False, 2, "s", False), (True, 3, "s", False), (True, 2, "other", False)],
)
def test_a_source_is_taken_unread_where_files_version_and_settings_are_the_recorded_ones(
    same_files, version, settings, known
):
    record = StageRecord("content", 2, report={"settings": "s"})
    found = known_source_key(record, same_files=same_files, version=version, settings=settings)
    assert found == ("content" if known else None)
    assert known_source_key(None, same_files=True, version=2, settings="s") is None


@pytest.mark.parametrize(
    ("row", "fits"),
    [
        ({"status": "done", "packed_from": packed_from("now", "packet")}, True),
        ({"status": "filtered", "source_stamp": "other", "packed_from": packed_from("now", "packet")}, True),
        # The row is of the files as they are now, the packet is not.
        ({"status": "filtered", "source_stamp": "now", "packed_from": packed_from("before", "packet")}, False),
        # A run was killed between putting another packet in its place and writing its row.
        ({"status": "done", "source_stamp": "now", "packed_from": packed_from("now", "replaced")}, False),
        ({"status": "done", "source_stamp": "now"}, True),
        ({"status": "failed", "source_stamp": "now"}, False),
        ({}, False),
    ],
)
def test_a_row_says_of_which_files_its_packet_is(row, fits):
    assert row_fits_packet(row, "now", "packet") is fits
    assert not row_fits_packet(row, "now", None)


def change(tmp_path, number=0):
    file = tmp_path / "in" / f"{number}.txt"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))


def shown_frame(tmp_path):
    with Packet(packets(tmp_path)[0]) as packet:
        return packet["pixels"][0].copy()


@pytest.mark.parametrize("between", ["filtered", "failed", "filtered-by-metadata"])
def test_a_changed_source_is_packed_again_though_a_row_of_the_new_files_came_between(tmp_path, monkeypatch, between):
    extract(tmp_path, ArraySource(tmp_path / "in", count=1))
    before = shown_frame(tmp_path)
    change(tmp_path)
    changed = ArraySource(tmp_path / "in", count=1, seed=5)
    if between == "failed":
        with monkeypatch.context() as broken:
            broken.setattr("flows.stages.quality.assess", lambda *_: 1 / 0)
            rows, _ = extract(tmp_path, changed)
    else:
        rows, _ = extract(tmp_path, changed, "select.min_score=0.99")
    assert rows["square_0"]["status"] == between.partition("-")[0]
    rows, _ = extract(tmp_path, changed)
    assert rows["square_0"]["stages_computed"].endswith("pack")  # the stages before it were kept as work files
    assert (shown_frame(tmp_path) != before).any()


def test_a_packet_put_by_a_run_that_was_killed_before_its_row_is_not_taken_for_the_row_s(tmp_path, monkeypatch):
    file, source = tmp_path / "in" / "0.txt", ArraySource(tmp_path / "in", count=1)
    extract(tmp_path, source)
    first, stamp = shown_frame(tmp_path), file.stat().st_mtime_ns
    change(tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr(Manifest, "add", lambda *_: None)
        killed.setattr(Manifest, "merge", lambda *_: None)
        extract(tmp_path, ArraySource(tmp_path / "in", count=1, seed=5))
    assert (shown_frame(tmp_path) != first).any()
    os.utime(file, ns=(0, stamp))
    extract(tmp_path, source)
    assert (shown_frame(tmp_path) == first).all()
