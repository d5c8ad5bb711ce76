"""What a run cost, from the manifest's rows: seconds of work, of devices and of waits, and bytes stored, per stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_WAITED_FOR = {"waited_device_": "a device", "waited_cpu_": "a place on the CPU", "waited_memory_": "memory"}


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage cost over some episodes.

    Attributes:
        stage: its name.
        episodes: how many went through it.
        seconds: of its work, waits left out; those of a device are among them.
        device_s: seconds of a device.
        waited: what was waited for -> seconds.
        stored_bytes: written to work files, and to packets by `pack`.
        padding: share of the device's work for frames that nobody sees, weighted by device seconds; None without any.
        peak_mb: largest peak of the process meanwhile, MiB; None where it was not measured.
    """

    stage: str
    episodes: int
    seconds: float
    device_s: float
    waited: Mapping[str, float]
    stored_bytes: int
    padding: float | None
    peak_mb: float | None

    @property
    def cpu_s(self) -> float:
        """Seconds of work on the CPU."""
        return max(0.0, self.seconds - self.device_s)


@dataclass(frozen=True, slots=True)
class Costs:
    """What some episodes cost: their frames, and their stages, the slowest first."""

    frames: int
    stages: tuple[StageCost, ...]

    @property
    def device_s(self) -> float:
        """Seconds of devices."""
        return sum(stage.device_s for stage in self.stages)

    @property
    def cpu_s(self) -> float:
        """Seconds of work on the CPU."""
        return sum(stage.cpu_s for stage in self.stages)


def run_costs(rows: Sequence[Mapping[str, Any]]) -> Costs:
    """The costs of the episodes of `rows`; those that nothing was done for count nothing."""
    # Columns of a table are there for every row, empty where a stage did not run.
    stages_of = [[name for name in row if name.startswith("seconds_") and row[name] is not None] for row in rows]
    worked_on = [row for row, names in zip(rows, stages_of, strict=True) if names]
    names = dict.fromkeys(name.removeprefix("seconds_") for found in stages_of for name in found)
    stages = [_stage_cost(name, worked_on) for name in names]
    frames = sum(int(row.get("n_frames") or 0) for row in worked_on)
    return Costs(frames, tuple(sorted(stages, key=lambda each: -each.seconds)))


def closing_line(costs: Costs, *, seconds: float, workers: int) -> str:
    """One line on what a run cost and what held it up.

    Args:
        costs: of its episodes.
        seconds: that the run took.
        workers: episodes that computed at once.
    """
    if not costs.frames or not costs.stages or seconds <= 0:
        return "costs: no frame was worked on"
    per = 1000 / costs.frames
    busy = sorted(costs.stages, key=lambda each: -each.cpu_s)
    shares = ", ".join(f"{each.stage} {each.cpu_s / max(costs.cpu_s, 1e-9):.0%}" for each in busy[:3])
    if not costs.device_s:
        share = costs.cpu_s / (seconds * workers)
        return (
            f"costs: {costs.cpu_s * per:.1f} s of work per 1,000 frames, {share:.0%} of {workers} workers' time; "
            f"slowest: {shares}"
        )
    idle = max(0.0, 1 - costs.device_s / seconds)
    waited = waits(costs)
    held_up = f"; episodes waited most for {max(waited, key=lambda name: waited[name])}" if waited else ""
    return (
        f"costs: {costs.device_s * per:.1f} device-seconds per 1,000 frames; the device was idle {idle:.0%} of "
        f"{seconds:.0f} s, the CPU at {shares}{held_up}"
    )


def waits(costs: Costs) -> dict[str, float]:
    """What was waited for -> seconds, over all stages."""
    found: dict[str, float] = {}
    for stage in costs.stages:
        for name, waited in stage.waited.items():
            found[name] = found.get(name, 0.0) + waited
    return found


TABLE_HEAD = (
    "stage",
    "seconds",
    "seconds per episode",
    "device seconds",
    "waited, seconds",
    "padding",
    "MB stored",
    "peak MiB",
)


def cost_table(costs: Costs) -> list[tuple[str, ...]]:
    """A line of text for each stage, the slowest first; columns `TABLE_HEAD`, "" where there is nothing to say."""
    return [
        (
            each.stage,
            f"{each.seconds:.1f}",
            f"{each.seconds / each.episodes:.2f}",
            f"{each.device_s:.1f}" if each.device_s else "",
            ", ".join(f"{seconds:.1f} for {name}" for name, seconds in each.waited.items()),
            "" if each.padding is None else f"{each.padding:.0%}",
            f"{each.stored_bytes / 1e6:.1f}" if each.stored_bytes else "",
            "" if each.peak_mb is None else f"{each.peak_mb:.0f}",
        )
        for each in costs.stages
    ]


def _stage_cost(stage: str, rows: Sequence[Mapping[str, Any]]) -> StageCost:
    def column(prefix: str) -> list[float]:
        return [float(row[prefix + stage]) for row in rows if row.get(prefix + stage) is not None]

    seconds, peaks = column("seconds_"), column("peak_mb_")
    padded = [
        (float(row[f"padding_{stage}"]), float(row.get(f"device_seconds_{stage}") or 0.0))
        for row in rows
        if row.get(f"padding_{stage}") is not None
    ]
    weight = sum(device_s for _, device_s in padded)
    return StageCost(
        stage,
        episodes=len(seconds),
        seconds=sum(seconds),
        device_s=sum(column("device_seconds_")),
        waited={name: waited for prefix, name in _WAITED_FOR.items() if (waited := sum(column(prefix))) > 0},
        stored_bytes=int(sum(column("stored_bytes_"))),
        padding=sum(share * device_s for share, device_s in padded) / weight if weight else None,
        peak_mb=max(peaks) if peaks else None,
    )
