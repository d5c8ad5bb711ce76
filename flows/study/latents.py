"""Episodes as a model encodes them, windows to predict in, and the scale of errors: what all probes start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.study.figures import said
from flows.study.models import Floats, LatentModel, Numbers, StudyEpisode, roll_out

HORIZON = 8
"""Frames that probes predict on from their own predictions, at most; fewer where no episode is that long."""

MOST_WINDOWS = 2000
"""Windows of one probe at most, spread evenly: the means stand long before, and a CPU is done in seconds."""

STILL = 1e-10
"""Latents whose variance is below this share of their mean square do not vary: what remains is rounding of float32
(relative step 1.2e-7, its square 1.4e-14, over some thousands of additions)."""

_BATCH = 256


@dataclass(frozen=True)
class Probe:
    """One look at what a model learned.

    Attributes:
        name: of the probe, fit for a file name.
        numbers: what was measured, JSON values; `reason` says why where nothing was.
        figure: of the same.
        caption: what the figure shows and how it is read, in sentences.
    """

    name: str
    numbers: Numbers
    figure: Figure
    caption: str


@dataclass(frozen=True, eq=False)
class Encoded:
    """Episodes and their latents under one model.

    Attributes:
        model: the model.
        episodes: E episodes; those without a frame are left out before.
        latents: for each episode (n, D) float64.
    """

    model: LatentModel
    episodes: tuple[StudyEpisode, ...]
    latents: tuple[NDArray[np.float64], ...]

    @property
    def points(self) -> NDArray[np.float64]:
        """(N, D), the latents of all frames, episode after episode."""
        return np.concatenate(self.latents)

    @property
    def groups(self) -> NDArray[np.int64]:
        """(N,), the index of each frame's episode."""
        return np.repeat(np.arange(len(self.latents)), [len(one) for one in self.latents])

    @property
    def time(self) -> NDArray[np.float64]:
        """(N,), 0 at the first frame of an episode, 1 at its last."""
        return np.concatenate([np.linspace(0, 1, len(one)) if len(one) > 1 else np.zeros(1) for one in self.latents])

    @property
    def variance(self) -> float:
        """Variance of the latents around their mean, summed over dimensions; 0 where only rounding varies."""
        points = self.points
        variance = float(points.var(axis=0).sum())
        return variance if variance > STILL * float((points**2).sum(axis=1).mean()) else 0.0


def encode_episodes(model: LatentModel, episodes: Sequence[StudyEpisode]) -> Encoded:
    """Encodes every frame once, so that all probes of a model share the work.

    Raises:
        ValueError: no episode has a frame, or a latent is not finite (a model that diverged).
    """
    filled = tuple(episode for episode in episodes if len(episode.frames))
    if not filled:
        raise ValueError("probes need at least one episode with a frame, got none; hold out more episodes")
    latents = tuple(
        np.concatenate(
            [model.encode(episode.frames[at : at + _BATCH]) for at in range(0, len(episode.frames), _BATCH)]
        ).astype(np.float64)
        for episode in filled
    )
    broken = sum(not np.isfinite(one).all() for one in latents)
    if broken:
        raise ValueError(f"latents of {broken} of {len(filled)} episodes are not finite: the model diverged")
    return Encoded(model, filled, latents)


@dataclass(frozen=True, eq=False)
class Windows:
    """B windows of T given and H predicted frames.

    Attributes:
        latents: (B, T + H, D), true.
        actions: (B, T + H - 1, A).
        groups: (B,), the index of each window's episode.
        given: T.
        without_action: windows left out because an action in them is missing.
    """

    latents: Floats
    actions: Floats
    groups: NDArray[np.int64]
    given: int
    without_action: int

    @property
    def horizon(self) -> int:
        """H."""
        return int(self.latents.shape[1]) - self.given

    @property
    def truth(self) -> Floats:
        """(B, H, D), the latents to be predicted."""
        return self.latents[:, self.given :]

    @property
    def copied(self) -> Floats:
        """(B, H, D), the last given latent for every horizon: a world that stands still."""
        return np.repeat(self.latents[:, self.given - 1 : self.given], self.horizon, axis=1)


def windows_of(seen: Encoded, horizon: int = HORIZON) -> Windows | None:
    """All windows with as many given frames as the model looks back on, at most MOST_WINDOWS, spread evenly.

    The horizon is the longest one up to `horizon` for which a window exists. None where every episode is too short or
    lacks actions.
    """
    given = max(1, seen.model.history)
    for length in range(given + horizon, given, -1):
        starts = [
            (index, start)
            for index, episode in enumerate(seen.episodes)
            for start in range(len(episode.frames) - length + 1)
        ]
        whole = [(i, s) for i, s in starts if seen.episodes[i].action_valid[s : s + length - 1].all()]
        if whole:
            return _cut(seen, whole, given, length, len(starts) - len(whole))
    return None


def _cut(seen: Encoded, starts: list[tuple[int, int]], given: int, length: int, without_action: int) -> Windows:
    chosen = [starts[at] for at in spread(len(starts), MOST_WINDOWS)]
    return Windows(
        latents=np.stack([seen.latents[i][s : s + length] for i, s in chosen]).astype(np.float32),
        actions=np.stack([seen.episodes[i].actions[s : s + length - 1] for i, s in chosen]).astype(np.float32),
        groups=np.array([i for i, _ in chosen]),
        given=given,
        without_action=without_action,
    )


def predicted(model: LatentModel, windows: Windows, actions: Floats) -> Floats:
    """(B, H, D): rolled out from the given frames of `windows` under `actions` (B, T + H - 1, A)."""
    return np.concatenate(
        [
            roll_out(model, windows.latents[at : at + _BATCH, : windows.given], actions[at : at + _BATCH])
            for at in range(0, len(actions), _BATCH)
        ]
    )


def errors_over_horizon(found: Floats, truth: Floats, variance: float) -> list[float]:
    """Mean squared distance at each horizon (H,) in units of the latents' variance: 1 is what a constant reaches."""
    distances = ((found.astype(np.float64) - truth) ** 2).sum(axis=-1)
    return [float(value) for value in distances.mean(axis=0) / variance]


def spread(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of 0 ... count - 1, evenly spread and in order."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(np.int64))


def not_measured(name: str, reason: str, **numbers: object) -> Probe:
    """A probe that says why it measured nothing."""
    return Probe(name, {"reason": reason, **numbers}, said(f"{name}: {reason}"), f"Not measured: {reason}.")
