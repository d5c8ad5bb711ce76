"""Very long clips for trackers that hold a whole clip: windows that overlap, each point handed on to the next one.

CoTracker3 keeps about 8 MB of features for every frame, TAPIR 3.4 MB, so that 2,000 frames take 16 and 7 GB. In windows
the features of one of them are held. It is an option, not the published way: a point that is hidden while one window
ends cannot be taken up by the next and stays lost, and small errors add up over the windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError, MissingDataError
from extractors.track_queries import Posed, check_queries
from extractors.tracks import PointTracker, PreparedClip
from extractors.types import Frames, Size, Tracks, check_pixels

Frame = NDArray[np.uint8]

NEARLY_BEST = 0.9
"""Share of the best score in an overlap from which a frame is as good; of those the one nearest to the new window."""


class Window(NamedTuple):
    """Frames `start` .. `past` - 1."""

    start: int
    past: int


def plan_windows(n_frames: int, most: int, overlap: int) -> list[Window]:
    """As few windows of one length, up to `most` frames, as overlap by `overlap` frames or one more."""
    if n_frames <= most:
        return [Window(0, n_frames)]
    count = -(-(n_frames - overlap) // (most - overlap))
    length = -(-(n_frames + (count - 1) * overlap) // count)
    starts = [index * (n_frames - length) // (count - 1) for index in range(count)]
    return [Window(start, start + length) for start in starts]


class WindowedTracker:
    """A tracker that sees clips of more than `length` frames in windows; shorter ones go to it whole."""

    def __init__(self, tracker: PointTracker, *, length: int, overlap: int = 8) -> None:
        """`overlap`: frames in which a point can be handed on.

        Raises:
            ConfigError: the overlap is not between 1 and half of the length.
        """
        if not 1 <= overlap <= length // 2:
            raise ConfigError(f"windows of {length} frames overlap by 1 to {length // 2}, got {overlap}")
        self._tracker, self._length, self._overlap = tracker, length, overlap
        self.device, self.precision = tracker.device, tracker.precision

    def prepare(self, pixels: Frames) -> PreparedClip:
        """As `PointTracker.prepare`; of a long clip nothing is computed yet, and each query set reads it again."""
        check_pixels(pixels)
        if len(pixels) <= self._length:
            return self._tracker.prepare(pixels)
        return _WindowedClip(self._tracker, pixels, plan_windows(len(pixels), self._length, self._overlap))

    def track(self, pixels: Frames, queries: NDArray[np.float32]) -> Tracks:
        """As `PointTracker.track`."""
        return self.prepare(pixels).track(queries)


class _WindowedClip:
    at_once = 1

    def __init__(self, tracker: PointTracker, pixels: Frames, windows: list[Window]) -> None:
        self._tracker, self._pixels, self._windows = tracker, pixels, windows
        self._size: Size = (int(pixels.shape[1]), int(pixels.shape[2]))

    def track(self, queries: NDArray[np.float32], *, posed: Posed = "anywhere") -> Tracks:
        """Forward through all windows, then back for what was posed in a later one.

        Raises:
            ShapeError: a query is not finite, or outside the clip.
            MissingDataError: fewer frames came than the clip announced.
        """
        check_queries(queries, len(self._pixels), self._size)
        queries = np.asarray(queries, np.float32)
        passes = _Passes(queries, len(self._pixels), self._size, self._windows, posed=posed)
        source, kept = iter(self._pixels), list[Frame]()
        for index, window in enumerate(self._windows):
            following = self._windows[index + 1].start if index + 1 < len(self._windows) else window.past
            part = _Part(window, chain(kept, source), self._pixels, keep_from=following)
            passes.forward(index, self._tracker.prepare(part))
            kept = part.kept
        # Videos cannot be read backwards: each window is decoded from the clip's start.
        for index in reversed(range(passes.last_home)):
            window = self._windows[index]
            part = _Part(window, islice(iter(self._pixels), window.start, None), self._pixels, keep_from=window.past)
            passes.backward(index, self._tracker.prepare(part))
        return passes.tracks()


class _Part:
    """The frames of one window as a clip that is iterated once; keeps those from `keep_from` on for the next window."""

    def __init__(self, window: Window, frames: Iterator[Frame], clip: Frames, *, keep_from: int) -> None:
        self.kept: list[Frame] = []
        self._window, self._frames, self._clip, self._keep_from = window, frames, clip, keep_from

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, 3)."""
        return (len(self), *self._clip.shape[1:])

    def __len__(self) -> int:
        return self._window.past - self._window.start

    def __iter__(self) -> Iterator[Frame]:
        index = self._window.start
        for frame in islice(self._frames, len(self)):
            if index >= self._keep_from:
                self.kept.append(frame)
            index += 1
            yield frame
        if index != self._window.past:
            raise MissingDataError(
                f"wanted {len(self._clip)} frames, decoding gave {index}; repair or drop the episode"
            )


class _Posed(NamedTuple):
    """Points (n,) of the set, queries (n, 3) for them in frames of the clip, and the frames whose results are kept."""

    points: NDArray[np.int64]
    queries: NDArray[np.float32]
    kept: range


class _Passes:
    """The tracks of one query set while they grow, window by window."""

    def __init__(
        self, queries: NDArray[np.float32], n_frames: int, size: Size, windows: list[Window], *, posed: Posed
    ) -> None:
        self._queries, self._windows, self._posed = queries, windows, posed
        self._limit = np.array([size[1] - 0.5, size[0] - 0.5], np.float32)
        shape = (n_frames, len(queries))
        self._xy = np.broadcast_to(queries[None, :, 1:], (*shape, 2)).copy()
        self._visibility = np.zeros(shape, np.bool_)
        self._confidence = np.zeros(shape, np.float32)
        self._score = np.zeros(shape, np.float32)
        past = np.array([window.past for window in windows])
        # The first window that shows a query's frame is its home.
        self._home = np.searchsorted(past, queries[:, 0], side="right")

    @property
    def last_home(self) -> int:
        """The last window in which a query is posed."""
        return int(self._home.max(initial=0))

    def forward(self, index: int, clip: PreparedClip) -> None:
        """Tracks what is posed in window `index`, and what earlier windows hand on."""
        window = self._windows[index]
        own = np.flatnonzero(self._home == index)
        posed = [_Posed(own, self._queries[own], range(window.start, window.past))]
        if index > 0:
            done = self._windows[index - 1].past
            points = np.flatnonzero(self._home < index)
            posed.append(self._handed_on(points, range(window.start, done), range(done, window.past)))
        self._run(clip, window, posed)

    def backward(self, index: int, clip: PreparedClip) -> None:
        """Tracks through window `index` what is posed in later ones."""
        window, begun = self._windows[index], self._windows[index + 1].start
        points = np.flatnonzero(self._home > index)
        overlap = range(window.past - 1, begun - 1, -1)
        self._run(clip, window, [self._handed_on(points, overlap, range(window.start, begun))])

    def _handed_on(self, points: NDArray[np.int64], overlap: range, kept: range) -> _Posed:
        """`points` posed where they are best seen in `overlap`, whose last frame is nearest to the frames `kept`.

        A point that `overlap` shows nowhere stays in `kept` where it was last, not visible.
        """
        frames = np.array(overlap)
        places = self._xy[frames][:, points]
        inside = ((places > -0.5) & (places < self._limit)).all(axis=-1)
        seen = self._visibility[frames][:, points] & inside
        score = np.where(seen, self._score[frames][:, points] * self._confidence[frames][:, points], -1.0)
        good = score >= NEARLY_BEST * score.max(axis=0, initial=-1.0)
        nearest = len(frames) - 1 - good[::-1].argmax(axis=0)
        handed = seen.any(axis=0)
        self._xy[kept.start : kept.stop, points[~handed]] = self._xy[frames[-1], points[~handed]]
        points, at = points[handed], frames[nearest[handed]]
        return _Posed(points, np.column_stack([at, self._xy[at, points]]).astype(np.float32), kept)

    def _run(self, clip: PreparedClip, window: Window, parts: list[_Posed]) -> None:
        """All in one call: a tracker may let its points help each other."""
        queries = np.concatenate([part.queries for part in parts])
        if not len(queries):
            return
        found = clip.track(queries - np.array([window.start, 0, 0], np.float32), posed=self._posed)
        first = 0
        for points, _, kept in parts:
            into, column = slice(kept.start, kept.stop), slice(first, first + len(points))
            of = slice(kept.start - window.start, kept.stop - window.start)
            self._xy[into, points] = found.xy[of, column]
            self._visibility[into, points] = found.visibility[of, column]
            self._confidence[into, points] = found.confidence[of, column]
            self._score[into, points] = found.visibility_score[of, column]
            first += len(points)

    def tracks(self) -> Tracks:
        """What has grown."""
        return Tracks(self._xy, self._visibility, self._confidence, self._score, self._queries)
