"""A plan on disk, for the other processes that work on its shards: settings once, and a file for each shard given out.

A shard's file lists its episodes and their earlier rows, so that a process lists no source and reads no manifest: with
a process for each shard both would cost the square of the episodes. Files are removed with the shard's rows, so that
the folder holds as many as shards are under way.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from extractors.errors import ConfigError, RemoteError, RemoteMissingError
from flows.config import Config
from flows.output.directory import OutputDirectory, RemoteDirectory
from flows.output.manifest import Row
from flows.remote.files import Remote
from flows.run.plan import Plan, Request
from flows.run.shard import Job, Work
from flows.sources.base import EpisodeInfo
from flows.sources.detect import open_source

_last: dict[str, tuple[Request, Work]] = {}
"""What this process read last, by the plan's path: a worker serves one run at a time."""

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
            "all_cameras": plan.work.all_cameras,
            "force_from": plan.work.force_from,
            "rehash": plan.work.rehash,
            "workers": plan.work.workers,
        }
    )
    folder.write_text("plan.json", text)
    try:
        yield f"{folder.uri}/plan.json"
    finally:
        folder.remove("")


def hand_out(path: str, plan: Plan, shard: int) -> None:
    """Puts the episodes of one shard of `plan`, which was published at `path`, beside it.

    Raises:
        OutputError: the file cannot be written.
    """
    jobs, root = plan.shards[shard], plan.work.source.root
    earlier = {job.episode_id: plan.earlier[job.episode_id] for job in jobs if job.episode_id in plan.earlier}
    episodes = [_listed(job.info, root) | {"camera_asked": job.camera} for job in jobs]
    text = json.dumps({"episodes": episodes, "earlier": earlier})
    _folder(path).write_text(_episodes_file(shard), text)


def find_plan(path: str, shard: int) -> Plan:
    """One shard, given out beside the plan published at `path`, as a plan of its episodes alone.

    Raises:
        ConfigError: a file is missing: the run that wrote it is over, or the directory or the source is not mounted.
        SourceError, WeightsError: this machine lacks the source or the weights.
    """
    with _lock:
        # Under the lock, so that threads of one worker open the source once.
        if path not in _last:
            _last.clear()
            _last[path] = _read_plan(path)
        request, work = _last[path]
    given = _read(path, _episodes_file(shard))
    jobs = []
    for listed in given["episodes"]:
        camera = listed.pop("camera_asked")
        jobs.append(Job(_on_this_machine(listed, work.source.root, request.source), camera))
    return Plan(request, work, jobs, given["earlier"])


def keep_rows(path: str, shard: int, rows: Sequence[Row]) -> None:
    """Leaves the rows of a shard beside its plan, for the process that dispatched it."""
    _folder(path).write_text(_rows_file(shard), json.dumps(list(rows)))


def take_rows(path: str, shard: int) -> list[Row] | None:
    """The rows that a shard left, None where it left none; its files are removed."""
    folder = _folder(path)
    try:
        rows: list[Row] = json.loads(folder.read_text(_rows_file(shard)))
    except RemoteMissingError:
        folder.remove(_episodes_file(shard))
        return None
    for name in (_episodes_file(shard), _rows_file(shard)):
        folder.remove(name)
    return rows


def _folder(path: str) -> Remote:
    return Remote(path.rpartition("/")[0])


def _rows_file(shard: int) -> str:
    return f"rows-{shard}.json"


def _episodes_file(shard: int) -> str:
    return f"episodes-{shard}.json"


def _listed(info: EpisodeInfo, root: Path) -> dict[str, Any]:
    """An episode as JSON types; its files are relative to the source's root, which is another machine's elsewhere."""
    return {
        "episode_id": info.episode_id,
        "episode_index": info.episode_index,
        "n_frames": info.n_frames,
        "language_instruction": info.language_instruction,
        "cameras": info.cameras,
        "fps": info.fps,
        "files": [[str(file.relative_to(root)), file.exists()] for file in info.files],
        "key": info.key,
        "tags": info.tags,
    }


def _on_this_machine(listed: Mapping[str, Any], root: Path, source: str) -> EpisodeInfo:
    """The episode with its files on this machine, which must be there if the dispatcher saw them."""
    for name, seen in listed["files"]:
        if seen and not (root / name).exists():
            raise ConfigError(
                f"the source {source} lacks {name} of episode {listed['episode_id']} on this machine; mount the same "
                "source on every machine"
            )
    tuples = {name: tuple(listed[name]) for name in ("cameras", "tags")}
    return EpisodeInfo(**{**listed, **tuples, "files": [root / name for name, _ in listed["files"]]})


def _read(path: str, name: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(_folder(path).read_text(name))
    except RemoteError as error:
        raise ConfigError(
            f"{name} beside the plan {path} cannot be read ({error}): its run is over, or the output directory is not "
            "mounted on this machine under the same path; start the run again, or mount it"
        ) from error
    return content


def _read_plan(path: str) -> tuple[Request, Work]:
    kept = _read(path, path.rpartition("/")[2])
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
        all_cameras=kept["all_cameras"],
        # Behind a URI this machine's journal is its own, and would bring these rows back after newer ones.
        journal=not isinstance(out, RemoteDirectory),
    )
    work.run_key()  # fails at once where this machine lacks weights
    request = Request(kept["source"], out, config, force_from=kept["force_from"], rehash=kept["rehash"])
    return request, work
