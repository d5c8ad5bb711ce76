"""What a run would take, before it begins: hours, gigabytes, the bottleneck, and how many workers keep a device busy.

The source is listed and nothing of it is opened. Networks cost what `flows/models/service_times.py` says; the work of
the CPU and the bytes come from an earlier run, or from one episode of the bundled sample that is worked on now. Each
number says where it is from; what is made of several is as doubtful as the most doubtful of them.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from extractors.errors import ConfigError, SourceError
from flows.config import Config, RobotConfig, RunConfig, SelectConfig, SourceConfig, load_config
from flows.models.service_times import ServiceTime, service_times
from flows.output.directory import LocalDirectory, OutputDirectory
from flows.output.manifest import Row
from flows.run.plan import Plan, Request, make_plan, out_of_reach
from flows.run.shard import ALL_STAGES, Shard
from flows.sources.base import EpisodeInfo, Source
from flows.sources.detect import open_source, source_location
from packers.cores import usable_cpus

ORIGINS = ("counted", "published", "measured", "assumed")
"""Where a number is from, the surest first. Counted: the source's own tables or folders say it."""

FRAMES_ASSUMED = 38
"""Frames of an episode where nothing tells: the mean of BridgeData V2 (2.26 million frames in 60,000 episodes)."""

READING_MB_S = 200.0
"""Megabytes (10^6) a second that a source is read with: assumed, a SATA disk without moving parts or a good network."""

MOST_FILES = 20_000
"""Files whose size is asked for; what these episodes' bytes are to their frames is taken for all."""

NETWORK_STAGES = ("masks", "depth", "tracks")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and where it is from.

    Attributes:
        value: in the unit that its name says.
        origin: one of `ORIGINS`.
        source: what was counted, who published it, what was measured, or why it is assumed.
    """

    value: float
    origin: str
    source: str

    def times(self, factor: float) -> Figure:
        """`factor` times as much, no surer than before."""
        return replace(self, value=self.value * factor)


def total(figures: Iterable[Figure], source: str) -> Figure:
    """The sum, as doubtful as the most doubtful part of it that is not zero."""
    parts = [figure for figure in figures if figure.value]
    worst = max((ORIGINS.index(figure.origin) for figure in parts), default=0)
    return Figure(math.fsum(figure.value for figure in parts), ORIGINS[worst], source)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much there is to do.

    Attributes:
        episodes: how many would be worked on; `filtered` of the listed ones cannot reach `select.min_score`.
        frames: of all of these.
        source_gb: what has to be read, 10^9 bytes.
    """

    episodes: Figure
    filtered: int
    frames: Figure
    source_gb: Figure


@dataclass(frozen=True, slots=True)
class Costs:
    """What a frame costs on this machine.

    Attributes:
        seconds: stage -> CPU seconds a frame.
        packet_bytes: of the packet.
        work_bytes: of the work files that wait in `.work` until the packet is written.
    """

    seconds: Mapping[str, Figure]
    packet_bytes: Figure
    work_bytes: Figure


@dataclass(frozen=True, slots=True)
class StageShare:
    """One stage of the run.

    Attributes:
        stage: its name.
        network: device seconds a frame of its network, None where it uses no device.
        device, cpu: seconds on the device, calls included, and on the CPU, all frames together.
    """

    stage: str
    network: Figure | None
    device: Figure
    cpu: Figure


@dataclass(frozen=True, slots=True)
class Forecast:
    """The answer of `cuepack plan`.

    Attributes:
        kind, location, device, profile: what was planned.
        extent: how much there is to do.
        workers: episodes worked on at once.
        stages: in order.
        device_hours, cpu_hours, reading_hours: of the device; of all cores together, divided by `workers`; of reading.
        hours_overlapped, hours_in_turn: the run, where the three overlap, and where each waits for the others.
        bottleneck: "device", "CPU" or "reading": the longest of the three.
        workers_for_device: how many keep the device busy, None without one.
        packets_gb, work_gb: the packets, and the most that `.work` holds at once, 10^9 bytes.
    """

    kind: str
    location: str
    device: str
    profile: str
    extent: Extent
    workers: int
    stages: tuple[StageShare, ...]
    device_hours: Figure
    cpu_hours: Figure
    reading_hours: Figure
    hours_overlapped: Figure
    hours_in_turn: Figure
    bottleneck: str
    workers_for_device: Figure | None
    packets_gb: Figure
    work_gb: Figure


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be planned.

    Attributes:
        source: path or URI.
        config: as given, profile not yet resolved.
        device: of `flows.models.service_times.DEVICES`, or "cpu"; None: "cpu" for the profile cpu, else "a100".
        like: output directory of an earlier run on this machine, None: one episode of the sample is timed.
        limit: no more episodes than this.
        reading_mb_s: megabytes a second that the source is read with; None: `READING_MB_S`.
    """

    source: str
    config: Config
    device: str | None = None
    like: OutputDirectory | None = None
    limit: int | None = None
    reading_mb_s: float | None = None


def forecast(question: Question) -> Forecast:
    """The answer to `question`.

    Raises:
        SourceError: the source cannot be listed, or has no episode.
        ConfigError: the device is unknown, `like` cannot serve, or a network would run on a CPU that nobody timed.
    """
    config = _resolved(question.config, question.device)
    device = question.device or ("a100" if config.run.wants_gpu else "cpu")
    times = service_times(config, device)
    source = open_source(question.source, config.source)
    extent = measure_extent(source, config, question.limit)
    costs = timed_on_sample(config, times) if question.like is None else recorded_costs(question.like, config, times)
    rate = question.reading_mb_s or READING_MB_S
    seconds_per_gb = Figure(1e3 / rate, "assumed", f"the source is read with {rate:g} MB/s")
    head = (source.kind, source_location(source), device, config.run.profile)
    return combine(head, extent, costs, times, seconds_per_gb, config)


def combine(
    head: tuple[str, str, str, str],
    extent: Extent,
    costs: Costs,
    times: Mapping[str, ServiceTime],
    seconds_per_gb: Figure,
    config: Config,
) -> Forecast:
    """The arithmetic: everything is in proportion to frames, but the calls of networks, one an episode and stage."""
    frames, episodes = extent.frames, extent.episodes
    workers = config.run.workers or usable_cpus()
    stages = tuple(_share(stage, times.get(stage), extent, costs) for stage in ALL_STAGES)
    device = total((share.device for share in stages), "sum over stages").times(1 / 3600)
    cpu = total((share.cpu for share in stages), f"sum over stages, by {workers} workers").times(1 / 3600 / workers)
    reading = _product(extent.source_gb, seconds_per_gb).times(1 / 3600)
    parts = {"device": device, "CPU": cpu, "reading": reading}
    longest = max(parts, key=lambda name: parts[name].value)
    shard = min(config.run.shard_size, int(episodes.value))
    return Forecast(
        *head,
        extent=extent,
        workers=workers,
        stages=stages,
        device_hours=device,
        cpu_hours=cpu,
        reading_hours=reading,
        hours_overlapped=replace(parts[longest], source=f"the longest of the three: {longest}"),
        hours_in_turn=total(parts.values(), "device, CPU and reading one after another"),
        bottleneck=longest,
        workers_for_device=_workers_for(device, cpu.times(workers)) if device.value else None,
        packets_gb=_product(frames, costs.packet_bytes).times(1e-9),
        work_gb=_product(frames, costs.work_bytes).times(1e-9 * shard / episodes.value),
    )


def measure_extent(source: Source, config: Config, limit: int | None = None) -> Extent:
    """Counts what the source lists; episodes are looked at one at a time and not kept.

    Raises:
        SourceError: it lists none.
    """
    episodes = filtered = counted = silent = 0
    sizes = _Sizes()
    for info in islice(source.episodes(), limit):
        if out_of_reach(info, config) is not None:
            filtered += 1
            continue
        episodes += 1
        counted += info.n_frames or 0
        silent += info.n_frames is None
        sizes.add(info)
    if not episodes:
        raise SourceError(f"{source_location(source)} lists no episode to work on ({filtered} are filtered)")
    mean = counted / (episodes - silent) if episodes > silent else FRAMES_ASSUMED
    source_of_frames = (
        "the listing" if not silent else f"the listing, but {silent} episodes, which are taken for {mean:.0f} frames"
    )
    frames = Figure(counted + silent * mean, "assumed" if silent else "counted", source_of_frames)
    return Extent(Figure(episodes, "counted", "the listing"), filtered, frames, sizes.all_bytes(frames).times(1e-9))


class _Sizes:
    """Bytes of the files of the first episodes, each file once, until there are `MOST_FILES`."""

    def __init__(self) -> None:
        self._seen: set[Path] = set()
        self._bytes = self._episodes = self._frames = 0
        self._full = False

    def add(self, info: EpisodeInfo) -> None:
        self._full = self._full or len(self._seen) >= MOST_FILES
        if self._full:
            return
        self._episodes += 1
        self._frames += info.n_frames or FRAMES_ASSUMED
        for path in info.files:
            if path not in self._seen:
                self._seen.add(path)
                self._bytes += _size(path)

    def all_bytes(self, frames: Figure) -> Figure:
        if not self._full:
            return Figure(self._bytes, "counted", f"sizes of {len(self._seen)} files")
        source = f"sizes of the {len(self._seen)} files of the first {self._episodes} episodes, by frames"
        return Figure(self._bytes * frames.value / self._frames, "measured", source)


def recorded_costs(like: OutputDirectory, config: Config, times: Mapping[str, ServiceTime]) -> Costs:
    """Costs from the manifest of an earlier run on this machine.

    Raises:
        ConfigError: it is not an output directory, its networks on the CPU are others, or no row has all stages.
    """
    _check_same_networks(like, config, times)
    rows = [row for row in like.manifest.rows().values() if _worked_through(row)]
    frames = sum(int(row["n_frames"]) for row in rows)
    if not frames:
        raise ConfigError(f"--like {like.label}: no episode went through all stages in its last run; leave --like out")
    source = f"{like.label}: {len(rows)} episodes, {frames} frames"
    seconds = {
        stage: Figure(sum(float(row[f"seconds_{stage}"]) for row in rows) / frames, "measured", source)
        for stage in ALL_STAGES
    }
    packet = Figure(sum(int(row["bytes"]) for row in rows) / frames, "measured", source)
    work = replace(packet, origin="assumed", source=f"as many as the packet's; {source}")
    return Costs(_read_again(seconds, times), packet, work)


def timed_on_sample(config: Config, times: Mapping[str, ServiceTime]) -> Costs:
    """Costs of one episode of the bundled sample, worked on now, one worker; networks of a device have CPU stand-ins.

    Raises:
        ConfigError: a network would run on this CPU and costs too much to be tried.
    """
    from flows.sources.sample import SAMPLE

    stand_in = _without_device(config, times)
    with tempfile.TemporaryDirectory(prefix="cuepack-plan-") as folder:
        out = LocalDirectory(Path(folder))
        plan = make_plan(Request(str(SAMPLE / "bridge_raw"), out, stand_in, limit=1))
        spent, work_bytes = _time_stages(plan)
        row = next(iter(out.manifest.rows().values()))
        if row["status"] != "done":
            raise ConfigError(f"the sample's episode failed with these settings: {row['error']}")
        frames, packet = int(row["n_frames"]), int(row["bytes"])
    source = f"one episode of the bundled sample now, {frames} frames"
    seconds = {stage: Figure(value / frames, "measured", source) for stage, value in spent.items()}
    stored = [Figure(count / frames, "measured", source) for count in (packet, work_bytes)]
    return Costs(_read_again(seconds, times), *stored)


def _time_stages(plan: Plan) -> tuple[dict[str, float], int]:
    """CPU seconds of each stage, all threads, and the most bytes that its work files had after one of them."""
    spent, work_bytes = {}, 0
    with plan.work.store.in_use(), Shard(plan.work, plan.jobs, plan.earlier) as shard:
        for stage in ALL_STAGES:
            started = time.process_time()
            shard.run(stage)
            spent[stage] = time.process_time() - started
            stored = sum(_size(path) for path in (plan.work.store.work / "stages").rglob("*.h5"))
            work_bytes = max(work_bytes, stored)
    return spent, work_bytes


def _without_device(config: Config, times: Mapping[str, ServiceTime]) -> Config:
    """The configuration with what packs the same kinds of datasets on the CPU in place of the device's networks."""
    light = {"masks": "nano", "depth": "nano", "tracks": "lucas-kanade"}
    # What is set for the user's own source would not fit the sample.
    changes: dict[str, Any] = {"source": SourceConfig(), "robot": RobotConfig(), "select": SelectConfig()}
    changes["run"] = RunConfig(profile="cpu", workers=1)
    if config.geometry.calibration_file is not None:
        changes["geometry"] = config.geometry.model_copy(update={"calibration": "auto", "calibration_sha256": None})
    for stage in NETWORK_STAGES:
        section = getattr(config, stage)
        if stage in times:
            changes[stage] = section.model_copy(update={"backend": light[stage]})
        elif section.backend in ("sam3", "grounded-sam", "video-depth-anything", "cotracker3", "tapir"):
            raise ConfigError(
                f"nobody published what {section.backend} takes on a CPU; name a --device, or --like DIR, a run of it "
                "on this machine"
            )
        elif section.backend == "recorded":
            # The sample need not have recorded it; reading it costs less than making it.
            changes[stage] = section.model_copy(update={"backend": light[stage]})
    return config.model_copy(update=changes)


def _check_same_networks(like: OutputDirectory, config: Config, times: Mapping[str, ServiceTime]) -> None:
    file = like.root / "config.yaml"
    if not file.is_file():
        raise ConfigError(
            f"--like {like.label} is not an output directory of `cuepack extract`: config.yaml is missing"
        )
    earlier = load_config(file)
    for stage in NETWORK_STAGES:
        before, after = getattr(earlier, stage).backend, getattr(config, stage).backend
        if stage not in times and before != after:
            raise ConfigError(
                f"--like {like.label} was made with {stage}.backend={before}, this plan has {after}; name a run with "
                "the same, or leave --like out"
            )


def _worked_through(row: Row) -> bool:
    """Whether every stage of the episode ran, so that its seconds are those of work and not of finding it done."""
    computed = set(str(row.get("stages_computed") or "").split(";"))
    timed = all(row.get(f"seconds_{stage}") is not None for stage in ALL_STAGES)
    return row["status"] == "done" and computed >= set(ALL_STAGES) and timed and bool(row.get("n_frames"))


def _read_again(seconds: Mapping[str, Figure], times: Mapping[str, ServiceTime]) -> dict[str, Figure]:
    """A network on a device leaves the CPU to decode the frames once more, which `source` was timed at."""
    why = f"the CPU decodes the frames for it, as for source: {seconds['source'].source}"
    return {
        stage: replace(seconds["source"], origin="assumed", source=why) if stage in times else figure
        for stage, figure in seconds.items()
    }


def _share(stage: str, time: ServiceTime | None, extent: Extent, costs: Costs) -> StageShare:
    cpu = _product(extent.frames, costs.seconds[stage])
    if time is None:
        return StageShare(stage, None, Figure(0.0, "counted", "uses no device"), cpu)
    source = f"{time.network} in {time.precision} on {time.device}: {time.source}"
    network = Figure(time.seconds_per_frame, time.origin, source)
    calls = Figure(extent.episodes.value * time.seconds_per_call, "assumed", "one call an episode")
    return StageShare(stage, network, total((_product(extent.frames, network), calls), source), cpu)


def _workers_for(device_hours: Figure, cpu_hours: Figure) -> Figure:
    both = total((device_hours, cpu_hours), "CPU hours over device hours, rounded up")
    return replace(both, value=max(1, math.ceil(cpu_hours.value / device_hours.value)))


def _product(amount: Figure, rate: Figure) -> Figure:
    worst = max(ORIGINS.index(amount.origin), ORIGINS.index(rate.origin))
    return Figure(amount.value * rate.value, ORIGINS[worst], rate.source)


def _resolved(config: Config, device: str | None) -> Config:
    """Resolved for the device and not for this machine: `auto` is gpu for an accelerator, whatever runs this."""
    if config.run.profile == "auto" and device is not None:
        profile = "cpu" if device == "cpu" else "gpu"
        config = config.model_copy(update={"run": config.run.model_copy(update={"profile": profile})})
    return config.resolved()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
