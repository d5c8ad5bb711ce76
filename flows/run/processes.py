"""Stages in processes of their own: on a CPU, Python's lock would have the cores wait for each other.

Motion masks and Lucas-Kanade tracks are many small calls, between which only one thread of a process runs: two threads
on two cores used 75 % of them (docs/performance.md). Where a device does the work threads suffice, and clips of several
episodes can share its calls.

What is decided, locked, saved and recorded stays in the process of the run. A process that is killed, for memory or by
a library's fault, costs its episode alone.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

from extractors.errors import ConfigError, EpisodeError
from flows.child_process import end_with
from flows.config import Config
from flows.models.build import uses_checkpoint
from flows.output.store import StageResult
from flows.run.clips import Opened
from flows.sources.base import EpisodeInfo, Source
from flows.stages import StageOutput

EPISODES_EACH = 4
"""Episodes a process must have before it is worth its start, which takes as long as an episode or two."""

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from flows.run.stage_process import main; main()"

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_ENDS_WITHIN_S = 5.0


class LostProcessError(EpisodeError):
    """The process that worked on the episode ended before it answered."""


@dataclass(frozen=True, slots=True)
class Task:
    """One stage of one episode.

    Attributes:
        stage: its name.
        info, camera: of the episode, as the source opens it.
        results, previous, weights, episode_id: see `StageInputs`.
    """

    stage: str
    info: EpisodeInfo
    camera: str | None
    results: Mapping[str, StageResult]
    previous: StageResult | None
    weights: Mapping[str, str]
    episode_id: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The share of the stage's work that is done."""

    share: float


@dataclass(frozen=True, slots=True)
class Made:
    """What the stage made, and the peak of its process meanwhile, MiB."""

    output: StageOutput
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Raised:
    """What the stage raised."""

    error: Exception


class StageProcess:
    """A process that runs stages, one at a time; started with the object."""

    def __init__(self, given: bytes, threads: int) -> None:
        """`given` is what `StageProcesses` sends each of its processes; `threads` are those of its libraries."""
        self._pipe, other = Pipe()
        places = json.dumps([str(path) for path in sys.path])
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, places, str(os.getpid()), str(other.fileno())],
                pass_fds=[other.fileno()],
                # Ctrl-C is for the run, which has this process end its stage.
                start_new_session=True,
                # Before the libraries are loaded: torch alone takes two seconds, and not every run has a network.
                env={**os.environ, **dict.fromkeys(_THREADS, str(threads))},
            )
        except BaseException:
            self._pipe.close()
            raise
        finally:
            other.close()
        with suppress(ConnectionError):  # of a process that cannot start, `wait_until_ready` says so
            self._pipe.send_bytes(given)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return not self._pipe.closed and self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Returns once the process has the source.

        Raises:
            LostProcessError: it ended.
            Whatever kept it from loading the source.
        """
        said = self._heard("its start")
        if isinstance(said, Raised):
            raise said.error

    def run(self, task: Task, *, opened: Callable[[Opened], bool], moved: Callable[[float], None]) -> Made:
        """What the stage makes of the episode.

        Args:
            task: which.
            opened: called when the episode was opened, before it is read; says whether its frames are to be kept.
            moved: called with the share of the work that is done.

        Raises:
            LostProcessError: the process ended.
            Whatever the stage raises.
        """
        try:
            self._say(task, task.stage)
            while not isinstance(said := self._heard(task.stage), Made | Raised):
                if isinstance(said, Moved):
                    moved(said.share)
                elif isinstance(said, Opened):
                    self._say(opened(said), task.stage)
                else:
                    logging.getLogger(said.name).handle(said)
        except BaseException:
            # In the middle of a task: what it says next would be taken for the answer to another.
            self.close()
            raise
        if isinstance(said, Raised):
            raise said.error
        return said

    def forget(self) -> None:
        """Has the process let go of the episode that it keeps."""
        with suppress(OSError):
            self._pipe.send(None)

    def close(self) -> None:
        """Ends the process, in the middle of a stage too."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def _say(self, what: object, stage: str) -> None:
        try:
            self._pipe.send(what)
        except (EOFError, ConnectionError) as error:
            raise self._lost(stage) from error

    def _heard(self, stage: str) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise self._lost(stage) from error

    def _lost(self, stage: str) -> LostProcessError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN_S)
        self._process.kill()
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return LostProcessError(
            f"the process that worked on stage {stage} ended ({how}); where memory is short, lower --workers, and "
            "otherwise look at the episode's files"
        )


class StageProcesses:
    """Up to `count` processes, each of which has one episode at a time; started when they are needed.

    Use as a context manager: all end with the block.
    """

    def __init__(self, source: Source, config: Config, *, count: int, threads: int) -> None:
        """For episodes of `source`, each process with so many `threads` of libraries; the first is started.

        Raises:
            ConfigError: the source cannot be sent to another process, or not be loaded there.
        """
        level = logging.getLogger("cuepack").getEffectiveLevel()
        self._free: list[StageProcess] = []
        self._all: set[StageProcess] = set()
        self._places = threading.BoundedSemaphore(count)
        self._lock = threading.Lock()
        try:
            # Once for all: the tables of a large data set take seconds.
            self._given = pickle.dumps((source, config, threads, level)), threads
            self.give(self.take())
        except Exception as error:  # whatever an object's own way of being sent, or loaded, raises
            self.__exit__()
            raise ConfigError(
                f"{type(source).__name__} cannot be sent to processes of their own ({error}); set run.processes=never"
            ) from error

    def __enter__(self) -> StageProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            for process in self._all:
                process.close()
            self._all.clear()
            self._free.clear()

    def take(self) -> StageProcess:
        """A process for one episode, which has to be given back.

        Raises:
            OSError, LostProcessError: none can be started.
        """
        self._places.acquire()
        try:
            with self._lock:
                while self._free:
                    # The last used one, which has its models and libraries in memory.
                    process = self._free.pop()
                    if process.is_alive:
                        return process
                    self._all.discard(process)
                started = StageProcess(*self._given)
                self._all.add(started)
            started.wait_until_ready()
            return started
        except BaseException:
            self._places.release()
            raise

    def give(self, process: StageProcess) -> None:
        """Gives a process back; one that has ended is replaced by the next `take`."""
        process.forget()
        with self._lock:
            self._free.append(process)
        self._places.release()


def count_processes(source: Source, config: Config, workers: int, episodes: int) -> int:
    """How many processes a run is worth; 0 where its threads do the work.

    Args:
        source: of the episodes; one whose class is in a script cannot be sent to a process.
        config: resolved.
        workers: episodes worked on at once.
        episodes: of the run.
    """
    if config.run.engine != "local" or config.run.processes == "never":
        return 0
    if config.run.processes == "always":
        return workers
    can_be_sent = type(source).__module__ != "__main__"
    # A network with a checkpoint is large, and would be loaded in each process; its time is spent outside of Python.
    worth = workers > 1 and episodes >= EPISODES_EACH * workers and not uses_checkpoint(config)
    return workers if worth and can_be_sent else 0


def child_pipe() -> Connection:
    """The child's end, whose number is its last argument; the process ends with the one that started it."""
    parent, descriptor = (int(argument) for argument in sys.argv[-2:])
    end_with(parent)
    os.set_inheritable(descriptor, False)  # what a stage starts must not hold it open
    return Connection(descriptor)
