"""The work itself, without Prefect: episodes through stages, each result found by its key or made.

Each episode of a shard goes through the stages by itself (flows/run/stream.py); `Shard.run(stage)` waits until all have
left that stage. What fails is recorded and leaves the later stages; only a full disk or an interruption stops all.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from extractors.advance import advance_heard
from extractors.errors import BlankCameraError, EpisodeError, OutputError, PacketError, WeightsError
from extractors.types import Episode
from flows.config import Config
from flows.models.build import uses_device, weights_digests
from flows.models.turns import Spent, Turn, current_turn
from flows.output.manifest import Manifest, Row, after, assessment_columns
from flows.output.store import StageRecord, StageResult, Store, content_digest, json_digest
from flows.run.clips import Opened, open_episode
from flows.run.machine import memory_gb, peak_memory
from flows.run.processes import StageProcess, StageProcesses, Task
from flows.run.reuse import Decision, decide, known_source_key, packed_from, row_fits_packet
from flows.run.stream import AHEAD, Stream
from flows.run.threads import threads_each
from flows.sources.base import EpisodeInfo, Source, safe_id
from flows.stages import STAGES, Stage, StageInputs, StageOutput
from flows.stages.pack import PACK_VERSION, pack_episode, pack_key
from packers.reader import check_digest
from scoring.criteria import explain_score

log = logging.getLogger("cuepack")

LASTING_FAULTS = frozenset(
    {"CorruptDataError", "MissingDataError", "LengthMismatchError", "UnsafePickleError", "BlankCameraError"}
)
"""Errors in the episode's own files: trying again is of no use until these change."""

LEAST_COST_S = 1e-3
"""Shortest wait or device time that a row lists, seconds."""

ALL_STAGES = (*(stage.name for stage in STAGES), "pack")


class Progress(Protocol):
    """Hears about the work as it goes on; called from several threads."""

    def stage_moved(self, stage: str, frames: float) -> None:
        """One episode came `frames` frames further in `stage`, which it has not left; taken back when it leaves."""
        ...

    def stage_done(self, stage: str, frames: int) -> None:
        """One episode left `stage` (finished or reused) with `frames` frames."""
        ...

    def episode_done(self, status: str) -> None:
        """One episode is over: "done", "failed", "filtered" or "busy"."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One episode to be worked on: what the source lists, the camera asked for, and the packet's name."""

    info: EpisodeInfo
    camera: str | None = None

    @property
    def episode_id(self) -> str:
        """The packet's id: the source's, with the camera appended when one was asked for."""
        return self.info.episode_id if self.camera is None else f"{self.info.episode_id}-{safe_id(self.camera)}"


def _not_heard(share: float) -> None:
    """How far a stage has come, where nobody shows it."""


@dataclass(slots=True)
class EpisodeRun:
    """Where one episode of a shard stands."""

    job: Job
    results: dict[str, StageResult] = field(default_factory=dict)
    packed: dict[str, StageResult] = field(default_factory=dict)
    actions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    spent: dict[str, Spent] = field(default_factory=dict)
    stored_bytes: dict[str, int] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)
    process_peak_mb: dict[str, float] = field(default_factory=dict)
    row: Row | None = None
    episode: Episode | None = None
    stamp: str | None = None
    packet_mark: str | None = None
    process: StageProcess | None = None
    moved: Callable[[float], None] = _not_heard

    @property
    def is_over(self) -> bool:
        """Whether it is packed, filtered, failed, or another run's."""
        return self.row is not None


@dataclass(frozen=True, slots=True)
class Work:
    """What is the same for all shards of a run.

    Attributes:
        source: the episodes.
        config: resolved configuration.
        store, manifest: of the output directory.
        workers: episodes worked on at once.
        force_from: redo this stage and those after it even where nothing changed.
        rehash: read the source again even where size and time say it is the same.
        stop: set to end the run at the next episode boundary.
        progress: hears about the work.
        recorded: rows of this process's episodes as they end, also those of a shard that is cut short.
        all_cameras: every view of an episode was asked for: one that is black is left out without a failure.
        journal: whether rows go to the manifest's journal; another process takes them up otherwise.
        processes: that run the stages; None: threads of this process do.
    """

    source: Source
    config: Config
    store: Store
    manifest: Manifest
    workers: int = 1
    force_from: str | None = None
    rehash: bool = False
    all_cameras: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    progress: Progress | None = None
    recorded: list[Row] = field(default_factory=list)
    journal: bool = True
    processes: StageProcesses | None = None

    @property
    def threads(self) -> int:
        """Threads of libraries for each episode that is worked on."""
        config = self.config.run
        return threads_each(self.workers, config.threads, deterministic=config.deterministic)

    def run_key(self) -> str:
        """Sha256 of everything but the source that a packet depends on: equal keys, nothing to redo."""
        weights = {stage.name: weights_digests(stage.weights(self.config), self.config) for stage in STAGES}
        versions = {stage.name: stage.version for stage in STAGES} | {"pack": PACK_VERSION}
        return json_digest({"config": self.config.keyed(), "weights": weights, "versions": versions})


def source_stamp(info: EpisodeInfo) -> str:
    """What recognises an episode's files without reading them: names, sizes, times."""
    stamp: list[Any] = [dict(info.key), info.n_frames, info.language_instruction]
    for path in info.files:
        try:
            status = path.stat()
        except OSError:
            stamp.append([path.name, None, None])
            continue
        stamp.append([path.name, status.st_size, status.st_mtime_ns])
    return json_digest(stamp)


def is_finished(row: Mapping[str, Any] | None, job: Job, work: Work, run_key: str) -> bool:
    """Whether the manifest and the file system say that nothing is left to do for `job`."""
    if row is None or row.get("run_key") != run_key:
        return False
    if work.all_cameras and row.get("status") == "filtered" and row.get("error_type") == "BlankCameraError":
        return row.get("source_stamp") == source_stamp(job.info)
    if row.get("status") != "done":
        return False
    threshold = work.config.select.min_score
    if threshold is not None and (row.get("score") is None or row["score"] < threshold):
        return False
    # Cheapest checks first: this runs for each of 60,000 episodes before a run begins, and reads no packet whole.
    path, stamp = work.store.packet_path(job.episode_id), source_stamp(job.info)
    try:
        whole = path.stat().st_size == row.get("bytes")
    except OSError:
        return False
    if not whole or row.get("source_stamp") != stamp:
        return False
    # Of a packet that is not here nothing but its size is known.
    return not work.store.is_here(job.episode_id) or row_fits_packet(row, stamp, work.store.mark(job.episode_id))


def failed_as_it_is(row: Mapping[str, Any] | None, job: Job, run_key: str) -> bool:
    """Whether `job` failed before for what is in its files, and both they and the configuration are as they were."""
    if row is None or row.get("status") != "failed" or row.get("error_type") not in LASTING_FAULTS:
        return False
    return row.get("run_key") == run_key and row.get("source_stamp") == source_stamp(job.info)


class Shard:
    """Some episodes on their way through the stages.

    Use as a context manager: it holds the episodes' locks, and the work begins with it. `run(stage)` for each of
    `ALL_STAGES`, in order, waits for it; `rows` says what became of each episode.
    """

    def __init__(self, work: Work, jobs: Sequence[Job], earlier: Mapping[str, Row]) -> None:
        self.work = work
        self.runs = [EpisodeRun(job) for job in jobs]
        self._earlier = earlier
        self._run_key = work.run_key()
        self._weights = {stage.name: weights_digests(stage.weights(work.config), work.config) for stage in STAGES}
        self._held = ExitStack()
        self._forced = set(ALL_STAGES[ALL_STAGES.index(work.force_from) :]) if work.force_from else set()
        self._memory_bytes = 1e9 * (work.config.run.memory_gb or (memory_gb() or math.inf) / 2)

    def __enter__(self) -> Shard:
        held = self._held.enter_context(self.work.store.locked(run.job.episode_id for run in self.runs))
        for run in self.runs:
            self._held.callback(self.work.store.release, run.job.episode_id)
            if run.job.episode_id not in held:
                self._close(run, {"status": "busy", "error": "another run is working on this episode"})
        workers = max(1, self.work.workers)
        self._stream = self._held.enter_context(
            Stream(
                [run for run in self.runs if not run.is_over],
                ALL_STAGES,
                self._attempt,
                workers=workers,
                threads=self.work.threads if self.work.processes is None else None,
                memory_bytes=self._memory_bytes,
                stop=self.work.stop,
                # A process has one episode, and whoever is ahead would wait for one with a place on the CPU.
                ahead=AHEAD if self.work.processes is None and uses_device(self.work.config) else 0,
            )
        )
        return self

    def __exit__(self, *_: object) -> None:
        # What is under way ends first, then its locks.
        try:
            self._held.close()
        finally:
            # Those that were on their way when a run is stopped, or goes on without its server.
            for run in self.runs:
                self._let_go(run)
            # Python collects cycles once they are a quarter of all objects; with libraries' million that takes 400
            # episodes of 60 kB each.
            gc.collect()

    @property
    def rows(self) -> list[Row]:
        """The rows of the episodes that are over."""
        return [run.row for run in self.runs if run.row is not None]

    def run(self, stage_name: str) -> None:
        """Waits until every episode that is under way has left one stage.

        Raises:
            Interrupted: the run was asked to stop.
            OutputError: the output directory cannot be written.
            WeightsError: the stage's weights are missing or wrong.
        """
        self._stream.wait(stage_name)

    def _attempt(self, stage: str, run: EpisodeRun, turn: Turn) -> None:
        step = self._pack if stage == "pack" else self._stage_step(stage)
        # A wait for a first place on the CPU is over before the stage begins.
        started = time.perf_counter() - turn.spent.waited_s
        try:
            with peak_memory() as peak, self._moving(run, stage):
                try:
                    step(run)
                except PacketError as error:
                    self._make_up(run, error)
                    step(run)
        # A full disk and missing weights are the run's fault, not the episode's: every other episode would fail too.
        except (OutputError, WeightsError):
            raise
        except Exception as error:
            self._count(run, stage, turn, started)
            self._fail(run, stage, error)
            return
        self._count(run, stage, turn, started)
        # Of the process that did the work.
        run.peak_mb[stage] = max(peak.mb, run.process_peak_mb.get(stage, 0.0))
        if self.work.progress is not None:
            self.work.progress.stage_done(stage, _n_frames(run))
        # Recorded here and not in `_pack`, because the row holds the seconds of `pack` itself.
        if run.row is not None and run.row["status"] == "done":
            run.row.update(_costs(run))
            self._record(run)

    @contextmanager
    def _moving(self, run: EpisodeRun, stage: str) -> Iterator[None]:
        """Has the progress move within a stage that takes long."""
        progress, moved = self.work.progress, 0.0
        if progress is None:
            yield
            return

        def hear(share: float) -> None:
            nonlocal moved
            to = share * _n_frames(run)
            progress.stage_moved(stage, to - moved)
            moved = to

        try:
            run.moved = hear
            with advance_heard(hear):
                yield
        finally:
            run.moved = _not_heard
            progress.stage_moved(stage, -moved)

    def _count(self, run: EpisodeRun, stage: str, turn: Turn, started: float) -> None:
        """Takes down what a stage cost; the seconds are its own work's, waits are beside them."""
        spent, turn.spent = turn.spent, Spent()
        run.seconds[stage] = time.perf_counter() - started - spent.waited_s
        run.spent[stage] = spent

    def _make_up(self, run: EpisodeRun, error: PacketError) -> None:
        """Makes the stages again whose files are damaged or gone (`.work` may be deleted at any time)."""
        lost = set()
        for name, result in [*run.results.items(), *run.packed.items()]:
            try:
                check_digest(result.path)
            except PacketError:
                lost.add(name)
        if not lost:
            raise error
        log.warning("%s: made again, as %s", run.job.episode_id, error)
        for name in lost:
            run.results.pop(name, None)
            run.packed.pop(name, None)
        past = list(run.results.keys() | lost)
        for stage in STAGES:
            # In the order of STAGES, since a later stage reads what an earlier one made.
            if stage.name in past and stage.name not in run.results:
                self._finish_stage(run, stage)

    def _stage_step(self, name: str) -> Callable[[EpisodeRun], None]:
        stage = next(stage for stage in STAGES if stage.name == name)

        def step(run: EpisodeRun) -> None:
            if name == "source":
                self._begin(run)
            if name not in run.results:
                self._finish_stage(run, stage)

        return step

    def _begin(self, run: EpisodeRun) -> None:
        """Finds what earlier runs left, and accepts the source unread where size and time say it is the same."""
        store, name = self.work.store, run.job.episode_id
        try:
            run.packed = store.packet_results(name)
            run.packet_mark = store.mark(name)
        except PacketError as error:
            log.warning("%s: its packet is made again: %s", name, error)
        if self.work.rehash:
            return
        stamp = _stamp(run)
        # The packet before the work file: a finished episode has only the former.
        fits = row_fits_packet(self._earlier.get(name, {}), stamp, run.packet_mark)
        settings = json_digest(dict(STAGES[0].settings(self.work.config)))
        for found, same_files in ((run.packed.get("source"), fits), (store.saved_from(name, "source", stamp), True)):
            record = found.record if found is not None else None
            key = known_source_key(record, same_files=same_files, version=STAGES[0].version, settings=settings)
            if found is not None and key is not None:
                run.results["source"] = found
                run.actions["source"] = Decision.TAKE_PACKED.action
                return

    def _finish_stage(self, run: EpisodeRun, stage: Stage) -> None:
        config, store, job = self.work.config, self.work.store, run.job
        weights = self._weights[stage.name]
        key = stage.key(config, run.results, weights)
        packed, saved = run.packed.get(stage.name), store.saved(job.episode_id, stage.name)
        forced = stage.name in self._forced
        decide_with = partial(
            decide, forced=forced, packed=packed.record if packed else None, saved=saved.record if saved else None
        )
        # The source's key is made of its content, which `_begin` did not recognise.
        decision = decide_with(None if stage.name == "source" else key)
        if decision is not Decision.RUN:
            found = packed if decision is Decision.TAKE_PACKED else saved
            assert found is not None
            run.results[stage.name], run.actions[stage.name] = found, decision.action
            return
        earlier = None if forced else packed
        output = self._output(run, stage, earlier)
        # As it comes back from a file: tuples become lists here already, so that records compare equal later.
        report = json.loads(json.dumps(dict(output.report)))
        if output.content is not None:
            report["settings"] = json_digest(dict(stage.settings(config)))
            key = json_digest({"stage": stage.name, "version": stage.version, "content": dict(output.content)})
        record = StageRecord(
            key=key,
            version=stage.version,
            backend=output.backend,
            weights=weights,
            device=output.device,
            precision=output.precision,
            outputs={name: content_digest(dataset) for name, dataset in output.datasets.items()},
            report=report,
        )
        # Decided again with the record: a stage that ran for a touched source may have made the packet's bytes.
        decision = decide_with(key, made=record)
        run.actions[stage.name] = decision.action
        if decision is Decision.KEEP_PACKED and packed is not None:
            run.results[stage.name] = packed
        else:
            saved = store.save(job.episode_id, stage.name, record, output.datasets, stamp=_stamp(run))
            run.results[stage.name] = saved
            _count_bytes(run, stage.name, saved.path)

    def _output(self, run: EpisodeRun, stage: Stage, earlier: StageResult | None) -> StageOutput:
        weights, processes = self._weights[stage.name], self.work.processes
        if processes is None:
            inputs = StageInputs(
                lambda: self._open(run), run.results, self.work.config, earlier, weights, run.job.episode_id
            )
            return stage.run(inputs)
        if run.process is None:
            run.process = processes.take()
        job = run.job
        task = Task(stage.name, job.info, job.camera, run.results, earlier, weights, job.episode_id)
        made = run.process.run(task, opened=self._keeps_frames, moved=run.moved)
        run.process_peak_mb[stage.name] = made.peak_mb
        return made.output

    def _pack(self, run: EpisodeRun) -> None:
        score = run.results["quality"].record.report["scores"].get("score")
        threshold = self.work.config.select.min_score
        if threshold is not None and (score is None or score < threshold):
            reasons = explain_score(run.results["quality"].record.report["scores"], self.work.config.scoring)
            error = f"score {score} is below select.min_score={threshold}: {reasons}"
            self._close(run, {"status": "filtered", "error": error})
            return
        store, episode_id = self.work.store, run.job.episode_id
        key = pack_key(run.results, self.work.config)
        packed = run.packed.get("pack")
        if packed is not None and packed.record.key == key and "pack" not in self._forced:
            run.actions["pack"] = "reused"
        else:
            # A run killed between writing and publishing left the packet; it is published without packing again.
            if store.is_packed(episode_id, key) and "pack" not in self._forced:
                run.actions["pack"] = "reused"
            else:
                path = store.packing_path(episode_id)
                pack_episode(path, episode_id, run.results, self.work.config)
                _count_bytes(run, "pack", path)
                run.actions["pack"] = "computed"
            store.publish(episode_id)
        # After `publish`: the run after a crash before it needs the work files.
        store.forget(episode_id)
        run.packet_mark = store.mark(episode_id)
        run.row = self._row(run) | {"status": "done", "packed_from": packed_from(_stamp(run), run.packet_mark)}
        self._let_go(run)

    def _open(self, run: EpisodeRun) -> Episode:
        if run.episode is None:
            job, packet = run.job, self.work.config.packet
            size = packet.height, packet.width
            run.episode = open_episode(self.work.source, job.info, job.camera, size, self._keeps_frames)
        return run.episode

    def _keeps_frames(self, opened: Opened) -> bool:
        """Waits for the memory that an episode takes; whether its frames are to be kept once they are decoded."""
        # A longer clip is decoded again by each stage, as its frames would leave no room for other episodes.
        keeps = opened.decoded + opened.working <= self._memory_bytes / (2 * max(1, self.work.workers))
        current_turn().reserve(opened.working + (opened.decoded if keeps else 0))
        return keeps

    def _let_go(self, run: EpisodeRun) -> None:
        """Gives back what an episode held that is over."""
        run.episode = None
        if run.process is not None and self.work.processes is not None:
            self.work.processes.give(run.process)
            run.process = None

    def _fail(self, run: EpisodeRun, stage: str, error: Exception) -> None:
        if self.work.all_cameras and isinstance(error, BlankCameraError):
            self._close(run, {"status": "filtered", "error_type": type(error).__name__, "error": str(error)})
            return
        expected = isinstance(error, EpisodeError | PacketError | ValueError)
        log.log(
            logging.WARNING if expected else logging.ERROR,
            "%s failed in %s: %s: %s",
            run.job.episode_id,
            stage,
            type(error).__name__,
            error,
            exc_info=None if expected else error,
            extra={"listed_at_the_end": expected},
        )
        self._close(run, {"status": "failed", "stage": stage, "error_type": type(error).__name__, "error": str(error)})

    def _close(self, run: EpisodeRun, outcome: Mapping[str, Any]) -> None:
        run.row = self._row(run) | dict(outcome) | _costs(run)
        self._let_go(run)
        if self.work.progress is not None:
            # Time left is told by stages, so those that it will not go through are over too.
            for stage in ALL_STAGES[len(run.peak_mb) :]:
                self.work.progress.stage_done(stage, _n_frames(run))
        self._record(run)

    def _record(self, run: EpisodeRun) -> None:
        assert run.row is not None
        # A busy episode belongs to another run, whose row must not be replaced.
        if run.row["status"] != "busy":
            if self.work.journal:
                self.work.manifest.add(run.row)
            self.work.recorded.append(run.row)
        if self.work.progress is not None:
            self.work.progress.episode_done(run.row["status"])

    def _row(self, run: EpisodeRun) -> Row:
        info = run.job.info
        row: Row = {
            "episode_id": run.job.episode_id,
            "episode_index": info.episode_index,
            "n_frames": info.n_frames,
            "language_instruction": info.language_instruction,
            "camera": run.job.camera,
            "camera_asked": run.job.camera,
            "tags": ";".join(info.tags),
            "source_id": info.episode_id,
            "source_stamp": _stamp(run),
            "run_key": self._run_key,
            "stages_computed": ";".join(name for name, action in run.actions.items() if action == "computed"),
        }
        earlier = self._earlier.get(run.job.episode_id)
        row |= self.work.store.packet_columns(run.job.episode_id, earlier) | after(earlier)
        row["packed_from"] = self._packed_from(run)
        if "source" in run.results:
            report = run.results["source"].record.report
            row["camera"] = report["source"].get("camera")
            row["n_frames"] = len(report["source"]["frame_sha256"])
            row["language_instruction"] = report["language_instruction"]
        if "masks" in run.results:
            row["mask_recorded_j"] = run.results["masks"].record.report.get("recorded_j")
        if "quality" in run.results:
            row |= assessment_columns(run.results["quality"].record.report)
        return row

    def _packed_from(self, run: EpisodeRun) -> str | None:
        """What the packet that is there was made from, whatever becomes of the episode now."""
        source = run.results.get("source")
        # The packet's own source stage was accepted for the files as they are, so the packet fits them.
        if source is not None and source is run.packed.get("source"):
            return packed_from(_stamp(run), run.packet_mark)
        earlier: str | None = self._earlier.get(run.job.episode_id, {}).get("packed_from")
        return earlier


def _stamp(run: EpisodeRun) -> str:
    """The stamp of the episode's files as they were first looked at: what changes while it is read is noticed later."""
    if run.stamp is None:
        run.stamp = source_stamp(run.job.info)
    return run.stamp


def _costs(run: EpisodeRun) -> Row:
    # NaN, where /proc is missing, differs from itself and is left out.
    row: Row = {f"seconds_{name}": round(value, 4) for name, value in run.seconds.items()}
    row |= {f"peak_mb_{name}": round(value, 1) for name, value in run.peak_mb.items() if value == value}
    row |= {f"stored_bytes_{name}": size for name, size in run.stored_bytes.items()}
    for name, spent in run.spent.items():
        costs = {
            f"device_seconds_{name}": spent.device_s,
            f"waited_device_{name}": spent.waited_device_s,
            f"waited_cpu_{name}": spent.waited_cpu_s,
            f"waited_memory_{name}": spent.waited_memory_s,
        }
        # What is under a millisecond says nothing, and would be in each of a million rows.
        row |= {column: round(value, 4) for column, value in costs.items() if value >= LEAST_COST_S}
        if spent.padding is not None:
            row[f"padding_{name}"] = round(spent.padding, 4)
    # A run keeps all its rows, of which these names would be a third.
    return {sys.intern(column): value for column, value in row.items()}


def _count_bytes(run: EpisodeRun, stage: str, path: Path) -> None:
    # Somebody who deletes `.work` costs a number here, and no episode.
    with suppress(OSError):
        run.stored_bytes[stage] = path.stat().st_size


def _n_frames(run: EpisodeRun) -> int:
    if "source" in run.results:
        return len(run.results["source"].record.report["source"]["frame_sha256"])
    return run.job.info.n_frames or 0
