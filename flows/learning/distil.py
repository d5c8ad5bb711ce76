"""Teaches nano's depth what Video-Depth-Anything saw in a user's own packets.

Half of each step are clips of packets, of which the depth alone is asked, and half generated ones, so that the network
does not forget the rest.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from extractors.backends.nano.weights import load_network
from extractors.errors import ConfigError, PacketError
from extractors.geometry import resize_rgb
from flows.learning.clips import DRAWN_PX, N_FRAMES, Clip, generate, write_clip
from flows.learning.losses import UNTOLD
from flows.learning.train_nano import CPU, STOP_SEED, Schedule, train
from packers.reader import Packet

log = logging.getLogger("cuepack")

TEACHER = "video-depth-anything"

RATE = 5e-4
"""Highest learning rate; a quarter of that of training from nothing, so that what was learned is kept."""

SCENES, STOP_SCENES = 300, 24
"""Generated clips to train on and to stop by."""

HELD_OUT = 8
"""One in so many packets is kept from training, to stop by."""

NEAR, FAR = 1.5, 0.5
"""Inverse depth that a clip's nearest and farthest pixel get: the teacher's scale and shift mean nothing."""

LEAST_PACKETS = 8


def distil(
    packets: Sequence[Path], work: Path, out: Path, *, minutes: float, seed: int = 0, device: torch.device = CPU
) -> int:
    """Writes to `out` the packaged weights taught by the depth of `packets`; returns how many packets taught.

    Args:
        packets: those that hold no relative depth of the teacher are left out.
        work: folder for clips.
        out: weights, for `depth.weights` of the backend nano.
        minutes: of training; clips come first.
        seed: fixes the draws.
        device: that the network is trained on.

    Raises:
        ConfigError: too few packets hold the teacher's depth, or MuJoCo is missing.
    """
    taught = list(_taught(packets, work / "taught", work / "taught_stop"))
    if len(taught) < LEAST_PACKETS:
        raise ConfigError(
            f"{len(taught)} of {len(packets)} packets hold relative depth by {TEACHER}, wanted {LEAST_PACKETS} at "
            "least; extract them with depth.backend=video-depth-anything"
        )
    for _ in generate(work / "scenes", SCENES, 100 + seed):
        pass
    stop = [*generate(work / "stop", STOP_SCENES, STOP_SEED), *sorted((work / "taught_stop").glob("*.npz"))]
    schedule = Schedule(minutes=minutes, rate=RATE, seed=seed)
    train(load_network(), [work / "scenes", work / "taught"], stop, out, schedule, device=device)
    return len(taught)


def _taught(packets: Sequence[Path], folder: Path, stop: Path) -> Iterator[Path]:
    for each in (folder, stop):
        # Clips of an earlier time are of other packets.
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(parents=True)
    clips = (clip for clip in map(_clip, packets) if clip is not None)
    for number, clip in enumerate(clips):
        to = (stop if number % HELD_OUT == 0 else folder) / f"clip{number:06d}.npz"
        write_clip(to, clip)
        yield to


def _clip(path: Path) -> Clip | None:
    """Frames spread over a packet, at the size of generated clips; None where the teacher said nothing."""
    try:
        with Packet(path) as packet:
            if packet.attributes["stages"].get("depth", {}).get("backend") != TEACHER or "depth/relative" not in packet:
                return None
            # As many as the network is trained on, also of a packet that is shorter.
            chosen = np.linspace(0, packet.n_frames - 1, N_FRAMES).round().astype(int)
            pixels = np.stack([resize_rgb(packet.read("pixels", i, i + 1)[0], (DRAWN_PX, DRAWN_PX)) for i in chosen])
            depth = np.stack([_small(packet.read("depth/relative", i, i + 1)[0]) for i in chosen])
    except PacketError as error:
        log.warning("%s teaches nothing: %s", path.name, error)
        return None
    reach = float(np.ptp(depth))
    if reach <= 0:
        return None
    inverse = (FAR + (NEAR - FAR) * (depth - depth.min()) / reach).astype(np.float32)
    return Clip(pixels, np.full(depth.shape, UNTOLD, np.uint8), inverse)


def _small(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(depth, (DRAWN_PX, DRAWN_PX), interpolation=cv2.INTER_NEAREST), np.float32)
