"""The Prefect flows: a dataset, its shards, reruns of single episodes and of what failed.

Import this module only after `flows.orchestration.settings.prepare()`: Prefect reads its settings when imported. The
record of work is the manifest and the packets; without Prefect's database nothing but history is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn
from uuid import UUID

from prefect import flow, runtime, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from flows.config import StageName, load_config
from flows.orchestration.artifacts import report_run, reported_progress
from flows.orchestration.dispatch import (
    ServerWatch,
    camera_label,
    check_engine,
    dispatch_shards,
    episode_range,
    lost_server,
)
from flows.orchestration.handed import Handed
from flows.orchestration.served import served_here
from flows.orchestration.server import start_for_runs
from flows.orchestration.settings import TAG, check_server
from flows.orchestration.shard_flow import list_episodes, shard_here
from flows.output.directory import OutputDirectory
from flows.output.manifest import Row
from flows.output.selection import read_selection
from flows.remote.places import fetched_file
from flows.run.carry_out import Outcome, carry_out
from flows.run.plan import Plan, Request, make_plan, parse_indices, record_run, rerun_plans
from flows.run.progress import RunProgress
from flows.run.shard import ALL_STAGES, Job

BARS_PER_EPISODE = 100
"""A rerun of no more episodes gets a flow run, with bars per stage, for each: a quarter of a second apiece."""

MOST_RERUN = 1000
"""Episode ids that fit into the parameters of one flow run (512 KiB)."""

Setting = Annotated[str, Field(pattern=r"^[a-z_]+\.[a-z_0-9]+=")]


@dataclass(slots=True)
class _Given:
    """What the command line hands to the flow that it calls, and what it gets back."""

    plan: Plan
    progress: RunProgress
    if_server_lost: Callable[[Outcome], NoReturn] | None = None
    outcome: Outcome | None = None


def run_with_prefect(
    plan: Plan, progress: RunProgress, *, if_server_lost: Callable[[Outcome], NoReturn], rerun: bool = False
) -> Outcome:
    """Carries out `plan` as a flow run, with a run per shard and a task run per stage.

    `if_server_lost` ends the process where the work is over and the server is gone: Prefect would go on for minutes
    trying to tell it so.

    Raises:
        ConfigError: the Prefect server cannot be used, or the engine needs one and none is configured.
    """
    check_server()
    check_engine(plan.work.config)
    start_for_runs()
    given = _Given(plan, progress, if_server_lost)
    try:
        # The tag is how the watch for lost runs tells cuepack's from others' on one server.
        with tags(TAG):
            state = _run_flow(given, rerun=rerun)
    except Exception as error:
        # With an outcome the work is over, and only the report to the server failed.
        if given.outcome is None or not lost_server(error):
            raise
        if_server_lost(given.outcome)
    if given.outcome is None:
        state.result(raise_on_failure=True)
        raise RuntimeError(f"the flow run ended before its work began: {state}")
    return given.outcome


def _run_flow(given: _Given, *, rerun: bool) -> State[Any]:
    request = given.plan.request
    # A longer list of ids would exceed what Prefect takes as parameters, so it runs under the batch's name.
    if rerun and request.ids and len(request.ids) <= MOST_RERUN:
        listed = request.out.label, list(request.ids), request.force_from
        return _rerun_given(*listed, Handed(given), return_state=True)
    named = request.source, request.out.label, request.camera, _run_name(given.plan)
    return _extract_given(*named, Handed(given), return_state=True)


@flow(name="extract-dataset", flow_run_name="{name}", validate_parameters=False)
def _extract_given(source: str, out: str, camera: str | None, name: str, given: Handed[_Given]) -> State[Any]:
    """What `cuepack extract` runs: its own plan, under the name that the dashboard lists batches by."""
    return _verdict(_carry_out(given.value.plan, given.value.progress, given.value))


def _name_extract() -> str:
    parameters = runtime.flow_run.parameters
    chosen = parameters.get("episodes") or (Path(parameters["selection"]).stem if parameters.get("selection") else "")
    source = str(parameters["source"]).rstrip("/").rsplit("/", 1)[-1]
    return (
        f"{source} {parameters.get('camera') or 'default-camera'} {f'episodes {chosen}' if chosen else 'new episodes'}"
    )


def _name_rerun() -> str:
    parameters = runtime.flow_run.parameters
    ids, stage = parameters["episode_ids"], parameters.get("from_stage")
    listed = ids[0] if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} more"
    return f"{Path(parameters['out']).name} {listed}{f' from {stage}' if stage else ''}"


@flow(name="rerun-episode", flow_run_name=_name_rerun, validate_parameters=False)
def _rerun_given(out: str, episode_ids: list[str], from_stage: str | None, given: Handed[_Given]) -> State[Any]:
    """What `cuepack rerun` runs: its own plan."""
    _one_shard_each(given.value.plan)
    return _verdict(_carry_out(given.value.plan, given.value.progress, given.value))


@flow(name="extract-dataset", flow_run_name=_name_extract)
def extract_dataset(
    source: str,
    out: str,
    camera: str | None = None,
    episodes: Annotated[str | None, Field(pattern=r"^[0-9, -]+$")] = None,
    selection: str | None = None,
    limit: Annotated[int | None, Field(ge=1)] = None,
    config_file: str | None = None,
    settings: list[Setting] | None = None,
    new_only: bool = False,
) -> State[Any]:
    """Reads, scores, extracts and packs the episodes of a source; finished ones are not redone.

    Args:
        source: Path or URI of the episodes, as the worker sees it.
        out: Output directory or URI, as the worker sees it.
        camera: The view to take; "all": a packet for each that shows something. None: the first fixed, non-black one.
        episodes: Only these episode indices, such as 3,7,10-20.
        selection: Only the episodes of this selection file.
        limit: At most this many episodes.
        config_file: Settings in a YAML file.
        settings: Single settings, section.key=value each, such as masks.dilate=[4,12].
        new_only: Leave out episodes whose own files made them fail before, as long as these have not changed.
    """
    if (served := served_here()) is not None:
        served.check(out, source, settings or (), config_file, selection)

    def make() -> Plan:
        return make_plan(
            Request(
                source=source,
                out=OutputDirectory.open(out),
                config=load_config(fetched_file(config_file) if config_file else None, settings or ()),
                camera=camera,
                indices=parse_indices(episodes) if episodes else None,
                ids=read_selection(fetched_file(selection)) if selection else None,
                limit=limit,
                new_only=new_only,
            )
        )

    plan = list_episodes(make)
    check_engine(plan.work.config)
    record_run(plan, f"flow run {runtime.flow_run.id} of extract-dataset")
    _rename(_run_name(plan))
    return _verdict(*_carry_out_all([plan]))


@flow(name="rerun-episode", flow_run_name=_name_rerun)
def rerun_episode(
    out: str,
    episode_ids: Annotated[list[str], Field(min_length=1, max_length=MOST_RERUN)],
    from_stage: StageName | None = None,
    settings: list[Setting] | None = None,
) -> State[Any]:
    """Redoes single episodes of an output directory with its own configuration; their packets are replaced in one step.

    Args:
        out: Output directory or URI of the batch, as the worker sees it.
        episode_ids: Ids of the episodes, as the failures table and manifest.csv list them.
        from_stage: Redo this stage and those after it. None: what failed or changed.
        settings: Settings on top of the directory's own, section.key=value each, such as masks.backend=nano.
    """
    if (served := served_here()) is not None:
        served.check(out, settings=settings or ())
    plans = list_episodes(
        lambda: rerun_plans(OutputDirectory.open(out), episode_ids, force_from=from_stage, settings=settings or ())
    )
    for plan in plans:
        _one_shard_each(plan)
    return _verdict(*_carry_out_all(plans))


@flow(name="rerun-failed", flow_run_name="failed episodes of {out}")
def rerun_failed(
    out: str,
    settings: list[Setting] | None = None,
    limit: Annotated[int | None, Field(ge=1)] = None,
    hopeless_too: bool = False,
) -> State[Any]:
    """Tries the failed episodes of an output directory again.

    Args:
        out: Output directory or URI of the batch, as the worker sees it.
        settings: Settings on top of the directory's own, section.key=value each.
        limit: At most this many episodes.
        hopeless_too: Also those that failed for what is in their own files, though these and the settings are the same.
    """
    if (served := served_here()) is not None:
        served.check(out, settings=settings or ())
    directory = list_episodes(lambda: OutputDirectory.open(out))
    rows = directory.manifest.rows().values()
    failed = [str(row["episode_id"]) for row in rows if row["status"] == "failed"][:limit]
    if not failed:
        return Completed(message=f"no episode of {out} is listed as failed")
    plans = list_episodes(lambda: rerun_plans(directory, failed, settings=settings or (), new_only=not hopeless_too))
    return _verdict(*_carry_out_all(plans))


def _carry_out_all(plans: Sequence[Plan]) -> list[Outcome]:
    """Carries out plans that a flow run has made itself."""
    outcomes = []
    for plan in plans:
        with RunProgress(len(plan.jobs), len(ALL_STAGES), lengths=plan.lengths, quiet=True) as progress:
            outcomes.append(_carry_out(plan, progress, _Given(plan, progress)))
    return outcomes


def _carry_out(plan: Plan, progress: RunProgress, given: _Given) -> Outcome:
    # A flow run with a heartbeat ends with a wait of up to a second, per shard.
    no_heartbeat: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}

    watch = ServerWatch()

    def dispatch(plan: Plan, _: object) -> Iterator[list[Row]]:
        return dispatch_shards(plan, shard_here, watch)

    get_run_logger().info(
        "%d episodes to work on in %d shards; %d finished before, %d filtered, %d given up as they are",
        len(plan.jobs),
        len(plan.shards),
        len(plan.finished),
        len(plan.filtered),
        len(plan.given_up),
    )
    with reported_progress(progress, plan.request.out), temporary_settings(no_heartbeat):
        given.outcome = carry_out(plan, progress, _unused, dispatch)
    if watch.away and given.if_server_lost is not None:
        given.if_server_lost(given.outcome)
    # The report is about this run: 60,000 rows finished before would bury its failures.
    worked_on = {job.episode_id for job in plan.jobs}
    report_run(
        [row for row in given.outcome.rows if row["episode_id"] in worked_on],
        plan.request.out,
        seconds=given.outcome.seconds,
        workers=plan.workers_at_once,
    )
    return given.outcome


def _unused(plan: Plan, index: int, jobs: list[Job]) -> list[Row]:
    raise AssertionError("the engine dispatches shards itself")


def _verdict(*outcomes: Outcome) -> State[Any]:
    """The state that a flow run ends in, with counts for whoever looks at the list of runs.

    Raises:
        CuepackError: what stopped the run as a whole.
    """
    # First, as a full disk says more than the counts of what came before it.
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    counts = Counter(str(row["status"]) for outcome in outcomes for row in outcome.rows)
    message = f"{counts['done']} packed, {counts['failed']} failed, {counts['filtered']} filtered"
    if counts["busy"]:
        message += f", {counts['busy']} left to another run"
    if any(outcome.interrupted for outcome in outcomes):
        return Cancelled(message=f"{message}; stopped, what is finished is kept")
    # Red only where nothing came out: in a large source some episodes are always bad.
    if counts["failed"] and not counts["done"]:
        return Failed(message=f"{message}; the failures table gives the reasons")
    name = "Some failed" if counts["failed"] else "Completed"
    return Completed(name=name, message=message, data=dict(counts))


def _run_name(plan: Plan) -> str:
    return f"{plan.work.source.dataset} {camera_label(plan)} {episode_range(plan.jobs)}"


def _rename(name: str) -> None:
    """Puts what the plan found into the run's name; an unreachable server does not stop the run."""
    with suppress(Exception), get_client(sync_client=True) as client:
        client.update_flow_run(UUID(runtime.flow_run.id), name=name)


def _one_shard_each(plan: Plan) -> None:
    if len(plan.jobs) <= BARS_PER_EPISODE:
        config = plan.work.config
        run = config.run.model_copy(update={"shard_size": 1})
        plan.work = replace(plan.work, config=config.model_copy(update={"run": run}))
