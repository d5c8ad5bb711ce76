import heapq

import numpy as np
import pytest

from flows.run.progress import RunProgress

STAGES = ("source", "masks", "depth", "tracks", "pack")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def errors_of_time_left(lengths, workers, *, per_frame=0.05, per_episode=0.25, seed=0, fails=0.0, unknown=0.0):
    """Runs episodes on `workers` by a clock of its own; the relative error of what is left, at each tenth."""
    rng, clock = np.random.default_rng(seed), Clock()
    shown = [None if rng.random() < unknown else int(length) for length in lengths]
    progress = RunProgress(len(lengths), len(STAGES), lengths=shown, quiet=True, clock=clock)
    weights = rng.dirichlet(np.full(len(STAGES), 2.0))
    free, moments = [0.0] * workers, []
    for length in lengths:
        started = heapq.heappop(free)
        # Episodes of one length differ: a third more or less is what stages on real clips show.
        seconds = (per_episode + per_frame * length) * rng.lognormal(0, 0.3)
        fails_after = rng.integers(0, len(STAGES)) if rng.random() < fails else len(STAGES)
        for index, stage in enumerate(STAGES):
            started += seconds * weights[index] if index <= fails_after else 0.0
            moments.append((started, stage, int(length)))
        heapq.heappush(free, started)
    moments.sort()
    end, tenths, errors = moments[-1][0], iter(np.arange(0.1, 0.95, 0.1)), []
    tenth = next(tenths)
    left_pack = 0
    for moment, stage, length in moments:
        clock.now = moment
        progress.stage_done(stage, length)
        left_pack += stage == "pack"
        if moment >= tenth * end:
            left = progress.left_s()
            assert left is not None
            errors.append(abs(left - (end - moment)) / (end - moment))
            tenth = next(tenths, 2.0)
    return np.array(errors)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("order", "workers"),
    [("any", 1), ("any", 2), ("any", 8), ("uniform", 1), ("uniform", 2), ("uniform", 8), ("long first", 2)],
)
def test_from_a_tenth_of_the_run_to_six_tenths_the_time_left_is_right_within_a_fifth(order, workers, seed):
    # Later with 8 workers some of them have nothing left to do while a long clip ends: up to half is missing then.
    rng = np.random.default_rng(seed)
    # Lengths as data sets have them: most short, a few of 2,000 frames.
    lengths = np.clip(rng.lognormal(4, 1.2, 600).astype(int), 1, 2000)
    if order == "uniform":
        lengths = rng.integers(1, 2001, 600)
    elif order == "long first":
        lengths = np.sort(lengths)[::-1]
    assert errors_of_time_left(lengths, workers, seed=seed)[:6].max() < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_failures_and_lengths_that_no_source_states_change_little(seed):
    lengths = np.clip(np.random.default_rng(seed).lognormal(4, 1.0, 1000).astype(int), 1, 2000)
    assert errors_of_time_left(lengths, 2, seed=seed, fails=0.05)[:6].max() < 0.2
    assert errors_of_time_left(lengths, 2, seed=seed, unknown=0.3)[:6].max() < 0.2


def test_a_bar_by_episodes_would_be_wrong_by_more_than_half():
    lengths = [10] * 90 + [2000] * 10
    clock = Clock()
    by_frames = RunProgress(100, 1, lengths=lengths, quiet=True, clock=clock)
    by_episodes = RunProgress(100, 1, quiet=True, clock=clock)
    for length in lengths[:90]:
        clock.now += length
        by_frames.stage_done("source", length)
        by_episodes.stage_done("source", length)
    assert by_episodes.left_s() == pytest.approx(100)
    assert by_frames.left_s() == pytest.approx(20_000, rel=0.35)


def test_a_line_says_what_is_over_and_what_is_left():
    clock = Clock()
    progress = RunProgress(4, 2, lengths=[40] * 4, quiet=True, clock=clock)
    assert progress.left_s() is None
    clock.now = 10.0
    progress.stage_done("source", 40)
    progress.stage_done("pack", 40)
    progress.episode_done("done")
    assert progress.fraction() == pytest.approx(0.25)
    assert progress.summary() == ("1 of 4 episodes over, 0 failed, now pack, 4 frames/s, about 30 s left, 10 s so far")


def test_a_long_stage_moves_the_bar_while_it_lasts_and_counts_once():
    progress = RunProgress(2, len(STAGES), lengths=[100, 100], quiet=True)
    progress.stage_moved("source", 40.0)
    moving = progress.fraction()
    assert "now source" in progress.summary()
    progress.stage_moved("source", -40.0)
    progress.stage_done("source", 100)
    assert 0 < moving < progress.fraction() == pytest.approx(1 / 2 / len(STAGES))


def test_where_no_length_is_known_only_whole_stages_count():
    progress = RunProgress(2, len(STAGES), lengths=[None, None], quiet=True)
    progress.stage_moved("source", 40.0)
    assert progress.fraction() == 0
