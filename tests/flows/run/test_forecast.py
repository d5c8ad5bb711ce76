"""What a run is said to take, against answers worked out by hand."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from extractors.errors import ConfigError, SourceError
from flows.cli import main
from flows.commands.plan import DEVICE_NAMES
from flows.config import load_config
from flows.models.service_times import DEVICES, ServiceTime
from flows.output.directory import LocalDirectory
from flows.output.run_record import write_run
from flows.run.forecast import (
    FRAMES_ASSUMED,
    MOST_FILES,
    Costs,
    Extent,
    Figure,
    combine,
    measure_extent,
    recorded_costs,
    total,
)
from flows.run.shard import ALL_STAGES
from flows.sources.base import EpisodeInfo
from flows.sources.sample import SAMPLE

HEAD = ("videos", "/data", "a100", "gpu")
CPU = load_config(None, ["run.profile=cpu", "run.workers=2", "run.shard_size=10"]).resolved()


class Listing:
    """A source that is only listed; opening anything of it fails."""

    kind, dataset, root = "videos", "listing", Path("/listing")

    def __init__(self, infos):
        self.infos = infos

    def episodes(self):
        return iter(self.infos)

    def open(self, info, camera=None):
        raise AssertionError("a forecast opens nothing")


def info(index, n_frames=10, files=(), instruction="put the cup on the plate"):
    return EpisodeInfo(f"e{index}", index, n_frames, instruction, ("a",), 5.0, files)


def extent(episodes=100, frames=4000, gb=8.0):
    counted = [Figure(value, "counted", "the listing") for value in (episodes, frames, gb)]
    return Extent(counted[0], 0, counted[1], counted[2])


def costs(seconds=0.01, packet=5000, work=6000):
    measured = {stage: Figure(seconds, "measured", "here") for stage in ALL_STAGES}
    return Costs(measured, Figure(packet, "measured", "here"), Figure(work, "measured", "here"))


def network(seconds=0.09, call=0.0, origin="published"):
    return ServiceTime("net", "a100", "fp16", seconds, call, origin, "its paper")


def test_hours_gigabytes_and_workers_are_those_of_the_sum_done_by_hand():
    # Nine stages at 0.01 s are 0.09 CPU s a frame, 360 s in all; the device has 4000 x 0.018 = 72 s; 8 GB at 0.2 GB/s
    # are 40 s. Two workers: 180 s.
    answer = combine(HEAD, extent(), costs(), {"depth": network(0.018)}, Figure(5.0, "assumed", "a disk"), CPU)
    assert answer.cpu_hours.value == pytest.approx(180 / 3600)
    assert answer.device_hours.value == pytest.approx(72 / 3600)
    assert answer.reading_hours.value == pytest.approx(40 / 3600)
    assert answer.bottleneck == "CPU"
    assert answer.hours_overlapped.value == pytest.approx(180 / 3600)
    assert answer.hours_in_turn.value == pytest.approx(292 / 3600)
    # 360 CPU seconds in the device's 72: five workers.
    assert answer.workers_for_device.value == 5
    assert answer.packets_gb.value == pytest.approx(0.02)
    # A shard of 10 of the 100 episodes waits in .work: 400 frames of 6000 bytes.
    assert answer.work_gb.value == pytest.approx(0.0024)


def test_the_bottleneck_is_what_takes_longest():
    for seconds, gb, expected in ((0.001, 8.0, "reading"), (0.1, 8.0, "device"), (0.001, 0.001, "CPU")):
        answer = combine(HEAD, extent(gb=gb), costs(), {"depth": network(seconds)}, Figure(50.0, "assumed", "net"), CPU)
        assert answer.bottleneck == expected


def test_a_call_an_episode_and_stage_is_added_and_assumed():
    answer = combine(HEAD, extent(), costs(), {"depth": network(0.018, 0.5)}, Figure(5.0, "assumed", ""), CPU)
    depth = next(share for share in answer.stages if share.stage == "depth")
    assert depth.device.value == pytest.approx(72 + 50)
    assert (depth.network.origin, depth.device.origin) == ("published", "assumed")


def test_without_a_device_the_run_is_the_cpus():
    answer = combine(("videos", "/data", "cpu", "cpu"), extent(), costs(), {}, Figure(5.0, "assumed", ""), CPU)
    assert answer.workers_for_device is None
    assert answer.device_hours.value == 0
    assert answer.hours_in_turn.value == pytest.approx((180 + 40) / 3600)


def test_a_sum_is_as_doubtful_as_its_most_doubtful_part():
    parts = [Figure(1.0, origin, "") for origin in ("counted", "published", "measured")]
    assert total(parts, "").origin == "measured"
    assert total([*parts, Figure(1.0, "assumed", "")], "").origin == "assumed"
    # What is nothing lends no doubt.
    assert total([*parts, Figure(0.0, "assumed", "")], "").origin == "measured"


def test_frames_are_counted_and_an_episode_without_a_length_is_taken_for_the_mean():
    found = measure_extent(Listing([info(0, 10), info(1, 20)]), CPU)
    assert (found.episodes.value, found.frames.value, found.frames.origin) == (2, 30, "counted")
    found = measure_extent(Listing([info(0, 10), info(1, 20), info(2, None)]), CPU)
    assert (found.frames.value, found.frames.origin) == (45, "assumed")
    found = measure_extent(Listing([info(0, None), info(1, None)]), CPU)
    assert (found.frames.value, found.frames.origin) == (2 * FRAMES_ASSUMED, "assumed")


def test_a_file_that_episodes_share_is_read_once(tmp_path):
    shared = tmp_path / "shared.mp4"
    shared.write_bytes(b"x" * 1000)
    found = measure_extent(Listing([info(n, 10, [shared]) for n in range(5)]), CPU)
    assert (found.source_gb.value, found.source_gb.origin) == (pytest.approx(1000e-9), "counted")


def test_of_many_files_the_first_are_looked_at(tmp_path, monkeypatch):
    one = tmp_path / "frame.jpg"
    one.write_bytes(b"x" * 100)
    asked = []
    monkeypatch.setattr("flows.run.forecast._size", lambda path: asked.append(path) or 100)
    episodes = 2 * MOST_FILES // 10
    found = measure_extent(
        Listing([info(n, 10, [tmp_path / f"{n}-{frame}" for frame in range(10)]) for n in range(episodes)]), CPU
    )
    assert len(asked) == MOST_FILES
    assert found.source_gb.value == pytest.approx(episodes * 1000e-9)
    assert found.source_gb.origin == "measured"


def test_the_limit_and_the_least_score_leave_episodes_out():
    listing = Listing([info(n) for n in range(9)])
    assert measure_extent(listing, CPU, limit=4).episodes.value == 4
    strict = CPU.model_copy(update={"select": CPU.select.model_copy(update={"min_score": 1.0})})
    with pytest.raises(SourceError, match="9 are filtered"):
        measure_extent(listing, strict)


def _earlier_run(root, *, computed=ALL_STAGES, config=CPU):
    directory = LocalDirectory(root)
    row = {"episode_id": "e0", "status": "done", "packet": "packets/00/e0.h5", "n_frames": 20, "bytes": 40_000}
    row |= {"stages_computed": ";".join(computed)} | {f"seconds_{stage}": 2.0 for stage in ALL_STAGES}
    directory.manifest.write([row, row | {"episode_id": "e1", "status": "failed"}])
    write_run(directory, config, {"command": "", "source": {}})
    return directory


def test_costs_of_an_earlier_run_are_its_seconds_and_bytes_a_frame(tmp_path):
    found = recorded_costs(_earlier_run(tmp_path), CPU, {})
    assert {stage: figure.value for stage, figure in found.seconds.items()} == dict.fromkeys(ALL_STAGES, 0.1)
    assert (found.packet_bytes.value, found.packet_bytes.origin) == (2000, "measured")
    assert found.work_bytes.origin == "assumed"


def test_a_stage_that_was_only_found_done_is_no_measure(tmp_path):
    with pytest.raises(ConfigError, match="no episode went through all stages"):
        recorded_costs(_earlier_run(tmp_path, computed=("pack",)), CPU, {})


def test_a_run_of_other_networks_is_no_measure(tmp_path):
    other = replace_masks(CPU, "grounded-sam")
    with pytest.raises(ConfigError, match=r"masks\.backend=grounded-sam, this plan has nano"):
        recorded_costs(_earlier_run(tmp_path, config=other), CPU, {})
    # The device's network stands in its place: the run serves for the rest, and decoding is that of `source`.
    found = recorded_costs(LocalDirectory(tmp_path), CPU, {"masks": network()})
    assert (found.seconds["masks"].value, found.seconds["masks"].origin) == (0.1, "assumed")


def replace_masks(config, backend):
    return config.model_copy(update={"masks": config.masks.model_copy(update={"backend": backend})})


def test_the_command_prints_what_it_answers_in_json(tmp_path):
    _earlier_run(tmp_path)
    arguments = ["plan", str(SAMPLE / "bridge_raw"), "--like", str(tmp_path), "--profile", "cpu", "--reading", "100"]
    said = CliRunner().invoke(main, [*arguments, "--json"])
    assert said.exit_code == 0, said.output
    answer = json.loads(said.output)
    assert answer["counts"] == {"episodes": 4, "filtered": 0}
    assert answer["plan"]["extent"]["frames"] == {"value": 147.0, "origin": "counted", "source": "the listing"}
    printed = CliRunner().invoke(main, arguments).output
    assert "147 (counted)" in printed
    assert "bottleneck  CPU" in printed


def test_a_gpu_is_planned_for_without_one(tmp_path):
    _earlier_run(tmp_path)
    arguments = ["plan", str(SAMPLE / "bridge_raw"), "--like", str(tmp_path), "--device", "h100", "--json"]
    answer = json.loads(CliRunner().invoke(main, [*arguments, "--set", "depth.precision=fp16"]).output)["plan"]
    assert (answer["device"], answer["profile"]) == ("h100", "gpu")
    networks = {share["stage"]: share["network"] for share in answer["stages"] if share["network"]}
    assert networks["masks"]["origin"] == "published"
    assert networks["masks"]["value"] == pytest.approx(1 / 16)
    assert networks["depth"]["value"] == pytest.approx(0.0075 * 312 / 989)


def test_a_network_on_a_cpu_that_nobody_timed_is_refused():
    said = CliRunner().invoke(main, ["plan", str(SAMPLE / "bridge_raw"), "--device", "cpu", "--profile", "gpu"])
    assert said.exit_code == 2
    assert "--like" in said.output


def test_the_command_lists_the_devices_there_are():
    assert (*DEVICES, "cpu") == DEVICE_NAMES


@pytest.mark.slow
def test_without_an_earlier_run_the_sample_is_timed():
    answer = json.loads(
        CliRunner().invoke(main, ["plan", str(SAMPLE / "bridge_raw"), "--profile", "cpu", "--json"]).stdout
    )
    assert all(share["cpu"]["origin"] == "measured" for share in answer["plan"]["stages"])
    assert answer["plan"]["packets_gb"]["value"] > 0
