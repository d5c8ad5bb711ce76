import functools
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from extractors.backends.nano import segmenter
from extractors.backends.nano.network import CLASSES
from extractors.backends.nano.segmenter import NanoSegmenter
from extractors.types import Episode
from scoring.truth.davis import region_similarity
from tests.benchmarks.mask_accuracy import measure
from tests.support import shared_data

SIDE = 160
CONTACT = 12


def table(seed=0):
    """A blurred noise texture, (SIDE, SIDE, 3) float, around grey-brown."""
    grain = np.random.default_rng(seed).normal(0, 60, (SIDE, SIDE)).astype(np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 2)
    return np.array([150.0, 120, 95]) + grain[..., None]


def pick_clip(n_frames=26, *, with_object=True, contact=CONTACT):
    """A dark arm with a shadow comes down from the top, takes a green box and carries it to the right.

    Returns pixels (T, SIDE, SIDE, 3) uint8, the box's visible pixels (T, SIDE, SIDE) bool.
    """
    background = table()
    pixels, truth = [], []
    for t in range(n_frames):
        tip_y = 30 + 60 * min(t / contact, 1)
        carried = max(t - contact - 1, 0)
        x = 60 + 5 * carried
        frame = background.copy()
        frame[int(tip_y) - 20 : int(tip_y) + 20, x + 24 : x + 46] *= 0.6  # the arm's shadow on the table
        mask = np.zeros((SIDE, SIDE), bool)
        if with_object:
            mask[86:110, x - 14 : x + 14] = True
            frame[mask] = (40, 190, 60)
            frame[86:92, x - 14 : x + 14] = (220, 220, 60)  # a second colour, so that the box has an edge inside
        arm = np.zeros((SIDE, SIDE), bool)
        arm[: int(tip_y), x - 9 : x + 9] = True
        frame[arm] = (50, 45, 60)
        for joint in range(int(tip_y) - 12, 0, -24):  # bands that move with the arm
            frame[max(joint - 8, 0) : joint, x - 9 : x + 9] = (90, 70, 110)
        pixels.append(frame.clip(0, 255).astype(np.uint8))
        truth.append(mask & ~arm)
    return np.stack(pixels), np.stack(truth)


def episode(pixels, *, camera_moves=False):
    times = np.arange(len(pixels)) / 5.0
    return Episode("clip", 0, "front", "", 5.0, pixels, times, camera_moves=camera_moves)


def by_colour(network, frames, scenery, context):
    """In place of the network: sees the box and the arm of `pick_clip` by their colours."""
    for frame in frames:
        red, green, blue = (frame[..., channel].astype(int) for channel in range(3))
        box = (green > red + 60) | (red > blue + 90)
        arm = (red < 110) & (blue > green + 5) & ~box
        shares = np.zeros((len(CLASSES), *frame.shape[:2]), np.float32)
        shares[CLASSES.index("object")], shares[CLASSES.index("robot")] = 0.9 * box, 0.9 * arm
        shares[0] = 1 - shares.sum(axis=0)
        yield shares, shares[0]


@pytest.fixture
def sees_colours(monkeypatch):
    monkeypatch.setattr(segmenter, "answers", by_colour)
    monkeypatch.setattr(segmenter, "handled_chance", lambda _: 0.9)


def segment(clip, size=(SIDE, SIDE)):
    return NanoSegmenter().segment(clip, size=size)


@pytest.mark.usefixtures("sees_colours")
def test_masks_are_what_the_network_sees_more_than_all_else():
    pixels, truth = pick_clip()
    masks = segment(episode(pixels))
    assert region_similarity(masks.object, truth).mean() > 0.85
    assert not (masks.object & masks.robot).any()
    np.testing.assert_allclose(masks.score, 0.9, atol=0.05)
    assert "reason" not in masks.report
    json.dumps(masks.report)


@pytest.mark.usefixtures("sees_colours")
def test_an_arm_alone_gets_no_mask_and_a_reason():
    masks = segment(episode(pick_clip(with_object=False)[0]))
    assert not masks.object.any()
    assert not masks.score.any()
    assert masks.report["reason"] == "nothing is handled"
    assert masks.robot.any()


def test_what_is_small_is_looked_at_again_from_nearer(monkeypatch):
    seen = []

    def answers(network, frames, scenery, context):
        seen.append(frames)
        yield from by_colour(network, frames, scenery, context)

    monkeypatch.setattr(segmenter, "answers", answers)
    monkeypatch.setattr(segmenter, "handled_chance", lambda _: 0.9)
    pixels, truth = pick_clip()
    masks = NanoSegmenter(working_px=96).segment(episode(pixels), size=(SIDE, SIDE))
    assert [frames.shape[1:3] for frames in seen] == [(96, 96)] * 2
    of = [(frames == frames[:, :1, :1]).all(axis=3).mean() for frames in seen]
    assert of[1] < of[0]  # less of it is the plain ground
    monkeypatch.setattr(segmenter, "action_window", lambda *_: None)
    once = NanoSegmenter(working_px=96).segment(episode(pixels), size=(SIDE, SIDE))
    better, worse = (region_similarity(each.object, truth).mean() for each in (masks, once))
    assert better > worse + 0.02


@pytest.mark.usefixtures("sees_colours")
@pytest.mark.parametrize(("chance", "drawn"), [(0.69, False), (0.71, True)])
def test_where_hardly_anything_is_handled_no_object_is_drawn(monkeypatch, chance, drawn):
    monkeypatch.setattr(segmenter, "handled_chance", lambda _: chance)
    masks = segment(episode(pick_clip()[0]))
    assert masks.object.any() == drawn
    assert masks.robot.any()
    assert masks.report["handled"] == chance
    assert ("reason" in masks.report) != drawn


def test_what_is_the_robots_or_the_objects_is_no_other_things(monkeypatch):
    names = dict.fromkeys(CLASSES)
    for name in names:
        names[name] = np.zeros((16, 32, 32), np.float32)
    names["object"][:, 4:12, 4:12], names["robot"][8:, 4:12, 4:8] = 0.8, 0.9
    names["object"][8:, 4:12, 4:8] = 0.1
    names["thing"][:, 20:28, 20:28] = 0.7

    def answers(network, frames, scenery, context):
        for frame in range(len(frames)):
            yield (
                np.stack(
                    [
                        cv2.resize(names[name][frame], frames.shape[2:0:-1], interpolation=cv2.INTER_NEAREST)
                        for name in CLASSES
                    ]
                ),
                None,
            )

    monkeypatch.setattr(segmenter, "answers", answers)
    monkeypatch.setattr(segmenter, "handled_chance", lambda _: 0.9)
    monkeypatch.setattr(segmenter, "action_window", lambda *_: None)  # these answers are of whole frames
    monkeypatch.setattr(segmenter, "moments", lambda *_: np.arange(16))
    masks = segment(episode(np.full((16, 32, 32, 3), 90, np.uint8)), size=(128, 128))
    shown = {name: np.kron(names[name] > 0.5, np.ones((1, 4, 4), bool)) for name in CLASSES}
    assert (masks.object == shown["object"]).all()
    assert (masks.robot == shown["robot"]).all()
    assert (masks.things.labels == shown["thing"]).all()
    assert masks.things.names == ("", "")


def test_of_several_pieces_the_one_that_is_seen_most_is_the_object(monkeypatch):
    def answers(network, frames, scenery, context):
        for _ in frames:
            shares = np.zeros((len(CLASSES), *frames.shape[1:3]), np.float32)
            at = CLASSES.index("object")
            shares[at, 8:40, 8:40], shares[at, 60:90, 100:150] = 0.9, 0.6  # the second has 1.46 times the pixels
            shares[0] = 1 - shares.sum(axis=0)
            yield shares, shares[0]

    monkeypatch.setattr(segmenter, "answers", answers)
    masks = segment(episode(pick_clip()[0]))
    assert masks.object[:, 12:36, 12:36].all()
    assert not masks.object[:, 50:].any()
    np.testing.assert_allclose(masks.score, 0.9, atol=0.03)


def through_a_window(maps, moves):
    """128 x 128 pixels of maps (T, SIDE, SIDE, ...): at rest, or where a hand holds the camera."""
    when = np.linspace(0, 2 * np.pi, len(maps)) * moves
    places = zip(16 + 12 * np.sin(when), 16 + 12 * np.sin(2 * when), strict=True)
    return np.stack(
        [each[round(y) : round(y) + 128, round(x) : round(x) + 128] for each, (y, x) in zip(maps, places, strict=True)]
    )


def test_a_moving_camera_gets_the_masks_that_a_still_one_would_get():
    pixels, truth = pick_clip()
    still = segment(episode(through_a_window(pixels, 0)), size=(128, 128))
    moving = segment(episode(through_a_window(pixels, 1), camera_moves=None), size=(128, 128))
    assert moving.report["camera_motion"] is True
    assert moving.report["steadied"] == len(pixels)
    assert "reason" not in moving.report
    of_still, of_moving = (
        region_similarity(masks.object, through_a_window(truth, moves)).mean()
        for moves, masks in enumerate((still, moving))
    )
    assert of_moving > of_still - 0.1 > 0.4
    assert not (moving.robot & moving.object).any()
    assert moving.things.labels.shape == moving.object.shape
    assert moving.score.shape == (len(pixels),)


def test_what_is_handled_is_seen_where_a_moving_camera_shows_it():
    pixels, truth = (through_a_window(maps, 1) for maps in pick_clip())
    handled = NanoSegmenter().handled(episode(pixels, camera_moves=True))
    shown = np.stack([cv2.resize(share, (128, 128)) for share in handled.shares]) > 0.5
    assert region_similarity(shown, truth[handled.at]).mean() > 0.9  # 0.78 by the frames as they are


def test_a_camera_that_leaves_the_scene_is_reported_and_gives_no_mask():
    world = np.concatenate([table(seed) for seed in range(5)], axis=1).clip(0, 255).astype(np.uint8)
    pixels = np.stack([world[:, 30 * t : 30 * t + SIDE] for t in range(20)])
    masks = segment(episode(pixels, camera_moves=None))
    assert masks.report["camera_motion"] is True
    assert "camera moves" in masks.report["reason"]
    assert not masks.object.any()
    assert masks.robot is None


def test_what_was_measured_before_decides_whether_the_camera_moves():
    masks = segment(episode(pick_clip()[0], camera_moves=True), size=(48, 48))
    assert masks.report["camera_motion"] is True
    assert masks.report["steadied"] == len(masks.object)


@functools.cache
def seen_by_the_network():
    return segment(episode(pick_clip()[0]), size=(64, 64))


def test_the_network_tells_the_robot_apart_from_the_object():
    masks = seen_by_the_network()
    assert masks.robot.any()
    assert not (masks.robot & masks.object).any()
    assert not (masks.things.labels > 0)[masks.robot | masks.object].any()
    assert masks.report["backend"] == "nano"


def test_the_result_does_not_depend_on_repetition_or_opencvs_threads():
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        again = segment(episode(pick_clip()[0]), size=(64, 64))
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(seen_by_the_network().object, again.object)
    np.testing.assert_array_equal(seen_by_the_network().score, again.score)
    assert seen_by_the_network().report == again.report


@pytest.mark.usefixtures("sees_colours")
def test_masks_come_at_the_size_asked_for_also_from_other_shapes():
    pixels, truth = pick_clip()
    wide = np.stack([cv2.resize(frame, (SIDE * 2, SIDE)) for frame in pixels])
    masks = segment(episode(wide), size=(80, 80))
    small = np.stack([cv2.resize(each.astype(np.uint8), (80, 80)) for each in truth]) > 0
    assert masks.object.shape == (len(pixels), 80, 80)
    assert region_similarity(masks.object, small).mean() > 0.7


@pytest.mark.usefixtures("sees_colours")
@pytest.mark.parametrize("n_frames", [*range(1, 8), 17, 40])
@pytest.mark.parametrize("fps", [1.0, 7.0, 30.0, 60.0])
def test_any_length_and_rate_gives_masks_or_a_reason(n_frames, fps):
    pixels, _ = pick_clip(max(n_frames, 2), contact=max(n_frames // 2, 1))
    masks = segment(replace(episode(pixels[:n_frames]), fps=fps), size=(48, 64))
    assert masks.object.shape == (n_frames, 48, 64)
    assert masks.score.shape == (n_frames,)
    assert masks.object.any() or masks.report["reason"]


@pytest.mark.usefixtures("sees_colours")
@pytest.mark.parametrize("fps", [10.0, 30.0, 60.0])
def test_repeated_frames_do_not_change_the_masks(fps):
    pixels, _ = pick_clip()
    repeat = int(fps / 5)
    often = replace(episode(pixels.repeat(repeat, axis=0)), fps=fps)
    # The moments are those of the clip at 5 frames a second, and perhaps one more at the end.
    similarity = region_similarity(segment(often).object[::repeat], segment(episode(pixels)).object)
    assert similarity.mean() > 0.95


@pytest.mark.shared
@pytest.mark.slow
def test_the_ground_truth_is_met_on_the_fixed_cameras():
    folder = shared_data("groundtruth_dev")
    similarity = [result.region for result in measure(folder) if not result.moving_camera]
    assert len(similarity) == 9
    assert np.mean(similarity) >= 0.5
