"""What Prefect costs: overhead over a batch of the CPU profile, and how its database grows.

    python -m tests.benchmarks.orchestration [--episodes 64] [--shard-size 16]

The overhead is the time from the first shard to the last that is not spent in a stage, start-up apart, with one worker,
so that stages do not overlap. The database is SQLite, which the embedded server uses.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from tests.benchmarks.pipeline import CUEPACK, _many_episodes

DATASET = 60_000
"""Episodes of BridgeData V2."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--shard-size", type=int, default=16, help="of the measurement; 64 is the default of a run")
    parser.add_argument(
        "--quick", action="store_true", help="recorded masks, no tracks: short stages, so the share is an upper bound"
    )
    options = parser.parse_args()
    quick = ["--set", "masks.backend=recorded", "--set", "tracks.backend=off"] if options.quick else []
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.python_version()}, {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = _many_episodes(work, options.episodes)
        for label, more in (("plain", ["--no-prefect"]), ("Prefect", [])):
            measure_overhead(work, source, label, [*more, *quick, "--set", f"run.shard_size={options.shard_size}"])
        project_growth(work, options.episodes, options.shard_size)


def measure_overhead(work: Path, source: Path, label: str, more: list[str]) -> None:
    """Time beside the stages of one batch, in a process of its own."""
    out = work / f"out-{label}"
    environment = os.environ | {"PREFECT_HOME": str(work / "prefect")}
    environment.pop("PREFECT_API_URL", None)
    command = [*CUEPACK, "extract", str(source), "--out", str(out), "--profile", "cpu", "--workers", "1", "-q", *more]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    seconds = json.loads((out / "run.json").read_text())["seconds"]
    table = pd.read_parquet(out / "manifest.parquet")
    stages = float(table[[name for name in table if name.startswith("seconds_")]].sum().sum())
    rest = seconds["work"] - stages
    print(
        f"  {label:8s} {len(table)} episodes: {stages:.1f} s in stages, {rest:.2f} s beside them = "
        f"{100 * rest / stages:.2f} % (target: under 5 %); start-up {seconds['startup']:.1f} s"
    )


def project_growth(work: Path, episodes: int, shard_size: int) -> None:
    """Bytes that the batch added to Prefect's database, per run and for the whole data set."""
    path = work / "prefect" / "prefect.db"
    fresh = _empty_database(work)
    with sqlite3.connect(path) as database:
        database.execute("pragma wal_checkpoint(truncate)")
        flow_runs, task_runs, artifacts = (
            database.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("flow_run", "task_run", "artifact")
        )
        sheet = database.execute("select sum(length(data)) from artifact").fetchone()[0] or 0
    database.close()
    grown = path.stat().st_size - fresh
    shards = -(-episodes // shard_size)
    per_shard = (grown - sheet) / shards
    projected = DATASET / 64 * per_shard + sheet
    print(
        f"  database: {grown / 1e3:.0f} kB for {shards} shards ({flow_runs} flow runs, {task_runs} task runs, "
        f"{artifacts} artifacts of {sheet / 1e3:.0f} kB); {per_shard / 1e3:.0f} kB a shard; "
        f"{DATASET} episodes in shards of 64: {projected / 1e6:.0f} MB"
    )


def _empty_database(work: Path) -> int:
    """Size of a database that has its tables and no run yet."""
    environment = os.environ | {"PREFECT_HOME": str(work / "empty"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    subprocess.run(
        [sys.executable, "-m", "prefect", "server", "database", "reset", "--yes"],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return (work / "empty" / "prefect.db").stat().st_size


if __name__ == "__main__":
    main()
