"""What a trained world model gets right on held-out episodes, per window, beside what costs nothing.

Errors are squared distances in the model's own latent space, so they are divided by the variance of the held-out
latents: 1 is what the mean latent would give, whatever the scale. The copy floor is the error of "nothing changes".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import OutputError
from flows.study.models import Floats, LatentModel, StudyEpisode, roll_out
from flows.study.world_model import LatentDynamics
from packers.atomic import written_whole

EVALUATION_FILE = "evaluation.npz"

ENCODED_AT_ONCE = 256
"""Frames that are encoded together."""

RIDGE = 1.0
"""Of the decoder of actions, on standardised latents; a weak prior, as there are more windows than latents."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Errors of one run on the held-out episodes; W windows, H frames ahead.

    Attributes:
        episode: (W,) int64, which episode.
        start: (W,) int64, the last frame that the model saw.
        motion: (W,) float32, how much moves from there over the horizon, the mean per frame; the same for all runs.
        one_step: (W,) float32, error of the next frame from true latents (teacher-forced).
        rolled_out: (W, H) float32, errors of the model's own roll-out; NaN beyond the episode's end.
        forced: (W, H) float32, errors 1 to H frames ahead where every earlier latent is the true one.
        copy: (W, H) float32, errors of the latent at `start`.
        constant: (W, H) float32, errors of the mean held-out latent.
        variance: of the held-out latents, which all errors were divided by.
        inverse_dynamics: R2 of actions decoded from a true latent and the `predicted` or the `true` next one.
    """

    episode: NDArray[np.int64]
    start: NDArray[np.int64]
    motion: Floats
    one_step: Floats
    rolled_out: Floats
    forced: Floats
    copy: Floats
    constant: Floats
    variance: float
    inverse_dynamics: dict[str, float | None]


class TorchLatents:
    """A torch model as `LatentModel`: arrays in and out, latents of all patches side by side."""

    def __init__(self, model: LatentDynamics, device: str = "cpu") -> None:
        self.model, self.device = model.eval(), device
        self.history = model.sizes.history

    @torch.inference_mode()
    def encode(self, frames: NDArray[np.uint8]) -> Floats:
        """Latents (n, K * D)."""
        parts = [
            self.model.encode(torch.from_numpy(frames[at : at + ENCODED_AT_ONCE])[None].to(self.device))[0].flatten(1)
            for at in range(0, len(frames), ENCODED_AT_ONCE)
        ]
        return np.asarray(torch.cat(parts).float().cpu())

    @torch.inference_mode()
    def predict(self, latents: Floats, actions: Floats) -> Floats:
        """(B, T, K * D) after (B, T, K * D)."""
        given = torch.from_numpy(latents).to(self.device)
        tokens = given.reshape(*given.shape[:2], -1, self.model.sizes.latent)
        following = self.model.predict(tokens, torch.from_numpy(actions).to(self.device))
        return np.asarray(following.flatten(2).float().cpu())


def evaluate(
    model: LatentModel, held_out: Sequence[StudyEpisode], training: Sequence[StudyEpisode], horizon: int
) -> Evaluation:
    """Errors of all windows of the held-out episodes.

    Args:
        model: trained.
        held_out: episodes that it was not trained on.
        training: episodes that it was, for the decoder of actions.
        horizon: frames of a roll-out.
    """
    latents = [model.encode(episode.frames) for episode in held_out]
    everything = np.concatenate(latents).astype(np.float64)
    mean = everything.mean(0).astype(np.float32)
    variance = float(max(((everything - mean) ** 2).mean(), 1e-12))
    rows = [
        _windows(model, each, z, mean, horizon, at) for at, (each, z) in enumerate(zip(held_out, latents, strict=True))
    ]
    rows = [each for each in rows if len(each["start"])]
    whole = {name: np.concatenate([each[name] for each in rows]) for name in rows[0]}
    scaled: dict[str, Any] = {
        name: values / np.float32(variance) if name not in ("episode", "start", "motion") else values
        for name, values in whole.items()
    }
    decoded = _inverse_dynamics(model, held_out, latents, training)
    return Evaluation(**scaled, variance=variance, inverse_dynamics=decoded)


def _windows(
    model: LatentModel, episode: StudyEpisode, latents: Floats, mean: Floats, horizon: int, number: int
) -> dict[str, NDArray[Any]]:
    history, count = model.history, len(latents)
    starts = np.arange(history - 1, count - 1)
    shape = (len(starts), horizon)
    found = {name: np.full(shape, np.nan, np.float32) for name in ("rolled_out", "forced", "copy", "constant")}
    # From each start the next frame, with the true latents before it.
    context = starts[:, None] + np.arange(1 - history, 1)
    one = np.zeros(len(starts), np.float32)
    if len(starts):
        following = model.predict(latents[context], episode.actions[context])[:, -1]
        one = ((following - latents[starts + 1]) ** 2).mean(1)
    for length in range(1, horizon + 1):
        there = starts[starts + length < count]
        if len(there):
            ahead = latents[there + length]
            found["copy"][: len(there), length - 1] = ((latents[there] - ahead) ** 2).mean(1)
            found["constant"][: len(there), length - 1] = ((mean - ahead) ** 2).mean(1)
            found["forced"][: len(there), length - 1] = one[length - 1 : length - 1 + len(there)]
    # Windows near the end have fewer frames to come; those with as many are rolled out together.
    ahead = np.minimum(horizon, count - 1 - starts)
    for length in np.unique(ahead):
        some = np.flatnonzero(ahead == length)
        rows = starts[some][:, None] + np.arange(1 - history, 1)
        acts = starts[some][:, None] + np.arange(1 - history, length)
        rolled = roll_out(model, latents[rows], episode.actions[acts])
        true = latents[starts[some][:, None] + np.arange(1, length + 1)]
        found["rolled_out"][some, :length] = ((rolled - true) ** 2).mean(2)
    padded = np.append(episode.motion, np.full(horizon, np.nan, np.float32))
    spans = padded[starts[:, None] + np.arange(horizon)]
    return {
        "episode": np.full(len(starts), number, np.int64),
        "start": starts.astype(np.int64),
        "motion": np.nanmean(spans, axis=1).astype(np.float32) if len(starts) else np.zeros(0, np.float32),
        "one_step": one,
        **found,
    }


def _inverse_dynamics(
    model: LatentModel, held_out: Sequence[StudyEpisode], latents: Sequence[Floats], training: Sequence[StudyEpisode]
) -> dict[str, float | None]:
    """How well the action is told from a latent and the next one, true or predicted: ridge regression."""
    encoded = [model.encode(episode.frames) for episode in training]
    pairs = [(e, z, z[1:]) for e, z in zip(training, encoded, strict=True)]
    inputs, actions = _transitions(pairs)
    if not len(inputs):
        return {"predicted": None, "true": None}
    middle, scale = inputs.mean(0), inputs.std(0) + 1e-6
    offset = actions.mean(0)
    left = (inputs - middle) / scale
    weights = np.linalg.solve(left.T @ left + RIDGE * np.eye(left.shape[1]), left.T @ (actions - offset))
    predicted = []
    for episode, z in zip(held_out, latents, strict=True):
        # Each next latent is predicted from all the frames that the model may look back on.
        rows = np.maximum(np.arange(len(z) - 1)[:, None] + np.arange(1 - model.history, 1), 0)
        predicted.append(model.predict(z[rows], episode.actions[rows])[:, -1] if len(rows) else z[:0])
    found: dict[str, float | None] = {}
    for name, nexts in (("predicted", predicted), ("true", [z[1:] for z in latents])):
        given, actions_taken = _transitions(list(zip(held_out, latents, nexts, strict=True)))
        decoded = (given - middle) / scale @ weights + offset
        spread = ((actions_taken - actions_taken.mean(0)) ** 2).sum() if len(actions_taken) else 0.0
        found[name] = round(float(1 - ((actions_taken - decoded) ** 2).sum() / spread), 4) if spread > 0 else None
    return found


def _transitions(
    pairs: Sequence[tuple[StudyEpisode, Floats, Floats]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    inputs, actions = [], []
    for episode, latents, nexts in pairs:
        valid = episode.action_valid[: len(nexts)]
        both = np.concatenate([latents[:-1], nexts], axis=1)[valid]
        inputs.append(both.astype(np.float64))
        actions.append(episode.actions[: len(nexts)][valid].astype(np.float64))
    return np.concatenate(inputs), np.concatenate(actions)


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Keeps an evaluation in a run's folder, whole or not at all."""
    arrays = asdict(evaluation)
    numbers = json.dumps({"variance": arrays.pop("variance"), "inverse_dynamics": arrays.pop("inverse_dynamics")})
    with written_whole(folder / EVALUATION_FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, numbers=np.frombuffer(numbers.encode(), np.uint8), **arrays)


def read_evaluation(folder: Path) -> Evaluation:
    """The evaluation of a run.

    Raises:
        OutputError: it is missing or damaged.
    """
    path = folder / EVALUATION_FILE
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        numbers = json.loads(arrays.pop("numbers").tobytes())
        return Evaluation(**arrays, **numbers)
    except Exception as error:  # zip, zlib, NumPy and JSON have a dozen kinds for a damaged file
        raise OutputError(f"{path} cannot be read: {error}; remove it, and run `cuepack study` again") from error
