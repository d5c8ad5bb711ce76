"""Parts of `tracks_speed` for TAPIR: the plain way beside ours, what chunks and windows bound, a CUDA device."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.backends.network_tracker import on_device
from extractors.backends.tapir import Pyramid, Tapir, TapirSettings, resize
from extractors.backends.tapir_network import BASE
from extractors.track_queries import grid_queries
from extractors.track_windows import WindowedTracker
from tests.benchmarks import plain_tapir
from tests.benchmarks.measuring import LazyFrames, measured, peak_mb
from tests.parity import synthetic_clip

TARGET = 1.2


def compare_with_plain(weights: Path, pixels: NDArray[np.uint8], queries: NDArray[np.float32]) -> None:
    """Time of both, encoder and tracks apart, at equal output; in turns, so that other work disturbs both alike."""
    tracker = Tapir(weights, TapirSettings(device="cpu"))
    state = torch.load(weights, weights_only=True)
    tracker.prepare(pixels[:2]).track(queries[:64] * np.array([0, 1, 1], np.float32))  # kernels are made for their size
    clip, encoding, encoding_mb = measured(lambda: tracker.prepare(pixels))
    tracks, tracking, tracking_mb = measured(lambda: clip.track(queries))
    points = queries.copy()
    points[:, 1:] = clip.in_network(queries[:, 1:])
    with torch.inference_mode():
        maps, plain_encoding, plain_encoding_mb = measured(lambda: _encode_plainly(state, pixels))
        found, plain_tracking, plain_tracking_mb = measured(
            lambda: plain_tapir.follow(state, [maps, maps], torch.from_numpy(points)).numpy()
        )
    xy = clip.in_frame(found[..., :2].transpose(1, 0, 2))
    other = np.arange(len(pixels))[:, None] != queries[:, 0]  # ours are put where they were posed
    error = np.linalg.norm(xy - tracks.xy, axis=-1)[other].max()
    score_error = np.abs(1 / (1 + np.exp(found[..., 2].T)) - tracks.visibility_score)[other].max()
    ours, plain = encoding + tracking, plain_encoding + plain_tracking
    print(f"  {len(pixels)} frames, {len(queries)} queries, 256 x 256")
    for name, seconds, parts, peaks in (
        ("cuepack", ours, (encoding, tracking), (encoding_mb, tracking_mb)),
        ("plain", plain, (plain_encoding, plain_tracking), (plain_encoding_mb, plain_tracking_mb)),
    ):
        print(
            f"  {name}: {seconds:.1f} s ({parts[0]:.1f} encoder, {parts[1]:.1f} tracks); peak memory above the start of"
            f" each: encoder {peaks[0]:.0f} MiB, tracks {peaks[1]:.0f} MiB"
        )
    print(
        f"  ratio {plain / ours:.2f} (target {TARGET}); encoder {plain_encoding / encoding:.2f}, tracks "
        f"{plain_tracking / tracking:.2f}; largest difference {error:.1e} px, visibility {score_error:.1e}"
    )


def _encode_plainly(state: plain_tapir.Weights, pixels: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    cpu = torch.device("cpu")
    parts = [plain_tapir.encode(state, resize(on_device(frame, cpu), BASE) / 255 * 2 - 1, BASE) for frame in pixels]
    return torch.cat([fine for fine, _ in parts]), torch.cat([coarse for _, coarse in parts])


def measure_memory(weights: Path) -> None:
    """Peak memory of whole runs in fresh processes: by queries on one clip, by frames with and without windows."""
    print("  1 iteration; 720p frames, one at a time, of which the first is encoded and the others get its maps")
    for n_frames, side, window in (
        (8, 10, 0),
        (8, 20, 0),
        (8, 40, 0),
        (150, 2, 0),
        (300, 2, 0),
        (600, 2, 0),
        (600, 2, 60),
    ):
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.tracks_speed",
            "--backend",
            "tapir",
            "--weights",
            str(weights),
        ]
        command += ["--weights", str(weights), "--peak-of", str(n_frames), "--side", str(side), "--window", str(window)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print("  " + done.stdout.strip(), flush=True)


class _EncodesOnce(Tapir):
    """Encodes one frame in earnest: the encoder takes most of the time, and the same memory for each frame."""

    _first: Pyramid | None = None

    def encode(self, frames: list[NDArray[np.uint8]]) -> Pyramid:
        self._first = self._first or super().encode(frames)
        return self._first


def measure_peak(weights: Path, n_frames: int, side: int, window: int) -> str:
    """One run in this process, the clip whole or in windows."""
    tracker = _EncodesOnce(weights=weights, device="cpu", iterations=1)
    queries = grid_queries((720, 1280), side=side)
    tracker.track(LazyFrames(2), queries[:1])
    before = peak_mb()
    started = time.process_time()
    (WindowedTracker(tracker, length=window) if window else tracker).track(LazyFrames(n_frames), queries)
    windows = f" in windows of {window}" if window else ""
    held = window or n_frames
    peak = peak_mb()
    return (
        f"{n_frames} frames{windows}, {len(queries)} queries: peak {peak:.0f} MB, {peak - before:.0f} above a "
        f"2-frame run of one query; features {held * 3.4:.0f} MB; {time.process_time() - started:.0f} s"
    )


def measure_gpu(weights: Path, n_frames: int = 38) -> None:
    """fp16 beside fp32 on a CUDA device: seconds, frames/s, peak memory, error."""
    if not torch.cuda.is_available():
        print("  no CUDA device here: not measured")
        return
    pixels, queries = synthetic_clip(n_frames, 224, 224), grid_queries((224, 224))
    exact = None
    for precision in ("fp32", "fp16"):
        tracker = Tapir(weights, TapirSettings(device="cuda", precision=precision))
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
        exact = tracks.xy if exact is None else exact
        error = np.linalg.norm(tracks.xy - exact, axis=-1)
        print(
            f"  {precision}: {taken:.3f} s, {n_frames / taken:.0f} frames/s, {peak:.2f} GB; median error "
            f"{np.median(error):.4f} px, {100 * np.mean(error < 0.1):.1f} % of points within 0.1 px of fp32"
        )
    print(f"  {torch.cuda.get_device_name()}, {n_frames} x 224 x 224, {len(queries)} points, network {BASE}")
