"""Exports appear whole or not at all, whatever ended the process before."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from flows.output.store import Store
from packers.atomic import built_aside

HOLDING = """
import sys, time
from pathlib import Path
from packers.atomic import built_aside
with built_aside(Path(sys.argv[1])) as path:
    path.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    target = tmp_path / "set.h5"
    target.write_text("old")
    with built_aside(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_moved_with_what_is_in_it(tmp_path):
    with built_aside(tmp_path / "set") as path:
        path.mkdir()
        (path / "a").write_text("1")
    assert (tmp_path / "set" / "a").read_text() == "1"


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "set.h5"
    target.write_text("old")

    def fail_halfway():
        with built_aside(target) as path:
            path.write_text("new")
            raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        fail_halfway()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_leftovers_of_a_killed_process_go_and_those_of_a_living_one_stay(tmp_path):
    target = tmp_path / "set[1].h5"
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (held,) = (path for path in tmp_path.iterdir() if path.is_dir())
    with built_aside(target) as path:
        path.write_text("other")
    assert held.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with built_aside(target) as path:
        path.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_run_s_cleaning_leaves_what_a_living_writer_elsewhere_is_writing(tmp_path):
    """A dispatcher that starts again removes leftovers while shards on workers, which hold no run lock, still write."""
    store = Store(tmp_path)
    target = store.packet_path("e1")
    target.parent.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING.replace("built_aside", "written_whole"), str(target)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with store.in_use():
        (half,) = target.parent.iterdir()
        assert half.read_text() == "half"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with store.in_use():
        assert list(target.parent.iterdir()) == []


def test_many_at_once_do_not_disturb_each_other(tmp_path):
    target = tmp_path / "set"

    def build(number):
        for _ in range(60):
            with built_aside(target) as path:
                assert not path.exists()
                path.write_text(str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(build, range(4)))
    assert target.read_text() in "0123"
    assert list(tmp_path.iterdir()) == [target]


def test_a_place_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="none"), built_aside(tmp_path / "none" / "set.h5"):
        pytest.fail("nothing can be built there")
