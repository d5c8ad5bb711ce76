"""Track sets, the object guarantee, and the contract that every tracker backend without weights keeps."""

import cv2
import numpy as np
import pytest

from extractors.build import TRACKERS
from extractors.errors import ShapeError
from extractors.track_queries import grid_queries, object_queries, rescale_queries
from extractors.tracks import TrackPlan, extract_tracks, seen_on_object
from extractors.types import OnCpu, Tracks
from tests.extractors.test_track_queries import all_queries, disc

WITHOUT_WEIGHTS = ["lucas-kanade"]


def textured(height=64, width=64, seed=0):
    """Smooth random colours: structure of a few pixels everywhere."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return (255 * smooth).astype(np.uint8)


def sliding_square(n_frames=8, size=64, side=20, start=(10, 22), step=(3, 0)):
    """A textured square that slides over a plain textured ground; returns pixels and masks."""
    ground, square = textured(size, size, 1) // 2, textured(side, side, 2) // 2 + 128
    pixels, masks = [], []
    for t in range(n_frames):
        frame, mask = ground.copy(), np.zeros((size, size), bool)
        x, y = start[0] + t * step[0], start[1] + t * step[1]
        frame[y : y + side, x : x + side] = square
        mask[y : y + side, x : x + side] = True
        pixels.append(frame)
        masks.append(mask)
    return np.stack(pixels), np.stack(masks)


class LazyFrames:
    """Frames that exist only while they are iterated over."""

    def __init__(self, array):
        self._array, self.shape, self.passes = array, array.shape, 0

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        self.passes += 1
        yield from self._array.copy()


@pytest.fixture(params=WITHOUT_WEIGHTS)
def tracker(request):
    return TRACKERS[request.param]()


# The contract


def test_every_backend_without_weights_is_listed():
    assert set(WITHOUT_WEIGHTS) <= set(TRACKERS)


def test_tracks_have_the_shapes_and_types_of_the_contract(tracker):
    pixels, _ = sliding_square(5)
    tracks = tracker.track(pixels, grid_queries((64, 64), side=4))
    assert tracks.xy.shape == (5, 16, 2)
    assert tracks.xy.dtype == np.float32
    assert tracks.visibility.shape == (5, 16)
    assert tracks.visibility.dtype == np.bool_
    for score in (tracks.confidence, tracks.visibility_score):
        assert score.shape == (5, 16)
        assert score.dtype == np.float32
        assert score.min() >= 0
        assert score.max() <= 1
    assert np.isfinite(tracks.xy).all()


def test_a_query_stays_where_it_was_posed_and_is_seen_there(tracker):
    pixels, _ = sliding_square(6)
    queries = np.array([[0, 5.25, 7.5], [3, 25.1, 30.9], [5, 60, 2]], np.float32)
    tracks = tracker.track(pixels, queries)
    posed = queries[:, 0].astype(int)
    np.testing.assert_array_equal(tracks.xy[posed, np.arange(3)], queries[:, 1:])
    assert tracks.visibility[posed, np.arange(3)].all()
    np.testing.assert_array_equal(tracks.queries, queries)


def test_a_still_clip_has_still_tracks(tracker):
    pixels = np.repeat(textured()[None], 6, axis=0)
    tracks = tracker.track(pixels, grid_queries((64, 64), side=6))
    np.testing.assert_allclose(tracks.xy, np.broadcast_to(tracks.xy[:1], tracks.xy.shape), atol=1e-3)
    assert tracks.visibility.all()


def test_a_shifted_clip_has_shifted_tracks(tracker):
    canvas = textured(100, 100)
    pixels = np.stack([canvas[10 + t : 74 + t, 20 - 2 * t : 84 - 2 * t] for t in range(6)])
    x, y = np.meshgrid(np.arange(16, 44, 6.0), np.arange(20, 52, 6.0))
    queries = np.stack([np.zeros(x.size), x.ravel(), y.ravel()], axis=1).astype(np.float32)
    tracks = tracker.track(pixels, queries)
    wanted = queries[None, :, 1:] + np.arange(6)[:, None, None] * np.array([2.0, -1.0])
    # Within half a pixel: a shift by whole pixels leaves nothing to interpolate.
    assert np.abs(tracks.xy - wanted).max() < 0.5
    assert tracks.visibility.mean() > 0.95


def test_an_object_is_followed_and_the_ground_stays(tracker):
    pixels, masks = sliding_square(8)
    queries, on_object = all_queries(masks, count=100)
    tracks = tracker.track(pixels, queries)
    travel = tracks.xy[-1] - tracks.xy[0]
    np.testing.assert_allclose(np.median(travel[on_object], axis=0), [21, 0], atol=0.5)
    assert np.mean(np.linalg.norm(travel[on_object] - [21, 0], axis=1) < 1) > 0.95
    assert np.mean(np.linalg.norm(travel[~on_object], axis=1) < 1) > 0.9


def test_what_the_object_covers_is_hidden(tracker):
    pixels, masks = sliding_square(8)
    covered = np.array([[0, 45, 32], [0, 40, 28]], np.float32)
    tracks = tracker.track(pixels, np.concatenate([covered, grid_queries((64, 64), side=6)]))
    assert tracks.visibility[0, :2].all()
    assert not tracks.visibility[-1, :2].any()
    assert masks[-1, 32, 45]
    assert masks[-1, 28, 40]


def test_queries_on_a_later_frame_are_followed_both_ways(tracker):
    pixels, masks = sliding_square(7)
    queries, on_object = all_queries(masks, count=60)
    queries[:, 0] = 3
    queries[on_object, 1] += 9
    tracks = tracker.track(pixels, queries)
    travel = np.median(tracks.xy[:, on_object] - tracks.xy[3, on_object], axis=1)
    np.testing.assert_allclose(travel[:, 0], 3.0 * (np.arange(7) - 3), atol=0.5)


def test_one_frame_is_a_clip(tracker):
    tracks = tracker.track(textured()[None], grid_queries((64, 64), side=3))
    assert tracks.xy.shape == (1, 9, 2)
    assert tracks.visibility.all()


def test_frames_four_pixels_wide_are_frames(tracker):
    pixels = np.repeat(textured(48, 4)[None], 4, axis=0)
    tracks = tracker.track(pixels, grid_queries((48, 4), side=3))
    np.testing.assert_allclose(tracks.xy[-1], tracks.xy[0], atol=0.5)


def test_all_queries_may_lie_off_the_object(tracker):
    pixels, masks = sliding_square(5)
    queries = grid_queries((64, 64), side=10)
    off = ~masks.any(axis=0)[np.rint(queries[:, 2]).astype(int), np.rint(queries[:, 1]).astype(int)]
    tracks = tracker.track(pixels, queries[off])
    assert np.abs(tracks.xy - tracks.xy[:1]).max() < 1


@pytest.mark.parametrize("posed", ["object", "grid"])
def test_what_is_posed_on_the_object_goes_with_it(tracker, posed):
    pixels, masks = sliding_square(5)
    queries = grid_queries((64, 64), side=10)
    on = masks[0][np.rint(queries[:, 2]).astype(int), np.rint(queries[:, 1]).astype(int)]
    chosen = queries if posed == "grid" else queries[on]
    tracks = tracker.prepare(pixels).track(chosen, posed=posed)
    centre = np.array([np.argwhere(mask)[:, ::-1].mean(axis=0) for mask in masks])
    moved = tracks.xy[:, on] if posed == "grid" else tracks.xy
    assert on.sum() > 4
    np.testing.assert_allclose(moved - moved[0], np.broadcast_to((centre - centre[0])[:, None], moved.shape), atol=1)


def test_lazy_frames_give_what_an_array_gives_in_one_pass(tracker):
    pixels, _ = sliding_square(5)
    lazy = LazyFrames(pixels)
    queries = grid_queries((64, 64), side=5)
    np.testing.assert_array_equal(tracker.track(lazy, queries).xy, tracker.track(pixels, queries).xy)
    assert lazy.passes == 1


def test_a_prepared_clip_serves_several_query_sets(tracker):
    pixels, _ = sliding_square(5)
    clip = tracker.prepare(pixels)
    for side in (3, 5):
        queries = grid_queries((64, 64), side=side)
        np.testing.assert_array_equal(clip.track(queries).xy, tracker.track(pixels, queries).xy)


def test_the_same_bytes_come_twice_whatever_the_threads(tracker):
    pixels, _ = sliding_square(6)
    queries = grid_queries((64, 64), side=8)
    threads = cv2.getNumThreads()
    try:
        results = []
        for number in (1, 2, 1):
            cv2.setNumThreads(number)
            tracks = tracker.track(pixels, queries)
            results.append(tracks.xy.tobytes() + tracks.visibility_score.tobytes() + tracks.confidence.tobytes())
    finally:
        cv2.setNumThreads(threads)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    "query",
    [[np.nan, 3, 3], [0, np.nan, 3], [0, 3, np.inf], [-1, 3, 3], [3, 3, 3], [0.5, 3, 3], [0, 64, 3], [0, 3, -0.6]],
)
def test_a_query_outside_the_clip_is_refused(tracker, query):
    with pytest.raises(ShapeError, match="queries must"):
        tracker.track(np.repeat(textured()[None], 3, axis=0), np.array([[0, 3, 3], query], np.float32))


def test_queries_and_pixels_of_another_shape_are_refused(tracker):
    pixels = textured()[None]
    with pytest.raises(ShapeError, match="queries must be"):
        tracker.track(pixels, np.zeros((4, 2), np.float32))
    with pytest.raises(ShapeError, match="pixels must be"):
        tracker.track(pixels[..., 0], np.zeros((1, 3), np.float32))
    with pytest.raises(ShapeError, match="pixels must be"):
        tracker.track(pixels[:0], np.zeros((1, 3), np.float32))


# Track sets


class Standing(OnCpu):
    """A tracker under which nothing moves, and points are seen near their own frame only."""

    at_once = 1

    def __init__(self, reach=100):
        self.reach, self.prepared, self.asked, self.posed = reach, 0, [], []

    def prepare(self, pixels):
        self.prepared += 1
        self.n_frames = len(pixels)
        return self

    def track(self, queries, *, posed="anywhere"):
        self.asked.append(queries)
        self.posed.append(posed)
        frames = np.arange(self.n_frames)[:, None]
        visible = np.abs(frames - queries[None, :, 0]) <= self.reach
        score = visible.astype(np.float32)
        xy = np.repeat(queries[None, :, 1:], self.n_frames, axis=0)
        return Tracks(xy, visible, score, score, queries)


def test_track_sets_are_in_packet_pixels():
    pixels, masks = np.zeros((3, 40, 80, 3), np.uint8), disc(3, lambda t: 20)
    tracker = Standing()
    sets = extract_tracks(pixels, masks, tracker, size=(224, 112), plan=TrackPlan(count=50, min_object_tracks=20))
    assert tracker.prepared == 1
    np.testing.assert_allclose(sets["grid"].tracks.queries, grid_queries((224, 112)), atol=1e-4)
    np.testing.assert_allclose(tracker.asked[0], grid_queries((40, 80)))
    queries, on_object = object_queries(masks, count=50), sets["foreground"].on_object
    np.testing.assert_allclose(
        sets["foreground"].tracks.queries[on_object], rescale_queries(queries, (96, 96), (224, 112)), atol=1e-4
    )
    foreground = sets["foreground"].tracks
    np.testing.assert_array_equal(foreground.xy[0], foreground.queries[:, 1:])


def test_background_points_of_its_own_are_tracked_with_the_objects():
    masks = disc(3, lambda t: 20)
    tracker = Standing()
    sets = extract_tracks(
        np.zeros((3, 40, 80, 3), np.uint8),
        masks,
        tracker,
        size=(224, 112),
        plan=TrackPlan(count=50, background="own", min_object_tracks=20),
    )
    assert [len(asked) for asked in tracker.asked] == [400, 50]
    assert tracker.posed == ["grid", "object"]
    assert len(sets["foreground"].tracks.queries) == 50
    assert int(sets["foreground"].on_object.sum()) == 30


def test_background_tracks_of_the_foreground_set_are_the_grids():
    masks = disc(3, lambda t: 20)
    tracker = Standing()
    sets = extract_tracks(
        np.zeros((3, 40, 80, 3), np.uint8),
        masks,
        tracker,
        size=(224, 112),
        plan=TrackPlan(count=50, min_object_tracks=20),
    )
    assert [len(asked) for asked in tracker.asked] == [400, 30]
    grid, foreground = sets["grid"].tracks, sets["foreground"].tracks
    off = np.flatnonzero(~sets["foreground"].on_object)
    assert len(off) == 20
    same = (foreground.queries[off, None] == grid.queries[None]).all(axis=-1)
    assert (same.sum(axis=1) == 1).all()
    np.testing.assert_array_equal(foreground.xy[:, off], grid.xy[:, same.argmax(axis=1)])


def test_a_grid_with_too_few_points_off_the_object_is_filled_up():
    masks = disc(3, lambda t: 20)
    tracker = Standing()
    sets = extract_tracks(
        np.zeros((3, 96, 96, 3), np.uint8),
        masks,
        tracker,
        size=(96, 96),
        plan=TrackPlan(grid_side=3, count=50, min_object_tracks=20),
    )
    foreground = sets["foreground"]
    assert [len(asked) for asked in tracker.asked] == [9, 50 - 8]  # the grid's middle point lies on the object
    assert foreground.tracks.xy.shape == (3, 50, 2)
    assert foreground.on_object.sum() == 30
    _, x, y = np.rint(foreground.tracks.queries.T).astype(int)
    np.testing.assert_array_equal(masks[0, y, x], foreground.on_object)


def test_the_grid_knows_which_of_its_points_are_on_the_object():
    masks = disc(2, lambda t: 20)
    grid = extract_tracks(np.zeros((2, 96, 96, 3), np.uint8), masks, Standing(), size=(96, 96))["grid"]
    distance = np.linalg.norm(grid.tracks.queries[:, 1:] - [48, 40], axis=1)
    np.testing.assert_array_equal(grid.on_object[np.abs(distance - 20) > 1], (distance < 20)[np.abs(distance - 20) > 1])


@pytest.mark.parametrize("masks", [None, np.zeros((2, 8, 8), bool)])
def test_without_a_mask_there_is_no_foreground_set(masks):
    sets = extract_tracks(np.zeros((2, 16, 16, 3), np.uint8), masks, Standing(), size=(16, 16))
    assert set(sets) == {"grid"}
    assert not sets["grid"].on_object.any()


def test_lost_object_points_are_posed_again_in_place_of_background():
    masks = disc(9, lambda t: 20)
    pixels = np.zeros((9, 96, 96, 3), np.uint8)
    kept = extract_tracks(
        pixels, masks, Standing(reach=4), size=(96, 96), plan=TrackPlan(count=300, min_object_tracks=40)
    )["foreground"]
    assert len(kept.on_object) == 300
    assert kept.on_object.sum() > 180
    seen = seen_on_object(kept.tracks, kept.on_object, masks, (96, 96))
    assert seen.min() >= 40
    assert kept.report["short_frames"] == []
    assert kept.report["visible_object_tracks"]["min"] == seen.min()
    assert kept.report["posed_again"]


def test_what_stays_short_is_reported():
    masks = disc(9, lambda t: 20 if t != 1 else 0)
    pixels = np.zeros((9, 96, 96, 3), np.uint8)
    kept = extract_tracks(
        pixels, masks, Standing(reach=0), size=(96, 96), plan=TrackPlan(count=100, min_object_tracks=40, max_rounds=1)
    )["foreground"]
    assert len(kept.report["short_frames"]) == 6
    assert 1 not in kept.report["short_frames"]
    assert len(kept.on_object) == 100


def test_points_that_left_the_mask_do_not_count_as_seen():
    masks = disc(2, lambda t: 20)
    queries, on_object = all_queries(masks, count=50)
    tracks = Standing().prepare(masks).track(queries)
    np.testing.assert_array_equal(seen_on_object(tracks, on_object, masks, (96, 96)), [30, 30])
    np.testing.assert_array_equal(seen_on_object(tracks, on_object, np.roll(masks, 48, axis=2), (96, 96)), [0, 0])


def test_masks_that_do_not_fit_the_clip_are_refused():
    with pytest.raises(ShapeError, match="one mask per frame"):
        extract_tracks(np.zeros((3, 8, 8, 3), np.uint8), np.ones((2, 8, 8), bool), Standing(), size=(8, 8))
