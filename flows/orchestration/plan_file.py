"""A plan on disk, for the processes that work on its shards: paths and ids, never arrays."""

from __future__ import annotations

import json
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from extractors.errors import ConfigError, OutputError, RemoteError, RemoteMissingError
from flows.config import Config
from flows.output.manifest import Manifest, Row
from flows.output.remote_output import output_directory, shown, twin_of
from flows.output.remote_store import open_store
from flows.remote.files import Remote, is_uri
from flows.run.plan import Plan, Request
from flows.run.shard import Job, Work
from flows.sources.detect import open_source
from packers.atomic import write_whole

_known: dict[str, Plan] = {}
_read: set[str] = set()
_lock = threading.Lock()


@contextmanager
def published(plan: Plan) -> Iterator[str]:
    """The path of a file in `.work/plans` from which any process finds `plan`; gone afterwards.

    Where the output is a URI and other machines work on it, so is the path.

    Raises:
        OutputError: the file cannot be written.
    """
    twin = twin_of(plan.request.out)
    out = shown(plan.request.out.resolve())
    folder = f".work/plans/{secrets.token_hex(8)}"
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
    if twin is not None and plan.work.config.run.engine != "local":
        twin.remote.write_text(f"{folder}/plan.json", text)
        path = f"{out}/{folder}/plan.json"
    else:
        local = plan.request.out.resolve() / folder / "plan.json"
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{local} cannot be written: {error}; free space or fix permissions") from error
        path = str(local)
    with _lock:
        _known[path] = plan
    try:
        yield path
    finally:
        with _lock:
            _known.pop(path, None)
        if twin is not None and is_uri(path):
            twin.remote.remove(folder)
        else:
            shutil.rmtree(Path(path).parent, ignore_errors=True)


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
            _known[path] = _read_plan(path)
            _read.add(path)
        return _known[path]


def keep_rows(path: str, shard: int, rows: Sequence[Row]) -> None:
    """Leaves the rows of a shard beside its plan, for the process that dispatched it."""
    with _lock:
        if path in _known and path not in _read:
            return  # that is this process
    text, name = json.dumps(list(rows)), f"rows-{shard}.json"
    if is_uri(path):
        Remote(path.rpartition("/")[0]).write_text(name, text)
        return
    write_whole(Path(path).with_name(name), text)


def shard_rows(path: str, shard: int) -> list[Row] | None:
    """The rows that a shard left, None where it left none."""
    try:
        rows: list[Row] = json.loads(_read_beside(path, f"rows-{shard}.json"))
    except (OSError, RemoteMissingError):
        return None
    return rows


def _read_beside(path: str, name: str) -> str:
    if is_uri(path):
        return Remote(path.rpartition("/")[0]).read_text(name)
    return Path(path).with_name(name).read_text(encoding="utf-8")


def _read_plan(path: str) -> Plan:
    try:
        kept = json.loads(_read_beside(path, "plan.json"))
    except (OSError, RemoteError) as error:
        raise ConfigError(
            f"the plan {path} cannot be read ({error}): its run is over, or the output directory is not "
            "mounted on this machine under the same path; start the run again, or mount it"
        ) from error
    source, out = open_source(kept["source"]), output_directory(kept["out"])
    config = Config.model_validate(kept["config"])
    work = Work(
        source=source,
        config=config,
        store=open_store(out, keep_local=config.run.keep_local),
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
