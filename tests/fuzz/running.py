"""Runs fuzz cases in a child process that is watched: time, memory, programs started, files written outside.

A case is a function of an empty folder and a random generator; it makes one bad input there, gives it to the code
under test and returns how that ended in a word. Errors that cuepack raises on purpose are an answer; every other
exception is a crash. Input n of a case is made of the seed n alone, so that a finding is repeated by its number.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from extractors.errors import CuepackError

Case = Callable[[Path, np.random.Generator], str]

MOST_BYTES = 3 * 2**30
"""Resident memory that no input may cost, bytes."""

_ADDRESSES = 12 * 2**30  # address space of the child, so that a bomb ends the child and not the machine
_INPUTS_A_CHILD = 2000  # then a fresh one: a leak shows in its memory, and cannot add up for ever
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "socket.connect", "pty.spawn")


@dataclass(slots=True)
class Result:
    """What became of the inputs of one case.

    Attributes:
        name: the case.
        outcomes: how inputs ended -> how many.
        faults: "crash", "hang", "died", "memory", "program", "outside" -> (input's number, what was seen).
        peak: largest resident memory of a child, bytes.
    """

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    peak: int = 0

    @property
    def good(self) -> bool:
        return not self.faults

    def add(self, kind: str, seed: int, what: str) -> None:
        self.faults.setdefault(kind, []).append((seed, what))


def run(
    cases: Mapping[str, str], count: int, *, seed: int = 0, seconds: float = 30, first: float = 120
) -> list[Result]:
    """`count` inputs of each case (name -> module that has it in `CASES`), in child processes.

    An input may take `seconds`, a child's first of a case `first` more: it pays for imports and the good source.
    """
    results = []
    child = _Child()
    for name, module in cases.items():
        result = Result(name)
        results.append(result)
        for number in range(seed, seed + count):
            if not child.ask(module, name, number, seconds, first, result) or child.served >= _INPUTS_A_CHILD:
                child.end()
                child = _Child()
    child.end()
    return results


def format_results(results: list[Result]) -> str:
    """A line for each case, then each fault with the number that repeats it."""
    lines = []
    for result in results:
        total = sum(result.outcomes.values()) + sum(map(len, result.faults.values()))
        ends = ", ".join(f"{count} {name}" for name, count in sorted(result.outcomes.items()))
        lines.append(f"{result.name}: {total} inputs, {ends}; peak {result.peak / 2**20:.0f} MiB")
        for kind, found in result.faults.items():
            lines += [f"  {kind} (--case {result.name} --seed {seed} --count 1): {what}" for seed, what in found]
    totals = {kind: sum(len(r.faults.get(kind, [])) for r in results) for kind in FAULTS}
    counted = ", ".join(f"{kind} {count}" for kind, count in totals.items())
    inputs = sum(sum(r.outcomes.values()) + sum(map(len, r.faults.values())) for r in results)
    return "\n".join([*lines, f"{inputs} inputs: {counted}"])


FAULTS = ("crash", "hang", "died", "memory", "program", "outside")


class _Child:
    def __init__(self) -> None:
        self.served = 0
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._folder = Path(tempfile.mkdtemp(prefix="cuepack-fuzz-"))
        self._process = context.Process(target=_serve, args=(theirs, str(self._folder)), daemon=True)
        self._process.start()
        theirs.close()
        self._known: set[str] = set()

    def ask(self, module: str, name: str, number: int, seconds: float, first: float, result: Result) -> bool:
        """One input; False where the child cannot go on."""
        self.served += 1
        self._pipe.send((module, name, number))
        limit = seconds if name in self._known else seconds + first
        self._known.add(name)
        if not self._pipe.poll(limit):
            result.add("hang", number, f"no answer in {seconds:g} s")
            return False
        try:
            kind, what, peak = self._pipe.recv()
        except EOFError:
            self._process.join()
            result.add("died", number, f"exit code {self._process.exitcode}")
            return False
        result.peak = max(result.peak, peak)
        if kind == "ended":
            result.outcomes[what] += 1
        else:
            result.add(kind, number, what)
        return bool(peak <= MOST_BYTES)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _serve(pipe: Connection, folder: str) -> None:
    """The child: answers each (module, case, number) with (kind, what, peak bytes)."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # ffmpeg, libpng and numpy say on standard error what they think of an input; that is not the result.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.simplefilter("ignore")
    seen: list[tuple[str, str]] = []
    _listen(folder, seen)
    inside = Path(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(inside)
    while True:
        module, name, number = pipe.recv()
        case: Case = importlib.import_module(module).CASES[name]
        seen.clear()
        made = inside / str(number)
        made.mkdir()
        answer = _one(case, made, number)
        answer = seen[0] if seen and answer[0] == "ended" else answer
        shutil.rmtree(made, ignore_errors=True)
        peak = _peak_bytes()
        if peak > MOST_BYTES and answer[0] == "ended":
            answer = ("memory", f"{peak / 2**30:.1f} GiB")
        pipe.send((*answer, peak))


def _peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    # Not ru_maxrss: a new process starts with that of the one that started it, and a test's may be gigabytes.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)[1]) * 1024  # type: ignore[index]


def _one(case: Case, folder: Path, number: int) -> tuple[str, str]:
    try:
        return "ended", case(folder, np.random.default_rng(number))
    except CuepackError as error:
        str(error).encode()  # what cannot be printed is a traceback at the user's
        return "ended", f"refused: {type(error).__name__}"
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [
            f for f in frames if "/flows/" in f.filename or "/packers/" in f.filename or "/extractors/" in f.filename
        ]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "outside cuepack"
        return "crash", ascii(f"{type(error).__name__} at {place}: {str(error)[:200]}")


def _listen(folder: str, seen: list[tuple[str, str]]) -> None:
    """Notes programs started, connections made, and files opened for writing outside `folder`."""

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _PROGRAMS:
            seen.append(("program", ascii(f"{event} {arguments!r}"[:200])))
        elif event == "open" and len(arguments) == 3:
            path, mode, flags = arguments
            writes = any(c in mode for c in "wa+x") if isinstance(mode, str) else bool((flags or 0) & _WRITES)
            if writes and isinstance(path, (str, bytes)) and not _allowed(os.fsdecode(path), folder):
                seen.append(("outside", ascii(os.fsdecode(path))))

    sys.addaudithook(heard)


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _allowed(path: str, folder: str) -> bool:
    return os.path.abspath(path).startswith((folder, "/dev/", "/proc/self/")) or "__pycache__" in path
