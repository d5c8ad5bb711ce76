"""Contact: grasps, pushes, closings on nothing, and signals that are poor or missing."""

from __future__ import annotations

import numpy as np
import pytest

from extractors.contact import PROBABILITY, ContactRule
from extractors.contact import estimate_contact as estimate
from extractors.errors import GeometryError, ShapeError
from extractors.types import SceneTracks

T = 40
WIDTH = 224


def estimate_contact(opening, **signals):
    return estimate(opening, **{"fps": 5.0} | signals)


def gripper(close_at, open_at=T, *, ramp=4, open_level=1.0, held_level=0.2):
    """Opening that starts to close at `close_at`, takes `ramp` frames, and opens in one frame."""
    opening = np.full(T, open_level)
    down = np.arange(close_at, min(close_at + ramp, T))
    opening[down] = open_level + (held_level - open_level) * (down - close_at + 1) / ramp
    opening[close_at + ramp : open_at] = held_level
    return opening


def scene(moves, *, robot_at=None, jitter=0.0, pan=0.0, seed=0):
    """A 30 px object that moves 3 px in each frame of `moves`; 60 points on it and 100 on the static scene.

    `robot_at`: distance between the object's edge and a robot mask that follows it, pixels per frame (T,).
    """
    rng = np.random.default_rng(seed)
    x = 60 + 3.0 * np.cumsum(np.isin(np.arange(T), list(moves)))
    masks = np.zeros((T, WIDTH, WIDTH), bool)
    robot = np.zeros_like(masks)
    for t in range(T):
        left = round(x[t])
        masks[t, 100:130, left : left + 30] = True
        if robot_at is not None:
            robot[t, 80:140, max(left - int(robot_at[t]) - 25, 0) : max(left - int(robot_at[t]), 0)] = True
    own = rng.uniform((0, 100), (30, 130), (60, 2))[None] + np.stack([x, np.zeros(T)], -1)[:, None]
    still = np.broadcast_to(rng.uniform(0, WIDTH, (100, 2)), (T, 100, 2))
    xy = np.concatenate([own, still], axis=1) + rng.normal(0, jitter, (T, 160, 2))
    xy = xy + pan * np.arange(T)[:, None, None]
    return {
        "masks": masks,
        "tracks": SceneTracks(xy.astype(np.float32), np.ones((T, 160), bool), np.arange(160) < 60, WIDTH),
        "robot_masks": None if robot_at is None else robot,
    }


CLOSE = np.full(T, 1)
FAR = np.full(T, 20)


def touched(contact):
    return np.flatnonzero(contact.probability > 0.5).tolist()


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_a_grasp_is_seen_from_touch_to_release(jitter):
    found = estimate_contact(gripper(12, 30), **scene(range(15, 30), robot_at=CLOSE, jitter=jitter))
    assert abs(found.onset - 14) <= 1  # closing from 12 to 15, the object moves at 15
    assert touched(found) == list(range(found.onset, 30))
    assert found.held[16:30].all()
    assert not found.held[:12].any()
    assert found.probability[20] == pytest.approx(PROBABILITY["grasp seen"])


def test_a_grasp_goes_on_while_the_held_object_rests():
    found = estimate_contact(gripper(12, 35), **scene([*range(15, 18), *range(28, 35)], robot_at=CLOSE))
    assert touched(found) == list(range(found.onset, 35))


def test_a_gripper_that_closes_on_nothing_is_no_contact():
    found = estimate_contact(gripper(12), **scene([], robot_at=CLOSE))
    assert found.onset == -1
    assert not found.held.any()


def test_a_gripper_that_closes_away_from_an_object_and_pushes_it_later():
    distance = np.where(np.arange(T) < 18, 30, 1)
    found = estimate_contact(gripper(5), **scene(range(20, 30), robot_at=distance))
    assert touched(found) == list(range(20, 30))
    assert not found.held.any()  # closed fingers push, they do not hold


def test_closed_fingers_that_take_an_object_there_and_back_hold_it():
    distance = np.where(np.arange(T) < 18, 30, 1)
    there = scene(range(20, 26), robot_at=distance)
    back = 6.0 * np.clip(np.arange(T) - 25, 0, 3)  # 18 px there, and as far back
    own = there["tracks"]
    xy = own.xy - (back[:, None] * own.on_object)[..., None] * np.float32([1, 0])
    masks = np.stack([np.roll(mask, -round(by), axis=1) for mask, by in zip(there["masks"], back, strict=True)])
    clip = {"tracks": SceneTracks(xy, own.visibility, own.on_object, WIDTH), "masks": masks}
    robot = np.stack([np.roll(mask, -round(by), axis=1) for mask, by in zip(there["robot_masks"], back, strict=True)])
    found = estimate_contact(gripper(5), **clip, robot_masks=robot)
    assert found.onset == 20
    assert found.held[20:].all()
    assert not found.held[:20].any()


def test_a_push_with_the_gripper_open_or_unknown():
    for opening in (np.ones(T), None):
        found = estimate_contact(opening, **scene(range(10, 20), robot_at=CLOSE))
        assert touched(found) == list(range(10, 20))
        assert not found.held.any()


def test_an_object_that_moves_far_from_the_robot_is_not_touched():
    found = estimate_contact(None, **scene(range(10, 20), robot_at=FAR))
    assert found.onset == -1


def test_a_scene_that_settles_when_the_clip_starts_is_not_touched():
    found = estimate_contact(gripper(15, 30), **scene([1, 2, 3, *range(17, 30)], robot_at=CLOSE))
    assert abs(found.onset - 17) <= 1


def test_a_slow_start_of_a_push_belongs_to_it():
    clip = scene(range(20, 30), robot_at=CLOSE)
    slow = 0.2 * np.clip(np.arange(T) - 12, 0, 8)
    own = clip["tracks"]
    moved = own.xy + (slow[:, None] * own.on_object)[..., None]
    clip["tracks"] = SceneTracks(moved.astype(np.float32), own.visibility, own.on_object, WIDTH)
    assert abs(estimate_contact(None, **clip).onset - 13) <= 1


@pytest.mark.parametrize(
    ("opening", "onset"),
    [
        (gripper(12, 30), 14),
        (gripper(12, 30, open_level=0.6, held_level=0.35), 14),  # never fully open
        (gripper(6, 30, ramp=12), 15),  # slow: it touches where it stops, frame 17, at most two frames before
        (gripper(12, 30, held_level=0.0), 14),
    ],
)
def test_without_vision_the_gripper_alone_decides(opening, onset):
    found = estimate_contact(opening)
    assert abs(found.onset - onset) <= 1
    assert touched(found) == list(range(found.onset, 30))
    assert found.held[touched(found)].all()


def test_two_grasps_are_two_contacts():
    opening = np.minimum(gripper(5, 12), gripper(22, 33))
    assert touched(estimate_contact(opening)) == [*range(7, 12), *range(24, 33)]


def test_a_commanded_gripper_touches_a_little_after_the_command():
    command = np.where((np.arange(T) >= 10) & (np.arange(T) < 25), 0.0, 1.0)
    found = estimate_contact(None, action_gripper=command)
    assert found.onset == 10 + ContactRule().command_delay_s * 5
    assert found.report["gripper_signal"] == "command"


@pytest.mark.parametrize("opening", [np.ones(T), np.zeros(T), np.full(T, 0.4), 0.5 + 0.02 * np.sin(np.arange(T))])
def test_a_constant_gripper_says_nothing(opening):
    found = estimate_contact(opening)
    assert (found.probability == np.float32(PROBABILITY["no evidence"])).all()
    assert found.onset == -1
    assert not found.held.any()
    assert "constant" in found.report["gripper_signal"]


def test_no_gripper_column_and_no_vision_need_a_length():
    found = estimate_contact(None, n_frames=7)
    assert found.probability.shape == (7,)
    assert found.onset == -1
    with pytest.raises(ShapeError, match="n_frames"):
        estimate_contact(None)


def test_gaps_in_the_gripper_signal_are_bridged():
    opening = gripper(12, 30)
    opening[[3, 20, 21]] = np.nan
    assert abs(estimate_contact(opening).onset - 14) <= 1
    assert estimate_contact(np.full(T, np.nan)).onset == -1


def test_a_moving_camera_leaves_it_to_the_gripper():
    found = estimate_contact(gripper(12, 30), **scene(range(15, 30), pan=2.0), camera_moves=True)
    assert found.report["vision"] == "moving camera"
    assert touched(found) == touched(estimate_contact(gripper(12, 30)))


def test_masks_alone_show_motion():
    clip = scene(range(15, 30), robot_at=CLOSE)
    found = estimate_contact(gripper(12, 30), masks=clip["masks"], robot_masks=clip["robot_masks"])
    assert found.report["vision"] == "masks"
    assert abs(found.onset - 14) <= 1
    assert found.probability[20] == pytest.approx(PROBABILITY["grasp seen"])


def test_pixels_follow_the_frames_width():
    clip = scene(range(15, 30), robot_at=CLOSE)
    big = clip | {
        "masks": clip["masks"].repeat(2, 1).repeat(2, 2),
        "robot_masks": clip["robot_masks"].repeat(2, 1).repeat(2, 2),
        "tracks": SceneTracks(
            clip["tracks"].xy * 2 + 0.5, clip["tracks"].visibility, clip["tracks"].on_object, 2 * WIDTH
        ),
    }
    assert touched(estimate_contact(None, **big)) == touched(estimate_contact(None, **clip))


def test_a_signal_in_another_unit_is_refused():
    with pytest.raises(GeometryError, match="scale"):
        estimate_contact(gripper(12) * 80)  # millimetres between the fingers


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ShapeError, match="length"):
        estimate_contact(np.ones(T), masks=np.zeros((T + 1, 8, 8), bool))
    clip = scene(range(3))
    with pytest.raises(ShapeError, match="visibility"):
        SceneTracks(clip["tracks"].xy, clip["tracks"].visibility[:2], clip["tracks"].on_object, WIDTH)
    with pytest.raises(GeometryError, match="frame rate"):
        estimate_contact(None, **clip, fps=0.0)
    with pytest.raises(ShapeError, match="robot"):
        estimate_contact(None, **clip | {"robot_masks": np.zeros((T, 8, 8), bool)})


def push(fps, *, speed_px_s=12.0, rest_s=2.0, push_s=3.0, jitter=0.0, seed=0):
    """An object of 224-pixel frames that rests, is pushed at `speed_px_s` by a robot beside it, and rests again."""
    rng = np.random.default_rng(seed)
    times = np.arange(round((2 * rest_s + push_s) * fps) + 1) / fps
    x = 60 + speed_px_s * np.clip(times - rest_s, 0, push_s)
    masks, robot = (np.zeros((len(times), WIDTH, WIDTH), bool) for _ in range(2))
    for t, left in enumerate(np.rint(x).astype(int)):
        masks[t, 100:130, left : left + 30] = True
        robot[t, 80:140, left - 26 : left - 1] = True
    own = rng.uniform((0, 100), (30, 130), (60, 2))[None] + np.stack([x, 0 * x], -1)[:, None]
    still = np.broadcast_to(rng.uniform(0, WIDTH, (100, 2)), (len(times), 100, 2))
    xy = np.concatenate([own, still], axis=1) + rng.normal(0, jitter, (len(times), 160, 2))
    tracks = SceneTracks(xy, np.ones(xy.shape[:2], bool), np.arange(160) < 60, WIDTH)
    return times, {"masks": masks, "robot_masks": robot, "tracks": tracks, "fps": float(fps)}


@pytest.mark.parametrize("jitter", [0.0, 0.15])
@pytest.mark.parametrize("fps", [1, 2, 3, 5, 8, 10, 15, 24, 25, 30, 50, 60])
def test_a_push_is_found_for_as_long_as_it_lasts_at_any_rate(fps, jitter):
    """12 px/s for 3 s was found whole up to 15 frames/s and not at all at 30 and 50, when thresholds were per frame."""
    times, clip = push(fps, jitter=jitter)
    found = estimate_contact(None, **clip)
    lasts = (found.probability > 0.5).sum() / fps
    assert lasts == pytest.approx(3.0, abs=max(0.3, 1.01 / fps))
    assert times[found.onset] == pytest.approx(2.0, abs=max(0.3, 1.01 / fps))


@pytest.mark.parametrize("fps", [5, 15, 30, 60])
def test_what_rests_is_not_pushed_at_any_rate(fps):
    _, clip = push(fps, speed_px_s=0.0, jitter=0.2)
    assert estimate_contact(None, **clip).onset == -1


@pytest.mark.parametrize("fps", [2, 5, 10, 20, 30, 60])
def test_a_gripper_touches_and_lets_go_at_the_same_time_at_any_rate(fps):
    times = np.arange(round(8 * fps) + 1) / fps
    # Closes from 1 to 0.2 between 2.4 and 3.2 s, opens at 6 s; the last digit of its encoder jumps.
    opening = np.interp(times, (2.4, 3.2, 6.0, 6.2), (1.0, 0.2, 0.2, 1.0))
    opening = np.round(opening + 0.001 * np.sin(37 * times), 3)
    found = estimate_contact(opening, fps=float(fps))
    assert times[found.onset] == pytest.approx(3.0, abs=max(0.2, 1 / fps))
    assert times[np.flatnonzero(found.held)[-1]] == pytest.approx(6.05, abs=max(0.15, 1 / fps))


@pytest.mark.parametrize("fps", [5, 30])
def test_an_object_whose_points_are_lost_while_it_is_carried_is_followed_by_its_mask(fps):
    times, clip = push(fps)
    tracks = clip["tracks"]
    seen = tracks.visibility & ~((times > 2) & (times < 5.0))[:, None]
    clip["tracks"] = SceneTracks(tracks.xy, np.where(tracks.on_object, seen, True), tracks.on_object, WIDTH)
    found = estimate_contact(None, **clip)
    assert (found.probability > 0.5).sum() / fps == pytest.approx(3.0, abs=0.5)


@pytest.mark.parametrize("n_frames", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("fps", [1, 5, 30, 60])
def test_the_shortest_clips_have_a_contact(n_frames, fps):
    _, clip = push(5)
    clip["tracks"] = SceneTracks(
        clip["tracks"].xy[:n_frames], clip["tracks"].visibility[:n_frames], clip["tracks"].on_object, WIDTH
    )
    short = {name: clip[name][:n_frames] for name in ("masks", "robot_masks")}
    found = estimate_contact(np.linspace(1, 0, n_frames), **clip | short | {"fps": float(fps)})
    assert found.probability.shape == (n_frames,)
