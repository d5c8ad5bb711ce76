"""How well a shard keeps a device and the CPU busy, and whether cost grows in a straight line.

    python -m tests.benchmarks.scheduler --before CHECKOUT [--only device,cpu,growth]

device  The real engine with networks that sleep for the times of flows/models/service_times.py (A100), frames that
        sleep while they are decoded, and maps that sleep while they are stored; everything slowed `--slowed` times, so
        that a busy machine's own delays count that much less. Ways: a shard as it is; one clip a call
        (`--deterministic`); one episode after another, one clip a call; and the version of CHECKOUT, stage by stage.
cpu     Generated clips through real stages (nano depth, lucas-kanade tracks) on all cores, and on CHECKOUT's version,
        in turns: wall time beside the CPU seconds used, and beside each other. On a machine with other work wall time
        says little, so threads that run or could run are counted too: what a version asks of the machine.
growth  10, 100, 1,000 episodes of 20 frames, and 20, 200, 2,000 frames in tiny packets without networks, in threads:
        CPU time a frame, resident memory after each tenth of the longest run.

Each measurement is a process of its own. CHECKOUT is a git worktree of a version from before shards were streams.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from flows.config import Config
from flows.models.service_times import service_times
from packers.cores import usable_cpus
from tests.support import REPOSITORY

CHILD = Path(__file__).with_name("scheduler_child.py")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of a version whose shards go stage by stage")
    parser.add_argument("--only", default="device,cpu,growth")
    parser.add_argument("--slowed", type=float, default=5.0)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1, help="of cpu")
    parser.add_argument("--most", type=int, default=1000, help="episodes of the longest run of growth")
    options = parser.parse_args()
    print(f"{usable_cpus()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%F')}", flush=True)
    for name, part in (("device", measure_device), ("cpu", measure_cpu), ("growth", measure_growth)):
        if name in options.only.split(","):
            print(f"\n{name}", flush=True)
            part(options)


def measure_device(options: argparse.Namespace) -> None:
    """A simulated A100, for depth alone and for all three networks of the profile `gpu`."""
    lengths = _bridge_lengths(options.episodes)
    profiles = {"depth": ("off", "off"), "depth, masks and tracks": ("sam3", "cotracker3")}
    for name, (masks, tracks) in profiles.items():
        times = service_times(_config(masks, tracks), "a100")
        devices = [[times[stage].seconds_per_frame, times[stage].seconds_per_call] for stage in _in_order(times)]
        # As long for three networks as for one: with a device that is so slow, nothing else needs slowing down.
        slowed = (
            options.slowed * times["depth"].seconds_per_frame / sum(each.seconds_per_frame for each in times.values())
        )
        said = ", ".join(f"{stage} {1e3 * times[stage].seconds_per_frame:.1f} ms a frame" for stage in _in_order(times))
        print(f"  {name}: {len(lengths)} episodes, {sum(lengths)} frames, slowed {slowed:.1f} times; {said}")
        asked = {"way": "device", "devices": devices, "lengths": lengths, "workers": 8, "slowed": slowed}
        ways: dict[str, tuple[Path | None, dict[str, Any]]] = {
            "streaming": (REPOSITORY, {}),
            "streaming, one clip a call": (REPOSITORY, {"most_clips": 1}),
            "one clip after another": (REPOSITORY, {"most_clips": 1, "workers": 1, "ahead": 0}),
            "stage by stage": (options.before, {}),
        }
        walls: dict[str, float] = {}
        for way, (checkout, changes) in ways.items():
            if checkout is None:
                continue
            found = _run(checkout, asked | changes)
            walls[way] = found["wall"]
            ratio = found["wall"] / walls["streaming"]
            padding = "" if found["padding"] is None else f", padding {found['padding']:.1%}"
            print(
                f"    {way:28s}{found['wall']:7.1f} s, device busy {found['busy'] / found['wall']:.0%}, "
                f"{found['clips_a_call']:.1f} clips a call{padding}; {ratio:.2f} x streaming",
                flush=True,
            )


def measure_cpu(options: argparse.Namespace) -> None:
    """Real stages, this version and the one before in turns."""
    lengths = [int(length) for length in np.random.default_rng(1).integers(15, 45, options.episodes)]
    cores = usable_cpus()
    settings = ["depth.backend=nano", "depth.nano_working_px=96", "tracks.backend=lucas-kanade", "tracks.grid_side=12"]
    settings += ["packet.height=112", "packet.width=112", "tracks.count=100"]
    asked = {"way": "real", "lengths": lengths, "size": [240, 320], "settings": settings, "workers": cores}
    found: dict[str, list[dict[str, Any]]] = {"streaming": [], "stage by stage": []}
    for _ in range(options.rounds):
        for way, checkout in (("streaming", REPOSITORY), ("stage by stage", options.before)):
            if checkout is None:
                continue
            each = _run(checkout, asked)
            found[way].append(each)
            share = each["cpu"] / (each["wall"] * cores)
            asked_for = float(np.minimum(each["runnable"], cores).mean()) / cores
            print(
                f"  {way:16s}{each['wall']:7.1f} s wall, {each['cpu']:.1f} CPU s: {1 / share:.2f} x CPU seconds / "
                f"{cores} cores; it got {share:.0%} of the machine and asked for {asked_for:.0%}: alone it would take "
                f"{1 / asked_for:.2f} x; peak {each['peak_mb']:.0f} MiB",
                flush=True,
            )
    if found["stage by stage"]:
        wall, cpu = (
            statistics.median(each[key] for each in found["stage by stage"])
            / statistics.median(each[key] for each in found["streaming"])
            for key in ("wall", "cpu")
        )
        print(f"  stage by stage: {wall:.2f} x the wall, {cpu:.2f} x the CPU time of streaming, medians")


def measure_growth(options: argparse.Namespace) -> None:
    """Cost a frame over episodes and over lengths, and memory over the longest run."""
    for count, n_frames in ((10, 20), (100, 20), (options.most, 20), (10, 200), (10, 2000)):
        asked = {"way": "real", "lengths": [n_frames] * count, "size": [48, 64], "workers": 2}
        asked["settings"] = ["run.processes=never"]  # their start would be most of what ten tiny episodes take
        found = _run(REPOSITORY, asked)
        memory = found["resident_mb"]
        flat = f"; resident after each tenth {' '.join(f'{mb:.0f}' for mb in memory)} MiB" if count > 100 else ""
        print(
            f"  {count:5d} episodes of {n_frames:4d} frames: {1e3 * found['cpu'] / found['frames']:6.2f} CPU ms each, "
            f"{1e3 * found['cpu'] / count:7.1f} an episode, peak {found['peak_mb']:.0f} MiB{flat}",
            flush=True,
        )


def _bridge_lengths(count: int) -> list[int]:
    """Lengths of BridgeData: 38 frames in the mean, most between 20 and 60."""
    return [int(length) for length in np.random.default_rng(0).normal(38, 10, count).clip(12, 120)]


def _config(masks: str, tracks: str) -> Config:
    config = Config()
    return config.model_copy(
        update={
            "masks": config.masks.model_copy(update={"backend": masks, "plan": "frames"}),
            "depth": config.depth.model_copy(update={"backend": "video-depth-anything", "precision": "fp16"}),
            "tracks": config.tracks.model_copy(update={"backend": tracks, "precision": "fp16"}),
        }
    )


def _in_order(times: dict[str, Any]) -> list[str]:
    return [stage for stage in ("depth", "masks", "tracks") if stage in times]


def _run(checkout: Path, asked: dict[str, Any]) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    done = subprocess.run(
        [sys.executable, str(CHILD), json.dumps(asked)], cwd=checkout, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
