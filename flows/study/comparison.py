"""The conditions of a study side by side: changes against no head, their intervals, verdicts, and tags of episodes.

The number that decides is the error of the next latent from true ones, divided by the variance of the run's held-out
latents. It was chosen before any run; all else in the table is there to understand it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from flows.study.conditions import BASELINE, NOTHING, SHUFFLED
from flows.study.evaluation import Evaluation

Verdict = Literal["helps", "regularises only", "nothing", "hurts", "cannot tell", "baseline", "control"]
Floats64 = NDArray[np.float64]

LEAST_EFFECT = 0.05
"""Changes within 5 % either way are nothing: half of the smallest effect that the study behind this project reports."""

DRAWS = 4000
"""Of the bootstrap: quantiles at 2.5 % are then known to a tenth of their distance from the middle."""

FIFTHS = 5


@dataclass(frozen=True, slots=True)
class Change:
    """How much the error of a condition is below or above another's: -0.16 is 16 % less.

    Attributes:
        value: mean over seeds and episodes.
        low, high: 95 % interval; infinite where there is one seed or one episode.
        detectable: the least change that would be found in four of five such studies (80 % power).
    """

    value: float
    low: float
    high: float
    detectable: float


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """One condition at one number of training episodes.

    Attributes:
        condition: its name.
        episodes: it was trained on, 0: all.
        seeds: with a result.
        diverged: seeds that are left out because a loss was no longer a number.
        verdict: against the baseline, see `verdict_of`.
        change: of the next latent's error against the baseline; None for the baseline itself.
        beyond: control -> change against that control.
        errors: `one_step`, `rolled_out`, `forced`, `copy`, `constant`: means, the last frame of the horizon for those
            that have one.
        by_horizon: name -> errors 1 to H frames ahead.
        by_fifth: from the stillest to the fastest fifth of the windows: error and copy floor.
        copy_ratio: the error by the copy floor; above 1, copying wins.
        inverse_dynamics: R2 of actions from `predicted` and from `true` next latents, means over seeds.
    """

    condition: str
    episodes: int
    seeds: tuple[int, ...]
    diverged: tuple[int, ...]
    verdict: Verdict
    change: Change | None
    beyond: Mapping[str, Change] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    by_horizon: Mapping[str, list[float]] = field(default_factory=dict)
    by_fifth: tuple[tuple[float, float], ...] = ()
    copy_ratio: float = math.nan
    inverse_dynamics: Mapping[str, float | None] = field(default_factory=dict)


def compare(
    evaluations: Mapping[tuple[str, int], Evaluation], episodes: int, diverged: Mapping[str, Sequence[int]]
) -> list[ConditionResult]:
    """The results of all conditions at one number of training episodes.

    Args:
        evaluations: (condition, seed) -> evaluation; the same held-out windows in all of them.
        episodes: trained on.
        diverged: condition -> seeds that are left out.
    """
    names = list(dict.fromkeys(name for name, _ in evaluations))
    tables = {name: _table(evaluations, name) for name in names}
    results = []
    for name in names:
        change = None if name == BASELINE or BASELINE not in tables else _change(tables[name], tables[BASELINE])
        controls = [c for c in (f"{name}{SHUFFLED}", NOTHING) if c in tables and c != name]
        beyond = {} if name.endswith(SHUFFLED) else {c: _change(tables[name], tables[c]) for c in controls}
        is_control = name == NOTHING or name.endswith(SHUFFLED)
        verdict: Verdict = "baseline" if change is None else "control" if is_control else verdict_of(change, beyond)
        own = [evaluation for (condition, _), evaluation in evaluations.items() if condition == name]
        results.append(
            ConditionResult(
                name,
                episodes,
                tuple(seed for condition, seed in evaluations if condition == name),
                tuple(diverged.get(name, ())),
                verdict,
                change,
                beyond,
                **_measured(own),  # type: ignore[arg-type]
            )
        )
    return results


def where_copying_wins(results: Sequence[ConditionResult]) -> str | None:
    """A sentence where predictors do worse than the last latent repeated, which no verdict says; None where none do."""
    ratios = [each.copy_ratio for each in results if each.copy_ratio > 1]
    if not ratios:
        return None
    spread = " to ".join(sorted({f"{min(ratios):.2g}", f"{max(ratios):.2g}"}, key=float))
    return (
        f"copying the last latent beats {len(ratios)} of {len(results)} predictors, whose error is {spread} times as "
        "large: a cue that helps such a model need not help a good one. Train longer, on more episodes, over a larger "
        "--frameskip, or on --windows moving"
    )


def verdict_of(change: Change, beyond: Mapping[str, Change]) -> Verdict:
    """What can be said of a condition.

    - "helps": its interval is below 0, and so are those against its controls;
    - "regularises only": its interval is below 0, and a control does as well, as far as can be told;
    - "hurts": its interval is above 0;
    - "nothing": the interval is within `LEAST_EFFECT` of 0, whether or not it holds 0;
    - "cannot tell": everything else; more seeds or more held-out episodes would narrow it.
    """
    if max(-change.low, change.high) <= LEAST_EFFECT:
        return "nothing"
    if change.high < 0:
        return "helps" if all(each.high < 0 for each in beyond.values()) else "regularises only"
    return "hurts" if change.low > 0 else "cannot tell"


def episode_tags(
    evaluations: Mapping[tuple[str, int], Evaluation], tie: float = LEAST_EFFECT
) -> dict[int, tuple[str, ...]]:
    """Held-out episode -> its tags, by the mean roll-out errors over its windows and seeds.

    `models-beat-static`: every condition is below the copy floor; `static-dominates`: none is; `tight-tie`: the best
    and the worst condition differ by less than `tie`.
    """
    found: dict[int, list[tuple[float, float]]] = {}
    for name in dict.fromkeys(condition for condition, _ in evaluations):
        own = [evaluation for (condition, _), evaluation in evaluations.items() if condition == name]
        for number in np.unique(own[0].episode).tolist():
            pairs = [
                (np.nanmean(e.rolled_out[e.episode == number]), np.nanmean(e.copy[e.episode == number])) for e in own
            ]
            error, copied = np.mean(pairs, axis=0)
            found.setdefault(number, []).append((float(error), float(copied)))
    return {number: tuple(_tags(pairs, tie)) for number, pairs in found.items()}


def _tags(pairs: Sequence[tuple[float, float]], tie: float) -> list[str]:
    beaten = [error < copied for error, copied in pairs]
    errors = [error for error, _ in pairs]
    said = ["models-beat-static"] if all(beaten) else ["static-dominates"] if not any(beaten) else []
    if len(errors) > 1 and max(errors) - min(errors) < tie * max(min(errors), 1e-9):
        said.append("tight-tie")
    return said


def _table(evaluations: Mapping[tuple[str, int], Evaluation], name: str) -> dict[int, Floats64]:
    """Seed -> (E,) mean error of the next latent in each held-out episode."""
    return {
        seed: np.array([each.one_step[each.episode == number].mean() for number in np.unique(each.episode)])
        for (condition, seed), each in evaluations.items()
        if condition == name
    }


def _change(mine: Mapping[int, Floats64], others: Mapping[int, Floats64]) -> Change:
    """Relative change of the mean error, paired by seed and episode.

    A bootstrap that draws seeds and episodes, both with replacement. With few seeds its quantiles are too narrow (three
    draws of three seeds have two thirds of their variance, and tails of a Gaussian instead of Student's), so they are
    stretched by what both lack, as far as the spread is due to seeds and as far as it is due to episodes.
    """
    seeds = sorted(mine.keys() & others.keys())
    if not seeds:
        return Change(math.nan, -math.inf, math.inf, math.inf)
    own, other = (np.stack([table[seed] for seed in seeds]) for table in (mine, others))
    value = float(own.mean() / other.mean() - 1)
    n_seeds, n_episodes = own.shape
    if n_seeds < 2 or n_episodes < 2:
        return Change(value, -math.inf, math.inf, math.inf)
    # A ratio is compared as its logarithm, whose interval is symmetric.
    middle = math.log(own.mean() / other.mean())
    rng = np.random.default_rng(0)
    at_seed = rng.integers(n_seeds, size=(DRAWS, n_seeds, 1))
    at_episode = rng.integers(n_episodes, size=(DRAWS, 1, n_episodes))
    draws = np.log(own[at_seed, at_episode].mean((1, 2)) / other[at_seed, at_episode].mean((1, 2)))
    factor, spread = _small_sample(own / other.mean() - other * (own.mean() / other.mean() ** 2), draws)
    low, high = (middle + factor * (np.quantile(draws, q) - middle) for q in (0.025, 0.975))
    detectable = math.expm1(spread * (1.96 + 0.84))
    return Change(value, float(math.expm1(low)), float(math.expm1(high)), detectable)


def _small_sample(influence: Floats64, draws: Floats64) -> tuple[float, float]:
    """What quantiles of `draws` are stretched by, and the standard error.

    The share of the variance that is the seeds' (of the episodes') is widened by n / (n - 1) and by Student's quantile
    for n - 1 degrees of freedom, combined as Satterthwaite (1946) does.

    Args:
        influence: (S, E), what each seed and episode adds to the change.
        draws: of the bootstrap, logarithms.
    """
    seeds, episodes = influence.shape
    by_seed = influence.mean(1).var(ddof=1) / seeds
    by_episode = influence.mean(0).var(ddof=1) / episodes
    total = by_seed + by_episode
    if total <= 0:
        return 1.0, float(draws.std())
    freedom = total**2 / (by_seed**2 / (seeds - 1) + by_episode**2 / (episodes - 1))
    plain = by_seed * (seeds - 1) / seeds + by_episode * (episodes - 1) / episodes
    widened = math.sqrt(total / plain)
    quantile = float(stats.t.ppf(0.975, freedom)) / 1.96
    return widened * quantile, float(draws.std()) * widened * quantile


def _measured(evaluations: Sequence[Evaluation]) -> dict[str, object]:
    horizons = {
        name: np.nanmean([np.nanmean(getattr(each, name), axis=0) for each in evaluations], axis=0)
        for name in ("rolled_out", "forced", "copy", "constant")
    }
    one_step = float(np.mean([each.one_step.mean() for each in evaluations]))
    floor = float(horizons["copy"][0])
    decoded = {}
    for name in ("predicted", "true"):
        values = [each.inverse_dynamics[name] for each in evaluations]
        kept = [value for value in values if value is not None]
        decoded[name] = float(np.mean(kept)) if kept else None
    return {
        "errors": {"one_step": one_step, **{name: float(values[-1]) for name, values in horizons.items()}},
        "by_horizon": {name: [float(value) for value in values] for name, values in horizons.items()},
        "by_fifth": _by_fifth(evaluations),
        "copy_ratio": one_step / floor if floor > 0 else math.inf,
        "inverse_dynamics": decoded,
    }


def _by_fifth(evaluations: Sequence[Evaluation]) -> tuple[tuple[float, float], ...]:
    motion = evaluations[0].motion
    # By rank: with quantiles of a score that is 0 in most windows four of the fifths would be empty.
    fifth = np.argsort(np.argsort(motion, kind="stable"), kind="stable") * FIFTHS // max(len(motion), 1)
    found = []
    for part in range(FIFTHS):
        some = fifth == part
        if not some.any():
            found.append((math.nan, math.nan))
            continue
        errors = [(each.one_step[some].mean(), np.nanmean(each.copy[some, 0])) for each in evaluations]
        error, floor = np.mean(errors, axis=0)
        found.append((float(error), float(floor)))
    return tuple(found)
