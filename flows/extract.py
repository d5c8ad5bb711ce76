"""The Prefect flows: a dataset, its shards, one task per stage.

Import this module only after `flows.prefect_settings.prepare()`: Prefect reads its settings when imported.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.config import load_config
from flows.engine import ALL_STAGES, Job, Progress, Shard
from flows.manifest import Row
from flows.plan import Plan, Request, make_plan, parse_indices, record_run
from flows.progress import RunProgress
from flows.run import Outcome, carry_out
from flows.select import read_selection
from flows.tasks import run_stage


@dataclass(slots=True)
class _Session:
    """A run of this process: what its flows share without passing it through Prefect's parameters."""

    plan: Plan
    progress: Progress
    outcome: Outcome | None = None


_sessions: dict[str, _Session] = {}
_sessions_lock = threading.Lock()


def run_with_prefect(plan: Plan, progress: Progress) -> Outcome:
    """Carries out `plan` as a flow run, with a run per shard and a task run per stage."""
    request = plan.request
    with _session(plan, progress) as session:
        extract_dataset(source=request.source, out=str(request.out), camera=request.camera)
        assert session.outcome is not None
        return session.outcome


@flow(name="extract-dataset", flow_run_name="{source} {camera}", validate_parameters=True)
def extract_dataset(
    source: str,
    out: str,
    camera: str | None = None,
    episodes: str | None = None,
    selection: str | None = None,
    limit: int | None = None,
    config_file: str | None = None,
    settings: list[str] | None = None,
) -> dict[str, int]:
    """Reads, scores, extracts and packs the episodes of a source; finished ones are not redone.

    Args:
        source: path or URI of the episodes.
        out: output directory.
        camera: the view to take; none: the first fixed, non-black one.
        episodes: only these indices, such as 3,7,10-20.
        selection: only the episodes of this selection file.
        limit: at most this many episodes.
        config_file: settings in a YAML file.
        settings: single settings, section.key=value each.

    Returns:
        Status -> number of episodes.
    """
    session = _sessions.get(out)
    if session is not None:
        return _carry_out(session)
    plan = make_plan(
        Request(
            source=source,
            out=Path(out),
            config=load_config(Path(config_file) if config_file else None, settings or ()),
            camera=camera,
            indices=parse_indices(episodes) if episodes else None,
            ids=read_selection(Path(selection)) if selection else None,
            limit=limit,
        )
    )
    record_run(plan, "flow run of extract-dataset")
    with RunProgress(len(plan.jobs), len(ALL_STAGES), quiet=True) as progress, _session(plan, progress) as own:
        return _carry_out(own)


@flow(name="extract-shard", flow_run_name="shard-{shard:04d} {episodes}", validate_parameters=False)
def extract_shard(out: str, shard: int, episodes: str) -> list[Row]:
    """One shard of the run that this process is making into `out`."""
    plan = _sessions[out].plan
    logger = get_run_logger()
    with Shard(plan.work, plan.shards[shard], plan.earlier) as work:
        for stage in ALL_STAGES:
            logger.info(run_stage(work, stage))
        return work.rows


def _carry_out(session: _Session) -> dict[str, int]:
    def run_shard(plan: Plan, index: int, jobs: list[Job]) -> list[Row]:
        rows: list[Row] = extract_shard(str(plan.request.out), index, _episode_range(jobs))
        return rows

    # A flow run with a heartbeat ends with a wait of up to a second, per shard.
    no_heartbeat: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings(no_heartbeat):
        session.outcome = carry_out(session.plan, session.progress, run_shard)
    return dict(Counter(str(row["status"]) for row in session.outcome.rows))


@contextmanager
def _session(plan: Plan, progress: Progress) -> Iterator[_Session]:
    name = str(plan.request.out)
    session = _Session(plan, progress)
    with _sessions_lock:
        _sessions[name] = session
    try:
        yield session
    finally:
        with _sessions_lock:
            del _sessions[name]


def _episode_range(jobs: list[Job]) -> str:
    first, last = jobs[0].info.episode_index, jobs[-1].info.episode_index
    return f"episode {first}" if len(jobs) == 1 else f"episodes {first}-{last}"
