"""Thin Prefect tasks: one per stage and shard, so that bars in the dashboard are minutes and not milliseconds."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.engine import Shard


@task(name="stage", task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def run_stage(shard: Shard, stage: str) -> str:
    """Takes a shard's episodes through one stage; returns a line for the log."""
    shard.run(stage)
    failed = sum(row["status"] == "failed" for row in shard.rows)
    return f"{stage}: {len(shard.runs)} episodes, {failed} failed so far"
