import json
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
from click.testing import CliRunner

from extractors.errors import ConfigError
from extractors.types import Episode
from flows.cli import main
from flows.output.directory import OutputDirectory
from flows.run.carry_out import carry_out, run_shard_plainly
from flows.run.verify import Verifier, verified_source
from flows.sources.video import VideoFrames
from packers.reader import Packet, read_dataset
from packers.schema import Dataset
from packers.writer import write_packet
from tests.flows.batches import Silent, array_plan
from tests.flows.sources.lerobot_builder import FRONT, SIDE, write_v30
from tests.packers.examples import tamper
from tests.support import ArraySource

QUICK = ("masks.backend=recorded", "depth.backend=off", "tracks.backend=off", "packet.height=24", "packet.width=32")


@dataclass(frozen=True)
class TwoCameras(ArraySource):
    """The squares seen by a second camera too, which shows them mirrored; `change` edits every episode opened."""

    change: object = None

    def episodes(self):
        for info in super().episodes():
            yield replace(info, cameras=("front", "side"))

    def open(self, info, camera=None) -> Episode:
        episode = super().open(info, None)
        if camera == "side":
            episode = replace(episode, pixels=np.ascontiguousarray(episode.pixels[:, :, ::-1]), camera_name="side")
            episode = replace(episode, provenance={**episode.provenance, "camera": "side"})
        return self.change(episode) if self.change else episode


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("verify")
    source = TwoCameras(root / "in", count=2)
    assert carry_out(array_plan(source, root / "out", QUICK), Silent(), run_shard_plainly).exit_code == 0
    return root, source


@pytest.fixture
def packet(made, tmp_path):
    path = next((made[0] / "out" / "packets").glob("*/square_0.h5"))
    return shutil.copy(path, tmp_path / "square_0.h5")


def rewrite(path, *, attributes=None, **changes):
    """Writes the packet anew with some datasets changed, its own hashes right."""
    with Packet(path) as packet:
        kept = packet.attributes
        names = packet.modalities
    datasets = {name: read_dataset(path, name) for name in names}
    for name, change in changes.items():
        datasets[name] = Dataset(change(datasets[name].data), datasets[name].attributes)
    drop = ("schema", "modalities")
    write_packet(path, datasets, {k: v for k, v in kept.items() if k not in drop} | (attributes or {}))


def verify(source, path):
    return Verifier(source).verify(path)


def test_good_packets_have_no_findings(made):
    root, source = made
    verifier = Verifier(source)
    for path in (root / "out" / "packets").glob("*/*.h5"):
        assert verifier.verify(path) == []


@pytest.mark.parametrize("shift", [1, -1, 3])
def test_shifted_pixels_are_named(made, packet, shift):
    rewrite(packet, pixels=lambda pixels: np.roll(pixels, -shift, axis=0))
    (finding,) = verify(made[1], packet)
    assert finding.dataset == "pixels"
    frames = "one frame" if abs(shift) == 1 else f"{shift} frames"
    assert f"shifted by {frames}: frame t of the packet is frame t{shift:+d} of the source" in finding.reason


def test_shifted_actions_are_named(made, packet):
    ramp = made[1].open(next(made[1].episodes())).state
    assert ramp is not None
    rewrite(packet, gripper=lambda gripper: np.roll(gripper, 1), timestamp=lambda time: time + 0.2)
    findings = {f.dataset: f for f in verify(made[1], packet)}
    assert set(findings) == {"gripper", "timestamp"}
    assert "shifted by one frame" in findings["timestamp"].reason


def test_shuffled_frames_are_named(made, packet):
    rewrite(packet, pixels=lambda pixels: pixels[[3, 1, 0, 2, 7, 6, 5, 4]])
    (finding,) = verify(made[1], packet)
    assert "the same frames in another order" in finding.reason


def test_repeated_frames_are_named(made, packet):
    rewrite(packet, pixels=lambda pixels: pixels[[0, 0, 2, 3, 3, 5, 6, 6]])
    (finding,) = verify(made[1], packet)
    assert finding.frame == 1
    assert "3 frames are repeats of others" in finding.reason


def test_one_changed_frame_is_found_where_it_is(made, packet):
    def change(pixels):
        pixels[5] = 255 - pixels[5]
        return pixels

    rewrite(packet, pixels=change)
    (finding,) = verify(made[1], packet)
    assert (finding.dataset, finding.frame) == ("pixels", 5)
    assert "1 of 8" in finding.reason


def test_rounding_of_another_library_version_is_no_finding(made, packet):
    rewrite(packet, pixels=lambda pixels: np.where(pixels < 255, pixels + 1, pixels).astype(np.uint8))
    assert verify(made[1], packet) == []


def test_pixels_of_the_other_camera_are_named(made, packet):
    source = made[1]
    episode = source.open(next(source.episodes()), "side")
    from extractors.geometry import resize_rgb

    rewrite(packet, pixels=lambda pixels: np.stack([resize_rgb(frame, (24, 32)) for frame in episode.pixels]))
    (finding,) = verify(source, packet)
    assert "they show camera 'side' instead of 'front'" in finding.reason


def test_a_record_of_the_wrong_camera_is_named(made, packet):
    source = made[1]
    with Packet(packet) as opened:
        record = opened.attributes["source"]
    rewrite(packet, attributes={"source": {**record, "camera": "side"}})
    findings = {finding.dataset: finding.reason for finding in verify(source, packet)}
    assert "what was recorded are frames of camera 'front'" in findings["/"]
    assert "they show camera 'front' instead of 'side'" in findings["pixels"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda e: replace(e, pixels=np.roll(e.pixels, 1, axis=0)), "shifted by one frame"),
        (lambda e: replace(e, pixels=255 - e.pixels), "the source's content changed since"),
        (lambda e: replace(e, pixels=e.pixels[:-2]), "the source now has 6 frames, 8 were recorded"),
    ],
)
def test_a_changed_source_is_noticed(made, packet, change, says):
    source = replace(made[1], change=change)
    assert any(says in finding.reason for finding in verify(source, packet) if finding.dataset == "/")


def test_a_source_that_broke_or_lost_the_episode_is_a_finding(made, packet, tmp_path):
    (finding,) = verify(replace(made[1], broken=(0,)), packet)
    assert "cannot be read again: frame 4 cannot be decoded" in finding.reason
    (finding,) = verify(replace(made[1], count=0), packet)
    assert "has no episode square_0" in finding.reason


@pytest.mark.parametrize("content", [b"", b"no packet at all", b"CUEPACK1" + b"\0" * 600])
def test_a_file_that_is_no_packet_is_a_finding(made, tmp_path, content):
    (tmp_path / "x.h5").write_bytes(content)
    (finding,) = verify(made[1], tmp_path / "x.h5")
    assert finding.dataset is None


def test_a_packet_of_another_schema_is_a_finding(made, packet):
    tamper(packet, lambda file: file.attrs.modify("schema", np.bytes_(b"cuepack/9")))
    (finding,) = verify(made[1], packet)
    assert "cuepack/9" in finding.reason


def test_without_run_json_the_source_must_be_named(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.json"):
        verified_source(OutputDirectory.open(tmp_path), None)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    settings = ["masks.backend=off", "tracks.backend=off", "depth.backend=off"]
    run("sample", "--out", root / "s")
    options = [word for setting in settings for word in ("--set", setting)]
    assert run("extract", root / "s/bridge_raw", "--out", root / "out", "--limit", 1, "--no-prefect", *options)[0] == 0
    return root


def run(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout


def test_the_command_takes_a_directory_or_a_packet(sample, tmp_path):
    assert run("verify", sample / "out")[0] == 0
    path = next((sample / "out" / "packets").glob("*/*.h5"))
    assert run("verify", path)[0] == 0
    shutil.copy(path, tmp_path / path.name)
    assert run("verify", tmp_path / path.name)[0] == 2
    assert run("verify", tmp_path / path.name, "--source", sample / "s/bridge_raw")[0] == 0


def test_the_command_reports_findings_as_json(sample, tmp_path):
    path = shutil.copy(next((sample / "out" / "packets").glob("*/*.h5")), tmp_path)
    rewrite(path, pixels=lambda pixels: np.roll(pixels, 1, axis=0))
    code, output = run("verify", path, "--source", sample / "s/bridge_raw", "--json")
    told = json.loads(output)
    assert (code, told["exit_code"], told["counts"]) == (1, 1, {"packets": 1, "findings": 1})
    assert set(told["findings"][0]) == {"packet", "dataset", "frame", "reason"}


def test_nothing_to_verify_exits_with_2(tmp_path):
    assert run("verify", tmp_path)[0] == 2
    assert run("verify", tmp_path / "missing.h5")[0] == 2


def test_frames_found_by_counting_disagree_with_a_reader_that_looks_them_up_wrongly(tmp_path, monkeypatch):
    """The reader and `verify` share the file, not the way frames are found in it."""
    root = write_v30(tmp_path / "set", {0: 9, 1: 8}, files={FRONT: [[0, 1]], SIDE: [[0, 1]]}, data=[[0, 1]])
    good = VideoFrames.__iter__
    out = tmp_path / "out"
    arguments = ["extract", str(root), "--out", str(out), "--no-prefect", "--profile", "cpu", "--limit", "2"]
    quick = [f"--set={name}" for name in ("masks.backend=off", "depth.backend=off", "tracks.backend=off", *QUICK[3:])]

    def one_early(frames):
        early = VideoFrames(frames.path, np.maximum(frames.numbers - 1, 0), frames._pictures)
        for pixels in good(early):
            frames._size = early._size
            yield pixels

    for reader, findings in ((good, 0), (one_early, 2)):
        monkeypatch.setattr(VideoFrames, "__iter__", reader)
        result = CliRunner().invoke(main, [*arguments, *quick, "--rehash"])
        assert result.exit_code == 0, result.output
        verified = CliRunner().invoke(main, ["verify", str(out), "--json"])
        found = json.loads(verified.stdout)["findings"]
        assert len(found) == findings
        assert all("counted from the start of the video" in finding["reason"] for finding in found)
