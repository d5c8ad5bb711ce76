"""The packets of a study as batches for training, and as whole episodes for evaluation and probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.errors import ConfigError
from flows.study.conditions import Condition
from flows.study.models import Floats, StudyEpisode
from flows.study.plan import Run, StudyPlan, StudySettings
from packers.training.collate import collate_torch
from packers.training.dataset import PacketDataset, Reading
from packers.training.index import Entry, index_packets
from packers.training.targets import Frames, Stored, Target, TrackTokens, cell_shares
from packers.training.windows import Window

PROBED = ("state", "contact", "held", "centroids", "centroids_base", "shape_descriptors")
"""Datasets that probes decode from latents, where the packets have them."""

SHOWN_SIDE = 128

MOVING_SHARE = 0.5
"""With `StudySettings.moving` runs train on windows in half of whose rows something moves, as `Window` measures it."""

MOTION = ("motion/robot", "motion/object")

Side = Literal["train", "val"]


def open_packets(plan: StudyPlan, run: Run, side: Side, targets: Sequence[Target]) -> PacketDataset:
    """The training windows or held-out windows of a run, with its frames at the model's size.

    Raises:
        ConfigError, PacketError: as `PacketDataset`.
    """
    settings = plan.settings
    return PacketDataset(
        plan.selection(run),
        window=_window(settings, side),
        targets=(frames_target(settings), *targets),
        choose=side,
        normalise="standard",
        # Once for all runs: making a frame smaller takes longer than all else that a window needs.
        reading=Reading(prepare=True, processes=1),
    )


def frames_target(settings: StudySettings) -> Frames:
    """The frames as the model takes them."""
    return Frames((settings.sizes.side, settings.sizes.side))


def training_targets(condition: Condition, settings: StudySettings, plan: StudyPlan, run: Run) -> tuple[Target, ...]:
    """The condition's targets, with patches of the model's for those that are about patches.

    Raises:
        ConfigError: a patch of the model's covers a fraction of the packets' pixels.
    """
    if not any(isinstance(target, TrackTokens) for target in condition.cut):
        return condition.cut
    frame = PacketDataset(plan.selection(run), window=_window(settings, "train"), choose="train").sizes.frame
    grid = settings.sizes.side // settings.sizes.patch
    if frame[0] != frame[1] or frame[0] % grid:
        raise ConfigError(
            f"D-tokens needs square packets whose side {grid} patches divide, got {frame}; set --side so that they do"
        )
    return tuple(replace(t, patch=frame[0] // grid) if isinstance(t, TrackTokens) else t for t in condition.cut)


def as_inputs(batch: dict[str, Any], device: str) -> dict[str, Tensor]:
    """A batch on the device; `action` (B, n, A) has the rows between two frames side by side, 0 where missing."""
    moved = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor) and name != "pixels"}
    moved["action"] = moved["action"].flatten(2)
    return moved


def whole_episodes(plan: StudyPlan, run: Run, side: Side) -> list[StudyEpisode]:
    """All episodes of one side of a run's split, frame by frame."""
    plain = PacketDataset(plan.selection(run), window=_window(plan.settings, side), choose=side)
    have = set.intersection(*(set(entry.kinds) for entry in _index_of(plain)))
    stored = [Stored(name) for name in (*PROBED, *MOTION) if name in have and name != "state"]
    dataset = open_packets(plan, run, side, stored)
    return [_episode(dataset, clip, plan.settings, have) for clip in range(len(dataset.entries))]


def shown_frames(plan: StudyPlan, run: Run, side: Side) -> list[NDArray[np.uint8]]:
    """The frames of `whole_episodes` for people to look at: (n, h, w, 3), at most `SHOWN_SIDE` px wide."""
    dataset = PacketDataset(plan.selection(run), window=_window(plan.settings, side), choose=side)
    height, width = dataset.sizes.frame
    shrink = max(1.0, width / SHOWN_SIDE)
    size = round(height / shrink), round(width / shrink)
    found = []
    for clip, entry in enumerate(dataset.entries):
        rows = np.arange(0, entry.facts["n_frames"], plan.settings.frameskip or 1)
        pixels = dataset.read(clip, rows.tolist())["pixels"].astype(np.float32)
        channels = [cell_shares(pixels[..., channel], size) for channel in range(3)]
        found.append(np.rint(np.stack(channels, axis=-1)).astype(np.uint8))
    return found


def _index_of(dataset: PacketDataset) -> list[Entry]:
    return index_packets([entry.path for entry in dataset.entries], None)[0]


def _episode(dataset: PacketDataset, clip: int, settings: StudySettings, have: set[str]) -> StudyEpisode:
    skip = settings.frameskip or 1
    length = dataset.entries[clip].facts["n_frames"]
    rows = np.arange(0, length, skip)
    found = dataset.read(clip, rows.tolist())
    action, valid = dataset.actions(clip)
    padded = np.zeros((len(rows) * skip, action.shape[1]), np.float32)
    padded[:length] = action[: len(padded)]
    given = np.zeros(len(rows) * skip, bool)
    given[:length] = valid[: len(given)]
    cues = {name: _numbers(found[name]) for name in PROBED if name in found and name != "state"}
    if "state" in found:
        cues["state"] = np.where(found["state_valid"][:, None], found["state"], np.float32(np.nan))
    return StudyEpisode(
        episode_id=dataset.entries[clip].facts["episode_id"],
        frames=found["frames"],
        actions=padded.reshape(len(rows), -1),
        action_valid=np.asarray(given.reshape(len(rows), skip).all(1), np.bool_),
        motion=_motion(found, have),
        instruction=str(dataset.entries[clip].facts["language_instruction"] or ""),
        cues=cues,
    )


def _motion(found: dict[str, NDArray[Any]], have: set[str]) -> Floats:
    """How much moves from a frame to the next: the packet's own score, else how much the pixels change."""
    scores = [np.nan_to_num(np.asarray(found[name], np.float32)) for name in MOTION if name in have]
    if scores:
        return np.asarray(np.maximum.reduce(scores), np.float32)
    frames = found["frames"].astype(np.float32)
    changed = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    return np.append(changed, changed[-1:] if len(changed) else np.zeros(1)).astype(np.float32)


def _numbers(values: NDArray[Any]) -> Floats:
    return np.asarray(values, np.float32).reshape(len(values), -1)


def _window(settings: StudySettings, side: Side) -> Window:
    # What is held out keeps all its windows: errors are told for each fifth of motion.
    moving = MOVING_SHARE if settings.moving and side == "train" else 0.0
    return Window(history=settings.sizes.history, horizon=1, frameskip=settings.frameskip or 1, moving=moving)


def load_batch(dataset: PacketDataset, count: int) -> dict[str, Tensor]:
    """The first `count` windows, evenly spread, as one batch."""
    at = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int))
    return {k: v for k, v in collate_torch([dataset[int(i)] for i in at]).items() if isinstance(v, torch.Tensor)}
