"""Deployments: a batch on a schedule, reruns on demand, shards for other machines; and the server of one machine.

Import only after `flows.orchestration.settings.prepare()`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from prefect import serve
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType

from extractors.errors import ConfigError
from flows.orchestration.flows import extract_dataset, rerun_episode, rerun_failed
from flows.orchestration.served import Served
from flows.orchestration.settings import SETTINGS, TAG
from flows.orchestration.shard_flow import extract_shard
from flows.orchestration.study_flow import study_run

log = logging.getLogger("cuepack")

LOST_AFTER_S = 240
"""Seconds without a heartbeat (one a minute) after which a run counts as lost with its machine."""

LOST_RUNS = "cuepack: its runs without heartbeat are lost"

_EARLIER_LOST_RUNS = "cuepack: runs without heartbeat are lost"
"""The automation of cuepack 0.1.0, which took every flow run of the server for cuepack's."""

_TAGS = [TAG]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the scheduled batch works on, and when.

    Attributes:
        source, out: absolute paths, or a URI, as the workers see them.
        cron: when, None for by hand only.
        timezone: of `cron`, such as Europe/Berlin.
        camera, settings: as in `extract-dataset`.
    """

    source: str
    out: str | Path
    cron: str | None = None
    timezone: str = "UTC"
    camera: str | None = None
    settings: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The deployments' name: the output directory's."""
        return PurePosixPath(self.out).name or "cuepack"

    @property
    def served(self) -> Served:
        """What its runs may be asked for."""
        return Served(self.source, str(self.out), tuple(self.settings))


def make_deployments(schedule: Schedule, pool: str | None = None) -> list[RunnerDeployment]:
    """`extract-dataset` and both reruns for one output directory; with a pool `extract-shard` and `study-run` too.

    One batch at a time: a run that falls due while the last still works waits for it. No deployment retries as a whole:
    what is worth trying again (a hub that throttles, a lost shard) is tried inside, the rest by the next run.

    Args:
        schedule: what is worked on, and when.
        pool: the work pool whose workers carry it out; None for `cuepack serve`.

    Raises:
        ConfigError: `schedule.cron` cannot be read as a cron line.
    """
    # ENQUEUE and not CANCEL_NEW: a night's batch that falls due during a long one is late, not lost.
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    shared: dict[str, Any] = {"entrypoint_type": EntrypointType.MODULE_PATH, "enforce_parameter_schema": True}
    if pool is not None:
        # A worker's own environment may lack these; the others are the worker's to set.
        shared |= {"work_pool_name": pool, "job_variables": {"env": SETTINGS | schedule.served.as_environment()}}
    out, name = str(schedule.out), schedule.name
    batch = {
        "source": schedule.source,
        "out": out,
        "camera": schedule.camera,
        "settings": list(schedule.settings) or None,
        "new_only": True,
    }
    made: list[Any] = [
        extract_dataset.to_deployment(
            name,
            schedules=[_cron(schedule)] if schedule.cron else None,
            concurrency_limit=one_at_a_time,
            parameters=batch,
            tags=[*_TAGS, "batch"],
            **shared,
        ),
        rerun_episode.to_deployment(name, parameters={"out": out}, tags=[*_TAGS, "rerun"], **shared),
        rerun_failed.to_deployment(
            name, concurrency_limit=one_at_a_time, parameters={"out": out}, tags=[*_TAGS, "rerun"], **shared
        ),
    ]
    for deployment in made:
        _offer_only(deployment, source=schedule.source, out=out)
    if pool is not None:
        # Shards of any batch that is given out to this pool, so nothing is served by it alone.
        shared["job_variables"] = {"env": dict(SETTINGS)}
        made.append(extract_shard.to_deployment("extract-shard", tags=[*_TAGS, "shard"], **shared))
        made.append(study_run.to_deployment("study-run", tags=[*_TAGS, "study"], **shared))
    return made


def _offer_only(deployment: RunnerDeployment, **served: str) -> None:
    """Has the server refuse other values before a run exists; the flow refuses them too (`Served.check`)."""
    schema: Any = deployment._parameter_openapi_schema
    for name, value in served.items():
        if name in schema.properties:
            schema.properties[name] = {**schema.properties[name], "enum": [value]}


def register(schedule: Schedule, pool: str) -> list[str]:
    """Registers the deployments with the server's work pool `pool`; returns their full names.

    Raises:
        ConfigError: there is no server, or it has no such pool.
    """
    if get_current_settings().api.url is None:
        raise ConfigError(
            "`cuepack deploy` needs a Prefect server that outlives it; start one (`prefect server start`, or "
            "docker/compose.yaml) and set PREFECT_API_URL, or use `cuepack serve` on one machine"
        )
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound as error:
            raise ConfigError(
                f"the server has no work pool '{pool}'; `prefect work-pool create {pool} --type process` makes one"
            ) from error
    deployments = make_deployments(schedule, pool)
    for deployment in deployments:
        deployment.apply()
    note_lost_runs()
    return [f"{deployment.flow_name}/{deployment.name}" for deployment in deployments]


def note_lost_runs() -> None:
    """Has the server call our runs crashed when their heartbeats stop: a machine that is gone cannot say so itself."""
    with suppress(ValueError):  # how Prefect says that it has none of this name
        earlier: Any = Automation.read(name=_EARLIER_LOST_RUNS)
        earlier.delete()
    with suppress(ValueError):
        found: Any = Automation.read(name=LOST_RUNS)
        log.debug("automation %s watches already", found.id)
        return
    automation: Any = lost_runs_automation()
    automation.create()


def lost_runs_automation() -> Automation:
    """The automation behind `note_lost_runs`: of a server that others use too, it looks at runs with our tag alone."""
    heartbeat = "prefect.flow-run.heartbeat"
    over = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    return Automation(
        name=LOST_RUNS,
        description="Marks flow runs as crashed whose machine or process is gone; what they packed stays.",
        trigger=EventTrigger(
            after={heartbeat},
            expect={heartbeat, *over},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=LOST_AFTER_S),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message="no heartbeat: its process or machine is gone; the next run goes on"
            )
        ],
    )


def serve_deployments(schedule: Schedule, *, limit: int) -> None:
    """Runs this machine's deployments, at most `limit` flow runs at once, until the process is asked to stop."""
    deployments = make_deployments(schedule)
    os.environ.update(schedule.served.as_environment())
    note_lost_runs()
    for deployment in deployments:
        print(f"serving    {deployment.flow_name}/{deployment.name}", flush=True)
    serve(*deployments, limit=limit, print_starting_message=False)


def _cron(schedule: Schedule) -> CronSchedule:
    try:
        return CronSchedule(cron=str(schedule.cron), timezone=schedule.timezone)
    except ValueError as error:
        raise ConfigError(
            f"--cron wants minute, hour, day, month, weekday, such as '0 2 * * *', and --timezone a name such as "
            f"Europe/Berlin; got {schedule.cron!r} {schedule.timezone!r}"
        ) from error
