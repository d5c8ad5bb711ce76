"""A plan on disk, for the processes that work on its shards: paths and ids, never arrays."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from extractors.errors import ConfigError, OutputError
from flows.config import Config
from flows.engine import Job, Work
from flows.manifest import Manifest, Row
from flows.plan import Plan, Request
from flows.sources.detect import open_source
from flows.store import Store

_known: dict[str, Plan] = {}
_read: set[str] = set()
_lock = threading.Lock()


@contextmanager
def published(plan: Plan) -> Iterator[str]:
    """The path of a file in `.work/plans` from which any process finds `plan`; gone afterwards.

    Raises:
        OutputError: the file cannot be written.
    """
    out = plan.request.out.resolve()
    path = out / ".work" / "plans" / secrets.token_hex(8) / "plan.json"
    source = plan.request.source if ":" in plan.request.source else str(plan.work.source.root.resolve())
    text = json.dumps(
        {
            "source": source,
            "out": str(out),
            "config": plan.work.config.model_dump(mode="json"),
            "camera": plan.request.camera,
            "force_from": plan.work.force_from,
            "rehash": plan.work.rehash,
            "workers": plan.work.workers,
            "shards": [[job.info.episode_id for job in jobs] for jobs in plan.shards],
        }
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}; free space or fix permissions") from error
    with _lock:
        _known[str(path)] = plan
    try:
        yield str(path)
    finally:
        with _lock:
            _known.pop(str(path), None)
        shutil.rmtree(path.parent, ignore_errors=True)


def find_plan(path: str) -> Plan:
    """The plan published at `path`: this process's own, or read from the file and kept for the next shard.

    Raises:
        ConfigError: the file is not there: the run that wrote it is over, or the directory is not mounted here.
        SourceError, WeightsError: this machine lacks the source or the weights.
    """
    with _lock:
        if path not in _known:
            # Only the last one is kept: a worker serves one run at a time.
            for earlier in _read:
                _known.pop(earlier, None)
            _read.clear()
            _known[path] = _read_plan(Path(path))
            _read.add(path)
        return _known[path]


def keep_rows(path: str, shard: int, rows: Sequence[Row]) -> None:
    """Leaves the rows of a shard beside its plan, for the process that dispatched it."""
    with _lock:
        if path in _known and path not in _read:
            return  # that is this process
    file = _rows_file(path, shard)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(list(rows)), encoding="utf-8")
    os.replace(temporary, file)


def shard_rows(path: str, shard: int) -> list[Row] | None:
    """The rows that a shard left, None where it left none."""
    try:
        rows: list[Row] = json.loads(_rows_file(path, shard).read_text(encoding="utf-8"))
    except OSError:
        return None
    return rows


def _rows_file(path: str, shard: int) -> Path:
    return Path(path).with_name(f"rows-{shard}.json")


def _read_plan(path: Path) -> Plan:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"the plan {path} cannot be read ({error.strerror}): its run is over, or the output directory is not "
            "mounted on this machine under the same path; start the run again, or mount it"
        ) from error
    source, out = open_source(kept["source"]), Path(kept["out"])
    config = Config.model_validate(kept["config"])
    work = Work(
        source=source,
        config=config,
        store=Store(out),
        manifest=Manifest(out),
        workers=kept["workers"],
        force_from=kept["force_from"],
        rehash=kept["rehash"],
    )
    work.run_key()  # fails at once where this machine lacks weights
    wanted = {name for names in kept["shards"] for name in names}
    by_id = {info.episode_id: info for info in source.episodes() if info.episode_id in wanted}
    missing = wanted - by_id.keys()
    if missing:
        raise ConfigError(
            f"the source {kept['source']} lacks {len(missing)} of the {len(wanted)} episodes here, {min(missing)} for "
            "one; mount the same source on every machine"
        )
    request = Request(kept["source"], out, config, kept["camera"], force_from=kept["force_from"], rehash=kept["rehash"])
    jobs = [Job(by_id[name], kept["camera"]) for names in kept["shards"] for name in names]
    return Plan(request, work, jobs, work.manifest.rows())
