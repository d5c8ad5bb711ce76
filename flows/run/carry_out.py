"""Carries out a plan, shard by shard, with Prefect or plainly; both call the same engine."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from extractors.errors import ConfigError, CuepackError, OutputError
from flows.output.manifest import Row
from flows.remote.mirror import say
from flows.run.plan import Plan
from flows.run.processes import StageProcesses, count_processes
from flows.run.shard import ALL_STAGES, Job, Progress, Shard
from flows.run.stream import Interrupted

log = logging.getLogger("cuepack")

ShardRunner = Callable[[Plan, int, list[Job]], list[Row]]
INTERRUPTED = 130

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Dispatch = Callable[[Plan, ShardRunner], Iterator[list[Row]]]


@dataclass(slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        rows: one per episode asked for, finished ones of earlier runs included.
        interrupted: whether Ctrl-C ended it.
        error: what stopped the run as a whole, None where nothing did.
        began: when the first shard began, on the monotonic clock, seconds; before that is start-up.
        seconds: that the shards took.
    """

    rows: list[Row] = field(default_factory=list)
    interrupted: bool = False
    error: CuepackError | None = None
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    def add(self, other: Outcome) -> None:
        """Takes in how another plan of the same command ended."""
        self.rows += other.rows
        self.seconds += other.seconds
        self.interrupted = self.interrupted or other.interrupted
        self.error = self.error or other.error

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 130 after Ctrl-C, 1 where something failed, else 0."""
        if self.interrupted:
            return INTERRUPTED
        failed = any(row["status"] in ("failed", "busy") for row in self.rows)
        return 1 if failed or self.error is not None else 0


def one_after_another(plan: Plan, run_shard: ShardRunner) -> Iterator[list[Row]]:
    """Runs the shards of `plan` in this process; yields the rows of each."""
    for index, jobs in enumerate(plan.shards):
        yield run_shard(plan, index, jobs)


def carry_out(
    plan: Plan, progress: Progress, run_shard: ShardRunner, dispatch: Dispatch = one_after_another
) -> Outcome:
    """Runs every shard of `plan` through `run_shard`, in the way of `dispatch`, and merges the manifest meanwhile.

    A full disk or Ctrl-C ends the run early; what is packed stays, and the next run goes on from there.
    """
    outcome = Outcome(rows=[*plan.finished, *plan.filtered, *plan.given_up])
    manifest = plan.work.manifest
    try:
        # `in_use` comes first: it removes what a killed run left, which must be over before a shard writes.
        with plan.work.store.in_use(), _stop_on_signal(plan.work.stop), _processes(plan) as processes:
            plan.work = replace(plan.work, progress=progress, processes=processes)
            # Filtered episodes reach no shard, which would journal their rows.
            for row in plan.filtered:
                manifest.add(row)
            for rows in dispatch(plan, run_shard):
                outcome.rows += rows
                # Between shards: a merge holds the lock for which every finished row of a shard waits.
                manifest.merge_if_due()
    except (Interrupted, KeyboardInterrupt):
        outcome.interrupted = True
    except OutputError as error:
        outcome.error = error
    outcome.seconds = time.monotonic() - outcome.began
    # A shard that was cut short yields no rows; those of its finished episodes are in `recorded`.
    listed = {row["episode_id"] for row in outcome.rows}
    outcome.rows += [row for row in plan.work.recorded if row["episode_id"] not in listed]
    try:
        # Also after a full disk or Ctrl-C: the journal alone is not what people and other programs read.
        manifest.merge()
    except OutputError as error:
        outcome.error = outcome.error or error
    return outcome


def _processes(plan: Plan) -> AbstractContextManager[StageProcesses | None]:
    work = plan.work
    count = count_processes(work.source, work.config, work.workers, len(plan.jobs))
    if not count:
        return nullcontext()
    try:
        return StageProcesses(work.source, work.config, count=count, threads=work.threads)
    except ConfigError as error:
        if work.config.run.processes == "always":
            raise
        log.warning("stages run in threads: %s", error)
        return nullcontext()


def run_shard_plainly(plan: Plan, index: int, jobs: list[Job]) -> list[Row]:
    """One shard through all stages, without Prefect."""
    with Shard(plan.work, jobs, plan.earlier) as shard:
        for stage in ALL_STAGES:
            shard.run(stage)
        return shard.rows


def end_process(code: int) -> NoReturn:
    """Ends this process and those that it started, such as Prefect's embedded server, without waiting for threads."""
    with contextlib.suppress(OSError):
        for children in Path("/proc/self/task").glob("*/children"):
            for child in children.read_text().split():
                with contextlib.suppress(OSError):
                    os.kill(int(child), signal.SIGTERM)
    # Not sys.exit, which waits for worker threads: a model on a long clip cannot be interrupted.
    os._exit(code)


@contextmanager
def _stop_on_signal(stop: threading.Event) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP ends the run at the next episode boundary, a second one the process.

    What a thread is in the middle of, such as a model on a long clip, cannot be interrupted, and a process that waits
    for it looks as if it had not heard. Ending it is safe: packets are whole or absent, finished rows are in the
    journal, locks end with their process.
    """
    # Python lets the main thread alone set signal handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            say("stopped at once; what is finished is kept, run again to go on")
            end_process(INTERRUPTED)
        stop.set()
        say("stopping when the episodes under way end their stage; once more ends at once")

    # `nohup` has a closed terminal ignored, and that stays so.
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, ask_to_stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
