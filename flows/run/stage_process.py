"""What runs in a process of `flows.run.processes`: stages, one after another, until the run ends."""

from __future__ import annotations

import logging
import logging.handlers
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import cv2

from extractors.advance import advance_heard
from extractors.errors import CuepackError
from extractors.types import Episode
from flows.config import Config
from flows.run.clips import Opened, open_episode
from flows.run.machine import peak_memory
from flows.run.processes import Made, Moved, Raised, Task, child_pipe
from flows.sources import video
from flows.sources.base import Source
from flows.stages import STAGES, StageInputs

MOVED_EVERY_S = 0.5
"""Seconds between two messages of how far a stage has come."""


class _ToTheRun(logging.handlers.QueueHandler):
    """Sends log records to the process of the run, which formats them."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._send = send

    def enqueue(self, record: logging.LogRecord) -> None:
        self._send(record)


class _Worker:
    def __init__(self, pipe: Connection, source: Source, config: Config) -> None:
        self._pipe, self._source, self._config = pipe, source, config
        self._stages = {stage.name: stage for stage in STAGES}
        self._episode: Episode | None = None
        self._lock = threading.Lock()

    def send(self, what: Any) -> None:
        # What is sent may log while it is put into bytes, and decoders' own threads log too.
        data = pickle.dumps(what)
        with self._lock:
            self._pipe.send_bytes(data)

    def answer(self, task: Task) -> Made | Raised:
        inputs = StageInputs(
            lambda: self._open(task), task.results, self._config, task.previous, task.weights, task.episode_id
        )
        last = time.monotonic()

        def hear(share: float) -> None:
            nonlocal last
            if time.monotonic() - last > MOVED_EVERY_S:
                last = time.monotonic()
                self.send(Moved(share))

        try:
            with peak_memory() as peak, advance_heard(hear):
                output = self._stages[task.stage].run(inputs)
        except Exception as error:
            return Raised(_sendable(error))
        return Made(output, peak.mb)

    def forget(self) -> None:
        """Lets go of the episode: it is over, and the run counts its memory as free."""
        self._episode = None

    def _open(self, task: Task) -> Episode:
        if self._episode is None:
            size = self._config.packet.height, self._config.packet.width
            self._episode = open_episode(self._source, task.info, task.camera, size, self._keeps)
        return self._episode

    def _keeps(self, opened: Opened) -> bool:
        self.send(opened)
        return bool(self._pipe.recv())


def _sendable(error: Exception) -> Exception:
    if not isinstance(error, CuepackError):
        # The run logs where an unforeseen error came from, and there it came from a pipe.
        error.add_note("".join(traceback.format_exception(error)))
    try:
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    except Exception as unsendable:
        return RuntimeError(f"{type(error).__name__}: {error} (which cannot be sent: {unsendable})")
    return RuntimeError(f"{type(error).__name__}: {error}")


def main() -> None:
    """Answers the tasks that come, until the run closes the pipe or ends."""
    # The run is told, and lets a stage end; a batch system tells every process of a job.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    pipe = child_pipe()
    try:
        try:
            source, config, threads, level = pickle.loads(pipe.recv_bytes())
        except Exception as error:
            pipe.send(Raised(_sendable(error)))
            sys.exit(1)
        worker = _Worker(pipe, source, config)
        root = logging.getLogger()
        root.addHandler(_ToTheRun(worker.send))
        root.setLevel(level)
        # Torch, BLAS and OpenMP have theirs from the environment.
        cv2.setNumThreads(threads)
        video.set_decoder_threads(threads)
        worker.send(None)
        while True:
            task = pipe.recv()
            if task is None:
                worker.forget()
            else:
                worker.send(worker.answer(task))
    except (EOFError, ConnectionError):
        sys.exit(0)
