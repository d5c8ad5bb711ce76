"""Compares ways to store depth, masks and pixels in a packet: size, write time, time of a 4-frame window.

    python -m tests.benchmarks.packet_storage [FOLDER OF GROUND-TRUTH .npz] [--videos FOLDER OF .mp4] [--episodes 3]

Data: rendered depth, masks and RGB of simulated episodes at packet size. Rendered depth is smoother than a camera's,
so `metric+noise` adds what a depth camera adds (0.2 % of z at 1 m, growing with z squared; whole millimetres), and
`pixels (video)` are frames of real videos.
Times are medians with HDF5's chunk cache off, files in the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
from numpy.typing import NDArray

from extractors.geometry import resize_depth, resize_frames, resize_masks

SIZE = (224, 224)
WINDOW = 4
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@dataclass(frozen=True)
class Candidate:
    """One way to store one array: what is stored, its largest error, and the dataset options."""

    name: str
    data: NDArray[Any]
    error: str
    options: dict[str, Any] = field(default_factory=dict)


def integer_code(values: NDArray[np.float32], step: float, offset: float = 0.0) -> NDArray[np.uint16]:
    return np.rint((values - offset) / step).astype(np.uint16)


def deflate(data: NDArray[Any], frames: int = 1, level: int = 1, *, shuffle: bool = True) -> dict[str, Any]:
    frames = min(frames, len(data))
    options = {"chunks": (frames, *data.shape[1:]), "compression": "gzip", "compression_opts": level}
    return options | {"shuffle": shuffle}


def depth_candidates(values: NDArray[np.float32], *, metric: bool) -> Iterator[Candidate]:
    low, high = float(values.min()), float(values.max())
    unit = "mm at 1 m" if metric else "of range"
    raw = np.ascontiguousarray(values)
    yield Candidate("float32 gzip1 shuffle", raw, "0", deflate(raw))
    half = values.astype(np.float16)
    yield Candidate("float16 gzip1 shuffle", half, "0.49 mm at 1 m" if metric else "2.4e-4 of range", deflate(half))
    if metric:
        steps = [2.0**-power for power in (11, 12, 13, 14)]
        codes = [(f"2^{int(np.log2(step))} m", step, integer_code(values, step), step / 2 * 1e3) for step in steps]
    else:
        codes = []
        for bits in (11, 12, 13, 14, 16):
            step = (high - low) / (2**bits - 1)
            codes.append((f"{bits} bit", step, integer_code(values, step, low), 0.5 / (2**bits - 1)))
    for label, _, code, error in codes:
        yield Candidate(f"uint16 {label} gzip1 shuffle", code, f"{error:.2g} {unit}", deflate(code))
    label, _, code, error = codes[1]
    stated = f"{error:.2g} {unit}"
    yield Candidate(f"uint16 {label} gzip1", code, stated, deflate(code, shuffle=False))
    yield Candidate(f"uint16 {label} gzip4 shuffle", code, stated, deflate(code, level=4))
    yield Candidate(f"uint16 {label} gzip9 shuffle", code, stated, deflate(code, level=9))
    yield Candidate(f"uint16 {label} gzip1 shuffle, 4 frames", code, stated, deflate(code, 4))
    yield Candidate(f"uint16 {label} gzip1 shuffle, clip", code, stated, deflate(code, len(code)))
    packed = {"chunks": (1, 32, 32), "scaleoffset": 0}
    yield Candidate(f"uint16 {label} scaleoffset, 32 px tiles", code, stated, packed)
    packed = {"chunks": (1, *SIZE), "scaleoffset": 0, "compression": "gzip", "compression_opts": 1}
    yield Candidate(f"uint16 {label} scaleoffset gzip1", code, stated, packed)


def mask_candidates(masks: NDArray[np.bool_]) -> Iterator[Candidate]:
    for level in (1, 4, 9):
        yield Candidate(f"bool gzip{level}", masks, "0", deflate(masks, level=level, shuffle=False))
    yield Candidate("bool gzip4, 4 frames", masks, "0", deflate(masks, 4, 4, shuffle=False))
    yield Candidate("bool gzip1, 8 frames", masks, "0", deflate(masks, 8, 1, shuffle=False))


def pixel_candidates(pixels: NDArray[np.uint8]) -> Iterator[Candidate]:
    frame = (1, *pixels.shape[1:])
    yield Candidate("uint8 plain", pixels, "0", {"chunks": frame})
    yield Candidate("uint8 fletcher32", pixels, "0", {"chunks": frame, "fletcher32": True})
    for level in (1, 4):
        yield Candidate(f"uint8 gzip{level}", pixels, "0", deflate(pixels, level=level, shuffle=False))
    yield Candidate("uint8 gzip1, 4 frames", pixels, "0", deflate(pixels, 4, shuffle=False))
    yield Candidate(
        "uint8 gzip1, a chunk per colour", pixels, "0", deflate(pixels, shuffle=False) | {"chunks": (*frame[:3], 1)}
    )


def measure(candidate: Candidate, folder: Path, repeats: int) -> tuple[int, float, float]:
    """(stored bytes, write ms for the clip, window read ms) of one candidate."""
    path = folder / "candidate.h5"
    started = time.perf_counter()
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.create_dataset("x", data=candidate.data, **candidate.options)
    write = time.perf_counter() - started
    rng = np.random.default_rng(0)
    reads = []
    with h5py.File(path, "r", rdcc_nbytes=0) as file:
        dataset = file["x"]
        stored = dataset.id.get_storage_size()
        for start in rng.integers(0, len(candidate.data) - WINDOW, repeats):
            started = time.perf_counter()
            dataset[start : start + WINDOW]
            reads.append(time.perf_counter() - started)
    return stored, write * 1e3, statistics.median(reads) * 1e3


def camera_noise(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """`depth` (T, H, W) metres as a depth camera would give it: noise of 2 mm at 1 m, whole millimetres."""
    noise = np.random.default_rng(0).normal(0, 1, depth.shape).astype(np.float32)
    noisy = np.clip(depth + 0.002 * depth**2 * noise, 0, 15.9)
    return np.where(depth > 0, np.rint(noisy * 1000) / 1000, 0).astype(np.float32)


def episode_arrays(path: Path) -> dict[str, list[Candidate]]:
    with np.load(path) as episode:
        depth = resize_depth(episode["depth"], SIZE)
        mask = resize_masks(episode["object_mask"].astype(bool), SIZE)
        pixels = resize_frames(episode["rgb"], SIZE)
    inverse = np.where(depth > 0, 1 / np.maximum(depth, 1e-3), 0).astype(np.float32)
    return {
        "depth/relative": list(depth_candidates(inverse, metric=False)),
        "depth/metric": list(depth_candidates(depth, metric=True)),
        "depth/metric+noise": list(depth_candidates(camera_noise(depth), metric=True)),
        "masks/object": list(mask_candidates(mask)),
        "pixels": list(pixel_candidates(pixels)),
    }


def video_arrays(path: Path) -> dict[str, list[Candidate]]:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return {"pixels (video)": list(pixel_candidates(resize_frames(frames, SIZE)))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=DATA / "groundtruth_dev")
    parser.add_argument("--videos", type=Path, default=DATA / "real_extra" / "bridge_teaser_videos")
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    found = sorted(path for path in arguments.folder.glob("*.npz") if "640x480" not in path.name)
    videos = sorted(arguments.videos.rglob("*.mp4"))
    if not found:
        parser.error(f"no .npz episodes in {arguments.folder}")
    rows: dict[tuple[str, str, str], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in found[: arguments.episodes] + videos[: arguments.episodes]:
            arrays = video_arrays(path) if path.suffix == ".mp4" else episode_arrays(path)
            for array, candidates in arrays.items():
                for candidate in candidates:
                    stored, write, window = measure(candidate, Path(folder), arguments.repeats)
                    n = len(candidate.data)
                    key = (array, candidate.name, candidate.error)
                    rows.setdefault(key, []).append((stored / n / 1e3, write / n, window))
    print(f"{'array':19} {'stored as':42} {'max error':>17} {'kB/frame':>9} {'write ms/frame':>15} {'window ms':>10}")
    for (array, name, error), measured in rows.items():
        size, write, window = (statistics.mean(column) for column in zip(*measured, strict=True))
        print(f"{array:19} {name:42} {error:>17} {size:9.1f} {write:15.2f} {window:10.2f}")


if __name__ == "__main__":
    main()
