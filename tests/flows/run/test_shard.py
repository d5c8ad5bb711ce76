import dataclasses
import hashlib
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from extractors.backends.lucas_kanade import LucasKanade
from extractors.errors import OutputError
from extractors.types import Depth
from flows.models import device_queue
from flows.output.manifest import Manifest
from flows.output.store import Store
from flows.run import carry_out as carrying_out
from flows.run import processes
from flows.run import shard as shard_module
from flows.run.carry_out import carry_out, run_shard_plainly
from flows.run.shard import ALL_STAGES
from flows.stages import depth as depth_stage
from packers.reader import Packet
from packers.validate import validate_packet
from packers.writer import RELATIVE_CODES
from tests.flows.batches import QUICK, Silent, array_plan
from tests.support import ArraySource


def make(tmp_path, source, *settings, workers=2, **work):
    return array_plan(source, tmp_path / "out", [*QUICK, *settings], workers=workers, **work)


def extract(tmp_path, source, *settings, **options):
    plan = make(tmp_path, source, *settings, **options)
    outcome = carry_out(plan, Silent(), run_shard_plainly)
    return {row["episode_id"]: row for row in outcome.rows}, outcome


def packets(tmp_path):
    return sorted((tmp_path / "out" / "packets").glob("*/*.h5"))


def digests(tmp_path):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in packets(tmp_path)}


def test_every_episode_becomes_a_valid_packet(tmp_path):
    rows, outcome = extract(tmp_path, ArraySource(tmp_path / "in"))
    assert outcome.exit_code == 0
    assert [row["status"] for row in rows.values()] == ["done"] * 3
    for path in packets(tmp_path):
        assert validate_packet(path) == []
    assert not list((tmp_path / "out" / ".work" / "stages").glob("*/*/*"))


def test_one_bad_episode_is_recorded_and_the_others_are_packed(tmp_path):
    rows, outcome = extract(tmp_path, ArraySource(tmp_path / "in", broken=(1,)))
    assert outcome.exit_code == 1
    bad = rows["square_1"]
    assert (bad["status"], bad["stage"], bad["error_type"]) == ("failed", "source", "CorruptDataError")
    assert "frame 4" in bad["error"]
    assert bad["packet"] is None
    assert len(packets(tmp_path)) == 2


def test_an_unforeseen_error_costs_its_episode_only(tmp_path, monkeypatch):
    def explode(self, info, camera=None):
        if info.episode_index == 2:
            raise ZeroDivisionError("not foreseen")
        return original(self, info, camera)

    original = ArraySource.open
    monkeypatch.setattr(ArraySource, "open", explode)
    rows, _ = extract(tmp_path, ArraySource(tmp_path / "in"))
    assert rows["square_2"]["error_type"] == "ZeroDivisionError"
    assert rows["square_0"]["status"] == "done"


def test_progress_moves_within_stages_and_takes_it_back_when_they_end_or_fail(tmp_path):
    class Moves(Silent):
        def __init__(self):
            self.of = {}

        def stage_moved(self, stage, frames):
            self.of.setdefault(stage, []).append(frames)

    plan, moves = make(tmp_path, ArraySource(tmp_path / "in", broken=(1,)), "tracks.backend=lucas-kanade"), Moves()
    carry_out(plan, moves, run_shard_plainly)
    assert {"source", "tracks"} <= {stage for stage, of in moves.of.items() if max(of) > 0}
    for stage, of in moves.of.items():
        assert sum(of) == pytest.approx(0, abs=1e-9), stage


def test_a_repeated_run_finds_everything_finished(tmp_path):
    source = ArraySource(tmp_path / "in")
    extract(tmp_path, source)
    plan = make(tmp_path, source)
    key = plan.work.run_key()
    assert all(shard_module.is_finished(plan.earlier[job.episode_id], job, plan.work, key) for job in plan.jobs)


def test_a_dilation_radius_reruns_no_model_and_does_not_open_the_source(tmp_path, monkeypatch):
    source = ArraySource(tmp_path / "in")
    extract(tmp_path, source)
    monkeypatch.setattr(ArraySource, "open", lambda *args: pytest.fail("the source was opened"))
    rows, _ = extract(tmp_path, source, "masks.dilate=[4]")
    assert rows["square_0"]["stages_computed"] == "geometry;placing;quality;pack"
    with Packet(packets(tmp_path)[0]) as packet:
        assert "masks/object_dilate4" in packet.modalities
        assert "masks/object_dilate8" not in packet.modalities


def test_content_changed_under_the_same_path_is_noticed(tmp_path):
    extract(tmp_path, ArraySource(tmp_path / "in"))
    (tmp_path / "in" / "0.txt").write_text("changed")
    rows, _ = extract(tmp_path, ArraySource(tmp_path / "in", seed=1))
    assert rows["square_0"]["stages_computed"].startswith("source;masks")
    assert rows["square_1"]["stages_computed"] == ""


def test_a_touched_but_equal_source_is_read_again_and_nothing_else(tmp_path):
    source = ArraySource(tmp_path / "in")
    extract(tmp_path, source)
    before = digests(tmp_path)
    (tmp_path / "in" / "0.txt").write_text("touched")
    rows, _ = extract(tmp_path, source)
    assert rows["square_0"]["stages_computed"] == ""
    assert digests(tmp_path) == before


def test_force_redoes_a_stage_and_those_after_it_with_equal_bytes(tmp_path):
    source = ArraySource(tmp_path / "in")
    extract(tmp_path, source)
    before = digests(tmp_path)
    rows, _ = extract(tmp_path, source, force_from="tracks")
    assert rows["square_0"]["stages_computed"] == "tracks;calibration;geometry;placing;quality;pack"
    assert digests(tmp_path) == before


def test_bytes_do_not_depend_on_workers_shards_or_place(tmp_path):
    source = ArraySource(tmp_path / "in", count=5)
    extract(tmp_path / "a", source, workers=1)
    extract(tmp_path / "b", source, "run.shard_size=2", workers=4)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert len(digests(tmp_path / "a")) == 5


def test_a_run_that_was_stopped_goes_on_from_its_finished_stages(tmp_path, monkeypatch):
    source = ArraySource(tmp_path / "in")
    plan = make(tmp_path, source)
    with shard_module.Shard(plan.work, plan.jobs, {}) as shard:
        for stage in ("source", "masks", "depth"):
            shard.run(stage)
    rows, _ = extract(tmp_path, source)
    assert "masks" not in rows["square_0"]["stages_computed"].split(";")
    assert rows["square_0"]["status"] == "done"


def test_ctrl_c_ends_between_episodes_and_keeps_what_is_done(tmp_path):
    source = ArraySource(tmp_path / "in")
    plan = make(tmp_path, source, "run.shard_size=1")

    def stop_after_the_first(plan, index, jobs):
        rows = run_shard_plainly(plan, index, jobs)
        plan.work.stop.set()
        return rows

    outcome = carry_out(plan, Silent(), stop_after_the_first)
    assert outcome.exit_code == 130
    assert [row["status"] for row in Manifest(tmp_path / "out").rows().values()] == ["done"]


def test_a_full_disk_stops_the_run_and_keeps_what_is_packed(tmp_path, monkeypatch):
    source = ArraySource(tmp_path / "in")
    calls = []

    def pack_once(*args):
        calls.append(args)
        if len(calls) > 1:
            raise OutputError("no space left on device")
        return original(*args)

    original = shard_module.pack_episode
    monkeypatch.setattr(shard_module, "pack_episode", pack_once)
    _, outcome = extract(tmp_path, source, "run.shard_size=1", workers=1)
    assert outcome.exit_code == 1
    assert "no space" in str(outcome.error)
    assert len(packets(tmp_path)) == 1
    assert validate_packet(packets(tmp_path)[0]) == []


def test_two_runs_on_one_directory_exclude_each_other_per_episode(tmp_path):
    source = ArraySource(tmp_path / "in", count=2)
    with Store(tmp_path / "out").locked(["square_0"]) as held:
        assert held == {"square_0"}
        rows, outcome = extract(tmp_path, source)
    assert rows["square_0"]["status"] == "busy"
    assert rows["square_1"]["status"] == "done"
    assert outcome.exit_code == 1
    assert "square_0" not in Manifest(tmp_path / "out").rows()


def test_a_clip_below_the_score_is_filtered_and_is_no_failure(tmp_path):
    rows, outcome = extract(tmp_path, ArraySource(tmp_path / "in"), "select.min_score=0.99")
    assert {row["status"] for row in rows.values()} == {"filtered"}
    assert outcome.exit_code == 0
    assert packets(tmp_path) == []


def test_a_threshold_set_later_filters_and_destroys_nothing(tmp_path):
    source = ArraySource(tmp_path / "in")
    extract(tmp_path, source)
    before = digests(tmp_path)
    plan = make(tmp_path, source, "select.min_score=0.99")
    key = plan.work.run_key()
    assert not any(shard_module.is_finished(plan.earlier[job.episode_id], job, plan.work, key) for job in plan.jobs)
    rows, _ = extract(tmp_path, source, "select.min_score=0.99")
    assert {row["status"] for row in rows.values()} == {"filtered"}
    assert digests(tmp_path) == before
    rows, _ = extract(tmp_path, source)
    assert {(row["status"], row["stages_computed"]) for row in rows.values()} == {("done", "")}


def test_a_damaged_packet_is_made_anew(tmp_path):
    source = ArraySource(tmp_path / "in", count=1)
    extract(tmp_path, source)
    before = digests(tmp_path)
    packets(tmp_path)[0].write_bytes(b"garbage")
    rows, _ = extract(tmp_path, source)
    assert rows["square_0"]["status"] == "done"
    assert digests(tmp_path) == before


def test_stages_of_a_packet_name_every_stage_and_every_key(tmp_path):
    extract(tmp_path, ArraySource(tmp_path / "in", count=1))
    with Packet(packets(tmp_path)[0]) as packet:
        stages = packet.attributes["stages"]
        keys = {stage["key"] for stage in stages.values()}
        assert set(stages) == set(ALL_STAGES)
        for name in packet.modalities:
            if name not in ("ep_len", "ep_offset"):
                assert packet.dataset_attributes(name)["stage_key"] in keys


def test_the_first_signal_asks_to_stop_and_says_so_the_second_ends_the_process(monkeypatch, capsys):
    import signal

    monkeypatch.setattr(carrying_out, "end_process", sys.exit)
    stop = threading.Event()
    # A test run in the background may have been started with these ignored.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGINT)}
    with carrying_out._stop_on_signal(stop):
        signal.raise_signal(signal.SIGHUP)
        assert stop.is_set()
        assert "stopping" in capsys.readouterr().err
        with pytest.raises(SystemExit, match="130"):
            signal.raise_signal(signal.SIGINT)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_other_masks_track_the_foreground_again_and_take_the_grid_as_it_is(tmp_path, monkeypatch):
    source = ArraySource(tmp_path / "in", count=1)
    tracked = "tracks.backend=lucas-kanade"
    extract(tmp_path, source, tracked, "masks.backend=off")
    asked = []
    original = LucasKanade.prepare

    def count_queries(self, pixels):
        clip = original(self, pixels)
        monkeypatch.setattr(type(clip), "track", _counted(type(clip).track, asked), raising=True)
        return clip

    monkeypatch.setattr(LucasKanade, "prepare", count_queries)
    extract(tmp_path, source, tracked, "masks.backend=recorded", "tracks.grid_side=20")
    assert asked
    assert all(set(queries[:, 0]) != {0.0} or len(queries) != 400 or on_square(queries) for queries in asked)
    again = digests(tmp_path)
    monkeypatch.undo()
    rows, _ = extract(tmp_path, source, tracked, "masks.backend=recorded", force_from="tracks")
    assert "tracks" in rows["square_0"]["stages_computed"]
    assert digests(tmp_path) == again


def on_square(queries):
    """Whether a good part of the queries lies on the square (the uniform grid has 5 % there)."""
    x, y = queries[:, 1], queries[:, 2]
    return ((y > 14) & (y < 29) & (x < 32)).mean() > 0.3


def _counted(track, asked):
    def counting(self, queries, *, posed="anywhere"):
        asked.append(queries)
        return track(self, queries, posed=posed)

    return counting


def test_another_packet_size_makes_everything_anew(tmp_path):
    source = ArraySource(tmp_path / "in", count=1)
    extract(tmp_path, source)
    rows, _ = extract(tmp_path, source, "packet.height=32")
    assert rows["square_0"]["stages_computed"] == "source;masks;depth;tracks;calibration;geometry;placing;quality;pack"
    with Packet(packets(tmp_path)[0]) as packet:
        assert packet["masks/object"].shape[1:] == packet["pixels"].shape[1:3] == (32, 64)
        assert packet["intrinsics"][1, 2] == pytest.approx(15.5)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_in_a_packet_is_mended_by_a_rerun(tmp_path):
    source = ArraySource(tmp_path / "in", count=1)
    extract(tmp_path, source)
    before = digests(tmp_path)
    flip(packets(tmp_path)[0], -2000)
    for settings in ((), ("masks.dilate=[8, 20]",)):
        rows, _ = extract(tmp_path, source, *settings)
        assert rows["square_0"]["status"] == "done"
    assert digests(tmp_path) == before


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_work_file_lost_in_the_middle_of_a_run_is_made_again(tmp_path, damage, monkeypatch):
    def lose_files_then_run(inputs):
        if not lost:
            for path in (tmp_path / "out" / ".work" / "stages").glob("*/*/*.h5"):
                lost.append(path)
                path.unlink() if damage == "remove" else flip(path, -700)
        return geometry.run(inputs)

    lost = []
    geometry = next(stage for stage in shard_module.STAGES if stage.name == "geometry")
    losing = dataclasses.replace(geometry, run=lose_files_then_run)
    stages = tuple(losing if stage is geometry else stage for stage in shard_module.STAGES)
    monkeypatch.setattr(shard_module, "STAGES", stages)
    rows, _ = extract(tmp_path, ArraySource(tmp_path / "in", count=1))
    assert len(lost) > 3
    assert [row["status"] for row in rows.values()] == ["done"]
    assert validate_packet(packets(tmp_path)[0]) == []


def test_a_finished_source_stage_survives_a_crash(tmp_path):
    source = ArraySource(tmp_path / "in", count=1)
    plan = make(tmp_path, source)
    with shard_module.Shard(plan.work, plan.jobs, {}) as shard:
        shard.run("source")
    rows, _ = extract(tmp_path, source)
    assert "source" not in rows["square_0"]["stages_computed"].split(";")


def test_an_instruction_that_is_no_utf8_is_kept_readable(tmp_path, monkeypatch):
    source = ArraySource(tmp_path / "in", count=1)
    original = ArraySource.episodes
    odd = "put \udcff in\x00to"
    monkeypatch.setattr(
        ArraySource, "episodes", lambda self: (dataclasses.replace(i, language_instruction=odd) for i in original(self))
    )
    _, outcome = extract(tmp_path, source)
    assert outcome.exit_code == 0
    assert Manifest(tmp_path / "out").rows()["square_0"]["status"] == "done"


class NoisyDevice:
    """A depth model on a device that is only a name; the number of clips in a call moves its maps, as by rounding."""

    precision = "fp32"
    NOISE = 1e-5

    def __init__(self):
        self.device = SimpleNamespace(type="noisy", index=None)
        self.calls = []
        self.gathers = False

    def estimate(self, pixels, *, size):
        return self.estimate_many([pixels], size=size)[0]

    def estimate_many(self, clips, *, size):
        self.calls.append(len(clips))
        if self.gathers and len(self.calls) == 1:
            # On a machine that is busy with other work, clips come slower than the device takes them.
            deadline = time.monotonic() + 60
            while len(device_queue._batches[self]._waiting) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
        time.sleep(0.05)
        noise = self.NOISE * (len(clips) - 1)
        ramp = np.linspace(0.2, 1, size[0] * size[1], dtype=np.float32).reshape(size)
        return [Depth(np.repeat(ramp[None] + noise, len(clip), 0), "relative") for clip in clips]

    def padding(self, n_frames):
        return 0.0


@pytest.fixture
def noisy(tmp_path, monkeypatch):
    monkeypatch.setenv("CUEPACK_LOCKS", str(tmp_path / "locks"))
    device = NoisyDevice()
    monkeypatch.setattr(depth_stage.models, "depth_estimator", lambda config: device)
    monkeypatch.setattr(depth_stage.models, "depth_weights", lambda config: ())
    monkeypatch.setattr(shard_module, "uses_device", lambda config: True)
    monkeypatch.setattr(processes, "uses_checkpoint", lambda config: True)
    return device


ON_DEVICE = "depth.backend=video-depth-anything"


def test_clips_that_wait_for_a_device_share_calls_and_the_ledger_says_what_they_cost(tmp_path, noisy):
    noisy.gathers = True
    rows, outcome = extract(tmp_path, ArraySource(tmp_path / "in", count=8), ON_DEVICE, workers=2)
    assert outcome.exit_code == 0
    assert sum(noisy.calls) == 8
    assert len(noisy.calls) < 8
    device_s = [row["device_seconds_depth"] for row in rows.values()]
    assert sum(device_s) >= 0.05 * len(noisy.calls)
    assert any(row.get("waited_device_depth", 0) > 0.01 for row in rows.values())
    assert {row["padding_depth"] for row in rows.values()} == {0.0}
    assert all(row["stored_bytes_pack"] == row["bytes"] for row in rows.values())


def test_deterministic_bytes_do_not_depend_on_what_is_worked_on_beside(tmp_path, noisy):
    source = ArraySource(tmp_path / "in", count=6)
    for name, workers in (("a", 1), ("b", 4)):
        extract(tmp_path / name, source, ON_DEVICE, "run.deterministic=true", workers=workers)
    assert set(noisy.calls) == {1}
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_without_it_a_packet_moves_by_rounding_alone(tmp_path, noisy):
    source = ArraySource(tmp_path / "in", count=6)
    extract(tmp_path / "alone", source, ON_DEVICE, "run.deterministic=true")
    noisy.gathers = True
    noisy.calls.clear()
    extract(tmp_path / "shared", source, ON_DEVICE, workers=4)
    assert max(noisy.calls) > 1
    for path, other in zip(packets(tmp_path / "alone"), packets(tmp_path / "shared"), strict=True):
        with Packet(path) as first, Packet(other) as second:
            alone, shared = (packet.read("depth/relative") for packet in (first, second))
            # What is moved by less than a step may be rounded to the next code.
            step = np.ptp(alone) / RELATIVE_CODES
            assert np.abs(alone - shared).max() <= NoisyDevice.NOISE * max(noisy.calls) + 1.01 * step


def test_frames_are_decoded_once_for_all_stages_where_they_fit_the_memory(tmp_path, monkeypatch):
    passes = []

    class Counted:
        def __init__(self, pixels):
            self._pixels = pixels
            self.shape = pixels.shape

        def __len__(self):
            return len(self._pixels)

        def __iter__(self):
            passes.append(1)
            return iter(self._pixels)

    original = ArraySource.open
    monkeypatch.setattr(
        ArraySource,
        "open",
        lambda self, info, camera=None: dataclasses.replace(
            episode := original(self, info, camera), pixels=Counted(episode.pixels)
        ),
    )
    source, tracked = ArraySource(tmp_path / "in", count=1), "tracks.backend=lucas-kanade"
    extract(tmp_path / "kept", source, tracked)
    assert len(passes) == 1
    extract(tmp_path / "long", source, tracked, "run.memory_gb=0.0000001")
    assert len(passes) > 2
    assert digests(tmp_path / "kept") == digests(tmp_path / "long")


@pytest.mark.parametrize("stage", ["masks", "depth"])
def test_other_weights_of_nano_leave_no_batch_finished(tmp_path, monkeypatch, stage):
    work = make(tmp_path, ArraySource(tmp_path / "in"), f"{stage}.backend=nano").work
    before = work.run_key()
    monkeypatch.setattr("flows.models.build.weights_digest", lambda path: "another")
    assert work.run_key() != before
