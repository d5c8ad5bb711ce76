"""The examining process: what `packers.examiner` starts. It answers questions about packets, a line each."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from packers.examiner import MEMORY_BYTES
from packers.finding import Finding
from packers.validate import broken_promises, examine_packet, form_faults

_LOOK_S = 10.0
"""Between two looks whether the process that asks is still there; a killed one says no goodbye."""

TASKS: dict[str, Callable[[Path], list[Finding]]] = {
    "form": form_faults,
    "packet": broken_promises,
    "validate": examine_packet,
}


def serve() -> None:
    """Answers until standard input ends or the parent has."""
    # Ctrl-C reaches every process of the terminal; this one ends with its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent, asked = os.getppid(), b""
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing that a library prints may pass for an answer
    while os.getppid() == parent:
        ready, _, _ = select.select([0], [], [], _LOOK_S)
        if not ready:
            continue
        part = os.read(0, 1 << 16)
        if not part:
            return
        asked += part
        while b"\n" in asked:
            line, _, asked = asked.partition(b"\n")
            _answer(answers, *json.loads(line))


def _answer(pipe: int, task: str, path: str, seconds: float) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + seconds) + 1
    # SIGXCPU ends the process wherever it is, in C as well.
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
    rows = [[found.dataset, found.frame, found.reason] for found in TASKS[task](Path(path))]
    answer = memoryview(json.dumps(rows).encode() + b"\n")
    while answer:
        answer = answer[os.write(pipe, answer) :]


if __name__ == "__main__":
    sys.exit("started by packers.examiner")
