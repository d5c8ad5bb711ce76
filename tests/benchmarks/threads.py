"""CPU time of CoTracker3 and Video-Depth-Anything under a run's budget of threads, on a busy machine.

    python -m tests.benchmarks.threads [--rounds 3] [--clips 2]

Per network, in turns within one run, each time in a fresh process beside a process that does nothing but compute:
    one thread   one clip after another, one thread: what the work costs
    budget       two workers, each with cores / workers threads (flows/run/threads.py): what a run does
    unbounded    two workers, each with torch's own number of threads: what a run did before
Printed are medians of CPU seconds a clip, of all threads, and of wall seconds; seeded random weights cost the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from extractors.backends.cotracker import CoTracker3, CoTrackerSettings
from extractors.backends.cotracker_network import CoTrackerNetwork
from extractors.backends.vda_network import VideoDepthNetwork
from extractors.backends.video_depth_anything import VideoDepthAnything
from extractors.track_queries import grid_queries
from flows.run.stream import Stream
from flows.run.threads import threads_each
from packers.cores import usable_cpus
from tests.parity import seed_model, synthetic_clip

WAYS = ("one thread", "budget", "unbounded")
NETWORKS = ("cotracker3", "video-depth-anything")


class Clip:
    """One clip of the benchmark; it is over after its only stage."""

    is_over = False


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=2, help="clips of each measurement, an even number")
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--one", nargs=3, metavar=("NETWORK", "WAY", "WEIGHTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.clips)))
        return
    print(f"{usable_cpus()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}, {time.strftime('%F')}")
    with tempfile.TemporaryDirectory() as folder:
        for network, made in zip(NETWORKS, (CoTrackerNetwork(), VideoDepthNetwork("vits")), strict=True):
            if network not in options.only.split(","):
                continue
            weights = Path(folder) / f"{network}.pth"
            torch.save(seed_model(made).state_dict(), weights)
            _print_table(network, weights, options)


def _print_table(network: str, weights: Path, options: argparse.Namespace) -> None:
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    neighbour = multiprocessing.Process(target=_compute_for_ever, daemon=True)
    neighbour.start()
    for _ in range(options.rounds):
        for way in WAYS:
            command = [sys.executable, "-m", "tests.benchmarks.threads", "--clips", str(options.clips)]
            # What a shell has set would hold the unbounded way to it too.
            environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
            done = subprocess.run(
                [*command, "--one", network, way, str(weights)],
                check=True,
                capture_output=True,
                text=True,
                env=environment,
            )
            found[way].append(tuple(json.loads(done.stdout)))
    neighbour.terminate()
    print(f"\n{network}, {options.clips} clips, medians of {options.rounds} rounds")
    base = statistics.median(cpu for cpu, _ in found[WAYS[0]])
    for way, pairs in found.items():
        cpu, wall = (statistics.median(values) for values in zip(*pairs, strict=True))
        each = ", ".join(f"{cpu:.2f}" for cpu, _ in pairs)
        print(f"  {way:12s}{cpu:8.2f} CPU s a clip, {cpu / base:5.2f} x one thread's; wall {wall:6.2f} s   ({each})")


def measure(network: str, way: str, weights: str, clips: int) -> tuple[float, float]:
    """CPU seconds and wall seconds a clip."""
    work = _tracking(Path(weights)) if network == "cotracker3" else _depth(Path(weights))
    workers = 1 if way == "one thread" else 2
    own = torch.get_num_threads()
    threads = {"one thread": 1, "budget": threads_each(workers), "unbounded": own}[way]
    items = [Clip() for _ in range(clips)]
    stream = Stream(
        items,
        ("clip",),
        lambda stage, item, turn: work(),
        workers=workers,
        threads=threads,
        memory_bytes=1e12,
        stop=threading.Event(),
    )
    started, cpu = time.perf_counter(), time.process_time()
    with stream:
        stream.wait("clip")
    return (time.process_time() - cpu) / clips, (time.perf_counter() - started) / clips


def _tracking(weights: Path) -> Callable[[], object]:
    tracker = CoTracker3(weights, CoTrackerSettings(device="cpu", network_size=(192, 256), iterations=2))
    pixels, queries = synthetic_clip(8, 240, 320), grid_queries((240, 320), side=8)
    tracker.track(pixels[:2], queries[:4])  # the first pictures cost more: kernels are made for their size
    return lambda: tracker.track(pixels, queries)


def _depth(weights: Path) -> Callable[[], object]:
    model = VideoDepthAnything("vits", weights=weights, device="cpu", input_size=140)
    pixels = synthetic_clip(12, 240, 320)
    model.estimate(pixels[:1], size=(112, 112))
    return lambda: model.estimate(pixels, size=(112, 112))


def _compute_for_ever() -> None:
    while True:
        sum(range(10_000))


if __name__ == "__main__":
    main()
