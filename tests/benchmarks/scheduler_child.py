"""One measurement of `tests.benchmarks.scheduler`, in a process of its own and with whatever version is on the path.

    python tests/benchmarks/scheduler_child.py '{"way": "device", ...}'

It imports nothing of tests/benchmarks, so that an older checkout's engine can be measured by the same script.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from extractors.types import Depth, Episode, Frames
from flows.run import shard as shard_module
from flows.run.carry_out import carry_out, run_shard_plainly
from flows.sources.base import EpisodeInfo
from flows.stages.base import Stage, StageInputs, StageOutput
from flows.stages.source import SOURCE
from packers.writer import encode
from scoring.criteria import combine
from tests.flows.batches import QUICK, Silent, array_plan
from tests.support import ArraySource, square_clip

DECODE_S, STORE_S = 0.003, 0.004
"""CPU seconds a frame of the simulation, decoding and compressing: a video in 640 x 480 takes 1.3 to 4 ms, storing the
same in packets of 224 x 224. Nothing is computed: a place is held that long."""

TINY = (8, 8)


@dataclass
class Device:
    """A device that takes the published time and does nothing.

    Attributes:
        seconds_per_frame, seconds_per_call: see flows/models/service_times.py.
        windows_a_call: windows of 32 frames that one call holds.
        busy_s: so far.
        calls, clips: so far.
    """

    seconds_per_frame: float
    seconds_per_call: float
    windows_a_call: int = 4
    precision: str = "fp32"
    slowed: float = 1.0
    device: Any = field(default_factory=lambda: SimpleNamespace(type="cuda", index=0))
    busy_s: float = 0.0
    calls: int = 0
    clips: int = 0

    def __hash__(self) -> int:
        return id(self)

    def estimate(self, pixels: Frames, *, size: tuple[int, int]) -> Depth:
        return self.estimate_many([pixels], size=size)[0]

    def estimate_many(self, clips: Sequence[Frames], *, size: tuple[int, int]) -> list[Depth]:
        # As Video-Depth-Anything does: once for scene cuts, once for the network. What is lazy is decoded meanwhile.
        for _ in range(2):
            lengths = [sum(1 for _ in clip) for clip in clips]
        windows = sum(-(-length // 22) for length in lengths)
        seconds = self.seconds_per_frame * sum(lengths) + self.seconds_per_call * -(-windows // self.windows_a_call)
        time.sleep(self.slowed * seconds)
        self.busy_s, self.calls, self.clips = self.busy_s + seconds, self.calls + 1, self.clips + len(clips)
        return [Depth(np.ones((length, *size), np.float32), "relative") for length in lengths]

    def padding(self, n_frames: Sequence[int]) -> float:
        repeated = 0.02 * sum(-length % 22 + 10 for length in n_frames)
        return repeated / (repeated + sum(n_frames))


@dataclass(frozen=True)
class SlowFrames:
    """Frames whose decoding takes time."""

    n_frames: int
    slowed: float

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n_frames, *TINY, 3)

    def __len__(self) -> int:
        return self.n_frames

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        frame = np.full((*TINY, 3), 90, np.uint8)
        for t in range(self.n_frames):
            if t % 8 == 0:
                time.sleep(self.slowed * DECODE_S * min(8, self.n_frames - t))
            yield frame


@dataclass(frozen=True)
class LengthsSource(ArraySource):
    """Episodes of given lengths."""

    lengths: tuple[int, ...] = ()

    def episodes(self) -> Iterator[EpisodeInfo]:
        self.root.mkdir(parents=True, exist_ok=True)
        for index, length in enumerate(self.lengths):
            yield EpisodeInfo(f"e{index:05d}", index, length, "put the square down", ("front",), 5.0, ())


@dataclass(frozen=True)
class SlowSource(LengthsSource):
    """Episodes of given lengths whose frames take time to decode."""

    slowed: float = 1.0

    def open(self, info: EpisodeInfo, camera: str | None = None) -> Episode:
        assert info.n_frames is not None
        t = np.arange(info.n_frames)
        return Episode(
            episode_id=info.episode_id,
            episode_index=info.episode_index,
            camera_name="front",
            language_instruction=info.language_instruction,
            fps=5.0,
            pixels=SlowFrames(info.n_frames, self.slowed),
            timestamp=t / 5.0,
            provenance={
                "dataset": "slow",
                "kind": "slow",
                "path": info.episode_id,
                "episode_index": info.episode_index,
                "camera": "front",
                "frame_ids": t.tolist(),
            },
        )


@dataclass(frozen=True)
class VariedSource(LengthsSource):
    """Clips of a moving square, of given lengths and size."""

    size: tuple[int, int] = (48, 64)

    def open(self, info: EpisodeInfo, camera: str | None = None) -> Episode:
        assert info.n_frames is not None
        made = ArraySource(self.root, n_frames=info.n_frames).open(replace(info, files=()), camera)
        pixels, masks, depth = square_clip(info.n_frames, size=self.size, seed=info.episode_index)
        return replace(made, pixels=pixels, recorded_masks=masks, recorded_depth=depth)


def _simulated_stages(devices: Sequence[Device], most_clips: int | None) -> tuple[Stage, ...]:
    """The stages of a run whose networks are `devices`: one batched depth model, others a clip a call."""
    depth, *others = devices

    def run_depth(inputs: StageInputs) -> StageOutput:
        try:
            from flows.models.device_queue import MOST_CLIPS, estimate_depth
        except ImportError:
            from flows.models.device_slot import device_slot

            with device_slot(depth):  # type: ignore[arg-type]
                found = depth.estimate(inputs.episode.pixels, size=TINY)
        else:
            most = most_clips or MOST_CLIPS
            found = estimate_depth(depth, inputs.episode.pixels, size=TINY, most_clips=most)
        time.sleep(depth.slowed * STORE_S * len(found.values))
        return StageOutput({"extra/depth": encode("extra/depth", found.values)})

    def run_other(device: Device) -> Any:
        def run(inputs: StageInputs) -> StageOutput:
            from flows.models.device_slot import device_slot

            with device_slot(device):  # type: ignore[arg-type]
                device.estimate(inputs.episode.pixels, size=TINY)
            return StageOutput({})

        return run

    def quality(inputs: StageInputs) -> StageOutput:
        scores = combine(
            {"task": 1.0, "length": 1.0, "displacement": 1.0, "mask": 1.0, "depth": None}, inputs.config.scoring
        )
        return StageOutput({}, {"scores": scores, "quality": {}, "tags": []})

    def geometry(inputs: StageInputs) -> StageOutput:
        matrix = np.array([[8, 0, 3.5], [0, 8, 3.5], [0, 0, 1]], np.float32)
        return StageOutput({"intrinsics": encode("intrinsics", matrix, source="assumed", sigma=0.2)})

    def stage(name: str, run: Any) -> Stage:
        return Stage(name, 1, ("source",), lambda config: {}, run)

    named = [stage(name, run_other(device)) for name, device in zip(("masks", "tracks"), others, strict=False)]
    return (SOURCE, *named, stage("depth", run_depth), stage("geometry", geometry), stage("quality", quality))


@contextlib.contextmanager
def _engine(stages: tuple[Stage, ...]) -> Iterator[None]:
    names = (*(stage.name for stage in stages), "pack")
    with (
        mock.patch("flows.run.shard.STAGES", stages),
        mock.patch("flows.run.shard.ALL_STAGES", names),
        mock.patch("flows.run.carry_out.ALL_STAGES", names),
        mock.patch("flows.models.device_slot._device_id", return_value=f"simulated-{os.getpid()}"),
    ):
        yield


def _processes() -> list[Path]:
    """This process and those that it started, in /proc."""
    started = [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    return [Path("/proc/self"), *(Path("/proc") / pid for pid in started)]


def _resident_mb() -> float:
    """Of all processes of the run together; of some, pages that they share are counted twice."""
    total = 0.0
    for process in _processes():
        with contextlib.suppress(OSError, KeyError):  # one that has just ended
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            total += int(status["VmRSS"].split()[0]) / 1024
    return total


def _cpu_s() -> float:
    """CPU seconds of this process and of those that it started and that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@dataclass
class Watched:
    """What the run's processes did together, looked at each 20 ms.

    Attributes:
        runnable: threads that ran or could run: what the run asks of the machine, busy or not.
        peak_mb: largest resident memory.
    """

    runnable: list[int] = field(default_factory=list)
    peak_mb: float = 0.0


@contextlib.contextmanager
def _watched() -> Iterator[Watched]:
    seen = Watched()
    over = threading.Event()

    def look() -> None:
        own = threading.get_native_id()
        while not over.wait(0.02):
            states = 0
            for task in (task for process in _processes() for task in process.glob("task/*")):
                with contextlib.suppress(OSError):
                    states += int(task.name) != own and (task / "stat").read_text().rpartition(")")[2].split()[0] == "R"
            seen.runnable.append(states)
            seen.peak_mb = max(seen.peak_mb, _resident_mb())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _summed(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The columns of costs, summed over the episodes."""
    names = {name for row in rows for name in row if name.startswith(("seconds_", "waited_", "device_seconds_"))}
    return {name: round(sum(float(row.get(name) or 0.0) for row in rows), 2) for name in sorted(names)}


def _measured(plan: Any) -> dict[str, Any]:
    import torch  # noqa: F401 - loading it is no part of the work

    started, cpu = time.perf_counter(), _cpu_s()
    with _watched() as watched:
        outcome = carry_out(plan, Silent(), run_shard_plainly)
    wall, cpu = time.perf_counter() - started, _cpu_s() - cpu
    assert all(row["status"] == "done" for row in outcome.rows), outcome.rows[:1]
    rows = outcome.rows
    stages = sum(float(row[name]) for row in rows for name in row if name.startswith("seconds_"))
    padded = [row["padding_depth"] for row in rows if row.get("padding_depth") is not None]
    return {
        "wall": wall,
        "cpu": cpu,
        "stages": stages,
        "frames": sum(int(row["n_frames"]) for row in rows),
        "padding": float(np.mean(padded)) if padded else None,
        "peak_mb": watched.peak_mb,
        "costs": _summed(rows),
        "runnable": watched.runnable,
    }


def measure_device(work: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Simulated networks behind the real engine."""
    slowed = float(asked["slowed"])
    devices = [Device(*times, slowed=slowed) for times in asked["devices"]]
    source = SlowSource(work / "in", lengths=tuple(asked["lengths"]), slowed=slowed)
    settings = ["run.profile=cpu", "packet.height=8", "packet.width=8", *asked.get("settings", ())]
    with _engine(_simulated_stages(devices, asked.get("most_clips"))):
        # The version before has none of these; its shards are stages with a pool each.
        if hasattr(shard_module, "AHEAD"):
            shard_module.uses_device = lambda config: True
            shard_module.AHEAD = asked.get("ahead", shard_module.AHEAD)
            settings.append("run.processes=never")
        found = _measured(array_plan(source, work / "out", settings, workers=asked["workers"]))
    return found | {
        "busy": slowed * sum(device.busy_s for device in devices),
        "clips_a_call": devices[0].clips / devices[0].calls,
    }


def measure_real(work: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The real stages on generated clips; memory is looked at after each tenth of the episodes."""
    source = VariedSource(work / "in", lengths=tuple(asked["lengths"]), size=tuple(asked["size"]))
    plan = array_plan(source, work / "out", [*QUICK, *asked.get("settings", ())], workers=asked["workers"])
    seen: list[float] = []
    original = shard_module.Shard._record
    each = max(1, len(asked["lengths"]) // 10)
    lock = threading.Lock()

    def record(self: Any, run: Any) -> None:
        original(self, run)
        with lock:
            if len(self.work.recorded) % each == 0:
                seen.append(_resident_mb())

    with mock.patch.object(shard_module.Shard, "_record", record):
        found = _measured(plan)
    return found | {"resident_mb": seen}


def main() -> None:
    """Prints one JSON object."""
    asked = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUEPACK_LOCKS"] = str(Path(folder) / "locks")
        way = measure_device if asked["way"] == "device" else measure_real
        print(json.dumps(way(Path(folder), asked)))


if __name__ == "__main__":
    # Under its own name, by which the processes of a run find the source's class.
    import scheduler_child

    scheduler_child.main()
