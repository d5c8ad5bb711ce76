"""Probes of the predictor: error over horizon, surprise at an artefact, counterfactual actions."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata

from flows.study.figures import lines, panels, picture
from flows.study.latents import (
    HORIZON,
    Encoded,
    Probe,
    errors_over_horizon,
    not_measured,
    predicted,
    spread,
    windows_of,
)
from flows.study.models import Floats, LatentModel, Numbers, StudyEpisode

ARTEFACT_SIDE = 0.2
"""Side of the sliding square, a share of the frame's shorter side: as large as a gripper in the study's frames."""

_MOST_SURPRISED = 20
_MOST_DRAWN = 8
_NO_WINDOW = "no episode is long enough for a window, or all windows lack an action"
_STILL = "the latents do not vary, so that an error has no scale"


def error_over_horizon(seen: Encoded, horizon: int = HORIZON) -> Probe:
    """Roll-out error over the horizon, in units of the held-out latents' variance, beside two floors.

    The copy floor repeats the last given latent; the constant floor is the mean of all held-out latents.
    Numbers: `model`, `copy`, `constant`, each one error per horizon; `ratio_to_copy` (below 1: better than copying,
    None where nothing moves); `windows`, `windows_without_action`.
    """
    name = "error_over_horizon"
    windows = windows_of(seen, horizon)
    if windows is None:
        return not_measured(name, _NO_WINDOW)
    numbers: Numbers = {
        "windows": len(windows.latents),
        "windows_without_action": windows.without_action,
        "horizon": windows.horizon,
    }
    if seen.variance == 0:
        return not_measured(name, _STILL, **numbers)
    constant = np.broadcast_to(seen.points.mean(axis=0), windows.truth.shape)
    curves = {
        which: errors_over_horizon(found, windows.truth, seen.variance)
        for which, found in {
            "model": predicted(seen.model, windows, windows.actions),
            "copy": windows.copied,
            "constant": constant,
        }.items()
    }
    numbers |= {**curves, "ratio_to_copy": _ratios(curves["model"], curves["copy"])}
    figure, (axes,) = panels(1, 1, width=5.6)
    lines(axes, curves, x="frames predicted ahead", y="error / variance")
    return Probe(
        name,
        numbers,
        figure,
        "Squared error of predictions rolled out on their own, divided by the variance of the held-out latents. "
        "Copying the last given frame is the floor to beat; a constant reaches 1 on average.",
    )


def counterfactual(seen: Encoded, horizon: int = HORIZON) -> Probe:
    """Roll-outs under real actions, those of another window, and none (zeros: the mean of standardised actions).

    Numbers: `real`, `shuffled`, `zero`, one error per horizon; `gap` and `ratio` of `shuffled` and `zero` to `real` at
    each horizon (a ratio of 1: actions are not used; None where the real error is 0); `shuffled_from`, where the other
    actions came from.
    """
    name = "counterfactual"
    windows = windows_of(seen, horizon)
    if windows is None:
        return not_measured(name, _NO_WINDOW)
    numbers: Numbers = {"windows": len(windows.latents), "windows_without_action": windows.without_action}
    if seen.variance == 0:
        return not_measured(name, _STILL, **numbers)
    actions = {"real": windows.actions, "zero": np.zeros_like(windows.actions)}
    if len(windows.latents) > 1:
        # Windows stand in the order of their episodes: half of them further is another episode, unless one has most.
        other = np.roll(np.arange(len(windows.latents)), len(windows.latents) // 2)
        actions["shuffled"] = windows.actions[other]
        elsewhere = float((windows.groups != windows.groups[other]).mean())
        numbers["shuffled_from"] = f"another window, {elsewhere:.0%} of them of another episode"
    else:
        numbers |= {"shuffled": None, "shuffled_from": "nowhere: a single window"}
    curves = {
        which: errors_over_horizon(predicted(seen.model, windows, given), windows.truth, seen.variance)
        for which, given in sorted(actions.items())
    }
    others = [which for which in curves if which != "real"]
    gaps = {which: [a - b for a, b in zip(curves[which], curves["real"], strict=True)] for which in others}
    numbers |= {
        **curves,
        "gap": gaps,
        "ratio": {which: _ratios(curves[which], curves["real"]) for which in others},
    }
    figure, (left, right) = panels(1, 2)
    lines(left, curves, x="frames predicted ahead", y="error / variance")
    lines(right, gaps, x="frames predicted ahead", y="error more than under real actions")
    right.axhline(0, color="grey", linewidth=0.8)
    return Probe(
        name,
        numbers,
        figure,
        "Roll-outs under the real actions, those of another window, and zeros. Where the curves coincide the predictor "
        "does not use its actions; the gap is what actions are worth.",
    )


def surprise(seen: Encoded, seed: int = 0) -> Probe:
    """One-step prediction error while a square of random texture slides through an episode.

    Three kinds: `clean`; `perturbed` (the square in the frame to be predicted, not in those that are given);
    `perturbed_context` (the square in the given frames, not in the one to be predicted). At most 20 episodes, spread
    evenly. Numbers: mean error of each kind (squared, divided by the latents' variance), `ratio` to clean (None where
    clean is 0), `auc`: the share of (clean, perturbed) pairs of frames in which the perturbed one surprises more.
    """
    name = "surprise"
    if seen.variance == 0:
        return not_measured(name, _STILL)
    rng = np.random.default_rng(seed)
    # Only steps whose actions are all known: a made-up action surprises too.
    chosen = [index for index, episode in enumerate(seen.episodes) if _steps(episode, seen.model.history).size]
    if not chosen:
        return not_measured(name, _NO_WINDOW)
    kept = [chosen[at] for at in spread(len(chosen), _MOST_SURPRISED)]
    shown: tuple[NDArray[np.uint8], dict[str, Floats], NDArray[np.int64]] | None = None
    errors: dict[str, list[Floats]] = {"clean": [], "perturbed": [], "perturbed_context": []}
    for index in kept:
        episode = seen.episodes[index]
        frames = slide_artefact(episode.frames, rng)
        found = _surprises(seen.model, episode, seen.latents[index], frames)
        for kind, values in found.items():
            errors[kind].append(values / seen.variance)
        shown = shown or (frames, {k: v / seen.variance for k, v in found.items()}, _steps(episode, seen.model.history))
    joined = {kind: np.concatenate(values) for kind, values in errors.items()}
    means = {kind: float(values.mean()) for kind, values in joined.items()}
    numbers: Numbers = {
        "episodes": len(kept),
        "steps": len(joined["clean"]),
        **means,
        "ratio": {kind: _ratios([means[kind]], [means["clean"]])[0] for kind in means if kind != "clean"},
        "auc": {kind: auc(joined["clean"], joined[kind]) for kind in means if kind != "clean"},
    }
    assert shown is not None
    return Probe(
        name,
        numbers,
        _surprise_figure(*shown),
        "A square of random texture slides through the frames. Error of predicting one frame ahead: clean; with the "
        "square in the predicted frame only; with the square in the given frames only. One episode is shown, the "
        "numbers are over all of them.",
    )


def slide_artefact(frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A copy of `frames` (n, h, w, 3) in which a square of noise moves from the left edge to the right one."""
    n, height, width = frames.shape[:3]
    side = max(1, round(ARTEFACT_SIDE * min(height, width)))
    texture = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    top = (height - side) // 2
    painted = frames.copy()
    for row in range(n):
        left = round((width - side) * row / max(1, n - 1))
        painted[row, top : top + side, left : left + side] = texture
    return painted


def auc(lower: Floats, higher: Floats) -> float:
    """Share of pairs in which the value of `higher` is the larger one, ties half (Mann and Whitney 1947)."""
    ranks = rankdata(np.concatenate([lower, higher]))
    above = ranks[len(lower) :].sum() - len(higher) * (len(higher) + 1) / 2
    return float(above / (len(lower) * len(higher)))


def _steps(episode: StudyEpisode, history: int) -> NDArray[np.int64]:
    """Rows that are predicted from the `history` before them (fewer where the episode is shorter)."""
    given = min(history, len(episode.frames) - 1)
    rows = np.arange(max(1, given), len(episode.frames))
    return np.array([row for row in rows if episode.action_valid[row - given : row].all()], np.int64)


def _surprises(
    model: LatentModel, episode: StudyEpisode, clean: NDArray[np.float64], frames: NDArray[np.uint8]
) -> dict[str, Floats]:
    """Squared error of each step of `_steps`, by kind."""
    steps = _steps(episode, model.history)
    given = min(model.history, len(episode.frames) - 1)
    rows = steps[:, None] - np.arange(given, 0, -1)  # (steps, given)
    seen, marred = clean.astype(np.float32), model.encode(frames)
    actions = episode.actions[rows]
    ahead = model.predict(seen[rows], actions)[:, -1]
    misled = model.predict(marred[rows], actions)[:, -1]
    pairs = {"clean": (ahead, seen), "perturbed": (ahead, marred), "perturbed_context": (misled, seen)}
    return {kind: ((found - truth[steps]) ** 2).sum(axis=-1) for kind, (found, truth) in pairs.items()}


def _surprise_figure(frames: NDArray[np.uint8], errors: dict[str, Floats], steps: NDArray[np.int64]) -> Figure:
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    strip, below = figure.subfigures(2, 1, height_ratios=(1, 3), squeeze=False)[:, 0]
    rows = spread(len(frames), _MOST_DRAWN)
    for axes, row in zip(np.ravel(strip.subplots(1, len(rows), squeeze=False)), rows, strict=True):
        picture(axes, frames[row], f"frame {row}")
    axes = below.subplots(1, 1)
    whole = {kind: np.full(len(frames), np.nan) for kind in errors}
    for kind, values in errors.items():
        whole[kind][steps] = values
    named = {kind.replace("_", " "): [float(value) for value in values] for kind, values in whole.items()}
    lines(axes, named, start=0, x="frame", y="error / variance")
    axes.set_ylim(bottom=0)
    return figure


def _ratios(above: list[float], below: list[float]) -> list[float | None]:
    return [a / b if b > 0 else None for a, b in zip(above, below, strict=True)]
