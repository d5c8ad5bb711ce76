"""Constructed worlds, whose state is painted into the frames, and models of which every number is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flows.study.models import StudyEpisode

PUSH = 0.2
SIZE = 20


def episode(name: str, n: int, seed: int, *, history_of_nan: int = 0) -> StudyEpisode:
    """A point in the plane, moved by its actions: s' = s + PUSH * a. The state is painted into the corner pixels."""
    rng = np.random.default_rng(seed)
    actions = rng.standard_normal((n, 2)).astype(np.float32)
    state = np.zeros((n, 2), np.float32)
    for row in range(1, n):
        state[row] = state[row - 1] + PUSH * actions[row - 1]
    valid = np.ones(n, bool)
    valid[:history_of_nan] = False
    cues = {
        "state": state,
        "bent": np.abs(state[:, :1]),
        "constant": np.full((n, 1), 7, np.float32),
        "noise": rng.standard_normal((n, 1)).astype(np.float32),
    }
    if n:
        cues["state"] = np.where(np.arange(n)[:, None] == 0, np.nan, state).astype(np.float32)
    actions[~valid] = 0
    motion = np.abs(actions).sum(axis=1)
    return StudyEpisode(name, painted(state), actions, valid, motion, cues)


def painted(state):
    """Frames whose corner (0, 0) holds the state: 16 bits of each coordinate in [-8, 8), the rest of it grey."""
    frames = np.full((len(state), SIZE, SIZE, 3), 128, np.uint8)
    numbers = np.round((state + 8) * 4096).astype(np.uint16)
    frames[:, 0, 0, 0], frames[:, 0, 0, 1] = numbers[:, 0] >> 8, numbers[:, 0] & 255
    frames[:, 0, 1, 0], frames[:, 0, 1, 1] = numbers[:, 1] >> 8, numbers[:, 1] & 255
    return frames


def world(count: int = 6, n: int = 30, first: int = 0):
    """`count` episodes of `n` frames, from seeds `first` on."""
    return [episode(f"ep_{first + index}", n, first + index) for index in range(count)]


class Perfect:
    """Latents are the state itself and the predictor knows the dynamics; the mean colour away from the corner, on which
    the artefact slides, is a third dimension that it takes to be grey."""

    history = 3

    def encode(self, frames):
        corner = frames[:, 0, :2].astype(np.float32)
        state = (corner[..., 0] * 256 + corner[..., 1]) / 4096 - 8
        grey = frames[:, 1:].astype(np.float32).mean(axis=(1, 2, 3)) - 128
        return np.column_stack([state, grey]).astype(np.float32)

    def predict(self, latents, actions):
        ahead = latents.copy()
        ahead[..., :2] += PUSH * actions
        return ahead


class Constant:
    """Sees the same everywhere."""

    history = 3

    def encode(self, frames):
        return np.full((len(frames), 8), 0.3, np.float32)

    def predict(self, latents, actions):
        return latents


class Random:
    """Latents are noise, equal for equal frames and unrelated between others; predicts 0, the best that can be done."""

    history = 3
    width = 16

    def encode(self, frames):
        seeds = [int.from_bytes(frame[0, :2, :2].tobytes(), "little") for frame in frames]
        return np.stack([np.random.default_rng(seed).standard_normal(self.width) for seed in seeds]).astype(np.float32)

    def predict(self, latents, actions):
        return np.zeros_like(latents)


def without_actions(seen: StudyEpisode) -> StudyEpisode:
    """All actions are missing."""
    return replace(seen, action_valid=np.zeros_like(seen.action_valid), actions=np.zeros_like(seen.actions))
