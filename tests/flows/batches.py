"""Batches over sources made of arrays, through the whole engine without Prefect."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.config import load_config
from flows.output.directory import OutputDirectory
from flows.run.plan import Plan, Request
from flows.run.shard import Job, Work
from flows.sources.base import Source

QUICK = ("masks.backend=recorded", "depth.backend=off", "tracks.backend=off", "packet.height=48", "packet.width=64")


class Silent:
    """Progress that nobody looks at."""

    def stage_moved(self, stage: str, frames: float) -> None:
        """One episode came further in `stage`."""

    def stage_done(self, stage: str, frames: int) -> None:
        """One episode left `stage`."""

    def episode_done(self, status: str) -> None:
        """One episode is over."""


def array_plan(source: Source, out: Path | str, settings: Iterable[str] = QUICK, **work: Any) -> Plan:
    """A plan over every episode of `source`, finished or not; `work` are arguments of `Work`."""
    config, directory = load_config(assignments=settings).resolved(), OutputDirectory.open(out)
    made = Work(source, config, directory.store(), directory.manifest, **work)
    jobs = [Job(info) for info in source.episodes()]
    return Plan(Request("here", directory, config), made, jobs, made.manifest.rows())
