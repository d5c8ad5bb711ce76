"""What one frame costs a network on a device: published where somebody published it, else assumed, and said so.

Nothing was measured on a GPU by us. A published time belongs to the device, size and precision it was published for;
for another device it is scaled by the devices' stated dense TFLOPS, and is an assumption from then on. Networks that
nobody published a time for are given the rate of arithmetic that the published time of Video-Depth-Anything vits
stands for: 85.8 GFLOP a frame in 7.5 ms (fp16) or 9.1 ms (fp32) on an A100, which is 11.4 and 9.4 TFLOPS. Operations
were counted on the networks with torch's `FlopCounterMode` (a multiplication and an addition are two), 2026-11-29.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from extractors.errors import ConfigError
from flows.config import Config, DepthConfig, MasksConfig, TracksConfig

Origin = Literal["published", "measured", "assumed"]
Precision = Literal["fp32", "fp16"]


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator, by its maker's data sheet.

    Attributes:
        name: as `cuepack plan --device` takes it.
        title: as its maker calls it.
        tflops: dense arithmetic rate by precision: plain fp32 (PyTorch leaves TF32 off for matrix products), and fp16
            on tensor cores with fp32 sums, without sparsity.
        memory_gb: of the device, 10^9 bytes.
        source: the data sheet.
    """

    name: str
    title: str
    tflops: Mapping[Precision, float]
    memory_gb: float
    source: str


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device("a100", "NVIDIA A100 SXM 80 GB", {"fp32": 19.5, "fp16": 312}, 80, "NVIDIA A100 data sheet, June 2021"),
        Device("h100", "NVIDIA H100 SXM", {"fp32": 67, "fp16": 989}, 80, "NVIDIA H100 data sheet, 2023"),
        Device("h200", "NVIDIA H200 SXM", {"fp32": 67, "fp16": 989}, 141, "NVIDIA H200 data sheet, 2024"),
        Device("l4", "NVIDIA L4", {"fp32": 30.3, "fp16": 121}, 24, "NVIDIA L4 data sheet, 2023"),
        Device("rtx4090", "NVIDIA GeForce RTX 4090", {"fp32": 82.6, "fp16": 165}, 24, "NVIDIA Ada white paper, 2022"),
    )
}
"""Devices that can be planned for, beside "cpu"."""


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """Seconds that a network keeps a device busy.

    Attributes:
        network: backend and size.
        device: of `DEVICES`.
        precision: "fp32" or "fp16" (bf16 counts as fp16: the data sheets state one rate for both).
        seconds_per_frame: of a clip that fills the device, in one call of many frames.
        seconds_per_call: what a call costs beside its frames, however few they are: kernels started one after another.
        origin: "published", or "assumed" where it was scaled or derived.
        source: who published it and when, or what it was derived from.
    """

    network: str
    device: str
    precision: Precision
    seconds_per_frame: float
    seconds_per_call: float
    origin: Origin
    source: str

    def seconds(self, frames: int, calls: int = 1) -> float:
        """Seconds that `frames` frames in `calls` calls keep the device busy."""
        return frames * self.seconds_per_frame + calls * self.seconds_per_call


LAUNCH_S = 10e-6
"""Seconds between the starts of two kernels where the device is quicker than the host: assumed, the order of magnitude
that PyTorch's eager mode is known for; the kernels of a call were counted on our networks."""

_VDA_README = "README of Video-Depth-Anything, 2025-02-08, A100, 1 x 32 x 518 x 518"
_RATE = "derived from counted operations at the rate of Video-Depth-Anything vits on an A100"

VDA_GFLOP = {"vits": 85.8, "vitb": 331.8, "vitl": 1207.8}
"""Operations of Video-Depth-Anything a frame, 518 x 518, in windows of 32, 10^9."""

_VDA_MS: Mapping[tuple[str, Precision], tuple[float, Origin, str]] = {
    ("vits", "fp16"): (7.5, "published", _VDA_README),
    ("vits", "fp32"): (9.1, "published", _VDA_README),
    ("vitl", "fp16"): (14.0, "published", _VDA_README),
    ("vitl", "fp32"): (67.0, "published", _VDA_README),
    # On the line through vits and vitl, by operations: no time of vitb was published.
    ("vitb", "fp16"): (8.9, "assumed", f"between vits and vitl by operations; {_VDA_README}"),
    ("vitb", "fp32"): (21.8, "assumed", f"between vits and vitl by operations; {_VDA_README}"),
}

_VDA_KERNELS = 3300
"""Operations started for a window of 32 frames."""

_TRACKER_KERNELS = 2 * 2400
"""Operations started for both query sets of a clip; counted on CoTracker3, taken for TAPIR too."""

COTRACKER_ENCODER_GFLOP = 51.8
COTRACKER_BASE_GFLOP = 12.0
COTRACKER_POINT_GFLOP = 0.19
"""Operations of CoTracker3 a frame at 384 x 512, six iterations, 10^9: its encoder, its 64 virtual tracks, and each
point (23.9 with 64 points and the virtual tracks were counted). Its paper (arXiv:2410.11831, appendix B) has times of
offline tracking as a figure only, and says that they grow in proportion to the points."""

TAPIR_ENCODER_GFLOP = 67.0
TAPIR_POINT_GFLOP = 0.2
"""Operations of TAPIR a frame at 256 x 256, 10^9: backbone and extra convolutions, and each point's four iterations."""

SAM_VIT_B_GFLOP, SAM_VIT_H_GFLOP = 742.3, 5946.0
"""Operations of SAM's image encoder, 10^9: of vit-b counted, of vit-h from arXiv:2402.05008 (2973 GMAC)."""

_SAM_VIT_H_MS = 150.0
"""Milliseconds of SAM's vit-h image encoder on an A100: segment-anything's page, April 2023 ("0.15 seconds")."""

GROUNDING_DINO_GFLOP = 745.0
"""Operations of Grounding DINO tiny on an image of 800 x 1066, 10^9: four times the 186.3 that were counted at 400 x
533, an upper bound."""

FOLLOWED_SHARE = 0.2
"""Of the image encoder's time, what boxes and masks of the found things add: assumed."""


def service_times(config: Config, device: str) -> dict[str, ServiceTime]:
    """Stage -> time of its network on `device`; stages whose backend uses no such device are left out.

    `config` is resolved. Networks of the profile `cpu` run on the CPU wherever they are.

    Raises:
        ConfigError: the device is unknown.
    """
    if device == "cpu":
        return {}
    if device not in DEVICES:
        raise ConfigError(f"no times for a device named '{device}'; choose one of {[*DEVICES, 'cpu']}")
    found = {
        "masks": _masks_time(config.masks),
        "depth": _depth_time(config.depth),
        "tracks": _tracks_time(config.tracks),
    }
    return {stage: on_device(time, device) for stage, time in found.items() if time is not None}


def on_device(time: ServiceTime, device: str) -> ServiceTime:
    """The same network on another device: by stated TFLOPS, and therefore assumed."""
    if device == time.device:
        return time
    factor = DEVICES[time.device].tflops[time.precision] / DEVICES[device].tflops[time.precision]
    return replace(
        time,
        device=device,
        seconds_per_frame=time.seconds_per_frame * factor,
        origin="assumed",
        source=f"{time.source}; times {factor:.2f}, the ratio of {time.precision} TFLOPS "
        f"({DEVICES[time.device].tflops[time.precision]:g} of {time.device}, "
        f"{DEVICES[device].tflops[time.precision]:g} of {device})",
    )


def _depth_time(config: DepthConfig) -> ServiceTime | None:
    if config.backend != "video-depth-anything":
        return None
    milliseconds, origin, source = _VDA_MS[config.model, config.precision]
    if config.input_size != 518:
        milliseconds *= (config.input_size / 518) ** 2
        origin, source = "assumed", f"{source}; by pixels from 518 to {config.input_size}"
    network = f"video-depth-anything {config.model}"
    return ServiceTime(network, "a100", config.precision, milliseconds / 1e3, _VDA_KERNELS * LAUNCH_S, origin, source)


def _tracks_time(config: TracksConfig) -> ServiceTime | None:
    grid = config.grid_side**2
    # The background of the foreground-biased set is the grid's tracks, unless it has points of its own.
    foreground = config.count if config.background == "own" else round(config.share * config.count)
    if config.backend == "cotracker3":
        support = config.support_grid**2
        points = grid + foreground + support * (2 if config.support_for == "all" else 1)
        gflop = COTRACKER_ENCODER_GFLOP + (
            (2 * COTRACKER_BASE_GFLOP + points * COTRACKER_POINT_GFLOP) * (config.iterations or 6) / 6
        )
    elif config.backend == "tapir":
        points = grid + foreground
        gflop = (TAPIR_ENCODER_GFLOP + points * TAPIR_POINT_GFLOP) * (config.tapir_px / 256) ** 2
    else:
        return None
    return _at_counted_rate(f"{config.backend}, {points} points", gflop, config.precision)


def _masks_time(config: MasksConfig) -> ServiceTime | None:
    precision: Precision = "fp32" if config.precision == "fp32" else "fp16"
    if config.backend == "sam3" and config.plan == "video":
        source = "SAM 3.1's announcement by Meta, 2026-03-27: SAM 3 tracks 16 frames/s on an H100, several objects"
        return ServiceTime("sam3 video", "h100", precision, 1 / 16, 0.0, _if_half("published", precision), source)
    if config.backend == "sam3":
        source = "Meta's page of SAM 3, 2025-11-19: 30 ms an image on an H200, more than 100 objects; each key frame"
        time = ServiceTime("sam3 image", "h200", precision, 0.030, 0.0, _if_half("published", precision), source)
        return replace(time, seconds_per_frame=time.seconds_per_frame / config.every)
    if config.backend == "grounded-sam":
        encoder_ms = _SAM_VIT_H_MS * SAM_VIT_B_GFLOP / SAM_VIT_H_GFLOP * (1 + FOLLOWED_SHARE)
        detector_ms = GROUNDING_DINO_GFLOP / _tflops_reached("fp32")
        source = (
            f"SAM vit-b by operations from the published 150 ms of vit-h (A100), Grounding DINO {_RATE}; "
            f"every {config.every}th frame is a key frame"
        )
        seconds = (encoder_ms + detector_ms) / 1e3 / config.every
        return ServiceTime("grounding-dino-tiny, sam-vit-base", "a100", "fp32", seconds, 0.0, "assumed", source)
    return None


def _if_half(origin: Origin, precision: Precision) -> Origin:
    """Meta's numbers are of bf16; in fp32 they are a lower bound, and an assumption."""
    return origin if precision == "fp16" else "assumed"


def _at_counted_rate(network: str, gflop: float, precision: Precision) -> ServiceTime:
    seconds = gflop / _tflops_reached(precision) / 1e3
    source = f"{_RATE}: {gflop:.0f} GFLOP a frame at {_tflops_reached(precision):.1f} TFLOPS"
    return ServiceTime(network, "a100", precision, seconds, _TRACKER_KERNELS * LAUNCH_S, "assumed", source)


def _tflops_reached(precision: Precision) -> float:
    """What Video-Depth-Anything vits reaches on an A100, by its published time: 10^12 operations a second."""
    return VDA_GFLOP["vits"] / _VDA_MS["vits", precision][0]
