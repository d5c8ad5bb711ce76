"""Where shards are worked on: here, on Ray, on Dask, or on Prefect workers. All run the flow `extract-shard`.

The others than `local` hand a plan's path and a shard's number to another process, which reads the source and writes
the packets itself; both must be mounted there under the same paths.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import httpx
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.states import Cancelling, Crashed

from extractors.errors import ConfigError, CuepackError
from flows.config import Config
from flows.orchestration.handed import Handed
from flows.orchestration.plan_file import hand_out, published, take_rows
from flows.orchestration.settings import server_answers
from flows.orchestration.shard_flow import in_windows, is_transient, run_shard
from flows.output.manifest import Row
from flows.remote.files import is_uri
from flows.run.carry_out import run_shard_plainly
from flows.run.plan import Plan
from flows.run.shard import ALL_STAGES, Job
from flows.run.stream import Interrupted

log = logging.getLogger("cuepack")

SHARD_DEPLOYMENT = "extract-shard/extract-shard"

POLL_S = 5.0
"""Seconds between two looks at the shards that Prefect workers have."""

PATIENCE_S = 60.0
"""Seconds after which the log says that no worker takes up a shard; workers look every 10 s."""

SERVER_AWAY_S = 900.0
"""Seconds for which a server may be away before a batch on workers ends; they finish what they have meanwhile."""

_TRIES = 2

Answer = TypeVar("Answer")

ShardFlow = Callable[[Handed[Plan], int, str, str, str], list[Row]]


def check_engine(config: Config) -> None:
    """Refuses an engine that cannot work here, before any work starts.

    Raises:
        ConfigError: no Prefect server is named, or the engine's package is missing.
    """
    engine = config.run.engine
    if engine == "local":
        return
    if get_current_settings().api.url is None:
        raise ConfigError(
            f"run.engine={engine} needs a Prefect server that all processes share; start one with `prefect server "
            "start` (or docker/compose.yaml) and set PREFECT_API_URL, or use run.engine=local"
        )
    if engine in ("ray", "dask"):
        integration(engine)


@dataclass(slots=True)
class ServerWatch:
    """Whether the Prefect server is away, as far as requests to it have told."""

    away: bool = False


def dispatch_shards(plan: Plan, run_here: ShardFlow, watch: ServerWatch) -> Iterator[list[Row]]:
    """Has every shard of `plan` worked on; yields the rows of each as it is over, and notes a lost server in `watch`.

    A shard that is lost with its worker is tried once more; one that fails otherwise yields failed rows that are not
    recorded, so that the next run tries again.
    """
    ways: dict[str, Callable[[Plan, str], Iterator[list[Row]]]] = {
        "ray": _on_ray,
        "dask": _on_dask,
        "workers": _on_workers,
    }
    if plan.work.config.run.engine == "local":
        yield from _in_this_process(plan, run_here, watch)
        return
    with published(plan) as file:
        yield from ways[plan.work.config.run.engine](plan, file)


def lost_server(error: Exception) -> bool:
    """Whether `error` says that the Prefect server went away: a request to it that found nobody."""
    if isinstance(error, CuepackError):
        return False
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, httpx.TransportError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _in_this_process(plan: Plan, run_here: ShardFlow, watch: ServerWatch) -> Iterator[list[Row]]:
    """As flow runs; without them, and saying so, while the server is away: a night's batch is not lost with it."""
    handed = Handed(plan)
    for index, jobs in enumerate(plan.shards):
        if watch.away and server_answers():
            log.warning("the Prefect server answers again; the run goes on in the dashboard")
            watch.away = False
        rows = None
        if not watch.away:
            try:
                rows = run_here(handed, *shard_call(plan, index))
            except Exception as error:
                # Any other error is a fault of the run; going on without Prefect would hide it.
                if not lost_server(error):
                    raise
                log.warning(
                    "the Prefect server went away (%s); the run goes on without it, packets and manifest lose nothing",
                    error,
                )
                watch.away = True
        # What the broken flow run finished is found by its key.
        yield run_shard_plainly(plan, index, jobs) if rows is None else rows


def shard_call(plan: Plan, index: int) -> tuple[int, str, str, str]:
    """The parameters of the flow run of one shard beside the plan: its number, and what names it."""
    return index, plan.work.source.dataset, camera_label(plan), episode_range(plan.shards[index])


def _parameters(plan: Plan, file: str, index: int) -> dict[str, Any]:
    names = ("plan", "shard", "dataset", "camera", "episodes")
    return dict(zip(names, (file, *shard_call(plan, index)), strict=True))


def camera_label(plan: Plan) -> str:
    """The camera asked for, as run names say it."""
    return plan.request.camera or "default-camera"


def episode_range(jobs: Sequence[Job]) -> str:
    """Which episodes, as run names say it."""
    if not jobs:
        return "no episodes"
    first, last = jobs[0].info.episode_index, jobs[-1].info.episode_index
    return f"episode {first}" if len(jobs) == 1 else f"episodes {first}-{last}"


def _on_ray(plan: Plan, file: str) -> Iterator[list[Row]]:
    package, run = integration("ray"), plan.work.config.run
    # One process at a time has a device; on machines without any, a CPU.
    resources = {"num_gpus": 1} if run.wants_gpu else {"num_cpus": 1}
    own = {} if run.engine_address else {"init_kwargs": {"include_dashboard": False}}
    runner = package.RayTaskRunner(address=run.engine_address, **own)
    with importlib.import_module("prefect_ray.context").remote_options(**resources):
        yield from _on_task_runner(plan, file, runner)


def _on_dask(plan: Plan, file: str) -> Iterator[list[Row]]:
    run = plan.work.config.run
    if run.engine_address:
        options: dict[str, Any] = {"address": run.engine_address}
    else:
        # Processes of one thread: models, OpenCV and h5py are kept once per process.
        options = {"cluster_kwargs": {"n_workers": run.in_flight, "threads_per_worker": 1, "dashboard_address": None}}
    yield from _on_task_runner(plan, file, integration("dask").DaskTaskRunner(**options))


def _on_task_runner(plan: Plan, file: str, runner: Any) -> Iterator[list[Row]]:
    def submit(index: int) -> Any:
        _stop_if_asked(plan)
        hand_out(file, plan, index)
        return active.submit(run_shard, _parameters(plan, file, index))

    with runner as active:
        for index, future in in_windows(submit, len(plan.shards), plan.work.config.run.in_flight):
            error: object = None
            try:
                error = future.result(raise_on_failure=False)
            except Exception as lost:  # Ray and Dask have errors of their own for a process that died
                error = lost
            yield _rows(plan, file, index, error if isinstance(error, Exception) else None)


def _on_workers(plan: Plan, file: str) -> Iterator[list[Row]]:
    with get_client(sync_client=True) as client:
        runs = WorkerRuns(plan, file, client)
        try:
            while runs.waiting or runs.under_way:
                runs.start()
                plan.work.stop.wait(POLL_S)
                for index, error in runs.ended():
                    yield _rows(plan, file, index, error)
        finally:
            # Ctrl-C, a full disk: shards left to themselves would go on for hours, and hold their episodes.
            runs.cancel()


class WorkerRuns:
    """The shards of a plan as flow runs that Prefect workers take up.

    Attributes:
        waiting: shard -> tries so far, of those that are to be started.
        under_way: shard -> its flow run and tries.
    """

    def __init__(self, plan: Plan, file: str, client: Any) -> None:
        self.waiting = dict.fromkeys(range(len(plan.shards)), 0)
        self.under_way: dict[int, tuple[Any, int]] = {}
        self._plan, self._file, self._client = plan, file, client
        self._warn_at = time.monotonic() + PATIENCE_S

    def start(self) -> None:
        """Starts as many shards as may be under way at once."""
        for index in list(islice(self.waiting, self._plan.work.config.run.in_flight - len(self.under_way))):
            tried = self.waiting[index] + 1
            hand_out(self._file, self._plan, index)
            # A request whose answer was lost is made again; the key keeps it from starting the shard twice.
            start = partial(
                _start_on_workers, _parameters(self._plan, self._file, index), f"{self._file}-{index}-{tried}"
            )
            self.under_way[index] = self._asked(start), tried
            del self.waiting[index]

    def ended(self) -> Iterator[tuple[int, Exception | None]]:
        """Shards that are over since the last look, and what went wrong; one lost with its worker is tried again."""
        for index, (run_id, tried) in list(self.under_way.items()):
            state = self._asked(partial(self._state, run_id))
            if state is None or not state.is_final():
                if state is not None and state.is_scheduled() and time.monotonic() > self._warn_at:
                    log.warning("no worker has taken up shard %d; start one: prefect worker start --pool POOL", index)
                    self._warn_at = float("inf")
                continue
            del self.under_way[index]
            # Crashed: the machine or process is gone. A shard that failed by itself would fail again.
            if state.is_crashed() and tried < _TRIES:
                log.warning("shard %d was lost with its worker (%s); it is tried again", index, state.message)
                self.waiting[index] = tried
                continue
            yield index, None if state.is_completed() else RuntimeError(f"{state.name}: {state.message}")

    def cancel(self) -> None:
        """Has the shards under way stopped, and waits until they are, or a minute."""
        if not self.under_way:
            return
        log.warning("stopping %d shards on workers; what they finished is kept", len(self.under_way))
        deadline = time.monotonic() + PATIENCE_S
        try:
            for run_id, _ in self.under_way.values():
                self._client.set_flow_run_state(run_id, Cancelling(message="its dispatcher was stopped"))
            while self.under_way and time.monotonic() < deadline:
                for index, (run_id, _) in list(self.under_way.items()):
                    state = self._state(run_id)
                    if state is None or state.is_final():
                        del self.under_way[index]
                time.sleep(min(POLL_S, 1.0))
        except Exception as error:  # whatever the server answers, Ctrl-C ends this process
            log.warning("the Prefect server cannot be asked to stop them: %s", error)
        for index in self.under_way:
            log.warning("shard %d still runs on its worker; it ends by itself", index)

    def _state(self, run_id: Any) -> Any:
        try:
            return self._client.read_flow_run(run_id).state
        except ObjectNotFound:
            return Crashed(message="somebody deleted its flow run")

    def _asked(self, request: Callable[[], Answer]) -> Answer:
        """The server's answer; while it is away the request is made again, for `SERVER_AWAY_S` at most."""
        deadline, said = time.monotonic() + SERVER_AWAY_S, False
        while True:
            _stop_if_asked(self._plan)
            try:
                return request()
            except Exception as error:
                if not is_transient(error) or time.monotonic() > deadline:
                    raise
                if not said:
                    log.warning("the Prefect server does not answer (%s); workers go on, and it is asked again", error)
                    said = True
                self._plan.work.stop.wait(POLL_S)


def _start_on_workers(parameters: dict[str, Any], key: str) -> Any:
    try:
        run: Any = run_deployment(SHARD_DEPLOYMENT, parameters=parameters, timeout=0, idempotency_key=key)
    except ObjectNotFound as error:
        raise ConfigError(
            f"the server has no deployment {SHARD_DEPLOYMENT}; `cuepack deploy --pool POOL` registers it"
        ) from error
    return run.id


def _rows(plan: Plan, file: str, index: int, error: Exception | None) -> list[Row]:
    """What became of a shard elsewhere, also told to the progress of this process."""
    rows = take_rows(file, index)
    if rows is None:
        reason = error or RuntimeError("its process ended without a result; see the shard's flow run")
        log.error("shard %d failed as a whole: %s: %s", index, type(reason).__name__, reason)
        # Not journalled: the episodes are not at fault, and the next run is to take them up.
        rows = [_failed_row(job, reason) for job in plan.shards[index]]
    elif is_uri(file):
        # The process journalled them on its own machine.
        for row in rows:
            if row["status"] != "busy":
                plan.work.manifest.add(row)
    if plan.work.progress is not None:
        for row in rows:
            # The work was elsewhere, so its stages are counted all at once.
            for stage in ALL_STAGES:
                plan.work.progress.stage_done(stage, int(row.get("n_frames") or 0))
            plan.work.progress.episode_done(row["status"])
    return rows


def _failed_row(job: Job, error: Exception) -> Row:
    return {
        "episode_id": job.episode_id,
        "episode_index": job.info.episode_index,
        "status": "failed",
        "stage": "shard",
        "error_type": type(error).__name__,
        "error": str(error),
        "n_frames": job.info.n_frames,
        "language_instruction": job.info.language_instruction,
        "camera": job.camera,
    }


def _stop_if_asked(plan: Plan) -> None:
    if plan.work.stop.is_set():
        raise Interrupted


def integration(engine: str) -> Any:
    """Prefect's package for an engine.

    Raises:
        ConfigError: it is not installed.
    """
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.import_module(f"prefect_{engine}")
    raise ConfigError(f"run.engine={engine} needs the package prefect-{engine}: pip install 'cuepack[{engine}]'")
