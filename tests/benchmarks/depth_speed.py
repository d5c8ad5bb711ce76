"""Video-Depth-Anything against its published scheme done plainly, with the same seeded weights, in one run.

    python -m tests.benchmarks.depth_speed [--frames 38] [--input-size 252] [--threads 1] [--repeat 3]

Three ways through one clip, taken in turns:
    plain          every window encodes its 32 frames again, every map is decoded, attention unfused
    once           each frame encoded once, maps that no one sees not decoded; the same unfused attention and layers
    once + fused   the same with fused attention and packed linear layers: what cuepack runs
On a CUDA device also fp16, and fp16 with a compiled encoder and several clips in a batch. Printed are seconds (best of
the repeats), the ratio to `plain`, the largest difference of the maps, and the mean difference in percent of their
standard deviation. Random weights: speed and agreement do not depend on what the weights know.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.backends import vda_network
from extractors.backends.vda_network import ModelSize, VideoDepthNetwork
from extractors.backends.video_depth_anything import VideoDepthAnything, load_network, network_size, published_file
from tests.parity import seed_model, synthetic_clip
from tests.published_depth import plain_attention, published_depth, window_frames

Maps = NDArray[np.float32]


@contextmanager
def unfused() -> Iterator[None]:
    """Attention with the score matrix written out, in encoder and temporal modules."""
    fused, vda_network.attend = vda_network.attend, plain_attention
    try:
        yield
    finally:
        vda_network.attend = fused


def _ways(arguments: argparse.Namespace, weights: Path, pixels: NDArray[np.uint8]) -> dict[str, Callable[[], Maps]]:
    size = (arguments.height, arguments.width)
    settings = {"weights": weights, "input_size": arguments.input_size, "device": arguments.device}
    model = VideoDepthAnything(arguments.model, **settings)
    network = load_network(weights, arguments.model).to(model.device)

    def plain() -> Maps:
        with unfused():
            return published_depth(network, pixels, arguments.input_size, batch=arguments.plain_batch)

    with mock.patch("extractors.backends.video_depth_anything.pack_linears"):
        as_plain = VideoDepthAnything(arguments.model, **settings)

    def once() -> Maps:
        with unfused():
            return as_plain.estimate(pixels, size=size).values

    ways = {"plain": plain, "once": once, "once + fused": lambda: model.estimate(pixels, size=size).values}
    if model.device.type == "cuda":
        half = VideoDepthAnything(arguments.model, **settings, precision="fp16")
        ways["fp16"] = lambda: half.estimate(pixels, size=size).values
        fast = VideoDepthAnything(arguments.model, **settings, precision="fp16", compile_network=True)
        ways["fp16, compiled, 4 clips"] = lambda: fast.estimate_many([pixels] * 4, size=size)[0].values
    return ways


def main() -> None:
    """Prints the table."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    pixels = synthetic_clip(arguments.frames, arguments.height, arguments.width, seed=1)
    seen = network_size(arguments.height, arguments.width, arguments.input_size)
    n_windows = len(window_frames(arguments.frames))
    print(
        f"{arguments.model}, {arguments.frames} frames {arguments.height} x {arguments.width}, network {seen[0]} x "
        f"{seen[1]}, {arguments.threads} thread(s); frames encoded per clip frame: plain "
        f"{32 * n_windows / arguments.frames:.2f}, once 1.00"
    )
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / published_file(arguments.model)
        torch.save(seed_model(VideoDepthNetwork(arguments.model)).state_dict(), weights)
        ways = _ways(arguments, weights, pixels)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        maps: dict[str, Maps] = {}
        for _ in range(arguments.repeat):
            for name, way in ways.items():
                start = time.perf_counter()
                maps[name] = way()
                clips = 4 if "4 clips" in name else 1
                seconds[name].append((time.perf_counter() - start) / clips)
    reference = maps["plain"]
    for name, values in maps.items():
        error = np.abs(values - reference)
        print(
            f"{name:26s}{min(seconds[name]):9.2f} s{min(seconds['plain']) / min(seconds[name]):8.2f} x   "
            f"largest difference {error.max():.1e}   mean {100 * error.mean() / reference.std():.5f} % of std"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models: tuple[ModelSize, ...] = ("vits", "vitb", "vitl")
    parser.add_argument("--model", choices=models, default="vits")
    parser.add_argument("--frames", type=int, default=38)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--input-size", type=int, default=252)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--plain-batch", type=int, default=4, help="frames that the plain way encodes and decodes at once"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
