"""Which pictures of a joined video are an episode's: its pictures counted against the rows that claim them.

Times alone do not tell. A table may lack them, repeat them, or give another rate than the video has (30 and 29.97
frames a second differ by a frame after 17 s); a video may hold a picture more than there are rows, and each later
episode then shows its neighbour's frames at exactly the right times. So, for each file:

* spans of the episodes must be disjoint; an episode whose span overlaps another's is refused.
* one picture for each row: row i of the k-th span is the next picture, whatever the clocks say. The largest
  |picture - wanted| is recorded, and tagged from half a frame on.
* spans without a gap between them, but more or fewer pictures than rows: nobody can tell which episode the difference
  is in. Refused, unless the file is cut (then the episodes before the cut are whole), or holds so many more that
  episodes were taken out of the table.
* otherwise (episodes were taken out, or video and rows have different rates): the picture nearest to each row's time,
  at most half a frame away; a span must hold as many pictures as its episode has rows, and none is used twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import EpisodeError, LengthMismatchError, MissingDataError

SAME_RATE = 0.01
"""Rates that differ by less are one rate told by two clocks (29.97 and 30: 0.1 %); float32 stamps add 0.3 %."""

ROUNDING_S = 1e-4
"""Seconds by which float32 stamps are off after some 1,000 s; LeRobot's own tolerance."""

Trim = Literal["off", "start", "end"]


@dataclass(frozen=True, slots=True)
class Claim:
    """One episode's part of a video file, by the episode table.

    Attributes:
        episode_index: whose part it is.
        length: its rows, None where the table does not say.
        start, end: seconds in the file, None where the table does not say.
    """

    episode_index: int
    length: int | None
    start: float | None
    end: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """The pictures of an episode's T rows.

    Attributes:
        numbers: (T,) int64, picture of each row, from 0 in presentation order; may reach past the end of a cut file.
        offset_s: largest |time of the picture - time wanted| over the rows, seconds; NaN where nothing was wanted.
        words: what was done, for the record.
        tags: "timestamp-offset", "spans-from-lengths", "rate-mismatch", "unclaimed-pictures", "pictures-trimmed".
    """

    numbers: NDArray[np.int64]
    offset_s: float
    words: dict[str, Any]
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class JoinedFile:
    """One video file and all that the tables say about it.

    Attributes:
        name: what messages call it.
        claims: every episode's part, in any order.
        times: (N,) float64, seconds of its pictures from the first.
        cut: whether the end of the file is missing.
    """

    name: str
    claims: Sequence[Claim]
    times: NDArray[np.float64]
    cut: bool = False
    trim: Trim = "off"
    _sorted: list[Claim] = field(default_factory=list)

    def place(self, episode_index: int, rows: NDArray[np.float64], step: float) -> Placed:
        """The pictures of an episode.

        Args:
            episode_index: whose.
            rows: (T,) float64, its rows' times, seconds.
            step: seconds between two of its rows.

        Raises:
            LengthMismatchError: the file and the table disagree about what is whose.
            MissingDataError: no picture is near a row's time, or the table has no time for the span.
        """
        claims, tags = self._in_order(step)
        place = next(i for i, claim in enumerate(claims) if claim.episode_index == episode_index)
        mine = claims[place]
        if mine.length is not None and mine.length != len(rows):
            raise LengthMismatchError(f"{self.name}: {mine.length} rows in the episode table, {len(rows)} in the data")
        lengths = [len(rows) if claim is mine else claim.length for claim in claims]
        counted = [length for length in lengths if length is not None]
        surplus = len(self.times) - sum(counted)
        before = sum(counted[:place])
        all_known = len(counted) == len(lengths)
        if all_known and surplus == 0 and self._each_has_its_own(claims, counted):
            return self._counted(before, mine, rows, step, tags)
        self._check_disjoint(claims, place, step)
        whole = all_known and _without_gaps(claims, step)
        if whole and (surplus == 0 or (self.cut and surplus < 0)):
            return self._counted(before, mine, rows, step, tags)
        if not self._same_rate(step):
            return self._nearest(mine, claims, rows, step, (*tags, "rate-mismatch"))
        if whole and not self.cut:
            if surplus > 0 and self.trim != "off":
                first = before + (surplus if self.trim == "start" else 0)
                return self._counted(first, mine, rows, step, (*tags, "pictures-trimmed"))
            if surplus < min(counted):
                raise self._uncounted(sum(counted))
            tags = (*tags, "unclaimed-pictures")
        return self._nearest(mine, claims, rows, step, tags)

    def _in_order(self, step: float) -> tuple[list[Claim], tuple[str, ...]]:
        """Claims by their start; where starts are missing, made of the lengths, if these add up to the pictures."""
        claims = sorted(self.claims, key=lambda claim: claim.episode_index)
        missing = [claim for claim in claims if claim.start is None]
        if not missing:
            return sorted(claims, key=lambda claim: (claim.start or 0.0, claim.episode_index)), ()
        lengths = [claim.length or 0 for claim in claims]
        if len(claims) > 1 and sum(lengths) != len(self.times):
            raise MissingDataError(
                f"{self.name} holds {len(claims)} episodes, the episode table has no from_timestamp for "
                f"{len(missing)} of them, and {len(self.times)} pictures are not the {sum(lengths)} rows that would "
                "tell whose is whose; restore the column"
            )
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * step
        made = [
            Claim(claim.episode_index, claim.length, float(start), None)
            for claim, start in zip(claims, starts, strict=True)
        ]
        return made, ("spans-from-lengths",)

    def _each_has_its_own(self, claims: Sequence[Claim], lengths: Sequence[int]) -> bool:
        """Whether from each start to the next there are as many pictures as rows, by the file's own clock."""
        own = float(np.median(np.diff(self.times))) if len(self.times) > 1 else 0.0
        starts = np.array([claim.start or 0.0 for claim in claims]) - 0.5 * own
        first = np.searchsorted(self.times, starts)
        return bool((np.diff([*first, len(self.times)]) == lengths).all())

    def _check_disjoint(self, claims: Sequence[Claim], place: int, step: float) -> None:
        mine = claims[place]
        for other in (*claims[:place], *claims[place + 1 : place + 2]):
            first, second = sorted((mine, other), key=lambda claim: (claim.start or 0.0, claim.episode_index))
            reach = (first.start or 0.0) + (first.length or 1) * step * (1 - SAME_RATE)
            if (second.start or 0.0) < reach - 0.5 * step:
                raise LengthMismatchError(
                    f"{self.name}: the spans of episodes {first.episode_index} (from {first.start:.4f} s, "
                    f"{first.length} rows) and {second.episode_index} (from {second.start:.4f} s) overlap; correct "
                    "from_timestamp in the episode table"
                )

    def _same_rate(self, step: float) -> bool:
        steps = np.diff(self.times)
        return not len(steps) or abs(float(np.median(steps)) / step - 1) < SAME_RATE

    def _counted(
        self, first: int, mine: Claim, rows: NDArray[np.float64], step: float, tags: tuple[str, ...]
    ) -> Placed:
        numbers = first + np.arange(len(rows))
        there = numbers < len(self.times)
        row_times = (mine.start or 0.0) + rows
        offset = float(np.abs(self.times[numbers[there]] - row_times[there]).max()) if there.any() else float("nan")
        words = {"alignment": "pictures of the file counted: as many as its rows", "first_picture": int(first)}
        return _placed(numbers, offset, words, tags, step)

    def _nearest(
        self, mine: Claim, claims: Sequence[Claim], rows: NDArray[np.float64], step: float, tags: tuple[str, ...]
    ) -> Placed:
        start = mine.start or 0.0
        own = float(np.median(np.diff(self.times))) if len(self.times) > 1 else step
        half = 0.5 * max(own, step) + ROUNDING_S
        end = self._end(mine, claims, len(rows), step)
        inside = int(np.sum((self.times > start - 0.5 * own) & (self.times < end - 0.5 * own)))
        expected = len(rows) if "rate-mismatch" not in tags else round(len(rows) * step / own)
        # Of a cut file, what is missing says the decoder, frame by frame.
        if inside > expected and self.trim != "off":
            first = int(np.searchsorted(self.times, start - 0.5 * own)) + (inside - expected) * (self.trim == "start")
            return self._counted(first, mine, rows, step, (*tags, "pictures-trimmed"))
        if abs(inside - expected) > ("rate-mismatch" in tags) and not self.cut:
            if not inside:
                raise MissingDataError(
                    f"{self.name}: no picture from {start:.4f} s to {end:.4f} s; the file is shorter than the "
                    "dataset's tables say"
                )
            raise LengthMismatchError(
                f"{self.name}: the episode's part from {start:.4f} s to {end:.4f} s holds {inside} pictures for "
                f"{len(rows)} rows; correct the episode table, drop the episode, or set source.trim=start or end where "
                "the pictures too many are there"
            )
        # Rows that start late (at 1/fps in published datasets), while there is one picture for every row
        shift = float(rows[0]) if rows[0] > 0.5 * step else 0.0
        row_times = start + rows - shift
        numbers = _nearest_picture(self.times, row_times)
        apart = np.abs(self.times[numbers] - row_times) if len(self.times) else np.full(len(rows), np.inf)
        too_far = apart > half
        if "rate-mismatch" in tags:
            # The last picture is shown until the next one would come.
            too_far &= ~((numbers == len(self.times) - 1) & (apart < own))
        far = np.flatnonzero(too_far)
        if self.cut and far.size:
            numbers = np.where(too_far, len(self.times) + np.arange(len(rows)), numbers)
        elif far.size:
            raise MissingDataError(
                f"{self.name}: no picture for row {far[0]} at {row_times[far[0]]:.4f} s (nearest is "
                f"{apart[far[0]]:.4f} s away); correct the episode table or drop the episode"
            )
        if "rate-mismatch" not in tags and (np.diff(numbers) <= 0).any():
            raise LengthMismatchError(
                f"{self.name}: rows {int(np.argmax(np.diff(numbers) <= 0))} and on share pictures, though rows and "
                "pictures have one rate; correct the timestamps or drop the episode"
            )
        words = {"alignment": "picture nearest to from_timestamp + timestamp - shift", "shift_s": shift}
        tags = (*tags, "timestamp-offset") if shift else tags
        offset = float(apart[np.isfinite(apart)].max(initial=0.0))
        return _placed(numbers, offset, {**words, "first_picture": int(numbers[0])}, tags, 2 * max(own, step))

    def _end(self, mine: Claim, claims: Sequence[Claim], n_rows: int, step: float) -> float:
        """Second at which an episode's part ends; a table that gives the last picture's time instead is understood."""
        start = mine.start or 0.0
        if mine.end is None:
            return start + n_rows * step
        spans = [
            round((claim.end - claim.start) / step) - claim.length
            for claim in claims
            if claim.end is not None and claim.start is not None and claim.length is not None and claim.length > 1
        ]
        return mine.end + (step if spans and set(spans) == {-1} else 0.0)

    def _uncounted(self, n_rows: int) -> EpisodeError:
        return LengthMismatchError(
            f"{self.name} holds {len(self.times)} pictures for the {n_rows} rows of {len(self.claims)} episodes, so "
            "which picture is whose cannot be told; drop the episodes, or set source.trim=start or end where the "
            "pictures too many are there"
        )


def _without_gaps(claims: Sequence[Claim], step: float) -> bool:
    """Whether each span begins where the one before it ends, the first at 0."""
    reach = 0.0
    for claim in claims:
        start, length = claim.start or 0.0, (claim.length or 0) * step
        if start - reach > 0.5 * step + ROUNDING_S + SAME_RATE * length:
            return False
        reach = start + length * (1 + SAME_RATE / 10)
    return True


def _nearest_picture(times: NDArray[np.float64], row_times: NDArray[np.float64]) -> NDArray[np.int64]:
    if not len(times):
        return np.zeros(len(row_times), np.int64)
    after = np.clip(np.searchsorted(times, row_times), 1, max(len(times) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(times) - 1)
    closer = np.abs(times[after] - row_times) < np.abs(times[before] - row_times)
    return np.where(closer, after, before).astype(np.int64)


def _placed(
    numbers: NDArray[np.int64], offset: float, words: dict[str, Any], tags: tuple[str, ...], step: float
) -> Placed:
    if offset > 0.5 * step and "timestamp-offset" not in tags:
        tags = (*tags, "timestamp-offset")
    recorded = round(offset, 6) if np.isfinite(offset) else None
    return Placed(numbers.astype(np.int64), offset, {**words, "largest_offset_s": recorded}, tags)
