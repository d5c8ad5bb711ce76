"""Frames per second and peak memory of the text segmenters, with random weights of the published sizes.

    python -m tests.benchmarks.masks_speed                     # on a CUDA device: real sizes, bf16 and fp32
    python -m tests.benchmarks.masks_speed --size tiny --device cpu --precision fp32

Random weights cost what the published ones cost, but for the number of objects, which is fixed here: the detector's
thresholds are set so that exactly `--objects` are followed. Nothing is downloaded; the models are written to a
temporary folder and loaded as real ones are (SAM 3: 3.4 GB on disk in fp32).
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from extractors.backends.devices import choose_device
from extractors.build import SEGMENTERS
from tests.extractors.backends import tiny_models
from tests.parity import synthetic_clip


def main() -> None:
    """Prints one line per backend, plan and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("real", "tiny"), default="real", help="default: real")
    parser.add_argument("--device", default="auto", help="default: CUDA where there is one")
    parser.add_argument("--precision", default="bf16,fp32", help="comma-separated; default: both")
    parser.add_argument("--backends", default="sam3,grounded-sam", help="comma-separated; default: both")
    parser.add_argument("--frames", type=int, default=40, help="length of the clip, 480 x 640; default: 40")
    parser.add_argument("--objects", type=int, default=4, help="objects followed at once; default: 4")
    parser.add_argument("--every", type=int, default=5, help="frames between key frames; default: 5")
    options = parser.parse_args()
    pixels = synthetic_clip(options.frames, 480, 640)
    device = choose_device(options.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {options.size} models, {options.frames} frames, {time.strftime('%F')}")
    with tempfile.TemporaryDirectory() as folder:
        for backend, settings in _settings(Path(folder), options):
            for precision in options.precision.split(","):
                wanted = {**settings, "precision": precision, "device": str(device)}
                print(f"{backend:13} {settings.get('plan', ''):7} {precision:5} {_measure(backend, wanted, pixels)}")


def _settings(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    common = {"prompts": ("object",), "max_objects": options.objects, "every": options.every, "threshold": 1e-6}
    tiny = options.size == "tiny"
    if "sam3" in options.backends:
        weights = (tiny_models.save_sam3 if tiny else save_real_sam3)(folder / "sam3")
        for plan in ("video", "frames"):
            yield "sam3", {**common, "weights": weights, "plan": plan, "new_threshold": 1e-6}
    if "grounded-sam" in options.backends:
        detector = (tiny_models.save_grounding_dino if tiny else save_real_grounding_dino)(folder / "dino")
        sam = (tiny_models.save_sam if tiny else save_real_sam)(folder / "sam")
        yield "grounded-sam", {**common, "weights": sam, "detector_weights": detector}


def _measure(backend: str, settings: dict[str, Any], pixels: np.ndarray) -> str:
    segmenter: Any = SEGMENTERS[backend](**settings)
    cuda = segmenter.device.type == "cuda"
    size = (224, 224)
    segmenter.propose(pixels[: settings["every"] + 2], settings["prompts"], size=size)  # warm up
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    found = segmenter.propose(pixels, settings["prompts"], size=size)
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    if cuda:
        peak = f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB on the device"
    else:
        peak = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB of the process so far"
    return f"{len(pixels) / seconds:7.2f} frames/s  {len(found.candidates):3d} objects  peak {peak}"


def save_real_sam3(folder: Path) -> Path:
    """SAM 3 with the library's default configuration, which is the published size, and random weights."""
    from transformers import Sam3VideoConfig, Sam3VideoModel

    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        Sam3VideoModel(Sam3VideoConfig()).save_pretrained(folder)
    tiny_models.save_clip_tokenizer(folder)
    return folder


def save_real_grounding_dino(folder: Path) -> Path:
    """Grounding DINO with a Swin-T backbone and a BERT-base text encoder, and random weights."""
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    swin = {"model_type": "swin", "window_size": 7, "image_size": 224, "embed_dim": 96, "depths": [2, 2, 6, 2]}
    swin |= {"num_heads": [3, 6, 12, 24], "out_indices": [2, 3, 4]}
    GroundingDinoForObjectDetection(GroundingDinoConfig(backbone_config=swin)).save_pretrained(folder)
    tiny_models.save_bert_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 800, "longest_edge": 1333}}))
    return folder


def save_real_sam(folder: Path) -> Path:
    """SAM ViT-B, which is the library's default configuration, with random weights."""
    from transformers import SamConfig, SamModel

    SamModel(SamConfig()).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
