"""`cuepack calibrate` on an output directory: grouped, solved, written, printed; with Prefect's engine apart."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from flows.cli import main
from flows.output.calibrations import read_calibrations
from packers.writer import encode, write_packet
from tests.benchmarks.handeye_scenes import random_lens, random_scene
from tests.flows.stages.hand_inputs import CLEAR, SceneInputs
from tests.packers.examples import KEYS, attributes


def write_scene(folder, scene, number):
    """A packet with a scene's tracks and hand."""
    inputs = SceneInputs(scene)
    name = f"episode_{number}"
    n_frames, n_tracks = scene.clip.visibility.shape
    arrays = {
        name: array
        for name, array in inputs.arrays.items()
        if name not in ("held", "state") and not name.endswith("queries")
    }
    arrays |= {
        "pixels": np.ascontiguousarray(arrays["pixels"][:, ::4, ::4]),
        "tracks/grid/xy": arrays["tracks/grid/xy"] / 4,
        "tracks/grid/confidence": np.ones((n_frames, n_tracks)),
        "tracks/grid/visibility_score": np.ones((n_frames, n_tracks)),
        "tracks/grid/queries": np.stack([np.zeros(n_tracks), np.linspace(0, 63, n_tracks), np.zeros(n_tracks)], axis=1),
        "hand_pose": scene.clip.hand_pose,
        "hand_pose_valid": np.ones(n_frames, bool),
    }
    found = {name: encode(name, array, stage_key=KEYS["source"]) for name, array in arrays.items()}
    matrix = np.array([[60, 0, 31.5], [0, 60, 31.5], [0, 0, 1]])
    found["intrinsics"] = encode("intrinsics", matrix, source="assumed", sigma=0.2, stage_key=KEYS["source"])
    path = folder / "packets" / "00" / f"{name}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_packet(path, found, attributes(name, n_frames))
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    lens = random_lens(np.random.default_rng([0, 1]), CLEAR)
    for number in range(3):
        write_scene(folder, random_scene(number, CLEAR, lens=lens), number)
    return folder


def test_packets_become_a_file_and_a_table(directory, tmp_path):
    out = tmp_path / "c.json"
    result = CliRunner().invoke(main, ["calibrate", str(directory), "--out", str(out), "--no-prefect", "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.output)
    assert printed["counts"] == {"packets": 3, "set_ups": 1, "observable": 1}
    [set_up], _ = read_calibrations(out)
    assert set_up.episodes == ("episode_0", "episode_1", "episode_2")
    assert printed["set_ups"][0]["left one out, px"].startswith("0.")


@pytest.mark.slow  # a Prefect server is started
def test_the_same_as_a_flow_of_prefect_gives_the_same_file(directory, tmp_path):
    plain, flow = tmp_path / "plain.json", tmp_path / "flow" / "flow.json"
    CliRunner().invoke(main, ["calibrate", str(directory), "--out", str(plain), "--no-prefect", "-q"])
    result = CliRunner().invoke(main, ["calibrate", str(directory), "--out", str(flow), "-q"])
    assert result.exit_code == 0, result.output
    assert flow.read_text() == plain.read_text()


def test_a_directory_without_packets_is_refused(tmp_path):
    (tmp_path / "packets").mkdir()
    result = CliRunner().invoke(main, ["calibrate", str(tmp_path), "--out", str(tmp_path / "c.json"), "--no-prefect"])
    assert result.exit_code == 2
    assert "can be used" in result.output
