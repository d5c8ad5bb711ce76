"""A packet for each view of an episode."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from extractors.errors import BlankCameraError, UnknownCameraError
from flows.config import load_config
from flows.orchestration.plan_file import find_plan, hand_out, published
from flows.output.directory import LocalDirectory
from flows.run import plan as plan_module
from flows.run.carry_out import carry_out, run_shard_plainly
from flows.run.plan import ALL_CAMERAS, Request, make_plan
from packers.reader import Packet
from tests.flows.batches import QUICK, Silent
from tests.flows.sources.lerobot_builder import FRONT, SIDE, write_v30
from tests.support import ArraySource


@dataclass(frozen=True)
class ThreeCameras(ArraySource):
    """The squares as they are, mirrored, and in the dark."""

    cameras: tuple[str, ...] = ("front", "night", "side")

    def episodes(self):
        for info in super().episodes():
            yield replace(info, cameras=self.cameras)

    def open(self, info, camera=None):
        episode = super().open(info, None)
        if camera == "night":
            raise BlankCameraError(f"{info.episode_id}: every frame of night is black")
        pixels = episode.pixels if camera != "side" else np.ascontiguousarray(episode.pixels[:, :, ::-1])
        provenance = {**episode.provenance, "camera": camera or "front"}
        return replace(episode, pixels=pixels, camera_name=camera or "front", provenance=provenance)


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Makes a plan over the three cameras of `count` episodes."""

    def planning(count=2, cameras=ThreeCameras.cameras, **asked):
        source = ThreeCameras(tmp_path / "in", count=count, cameras=cameras)
        monkeypatch.setattr(plan_module, "open_source", lambda *_: source)
        config = load_config(None, [*QUICK, "run.profile=cpu", "run.workers=2"])
        return make_plan(Request(str(source.root), LocalDirectory(tmp_path / "out"), config, **asked))

    return planning


def ids(jobs):
    return [job.episode_id for job in jobs]


def test_each_view_that_shows_something_becomes_a_packet_and_a_black_one_is_no_failure(planned, tmp_path):
    outcome = carry_out(planned(camera=ALL_CAMERAS), Silent(), run_shard_plainly)
    rows = {row["episode_id"]: row for row in outcome.rows}
    assert outcome.exit_code == 0
    assert {name: row["status"] for name, row in rows.items()} == {
        f"square_{number}-{camera}": "filtered" if camera == "night" else "done"
        for number in range(2)
        for camera in ThreeCameras.cameras
    }
    assert "every frame of night is black" in rows["square_1-night"]["error"]
    records = [Packet(path).attributes["source"] for path in (tmp_path / "out" / "packets").glob("*/square_1-*.h5")]
    seen = {record["camera"]: record["frame_sha256"] for record in records}
    assert set(seen) == {"front", "side"}
    assert seen["front"] != seen["side"]


def test_a_finished_batch_of_all_views_has_nothing_left_to_do(planned, monkeypatch):
    carry_out(planned(camera=ALL_CAMERAS), Silent(), run_shard_plainly)
    monkeypatch.setattr(ThreeCameras, "open", lambda *_: pytest.fail("a black view was decoded again"))
    again = planned(camera=ALL_CAMERAS)
    assert (again.jobs, len(again.finished)) == ([], 6)


def test_a_black_view_asked_for_by_name_fails(planned):
    outcome = carry_out(planned(count=1, camera="night"), Silent(), run_shard_plainly)
    assert [row["status"] for row in outcome.rows] == ["failed"]
    assert outcome.exit_code == 1
    # It was asked for as one of all: what failed by name is not taken up as a failure, and the other way round.
    assert len(planned(count=1, camera=ALL_CAMERAS).jobs) == 3


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({"limit": 1}, ["square_0-front", "square_0-night", "square_0-side"]),
        ({"ids": ("square_1",)}, ["square_1-front", "square_1-night", "square_1-side"]),
        ({"ids": ("square_1-side", "square_0")}, ["square_1-side", *(f"square_0-{c}" for c in ThreeCameras.cameras)]),
        ({"ids": ("square_1-side", "square_0"), "limit": 1}, ["square_1-side"]),
    ],
)
def test_choices_count_episodes(planned, asked, chosen):
    assert ids(planned(camera=ALL_CAMERAS, **asked).jobs) == chosen


def test_an_episode_without_any_camera_is_opened_and_says_so(planned):
    assert ids(planned(count=1, cameras=(), camera=ALL_CAMERAS).jobs) == ["square_0"]


def test_views_that_would_share_a_packet_are_refused(planned):
    with pytest.raises(UnknownCameraError, match="share a packet's name: a/b, a_b"):
        planned(cameras=("a/b", "a_b"), camera=ALL_CAMERAS)


def test_other_processes_get_each_view(tmp_path):
    source = write_v30(tmp_path / "in", {0: 4, 1: 5}, files={FRONT: [[0, 1]], SIDE: [[0, 1]]}, data=[[0, 1]])
    config = load_config(None, [*QUICK, "run.profile=cpu", "run.shard_size=2"])
    request = Request(str(source), LocalDirectory(tmp_path / "out"), config, camera=ALL_CAMERAS)
    plan = make_plan(request)
    with published(plan) as file:
        for index in range(len(plan.shards)):
            hand_out(file, plan, index)
            elsewhere = find_plan(file, index)
            assert [(job.info.episode_id, job.camera) for job in elsewhere.jobs] == [
                (job.info.episode_id, job.camera) for job in plan.shards[index]
            ]
            assert elsewhere.work.all_cameras
    assert {job.camera for job in plan.jobs} == {FRONT, SIDE}
