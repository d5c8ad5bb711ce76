"""What evaluation and probes ask of a world model, and the held-out episodes that they show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class LatentModel(Protocol):
    """A trained world model, as arrays.

    Attributes:
        history: frames that a prediction may look back on.
    """

    history: int

    def encode(self, frames: NDArray[np.uint8]) -> Floats:
        """Latents (n, D) of RGB frames (n, h, w, 3)."""

    def predict(self, latents: Floats, actions: Floats) -> Floats:
        """The next latent after each of (B, T, D), T at most `history`, under actions (B, T, A); (B, T, D)."""


@dataclass(frozen=True, slots=True)
class StudyEpisode:
    """A whole episode as a model sees it: n frames, `frameskip` rows of the packet apart.

    Attributes:
        episode_id: as in the manifest.
        frames: (n, h, w, 3) uint8 RGB at the model's size.
        actions: (n, A) float32, standardised; the rows between one frame and the next side by side, 0 where missing.
        action_valid: (n,) bool, False where an action up to the next frame is missing.
        motion: (n,) float32, how much moves between a frame and the next, in one unit for all episodes of a study.
        cues: name -> (n, K) float32 numbers, NaN where missing: what probes decode (state, contact, centroid, ...).
        instruction: the episode's, "" where it has none.
    """

    episode_id: str
    frames: NDArray[np.uint8]
    actions: Floats
    action_valid: NDArray[np.bool_]
    motion: Floats
    cues: Mapping[str, Floats] = field(default_factory=dict)
    instruction: str = ""


def roll_out(model: LatentModel, latents: Floats, actions: Floats) -> Floats:
    """Predicts on from its own predictions.

    Args:
        model: predicts the next latent.
        latents: (B, T, D) true latents to start from, T at least 1.
        actions: (B, T + H - 1, A), the first T of the given latents, then of the predicted ones.

    Returns:
        (B, H, D): the latents of the H frames after the given ones.
    """
    sequence = [latents[:, at] for at in range(latents.shape[1])]
    given = len(sequence)
    for end in range(given, actions.shape[1] + 1):
        first = max(0, end - model.history)
        seen = np.stack(sequence[first:end], axis=1)
        sequence.append(model.predict(seen, actions[:, first:end])[:, -1])
    return np.stack(sequence[given:], axis=1)


Numbers = dict[str, Any]
"""What a probe measures: JSON values by name."""
