"""A whole clip through the network, in memory that hardly grows with its length.

Context comes from some key frames spread over the clip, as in training; every other frame is then answered by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.backends.nano.inputs import Pixels, Scenery, network_inputs, still_inputs
from extractors.backends.nano.network import STRIDE, Answer, Features, Looks, NanoNetwork, Pooled, pool
from extractors.geometry import resize_rgb
from extractors.types import Frames, Size

KEYS = 16
"""Key frames: as many as a training clip has."""

SCENERY_FRAMES = 41
"""Frames that the scenery is made of."""

AT_ONCE = 8
"""Frames answered at once: more do not fit a core's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What the key frames tell of a clip.

    Attributes:
        at: (K,) numbers of the key frames, the background's last place left out.
        until, since: pooled features of the keys until and from each, (K, C, h, w) fine and coarse.
        looks: of the classes.
    """

    at: NDArray[np.int64]
    until: tuple[Tensor, Tensor]
    since: tuple[Tensor, Tensor]
    looks: Looks


def working_size(size: Size, longer_px: int) -> Size:
    """`size` (height, width) scaled to a longer side of `longer_px`, each side a multiple of the network's stride."""
    factor = longer_px / max(size)
    height, width = (max(STRIDE * round(side * factor / STRIDE), STRIDE) for side in size)
    return height, width


def working_frames(pixels: Frames, size: Size) -> Pixels:
    """(T, h, w, 3) uint8 at `size`; iterates once."""
    out = np.empty((len(pixels), *size, 3), np.uint8)
    for frame, image in enumerate(pixels):
        out[frame] = resize_rgb(np.asarray(image), size)
    return out


def clip_scenery(frames: Pixels) -> Scenery:
    """Of frames (T, h, w, 3) spread over the clip."""
    return Scenery.of(frames[_spread(len(frames), SCENERY_FRAMES)])


@torch.inference_mode()
def read_context(network: NanoNetwork, frames: Pixels, scenery: Scenery) -> Context:
    """From the key frames of a clip (T, h, w, 3) with a still camera."""
    at = _spread(len(frames), KEYS)
    parts = [network.encode(_inputs(frames, at[i : i + AT_ONCE], scenery)) for i in range(0, len(at), AT_ONCE)]
    features = Features(*(torch.cat([getattr(part, name) for part in parts]) for name in Features.__slots__))
    pooled = pool(features)
    maps, first = network.first_answer(features, pooled)
    until, since = ((pooled.fine[way], pooled.coarse[way]) for way in (0, 1))
    return Context(at, until, since, network.looks(features, maps, first))


@torch.inference_mode()
def answers(
    network: NanoNetwork, frames: Pixels, scenery: Scenery, context: Context
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Of each frame, the classes' shares (4, h, w) and the inverse depth (h, w) on the clip's own scale."""
    for start in range(0, len(frames), AT_ONCE):
        numbers = np.arange(start, min(start + AT_ONCE, len(frames)))
        features = network.encode(_inputs(frames, numbers, scenery))
        yield from _unpacked(_answer(network, features, context, numbers))


def handled_chance(context: Context) -> float:
    """Probability that the robot handles anything in the clip."""
    return float(context.looks.handled.sigmoid()[0])


@torch.inference_mode()
def background_depth(network: NanoNetwork, background: Pixels, context: Context) -> NDArray[np.float32]:
    """(h, w) inverse depth of the background on the scale of `answers`."""
    features = network.encode(_channels_last(still_inputs(background)))
    return _unpacked(_answer(network, features, context, context.at[len(context.at) // 2][None]))[0][1]


def _answer(network: NanoNetwork, features: Features, context: Context, numbers: NDArray[np.int64]) -> Answer:
    """Pooled over the keys until and from each frame, and over the frame itself."""
    until = np.maximum(np.searchsorted(context.at, numbers, side="right") - 1, 0)
    since = np.minimum(np.searchsorted(context.at, numbers, side="left"), len(context.at) - 1)
    fine, coarse = (
        (torch.maximum(own, context.until[scale][until]), torch.maximum(own, context.since[scale][since]))
        for scale, own in enumerate((features.fine, features.coarse))
    )
    maps, first = network.first_answer(features, Pooled(fine, coarse))
    return network.answer(features, maps, first, context.looks)


def _unpacked(answer: Answer) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    depth = answer.inverse_depth.numpy()
    # The packaged weights make the last row, and no other, come out twice as near; that of a plane goes on as a line.
    depth[:, -1] = 2 * depth[:, -2] - depth[:, -3]
    return list(zip(answer.logits.softmax(1).numpy(), depth, strict=True))


def _inputs(frames: Pixels, numbers: NDArray[np.int64], scenery: Scenery) -> Tensor:
    """Before and after are as far away as key frames are from each other: what training clips show."""
    step = max(round(len(frames) / KEYS), 1)
    before, after = np.maximum(numbers - step, 0), np.minimum(numbers + step, len(frames) - 1)
    return _channels_last(network_inputs(frames[numbers], frames[before], frames[after], scenery))


def _channels_last(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.channels_last)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` numbers below `count`, evenly spread with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round()).astype(np.int64)
