"""Faults of disks, sources, clocks and limits, put into whole batches: what was promised is there afterwards."""

import contextlib
import errno
import itertools
import multiprocessing
import os
import resource
import shutil
import threading
from pathlib import Path
from unittest import mock

import pytest

from extractors.errors import CuepackError
from flows.config import load_config
from flows.output.directory import OutputDirectory
from flows.run.carry_out import carry_out, run_shard_plainly
from flows.run.plan import Request, make_plan
from flows.sources.sample import write_sample
from packers.validate import validate_packet
from tests.faults.kills import digests, leftovers, packets
from tests.flows.batches import QUICK, Silent, array_plan
from tests.support import ArraySource

COUNT = 2
NUMBERS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE)
CHANGING = ((os, "open"), (os, "fsync"), (os, "replace"), (os, "mkdir"), (os, "unlink"))
"""Calls of the operating system that the engine's writing goes through; HDF5's own are in packers/test_writer.py."""


def run(folder, out, **work):
    plan = array_plan(ArraySource(folder / "in", count=COUNT), folder / out, (*QUICK, "run.shard_size=1"), **work)
    return carry_out(plan, Silent(), run_shard_plainly)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, "out", workers=1).exit_code == 0
    return digests(folder / "out")


@contextlib.contextmanager
def failing(out, number, *, after, lasting):
    """From change `after` below `out` on, or at that one alone, the disk answers `number`; yields how many it saw."""
    seen, lock = [0], threading.Lock()

    def wrap(original):
        def call(path, *arguments, **options):
            named = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
            reads = original is opened and not (arguments and arguments[0] & (os.O_WRONLY | os.O_RDWR))
            # A descriptor (fsync) names no path; every one that is synced is of the output.
            if not reads and (named.startswith(str(out)) or isinstance(path, int)):
                with lock:
                    seen[0] += 1
                    if seen[0] == after or (lasting and seen[0] > after):
                        raise OSError(number, os.strerror(number), named or None)
            return original(path, *arguments, **options)

        return call

    opened = os.open
    with contextlib.ExitStack() as stack:
        for owner, name in CHANGING:
            stack.enter_context(mock.patch.object(owner, name, wrap(getattr(owner, name))))
        yield seen


def check_afterwards(folder, out, expected):
    """Whole packets of the right bytes, before and after the run that goes on."""
    for path in packets(folder / out):
        assert validate_packet(path) == []
    assert digests(folder / out).items() <= expected.items()
    assert run(folder, out, workers=1).exit_code == 0
    assert digests(folder / out) == expected
    assert leftovers(folder / out) == []


def fail_once(folder, expected, number, after, *, lasting):
    """Whether the fault was met."""
    out = f"{errno.errorcode[number]}-{after}-{lasting}"
    with failing(folder / out, number, after=after, lasting=lasting) as seen:
        said: object = None
        try:
            outcome = run(folder, out, workers=1)
        except CuepackError as error:
            said = error
        else:
            # None: met while something was tidied up, it costs nothing.
            said = outcome.error or next((row["error"] for row in outcome.rows if row["status"] == "failed"), None)
            assert outcome.exit_code == (0 if said is None else 1)
    assert said is None or os.strerror(number) in str(said)
    check_afterwards(folder, out, expected)
    shutil.rmtree(folder / out)
    return seen[0] >= after


def test_a_disk_that_fails_at_some_change_loses_nothing_that_was_written(tmp_path, expected):
    """A full disk, a bad one, one that became read-only, a process without descriptors; for good, or once."""
    faults = zip(range(1, 100, 13), itertools.cycle(NUMBERS), itertools.cycle((True, True, False)), strict=False)
    met = [fail_once(tmp_path, expected, number, after, lasting=lasting) for after, number, lasting in faults]
    assert sum(met) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("number", NUMBERS)
def test_at_every_single_change(tmp_path, expected, number, lasting):
    after = 1
    while fail_once(tmp_path, expected, number, after, lasting=lasting):
        after += 1
    assert after > 30


# --- sources -----------------------------------------------------------------------------------------------------


@pytest.fixture
def bridge(tmp_path):
    write_sample(tmp_path / "sample")
    return tmp_path / "sample" / "bridge_raw"


SETTINGS = ("masks.backend=recorded", "tracks.backend=off", "run.profile=cpu", "packet.height=32", "packet.width=32")


def plan_of(source, out):
    return make_plan(Request(str(source), OutputDirectory.open(out), load_config(assignments=[*SETTINGS])))


def statuses(outcome):
    return sorted(row["status"] for row in outcome.rows)


@pytest.mark.parametrize("fault", ["gone", "pipe", "folder", "emptied", "loop"])
def test_a_source_that_changes_under_a_run_costs_its_episode(bridge, tmp_path, fault):
    """After the episodes were listed: a picture vanishes, or is something that a reader could wait for for ever."""
    plan = plan_of(bridge, tmp_path / "out")
    picture = sorted(bridge.rglob("*.jpg"))[3]
    picture.unlink()
    if fault == "pipe":
        os.mkfifo(picture)
    elif fault == "folder":
        picture.mkdir()
    elif fault == "emptied":
        picture.touch()
    elif fault == "loop":
        picture.symlink_to(picture)
    outcome = carry_out(plan, Silent(), run_shard_plainly)
    assert statuses(outcome) == ["done", "done", "done", "failed"]
    (failed,) = (row for row in outcome.rows if row["status"] == "failed")
    assert failed["stage"] == "source"
    # Where a picture is no plain file it is the trajectory that lacks one.
    assert picture.parent.parent.name in failed["error"] or picture.name in failed["error"]


@pytest.mark.parametrize("at", [0, -10_000, 4_102_444_800, 2**31 + 5])
def test_times_of_files_in_past_and_future_change_nothing(bridge, tmp_path, at):
    expected = carry_out(plan_of(bridge, tmp_path / "now"), Silent(), run_shard_plainly)
    for path in bridge.rglob("*"):
        os.utime(path, (at, at))
    outcome = carry_out(plan_of(bridge, tmp_path / "then"), Silent(), run_shard_plainly)
    assert statuses(outcome) == statuses(expected) == ["done"] * 4
    assert digests(tmp_path / "then") == digests(tmp_path / "now")
    assert plan_of(bridge, tmp_path / "then").jobs == []


def test_a_clock_that_goes_back_between_two_runs_hides_no_row(tmp_path, expected):
    run(tmp_path, "out", workers=1)
    with mock.patch("time.time", return_value=1e6), mock.patch("time.time_ns", return_value=10**15):
        plan = array_plan(
            ArraySource(tmp_path / "in", count=COUNT, broken=(1,)), tmp_path / "out", QUICK, workers=1, rehash=True
        )
        carry_out(plan, Silent(), run_shard_plainly)
    rows = OutputDirectory.open(tmp_path / "out").manifest.rows()
    assert [rows[name]["status"] for name in ("square_0", "square_1")] == ["done", "failed"]


# --- limits ------------------------------------------------------------------------------------------------------


def _with_few_files(folder, limit, workers, connection):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    try:
        said = run(folder, "out", workers=workers)
        connection.send((said.exit_code, str(said.error or "") + str([row.get("error") for row in said.rows])))
    except CuepackError as error:
        connection.send((2, str(error)))
    connection.close()


@pytest.mark.parametrize(("limit", "workers"), [(256, 2), (64, 2), (24, 1), (16, 1), (12, 2)])
def test_few_file_descriptors_are_enough_or_said(tmp_path, expected, limit, workers):
    """Ulimits of old systems and of containers; one below what a process needs at all ends in a sentence."""
    processes = multiprocessing.get_context("forkserver")
    here, there = processes.Pipe()
    process = processes.Process(target=_with_few_files, args=(tmp_path, limit, workers, there))
    process.start()
    there.close()
    code, said = here.recv()
    process.join()
    assert process.exitcode == 0
    assert code == 0 or "Too many open files" in said
    assert limit < 64 or code == 0
    check_afterwards(tmp_path, "out", expected)
    assert Path(tmp_path / "out" / "manifest.parquet").exists()
