"""Strangers' packets are looked at by a process of its own, which may loop or end without harm.

HDF5 is a large library in C. A file made by hand can make HDF5 2.0 loop for ever or end the process (24 of 3,000
mutated packets whose checksums were put right; `python -m tests.fuzz --only packets`). What this process has looked
through, by `packers.form`, was read without harm in all of them, so each packet is looked at once before it is opened.

One such process is kept for as long as it behaves; it starts in 0.3 s and then answers in milliseconds.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from extractors.errors import PacketError

CPU_SECONDS, CPU_SECONDS_PER_MB = 20.0, 0.5
"""Time that one packet may take, computing time as a busy machine must not refuse good packets. Validation of a packet
of 40 frames takes 0.2 s, of 2,000 frames of 224 px (550 MB) 25 s."""

WALL_FACTOR = 10
"""Longest wait as a multiple of the computing time: for a file system that does not answer."""

MEMORY_BYTES = 3 * 2**30
"""Address space of the examining process."""

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from packers.examination import serve; serve()"


class Examiner:
    """The process that looks at packets, started when first asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, task: str, path: Path) -> list[list[Any]]:
        """What `packers.examination` answers to `task` about `path`, rows of JSON values.

        Raises:
            PacketError: reading the file ended the process, or took too long.
        """
        seconds = CPU_SECONDS + CPU_SECONDS_PER_MB * path.stat().st_size / 1e6
        # The process keeps the folder in which it was started; this one may have changed its own since.
        request = json.dumps([task, os.fsdecode(path.absolute()), seconds]).encode() + b"\n"
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(request)
                process.stdin.flush()
                answer = _line(process.stdout, seconds * WALL_FACTOR)
            except OSError:
                answer = None
            if answer is not None:
                return list(json.loads(answer))
            self._end()
        raise PacketError(
            f"{path}: refused: HDF5 could not look through it within {seconds:.0f} s of computing time and "
            f"{MEMORY_BYTES >> 30} GiB, or ended; it is damaged, or made to do harm; extract the episode again"
        )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()  # closes the pipes of one that ended by itself
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, json.dumps(sys.path)],
                # Unbuffered: what a dead process did not take must not be written again when the pipe is closed.
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # HDF5 and Python print how they ended; the message above says what matters.
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        """Ends the process; the next question starts another."""
        with self._lock:
            self._end()


def _line(pipe: IO[bytes], seconds: float) -> bytes | None:
    """The next line, None where the process ended or said nothing for `seconds`."""
    found, waiting = b"", select.poll()  # `select` itself stops at 1,024 open files
    waiting.register(pipe, select.POLLIN)
    while not found.endswith(b"\n"):
        part = os.read(pipe.fileno(), 1 << 16) if waiting.poll(1000 * seconds) else b""
        if not part:
            return None
        found += part
    return found


def examine(task: str, path: Path) -> list[list[Any]]:
    """See `Examiner.ask`."""
    return _Here.examiner.ask(task, path)


class _Here:
    """The examiner of this process; a fork starts one of its own and leaves its parent's alone."""

    examiner = Examiner()
    inherited: list[Examiner] = []  # noqa: RUF012 - kept, as dropping one would wait for the parent's process

    @classmethod
    def after_fork(cls) -> None:
        cls.inherited.append(cls.examiner)
        cls.examiner = Examiner()


os.register_at_fork(after_in_child=_Here.after_fork)
atexit.register(lambda: _Here.examiner.close())
