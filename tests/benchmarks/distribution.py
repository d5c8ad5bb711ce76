"""Two workers on one machine beside one, through a Prefect work pool, Ray and Dask; and the loss of one of two.

    python -m tests.benchmarks.distribution [--engines workers,ray,dask] [--episodes 16] [--sleep 3] [--kill]

The episodes are copies of the bundled sample's, and a stage sleeps (`tests/benchmarks/slow_stage`), as a model on a
device of its own would: what is measured is the engine. Throughput is episodes a second from the beginning of the first
shard to the last row, so that starting Ray or Dask does not count, but starting a process for each shard does. With
`--kill` one of two workers gets SIGKILL in the middle; the batch must end with every episode done, and the same packets
as a run in one process. Workers of the pool have a home, a cache and a temporary folder each: they share the server's
address, the source, and the output. Needs prefect-ray and prefect-dask.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from flows.orchestration.settings import server_answers
from flows.output.manifest import Manifest, Row
from tests.benchmarks.pipeline import CUEPACK, _many_episodes
from tests.support import REPOSITORY, WITHOUT_MODELS, set_options

SLOW_STAGE = Path(__file__).resolve().parent / "slow_stage"
QUICK = set_options(*WITHOUT_MODELS, "run.profile=cpu", "packet.height=48", "packet.width=64", "run.workers=1")
SHARD_PROCESS = {"ray": re.compile(r"ray::(?!IDLE|\w*Agent)"), "dask": re.compile(r"multiprocessing\.spawn")}
"""What the command line of a process that works on a shard has in it."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="workers,ray,dask")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--shard-size", type=int, default=4)
    parser.add_argument("--sleep", type=float, default=3.0, help="seconds that the stage `source` sleeps an episode")
    parser.add_argument("--available", action="store_true", help="only the engines whose packages are there; say which")
    parser.add_argument("--kill", action="store_true", help="also lose one of two workers")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}; "
        f"{options.episodes} episodes in shards of {options.shard_size}, a stage of {options.sleep:g} s"
    )
    engines = options.engines.split(",")
    if options.available:
        missing = [each for each in engines if each != "workers" and find_spec(f"prefect_{each}") is None]
        engines = [each for each in engines if each not in missing]
        print("".join(f"  {each}: not measured, prefect-{each} is not installed\n" for each in missing), end="")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = _many_episodes(work, options.episodes)
        expected = packets(plain_run(work, source))
        for engine in engines:
            compare(Bench(engine, work, source, options.shard_size, options.sleep), expected, kill=options.kill)


def compare(bench: Bench, expected: dict[str, bytes], *, kill: bool) -> None:
    """One worker, two, and where asked for two of which one is lost."""
    rates = {count: bench.run(count, expected) for count in (1, 2)}
    print(
        f"{bench.engine:8} one worker {60 * rates[1]:6.1f} episodes a minute, two {60 * rates[2]:6.1f}: "
        f"{rates[2] / rates[1]:.2f} times",
        flush=True,
    )
    if kill:
        started = time.monotonic()
        bench.run(2, expected, lose_one=True)
        print(
            f"{'':8} one of two lost: every episode done, the same bytes, {time.monotonic() - started:.0f} s",
            flush=True,
        )


class Bench:
    """One engine and what it works on.

    Args:
        engine: of `run.engine`.
        work: a folder for everything.
        source: the episodes.
        shard_size: episodes in a shard.
        sleep_s: what the slow stage takes, seconds.
    """

    def __init__(self, engine: str, work: Path, source: Path, shard_size: int, sleep_s: float) -> None:
        self.engine, self.work, self.source, self.shard_size = engine, work, source, shard_size
        self._pool: list[subprocess.Popen[bytes]] = []
        self.sleep = {"CUEPACK_BENCH_SLEEP_S": str(sleep_s), "PYTHONPATH": f"{SLOW_STAGE}:{REPOSITORY}"}

    def run(self, count: int, expected: dict[str, bytes], *, lose_one: bool = False) -> float:
        """Episodes a second of a whole batch on `count` workers; every packet is compared with the one `expected`."""
        out = self.work / f"out-{self.engine}-{count}{'-lost' * lose_one}"
        with ExitStack() as stack:
            environment = stack.enter_context(self.server(out.name))
            if self.engine == "workers":
                self.start_workers(stack, environment, out, count)
            in_flight = 2 * count if self.engine == "workers" else count
            settings = set_options(
                f"run.engine={self.engine}", f"run.in_flight={in_flight}", f"run.shard_size={self.shard_size}"
            )
            command = [*CUEPACK, "extract", str(self.source), "--out", str(out), *QUICK, "-q", *settings]
            batch = stack.enter_context(running(command, environment | self.sleep))
            if lose_one:
                until(lambda: any(out.glob("packets/*/*.h5")), "the first packet")
                self.lose_one(batch)
            assert batch.wait(1200) == 0, f"{self.engine}: exit code {batch.returncode}"
        rows = list(Manifest(out).rows().values())
        assert {row["status"] for row in rows} == {"done"}, [row.get("error") for row in rows]
        assert packets(out) == expected
        return self.rate(rows)

    def rate(self, rows: list[Row]) -> float:
        """Episodes a second from when the first shard began, which the seconds of its stages say, to the last row."""
        rows = sorted(rows, key=lambda row: int(row["episode_index"]))
        shards = [rows[start : start + self.shard_size] for start in range(0, len(rows), self.shard_size)]
        began = [
            max(float(row["recorded_at"]) for row in shard)
            - sum(float(row[name]) for row in shard for name in row if name.startswith("seconds_"))
            for shard in shards
        ]
        return len(rows) / (max(float(row["recorded_at"]) for row in rows) - min(began))

    @contextmanager
    def server(self, name: str) -> Iterator[dict[str, str]]:
        """A Prefect server of its own; yields the environment of its clients."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        url = f"http://127.0.0.1:{port}/api"
        home = {"PREFECT_HOME": str(self.work / f"server-{name}"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        environment = os.environ | {"PREFECT_API_URL": url, "PREFECT_LOGGING_LEVEL": "ERROR"} | home
        command = [sys.executable, "-m", "flows.orchestration.server_process", "--host", "127.0.0.1"]
        with running([*command, "--port", str(port)], environment | {"PYTHONPATH": str(REPOSITORY)}):
            until(lambda: server_answers(url), "the server to answer")
            yield environment

    def start_workers(self, stack: ExitStack, environment: dict[str, str], out: Path, count: int) -> None:
        """A work pool, its deployments, and `count` workers that take one shard at a time."""
        prefect = [sys.executable, "-m", "prefect"]
        deploy = [*CUEPACK, "deploy", str(self.source), "--out", str(out), "--pool", "bench"]
        for command in ([*prefect, "work-pool", "create", "bench", "--type", "process"], deploy):
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        self._pool = []
        for number in range(count):
            own = {name: str(self.work / f"{out.name}-{number}" / name) for name in ("HOME", "CUEPACK_CACHE", "TMPDIR")}
            for folder in own.values():
                Path(folder).mkdir(parents=True)
            own |= {"PREFECT_HOME": f"{own['HOME']}/.prefect", "PREFECT_WORKER_QUERY_SECONDS": "1"}
            command = [*prefect, "worker", "start", "--pool", "bench", "--limit", "1", "--name", f"worker-{number}"]
            self._pool.append(stack.enter_context(running(command, environment | self.sleep | own)))

    def lose_one(self, batch: subprocess.Popen[bytes]) -> None:
        """Ends one of the workers with SIGKILL: a whole worker of the pool, or one process of Ray or Dask."""
        if self.engine == "workers":
            lost = [*descendants(self._pool[0].pid), self._pool[0].pid]
        else:
            lost = [pid for pid in descendants(batch.pid) if SHARD_PROCESS[self.engine].search(command_line(pid))][:1]
        assert lost, f"no process of {self.engine} to lose"
        for pid in lost:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def plain_run(work: Path, source: Path) -> Path:
    """The same batch in one process, without Prefect and without the sleep."""
    out = work / "plain"
    command = [*CUEPACK, "extract", str(source), "--out", str(out), *QUICK, "-q", "--no-prefect"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.DEVNULL)
    return out


def packets(out: Path) -> dict[str, bytes]:
    """The packets of an output directory by name."""
    return {path.name: path.read_bytes() for path in out.glob("packets/*/*.h5")}


@contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, which ends with the block: first asked to, then made to."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 - handed to the process
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=log, stderr=log)
    try:
        yield process
    except BaseException:
        log.seek(0)
        sys.stderr.write(log.read().decode(errors="replace")[-4000:])
        raise
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)


def until(reached: Callable[[], bool], name: str, seconds: float = 300) -> None:
    """Waits for something that is looked at four times a second."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {name}"
        time.sleep(0.25)


def descendants(pid: int) -> list[int]:
    """Processes that `pid` started, and those that these started."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found


def command_line(pid: int) -> str:
    """The words of a process's command, "" where it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


if __name__ == "__main__":
    main()
