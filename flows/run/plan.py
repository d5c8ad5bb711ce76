"""What a run is going to do: which episodes, with which settings, into which directory."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, overload

from extractors.errors import ConfigError, EpisodeError, SourceError, UnknownCameraError
from flows.config import Config, load_config
from flows.models.build import weights_digests
from flows.output.directory import OutputDirectory
from flows.output.manifest import Row, after
from flows.output.run_record import read_run, write_run
from flows.output.store import json_digest
from flows.remote.places import is_inside
from flows.run.shard import Job, Work, failed_as_it_is, is_finished
from flows.sources.base import EpisodeInfo, Source, safe_id
from flows.sources.detect import HUB_PREFIX, open_source, source_location
from flows.stages import STAGES
from packers.cores import usable_cpus
from scoring.criteria import Scores, best_possible_score, explain_score, score_metadata

_LIBRARIES = ("numpy", "opencv-python-headless", "h5py", "torch", "av", "pandas", "tensorflow-datasets", "prefect")


ALL_CAMERAS = "all"
"""In place of a camera's name: a packet for each view of an episode."""

MOST_INDICES = 10_000_000
"""Longest range that `--episodes` takes; a slip of the keyboard should not fill the memory."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for.

    Attributes:
        source: path or URI of the episodes.
        out: the output directory.
        config: as given, profile not yet resolved.
        camera: the view asked for, `ALL_CAMERAS` for each that shows something, None for the source's default.
        indices: episode indices to take, None for all.
        ids: episode ids to take (packet or source ids), None for all.
        limit: take no more than this many episodes, each with all views asked for.
        force_from: redo this stage and those after it.
        rehash: read the source again even where size and time say it is the same.
        new_only: leave out episodes that failed before, while their files and the configuration are the same.
    """

    source: str
    out: OutputDirectory
    config: Config
    camera: str | None = None
    indices: frozenset[int] | None = None
    ids: tuple[str, ...] | None = None
    limit: int | None = None
    force_from: str | None = None
    rehash: bool = False
    new_only: bool = False


class Shards(Sequence[list[Job]]):
    """Jobs in shards of one size, each cut out when it is asked for: engines ask for them one by one, by number."""

    def __init__(self, jobs: Sequence[Job], size: int) -> None:
        self._jobs, self._size = jobs, size

    def __len__(self) -> int:
        return -(-len(self._jobs) // self._size)

    @overload
    def __getitem__(self, index: int) -> list[Job]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[Job]]: ...

    def __getitem__(self, index: int | slice) -> list[Job] | list[list[Job]]:
        """One shard, or those of a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        start = range(len(self))[index] * self._size
        return list(self._jobs[start : start + self._size])


@dataclass(slots=True)
class Plan:
    """A run, ready to go.

    Attributes:
        request: what was asked for.
        work: what all shards share.
        jobs: the episodes that need work, in index order.
        earlier: the manifest's rows before the run.
        finished: rows of episodes that need nothing.
        filtered: rows of episodes that cannot reach the score asked for; they cost no decoding.
        given_up: rows of episodes that failed before and would fail again, left out by `new_only`.
        fingerprint: of what the source listed when the plan was made, "" for a plan that was not made from a listing.
    """

    request: Request
    work: Work
    jobs: list[Job]
    earlier: dict[str, Row]
    finished: list[Row] = field(default_factory=list)
    filtered: list[Row] = field(default_factory=list)
    given_up: list[Row] = field(default_factory=list)
    fingerprint: str = ""

    @property
    def shards(self) -> Sequence[list[Job]]:
        """The jobs in shards of `run.shard_size`."""
        return Shards(self.jobs, self.work.config.run.shard_size)

    @property
    def lengths(self) -> list[int | None]:
        """Frames of each job, None where the source does not say."""
        return [job.info.n_frames for job in self.jobs]

    @property
    def workers_at_once(self) -> int:
        """Episodes that compute at once, over all processes of the run."""
        run = self.work.config.run
        return self.work.workers * (1 if run.engine == "local" else run.in_flight)


def make_plan(request: Request) -> Plan:
    """Opens the source, lists its episodes, and sorts out what is left to do. Decodes nothing.

    Raises:
        SourceError, ConfigError, UnknownCameraError, WeightsError, OutputError: the run cannot start.
    """
    source = open_source(request.source, request.config.source)
    infos = list(source.episodes())
    listed = fingerprint(source, infos)
    # Before anything is written: a wrong --out stays as it is.
    _check_output(request.out, source, listed)
    config = request.config.resolved()
    work = Work(
        source=source,
        config=config,
        store=request.out.store(keep_local=config.run.keep_local),
        manifest=request.out.manifest,
        workers=config.run.workers or usable_cpus(),
        force_from=request.force_from,
        rehash=request.rehash,
        all_cameras=request.camera == ALL_CAMERAS,
    )
    # The key hashes weights, so a run without them ends here and not in the middle of its first shard.
    run_key = work.run_key()
    earlier = work.manifest.rows()
    plan = Plan(request, work, [], earlier, fingerprint=listed)
    for job in _chosen_jobs(source, infos, request):
        row = earlier.get(job.episode_id)
        if not request.rehash and request.force_from is None and is_finished(row, job, work, run_key):
            assert row is not None
            plan.finished.append(row)
            continue
        if request.new_only and failed_as_it_is(row, job, run_key):
            assert row is not None
            plan.given_up.append(row)
            continue
        hopeless = out_of_reach(job.info, config)
        if hopeless is not None:
            # The packet of an earlier run stays, and so does what it was made from (docs/trust.md).
            kept = {} if row is None else {"packed_from": row.get("packed_from")}
            columns = work.store.packet_columns(job.episode_id, row)
            plan.filtered.append(_filtered_row(job, hopeless, config) | columns | kept | after(row))
        else:
            plan.jobs.append(job)
    return plan


def rerun_plans(
    out: OutputDirectory,
    episode_ids: Sequence[str],
    *,
    force_from: str | None = None,
    config_file: Path | None = None,
    settings: Iterable[str] = (),
    new_only: bool = False,
) -> list[Plan]:
    """Plans to redo single episodes of `out` with its own configuration and `settings` on top, one plan per camera.

    Raises:
        ConfigError: `out` is not an output directory, or does not list one of the episodes.
        SourceError, WeightsError, OutputError: the run cannot start.
    """
    recorded = read_run(out)["source"]
    rows = out.manifest.rows()
    unknown = [name for name in episode_ids if name not in rows]
    if unknown:
        raise ConfigError(f"{out.label} has no episode {_some(unknown)}; manifest.csv lists the ids")
    config = load_config(config_file, settings, base=load_config(out.root / "config.yaml"))
    # A plan has one camera; a directory may hold episodes of several.
    by_camera: dict[str | None, list[str]] = {}
    for name in episode_ids:
        by_camera.setdefault(rows[name].get("camera_asked"), []).append(name)
    return [
        make_plan(
            Request(
                source=recorded["asked"] if recorded["asked"].startswith(HUB_PREFIX) else recorded["path"],
                out=out,
                config=config,
                camera=camera,
                ids=tuple(names),
                force_from=force_from,
                new_only=new_only,
            )
        )
        for camera, names in sorted(by_camera.items(), key=lambda item: str(item[0]))
    ]


def record_run(plan: Plan, command: str) -> None:
    """Writes config.yaml and run.json into the output directory.

    Raises:
        OutputError: it cannot be written.
    """
    config = plan.work.config
    weights = {name: digest for stage in STAGES for name, digest in _stage_weights(stage.weights(config), config)}
    run = {
        "command": command,
        "source": {
            "path": source_location(plan.work.source),
            "asked": plan.request.source,
            "kind": plan.work.source.kind,
            "dataset": plan.work.source.dataset,
            "fingerprint": plan.fingerprint,
        },
        "camera": plan.request.camera,
        "versions": {"cuepack": _version("cuepack"), "python": platform.python_version()}
        | {name: _version(name) for name in _LIBRARIES},
        "devices": _devices(config),
        "weights": weights,
    }
    write_run(plan.request.out, config, run)


def parse_indices(text: str) -> frozenset[int]:
    """Episode indices from text such as "3,7,10-20".

    Raises:
        ConfigError: the text is not of that form.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low = int(first)
            high = int(last) if dash else low
        except ValueError:
            raise ConfigError(f"--episodes wants indices like 3,7,10-20, got {text!r}") from None
        if high < low:
            raise ConfigError(f"--episodes: {part.strip()!r} runs backwards")
        if high - low > MOST_INDICES:
            raise ConfigError(f"--episodes: {part.strip()!r} names more than {MOST_INDICES:,} episodes; leave it out")
        chosen.update(range(low, high + 1))
    return frozenset(chosen)


def _check_output(out: OutputDirectory, source: Source, listed: str) -> None:
    """Refuses an output that is inside the source, or holds packets of another source."""
    location = source_location(source)
    if source.root.is_dir() and is_inside(out.label, location):
        raise ConfigError(f"the output {out.label} is inside the source {location}; choose an --out outside it")
    if out.root.exists() and not out.root.is_dir():
        raise ConfigError(f"--out {out.label} is a file; name a directory")
    if not (out.root / "run.json").exists():
        return
    earlier = read_run(out)["source"]
    # A data set that was moved has another path and the same episodes.
    if earlier["path"] != location and earlier["fingerprint"] != listed:
        raise ConfigError(
            f"{out.label} holds packets of another source ({earlier['kind']} {earlier['path']}); choose another --out"
        )


def _chosen_jobs(source: Source, infos: Sequence[EpisodeInfo], request: Request) -> list[Job]:
    if not infos:
        raise SourceError(f"{request.source} holds no episode that cuepack can see; check the path")
    if request.camera not in (None, ALL_CAMERAS):
        _check_camera(source, infos, request.camera)
    jobs = [Job(info, camera) for info in infos for camera in _views(info, request.camera)]
    if request.indices is not None:
        unknown = request.indices - {job.info.episode_index for job in jobs}
        if unknown:
            raise ConfigError(f"no episode has index {_some(sorted(unknown))}; the source has {_index_range(infos)}")
        jobs = [job for job in jobs if job.info.episode_index in request.indices]
    if request.ids is not None:
        jobs = _jobs_by_id(jobs, request.ids)
    # --limit comes last, so that it counts what the other choices leave.
    if request.limit is None:
        return jobs
    first = set(islice(dict.fromkeys(job.info.episode_id for job in jobs), request.limit))
    return [job for job in jobs if job.info.episode_id in first]


def _views(info: EpisodeInfo, asked: str | None) -> Sequence[str | None]:
    """The cameras of which an episode gets a packet; one without any is opened all the same, and says what it lacks."""
    if asked != ALL_CAMERAS or not info.cameras:
        return (None if asked == ALL_CAMERAS else asked,)
    if len({safe_id(name).casefold() for name in info.cameras}) < len(info.cameras):
        raise UnknownCameraError(
            f"cameras of {info.episode_id} would share a packet's name: {', '.join(info.cameras)}; name one camera"
        )
    return info.cameras


def _jobs_by_id(jobs: Sequence[Job], ids: Sequence[str]) -> list[Job]:
    # Packet ids win over source ids: a rerun names packets, a selection made before extraction names the source's.
    by_id: dict[str, list[Job]] = {}
    for job in jobs:
        by_id.setdefault(job.info.episode_id, []).append(job)
    by_id |= {job.episode_id: [job] for job in jobs}
    unknown = [name for name in ids if name not in by_id]
    if unknown:
        raise ConfigError(f"the source has no episode {_some(unknown)}; `cuepack score` lists the ids")
    return list({job.episode_id: job for name in ids for job in by_id[name]}.values())


def _check_camera(source: Source, infos: Iterable[EpisodeInfo], camera: str) -> None:
    """Refuses a camera that no episode has, before anything is written.

    An alias is one only where an episode takes it, and just opening the episode tells; the first usually does.
    """
    cameras: dict[str, None] = {}
    for info in infos:
        cameras.update(dict.fromkeys(info.cameras))
    if camera in cameras or camera in {name.rsplit(".", 1)[-1] for name in cameras}:
        return
    if camera in source.camera_aliases:
        for info in infos:
            try:
                source.open(info, camera)
            except UnknownCameraError:
                continue
            except EpisodeError:
                pass  # the episode is bad for another reason, which its row will say
            return
    raise UnknownCameraError(f"no episode has a camera named '{camera}'; the source has {sorted(cameras)}")


def out_of_reach(info: EpisodeInfo, config: Config) -> float | None:
    """The best score an episode could still reach, where that is below the one asked for."""
    if config.select.min_score is None:
        return None
    best = best_possible_score(_metadata_scores(info, config), config.scoring)
    return best if best < config.select.min_score else None


def _metadata_scores(info: EpisodeInfo, config: Config) -> Scores:
    return score_metadata(info.language_instruction, info.n_frames, info.fps, config.scoring)


def _filtered_row(job: Job, best: float, config: Config) -> Row:
    info = job.info
    scores = _metadata_scores(info, config)
    return {
        "episode_id": job.episode_id,
        "episode_index": info.episode_index,
        "status": "filtered",
        "error": f"metadata alone allow a score of {best:.3f} at most, below select.min_score="
        f"{config.select.min_score}: {explain_score(scores, config.scoring)}",
        "n_frames": info.n_frames,
        "language_instruction": info.language_instruction,
        "camera": job.camera,
        "source_id": info.episode_id,
        "tags": ";".join(info.tags),
        "score_task": scores["task"],
        "score_length": scores["length"],
    }


def _stage_weights(names: Sequence[str], config: Config) -> Iterable[tuple[str, str]]:
    return weights_digests(names, config).items()


def fingerprint(source: Source, infos: Iterable[EpisodeInfo]) -> str:
    """Sha256 of what a source lists: kind, and id, length and instruction of every episode."""
    # No paths and times: the same data set copied elsewhere has the same fingerprint.
    digest = hashlib.sha256(source.kind.encode())
    for info in infos:
        digest.update(json_digest([info.episode_id, info.n_frames, info.language_instruction]).encode())
    return digest.hexdigest()


def _devices(config: Config) -> Mapping[str, Any]:
    devices: dict[str, Any] = {"machine": platform.machine(), "cpus": usable_cpus()}
    if config.run.wants_gpu:
        import torch

        devices["cuda"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return devices


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _index_range(infos: Sequence[EpisodeInfo]) -> str:
    numbers = sorted(info.episode_index for info in infos)
    return f"{len(numbers)} episodes, {numbers[0]} to {numbers[-1]}"


def _some(values: Sequence[Any], most: int = 5) -> str:
    shown = ", ".join(str(value) for value in values[:most])
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"
