from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.errors import ConfigError
from extractors.motion import PhaseRule
from packers.training.windows import MOVES, Window, WindowTable, shuffled

windows = st.builds(
    Window,
    history=st.integers(1, 6),
    horizon=st.integers(0, 5),
    frameskip=st.integers(1, 9),
    stride=st.integers(1, 7),
    ends=st.sampled_from(["drop", "pad"]),
)


@given(windows, st.lists(st.integers(1, 2000), min_size=1, max_size=8))
def test_windows_are_those_that_a_plain_loop_finds(window, lengths):
    reach = window.span if window.ends == "drop" else (window.history - 1) * window.frameskip + 1
    expected = [(c, s) for c, n in enumerate(lengths) for s in range(0, max(0, n - reach + 1), window.stride)]
    if not expected:
        with pytest.raises(ConfigError, match="a window needs"):
            WindowTable(np.array(lengths), window)
        return
    table = WindowTable(np.array(lengths), window)
    assert len(table) == len(expected)
    numbers = {0, len(table) - 1, *range(0, len(table), max(1, len(table) // 50))}
    assert [table.place(number) for number in sorted(numbers)] == [expected[number] for number in sorted(numbers)]


@given(windows, st.integers(1, 300), st.integers(0, 300))
def test_rows_are_a_slice_with_a_step_and_all_actions_between(window, length, start):
    start = min(start, max(0, length - window.shortest))
    rows, action_rows, inside = window.rows(start, length)
    wanted = np.arange(start, start + window.span)
    np.testing.assert_array_equal(action_rows.ravel(), np.minimum(wanted, length - 1))
    np.testing.assert_array_equal(inside.ravel(), wanted < length)
    np.testing.assert_array_equal(rows, np.minimum(wanted[:: window.frameskip], length - 1))
    if window.ends == "drop" and length >= window.span:
        assert inside.all()


def test_windows_longer_than_every_episode_are_refused_with_the_lengths_there_are():
    with pytest.raises(ConfigError, match=r"needs 20 frames .* there are 3 episodes of 5 to 19 frames"):
        WindowTable(np.array([7, 19, 5]), Window(3, 1, 5))


@given(windows, st.lists(st.lists(st.booleans(), min_size=1, max_size=60), min_size=1, max_size=5), st.floats(0.05, 1))
def test_moving_windows_are_those_that_a_plain_loop_finds(window, clips, share):
    window = replace(window, moving=share)
    every = [(c, s) for c, moves in enumerate(clips) for s in window.starts(len(moves)).tolist()]
    wanted = [(c, s) for c, s in every if sum(part := clips[c][s : s + window.span]) >= share * len(part)]
    arguments = np.array([len(moves) for moves in clips]), window, [np.array(moves) for moves in clips]
    if not wanted:
        with pytest.raises(ConfigError, match="none moves in" if every else "a window needs"):
            WindowTable(*arguments)
        return
    table = WindowTable(*arguments)
    assert [table.place(number) for number in range(len(table))] == wanted


def test_what_moves_is_what_the_phases_take_for_moving():
    rule = PhaseRule()
    assert {"motion/robot": rule.robot_speed, "motion/object": rule.object_speed} == MOVES


@pytest.mark.parametrize(
    "wrong",
    [
        {"moving": 1.1},
        {"moving": -0.1},
        {"mover": "arm"},
        {"history": 0},
        {"horizon": -1},
        {"frameskip": 0},
        {"stride": 0},
        {"ends": "cut"},
    ],
)
def test_a_window_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Window(**wrong)


@settings(max_examples=30)
@given(st.integers(0, 3000), st.integers(-(2**40), 2**40), st.integers(0, 50))
def test_an_order_has_every_number_once_and_depends_on_seed_and_epoch(count, seed, epoch):
    order = shuffled(count, seed, epoch)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    np.testing.assert_array_equal(order, shuffled(count, seed, epoch))
    if count > 20:
        assert (order != shuffled(count, seed, epoch + 1)).any()
        assert (order != shuffled(count, seed + 1, epoch)).any()


def test_the_order_of_a_seed_never_changes():
    # Positions that were saved by older versions stay those of the same windows.
    assert shuffled(10, 0, 0).tolist() == [7, 3, 2, 4, 6, 0, 5, 1, 8, 9]


def test_an_order_shows_no_trend():
    order = shuffled(20_000, 1, 2)
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.03
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.03
