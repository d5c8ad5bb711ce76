"""A batch in a process of its own, to be killed: small clips through the whole engine, without Prefect."""

from __future__ import annotations

import multiprocessing
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from flows.run.carry_out import carry_out, run_shard_plainly
from flows.run.plan import Plan
from tests.flows.batches import QUICK, Silent, array_plan
from tests.support import ArraySource

SETTINGS = (*QUICK, "run.shard_size=3")

# A fork server has cv2, h5py and the engine imported once; each batch starts in milliseconds, in a clean process.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.flows.run.crashing"])


def plan_batch(root: Path, count: int = 6) -> Plan:
    """The plan of a batch over `count` clips of `root`/in, into `root`/out."""
    return array_plan(ArraySource(root / "in", count=count), root / "out", SETTINGS, workers=2)


def start_batch(root: Path) -> tuple[BaseProcess, Connection]:
    """Starts a batch; the connection says "ready" before the first shard and gives the rows at the end."""
    here, there = _processes.Pipe()
    process = _processes.Process(target=_batch, args=(root, there), daemon=True)
    process.start()
    there.close()
    assert here.recv() == "ready"
    return process, here


def run_batch(root: Path) -> list[dict[str, Any]]:
    """Runs a batch undisturbed; its rows."""
    process, connection = start_batch(root)
    rows: list[dict[str, Any]] = connection.recv()
    process.join()
    return rows


def kill_after(process: BaseProcess, seconds: float) -> bool:
    """SIGKILL after so long; False where the batch was over before."""
    deadline = time.monotonic() + seconds
    process.join(max(0.0, deadline - time.monotonic()))
    if not process.is_alive():
        return False
    process.kill()
    process.join()
    return process.exitcode == -9


def _batch(root: Path, connection: Connection) -> None:
    threading.excepthook = lambda arguments: None
    connection.send("ready")
    outcome = carry_out(plan_batch(root), Silent(), run_shard_plainly)
    connection.send(outcome.rows)
