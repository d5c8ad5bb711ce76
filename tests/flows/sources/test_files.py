from __future__ import annotations

import os

import pytest

from extractors.errors import CorruptDataError, MissingDataError, SourceError
from extractors.printable import printable
from flows.sources.cells import number, tasks, text, whole
from flows.sources.files import check_plain, decode_text, foreign_content, read_bytes, read_json
from flows.sources.lerobot_info import relative_path

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"


@pytest.fixture(params=["device", "fifo", "folder", "sparse"])
def endless(request, tmp_path):
    """A file that has no end, waits for ever, or is not one."""
    path = tmp_path / "file"
    if request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(2**40)
    return path


def test_what_is_no_plain_file_of_a_possible_size_is_not_read(endless):
    with pytest.raises(CorruptDataError, match=r"no plain file|at most|cannot be read"):
        read_bytes(endless, "x")
    with pytest.raises(SourceError, match="cannot read"):
        read_json(endless)


def test_a_missing_file_is_missing_and_a_pointer_is_named(tmp_path):
    with pytest.raises(MissingDataError, match="x is missing"):
        read_bytes(tmp_path / "none", "x")
    (tmp_path / "pointer").write_bytes(POINTER)
    with pytest.raises(CorruptDataError, match=r"Git-LFS pointer.*git lfs pull"):
        check_plain(tmp_path / "pointer", "x")
    assert "web page" in foreign_content(b"\n<!DOCTYPE html><html>")
    assert foreign_content(b"\x89PNG") == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_text_of_windows_is_read(encoding):
    assert decode_text("put the cup\nconfidence: 1".encode(encoding)) == "put the cup\nconfidence: 1"


def test_json_with_a_byte_order_mark_is_read_and_a_tower_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes('\ufeff{"a": "ü"}'.encode())
    assert read_json(path) == {"a": "ü"}
    for data, words in ((b"[" * 100_000, "nested too deeply"), (b"\xff\xfe\xfa", "no JSON"), (POINTER, "Git-LFS")):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=words):
            read_json(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3), (3.0, 3), ("3", 3), ("3.0", 3), (None, None), (float("nan"), None), ("", None), (0, 0)],
)
def test_whole_numbers_of_every_writer(value, expected):
    assert whole(value) == expected
    assert number(value) == expected


@pytest.mark.parametrize("value", [-1, 3.5, True, "x", [3], 10**30, float("inf"), "9" * 5000, {}, "1e999"])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(ValueError, match="whole number"):
        whole(value)


def test_instructions_of_every_writer():
    task = "put it in"
    for value in (task, [task], (task,), f'["{task}"]', f"['{task}']", {"task": task}, [{"task": task}], f" {task}\n"):
        assert tasks(value) == (task,), value
    assert tasks([2, 0.0]) == (2, 0)
    assert tasks(None) == tasks([]) == tasks("") == tasks(float("nan")) == ()
    assert text("put\x1b[31m it\x07") == "put [31m it"
    assert len(text("a" * 10**6)) == 10_000


def test_messages_obey_no_terminal():
    assert printable("a\x1b]0;x\x07b\udcff") == "a\\x1b]0;x\\x07b\\udcff"
    assert str(CorruptDataError("bad \x1b[2J name \udc80")) == "bad \\x1b[2J name \\udc80"


@pytest.mark.parametrize("name", ["1" + "0" * 400, "x/" * 2000, "\ud800.parquet"])
def test_a_path_that_no_disk_can_hold_is_refused(name):
    with pytest.raises(SourceError, match="no name that a disk can hold"):
        relative_path(name, {})


@pytest.mark.parametrize("value", [float("inf"), -1, 10**400, 1e308, True, 2.5])
def test_task_numbers_that_are_none_are_no_tasks(value):
    assert tasks(value) == tasks([value]) == ()
