"""The Prefect flows: a dataset, its shards, one task per stage.

Import this module only after `flows.prefect_settings.prepare()`: Prefect reads its settings when imported.
"""

from __future__ import annotations

import threading

from prefect import flow
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.engine import ALL_STAGES, Job, Progress, Shard
from flows.manifest import Row
from flows.plan import Plan
from flows.run import Outcome, carry_out
from flows.tasks import run_stage

_plans: dict[str, Plan] = {}
_plans_lock = threading.Lock()


def run_with_prefect(plan: Plan, progress: Progress) -> Outcome:
    """Carries out `plan` as a flow run, with a run per shard and a task run per stage."""

    def run_shard(plan: Plan, index: int, jobs: list[Job]) -> list[Row]:
        return extract_shard(str(plan.request.out), index, _episode_range(jobs))

    @flow(name="extract-dataset", flow_run_name="{dataset}", validate_parameters=False)
    def extract_plan(dataset: str, episodes: int) -> Outcome:
        return carry_out(plan, progress, run_shard)

    name = str(plan.request.out)
    with _plans_lock:
        _plans[name] = plan
    try:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            return extract_plan(plan.work.source.dataset, len(plan.jobs))
    finally:
        with _plans_lock:
            del _plans[name]


@flow(name="extract-shard", flow_run_name="shard-{shard:04d} {episodes}", validate_parameters=False)
def extract_shard(out: str, shard: int, episodes: str) -> list[Row]:
    """One shard of the plan that this process is carrying out into `out`."""
    plan = _plans[out]
    logger = get_run_logger()
    with Shard(plan.work, plan.shards[shard], plan.earlier) as work:
        for stage in ALL_STAGES:
            logger.info(run_stage(work, stage))
        return work.rows


def _episode_range(jobs: list[Job]) -> str:
    first, last = jobs[0].info.episode_index, jobs[-1].info.episode_index
    return f"episode {first}" if len(jobs) == 1 else f"episodes {first}-{last}"
