import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flows.cli import CuepackGroup, main
from flows.sources.sample import write_sample
from tests.flows.sources.bridge_builder import write_trajectory
from tests.support import WITHOUT_MODELS, set_options

QUICK = ["--no-prefect", "--profile", "cpu", *set_options(*WITHOUT_MODELS)]


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder / "bridge_raw"


@pytest.fixture(scope="session")
def packed(sample, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    result = cuepack("extract", sample, "--out", out, "--limit", 2, *QUICK)
    assert result.exit_code == 0
    assert "s of work per 1,000 frames" in result.stdout
    return out


def cuepack(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def from_json(result):
    return json.loads(result.stdout.splitlines()[-1])


def test_help_lists_the_verbs():
    result = cuepack("--help")
    assert result.exit_code == 0
    for verb in ("extract", "rerun", "score", "inspect", "validate", "sample"):
        assert verb in result.output


def test_extract_says_what_it_packed_and_is_safe_to_repeat(sample, tmp_path):
    first = cuepack("extract", sample, "--out", tmp_path / "o", "--episodes", "0,2", *QUICK, "--json")
    assert first.exit_code == 0
    assert from_json(first)["counts"] == {"done": 2, "failed": 0, "filtered": 0, "reused": 0, "busy": 0}
    second = cuepack("extract", sample, "--out", tmp_path / "o", "--episodes", "0,2", *QUICK, "--json")
    assert from_json(second)["counts"]["reused"] == 2
    assert {row["episode_index"] for row in from_json(second)["episodes"]} == {0, 2}


def test_black_views_are_counted_and_are_neither_failures_nor_packets_of_before(tmp_path):
    write_trajectory(tmp_path / "in", 6, cameras=3, black=(1,))
    views = ["--camera", "all", *QUICK, "--set", "masks.backend=off"]
    for before in (0, 2):
        result = cuepack("extract", tmp_path / "in", "--out", tmp_path / "o", *views)
        assert result.exit_code == 0
        assert f"2 packed ({before} of them before), 0 failed, 1 filtered" in result.stdout
        assert "1 of the filtered are black views" in result.stdout


def test_a_dry_run_writes_nothing(sample, tmp_path):
    result = cuepack("extract", sample, "--out", tmp_path / "o", "--dry-run", *QUICK)
    assert result.exit_code == 0
    assert "4 to do" in result.output
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--camera", "overhead"], "no episode has a camera named 'overhead'; the source has ['images0']"),
        (["--set", "masks.dilat=[4]"], "did you mean 'dilate'"),
        (["--episodes", "99"], "no episode has index 99"),
        (["--episodes", "x"], "wants indices like"),
        (["--config", "/none.yaml"], "cannot be read"),
        (["--selection", "/none.csv"], "cannot be read"),
        (["--nonsense"], "No such option"),
    ],
)
def test_bad_usage_is_refused_at_once(sample, tmp_path, arguments, said):
    result = cuepack("extract", sample, "--out", tmp_path / "o", *QUICK, *arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "o").exists()


def test_a_source_that_is_none_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "missing"):
        result = cuepack("extract", path, "--out", tmp_path / "o", *QUICK, "--json")
        assert result.exit_code == 2
        assert from_json(result)["exit_code"] == 2


def test_an_output_inside_the_source_is_refused(sample):
    result = cuepack("extract", sample, "--out", sample / "out", *QUICK)
    assert result.exit_code == 2
    assert "inside the source" in result.output


def test_missing_weights_name_file_source_licence_and_the_way_without(sample, tmp_path):
    result = cuepack("extract", sample, "--out", tmp_path / "o", *QUICK, "--set", "depth.backend=video-depth-anything")
    assert result.exit_code == 2
    for part in ("video_depth_anything_vits.pth", "depth-anything/Video-Depth-Anything-Small", "Apache-2.0", "off"):
        assert part in result.output


def test_rerun_redoes_one_episode_from_a_stage(packed):
    listed = from_json(cuepack("validate", packed, "--json"))
    assert listed["exit_code"] == 0
    name = sorted((packed / "packets").glob("*/*.h5"))[0].stem
    result = cuepack("rerun", packed, name, "--from", "geometry", "--no-prefect", "--json")
    assert result.exit_code == 0
    [row] = from_json(result)["episodes"]
    assert row["stages_computed"] == "geometry;placing;quality;pack"


def test_rerun_of_an_unknown_episode_or_directory_is_refused(packed, tmp_path):
    assert cuepack("rerun", packed, "nobody").exit_code == 2
    assert cuepack("rerun", tmp_path, "nobody").exit_code == 2


def test_the_hands_pose_is_in_every_packet_whose_source_records_it(packed):
    path = sorted((packed / "packets").glob("*/*.h5"))[0]
    described = from_json(cuepack("inspect", path, "--json"))["packet"]
    frames = described["datasets"]["state"]["shape"][0]
    assert described["datasets"]["hand_pose"]["shape"] == [frames, 4, 4]
    assert described["attributes"]["stages"]["calibration"]["report"]["hand"]["convention"].startswith("Rz(yaw)")


def test_inspect_shows_the_tree_and_its_json_the_same(packed):
    path = sorted((packed / "packets").glob("*/*.h5"))[0]
    assert "masks/object_dilate8" in cuepack("inspect", path).output
    described = from_json(cuepack("inspect", path, "--json"))["packet"]
    assert described["attributes"]["schema"] == "cuepack/4"
    assert cuepack("inspect", "/none.h5").exit_code == 2


def test_validate_finds_a_flipped_bit_and_a_missing_packet(packed, tmp_path):
    path = sorted((packed / "packets").glob("*/*.h5"))[0]
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
        result = cuepack("validate", packed, "--json")
        assert result.exit_code == 1
        assert any("sha256" in finding["reason"] for finding in from_json(result)["findings"])
        path.unlink()
        assert cuepack("validate", packed).exit_code == 1
    finally:
        path.write_bytes(whole)
    assert cuepack("validate", packed).exit_code == 0
    assert cuepack("validate", tmp_path).exit_code == 2


def test_score_needs_no_pixels(sample, tmp_path):
    out = tmp_path / "scores.csv"
    assert cuepack("score", sample, "--out", out).exit_code == 0
    lines = out.read_text().splitlines()
    assert len(lines) == 5
    assert "score_task" in lines[0]


def test_a_selection_file_picks_its_episodes(sample, tmp_path):
    listed = cuepack("score", sample, "--json")
    chosen = from_json(listed)["episodes"][2]["episode_id"]
    (tmp_path / "s.csv").write_text(f"episode_id\n{chosen}\n")
    result = cuepack("extract", sample, "--out", tmp_path / "o", "--selection", tmp_path / "s.csv", *QUICK, "--json")
    assert [row["episode_id"] for row in from_json(result)["episodes"]] == [chosen]


def test_packets_of_another_source_are_not_mixed_in(packed, tmp_path):
    write_sample(tmp_path)
    result = cuepack("extract", tmp_path / "lerobot_v30", "--out", packed, *QUICK)
    assert result.exit_code == 2
    assert "another source" in result.output


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_next_run_goes_on(sample, tmp_path):
    command = [sys.executable, "-c", "from flows.cli import main; main()", "extract", str(sample)]
    command += ["--out", str(tmp_path / "o"), "--workers", "1", "--set", "run.shard_size=1", *QUICK]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "o").glob("packets/*/*.h5")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code = process.wait(60)
    assert code in (0, 130)
    assert subprocess.run(command, check=False).returncode == 0
    assert cuepack("validate", tmp_path / "o").exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_closed_terminal_ends_a_command_as_ctrl_c_does(tmp_path, number):
    half_written = tmp_path / "half written"

    @click.command()
    def write():
        half_written.touch()
        try:
            signal.raise_signal(number)
        finally:
            half_written.unlink()

    before = signal.signal(number, signal.SIG_DFL)
    try:
        result = CliRunner().invoke(CuepackGroup(commands={"write": write}), ["write"])
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert result.exit_code == 130
    assert not half_written.exists()


@pytest.mark.slow
def test_prefect_makes_the_same_bytes_as_the_plain_path(sample, tmp_path):
    with_prefect = [option for option in QUICK if option != "--no-prefect"]
    script = "from flows.cli import main; main()"
    for name, options in (("plain", QUICK), ("prefect", with_prefect)):
        subprocess.run(
            [sys.executable, "-c", script, "extract", str(sample), "--out", str(tmp_path / name), *options], check=True
        )
    plain, prefect = (sorted((tmp_path / name / "packets").glob("*/*.h5")) for name in ("plain", "prefect"))
    assert [path.read_bytes() for path in plain] == [path.read_bytes() for path in prefect]
    assert len(plain) == 4


def test_a_camera_alias_that_no_episode_has_is_refused_too(sample, tmp_path):
    result = cuepack("extract", sample, "--out", tmp_path / "o", "--camera", "image_2", *QUICK)
    assert result.exit_code == 2
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("setting", ["geometry.camera_model=d345", "geometry.intrinsics=[0,0,0,0]"])
def test_impossible_cameras_are_refused_before_any_work(sample, tmp_path, setting):
    result = cuepack("extract", sample, "--out", tmp_path / "o", *QUICK, "--set", setting)
    assert result.exit_code == 2
    assert not (tmp_path / "o").exists()


def test_score_never_destroys_a_file_it_cannot_replace(sample, tmp_path):
    out = tmp_path / "scores.csv"
    out.write_text("mine")
    assert cuepack("score", tmp_path / "none", "--out", out).exit_code == 2
    assert out.read_text() == "mine"
    assert cuepack("score", sample, "--out", tmp_path / "none" / "s.csv").exit_code == 2


def test_a_folder_of_data_sets_is_not_taken_for_videos(tmp_path):
    write_sample(tmp_path / "in" / "a")
    (tmp_path / "in" / "a" / "bridge_raw").rename(tmp_path / "bridge_raw")
    result = cuepack("extract", tmp_path / "in", "--out", tmp_path / "o", *QUICK)
    assert result.exit_code == 2
    assert "lerobot_v30" in result.output


def test_bad_usage_answers_json_with_json(sample, tmp_path):
    for extra in (["--limit", "0"], ["--episodes", ""], ["--episodes", "0-99999999999"]):
        result = cuepack("extract", sample, "--out", tmp_path / "o", *QUICK, "--json", *extra)
        assert result.exit_code == 2
        assert from_json(result)["exit_code"] == 2


def test_a_directory_with_a_broken_run_json_is_refused(packed, sample, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    for command in (["extract", sample, "--out", tmp_path, *QUICK], ["rerun", tmp_path, "x"]):
        assert cuepack(*command).exit_code == 2


def test_what_nobody_foresaw_is_said_to_be_our_fault_with_a_file_to_report(packed, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("no such number\x1b[2J")

    monkeypatch.setenv("CUEPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("packers.validate.validate_packet", fail)
    result = cuepack("validate", next(packed.glob("packets/*/*.h5")))
    assert result.exit_code == 1
    (report,) = (tmp_path / "cache" / "faults").iterdir()
    assert "this is a fault in cuepack: ZeroDivisionError: no such number" in result.stderr
    assert str(report) in result.stderr
    assert "\x1b" not in result.stderr
    assert "Traceback" not in result.stderr
    assert report.read_text().startswith("cuepack validate ")
    assert "in fail" in report.read_text()


@pytest.mark.parametrize("command", ["validate", "doctor", "stats", "inspect", "select", "verify"])
def test_a_name_that_no_file_can_have_is_refused(command):
    arguments = ["--top", 1] if command == "select" else []
    result = cuepack(command, "a" * 5000, *arguments)
    assert result.exit_code == 2
    assert "a" * 20 in result.stderr
    assert "fault in cuepack" not in result.stderr
