"""Pictures against rows: truth by construction, swept over rates, lengths and ways in which tables go wrong."""

from __future__ import annotations

import numpy as np
import pytest

from extractors.errors import EpisodeError, LengthMismatchError, MissingDataError
from flows.sources.lerobot_spans import Claim, JoinedFile

RATES = [1, 2, 5, 10, 15, 24, 25, 29.97, 30, 50, 60]


def claims_of(lengths, fps, *, inclusive=False, start=True, end=True):
    at, made = 0, []
    for index, length in enumerate(lengths):
        stop = (at + length - inclusive) / fps
        made.append(Claim(index, length, at / fps if start else None, stop if end else None))
        at += length
    return made


def stamps(length, fps):
    """Rows' times as datasets store them."""
    return (np.arange(length) / fps).astype(np.float32).astype(np.float64)


def numbers(file, lengths, fps):
    return [file.place(index, stamps(length, fps), 1 / fps).numbers.tolist() for index, length in enumerate(lengths)]


def counted(lengths):
    ends = np.cumsum(lengths).tolist()
    return [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [7, 1, 30], [20, 24, 18], [400, 3, 900]], ids=str)
@pytest.mark.parametrize("drift", [1.0, 1.001, 0.999])
@pytest.mark.parametrize("table", ["rows", "video", "no end", "inclusive", "no start"])
def test_as_many_pictures_as_rows_are_taken_in_order_whatever_the_clocks_say(fps, lengths, drift, table):
    times = np.arange(sum(lengths)) / fps * drift
    claims = claims_of(
        lengths,
        fps / drift if table == "video" else fps,
        inclusive=table == "inclusive",
        start=table != "no start",
        end=table != "no end",
    )
    file = JoinedFile("x", claims, times)
    assert numbers(file, lengths, fps) == counted(lengths)
    placed = file.place(len(lengths) - 1, stamps(lengths[-1], fps), 1 / fps)
    if table != "no start":
        assert placed.words["largest_offset_s"] == pytest.approx(placed.offset_s, abs=1e-6)
    assert ("timestamp-offset" in placed.tags) == (placed.offset_s > 0.5 / fps)


@pytest.mark.parametrize("surplus", [-3, -1, 1, 2, 3])
@pytest.mark.parametrize("fps", RATES)
def test_a_file_with_more_or_fewer_pictures_than_rows_gives_no_episode_a_neighbours(fps, surplus):
    lengths = [20, 24, 18]
    file = JoinedFile("x", claims_of(lengths, fps), np.arange(sum(lengths) + surplus) / fps)
    for index, length in enumerate(lengths):
        with pytest.raises(LengthMismatchError, match=f"{62 + surplus} pictures for the 62 rows"):
            file.place(index, stamps(length, fps), 1 / fps)


def test_pictures_too_many_are_dropped_where_the_settings_say():
    lengths = [20, 24, 18]
    for trim, shift in (("start", 2), ("end", 0)):
        file = JoinedFile("x", claims_of(lengths, 10), np.arange(64) / 10, trim=trim)
        assert numbers(file, lengths, 10) == [[n + shift for n in part] for part in counted(lengths)]
        assert file.place(0, stamps(20, 10), 0.1).tags == ("pictures-trimmed", *(("timestamp-offset",) * (shift > 0)))


def test_leaked_pictures_fail_their_own_episode_where_the_spans_tell():
    # LeRobot joins one video per episode, so a leaked picture makes that episode's span longer than its rows.
    times = np.arange(20 + 3 + 24) / 10
    file = JoinedFile("x", [Claim(0, 20, 0.0, 2.3), Claim(1, 24, 2.3, 4.7)], times)
    with pytest.raises(LengthMismatchError, match="holds 23 pictures for 20 rows"):
        file.place(0, stamps(20, 10), 0.1)
    assert file.place(1, stamps(24, 10), 0.1).numbers.tolist() == list(range(23, 47))
    trimmed = JoinedFile("x", file.claims, times, trim="start").place(0, stamps(20, 10), 0.1)
    assert trimmed.numbers.tolist() == list(range(3, 23))


@pytest.mark.parametrize("starts", [[0, 0, 0], [0, 1.9, 4.4], [0, 2.0, 1.0]], ids=str)
def test_spans_that_overlap_are_refused(starts):
    lengths = [20, 24, 18]
    claims = [Claim(i, n, start, start + n / 10) for i, (n, start) in enumerate(zip(lengths, starts, strict=True))]
    file = JoinedFile("x", claims, np.arange(62) / 10)
    for index in (1, 2) if starts[1] == 1.9 else (0, 1, 2):
        if starts == [0, 1.9, 4.4] and index == 2:
            continue
        with pytest.raises(LengthMismatchError, match="overlap"):
            file.place(index, stamps(lengths[index], 10), 0.1)


def test_missing_starts_are_made_of_lengths_only_where_these_add_up():
    lengths = [20, 24, 18]
    file = JoinedFile("x", claims_of(lengths, 10, start=False), np.arange(63) / 10)
    with pytest.raises(MissingDataError, match="no from_timestamp for 3 of them"):
        file.place(0, stamps(20, 10), 0.1)
    alone = JoinedFile("x", claims_of([20], 10, start=False, end=False), np.arange(20) / 10)
    assert alone.place(0, stamps(20, 10), 0.1).numbers.tolist() == list(range(20))


def test_episodes_taken_out_of_the_table_leave_gaps_and_the_rest_by_time():
    lengths = [20, 24, 18, 30]
    claims = claims_of(lengths, 10)
    times = np.arange(sum(lengths)) / 10
    middle = JoinedFile("x", [claims[0], claims[2]], times)
    assert middle.place(2, stamps(18, 10), 0.1).numbers.tolist() == list(range(44, 62))
    last = JoinedFile("x", claims[:3], times)
    assert last.place(1, stamps(24, 10), 0.1).tags == ("unclaimed-pictures",)
    late = JoinedFile("x", [claims[0], claims[2]], times).place(2, stamps(18, 10) + 0.1, 0.1)
    assert (late.numbers.tolist(), late.tags) == (list(range(44, 62)), ("timestamp-offset",))


@pytest.mark.parametrize(("video", "rows"), [(60, 30), (15, 30), (25, 10), (10, 50)])
def test_pictures_repeat_only_where_the_rates_say_so(video, rows):
    length = 60
    n_pictures = round(length * video / rows)
    placed = JoinedFile("x", [Claim(0, length, 0.0, length / rows)], np.arange(n_pictures) / video).place(
        0, stamps(length, rows), 1 / rows
    )
    assert placed.tags == ("rate-mismatch",)
    shown = np.arange(n_pictures)[placed.numbers] / video
    assert np.abs(shown - np.arange(length) / rows).max() <= 1 / min(video, rows)
    assert (len(set(placed.numbers.tolist())) < length) == (video < rows)


def test_a_cut_file_gives_the_episodes_before_the_cut_and_numbers_past_its_end_else():
    lengths = [20, 24, 18]
    file = JoinedFile("x", claims_of(lengths, 10), np.arange(30) / 10, cut=True)
    assert numbers(file, lengths, 10) == counted(lengths)


def test_rows_of_another_number_than_the_table_are_refused():
    file = JoinedFile("x", claims_of([20, 24], 10), np.arange(44) / 10)
    with pytest.raises(EpisodeError, match="20 rows in the episode table, 21 in the data"):
        file.place(0, stamps(21, 10), 0.1)


def test_no_wrong_picture_in_a_thousand_random_tables():
    """Whatever is done to the table of a good file, each row shows its own picture or the episode is refused."""
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        lengths = rng.integers(1, 40, rng.integers(1, 6)).tolist()
        fps = float(rng.choice(RATES))
        truth, claims = counted(lengths), claims_of(lengths, fps)
        change, at = rng.integers(4), int(rng.integers(len(lengths)))
        given = claims[at]
        jump = float(rng.integers(-30, 30)) / fps
        if change == 0:
            claims[at] = Claim(at, given.length, max(0.0, (given.start or 0) + jump), given.end)
        elif change == 1:
            claims[at] = Claim(at, given.length, None, None)
        elif change == 2:
            claims[at] = Claim(at, given.length, given.start, max(0.0, (given.end or 0) + jump))
        times = np.arange(sum(lengths)) / fps
        try:
            placed = JoinedFile("x", claims, times).place(at, stamps(lengths[at], fps), 1 / fps)
        except EpisodeError:
            refused += 1
            continue
        wrong = placed.numbers.tolist() != truth[at]
        assert not wrong or set(placed.tags) & {"timestamp-offset", "unclaimed-pictures"}, (lengths, fps, claims, at)
    assert 0 < refused < 500
