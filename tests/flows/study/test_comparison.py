"""Intervals, verdicts and tags on errors whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flows.study.comparison import Change, compare, episode_tags, verdict_of, where_copying_wins
from flows.study.evaluation import Evaluation


def evaluation(errors, *, copied=1.0, windows=4, horizon=3):
    """A run with the mean error `errors[e]` in episode e, in each of its windows."""
    episode = np.repeat(np.arange(len(errors)), windows)
    one = np.repeat(np.asarray(errors, np.float32), windows)
    ahead = np.repeat(one[:, None], horizon, 1)
    return Evaluation(
        episode=episode,
        start=np.tile(np.arange(windows), len(errors)),
        motion=np.linspace(0, 1, len(one), dtype=np.float32),
        one_step=one,
        rolled_out=ahead,
        forced=ahead,
        copy=np.full_like(ahead, copied),
        constant=np.ones_like(ahead),
        variance=1.0,
        inverse_dynamics={"predicted": 0.5, "true": None},
    )


def study(rng, seeds, episodes, effect, *, seed_noise=0.04, episode_noise=0.1, noise=0.03):
    """Evaluations of A and B: B's errors are `1 + effect` times A's, but for what seeds and episodes do to each."""
    hard = rng.lognormal(0, 0.3, episodes)
    bent = rng.normal(0, episode_noise, episodes)
    found = {}
    for seed in range(seeds):
        found["A", seed] = evaluation(hard * np.exp(rng.normal(0, noise, episodes)))
        own = rng.normal(0, seed_noise) + bent + rng.normal(0, noise, episodes)
        found["B", seed] = evaluation(hard * (1 + effect) * np.exp(own))
    return found


def change_of(found):
    return next(each.change for each in compare(found, 0, {}) if each.condition == "B")


SWEEP = [(2, 6), (3, 6), (3, 30), (5, 12), (10, 20)]
NOISES = [(0.05, 0.0), (0.0, 0.1), (0.05, 0.1)]


@pytest.mark.parametrize(
    ("seeds", "episodes", "seed_noise", "episode_noise"),
    [
        pytest.param(*size, *noise, marks=[] if size == (3, 6) else pytest.mark.slow)
        for size in SWEEP
        for noise in NOISES
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(seeds, episodes, seed_noise, episode_noise):
    rng = np.random.default_rng([seeds, episodes])
    count, held = 120, 0
    for _ in range(count):
        change = change_of(study(rng, seeds, episodes, -0.1, seed_noise=seed_noise, episode_noise=episode_noise))
        # What a ratio of means of the drawn noise is on the average, beside the effect.
        truth = 0.9 * math.exp((seed_noise**2 + episode_noise**2) / 2) - 1
        held += change.low <= truth <= change.high
    # 120 draws of 95 % are below 88 % once in a thousand times.
    assert held / count >= 0.88


def test_no_effect_is_rarely_called_one():
    rng = np.random.default_rng(0)
    verdicts = [verdict_of(change_of(study(rng, 3, 8, 0.0)), {}) for _ in range(100)]
    assert verdicts.count("helps") + verdicts.count("hurts") <= 9


def test_a_large_effect_is_found_and_a_small_one_is_nothing():
    rng = np.random.default_rng(1)
    large = [verdict_of(change_of(study(rng, 5, 12, -0.3)), {}) for _ in range(20)]
    assert large.count("helps") >= 19
    none = [
        verdict_of(change_of(study(rng, 5, 12, 0.0, seed_noise=0.003, episode_noise=0.01, noise=0.01)), {})
        for _ in range(20)
    ]
    assert none.count("nothing") >= 19


@pytest.mark.parametrize(
    ("interval", "against", "verdict"),
    [
        ((-0.3, -0.1), (-0.3, -0.05), "helps"),
        ((-0.3, -0.1), (-0.1, 0.05), "regularises only"),
        ((-0.3, -0.1), (0.02, 0.3), "regularises only"),
        ((0.1, 0.3), (0.0, 0.1), "hurts"),
        ((-0.04, 0.04), (-0.1, 0.1), "nothing"),
        ((-0.04, -0.01), (-0.1, -0.01), "nothing"),
        ((-0.2, 0.1), (-0.2, 0.1), "cannot tell"),
        ((-math.inf, math.inf), (-0.2, 0.1), "cannot tell"),
        ((math.nan, math.nan), (-0.2, 0.1), "cannot tell"),
    ],
)
def test_verdicts(interval, against, verdict):
    def change(low, high):
        return Change((low + high) / 2, low, high, 0.1)

    assert verdict_of(change(*interval), {"nothing": change(*against)}) == verdict


def test_one_seed_or_one_episode_gives_no_interval():
    rng = np.random.default_rng(0)
    for seeds, episodes in ((1, 5), (5, 1), (1, 1)):
        change = change_of(study(rng, seeds, episodes, -0.5))
        assert math.isinf(change.low)
        assert math.isinf(change.high)
        assert verdict_of(change, {}) == "cannot tell"


def test_seeds_that_diverged_are_left_out_of_pairs_and_counted():
    found = study(np.random.default_rng(0), 4, 6, -0.3)
    del found["B", 2]
    result = next(each for each in compare(found, 0, {"B": [2]}) if each.condition == "B")
    assert result.seeds == (0, 1, 3)
    assert result.diverged == (2,)
    assert result.verdict == "helps"


def test_equal_runs_are_nothing_without_a_division_by_zero():
    same = {(name, seed): evaluation([1.0, 2.0, 3.0]) for name in "AB" for seed in range(3)}
    result = next(each for each in compare(same, 0, {}) if each.condition == "B")
    assert result.change == Change(0.0, 0.0, 0.0, 0.0)
    assert result.verdict == "nothing"


def test_a_still_world_has_no_copy_floor_to_divide_by():
    found = {("A", 0): evaluation([0.0, 0.0], copied=0.0)}
    assert compare(found, 0, {})[0].copy_ratio == math.inf


def test_copying_that_beats_a_predictor_is_said():
    found = {("A", 0): evaluation([2.0, 4.0], copied=0.5), ("B", 0): evaluation([0.2, 0.4], copied=0.5)}
    assert where_copying_wins(compare(found, 0, {})).startswith(
        "copying the last latent beats 1 of 2 predictors, whose"
    )
    del found["A", 0]
    assert where_copying_wins(compare(found, 0, {})) is None


def test_fifths_are_of_equal_size_even_where_most_windows_stand_still():
    run = evaluation(np.arange(1, 11), windows=2)
    run.motion[:] = 0
    run.motion[-4:] = 1
    found = compare({("A", 0): run}, 0, {})[0].by_fifth
    assert [error for error, _ in found] == [1.5, 3.5, 5.5, 7.5, 9.5]


def test_tags_of_episodes():
    models = {
        ("A", 0): evaluation([0.5, 2.0, 0.5]),
        ("B", 0): evaluation([0.51, 3.0, 1.5]),
    }
    assert episode_tags(models) == {
        0: ("models-beat-static", "tight-tie"),
        1: ("static-dominates",),
        2: (),
    }
