"""Training targets cut from a packet: depth restricted to the object, or weighted towards it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extractors.errors import PacketError
from packers.reader import Packet

OBJECT_WEIGHT = 5.0
"""Weight of an object pixel against 1 for the others in the variant "weighted"."""

_VARIANT = re.compile(r"full|tight|weighted|dilate[1-9][0-9]*")


@dataclass(frozen=True, slots=True, eq=False)
class DepthTarget:
    """What a depth head is trained on.

    A weighted loss is `(weights * loss(predicted, values)).sum() / weights.sum()`.

    Attributes:
        values: (n, H, W) float32, in the unit of the depth dataset; 0 where `weights` is 0.
        weights: (n, H, W) float32, 0 where there is nothing to learn from.
    """

    values: NDArray[np.float32]
    weights: NDArray[np.float32]


def masked_depth(
    packet: Packet,
    variant: str = "tight",
    *,
    depth: str = "depth/relative",
    start: int | None = None,
    stop: int | None = None,
    weight: float = OBJECT_WEIGHT,
) -> DepthTarget:
    """Depth of the frames `start` to `stop` as a training target.

    Args:
        packet: an open packet.
        variant: "full" (every pixel counts 1), "tight" (pixels of the object alone), "dilate<R>" (the object and R px
            around it; R as the packet has it, 8 and 20 by default), "weighted" (every pixel, the object's `weight`
            times).
        depth: the depth dataset; each has its own unit, so none stands in for another.
        start: first frame, the clip's first by default.
        stop: frame after the last, the clip's end by default.
        weight: of object pixels in "weighted", at least 0.

    Raises:
        PacketError: an unknown variant, or the packet has not the depth or mask it needs.
    """
    if not _VARIANT.fullmatch(variant):
        raise PacketError(f"no depth variant '{variant}'; choose full, tight, dilate<R> or weighted")
    if not (np.isfinite(weight) and weight >= 0):
        raise PacketError(f"wanted an object weight of at least 0, got {weight}")
    _require(packet, depth, "depth/")
    values = packet.read(depth, start, stop).astype(np.float32)
    weights = _weights(packet, variant, values.shape, start, stop, weight)
    weights[~np.isfinite(values)] = 0
    return DepthTarget(np.where(weights > 0, values, np.float32(0)), weights)


def depth_variants(packet: Packet) -> tuple[str, ...]:
    """The variants of `masked_depth` that the packet's masks allow."""
    dilated = sorted(
        (name.removeprefix("masks/object_") for name in packet.modalities if name.startswith("masks/object_dilate")),
        key=lambda name: int(name.removeprefix("dilate")),
    )
    return ("full", "tight", *dilated, "weighted") if "masks/object" in packet else ("full",)


def _weights(
    packet: Packet, variant: str, shape: tuple[int, ...], start: int | None, stop: int | None, weight: float
) -> NDArray[np.float32]:
    if variant == "full":
        return np.ones(shape, np.float32)
    name = f"masks/object_{variant}" if variant.startswith("dilate") else "masks/object"
    _require(packet, name, "masks/")
    mask = packet.read(name, start, stop)
    if variant == "weighted":
        return np.where(mask, np.float32(weight), np.float32(1))
    return mask.astype(np.float32)


def _require(packet: Packet, name: str, kind: str) -> None:
    if name not in packet:
        there = [path for path in packet.modalities if path.startswith(kind)]
        raise PacketError(f"{packet.path.name} has no '{name}'; it has {there}; extract it with other settings")
