"""The bundled sample is what its README says, and can be copied out."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from extractors.errors import ConfigError, OutputError
from flows.sources.bridge import BridgeRawSource
from flows.sources.lerobot import LeRobotSource
from flows.sources.pickles import load_pickle
from flows.sources.sample import FOLDERS, SAMPLE, sample_files, write_sample
from packers.atomic import TEMPORARY

EPISODES = json.loads((SAMPLE / "truth" / "episodes.json").read_text())
LENGTHS = {"block_on_plate": 36, "can_in_tray": 35, "box_on_stand": 36, "cube_out_of_box": 40}
SIZE = (240, 320)
VIDEO_KEY = "observation.images.main"
ARRAY_GLOBALS = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}

each_episode = pytest.mark.parametrize("name", EPISODES)


def truth(name):
    with np.load(SAMPLE / "truth" / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def trajectory(name):
    return SAMPLE / "bridge_raw" / EPISODES[name]["bridge_trajectory"]


def pictures(folder, suffix):
    paths = [folder / f"im_{t}.{suffix}" for t in range(len(list(folder.iterdir())))]
    return np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths])


def lerobot_table():
    return pq.read_table(SAMPLE / "lerobot_v30" / "data" / "chunk-000" / "file-000.parquet")


def decode_png(cell):
    return cv2.imdecode(np.frombuffer(cell["bytes"], np.uint8), cv2.IMREAD_UNCHANGED)


def unproject_mean(K, mask, depth):
    y, x = np.nonzero(mask)
    z = depth[y, x]
    return np.array([((x - K[0, 2]) / K[0, 0] * z).mean(), ((y - K[1, 2]) / K[1, 1] * z).mean(), z.mean()])


def test_it_stays_below_five_megabytes():
    assert sum((SAMPLE / file).stat().st_size for file in sample_files()) < 5_000_000


def test_it_holds_at_least_three_episodes_of_the_promised_length():
    assert {name: len(truth(name)["contact"]) for name in EPISODES} == LENGTHS


@each_episode
def test_a_trajectory_has_a_picture_of_every_kind_for_every_frame(name):
    folder, n = trajectory(name), LENGTHS[name]
    images = pictures(folder / "images0", "jpg")
    depth = pictures(folder / "depth_images0", "png")
    masks = pictures(folder / "masks0", "png")
    assert images.shape == (n, *SIZE, 3)
    assert depth.shape == masks.shape == (n, *SIZE)
    assert (depth.dtype, masks.dtype) == (np.uint16, np.uint8)
    assert set(np.unique(masks)) == {0, 1, 2}


@each_episode
def test_a_trajectory_has_a_state_per_frame_and_one_action_less(name):
    observed = load_pickle(trajectory(name) / "obs_dict.pkl")
    policy = load_pickle(trajectory(name) / "policy_out.pkl")
    state, actions = observed["full_state"], np.stack([step["actions"] for step in policy])
    assert state.shape == (LENGTHS[name], 7)
    assert actions.shape == (LENGTHS[name] - 1, 7)
    np.testing.assert_allclose(np.diff(observed["time_stamp"]), 0.2, atol=1e-6)
    # The simulated arm lags: its README says by up to 8 mm in a step.
    assert np.abs(np.diff(state[:, :3], axis=0) - actions[:, :3]).max() < 0.008
    assert set(actions[:, 6]) == {0.0, 1.0}
    assert state[0, 6] > 0.95
    assert 0.3 < state[truth(name)["held"], 6].mean() < 0.5


@each_episode
@pytest.mark.parametrize("file", ["obs_dict.pkl", "policy_out.pkl"])
def test_pickles_ask_for_arrays_and_nothing_else(name, file):
    asked = set()

    class Recorder(pickle.Unpickler):
        def find_class(self, module, attribute):
            asked.add((module, attribute))
            assert (module, attribute) in ARRAY_GLOBALS
            return super().find_class(module, attribute)

    with (trajectory(name) / file).open("rb") as stream:
        Recorder(stream).load()
    assert ("numpy", "ndarray") in asked


@each_episode
def test_masked_depth_gives_the_true_centroid(name):
    known = truth(name)
    masks = pictures(trajectory(name) / "masks0", "png") == 1
    depth = pictures(trajectory(name) / "depth_images0", "png") / 1000.0
    np.testing.assert_array_equal(masks.sum(axis=(1, 2)), known["object_pixels"])
    seen = known["object_pixels"] > 0
    found = np.stack([unproject_mean(known["K"], m, d) for m, d in zip(masks[seen], depth[seen], strict=True)])
    # Depth is rounded to whole millimetres: half of one at most, far less in a mean over many pixels.
    np.testing.assert_allclose(found, known["centroid_cam"][seen], atol=5e-4)
    assert np.isnan(known["centroid_cam"][~seen]).all()


@each_episode
def test_true_tracks_lie_on_the_object_where_they_are_visible(name):
    known = truth(name)
    masks = pictures(trajectory(name) / "masks0", "png") == 1
    near = np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for mask in masks])
    for t, mask in enumerate(near):
        x, y = np.round(known["obj_xy"][t][known["obj_vis"][t]]).astype(int).T
        assert mask[np.clip(y, 0, SIZE[0] - 1), np.clip(x, 0, SIZE[1] - 1)].all()
    query = int(known["obj_query_frame"])
    assert known["obj_vis"][query].all()
    still = (known["grid_kind"] == 0) & known["grid_valid"]
    assert still.sum() > 200
    # Things that merely stand on the table are of this kind too, and the simulation lets them creep a little.
    moved = np.abs(known["grid_xy"][:, still] - known["grid_xy"][0, still]).max(axis=(0, 2))
    assert moved.max() < 0.25
    assert (moved == 0).mean() > 0.9


@each_episode
def test_the_object_is_touched_carried_and_let_go(name):
    known = truth(name)
    held, pose = np.flatnonzero(known["held"]), known["object_pose"][:, :3, 3]
    assert (np.diff(held) == 1).all()
    assert not known["contact"][0]
    assert not known["contact"][-1]
    assert np.linalg.norm(pose[-1, :2] - pose[0, :2]) > 0.1
    assert pose[held, 2].max() > pose[0, 2] + 0.05
    # Before the grasp and after the release the object lies still.
    np.testing.assert_allclose(pose[: held[0]] - pose[0], 0.0, atol=5e-4)
    assert np.linalg.norm(pose[-1] - pose[-2]) < 1e-3


def test_one_object_is_hidden_at_first():
    pixels = truth("cube_out_of_box")["object_pixels"]
    assert not pixels[:10].any()
    assert (pixels[-20:] > 250).all()


@pytest.mark.parametrize("name", [name for name in EPISODES if name != "cube_out_of_box"])
def test_the_other_objects_are_large_enough_in_every_frame(name):
    assert truth(name)["object_pixels"].min() > 250 * SIZE[0] * SIZE[1] / 256**2


def test_the_lerobot_dataset_has_the_same_depth_masks_and_states():
    table = lerobot_table()
    episode = np.array(table["episode_index"])
    for name, entry in EPISODES.items():
        own = np.flatnonzero(episode == entry["lerobot_episode_index"])
        assert len(own) == LENGTHS[name]
        for key, folder in (("observation.depth.main", "depth_images0"), ("observation.masks.main", "masks0")):
            found = np.stack([decode_png(cell.as_py()) for cell in table[key].take(own)])
            np.testing.assert_array_equal(found, pictures(trajectory(name) / folder, "png"))
        state = np.stack(table["observation.state"].take(own).to_pylist())
        expected = load_pickle(trajectory(name) / "obs_dict.pkl")["full_state"]
        np.testing.assert_array_equal(state.astype(np.float32), expected.astype(np.float32))


def test_the_video_holds_all_frames_of_all_episodes_in_order():
    path = SAMPLE / "lerobot_v30" / "videos" / VIDEO_KEY / "chunk-000" / "file-000.mp4"
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == sum(LENGTHS.values())
    expected = np.concatenate([pictures(trajectory(name) / "images0", "jpg") for name in EPISODES])[..., ::-1]
    error = [np.mean((a.astype(float) - b) ** 2) for a, b in zip(frames, expected, strict=True)]
    # Two lossy copies of one render agree to 30 dB or better; neighbouring frames are no nearer than that.
    assert 10 * np.log10(255**2 / np.max(error)) > 30


def test_the_lerobot_tables_agree_with_each_other():
    root = SAMPLE / "lerobot_v30"
    info = json.loads((root / "meta" / "info.json").read_text())
    rows = pq.read_table(root / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    tasks = pq.read_table(root / "meta" / "tasks.parquet").to_pandas()
    assert (info["codebase_version"], info["fps"]) == ("v3.0", 5)
    assert info["total_frames"] == sum(row["length"] for row in rows) == lerobot_table().num_rows
    assert set(lerobot_table().column_names) == set(info["features"]) - {VIDEO_KEY}
    assert [row["tasks"][0] for row in rows] == list(tasks.index)
    assert [row[f"videos/{VIDEO_KEY}/from_timestamp"] * info["fps"] for row in rows] == [
        row["dataset_from_index"] for row in rows
    ]


@pytest.mark.parametrize("kind", ["bridge_raw", "lerobot_v30"])
def test_the_sources_read_it_with_recorded_signals(kind):
    source = BridgeRawSource(SAMPLE / kind) if kind == "bridge_raw" else LeRobotSource(SAMPLE / kind)
    by_text = {str(truth(name)["language_instruction"]): name for name in EPISODES}
    found = [source.open(info) for info in source.episodes()]
    assert sorted(episode.n_frames for episode in found) == sorted(LENGTHS.values())
    for episode in found:
        name = by_text[episode.language_instruction]
        known = truth(name)
        assert episode.camera is not None
        np.testing.assert_allclose(episode.camera.K, known["K"])
        assert episode.recorded_depth is not None
        assert episode.recorded_masks is not None
        assert episode.recorded_robot is not None
        assert [int(np.sum(mask)) for mask in episode.recorded_masks] == known["object_pixels"].tolist()
        last = unproject_mean(known["K"], list(episode.recorded_masks)[-1], list(episode.recorded_depth)[-1])
        np.testing.assert_allclose(last, known["centroid_cam"][-1], atol=5e-4)
        assert episode.tags == ()


def test_it_is_copied_out_whole(tmp_path: Path):
    folders = write_sample(tmp_path / "new")
    assert folders == [tmp_path / "new" / name for name in FOLDERS]
    copied = sorted(path.relative_to(tmp_path / "new") for path in (tmp_path / "new").rglob("*") if path.is_file())
    assert copied == sample_files()
    assert all((tmp_path / "new" / file).read_bytes() == (SAMPLE / file).read_bytes() for file in copied)


def test_copying_again_writes_only_what_is_missing(tmp_path: Path):
    write_sample(tmp_path)
    kept, lost = tmp_path / "truth" / "episodes.json", tmp_path / "truth" / "can_in_tray.npz"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / "truth" / f"{TEMPORARY}abc").write_bytes(b"cut off")
    write_sample(tmp_path)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == (SAMPLE / "truth" / "can_in_tray.npz").read_bytes()
    assert sorted(p.name for p in (tmp_path / "truth").iterdir()) == sorted(
        [*(f"{n}.npz" for n in EPISODES), kept.name]
    )


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"thesis\.txt; choose another folder"):
        write_sample(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_changed_copy_is_not_overwritten(tmp_path: Path):
    write_sample(tmp_path)
    (tmp_path / "README.md").write_text("notes")
    with pytest.raises(ConfigError, match=r"README\.md"):
        write_sample(tmp_path)
    assert (tmp_path / "README.md").read_text() == "notes"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        write_sample(tmp_path / "out")


def test_an_unwritable_place_is_reported(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_sample(tmp_path / "file" / "out")
