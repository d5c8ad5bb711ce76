import builtins
import json
from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from extractors.errors import ConfigError
from flows.commands.sources import CAMERA_PATHS, SCENE_KINDS
from flows.scenes.camera_effects import h264, spoil
from flows.scenes.camera_paths import PATHS
from flows.scenes.drawing import Painter, shade
from flows.scenes.episodes import arrays, record, write_scenes
from flows.scenes.parts import moving_part
from flows.scenes.poses import look_at, pose, quaternion, turn
from flows.scenes.skills import MIXTURE, SKILLS, Task, Waypoint, opens, play
from flows.scenes.things import KINDS, random_thing
from flows.scenes.world import random_world
from tests.benchmarks.groundtruth import read_groundtruth


@pytest.fixture(scope="module")
def painter():
    pytest.importorskip("mujoco", reason="scenes need the extra `scenes`")
    try:
        made = Painter()
    except ConfigError as error:
        pytest.skip(f"no software renderer here: {error}")
    yield made
    made.close()


def test_the_command_lists_the_skills_and_the_ways_of_a_camera():
    assert tuple(SKILLS) == SCENE_KINDS
    assert tuple(PATHS) == CAMERA_PATHS


def test_a_seed_gives_the_same_episode_again(painter):
    one, other = (arrays(record(painter, (3, 1), (64, 64), frames=6)) for _ in range(2))
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
    different = record(painter, (4, 1), (64, 64), frames=6)
    assert (different.pixels != one["rgb"]).any()


@pytest.mark.parametrize("skill", SKILLS)
def test_what_a_skill_says_is_what_is_drawn(painter, skill):
    made = record(painter, (7,), (96, 96), skill=skill, frames=10)
    told = arrays(made)
    assert (told["depth"] > 0).mean() > 0.95
    assert set(np.unique(made.classes)) <= {0, 1, 2, 3}
    moved = np.abs(told["object_pose"] - told["object_pose"][0]).max() > 0.02
    if skill == "idle":
        assert not told["object_mask"].any()
        assert not told["contact"].any()
        assert not moved
    else:
        assert told["object_mask"].any()
        assert told["contact"].any()
        assert moved


def test_tracks_go_with_the_body_under_them(painter):
    told = arrays(record(painter, (5,), (96, 96), skill="pick-place", frames=12))
    mask, query = told["object_mask"] > 0, int(told["obj_query_frame"])
    x, y = np.round(told["obj_xy"][query]).astype(int).T
    assert mask[query, y, x].all()
    for frame in range(len(mask)):
        seen = told["obj_vis"][frame]
        x, y = np.round(told["obj_xy"][frame, seen]).astype(int).clip(0, 95).T
        near = mask[frame, (y - 1).clip(0), x] | mask[frame, y, x] | mask[frame, (y + 1).clip(max=95), x]
        near |= mask[frame, y, (x - 1).clip(0)] | mask[frame, y, (x + 1).clip(max=95)]
        assert near.mean() > 0.95 if seen.any() else True


def test_files_are_read_as_ground_truth(painter, tmp_path):
    (path,) = write_scenes(tmp_path / "out", 1, 2, kind="push", size=(64, 64), frames=8)
    truth = read_groundtruth(path)
    assert truth.episode.n_frames == len(truth.depth) <= 8
    assert truth.object_mask.any()
    assert truth.meta["things"][:3] == ["scene", "robot", "object"]
    with np.load(path) as data:
        assert data["things"].max() < len(json.loads(str(data["meta"]))["things"])


def test_one_camera_sees_many_worlds(painter, tmp_path):
    def seen(path):
        with np.load(path) as data:
            return data["T_world_cam"][0], data["K"], data["ee_pose"][0], data["rgb"][0]

    of_one, of_each = (
        [seen(path) for path in write_scenes(tmp_path / str(one), 3, 2, size=(64, 64), frames=4, one_camera=one)]
        for one in (True, False)
    )
    for (camera, lens, hand, picture), (other, other_lens, other_hand, other_picture) in pairwise(of_one):
        np.testing.assert_array_equal(camera, other)
        np.testing.assert_array_equal(lens, other_lens)
        assert not np.allclose(hand, other_hand)
        assert (picture != other_picture).any()
    assert len({tuple(camera.ravel()) for camera, *_ in of_each}) == 3


@pytest.mark.parametrize("moves", PATHS)
def test_points_at_rest_are_where_a_moving_camera_sees_them(painter, moves):
    made = record(painter, (11, 4), (96, 96), skill="pick-place", frames=10, moves=moves)
    told = arrays(made)
    assert json.loads(str(told["meta"]))["moving_camera"] is (moves != "still")
    assert bool(np.ptp(told["T_world_cam"], axis=0).any()) is (moves != "still")
    seen = told["grid_vis"] & (told["grid_body"] < 0)
    assert seen.sum() > 0.4 * seen.size
    for frame, depth in enumerate(told["depth"]):
        x, y = told["grid_xy"][frame, seen[frame]].round().astype(int).clip(0, 95).T
        off = np.abs(depth[y, x] / told["grid_z"][frame, seen[frame]] - 1)
        assert np.median(off) < 0.01
        assert (off < 0.1).mean() > 0.9


@pytest.mark.parametrize(("size", "skill"), [((63, 64), None), ((8, 8), None), ((64, 64), "juggle")])
def test_what_cannot_be_drawn_is_refused(painter, size, skill):
    with pytest.raises(ConfigError, match="got"):
        record(painter, (0,), size, skill=skill)


def test_an_unknown_way_of_a_camera_is_refused(painter):
    with pytest.raises(ConfigError, match="cameras are still, trembling"):
        record(painter, (0,), (64, 64), moves="orbits")


def test_a_missing_mujoco_is_named(monkeypatch):
    plain = builtins.__import__

    def without(name, *rest, **named):
        if name == "mujoco":
            raise ImportError("No module named 'mujoco'")
        return plain(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"needs MuJoCo.*pip install 'cuepack\[scenes\]'"):
        Painter()


def test_a_held_thing_goes_rigidly_with_the_hand():
    start = Waypoint((0, 0, 0.1), 0.0, 0.0, 0.0, 0.05)
    path = [start, Waypoint((0.1, 0.0, 0.2), 1.0, 0.2, 0.3, 0.05, seconds=1.0, holds=True, touches=True)]
    at = pose(turn(2, 0.4), (0.02, 0.01, 0.0))
    hands, _, things, contact = play(path, at, np.linspace(0, 1, 5))
    for hand, thing in zip(hands, things, strict=True):
        np.testing.assert_allclose(np.linalg.inv(hand) @ thing, np.linalg.inv(start.hand) @ at, atol=1e-9)
    assert contact == [False, True, True, True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_things_have_the_size_they_are_asked_for(kind):
    for seed in range(5):
        thing = random_thing(np.random.default_rng(seed), "thing", 0.05, (kind,))
        assert 0.01 < thing.radius < 0.15
        assert 0.002 < thing.height < 0.2
        assert 0 <= thing.grasp[0] <= thing.height + 0.02


def test_a_moving_part_keeps_to_its_hinge_and_lids_open_upwards():
    kinds = {}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        yaw = rng.uniform(0, 6)
        thing, part, height = moving_part(rng)
        closed = pose(turn(2, yaw), (0.1, -0.05, height))
        task = Task(thing, closed, np.zeros(3), 0.08, 0.2, 0.3, 0.2, part)
        task.begin(rng)
        opens(rng, task)
        times = np.linspace(0, sum(each.seconds for each in task.path), 60)
        _, _, poses, contact = play(task.path, task.at, times)
        away = np.array([(each @ [*part.handle, 1])[:3] for each in poses]) - (closed @ [*part.handle, 1])[:3]
        assert np.linalg.norm(away, axis=1).max() > 0.02
        assert any(contact)
        if part.hinge is not None:
            hinge = np.array([(each @ [*part.hinge, 1])[:3] for each in poses])
            # Between two way-points the hand goes straight.
            assert np.linalg.norm(hinge - hinge[0], axis=1).max() < 0.006
        else:
            sideways = away - np.outer(away @ closed[:3, 1], closed[:3, 1])
            assert np.abs(sideways).max() < 1e-6
        if thing.noun == "lid":
            assert away[:, 2].min() > -1e-3
        kinds[thing.noun] = kinds.get(thing.noun, 0) + 1
    assert set(kinds) == {"drawer", "door", "lid", "lever"}


def test_corners_get_less_light_and_planes_keep_theirs():
    y = np.arange(64.0)
    plane = np.broadcast_to((1 + 0.002 * y)[:, None], (2, 64, 64)).astype(np.float32)
    corner = plane.copy()
    corner[:, 30:34] += 0.04
    pixels = np.full((2, 64, 64, 3), 200, np.uint8)
    for seed in range(5):
        flat, bent = (shade(np.random.default_rng(seed), pixels, depth) for depth in (plane, corner))
        assert flat[:, 16:48].min() >= 198
        assert bent[:, 31:33].max() < 196


def test_quaternions_and_cameras_are_right_handed():
    rotation = turn(2, 0.3) @ turn(1, -0.8) @ turn(0, 2.0)
    w, x, y, z = quaternion(rotation)
    half = np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]])
    np.testing.assert_allclose(half[0], rotation[0], atol=1e-9)
    camera = look_at(np.array([1.0, 0.0, 1.0]), np.zeros(3))
    assert np.linalg.det(camera[:3, :3]) == pytest.approx(1)
    assert camera[2, 1] < 0  # y points down


def test_camera_effects_keep_shape_and_depend_on_the_seed_alone():
    pixels = np.random.default_rng(0).integers(0, 255, (4, 32, 48, 3), dtype=np.uint8)
    for seed in range(6):
        one, other = (spoil(np.random.default_rng(seed), pixels) for _ in range(2))
        assert one.shape == pixels.shape
        assert one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("frames", [16, 60])
def test_an_episode_is_long_enough_for_the_thing_to_be_handled(frames):
    for seed in range(40):
        world = random_world(np.random.default_rng(seed), fps=30, frames=frames)
        assert len(world.times) <= frames
        assert world.contact.any() == (world.skill != "idle")


def test_h264_gives_the_same_pixels_each_time():
    coarse = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3)).astype(np.uint8)
    clip = np.stack([np.roll(frame.repeat(12, 0).repeat(12, 1), shift, 0) for shift, frame in enumerate(coarse)])
    first = h264(clip, 18)
    for _ in range(20):
        np.testing.assert_array_equal(h264(clip, 18), first)


@pytest.mark.parametrize("seed", range(5))
def test_a_hand_that_shows_a_thing_turns_it_about_all_axes(seed):
    world = random_world(np.random.default_rng(seed), skill="turn", frames=60)
    turns = Rotation.from_matrix(world.hand[world.contact, :3, :3])
    spread = (turns * turns.mean().inv()).as_rotvec(degrees=True)
    assert (np.ptp(spread, axis=0) > 10).all()
    held = np.linalg.inv(world.hand) @ world.poses[:, world.bodies.index("object")]
    middle = np.flatnonzero(world.contact)[3:-3]
    np.testing.assert_allclose(held[middle], np.broadcast_to(held[middle[:1]], held[middle].shape), atol=1e-9)


def test_the_mixture_leaves_out_what_is_made_for_calibration():
    assert set(MIXTURE) == set(SKILLS) - {"turn"}
    assert sum(MIXTURE.values()) == pytest.approx(1.0)
