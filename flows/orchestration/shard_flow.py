"""One shard as a flow run, with a thin task per stage: bars in the dashboard are minutes and not milliseconds.

A task is retried only for what may be better in a minute: a hub that throttles, a network that is away. What is wrong
with an episode's files does not fail the task: the manifest records it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.tasks import exponential_backoff

from flows.orchestration.handed import Handed
from flows.orchestration.plan_file import find_plan, keep_rows
from flows.output.manifest import Row
from flows.run.plan import Plan
from flows.run.shard import ALL_STAGES, Job, Shard

Made = TypeVar("Made")

RETRIES = 3
"""Tries after the first, about 10, 20 and 40 s apart."""

_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)


def is_transient(error: BaseException | None) -> bool:
    """Whether `error`, or what caused it, may be over in a minute: throttling, a lost connection, a time-out."""
    seen: set[int] = set()
    # Causes can form a loop, when one error is raised from another that came from it.
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # An HTTP answer decides, whatever wraps it: 404 and 403 are the same in a minute.
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return status in _TRANSIENT_STATUS
        # httpx, requests and botocore have time-outs and lost connections of their own that inherit no builtin.
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in (
            "ConnectError",
            "ConnectTimeout",
            "ConnectTimeoutError",
            "EndpointConnectionError",
            "ReadError",
            "ReadTimeout",
            "ReadTimeoutError",
            "RemoteProtocolError",
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _worth_retrying(task: Any, run: Any, state: Any) -> bool:
    result = state.result(raise_on_failure=False)
    return is_transient(result if isinstance(result, BaseException) else None)


@task(
    name="list-episodes",
    task_run_name="list-episodes",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=RETRIES,
    retry_delay_seconds=exponential_backoff(10),
    retry_jitter_factor=0.5,
    retry_condition_fn=_worth_retrying,
)
def list_episodes(make: Callable[[], Made]) -> Made:
    """Opens the source and sorts out what is left to do; downloads what a hub holds."""
    return make()


@task(name="stage", task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def run_stage(shard: Shard, stage: str) -> str:
    """Takes a shard's episodes through one stage; returns a line for the log."""
    shard.run(stage)
    failed = sum(row["status"] == "failed" for row in shard.rows)
    return f"{stage}: {len(shard.runs)} episodes, {failed} failed so far"


@task(name="shard", task_run_name="shard-{shard:04d} {episodes}", cache_policy=NO_CACHE, persist_result=False)
def run_shard(plan: str, shard: int, dataset: str, camera: str, episodes: str) -> None:
    """One shard in the process that Ray or Dask chose; its rows go to a file beside the plan."""
    extract_shard(plan, shard, dataset, camera, episodes)


@flow(name="extract-shard", flow_run_name="{dataset} {camera} shard-{shard:04d} {episodes}", validate_parameters=False)
def shard_here(plan: Handed[Plan], shard: int, dataset: str, camera: str, episodes: str) -> list[Row]:
    """Works on one shard of a plan of this process; `dataset`, `camera` and `episodes` name the run."""
    found = plan.value
    return _work_on(found, found.shards[shard], episodes)


@flow(name="extract-shard", flow_run_name="{dataset} {camera} shard-{shard:04d} {episodes}", validate_parameters=False)
def extract_shard(plan: str, shard: int, dataset: str, camera: str, episodes: str) -> list[Row]:
    """Works on one shard of a published plan; started by extract-dataset, for another process than its own.

    Args:
        plan: Path or URI of the plan in DIR/.work/plans.
        shard: Which shard of it, from 0.
        dataset: The dataset's name, for the run's name.
        camera: The camera's name, for the run's name.
        episodes: The range of episodes, for the run's name.
    """
    found = find_plan(plan, shard)
    # While this is held, a dispatcher that starts again on this machine does not clean up under the shard.
    with found.work.store.in_use():
        rows = _work_on(found, found.jobs, episodes)
    keep_rows(plan, shard, rows)
    return rows


def _work_on(plan: Plan, jobs: Sequence[Job], episodes: str) -> list[Row]:
    logger = get_run_logger()
    with Shard(plan.work, jobs, plan.earlier) as work:
        for stage in ALL_STAGES:
            logger.info("%s: %s", episodes, run_stage(work, stage))
        rows = work.rows
    # A shard of one episode is mostly a rerun, where somebody waits for the answer.
    for row in rows if len(rows) == 1 else []:
        logger.info("%s: %s, score %s", row["episode_id"], row["status"], row.get("score"))
    return rows


def in_windows(submit: Callable[[int], Any], count: int, size: int) -> Iterator[tuple[int, Any]]:
    """Submits 0 .. `count`-1, no more than `size` under way at once; yields (index, what was submitted) in order.

    Engines keep every future they are given; 60,000 episodes are submitted as the earlier ones finish.
    """
    waiting: list[tuple[int, Any]] = []
    for index in range(count):
        # In order: the oldest is waited for, even where a later one is over.
        if len(waiting) == size:
            yield waiting.pop(0)
        waiting.append((index, submit(index)))
    yield from waiting
