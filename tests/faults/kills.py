"""SIGKILL at random points of real `cuepack extract` runs on the bundled sample; packets compared byte for byte.

    python -m tests.faults.kills --kills 60 --seed 1 [--prefect 6]

Every batch is killed until it ends by itself, then run once more undisturbed. After each kill no packet may be torn or
differ from the one of an undisturbed run; at the end packets and rows must be equal, and nothing half written be left.
With `--prefect` that many further kills hit runs with their server, which must be gone soon after. Otherwise the exit
code is 1.

Runs without Prefect are forked from a process that has the libraries imported: the command is the same, and the kills
hit its work instead of its imports.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.output.manifest import COST_PREFIXES, Manifest
from flows.output.store import LEFTOVERS
from flows.sources.sample import write_sample
from packers.atomic import TEMPORARY
from packers.validate import validate_packet

SETTINGS = (
    "masks.backend=recorded",
    "tracks.backend=off",
    "run.profile=cpu",
    "packet.height=96",
    "packet.width=128",
    "run.shard_size=2",
)
ANYWHERE = 0.2
"""Share of kills at any point of the process's life; the others come after its first write, where they can tear."""

SERVER_GONE_S = 15.0

_OF_THE_RUN = (*COST_PREFIXES, "stages_computed", "source_stamp", "packed_from", "recorded_at")


@dataclass(slots=True)
class Tally:
    """What the kills met.

    Attributes:
        kills: processes that SIGKILL ended.
        batches: output directories.
        undone: kills that left episodes without a packet.
        half_written: kills that left half-written files behind.
        faults: what may not be.
    """

    kills: int = 0
    batches: int = 0
    undone: int = 0
    half_written: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        """Notes what may not be, and says it at once."""
        self.faults.append(text)
        print(text, file=sys.stderr, flush=True)


_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["flows.cli", "flows.run.plan", "flows.run.carry_out", "flows.stages.source", "cv2", "torch"]
)


class Run:
    """One `cuepack extract` in a process of its own, as a user starts it."""

    def __init__(self, source: Path, out: Path, home: Path, *, prefect: bool) -> None:
        options = [part for each in SETTINGS for part in ("--set", each)]
        options += ["-q", "--workers", "2", *([] if prefect else ["--no-prefect"])]
        arguments = ["extract", str(source), "--out", str(out), *options]
        self._said = out.with_name(f"{out.name}.said")
        if prefect:
            environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
            with self._said.open("wb") as said:
                self._popen = subprocess.Popen(
                    [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
                    env=environment | {"PREFECT_HOME": str(home)},
                    stdout=said,
                    stderr=said,
                )
            self.pid = self._popen.pid
            return
        process = _processes.Process(target=_command, args=(arguments, self._said))
        process.start()
        self._popen, self._process, self.pid = None, process, process.pid

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, None where it still runs after `seconds`."""
        if self._popen is None:
            self._process.join(seconds)
            return self._process.exitcode
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._popen.wait(seconds)
        return None

    def kill(self) -> int | None:
        """Ends it by SIGKILL, unless it is over; the exit code."""
        (self._popen or self._process).kill()
        return self.wait()

    def said(self) -> str:
        """The end of what it said."""
        return self._said.read_text(errors="replace")[-300:]


def _command(arguments: list[str], said: Path) -> None:
    from flows.cli import main as cuepack

    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    cuepack(arguments)


def digests(out: Path) -> dict[str, str]:
    """Sha256 of every packet."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in packets(out)}


def packets(out: Path) -> list[Path]:
    """The packets; what is being written beside them is hidden, and none yet."""
    return [path for path in out.glob("packets/*/*.h5") if not path.name.startswith(TEMPORARY)]


def leftovers(out: Path) -> list[Path]:
    """Files that only a run under way may have."""
    return [path for pattern in (*LEFTOVERS, ".*.tmp", ".work/stages/*/*/*") for path in out.glob(pattern)]


def lasting_rows(out: Path) -> dict[str, dict[str, Any]]:
    """The manifest without what differs from run to run."""
    rows = Manifest(out).rows()
    return {name: {key: row[key] for key in row if not key.startswith(_OF_THE_RUN)} for name, row in rows.items()}


def processes_of(home: Path) -> list[int]:
    """Live processes whose environment names `home`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"PREFECT_HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


class Killing:
    """Kills of batches over one source, against the packets of an undisturbed run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._source, self._home, self._folder = folder / "sample" / "bridge_raw", folder / "home", folder
        self._rng, self.tally = random.Random(seed), Tally()
        write_sample(folder / "sample")
        self._undisturbed("first")  # imports and caches of the process that others are forked from
        started = time.monotonic()
        self._undisturbed("whole")
        self._life_s = time.monotonic() - started
        self._expected, self._rows = digests(folder / "whole"), lasting_rows(folder / "whole")
        self._work_s = 0.5 * self._life_s
        assert self._expected

    def run(self, kills: int, *, prefect: bool = False) -> None:
        """Kills `kills` more processes."""
        until = self.tally.kills + kills
        while self.tally.kills < until:
            name = f"killed-{self.tally.batches}"
            self.tally.batches += 1
            while self.tally.kills < until and self._killed(self._folder / name, prefect=prefect):
                self._look(self._folder / name)
            self._undisturbed(name)
            self._compare(self._folder / name)
            print(f"{self.tally.kills} kills, {len(self.tally.faults)} faults", file=sys.stderr, flush=True)

    def _killed(self, out: Path, *, prefect: bool) -> bool:
        """Starts a run and kills it; False where it was over before."""
        before = {path: path.stat().st_mtime_ns for path in out.glob(".work/*")}
        run = Run(self._source, out, self._home, prefect=prefect)
        started = time.monotonic()
        if self._rng.random() < ANYWHERE:
            wait_s = self._rng.uniform(0, self._life_s)
        else:
            while run.wait(0.002) is None and self._unchanged(out, before):
                pass
            wait_s = self._rng.uniform(0, self._work_s)
            started = time.monotonic()
        run.wait(wait_s)
        code = run.kill()
        if code != -signal.SIGKILL:
            # How long the work takes, as this machine is now.
            self._work_s = max(0.2, 0.5 * self._work_s + 0.5 * (time.monotonic() - started))
            if code != 0:
                self.tally.fault(f"{out.name}: exit code {code}: {run.said()}")
            return False
        self.tally.kills += 1
        return True

    def _unchanged(self, out: Path, before: dict[Path, int]) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return {path: path.stat().st_mtime_ns for path in out.glob(".work/*")} == before
        return False

    def _look(self, out: Path) -> None:
        """What a kill may leave: whole packets of the right bytes, and files that the next run removes."""
        found = digests(out)
        self.tally.undone += len(found) < len(self._expected)
        self.tally.half_written += any(".tmp-" in path.name for path in leftovers(out))
        for path in packets(out):
            if findings := validate_packet(path):
                self.tally.fault(f"{out.name}: {path.name} is torn: {findings[0]}")
        if not found.items() <= self._expected.items():
            self.tally.fault(f"{out.name}: other bytes after a kill")
        deadline = time.monotonic() + SERVER_GONE_S
        while processes_of(self._home):
            if time.monotonic() > deadline:
                self.tally.fault(f"{out.name}: processes outlived their run: {processes_of(self._home)}")
                return
            time.sleep(0.1)

    def _undisturbed(self, name: str) -> None:
        run = Run(self._source, self._folder / name, self._home, prefect=False)
        if (code := run.wait()) != 0:
            self.tally.fault(f"{name}: undisturbed, exit code {code}: {run.said()}")

    def _compare(self, out: Path) -> None:
        if digests(out) != self._expected:
            self.tally.fault(f"{out.name}: other packets than an undisturbed run's")
        if lasting_rows(out) != self._rows:
            self.tally.fault(f"{out.name}: other rows than an undisturbed run's")
        if left := leftovers(out):
            self.tally.fault(f"{out.name}: left behind {[path.name for path in left]}")


def main() -> None:
    """Kills, and says what it met."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills", description="SIGKILL at random points.")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--prefect", type=int, default=0, help="further kills of runs with Prefect and their server")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        killing = Killing(Path(folder), given.seed)
        killing.run(given.kills)
        killing.run(given.prefect, prefect=True)
        tally = killing.tally
    print(
        f"seed {given.seed}: {tally.kills} kills ({given.prefect} with Prefect) over {tally.batches} batches; "
        f"{tally.undone} left work undone, {tally.half_written} left half-written files; {len(tally.faults)} faults"
    )
    sys.exit(1 if tally.faults else 0)


if __name__ == "__main__":
    main()
