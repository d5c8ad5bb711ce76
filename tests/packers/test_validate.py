import json

import h5py
import numpy as np
import pytest

from packers.finding import Finding
from packers.validate import validate_packet
from packers.writer import write_packet
from tests.packers import examples
from tests.packers.examples import set_values, tamper


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The bytes of a good packet."""
    return examples.write_example(tmp_path_factory.mktemp("packet")).read_bytes()


@pytest.fixture
def path(tmp_path, good):
    """A good packet that a test may break."""
    found = tmp_path / "episode_0.h5"
    found.write_bytes(good)
    return found


def assert_finding(path, dataset, frame, words):
    findings = validate_packet(path)
    assert any(
        (finding.dataset, finding.frame) == (dataset, frame) and words in finding.reason for finding in findings
    ), findings


def test_a_good_packet_has_no_findings(path):
    assert validate_packet(path) == []


def test_a_packet_of_the_required_datasets_alone_has_no_findings(tmp_path):
    required = {name: examples.datasets()[name] for name in ("pixels", "timestamp", "intrinsics")}
    write_packet(tmp_path / "e.h5", required, examples.attributes("e"))
    assert validate_packet(tmp_path / "e.h5") == []


def test_a_one_frame_packet_has_no_findings(tmp_path):
    assert validate_packet(examples.write_example(tmp_path, frames=1)) == []


VALUES = [
    ("action", 2, np.nan, 2, "not finite where action_valid is true"),
    ("action", 5, 0.0, 5, "not NaN where action_valid is false"),
    ("state", (1, 0), np.inf, 1, "wanted finite"),
    ("gripper", 4, 1.5, 4, "above 1"),
    ("hand_pose", (0, 0, 0), 1.0, 0, "not NaN where hand_pose_valid is false"),
    ("hand_pose", (2, 0, 0), 2.0, 2, "wanted rotations"),
    ("hand_pose", (3, 1, 1), -1.0, 3, "wanted rotations"),
    ("object_pose", (1, 3, 3), 0.5, 1, "wanted the last row 0 0 0 1"),
    ("object_pose_sigma", (1, 0), -1.0, 1, "below 0"),
    ("camera_pose", (1, 0, 3), 2000.0, 1, "above 1000"),
    ("extrinsics", (0, 0), 1.5, 0, "wanted rotations"),
    ("contact", 1, -0.5, 1, "below 0"),
    ("phase", 2, 9, 2, "wanted a code of 9 phases"),
    ("masks/things", (2, 5, 5), 3, 2, "wanted a number of 3 names"),
    ("motion/object", 1, -0.5, 1, "below 0"),
    ("motion/robot", 0, 0.5, 0, "not NaN where motion/robot_valid is false"),
    ("contact", 1, 0.8, 1, "contact_onset is 3, the first frame above 0.5 is 1"),
    ("masks/score", 2, np.nan, 2, "wanted finite"),
    ("timestamp", 3, 0.3, 3, "not later than the frame before"),
    ("timestamp", 0, 0.1, 0, "wanted 0 at the first frame"),
    ("intrinsics", (2, 2), 2, None, "[0, 0, 1]"),
    ("intrinsics", (0, 0), -30, None, "positive focal lengths"),
    ("ep_len", 0, 5, None, "wanted [6]"),
    ("ep_offset", 0, 6, None, "wanted [0]"),
    ("masks/object_dilate2", 3, False, 3, "does not cover masks/object"),
    ("masks/object_dilate4", (1, 7, 6), False, 1, "does not cover masks/object_dilate2"),
    ("depth/stabilized", (2, 5, 5), 0, 2, "is not scale * depth/relative + shift"),
    ("depth/stabilizer", (4, 1), 9.0, 4, "is not scale * depth/relative + shift"),
    ("depth/stabilizer", (4, 0), -1.0, 4, "positive scale"),
    ("tracks/grid/xy", (5, 3, 0), np.nan, 5, "wanted finite"),
    ("tracks/grid/confidence", (1, 3), 1.01, 1, "above 1"),
    ("tracks/foreground/visibility_score", (2, 3), -0.01, 2, "below 0"),
    ("tracks/foreground/queries", (2, 0), 6, None, "whole frame numbers of 0 to 5"),
    ("tracks/foreground/queries", (2, 0), 0.5, None, "whole frame numbers"),
    ("tracks/foreground/queries", (2, 1), 32, None, "inside the 32 x 24 frame"),
    ("tracks/foreground/on_object", 0, False, 0, "disagrees with masks/object"),
    ("centroids", 2, np.nan, 2, "not finite where centroids_valid is true"),
    ("centroids_sigma", (0, 1), -1, 0, "below 0"),
    ("centroids_valid", 5, True, 5, "true although masks/object is empty"),
    ("shape_descriptors", (1, 4), 0.5, 1, "e1 >= e2 >= e3"),
    ("shape_descriptors", (3, 6), 0.9, 3, "ratios are not e2/e1"),
    ("shape_descriptors", (0, 9), 1.2, 0, "visibility outside"),
    ("shape_descriptors", (0, 8), -1, 0, "negative depth range"),
]


@pytest.mark.parametrize(("dataset", "index", "value", "frame", "words"), VALUES)
def test_a_wrong_value_is_found_with_dataset_and_frame(path, dataset, index, value, frame, words):
    tamper(path, set_values(dataset, index, value))
    # The relation names the map, whichever of the three arrays was changed.
    assert_finding(path, "depth/stabilized" if "is not scale" in words else dataset, frame, words)


def _replace(name, values, **attributes):
    def change(file: h5py.File) -> None:
        kept = dict(file[name].attrs) if name in file else {}
        if name in file:
            del file[name]
        dataset = file.create_dataset(name, data=values)
        for key, value in {**kept, **attributes}.items():
            dataset.attrs[key] = value

    return change


def _delete(name):
    def change(file: h5py.File) -> None:
        del file[name]

    return change


def _attribute(dataset, name, value):
    def change(file: h5py.File) -> None:
        target = file[dataset] if dataset else file
        if value is None:
            del target.attrs[name]
        else:
            target.attrs[name] = value

    return change


def _edit_json(name, edit):
    def change(file: h5py.File) -> None:
        value = json.loads(file.attrs[name])
        edit(value)
        file.attrs[name] = json.dumps(value, sort_keys=True)

    return change


STRUCTURE = [
    (_delete("timestamp"), "timestamp", "required, and missing"),
    (_delete("timestamp"), "timestamp", "listed in modalities, but not there"),
    (_delete("action_valid"), "action", "needs ['action_valid']"),
    (_delete("tracks/grid/queries"), "tracks/grid/xy", "needs ['tracks/grid/queries']"),
    (_replace("gripper", np.zeros(6)), "gripper", "wanted float32, got float64"),
    (_replace("masks/robot", np.zeros((6, 24, 32), np.uint8)), "masks/robot", "wanted bool, got uint8"),
    (_replace("gripper", np.zeros(5, np.float32)), "gripper", "wanted shape [T] with T = 6"),
    (_replace("masks/robot", np.zeros((6, 24, 31), bool)), "masks/robot", "with W = 32"),
    (_replace("tracks/grid/on_object", np.zeros(11, bool)), "tracks/grid/on_object", "with N = 12"),
    (_replace("depths", np.zeros(6), units="m"), "depths", "not in the schema"),
    (_replace("masks/object_dilateX", np.zeros(6)), "masks/object_dilateX", "not in the schema"),
    (_replace("other/thing", np.zeros(6)), "other", "no group of the schema"),
    (_attribute("depth/metric", "units", None), "depth/metric", "attribute 'units' is missing"),
    (_attribute("depth/metric", "stage_key", "f" * 64), "depth/metric", "is not the key of any stage"),
    (_attribute("depth/metric", "scale", -1.0), "depth/metric", "wanted a positive number"),
    (_attribute("depth/metric", "fill", 70000), "depth/metric", "wanted a code of uint16"),
    (_attribute("depth/relative", "offset", float("nan")), "depth/relative", "wanted a finite number"),
    (_attribute("depth/relative", "convention", None), "depth/relative", "attribute 'convention' is missing"),
    (_attribute("intrinsics", "source", "guessed"), "intrinsics", "wanted one of"),
    (_attribute("intrinsics", "sigma", None), "intrinsics", "attribute 'sigma' is missing"),
    (_attribute("contact", "contact_onset", None), "contact", "attribute 'contact_onset' is missing"),
    (_attribute("masks/things", "names", 3), "masks/things", "attribute 'names': wanted a text for each number"),
    (_attribute("phase", "phases", 3), "phase", "attribute 'phases': wanted the codes' names"),
    (_attribute("phase", "acts_on", 3), "phase", "attribute 'acts_on': wanted a dataset's path"),
    (_attribute("phase", "active_span", [4, 2]), "phase", "attribute 'active_span': wanted two frames of the clip"),
    (_attribute("phase", "active_span", [0, 99]), "phase", "attribute 'active_span': wanted two frames of the clip"),
    (
        _attribute(None, "schema", "cuepack/9"),
        "/",
        "wanted schema cuepack/1 or cuepack/2 or cuepack/3 or cuepack/4, got 'cuepack/9'",
    ),
    (_attribute(None, "language_instruction", "hello"), "/", "wanted texts of fixed length"),
    (_attribute("gripper", "units", "1"), "gripper", "wanted texts of fixed length"),
    (_attribute(None, "episode_id", "other"), "/", "the file is named episode_0.h5"),
    (_attribute(None, "episode_id", "a/b"), "/", "wanted [A-Za-z0-9_.-]+"),
    (_attribute(None, "fps", 0.0), "/", "fps: wanted a positive number"),
    (_attribute(None, "scores", None), "/", "root attribute 'scores' is missing"),
    (_attribute(None, "scores", "{"), "/", "root attribute 'scores'"),
    (_attribute(None, "scores", '{"a": NaN}'), "/", "NaN is not a JSON number"),
    (_attribute(None, "scores", '{"b": 1, "a": {"c": 1}}'), "/", "keys are not sorted"),
    (_attribute(None, "scores", "[" * 100_000), "/", "root attribute 'scores'"),
    (_attribute(None, "tags", '{"a": 1}'), "/", "wanted a JSON list"),
    (_edit_json("modalities", lambda names: names.remove("gripper")), "gripper", "not listed in modalities"),
    (_edit_json("modalities", lambda names: names.reverse()), "/", "wanted sorted"),
    (_edit_json("source", lambda source: source["frame_sha256"].pop()), "/", "frame_sha256 has 5 entries for 6"),
    (_edit_json("source", lambda source: source["frame_ids"].append(9)), "/", "frame_ids has 7 entries for 6"),
    (_edit_json("source", lambda source: source.pop("camera")), "/", "['camera'] are missing"),
    (_edit_json("source", lambda source: source.update(path="../x")), "/", "must be relative"),
    (_edit_json("stages", lambda stages: stages.pop("source")), "/", "the stage 'source' is missing"),
    (_edit_json("stages", lambda stages: stages["masks"].pop("backend")), "/", "masks: ['backend'] are missing"),
    (_edit_json("stages", lambda stages: stages["masks"]["weights"].update(a="1")), "/", "have no sha256"),
]


@pytest.mark.parametrize(("change", "dataset", "words"), STRUCTURE)
def test_a_broken_structure_is_found(path, change, dataset, words):
    tamper(path, change)
    assert_finding(path, dataset, None, words)


def test_a_wrong_hash_is_found_with_its_frame(path):
    tamper(path, _edit_json("source", lambda source: source["frame_sha256"].__setitem__(4, "abc")))
    assert_finding(path, "/", 4, "no sha256")


def test_data_that_lie_elsewhere_are_found(tmp_path, path):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["gripper"] = np.zeros(6, np.float32)

    def change(file):
        del file["gripper"]
        file["gripper"] = h5py.ExternalLink(str(other), "gripper")
        file["state2"] = h5py.SoftLink("/state")

    tamper(path, change)
    assert_finding(path, "gripper", None, "ExternalLink")
    assert_finding(path, "state2", None, "SoftLink")


def test_an_array_larger_than_its_bytes_can_hold_is_not_read(path):

    def change(file):
        del file["pixels"]
        file.create_dataset("pixels", (10**9, 224, 224, 3), "uint8", chunks=(1, 224, 224, 3), compression="gzip")

    tamper(path, change)
    assert_finding(path, "pixels", None, "bytes hold")


def test_extra_arrays_are_nobodys_business(path):
    tamper(path, _replace("extra/anything/at/all", np.full(3, np.nan)))
    assert validate_packet(path) == []


def test_a_float_metric_map_is_checked_like_a_coded_one(tmp_path):
    arrays = examples.arrays()
    depth = arrays["depth/metric"][1] * 20
    datasets = examples.replaced(examples.datasets(), "depth/metric", depth)
    write_packet(tmp_path / "e.h5", datasets, examples.attributes("e"))
    assert validate_packet(tmp_path / "e.h5") == []
    tamper(tmp_path / "e.h5", set_values("depth/metric", (2, 3, 4), np.nan))
    assert_finding(tmp_path / "e.h5", "depth/metric", 2, "NaN; the code for no reading is `fill`")
    tamper(tmp_path / "e.h5", set_values("depth/metric", (1, 3, 4), -2))
    assert_finding(tmp_path / "e.h5", "depth/metric", 1, "metres above 0")


def test_a_change_without_a_new_signature_is_found_and_named(path):
    tamper(path, set_values("gripper", 2, 3.0), sign=False)
    assert_finding(path, None, None, "sha256")
    assert_finding(path, "gripper", 2, "above 1")


def test_a_damaged_frame_is_named(path):
    content = bytearray(path.read_bytes())
    content[content.index(examples.arrays()["pixels"][1][3].tobytes()) + 10] ^= 1
    path.write_bytes(content)
    assert_finding(path, "pixels", 3, "damaged")


def test_a_map_of_one_frame_more_is_no_crash(path):
    tamper(path, _replace("masks/object", np.zeros((7, 24, 32), bool)))
    assert_finding(path, "masks/object", None, "with T = 6")


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_makes_validate_raise(path, seed):
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    if seed % 4 == 0:
        content = content[: rng.integers(0, len(content))]
    for place in rng.integers(0, len(content), 0 if seed % 4 == 0 else 1 + seed):
        content[place] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    findings = validate_packet(path)
    assert findings
    assert all(isinstance(finding, Finding) and finding.reason for finding in findings)


def test_a_missing_file_is_a_finding(tmp_path):
    (finding,) = validate_packet(tmp_path / "e.h5")
    assert "No such file" in finding.reason
