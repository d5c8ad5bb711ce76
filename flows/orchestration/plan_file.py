"""A plan on disk, for the other processes that work on its shards: paths and ids, never arrays."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from extractors.errors import ConfigError, RemoteError, RemoteMissingError
from flows.config import Config
from flows.output.directory import OutputDirectory, RemoteDirectory
from flows.output.manifest import Row
from flows.remote.files import Remote
from flows.run.plan import Plan, Request
from flows.run.shard import Job, Work
from flows.sources.detect import open_source

_last: dict[str, Plan] = {}
"""The plan that this process read last, by its path: a worker serves one run at a time."""

_lock = threading.Lock()


@contextmanager
def published(plan: Plan) -> Iterator[str]:
    """The path or URI of a file in `.work/plans` from which any process finds `plan`; gone afterwards.

    Raises:
        OutputError: the file cannot be written.
    """
    out = plan.request.out.address
    # Beside the packets, which every worker can reach, and under a random name: two batches may be on.
    folder = Remote(f"{out}/.work/plans/{secrets.token_hex(8)}")
    source = plan.request.source if ":" in plan.request.source else str(plan.work.source.root.resolve())
    text = json.dumps(
        {
            "source": source,
            "out": out,
            "config": plan.work.config.model_dump(mode="json"),
            "camera": plan.request.camera,
            "force_from": plan.work.force_from,
            "rehash": plan.work.rehash,
            "workers": plan.work.workers,
            "shards": [[job.info.episode_id for job in jobs] for jobs in plan.shards],
        }
    )
    folder.write_text("plan.json", text)
    try:
        yield f"{folder.uri}/plan.json"
    finally:
        folder.remove("")


def find_plan(path: str) -> Plan:
    """The plan published at `path`, read once and kept for the next shard.

    Raises:
        ConfigError: the file is missing: the run that wrote it is over, or the directory is not mounted here.
        SourceError, WeightsError: this machine lacks the source or the weights.
    """
    with _lock:
        # Under the lock, so that threads of one worker list the source once.
        if path not in _last:
            # One plan only: a listing of 60,000 episodes is held in memory.
            _last.clear()
            _last[path] = _read_plan(path)
        return _last[path]


def keep_rows(path: str, shard: int, rows: Sequence[Row]) -> None:
    """Leaves the rows of a shard beside its plan, for the process that dispatched it."""
    _folder(path).write_text(_rows_file(shard), json.dumps(list(rows)))


def shard_rows(path: str, shard: int) -> list[Row] | None:
    """The rows that a shard left, None where it left none."""
    try:
        rows: list[Row] = json.loads(_folder(path).read_text(_rows_file(shard)))
    except RemoteMissingError:
        return None
    return rows


def _folder(path: str) -> Remote:
    return Remote(path.rpartition("/")[0])


def _rows_file(shard: int) -> str:
    return f"rows-{shard}.json"


def _read_plan(path: str) -> Plan:
    try:
        kept = json.loads(_folder(path).read_text("plan.json"))
    except RemoteError as error:
        raise ConfigError(
            f"the plan {path} cannot be read ({error}): its run is over, or the output directory is not "
            "mounted on this machine under the same path; start the run again, or mount it"
        ) from error
    config = Config.model_validate(kept["config"])
    source, out = open_source(kept["source"], config.source), OutputDirectory.open(kept["out"])
    work = Work(
        source=source,
        config=config,
        store=out.store(keep_local=config.run.keep_local),
        manifest=out.manifest,
        workers=kept["workers"],
        force_from=kept["force_from"],
        rehash=kept["rehash"],
        # Behind a URI this machine's journal is its own, and would bring these rows back after newer ones.
        journal=not isinstance(out, RemoteDirectory),
    )
    work.run_key()  # fails at once where this machine lacks weights
    episode_ids = {name for names in kept["shards"] for name in names}
    # Listed again and not sent: paths of files are this machine's own.
    by_id = {info.episode_id: info for info in source.episodes() if info.episode_id in episode_ids}
    missing = episode_ids - by_id.keys()
    if missing:
        raise ConfigError(
            f"the source {kept['source']} lacks {len(missing)} of the {len(episode_ids)} episodes on this machine, "
            f"{min(missing)} for one; mount the same source on every machine"
        )
    request = Request(kept["source"], out, config, kept["camera"], force_from=kept["force_from"], rehash=kept["rehash"])
    jobs = [Job(by_id[name], kept["camera"]) for names in kept["shards"] for name in names]
    return Plan(request, work, jobs, work.manifest.rows())
