"""Set-ups from many episodes: grouped, solved together, kept in a file, used by the stage."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extractors.backgrounds import still_background
from extractors.errors import ConfigError
from extractors.handeye.problem import Priors
from extractors.matching import body_alone
from extractors.robot_tracks import follow_robot
from flows.config import load_config
from flows.output.calibrations import as_text, find_set_up, read_calibrations, setup_of
from flows.run import calibrate
from flows.run.calibrate import PooledClip, grouped, solve_set_up, table, write_calibrations
from flows.stages import calibration
from flows.stages.calibration import CALIBRATION
from packers.writer import decode
from tests.benchmarks.handeye import without_object
from tests.benchmarks.handeye_scenes import random_lens, random_scene
from tests.flows.stages.hand_inputs import CLEAR, SceneInputs, box_on_hand

RECIPE = replace(CLEAR, noise_px=0.7, missing=0.3, seconds=(4.0, 5.0), fps=(5.0, 5.0))


def scenes(count, camera=0):
    lens = random_lens(np.random.default_rng([camera, 1]), RECIPE)
    return [random_scene(100 * camera + number, RECIPE, lens=lens) for number in range(count)]


def pooled(scene, number, *, table=0, setup="kitchen:front"):
    inputs = SceneInputs(scene, table=table)
    return PooledClip(
        episode_id=f"episode_{number}",
        path=Path(f"episode_{number}.h5"),
        setup=setup,
        when=f"2023-03-{number + 1:02d}",
        rig="fixed",
        clip=without_object(scene),
        posed=None,
        background=still_background(inputs.arrays["pixels"]),
        priors=Priors(),
        size=(256, 256),
    )


def rolled(clip, widths):
    return replace(clip, background=np.roll(clip.background, round(widths * clip.background.shape[1]), axis=1))


@pytest.fixture(scope="module")
def solved():
    """Four episodes of one camera, and what they tell together."""
    found = scenes(4)
    clips = [pooled(scene, number) for number, scene in enumerate(found)]
    return found, clips, solve_set_up("kitchen:front", clips)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (
            {"path": "toykitchen7/00/2023-03-15_13-35-33/raw/traj_group0/traj3", "camera": "images0", "dataset": "b"},
            "toykitchen7/00/2023-03-15_13-35-33:images0",
        ),
        (
            {"recorded_as": "/nfs/kitchen/2023-03-15_13-35-33/raw/traj_group0/traj3/out.npy", "camera": "image_1"},
            "nfs/kitchen/2023-03-15_13-35-33:image_1",
        ),
        (
            {"path": "data/chunk-000", "dataset": "aloha", "camera": "observation.images.top"},
            "aloha:observation.images.top",
        ),
    ],
)
def test_a_set_up_is_a_session_and_a_camera(source, name):
    assert setup_of(source) == name


def test_a_bumped_camera_splits_its_set_up_and_one_that_comes_back_joins_again():
    clips = [pooled(scenes(1)[0], number) for number in range(5)]
    clips[2], clips[3] = rolled(clips[2], 0.06), rolled(clips[3], 0.06)
    groups = grouped(clips)
    assert {name: [clip.episode_id[-1] for clip in group] for name, group in groups.items()} == {
        "kitchen:front": ["0", "1", "4"],
        "kitchen:front#2": ["2", "3"],
    }
    assert list(grouped(clips, one_camera=True)) == ["kitchen:front"]


def test_clips_together_tell_their_camera(solved):
    found, _, set_up = solved
    assert set_up.reasons == ()
    assert set_up.camera["focal_px"] == pytest.approx(found[0].focal_px, rel=3 * set_up.camera["focal_sigma"])
    apart = np.linalg.inv(found[0].carrier_from_camera) @ np.array(set_up.camera["carrier_from_camera"])
    assert np.linalg.norm(apart[:3, 3]) < 3 * set_up.camera["position_sigma_m"]
    assert set_up.camera["focal_sigma"] < 0.05
    assert sorted(set_up.left_out) == [f"episode_{number}" for number in range(4)]
    assert max(set_up.left_out.values()) < 2.5
    [row] = table([set_up])
    assert row["observable"] == "yes"
    assert row["episodes"] == 4


def test_an_episode_with_another_base_frame_is_put_apart_and_named(solved):
    _, clips, _ = solved
    turned = clips[2].clip.hand_pose.copy()
    turned[:, :2, 3] = turned[:, [1, 0], 3] * [1, -1]
    set_up = solve_set_up(
        "kitchen:front", [*clips[:2], replace(clips[2], clip=replace(clips[2].clip, hand_pose=turned)), clips[3]]
    )
    # Either it is named and left out, or the set-up as a whole is refused: never a camera that is silently wrong.
    assert "episode_2" in set_up.apart or set_up.reasons
    if "episode_2" in set_up.apart:
        assert "episode_2" not in set_up.episodes
        assert "2023-03-03" in set_up.apart["episode_2"]


def test_the_file_comes_back_as_it_was_written_and_equal_content_has_equal_bytes(solved, tmp_path):
    _, _, set_up = solved
    write_calibrations(tmp_path / "c.json", [set_up])
    back, digest = read_calibrations(tmp_path / "c.json")
    assert as_text(back) == (tmp_path / "c.json").read_text()
    assert len(digest) == 64
    np.testing.assert_array_equal(back[0].picture, set_up.picture)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"version": "other", "set_ups": []}', '{"version": "cuepack-calibrations/1"}']
)
def test_what_is_no_such_file_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ConfigError, match="cuepack calibrate"):
        read_calibrations(tmp_path / "c.json")


def test_a_camera_that_is_not_finite_is_refused(solved, tmp_path):
    content = json.loads(as_text([solved[2]]))
    content["set_ups"][0]["camera"]["focal_px"] = None
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_calibrations(tmp_path / "c.json")


def test_an_episode_finds_its_set_up_by_name_then_by_its_background(solved):
    _, clips, set_up = solved
    setup, background = "kitchen:front", clips[0].background
    assert find_set_up([set_up], setup, "episode_1", np.zeros_like(background), "fixed")[0] is set_up
    assert find_set_up([set_up], setup, "new", background, "fixed")[0] is set_up
    found, reason = find_set_up([set_up], setup, "new", rolled(clips[0], 0.06).background, "fixed")
    assert found is None
    assert "bumped" in reason
    assert "no set-up" in find_set_up([set_up], "other:front", "new", background, "fixed")[1]
    stood = replace(set_up, one_camera=True)
    assert find_set_up([stood], setup, "new", rolled(clips[0], 0.06).background, "fixed")[0] is stood
    apart = replace(set_up, episodes=(), apart={"episode_1": "another base frame"})
    assert find_set_up([apart], setup, "episode_1", background, "fixed") == (None, "another base frame")


def test_a_packet_takes_the_camera_of_the_file_and_pins_the_file(solved, tmp_path):
    _, _, set_up = solved
    path = tmp_path / "c.json"
    write_calibrations(path, [set_up])
    new = scenes(6)[5]
    inputs = SceneInputs(new, f"geometry.calibration={path}", setup="kitchen")
    output = CALIBRATION.run(inputs)
    assert output.report["tags"] == ["calibrated-by-hand"]
    assert output.report["set_up"] == "kitchen:front"
    assert output.report["file_sha256"] == read_calibrations(path)[1]
    np.testing.assert_allclose(
        decode(output.datasets["extrinsics"]), np.array(set_up.camera["carrier_from_camera"]), rtol=1e-5
    )


def test_a_clip_whose_camera_was_moved_does_not_take_it(solved, tmp_path):
    path = tmp_path / "c.json"
    write_calibrations(path, [solved[2]])
    inputs = SceneInputs(scenes(6)[5], f"geometry.calibration={path}", table=3)
    report = CALIBRATION.run(inputs).report
    assert report["tags"] == ["camera-bumped", "not-observable"]
    assert "bumped since" in report["reasons"][0]


def test_a_file_counts_by_its_content_wherever_it_is(solved, tmp_path):
    for name in ("a", "b"):
        write_calibrations(tmp_path / f"{name}.json", [solved[2]])
    configs = [load_config(assignments=(f"geometry.calibration={tmp_path / name}.json",)).resolved() for name in "ab"]
    assert configs[0].digest() == configs[1].digest()
    write_calibrations(tmp_path / "b.json", [])
    assert (
        load_config(assignments=(f"geometry.calibration={tmp_path}/b.json",)).resolved().digest() != configs[0].digest()
    )
    with pytest.raises(ConfigError, match="cuepack calibrate"):
        load_config(assignments=(f"geometry.calibration={tmp_path}/none.json",)).resolved()


def test_points_on_the_robot_are_matched_again_before_the_camera_that_all_told(monkeypatch):
    class Stored:
        """Stands for a packet: its pictures and the robot's masks."""

        def __init__(self, path):
            self.arrays = boxes[path]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def read(self, name):
            return self.arrays[name]

    boxes, clips = {}, []
    for number, scene in enumerate(scenes(3)):
        inputs = SceneInputs(scene)
        box_on_hand(inputs)
        pixels, masks = inputs.arrays["pixels"], inputs.arrays["masks/robot"]
        tracks = follow_robot(body_alone(pixels, masks), masks, count=80)
        clip = replace(scene.clip, xy=tracks.xy, visibility=tracks.visibility)
        each = replace(pooled(scene, number), clip=clip, posed=tracks.queries[:, 0].astype(int))
        boxes[each.path] = inputs.arrays
        clips.append(each)
    monkeypatch.setattr(calibrate, "Packet", Stored)
    again = solve_set_up("kitchen:front", clips)
    monkeypatch.setattr(calibration, "LOOKS", 0)
    once = solve_set_up("kitchen:front", clips)
    assert again.camera["residual_px"] < 0.7 * once.camera["residual_px"]
    assert again.camera["focal_sigma"] < once.camera["focal_sigma"]
    focal = scenes(1)[0].focal_px
    assert again.camera["focal_px"] == pytest.approx(focal, rel=max(3 * again.camera["focal_sigma"], 0.01))
