"""What can be read from latents: linear and small-MLP decoding of actions and of every cue."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.study.figures import panels, said
from flows.study.latents import Encoded, Probe, spread
from flows.study.models import Numbers

Array = NDArray[np.float64]
Reader = Callable[[Array], Array]

MOST_ROWS = 5000
"""Rows that a decoder is fitted on, spread evenly: 26 times the 192 dimensions, so that ridge decides little."""

STRENGTHS = tuple(float(10.0**power) for power in range(-4, 4))
"""Ridge's strengths per row, for inputs of unit variance; the best on left-out training episodes is taken."""

_VALIDATION_EVERY = 4
_HIDDEN, _EPOCHS = 64, 100
_CONSTANT = 1e-6


def decoding(held_out: Encoded, training: Encoded, seed: int = 0) -> Probe:
    """R2 on held-out episodes of linear and small-MLP decoders, fitted on training ones, of `action` and every cue.

    The linear one is ridge regression in closed form, its strength chosen on every fourth training episode; the MLP has
    one layer of 64. R2 is the mean over the target's dimensions that vary among the held-out rows. Numbers: name ->
    `linear`, `mlp` (None with a `reason` where nothing varies or rows are missing), `training_rows`, `held_out_rows`,
    `left_out` (rows with a value that is missing, of both), `constant_dimensions`, `strength`.
    """
    names = sorted(
        {name for seen in (held_out, training) for episode in seen.episodes for name in episode.cues} - {"action"}
    )
    numbers: Numbers = {name: _decode(name, held_out, training, seed) for name in ["action", *names]}
    return Probe(
        "decoding",
        numbers,
        _figure(numbers),
        "What can be read from one latent: R2 on held-out episodes of decoders fitted on training episodes (1 is "
        "perfect, 0 is the held-out mean; below -1 drawn at -1). What the MLP reads and the linear one does not is "
        "encoded, but bent.",
    )


def _decode(name: str, held_out: Encoded, training: Encoded, seed: int) -> Numbers:
    x, y, groups, lost = _rows(name, training)
    x_test, y_test, _, lost_test = _rows(name, held_out)
    numbers: Numbers = {
        "linear": None,
        "mlp": None,
        "training_rows": len(x),
        "held_out_rows": len(x_test),
        "left_out": lost + lost_test,
    }
    if len(x) < 2 or len(x_test) < 2:
        return numbers | {"reason": "fewer than 2 rows with a value"}
    if y.shape[1] != y_test.shape[1]:
        return numbers | {"reason": f"{y.shape[1]} values in training, {y_test.shape[1]} in held-out episodes"}
    varies = _varies(y_test)
    numbers["constant_dimensions"] = int((~varies).sum())
    if not varies.any():
        return numbers | {"reason": "constant in the held-out episodes"}
    kept = spread(len(x), MOST_ROWS)
    x, y, groups = x[kept], y[kept], groups[kept]
    strength = _choose_strength(x, y, groups)
    linear, bent = _ridge(x, y, strength), _mlp(x, y, seed)
    return numbers | {
        "linear": _r2(y_test, linear(x_test), varies),
        "mlp": _r2(y_test, bent(x_test), varies),
        "strength": strength,
    }


def _rows(name: str, seen: Encoded) -> tuple[Array, Array, NDArray[np.int64], int]:
    """Latents, values and episode of each frame that has the values; and how many frames have not."""
    widths = {episode.cues[name].shape[1] for episode in seen.episodes if name in episode.cues}
    latents, values, groups, total = [], [], [], 0
    for index, (episode, points) in enumerate(zip(seen.episodes, seen.latents, strict=True)):
        total += len(points)
        if name == "action":
            # "action" is the model's own input; a cue of that name would be scored in its place.
            found = np.where(episode.action_valid[:, None], episode.actions, np.nan).astype(np.float64)
        elif name in episode.cues and episode.cues[name].shape[1] == max(widths):
            found = episode.cues[name].astype(np.float64)
        else:
            continue
        whole = np.isfinite(found).all(axis=1)
        latents.append(points[whole])
        values.append(found[whole])
        groups.append(np.full(int(whole.sum()), index))
    if not latents:
        return np.zeros((0, 1)), np.zeros((0, 1)), np.zeros(0, np.int64), total
    x = np.concatenate(latents)
    return x, np.concatenate(values), np.concatenate(groups), total - len(x)


def _varies(values: Array) -> NDArray[np.bool_]:
    """(K,): whether more than rounding of float32 varies in each dimension."""
    return np.asarray(values.std(axis=0) > _CONSTANT * np.maximum(np.abs(values).mean(axis=0), 1e-30))


def _choose_strength(x: Array, y: Array, groups: NDArray[np.int64]) -> float:
    """The strength with the least error on every fourth episode; 0.01 where one episode is all that there is."""
    rank = np.searchsorted(np.unique(groups), groups)
    kept = rank % _VALIDATION_EVERY != 0
    if kept.all() or not kept.any():
        return 0.01
    scale = np.maximum(y.std(axis=0), 1e-30)

    def error(strength: float) -> float:
        found = _ridge(x[kept], y[kept], strength)(x[~kept])
        return float((((found - y[~kept]) / scale) ** 2).mean())

    return min(STRENGTHS, key=error)


def _scaled(values: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each dimension, 1 for one that is constant."""
    return values.mean(axis=0), np.where(_varies(values), values.std(axis=0), 1.0)


def _ridge(x: Array, y: Array, strength: float) -> Reader:
    (x_mean, x_scale), (y_mean, y_scale) = _scaled(x), _scaled(y)
    inputs, outputs = (x - x_mean) / x_scale, (y - y_mean) / y_scale
    gram = inputs.T @ inputs + strength * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, inputs.T @ outputs)
    return lambda more: (more - x_mean) / x_scale @ weights * y_scale + y_mean


def _mlp(x: Array, y: Array, seed: int) -> Reader:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    (x_mean, x_scale), (y_mean, y_scale) = _scaled(x), _scaled(y)
    network = MLPRegressor(
        hidden_layer_sizes=(_HIDDEN,), alpha=1e-3, learning_rate_init=3e-3, max_iter=_EPOCHS, random_state=seed
    )
    with warnings.catch_warnings():
        # The number of epochs is the limit on purpose, for equal effort on every cue.
        warnings.simplefilter("ignore", ConvergenceWarning)
        targets = (y - y_mean) / y_scale
        network.fit((x - x_mean) / x_scale, targets if targets.shape[1] > 1 else targets[:, 0])
    return lambda more: network.predict((more - x_mean) / x_scale).reshape(len(more), -1) * y_scale + y_mean


def _r2(truth: Array, found: Array, varies: NDArray[np.bool_]) -> float:
    residual = ((truth - found) ** 2).sum(axis=0)[varies]
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)[varies]
    return float((1 - residual / total).mean())


def _figure(numbers: Numbers) -> Figure:
    scored = [name for name, found in numbers.items() if found["linear"] is not None]
    if not scored:
        return said("decoding: no cue has rows that vary")
    figure, (axes,) = panels(1, 1, width=6.4, height=1.0 + 0.45 * len(scored))
    places = np.arange(len(scored))[::-1]
    for offset, kind, colour in ((0.2, "linear", "#0072b2"), (-0.2, "mlp", "#e69f00")):
        values = [max(-1.0, numbers[name][kind]) for name in scored]
        axes.barh(places + offset, values, height=0.38, label=kind, color=colour)
    axes.set_yticks(places, [name.replace("$", r"\$") for name in scored])
    axes.set_xlim(right=1.02)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("R2 on held-out episodes")
    axes.grid(alpha=0.25, axis="x")
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure
