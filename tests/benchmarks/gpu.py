"""Networks at real size on a CUDA device, with seeded random weights: a plain eager fp32 loop beside ours.

    python -m tests.benchmarks.gpu [--only depth,tracks,masks,pipeline] [--rounds 3]
    python -m tests.benchmarks.gpu --device cpu --small      (tries the script itself, with small sizes)

depth     Video-Depth-Anything as published: every window encodes its frames again; ours in fp32 and half precision, and
          four clips a call.
tracks    CoTracker3 with a 5-D read for every patch and all points at once; ours in fp32 and half precision.
masks     SAM 3 on key frames: the library's own fp32 beside half precision. Random weights find what they like, so the
          masks' own cost is not that of the published ones.
pipeline  whole runs over generated clips, decoded and packed, beside the sum of the same networks over the same clips.

Printed are medians of seconds a frame, the ratio to the plain way, peak memory of the device, and the largest
difference. At most 8 minutes on one data-centre GPU, by estimate: no GPU was at hand when it was written.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.backends.cotracker import CoTracker3, CoTrackerSettings
from extractors.backends.cotracker_network import CoTrackerNetwork
from extractors.backends.vda_network import VideoDepthNetwork
from extractors.backends.video_depth_anything import VideoDepthAnything, load_network
from extractors.track_queries import grid_queries
from flows.run.carry_out import carry_out, run_shard_plainly
from tests.benchmarks.depth_speed import unfused
from tests.benchmarks.scheduler_child import VariedSource
from tests.benchmarks.tracks_speed import plain_run, read_5d
from tests.extractors.backends import tiny_models
from tests.flows.batches import Silent, array_plan
from tests.parity import seed_model, synthetic_clip
from tests.published_depth import published_depth

Pixels = NDArray[np.uint8]
PARTS = ("depth", "tracks", "masks", "pipeline")


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    n_frames: int
    clip_frames: int
    size: tuple[int, int]
    input_size: int
    network_size: tuple[int, int]
    side: int
    iterations: int
    clips: int
    workers: int


REAL = Scale(38, 38, (480, 640), 518, (384, 512), 20, 6, 32, 8)
SMALL = Scale(12, 4, (96, 128), 84, (96, 128), 4, 1, 2, 2)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device was found; --device cpu --small tries the script itself")
    scale = SMALL if options.small else REAL
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, which says nothing of a GPU"
    print(f"{name}; torch {torch.__version__}; {time.strftime('%F')}; {scale}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for part, measure in zip(PARTS, (measure_depth, measure_tracks, measure_masks, measure_pipeline), strict=True):
            if part in options.only.split(","):
                started = time.perf_counter()
                print(f"\n{part}", flush=True)
                measure(Path(folder), scale, options)
                print(f"  ({time.perf_counter() - started:.0f} s in all)", flush=True)


def measure_depth(folder: Path, scale: Scale, options: argparse.Namespace) -> None:
    """Video-Depth-Anything, size vits."""
    weights = _depth_weights(folder)
    pixels, height_width = synthetic_clip(scale.n_frames, *scale.size), scale.size
    network = load_network(weights, "vits").to(options.device)
    settings: dict[str, Any] = {"weights": weights, "input_size": scale.input_size, "device": options.device}

    def plain() -> NDArray[np.float32]:
        with unfused():
            return published_depth(network, pixels, scale.input_size)

    ways: dict[str, tuple[int, Callable[[], NDArray[np.float32]]]] = {"plain, fp32": (1, plain)}
    for precision in _precisions(options.device):
        model = VideoDepthAnything("vits", **settings, precision=precision)
        ways[f"ours, {precision}"] = (1, lambda model=model: model.estimate(pixels, size=height_width).values)
        ways[f"ours, {precision}, 4 clips a call"] = (
            4,
            lambda model=model: model.estimate_many([pixels] * 4, size=height_width)[0].values,
        )
    _compare(ways, scale.n_frames, options)


def measure_tracks(folder: Path, scale: Scale, options: argparse.Namespace) -> None:
    """CoTracker3, a grid of queries."""
    weights, pixels = _tracks_weights(folder), synthetic_clip(scale.n_frames, *scale.size)
    queries = grid_queries(scale.size, side=scale.side)
    common: dict[str, Any] = {"device": options.device, "network_size": scale.network_size, "support_grid": 0}
    common["iterations"] = scale.iterations
    exact = CoTracker3(weights, CoTrackerSettings(**common, precision="fp32"))

    def plain() -> NDArray[np.float32]:
        clip = exact.prepare(pixels)
        points = queries * np.array([1.0, *clip.enlarging], np.float32)
        xy = plain_run(exact.network, clip.maps, points, scale.iterations, read_5d)[..., :2] / clip.enlarging
        # Ours stays where it was posed, too.
        xy[queries[:, 0].astype(int), np.arange(len(queries))] = queries[:, 1:]
        return np.asarray(xy)

    ways: dict[str, tuple[int, Callable[[], NDArray[np.float32]]]] = {"plain, fp32": (1, plain)}
    for precision in _precisions(options.device):
        tracker = CoTracker3(weights, CoTrackerSettings(**common, precision=precision))
        ways[f"ours, {precision}"] = (1, lambda tracker=tracker: tracker.track(pixels, queries).xy)
    _compare(ways, scale.n_frames, options)


def measure_masks(folder: Path, scale: Scale, options: argparse.Namespace) -> None:
    """SAM 3 on key frames."""
    from extractors.backends.sam3 import Sam3

    weights = tiny_models.save_sam3(folder / "sam3") if options.small else _large_sam3(folder / "sam3")
    pixels = synthetic_clip(scale.n_frames, *scale.size)
    ways: dict[str, tuple[int, Callable[[], NDArray[np.float32]]]] = {}
    for precision in _precisions(options.device):
        model = Sam3(weights=weights, device=options.device, precision=precision, plan="frames")

        def look(model: Sam3 = model) -> NDArray[np.float32]:
            found = model.propose(pixels, ("object",), size=(224, 224))
            return np.array([len(found.candidates)], np.float32)

        ways[f"{precision}, key frames"] = (1, look)
    _compare(ways, scale.n_frames, options)


def measure_pipeline(folder: Path, scale: Scale, options: argparse.Namespace) -> None:
    """Depth and tracks through the engine, beside the same networks called by hand, one clip after another."""
    around = np.random.default_rng(0).uniform(0.6, 1.4, scale.clips)
    lengths = tuple(int(length) for length in scale.clip_frames * around)
    depth, tracks = _depth_weights(folder), _tracks_weights(folder)
    settings = [f"depth.weights={depth}", f"depth.input_size={scale.input_size}", f"tracks.weights={tracks}"]
    settings += ["masks.backend=recorded", "depth.backend=video-depth-anything", "tracks.backend=cotracker3"]
    settings += [f"tracks.grid_side={scale.side}", f"tracks.count={scale.side**2}"]
    settings += [f"tracks.iterations={scale.iterations}"]
    source = VariedSource(folder / "in", lengths=lengths, size=scale.size)
    plan = array_plan(source, folder / "out", settings, workers=scale.workers)
    with _peak(options.device) as peak:
        started = time.perf_counter()
        outcome = carry_out(plan, Silent(), run_shard_plainly)
        wall = time.perf_counter() - started
    bad = [row["error"] for row in outcome.rows if row["status"] != "done"]
    if bad:
        raise SystemExit(f"{len(bad)} episodes failed, the first: {bad[0]}")
    device = sum(
        float(row.get(f"device_seconds_{stage}") or 0) for row in outcome.rows for stage in ("depth", "tracks")
    )
    frames = sum(lengths)
    print(
        f"  whole runs: {wall:.1f} s, {frames / wall:.1f} frames/s, the device busy {device / wall:.0%}, peak {peak()}"
    )
    alone = _networks_alone(source, settings, folder / "alone")
    print(f"  the networks alone: {alone:.1f} s; the pipeline takes {wall / alone:.2f} x their sum")


def _networks_alone(source: VariedSource, settings: list[str], out: Path) -> float:
    """Seconds of depth and tracks over frames that are decoded already, as the stages call them."""
    from flows.models.build import depth_estimator, tracker

    config = array_plan(source, out, settings).work.config
    model, points = depth_estimator(config.depth), tracker(config.tracks)
    side, size = config.tracks.grid_side, (config.packet.height, config.packet.width)
    episodes = [source.open(info) for info in source.episodes()]
    started = time.perf_counter()
    for episode in episodes:
        model.estimate(episode.pixels, size=size)
        clip = points.prepare(episode.pixels)
        for _ in range(2):  # the grid, and as many points on the object
            clip.track(grid_queries(episode.size, side=side))
    return time.perf_counter() - started


def _compare(
    ways: dict[str, tuple[int, Callable[[], NDArray[np.float32]]]], n_frames: int, options: argparse.Namespace
) -> None:
    """Times the ways in turns; the first is what the others are compared with."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, str] = {}
    values: dict[str, NDArray[np.float32]] = {}
    for turn in range(options.rounds + 1):
        for name, (clips, way) in ways.items():
            with _peak(options.device) as peak:
                started = time.perf_counter()
                values[name] = way()  # arrays on the host, so that the device has finished
                taken = (time.perf_counter() - started) / (clips * n_frames)
            peaks[name] = peak()
            if turn:  # the first time kernels are chosen
                seconds[name].append(taken)
    first = next(iter(ways))
    base = statistics.median(seconds[first])
    for name, each in seconds.items():
        taken = statistics.median(each)
        error = np.abs(values[name] - values[first]).max() if values[name].shape == values[first].shape else np.nan
        print(
            f"  {name:28s}{1e3 * taken:9.2f} ms a frame, {base / taken:5.2f} x {first}; peak {peaks[name]}; largest "
            f"difference {error:.1e}",
            flush=True,
        )


@contextmanager
def _peak(device: str) -> Iterator[Callable[[], str]]:
    """Gives what says the peak memory of the device since; work that was begun before has ended."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    yield lambda: f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if device == "cuda" else "not measured"


def _precisions(device: str) -> tuple[Any, ...]:
    return ("fp32", "fp16") if device == "cuda" else ("fp32",)


def _depth_weights(folder: Path) -> Path:
    return _saved(folder / "video_depth_anything_vits.pth", lambda: VideoDepthNetwork("vits"))


def _tracks_weights(folder: Path) -> Path:
    return _saved(folder / "cotracker3.pth", CoTrackerNetwork)


def _saved(path: Path, make: Callable[[], torch.nn.Module]) -> Path:
    if not path.exists():
        torch.save(seed_model(make()).state_dict(), path)
    return path


def _large_sam3(folder: Path) -> Path:
    from transformers import Sam3VideoConfig, Sam3VideoModel

    torch.manual_seed(0)
    Sam3VideoModel(Sam3VideoConfig()).save_pretrained(folder)
    tiny_models.save_clip_tokenizer(folder)
    return folder


if __name__ == "__main__":
    main()
