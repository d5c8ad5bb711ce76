import numpy as np
import pytest

from extractors.errors import ShapeError
from extractors.motion import active_span, describe_motion, find_phases, motion_speed
from extractors.phases import PHASES, phase_ends
from extractors.types import Contact, SceneTracks

RATES = [1, 2, 5, 7, 10, 15, 24, 30, 50, 60]
"""Frames per second. The story's shortest part lasts 2 s, so that each part is seen at all of them."""

STORY = [("idle", 2), ("approach", 3), ("grasp", 2), ("transport", 4), ("release", 2), ("retract", 3), ("idle", 2)]


def story(rate, parts=STORY):
    """Signals of a story told by (phase, seconds), and its codes."""
    names = [name for name, seconds in parts for _ in range(seconds * rate)]
    touch = np.isin(names, ["grasp", "transport", "release", "push"])
    held = np.isin(names, ["grasp", "transport", "release"])
    thing = np.where(np.isin(names, ["transport", "push"]), 0.2, 0.001)
    robot = np.where(np.isin(names, ["idle", "grasp", "release"]), 0.002, 0.2)
    signals = (touch * 0.9).astype(np.float32), held, thing.astype(np.float32), robot.astype(np.float32)
    return (*signals, np.arange(len(names)) / rate), np.array([PHASES.index(name) for name in names])


@pytest.mark.parametrize("rate", RATES)
def test_a_grasp_is_told_from_beginning_to_end_at_every_rate(rate):
    signals, codes = story(rate)
    np.testing.assert_array_equal(find_phases(*signals), codes)
    assert [name for name, _, _ in phase_ends(codes.astype(np.uint8))] == [name for name, _ in STORY]


@pytest.mark.parametrize("rate", RATES)
def test_what_closing_fingers_shift_is_not_carried_yet(rate):
    signals, codes = story(rate)
    contact, held, thing, robot, times = signals
    thing[codes == PHASES.index("grasp")] = 0.015  # above what rests, below a tenth of what is carried
    np.testing.assert_array_equal(find_phases(contact, held, thing, robot, times), codes)


@pytest.mark.parametrize("rate", RATES)
def test_a_push_is_told_at_every_rate(rate):
    signals, codes = story(rate, [("idle", 2), ("approach", 3), ("push", 3), ("retract", 2)])
    np.testing.assert_array_equal(find_phases(*signals), codes)


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate >= 10])
def test_a_flicker_shorter_than_a_pause_changes_nothing(rate):
    signals, codes = story(rate)
    contact, _, thing, robot, _ = signals
    contact[9 * rate] = 0
    thing[8 * rate] = 0
    robot[3 * rate] = 0
    thing[5 * rate + 1] = 0.5
    np.testing.assert_array_equal(find_phases(*signals), codes)


def test_what_is_not_sure_is_unknown():
    signals, _ = story(10, [("approach", 2), ("push", 2), ("retract", 2), ("push", 2), ("retract", 2)])
    codes = find_phases(*signals)
    assert set(codes[40:60]) == {PHASES.index("unknown")}
    contact, held, thing, robot, times = story(10)[0]
    codes = find_phases(contact, held, np.full_like(thing, np.nan), np.full_like(robot, np.nan), times)
    assert set(codes) == {PHASES.index("unknown")}


@pytest.mark.parametrize("length", [1, 2, 3, 2000])
def test_clips_of_any_length_have_phases(length):
    still = np.zeros(length, np.float32)
    codes = find_phases(still, still.astype(bool), still, still, np.arange(length) / 5)
    assert (codes == PHASES.index("idle")).all()
    assert phase_ends(codes) == [("idle", 0, length - 1)]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("width", [64, 224, 640])
def test_a_speed_is_that_of_the_points_whatever_the_rate_and_the_width(rate, width):
    times = np.arange(3 * rate + 1) / rate
    xy = np.zeros((len(times), 7, 2), np.float32)
    xy[:, :4, 0] = (0.1 * width * times)[:, None]
    xy[:, 3, 1] = 5 * times  # one of four that strays
    of = np.arange(7) < 4
    seen = np.ones((len(times), 7), bool)
    np.testing.assert_allclose(motion_speed(xy, seen, of, times, width), 0.1, rtol=1e-3)
    np.testing.assert_allclose(motion_speed(xy, seen, ~of, times, width), 0, atol=1e-6)


def test_frames_without_a_point_have_no_speed():
    xy, seen, times = np.zeros((5, 3, 2), np.float32), np.ones((5, 3), bool), np.arange(5.0)
    seen[2] = False
    speeds = motion_speed(xy, seen, np.ones(3, bool), times, 100)
    np.testing.assert_array_equal(np.isnan(speeds), [False, True, False, True, False])
    assert np.isnan(motion_speed(xy[:1], seen[:1], np.ones(3, bool), times[:1], 100)).all()
    assert np.isnan(motion_speed(xy, seen, np.zeros(3, bool), times, 100)).all()
    with pytest.raises(ShapeError, match="wanted xy"):
        motion_speed(xy, seen, np.ones(4, bool), times, 100)


def test_the_active_span_is_from_first_to_last_motion():
    assert active_span(np.array([0, np.nan, 0.2, 0, 0.3, 0], np.float32), 0.1) == (2, 5)
    assert active_span(np.array([0, np.nan], np.float32), 0.1) is None


def carried(n_frames, rate, *, width=64):
    """A clip told by points: the robot's two and the object's four, of which it takes the last half along."""
    times = np.arange(n_frames) / rate
    pickup = times[n_frames // 2] if n_frames > 1 else 0.0
    place = 0.1 * width * times
    xy = np.full((n_frames, 9, 2), 30.0, np.float32)
    xy[:, :2, 0] = place[:, None]
    xy[:, 2:6, 0] += (0.1 * width * np.maximum(times - pickup, 0))[:, None]
    xy[:, 2:6] += [[0, 0], [1, 0], [0, 1], [1, 1]]
    on_object = np.zeros(9, bool)
    on_object[2:6] = True
    touch = times >= pickup
    contact = Contact(touch.astype(np.float32), int(np.argmax(touch)), touch)
    tracks = SceneTracks(xy, np.ones((n_frames, 9), bool), on_object, width)
    return times, {"tracks": tracks, "contact": contact}


@pytest.mark.parametrize("rate", [*RATES, 0.5, 59.94])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 40, 333, 2000])
def test_every_length_and_rate_has_speeds_and_phases(rate, length):
    times, cues = carried(length, rate)
    motion = describe_motion(times, **cues)
    assert motion.phase.shape == motion.robot.shape == motion.object.shape == (length,)
    assert motion.phase.max() < len(PHASES)
    if length == 1:
        assert np.isnan(motion.robot).all()
        assert motion.active == (0, 0)
        return
    np.testing.assert_allclose(motion.robot, 0.1, rtol=1e-3)
    assert motion.active == (0, length)
    if length / rate > 4:
        names = [name for name, _, _ in phase_ends(motion.phase)]
        assert names == ["approach", "transport"] or names == ["approach", "grasp", "transport"]
        half = np.flatnonzero(motion.phase == PHASES.index("transport"))[0]
        assert abs(half - length // 2) <= 2


def test_a_moving_camera_leaves_the_image_out_and_the_hand_tells():
    times, cues = carried(40, 10)
    motion = describe_motion(times, **cues, camera_moves=True)
    assert np.isnan(motion.object).all()
    assert not motion.phase.any()
    hand = np.stack([0.05 * times, 0 * times, 0 * times], axis=1)
    motion = describe_motion(times, **cues, camera_moves=True, hand=hand)
    assert np.isnan(motion.object).all()
    assert [name for name, _, _ in phase_ends(motion.phase)] == ["approach", "transport"]
    assert motion.active == (0, 40)


def test_points_off_the_mask_say_nothing_of_the_object():
    times, cues = carried(40, 10)
    masks = np.zeros((40, 64, 64), bool)
    masks[:, 28:34, 28:34] = True  # where the object was
    motion = describe_motion(times, **cues, masks=masks)
    assert np.isfinite(motion.object[:20]).all()
    assert np.isnan(motion.object[-5:]).all()


def test_points_on_the_robots_mask_are_the_robot():
    times, cues = carried(40, 10)
    robot = np.zeros((40, 64, 64), bool)
    robot[:, 25:35, :40] = True
    still = describe_motion(times, tracks=cues["tracks"], robot_masks=~robot)
    assert np.isnan(still.robot).all()
    moving = describe_motion(times, **cues, robot_masks=robot)
    np.testing.assert_allclose(moving.robot[5:20], 0, atol=1e-6)  # most of the points on it rest
    assert not still.phase.any()


def test_a_held_object_that_is_turned_far_is_poured_from():
    times, cues = carried(60, 10)
    xy = cues["tracks"].xy.copy()
    centre = xy[:, 2:6].mean(axis=1, keepdims=True)
    angle = np.radians(np.clip((times - times[35]) * 90, 0, 80))[:, None]
    x, y = np.moveaxis(xy[:, 2:6] - centre, -1, 0)
    turned = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], axis=-1)
    xy[:, 2:6] = centre + turned
    tracks = SceneTracks(xy, cues["tracks"].visibility, cues["tracks"].on_object, 64)
    names = [name for name, _, _ in phase_ends(describe_motion(times, tracks=tracks, contact=cues["contact"]).phase)]
    assert names == ["approach", "transport", "pour"]
