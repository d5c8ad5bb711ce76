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

from extractors.errors import ConfigError, EpisodeError
from flows.config import Config
from flows.models.build import uses_device
from flows.output.store import StageResult
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
class Opened:
    """What an episode takes that was just opened: bytes of its decoded frames, and of what stages work with."""

    decoded: int
    working: int


@dataclass(frozen=True, slots=True)
class Moved:
    """The share of the stage's work that is done."""

    share: float


@dataclass(frozen=True, slots=True)
class Made:
    """What the stage made, and the peak of its process meanwhile, MiB."""

    output: StageOutput
    peak_mb: float


class StageProcess:
    """A process that runs stages, one at a time; started with the object."""

    def __init__(self, given: bytes, threads: int) -> None:
        """`given` is what `StageProcesses` sends each of its processes; `threads` are those of its libraries."""
        self._pipe, other = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(sys.path), str(other.fileno())],
            pass_fds=[other.fileno()],
            # Ctrl-C is for the run, which has this process end its stage.
            start_new_session=True,
            # Before the libraries are loaded: torch alone takes two seconds, and not every run has a network.
            env={**os.environ, **dict.fromkeys(_THREADS, str(threads))},
        )
        other.close()
        with suppress(ConnectionError):  # of a process that cannot start, `run` says so
            self._pipe.send(given)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

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
            self._pipe.send(task)
            while True:
                said = self._pipe.recv()
                if isinstance(said, Made):
                    return said
                if isinstance(said, Moved):
                    moved(said.share)
                elif isinstance(said, Opened):
                    self._pipe.send(opened(said))
                elif isinstance(said, logging.LogRecord):
                    logging.getLogger(said.name).handle(said)
                else:
                    raise said
        except (EOFError, ConnectionError) as error:
            raise LostProcessError(
                f"the process that worked on stage {task.stage} ended ({self._end()}); where memory is short, lower "
                "--workers, and otherwise look at the episode's files"
            ) from error

    def close(self) -> None:
        """Ends the process, in the middle of a stage too."""
        self._process.kill()
        self._end()

    def _end(self) -> str:
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN_S)
        self._process.kill()
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class StageProcesses:
    """Up to `count` processes, each of which has one episode at a time; started when they are needed.

    Use as a context manager: all end with the block.
    """

    def __init__(self, source: Source, config: Config, *, count: int, threads: int) -> None:
        """For episodes of `source`, each process with so many `threads` of libraries.

        Raises:
            ConfigError: the source cannot be sent to another process.
        """
        level = logging.getLogger("cuepack").getEffectiveLevel()
        try:
            # Once for all: the tables of a large data set take seconds.
            given = pickle.dumps((source, config, threads, level))
        except Exception as error:  # whatever an object's own way of being sent raises
            raise ConfigError(
                f"{type(source).__name__} cannot be sent to processes of their own ({error}); set run.processes=never"
            ) from error
        self._given = given, threads
        self._free: list[StageProcess] = []
        self._all: set[StageProcess] = set()
        self._places = threading.BoundedSemaphore(count)
        self._lock = threading.Lock()

    def __enter__(self) -> StageProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            for process in self._all:
                process.close()
            self._all.clear()
            self._free.clear()

    def take(self) -> StageProcess:
        """A process for one episode, which has to be given back."""
        self._places.acquire()
        with self._lock:
            while self._free:
                # The last used one, which has its models and libraries in memory.
                process = self._free.pop()
                if process.is_alive:
                    return process
                self._all.discard(process)
            started = StageProcess(*self._given)
            self._all.add(started)
            return started

    def give(self, process: StageProcess) -> None:
        """Gives a process back; one that has ended is replaced by the next `take`."""
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
    if config.run.processes != "auto":
        return workers if config.run.processes == "always" else 0
    can_be_sent = type(source).__module__ != "__main__"
    worth = workers > 1 and episodes >= EPISODES_EACH * workers and can_be_sent
    return workers if worth and config.run.engine == "local" and not uses_device(config) else 0


def child_pipe() -> Connection:
    """The child's end, whose number is its last argument."""
    descriptor = int(sys.argv[-1])
    os.set_inheritable(descriptor, False)  # what a stage starts must not hold it open
    return Connection(descriptor)
