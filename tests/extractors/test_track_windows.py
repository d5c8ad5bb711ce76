"""Long clips in windows: where windows lie, what is handed on, and what is given up."""

import weakref
from itertools import pairwise

import numpy as np
import pytest

from extractors.build import TRACKERS
from extractors.errors import ConfigError, MissingDataError, ShapeError
from extractors.track_windows import WindowedTracker, plan_windows
from extractors.types import OnCpu, Tracks
from tests.extractors.test_tracks import LazyFrames, sliding_square, textured


@pytest.mark.parametrize("n_frames", [3, 16, 17, 30, 33, 100, 101, 997])
@pytest.mark.parametrize(("most", "overlap"), [(16, 1), (16, 5), (16, 8)])
def test_windows_cover_the_clip_evenly_and_overlap(n_frames, most, overlap):
    windows = plan_windows(n_frames, most, overlap)
    assert (windows[0].start, windows[-1].past) == (0, n_frames)
    assert len({window.past - window.start for window in windows}) == 1
    assert windows[0].past <= most
    for before, after in pairwise(windows):
        assert overlap <= before.past - after.start <= overlap + 1
        assert before.start < after.start
    if len(windows) > 1:
        assert (len(windows) - 1) * (most - overlap) + overlap < n_frames  # one fewer would not reach


def test_a_clip_that_fits_goes_to_the_tracker_whole():
    pixels, _ = sliding_square()
    tracker = TRACKERS["lucas-kanade"]()
    queries = np.array([[0, 15, 30], [5, 30, 30]], np.float32)
    whole, windowed = (
        tracker.track(pixels, queries),
        WindowedTracker(tracker, length=8, overlap=2).track(pixels, queries),
    )
    np.testing.assert_array_equal(windowed.xy, whole.xy)


def test_points_are_handed_on_both_ways():
    pixels, masks = sliding_square(n_frames=40, size=96, start=(6, 36), step=(1, 0))
    tracker = WindowedTracker(TRACKERS["lucas-kanade"](), length=12, overlap=4)
    inside = np.argwhere(masks[0])[:: masks[0].sum() // 12, ::-1].astype(np.float32)
    posed_first = np.column_stack([np.zeros(len(inside)), inside])
    posed_last = np.column_stack([np.full(len(inside), 39), inside + np.array([39, 0])])
    posed_between = np.column_stack([np.full(len(inside), 20), inside + np.array([20, 0])])
    queries = np.concatenate([posed_first, posed_last, posed_between]).astype(np.float32)
    tracks = tracker.track(LazyFrames(pixels), queries)
    truth = np.tile(inside, (3, 1)) + np.arange(40)[:, None, None] * np.array([1, 0])
    assert tracks.xy.shape == (40, len(queries), 2)
    assert tracks.visibility.mean() > 0.9
    assert np.median(np.linalg.norm(tracks.xy - truth, axis=-1)) < 0.3
    assert np.linalg.norm(tracks.xy - truth, axis=-1)[tracks.visibility].max() < 2
    own = queries[:, 0].astype(int), np.arange(len(queries))
    np.testing.assert_array_equal(tracks.xy[own], queries[:, 1:])
    assert tracks.visibility[own].all()


def test_the_clip_is_read_once_where_all_is_posed_at_its_start():
    pixels = LazyFrames(np.stack([textured()] * 30))
    WindowedTracker(TRACKERS["lucas-kanade"](), length=16).track(pixels, np.array([[0, 30, 30]], np.float32))
    assert pixels.passes == 1


def test_the_device_is_the_tracker_s_so_that_its_slot_is_taken():
    class OnCard(Scripted):
        device = object()

    tracker = OnCard(lambda frame, point: True)
    assert WindowedTracker(tracker, length=16).device is OnCard.device


def test_no_more_than_the_overlap_is_held_of_a_long_clip():
    class Counted(LazyFrames):
        """Frames that know how many of them are alive."""

        most = 0

        def __iter__(self):
            alive = []
            for frame in super().__iter__():
                alive = [each for each in alive if each() is not None]
                alive.append(weakref.ref(frame := frame.view(Held)))
                Counted.most = max(Counted.most, len(alive))
                yield frame

    class Held(np.ndarray):
        pass

    tracker = Scripted(lambda frame, point: True)
    WindowedTracker(tracker, length=16, overlap=4).track(Counted(numbered(64)), np.array([[0, 1, 2]], np.float32))
    assert len(tracker.calls) == 5
    assert Counted.most <= 4 + 4 + 2


class Scripted(OnCpu):
    """Points rest, and are seen as `seen(frame of the clip, point)` says; a frame's colour is its number."""

    def __init__(self, seen):
        self._seen, self.calls = seen, []

    def prepare(self, pixels):
        frames = np.array([int(frame[0, 0, 0]) for frame in pixels])
        return type(
            "Clip", (), {"at_once": 1, "track": lambda _, queries, *, posed="anywhere": self._track(frames, queries)}
        )()

    def track(self, pixels, queries):
        return self.prepare(pixels).track(queries)

    def _track(self, frames, queries):
        self.calls.append((frames[0], frames[-1], [tuple(row) for row in queries.tolist()]))
        xy = np.repeat(queries[None, :, 1:], len(frames), axis=0)
        seen = np.array([[self._seen(frame, round(float(x))) for x in queries[:, 1]] for frame in frames])
        score = seen.astype(np.float32)
        return Tracks(xy.astype(np.float32), seen, score, score, queries)


def numbered(n_frames):
    return np.broadcast_to(np.arange(n_frames, dtype=np.uint8)[:, None, None, None], (n_frames, 8, 8, 3)).copy()


def test_a_point_hidden_in_a_whole_overlap_stays_lost_and_is_not_posed_again():
    tracker = Scripted(lambda frame, point: point == 1 or frame < 10)
    tracks = WindowedTracker(tracker, length=16, overlap=4).track(
        numbered(40), np.array([[0, 1, 2], [0, 2, 3]], np.float32)
    )
    assert tracks.visibility[:, 0].all()
    assert tracks.visibility[:, 1].tolist() == [frame < 10 for frame in range(40)]
    assert (tracks.confidence[16:, 1] == 0).all()
    np.testing.assert_array_equal(tracks.xy[:, 1], np.tile([[2, 3]], (40, 1)))
    assert [len(queries) for _, _, queries in tracker.calls] == [2, 1, 1]


def test_a_point_is_posed_where_it_is_seen_nearest_to_the_new_window():
    tracker = Scripted(lambda frame, point: frame != 15)
    WindowedTracker(tracker, length=16, overlap=4).track(numbered(28), np.array([[0, 1, 2]], np.float32))
    assert tracker.calls == [(0, 15, [(0, 1, 2)]), (12, 27, [(14 - 12, 1, 2)])]


def test_own_and_handed_on_points_share_one_call():
    tracker = Scripted(lambda frame, point: True)
    WindowedTracker(tracker, length=16, overlap=4).track(numbered(28), np.array([[0, 1, 2], [20, 3, 4]], np.float32))
    forth = [(0, 15, [(0, 1, 2)]), (12, 27, [(8, 3, 4), (3, 1, 2)])]
    assert tracker.calls == [*forth, (0, 15, [(12, 3, 4)])]


def test_bad_input_is_refused():
    tracker = TRACKERS["lucas-kanade"]()
    for length, overlap in ((16, 0), (16, 9)):
        with pytest.raises(ConfigError, match="overlap"):
            WindowedTracker(tracker, length=length, overlap=overlap)
    windowed = WindowedTracker(tracker, length=16)
    with pytest.raises(ShapeError):
        windowed.track(numbered(30), np.array([[30, 1, 1]], np.float32))
    short = LazyFrames(numbered(20))
    short.shape = (30, *short.shape[1:])
    short.__class__ = type("Short", (LazyFrames,), {"__len__": lambda self: 30})
    with pytest.raises(MissingDataError, match="wanted 30 frames, decoding gave 20"):
        windowed.track(short, np.array([[0, 1, 1]], np.float32))
    assert windowed.track(numbered(30), np.zeros((0, 3), np.float32)).xy.shape == (30, 0, 2)
