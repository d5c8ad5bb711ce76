"""Stages in processes of their own: what comes out is what threads make, and a process that dies costs one episode."""

import builtins
import hashlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from extractors.errors import ConfigError
from flows.config import load_config
from flows.run.carry_out import carry_out, run_shard_plainly
from flows.run.processes import StageProcesses, count_processes
from flows.run.shard import Shard
from flows.sources.detect import open_source
from flows.sources.sample import write_sample
from packers.reader import Packet
from packers.validate import validate_packet
from tests.flows.batches import QUICK, Silent, array_plan
from tests.support import REPOSITORY, ArraySource


@dataclass(frozen=True)
class Troubled(ArraySource):
    """Episode 1 has trouble while it is opened."""

    trouble: str = "killed"

    def open(self, info, camera=None):
        if info.episode_index == 1 and self.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if info.episode_index == 1 and self.trouble == "unforeseen":
            raise ZeroDivisionError("not foreseen")
        if info.episode_index == 1 and self.trouble.endswith("Error"):
            raise getattr(builtins, self.trouble)("of the file")
        if self.trouble == "said":
            logging.getLogger("cuepack").warning("episode %d looks odd", info.episode_index)
        return super().open(info, camera)


def extract(root, source, *settings, workers=2, progress=None):
    plan = array_plan(source, root / "out", [*QUICK, *settings], workers=workers)
    outcome = carry_out(plan, progress or Silent(), run_shard_plainly)
    return {row["episode_id"]: row for row in outcome.rows}


def digests(root):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / "out" / "packets").glob("*/*.h5")
    }


def test_packets_have_the_bytes_that_threads_make(tmp_path):
    settings = ("depth.backend=nano", "tracks.backend=lucas-kanade", "tracks.count=40", "tracks.grid_side=6")
    source = ArraySource(tmp_path / "in")
    for name, way in (("threads", "never"), ("processes", "always")):
        rows = extract(tmp_path / name, source, *settings, f"run.processes={way}")
        assert {row["status"] for row in rows.values()} == {"done"}
        assert all(row["peak_mb_tracks"] > 0 and row["seconds_tracks"] > 0 for row in rows.values())
    assert digests(tmp_path / "threads") == digests(tmp_path / "processes") != {}
    for path in (tmp_path / "processes" / "out" / "packets").glob("*/*.h5"):
        assert validate_packet(path) == []


def test_a_process_that_is_killed_costs_its_episode_alone(tmp_path):
    source = Troubled(tmp_path / "in", count=4)
    rows = extract(tmp_path, source, "run.processes=always", workers=1)
    assert [row["status"] for row in rows.values()] == ["done", "failed", "done", "done"]
    assert (rows["square_1"]["stage"], rows["square_1"]["error_type"]) == ("source", "LostProcessError")
    assert "SIGKILL" in rows["square_1"]["error"]


def test_errors_are_recorded_as_threads_record_them(tmp_path, caplog):
    for name, way in (("threads", "never"), ("processes", "always")):
        rows = extract(tmp_path / name, ArraySource(tmp_path / name / "in", broken=(1,)), f"run.processes={way}")
        assert (rows["square_1"]["stage"], rows["square_1"]["error_type"]) == ("source", "CorruptDataError")
        assert "frame 4" in rows["square_1"]["error"]
    caplog.clear()
    source = Troubled(tmp_path / "odd", trouble="unforeseen")
    rows = extract(tmp_path / "odd", source, "run.processes=always")
    assert rows["square_1"]["error_type"] == "ZeroDivisionError"
    record = next(record for record in caplog.records if record.exc_info)
    assert any("test_processes.py" in note for note in record.exc_info[1].__notes__)


def test_what_a_process_logs_is_logged_by_the_run(tmp_path, caplog):
    extract(tmp_path, Troubled(tmp_path / "in", trouble="said"), "run.processes=always")
    assert sorted(r.getMessage() for r in caplog.records) == [f"episode {n} looks odd" for n in range(3)]


def test_memory_is_waited_for_before_an_episode_is_read(tmp_path):
    # Room for no more than one episode at a time: they go one after another, and none is held up for ever.
    rows = extract(tmp_path, ArraySource(tmp_path / "in"), "run.processes=always", "run.memory_gb=0.00001")
    assert {row["status"] for row in rows.values()} == {"done"}


@pytest.mark.parametrize(
    ("settings", "workers", "episodes", "count"),
    [
        ((), 2, 8, 2),
        ((), 2, 7, 0),
        ((), 1, 100, 0),
        ((), 16, 64, 16),
        (("run.engine=dask",), 2, 100, 0),
        (("run.engine=dask", "run.processes=always"), 2, 100, 0),
        (("tracks.backend=cotracker3",), 2, 100, 0),
        (("run.processes=never",), 2, 100, 0),
        (("run.processes=always",), 3, 1, 3),
    ],
)
def test_a_run_has_processes_where_they_are_worth_their_start(tmp_path, settings, workers, episodes, count):
    config = load_config(assignments=[*QUICK, *settings]).resolved()
    assert count_processes(ArraySource(tmp_path), config, workers, episodes) == count


def test_a_source_of_a_script_stays_in_its_process(tmp_path):
    class Written(ArraySource):
        pass

    Written.__module__ = "__main__"
    assert count_processes(Written(tmp_path), load_config(assignments=QUICK).resolved(), 2, 100) == 0


@dataclass(frozen=True)
class Unsendable(ArraySource):
    def __getstate__(self):
        raise TypeError("holds a lock")


def test_a_source_that_cannot_be_sent_is_worked_on_by_threads_and_it_is_said(tmp_path, caplog):
    source = Unsendable(tmp_path / "in", count=8)
    assert {row["status"] for row in extract(tmp_path, source).values()} == {"done"}
    assert "holds a lock" in caplog.text
    with pytest.raises(ConfigError, match=r"run\.processes=never"):
        extract(tmp_path, source, "run.processes=always")


class Local(ArraySource):
    """A source whose class is found in this process alone."""


Local.__qualname__ = "Gone"


@pytest.fixture
def only_here(monkeypatch):
    monkeypatch.setitem(globals(), "Gone", Local)


def test_a_source_that_another_process_cannot_load_is_worked_on_by_threads_and_it_is_said(tmp_path, only_here, caplog):
    rows = extract(tmp_path, Local(tmp_path / "in", count=8))
    assert {row["status"] for row in rows.values()} == {"done"}
    assert "Gone" in caplog.text
    with pytest.raises(ConfigError, match="Gone"):
        extract(tmp_path, Local(tmp_path / "in", count=8), "run.processes=always")


class Stumbles(Silent):
    """Cannot show how far the first stages have come."""

    left = 1

    def stage_moved(self, stage, frames):
        if frames > 0 and self.left:
            self.left -= 1
            raise OSError("no space left on the terminal")


def test_a_process_whose_answer_was_not_taken_answers_nobody_else(tmp_path):
    # Each message that it sends is late for the next episode, if that is asked of the same process.
    source = Slow(tmp_path / "in", count=4)
    rows = extract(tmp_path, source, "run.processes=always", workers=1, progress=Stumbles())
    assert sorted(row["status"] for row in rows.values()) == ["done", "done", "done", "failed"]
    for path in (tmp_path / "out" / "packets").glob("*/*.h5"):
        with Packet(path) as packet:
            number = packet.attributes["episode_id"].removeprefix("square_")
            assert f"square {number}" in packet.attributes["language_instruction"]


@dataclass(frozen=True)
class Slow(ArraySource):
    """Frames that take so long that the process says how far it has come."""

    n_frames: int = 4

    def open(self, info, camera=None):
        episode = super().open(info, camera)
        return replace(episode, pixels=SlowFrames(episode.pixels))


@dataclass(frozen=True)
class SlowFrames:
    frames: np.ndarray

    @property
    def shape(self):
        return self.frames.shape

    def __len__(self):
        return len(self.frames)

    def __iter__(self):
        for frame in self.frames:
            time.sleep(0.6)
            yield frame


def test_a_run_that_is_left_gives_its_processes_back(tmp_path):
    plan = array_plan(ArraySource(tmp_path / "in"), tmp_path / "out", QUICK, workers=2)
    with StageProcesses(plan.work.source, plan.work.config, count=2, threads=1) as processes:
        plan.work = replace(plan.work, processes=processes)
        with Shard(plan.work, plan.jobs, {}) as shard:
            shard.run("source")  # and no further, as where the server goes away
        # As `dispatch` goes on without Prefect: with the same shard, whose processes are free.
        rows = run_shard_plainly(plan, 0, plan.jobs)
    assert {row["status"] for row in rows} == {"done"}


def test_a_process_that_cannot_be_started_costs_its_episode_and_no_place(tmp_path, monkeypatch):
    config = load_config(assignments=QUICK).resolved()
    with StageProcesses(ArraySource(tmp_path), config, count=1, threads=1) as processes:
        process = processes.take()
        process.close()
        processes.give(process)
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", _out_of_processes)
            for _ in range(3):
                with pytest.raises(BlockingIOError):
                    processes.take()
        assert processes.take().is_alive


def _out_of_processes(*_, **__):
    raise BlockingIOError("Resource temporarily unavailable")


@pytest.mark.parametrize("trouble", ["EOFError", "ConnectionResetError"])
def test_what_a_stage_raises_is_not_taken_for_the_end_of_its_process(tmp_path, trouble):
    rows = extract(tmp_path, Troubled(tmp_path / "in", count=2, trouble=trouble), "run.processes=always", workers=1)
    assert (rows["square_1"]["error_type"], rows["square_1"]["error"]) == (trouble, "of the file")


def test_processes_end_with_their_run_whatever_ends_it(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from tests.support import ArraySource\n"
        "from flows.config import load_config; from flows.run.processes import StageProcesses\n"
        "made = StageProcesses(ArraySource(Path(sys.argv[1])), load_config().resolved(), count=1, threads=1)\n"
        "print(made.take()._process.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    pid = int(run.stdout.readline())
    run.kill()
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + 60
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _runs(pid)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_that_were_given_back_are_taken_again_and_end_with_the_block(tmp_path):
    config = load_config(assignments=QUICK).resolved()
    with StageProcesses(ArraySource(tmp_path), config, count=2, threads=1) as processes:
        first = processes.take()
        processes.give(first)
        assert processes.take() is first
        second = processes.take()
        assert second is not first
        assert first.is_alive
    assert not first.is_alive
    assert not second.is_alive


def test_every_source_can_be_sent_to_a_process(tmp_path):
    write_sample(tmp_path)
    for folder in (tmp_path / "bridge_raw", tmp_path / "lerobot_v30"):
        source = open_source(str(folder))
        copy = pickle.loads(pickle.dumps(source))
        listed = list(source.episodes())
        assert [info.episode_id for info in copy.episodes()] == [info.episode_id for info in listed]
        first, second = (each.open(listed[0]) for each in (source, copy))
        assert next(iter(first.pixels)).tobytes() == next(iter(second.pixels)).tobytes()


def test_a_packet_of_a_process_names_what_made_it(tmp_path):
    extract(tmp_path, ArraySource(tmp_path / "in", count=1), "run.processes=always", workers=1)
    (path,) = (tmp_path / "out" / "packets").glob("*/*.h5")
    with Packet(path) as packet:
        assert packet.attributes["stages"]["masks"]["backend"] == "recorded"
