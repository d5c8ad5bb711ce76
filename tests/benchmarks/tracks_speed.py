"""CoTracker3 and TAPIR: speed beside the plain way of doing the same, cost of a second set, peak memory, fp16.

    python -m tests.benchmarks.tracks_speed [--backend cotracker3|tapir] [--weights FILE] [--only plain,second,memory]

CoTracker3's plain way reads every patch position with one interpolated read over (t, y, x) and correlates with einsum,
all points at once; encoder and transformer are the same code in both. TAPIR's is `plain_tapir`, 64 queries at once.
Without `--weights`, seeded random ones are used: they cost the same. Times on a CPU are CPU seconds of all threads
(`--threads`, 1), which other work disturbs least. Parts: plain, second, memory, half (CoTracker3 only), gpu.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from numpy.typing import NDArray
from torch import Tensor

from extractors.backends.cotracker import NETWORK_SIZE, CoTracker3, CoTrackerSettings, resize
from extractors.backends.cotracker_network import (
    CHANNELS,
    LEVELS,
    RADIUS,
    STRIDE,
    CoTrackerNetwork,
    FeatureMaps,
    encode_motion,
)
from extractors.backends.network_tracker import on_device
from extractors.backends.tapir import Tapir, TapirSettings
from extractors.backends.tapir_network import TapirNetwork
from extractors.track_queries import grid_queries, object_queries
from extractors.track_windows import WindowedTracker
from extractors.tracks import PointTracker
from tests.benchmarks import tapir_speed
from tests.benchmarks.measuring import LazyFrames, peak_mb, timed
from tests.parity import seed_model, synthetic_clip

SECOND_REPEATS = 3

FEATURE_BYTES = sum(CHANNELS * 4 / (STRIDE * 2**level) ** 2 for level in range(LEVELS))
"""Of the feature pyramid, per pixel of the network's image."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("cotracker3", "tapir"), default="cotracker3")
    parser.add_argument("--weights", type=Path, help="the published checkpoint; none: seeded random weights")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--side", type=int, default=20, help="the query grid has side x side points")
    parser.add_argument("--iterations", type=int, default=6, help="of CoTracker3")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="plain,second,memory,half,gpu")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--window", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = CoTrackerNetwork if options.backend == "cotracker3" else TapirNetwork
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or Path(folder) / "seeded.pth"
        if options.weights is None:
            torch.save(seed_model(network()).state_dict(), weights)
        if options.peak_of:
            print(_peak(options, weights))
            return
        print(f"{platform.machine()}, torch {torch.__version__}, {options.threads} thread(s), {time.strftime('%F')}")
        for name, measure in _parts(options, weights).items():
            if name in options.only.split(","):
                print(f"\n{name}")
                measure()


def _peak(options: argparse.Namespace, weights: Path) -> str:
    if options.backend == "tapir":
        return tapir_speed.measure_peak(weights, options.peak_of, options.side, options.window)
    return measure_peak(weights, options.peak_of, options.window)


def _parts(options: argparse.Namespace, weights: Path) -> dict[str, Callable[[], None]]:
    pixels = synthetic_clip(options.frames, 240, 320)
    queries = grid_queries((240, 320), side=options.side)
    if options.backend == "tapir":
        tapir = Tapir(weights, TapirSettings(device="cpu"))
        return {
            "plain": lambda: tapir_speed.compare_with_plain(weights, pixels, queries),
            "second": lambda: measure_second(tapir, pixels, queries),
            "memory": lambda: tapir_speed.measure_memory(weights),
            "gpu": lambda: tapir_speed.measure_gpu(weights),
        }
    tracker = CoTracker3(weights, CoTrackerSettings(device="cpu", iterations=options.iterations))
    return {
        "plain": lambda: compare_with_plain(weights, pixels, queries, options.iterations),
        "second": lambda: measure_second(tracker, pixels, queries),
        "memory": lambda: measure_memory(weights),
        "half": lambda: measure_half(weights),
        "gpu": lambda: measure_gpu(weights),
    }


def compare_with_plain(weights: Path, pixels: NDArray[np.uint8], queries: NDArray[np.float32], iterations: int) -> None:
    """Time of both, per part, at equal output."""
    tracker = CoTracker3(weights, CoTrackerSettings(device="cpu", support_grid=0, iterations=iterations))
    clip, encoding = timed(lambda: tracker.prepare(pixels))
    points = queries * np.array([1.0, *clip.enlarging], np.float32)
    ours, tracking = timed(lambda: clip.run(points))
    print(f"  {len(pixels)} frames, {len(points)} points, {iterations} iterations; encoder {encoding:.1f} s for all")
    print(f"  cuepack: {tracking:.1f} s, with the encoder {encoding + tracking:.1f} s")
    for name, read in (("5-D reads", read_5d), ("4-D reads, frame by frame", read_4d)):
        plain, seconds = timed(lambda read=read: plain_run(tracker.network, clip.maps, points, iterations, read))
        error = np.linalg.norm(plain[..., :2] - ours[..., :2], axis=-1).max()
        score_error = np.abs(plain[..., 2:] - ours[..., 2:]).max()
        print(
            f"  plain, {name}: {seconds:.1f} s, with the encoder {encoding + seconds:.1f} s; "
            f"ratio {(encoding + seconds) / (encoding + tracking):.2f} (target 1.25), without the encoder "
            f"{seconds / tracking:.2f}; largest difference {error:.1e} px, scores {score_error:.1e}"
        )


def plain_run(
    network: CoTrackerNetwork,
    maps: FeatureMaps,
    points: NDArray[np.float32],
    iterations: int,
    read: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> NDArray[np.float32]:
    """The same numbers as `EncodedClip.run`, done plainly."""
    device = maps.levels[0].device
    with torch.inference_mode(), device:  # new tensors are made where the maps are
        queries = torch.from_numpy(points).to(device)
        levels = [level.permute(3, 0, 2, 1)[None].contiguous() for level in maps.levels]  # 1 C T h w
        n_frames, start = maps.n_frames, queries[:, None, 1:] / STRIDE
        own = queries[:, :1].long()
        support = [read(levels[i], own, start / 2**i)[:, :, 0] for i in range(LEVELS)]  # C N 49
        coords, logits = start.repeat(1, n_frames, 1), torch.zeros(len(queries), n_frames, 2)
        frames = torch.arange(n_frames).expand(len(queries), -1)
        for _ in range(iterations):
            seen = []
            for i in range(LEVELS):
                patches = read(levels[i], frames, coords / 2**i)  # C N T 49
                volume = torch.einsum("cntp,cns->ntps", patches, support[i])
                seen.append(network.corr_mlp(volume.flatten(2)))
            tokens = torch.cat([logits, *seen, encode_motion(coords)], dim=-1) + network._time_table(n_frames)
            delta = network.updateformer(network.updateformer.input_transform(tokens), 10**9)
            coords, logits = coords + delta[..., :2], logits + delta[..., 2:]
        return torch.cat([coords * STRIDE, logits.sigmoid()], dim=-1).transpose(0, 1).cpu().numpy()


def read_5d(maps: Tensor, frames: Tensor, coords: Tensor) -> Tensor:
    """(1, C, T, h, w) maps read around (N, t, 2) coordinates in frames (N, t): (C, N, t, 49)."""
    sizes = torch.tensor([maps.shape[4], maps.shape[3], maps.shape[2]])
    where = patch_positions(coords)
    where = torch.cat([where, frames[..., None, None].expand(*where.shape[:-1], 1)], dim=-1)
    grid = 2 * where / (sizes - 1).clamp(min=1) - 1
    return F.grid_sample(maps, grid[None], padding_mode="border", align_corners=True)[0]


def read_4d(maps: Tensor, frames: Tensor, coords: Tensor) -> Tensor:
    """As `read_5d`, frame by frame."""
    where = 2 * patch_positions(coords) / (torch.tensor([maps.shape[4], maps.shape[3]]) - 1).clamp(min=1) - 1
    if frames.shape[1] == 1:  # the queries' own frames
        rows = [
            F.grid_sample(maps[:, :, int(t)], where[n][None], padding_mode="border", align_corners=True)[0]
            for n, t in enumerate(frames[:, 0])
        ]
        return torch.stack(rows, dim=1)
    by_frame = F.grid_sample(maps[0].transpose(0, 1), where.transpose(0, 1), padding_mode="border", align_corners=True)
    return by_frame.permute(1, 2, 0, 3)


def patch_positions(coords: Tensor) -> Tensor:
    """(N, t, 2) -> (N, t, 49, 2), x-major."""
    reach = torch.arange(-RADIUS, RADIUS + 1)
    offsets = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), dim=-1).view(-1, 2)
    return coords[..., None, :] + offsets


def measure_second(tracker: PointTracker, pixels: NDArray[np.uint8], queries: NDArray[np.float32]) -> None:
    """Cost of further query sets on the same clip, as parts of the first, which includes the encoder."""
    tracker.prepare(pixels[:2])  # the first pictures cost more: kernels are made for their size
    masks = np.zeros(pixels.shape[:3], np.bool_)
    masks[:, 80:160, 120:200] = True
    on_object = object_queries(masks, count=len(queries))
    sets = {
        f"the foreground set of {len(queries)}, {len(on_object)} of them posed": on_object,
        f"any {len(queries)} queries": queries,
        "50 queries": queries[:: len(queries) // 50],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("first", *sets)}
    for _ in range(SECOND_REPEATS):
        clip, encoding = timed(lambda: tracker.prepare(pixels))
        _, refining = timed(lambda clip=clip: clip.track(queries))
        seconds["first"].append(encoding + refining)
        for name, points in sets.items():
            seconds[name].append(timed(lambda clip=clip, points=points: clip.track(points))[1])
    first = float(np.median(seconds["first"]))
    print(f"  first set, {len(queries)} queries and the encoder: {first:.1f} s; medians of {SECOND_REPEATS}")
    for name in sets:
        second = float(np.median(seconds[name]))
        print(f"  second, {name}: {second:.1f} s, {second / first:.2f} of the first (target 0.65)")


def measure_memory(weights: Path) -> None:
    """Peak memory of whole runs in fresh processes, and what grows with the clip."""
    print("  network size 96 x 128, 36 points, 1 iteration; at 384 x 512 features take 16 times as much")
    for n_frames, window in ((150, None), (300, None), (600, None), (600, 150)):
        command = [sys.executable, "-m", "tests.benchmarks.tracks_speed", "--peak-of", str(n_frames)]
        command += ["--window", str(window)] if window else []
        done = subprocess.run([*command, "--weights", str(weights)], check=True, capture_output=True, text=True)
        print("  " + done.stdout.strip())


def measure_peak(weights: Path, n_frames: int, window: int | None) -> str:
    """One run in this process, the clip whole or in windows."""
    size = (96, 128)
    tracker = CoTracker3(weights, CoTrackerSettings(device="cpu", network_size=size, iterations=1, support_grid=0))
    _follow_lazily(tracker, 2)
    before = peak_mb()
    _follow_lazily(tracker if window is None else WindowedTracker(tracker, length=window), n_frames)
    held = window or n_frames
    features = held * FEATURE_BYTES * size[0] * size[1] / 1e6
    tokens = held * (36 + 64) * 384 * 4 / 1e6
    grown = peak_mb() - before
    rest = grown - features - tokens
    windows = f" in windows of {window}" if window else ""
    return (
        f"{n_frames} frames{windows}: peak {before + grown:.0f} MB, {grown:.0f} above a 2-frame run; "
        f"features {features:.0f} MB ({1000 * features / held:.0f} kB a frame), tokens {tokens:.0f} MB, "
        f"rest {rest:.0f} MB"
    )


def _follow_lazily(tracker: PointTracker, n_frames: int) -> None:
    tracker.prepare(LazyFrames(n_frames)).track(grid_queries((720, 1280), side=6))


def measure_half(weights: Path) -> None:
    """Error of half precision, arithmetic emulated on the CPU by autocast (a CUDA device has other kernels)."""
    pixels, side = synthetic_clip(16, 96, 128), 8
    tracker = CoTracker3(weights, CoTrackerSettings(device="cpu", network_size=(96, 128), support_grid=0))
    points = grid_queries((96, 128), side=side)
    exact = tracker.prepare(pixels).run(points)
    images = torch.cat([resize(on_device(frame, torch.device("cpu")), (96, 128)) for frame in pixels])
    for dtype in (torch.float16, torch.bfloat16):
        with torch.inference_mode(), torch.autocast("cpu", dtype=dtype):
            maps = FeatureMaps(tuple(level.to(dtype) for level in tracker.network.encode(images).levels))
            queries = torch.from_numpy(points)
            support = tracker.network.support(maps, queries)
            *_, state = tracker.network.refine(maps, support, queries, iterations=6)
        _report_error(str(dtype), (state.coords * STRIDE).transpose(0, 1).numpy(), exact[..., :2])


def measure_gpu(weights: Path, n_frames: int = 40) -> None:
    """fp16 beside fp32 on a CUDA device: seconds, frames/s, peak memory, error."""
    if not torch.cuda.is_available():
        print("  no CUDA device here: not measured")
        return
    pixels, queries = synthetic_clip(n_frames, 224, 224), grid_queries((224, 224))
    exact, eager = None, 0.0
    for precision in ("fp32", "fp16"):
        tracker = CoTracker3(weights, CoTrackerSettings(device="cuda", precision=precision))
        tracker.track(pixels, queries)
        torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(5):
            torch.cuda.synchronize()
            started = time.perf_counter()
            tracks = tracker.track(pixels, queries)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        taken, peak = float(np.median(seconds)), torch.cuda.max_memory_allocated() / 1e9
        eager, exact = eager or taken, tracks.xy if exact is None else exact
        print(
            f"  {precision}: {taken:.3f} s, {n_frames / taken:.0f} frames/s, {peak:.2f} GB, {eager / taken:.2f} x fp32"
        )
        _report_error(precision, tracks.xy, exact)
    print(f"  {torch.cuda.get_device_name()}, {n_frames} x 224 x 224, {len(queries)} points, network {NETWORK_SIZE}")


def _report_error(name: str, xy: NDArray[Any], exact: NDArray[Any]) -> None:
    error = np.linalg.norm(xy - exact, axis=-1)
    within, median = 100 * np.mean(error < 0.1), np.median(error)
    print(
        f"  {name}: median error {median:.4f} px, largest {error.max():.3f} px, {within:.1f} % of points within 0.1 px"
    )


if __name__ == "__main__":
    main()
