import json
from pathlib import Path

import cloudpickle
import httpx
import pytest
from click.testing import CliRunner

from extractors.errors import ConfigError, CorruptDataError, SourceError
from flows.cli import main
from flows.config import load_config
from flows.orchestration import artifacts, dispatch, plan_file, shard_flow
from flows.orchestration import flows as flows_of
from flows.orchestration.handed import Handed
from flows.orchestration.plan_file import find_plan, hand_out, keep_rows, published, take_rows
from flows.output.directory import OutputDirectory
from flows.output.manifest import Manifest
from flows.run.carry_out import Outcome, carry_out, run_shard_plainly
from flows.run.plan import Request, make_plan, record_run, rerun_plans
from flows.run.progress import RunProgress
from flows.run.shard import ALL_STAGES, Shard, failed_as_it_is, source_stamp
from flows.sources.sample import write_sample
from packers.viewer.contact_sheet import TILE, contact_sheet, data_uri

SETTINGS = (
    "masks.backend=recorded",
    "depth.backend=off",
    "tracks.backend=off",
    "run.profile=cpu",
    "packet.height=32",
    "packet.width=32",
    "run.shard_size=3",
    "run.workers=1",
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder / "bridge_raw"


def plan_for(sample, out, *settings, **request):
    return make_plan(
        Request(str(sample), OutputDirectory.open(out), load_config(assignments=[*SETTINGS, *settings]), **request)
    )


def row(number, status="done", **more):
    return {"episode_id": f"e{number}", "episode_index": number, "status": status, **more}


def failure(number, **more):
    return row(number, "failed", stage="source", error_type="CorruptDataError", error="frame 4 is cut off", **more)


class ThrottledError(Exception):
    def __init__(self, status):
        self.response = type("Response", (), {"status_code": status})


def test_shards_go_on_plainly_while_the_server_is_away(sample, tmp_path, monkeypatch, caplog):
    plan = plan_for(sample, tmp_path / "out", "run.shard_size=1")
    answers, asked = iter([False, True]), []

    def flow(handed, shard, *names):
        assert handed.value is plan
        asked.append(shard)
        rows = run_shard_plainly(plan, shard, plan.shards[shard])
        if shard == 1:
            # As Prefect does: the state of a shard that is over cannot be told.
            raise httpx.ConnectError("refused")
        return rows

    monkeypatch.setattr(dispatch, "server_answers", lambda: next(answers))
    with plan.work.store.in_use(), caplog.at_level("WARNING", "cuepack"):
        rows = [row for rows in dispatch.dispatch_shards(plan, flow, dispatch.ServerWatch()) for row in rows]
    assert asked == [0, 1, 3]
    assert [each["status"] for each in rows] == ["done"] * 4
    assert rows[1]["stages_computed"] == ""
    said = [line for line in caplog.messages if "Prefect server" in line]
    assert "went away" in said[0]
    assert "answers again" in said[1]


def test_other_faults_of_a_shard_end_the_run(sample, tmp_path):
    plan = plan_for(sample, tmp_path / "out")

    def flow(*call):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(dispatch.dispatch_shards(plan, flow, dispatch.ServerWatch()))


def test_a_lost_server_is_told_from_a_source_that_cannot_be_reached():
    wrapped = RuntimeError("state")
    wrapped.__cause__ = httpx.ReadError("gone")
    assert dispatch.lost_server(wrapped)
    assert not dispatch.lost_server(RuntimeError("other"))
    remote = SourceError("s3://x cannot be reached")
    remote.__cause__ = httpx.ConnectError("gone")
    assert not dispatch.lost_server(remote)


@pytest.mark.parametrize(
    ("cause", "worth"),
    [
        (ThrottledError(429), True),
        (ThrottledError(503), True),
        (ThrottledError(404), False),
        (ConnectionResetError(), True),
    ],
)
def test_only_what_may_be_over_in_a_minute_is_tried_again(cause, worth):
    error = SourceError("the hub did not give it")
    error.__cause__ = cause
    assert shard_flow.is_transient(error) is worth
    assert not shard_flow.is_transient(CorruptDataError("frame 4 is cut off"))
    assert not shard_flow.is_transient(None)


def test_a_loop_of_causes_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert not shard_flow.is_transient(first)


def test_the_failures_table_gives_reason_and_command_and_stays_small(tmp_path):
    rows = artifacts.failure_rows([failure(n) for n in range(250)], OutputDirectory.open(tmp_path / "my robots"))
    assert len(rows) == artifacts.MOST_FAILURES
    assert rows[7]["rerun"] == f"cuepack rerun '{tmp_path}/my robots' e7"
    assert rows[7]["reason"] == "CorruptDataError: frame 4 is cut off"
    long = artifacts.failure_rows([failure(0) | {"error": "x" * 5000}], OutputDirectory.open(tmp_path))
    assert len(long[0]["reason"]) == 300


def test_the_summary_counts_and_averages(tmp_path):
    rows = [
        row(
            0, score=0.4, score_task=1.0, quality_depth="pass", seconds_masks=2.0, peak_mb_masks=300.0, tags="no-grasp"
        ),
        row(1, score=0.8, score_task=None, quality_depth="warn", seconds_masks=4.0, peak_mb_masks=500.0, tags=""),
        failure(2),
    ]
    text = artifacts.summary_text(rows, OutputDirectory.open(tmp_path))
    assert "# 2 packed, 1 failed, 0 filtered" in text
    assert "| score | 2 | 0.600 | 0.400 | 0.800 |" in text
    assert "| score_task | 1 | 1.000 | 1.000 | 1.000 |" in text
    assert "| depth | 1 | 1 | 0 | 0 |" in text
    assert "| masks | 6.0 | 3.00 |  |  |  |  | 500 |" in text
    assert "no-grasp (1)" in text


def test_keys_are_what_prefect_takes(tmp_path):
    assert (
        artifacts.artifact_key("progress", OutputDirectory.open(tmp_path / "Bridge_V2 (new)"))
        == "progress-bridge-v2-new"
    )


def test_a_dashboard_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda *arguments: 1 / 0)
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda *arguments: 1 / 0)
    monkeypatch.setattr(artifacts.log, "propagate", True)
    artifacts.report_run([failure(0)], OutputDirectory.open(tmp_path), seconds=1.0, workers=1)
    assert "dashboard's failures" in caplog.text
    assert "dashboard's summary" in caplog.text


def test_progress_tells_rate_and_time_left():
    progress = RunProgress(4, len(ALL_STAGES), quiet=True)
    for stage in ALL_STAGES:
        progress.stage_done(stage, 40)
    progress.episode_done("done")
    assert progress.fraction() == pytest.approx(0.25)
    assert "1 of 4 episodes over, 0 failed" in progress.summary()
    assert "left" in progress.summary()
    assert RunProgress(0, len(ALL_STAGES), quiet=True).fraction() == 1.0


def test_an_episode_gone_through_twice_counts_once():
    progress = RunProgress(2, len(ALL_STAGES), quiet=True)
    for status in ("done", "done", "done"):
        progress.episode_done(status)
    assert progress.summary().startswith("2 of 2 episodes over")


def test_a_plan_on_disk_is_paths_and_ids_and_makes_the_same_packets(sample, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    carry_out(plan_for(sample, here), RunProgress(4, len(ALL_STAGES), quiet=True), run_shard_plainly)
    plan = plan_for(sample, there)
    with published(plan) as file:
        plan_file._last.clear()  # as in another process
        for index in range(2):
            hand_out(file, plan, index)
            found = find_plan(file, index)
            assert found.work is not plan.work
            assert found.work is find_plan(file, index).work
            assert [job.episode_id for job in found.jobs] == [job.episode_id for job in plan.shards[index]]
            with Shard(found.work, found.jobs, found.earlier) as shard:
                for stage in ALL_STAGES:
                    shard.run(stage)
                keep_rows(file, index, shard.rows)
        assert [row["status"] for row in take_rows(file, 0) or []] == ["done"] * 3
        assert take_rows(file, 2) is None
    assert not list((there / ".work" / "plans").iterdir())
    bytes_of = {out: {path.name: path.read_bytes() for path in out.glob("packets/*/*.h5")} for out in (here, there)}
    assert bytes_of[here] == bytes_of[there]
    assert len(bytes_of[here]) == 4


def test_a_process_that_gets_a_shard_lists_no_source_and_reads_no_manifest(sample, tmp_path, monkeypatch):
    plan = plan_for(sample, tmp_path / "out")
    row = {"episode_id": plan.jobs[3].episode_id, "status": "failed", "packet": None}
    plan.earlier = {row["episode_id"]: row, "another": row | {"episode_id": "another"}}
    with published(plan) as file:
        hand_out(file, plan, 1)
        plan_file._last.clear()
        monkeypatch.setattr(type(plan.work.source), "episodes", lambda self: pytest.fail("listed"))
        monkeypatch.setattr(Manifest, "rows", lambda self: pytest.fail("read"))
        found = find_plan(file, 1)
        assert [source_stamp(job.info) for job in found.jobs] == [source_stamp(job.info) for job in plan.jobs[3:]]
        assert found.earlier == {row["episode_id"]: row}


def test_files_of_a_shard_are_gone_when_its_rows_are_taken(sample, tmp_path):
    plan = plan_for(sample, tmp_path / "out")
    with published(plan) as file:
        for index, rows in ((0, []), (1, None)):
            hand_out(file, plan, index)
            if rows is not None:
                keep_rows(file, index, rows)
            assert take_rows(file, index) == rows
        assert [path.name for path in Path(file).parent.iterdir()] == ["plan.json"]


def test_a_shard_is_cut_out_when_it_is_asked_for(sample, tmp_path):
    taken = []

    class Counted(list):
        def __getitem__(self, index):
            found = super().__getitem__(index)
            taken.append(len(found) if isinstance(index, slice) else 1)
            return found

    plan = plan_for(sample, tmp_path / "out")
    plan.jobs = Counted(plan.jobs * 1000)
    shards = plan.shards
    assert (len(shards), taken) == (1334, [])
    assert [job.episode_id for job in shards[1333]] == [job.episode_id for job in plan.jobs[3999:]]
    # However many shards there are, asking for one touches its own jobs alone.
    assert taken[0] == 1
    assert shards[-1] == shards[1333]
    with pytest.raises(IndexError):
        shards[1334]


def test_a_worker_without_the_plan_or_the_source_says_what_to_mount(sample, tmp_path):
    with pytest.raises(ConfigError, match="mount"):
        find_plan(str(tmp_path / "out" / ".work" / "plans" / "x" / "plan.json"), 0)
    plan = plan_for(sample, tmp_path / "out")
    with published(plan) as file:
        plan_file._last.clear()
        with pytest.raises(ConfigError, match=r"episodes-0\.json.*mount"):
            find_plan(file, 0)
        hand_out(file, plan, 0)
        episodes = Path(file).with_name("episodes-0.json")
        given = json.loads(episodes.read_text())
        given["episodes"][0]["files"][0][0] = "not-here.jpg"
        episodes.write_text(json.dumps(given))
        with pytest.raises(ConfigError, match=r"lacks not-here\.jpg of episode"):
            find_plan(file, 0)
        kept = json.loads(Path(file).read_text())
        kept["source"] = str(tmp_path / "unmounted")
        Path(file).write_text(json.dumps(kept))
        plan_file._last.clear()
        with pytest.raises(SourceError, match="does not exist"):
            find_plan(file, 0)


@pytest.mark.parametrize("engine", ["ray", "dask", "workers"])
def test_engines_of_many_processes_want_a_server(engine, monkeypatch):
    config = load_config(assignments=[f"run.engine={engine}"])
    with pytest.raises(ConfigError, match="PREFECT_API_URL"):
        dispatch.check_engine(config)
    dispatch.check_engine(load_config())


def test_an_engine_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr(
        dispatch, "get_current_settings", lambda: type("S", (), {"api": type("A", (), {"url": "http://x/api"})})
    )
    with pytest.raises(ConfigError, match=r"pip install 'cuepack\[ray\]'"):
        dispatch.check_engine(load_config(assignments=["run.engine=ray"]))


def test_a_shard_that_was_lost_yields_failed_rows_that_are_not_recorded(sample, tmp_path):
    plan = plan_for(sample, tmp_path / "out")
    with published(plan) as file:
        rows = dispatch._rows(plan, file, 1, RuntimeError("the worker died"))
    assert [(row["status"], row["error"]) for row in rows] == [("failed", "the worker died")]
    assert Manifest(tmp_path / "out").rows() == {}


def test_submitting_keeps_to_its_window():
    under_way, most = set(), 0

    def submit(index):
        nonlocal most
        under_way.add(index)
        most = max(most, len(under_way))
        return index

    for index, submitted in shard_flow.in_windows(submit, 10, 3):
        assert index == submitted
        under_way.discard(index)
    assert most == 3
    assert not under_way


def test_run_names_say_dataset_camera_and_episodes(sample, tmp_path):
    plan = plan_for(sample, tmp_path / "out")
    assert flows_of._run_name(plan) == "bridge_data_v2 default-camera episodes 0-3"
    call = dispatch.shard_call(plan, 1)
    assert call == (1, "bridge_data_v2", "default-camera", "episode 3")


def test_a_rerun_gets_a_shard_for_each_episode(sample, tmp_path):
    plan = plan_for(sample, tmp_path / "out")
    flows_of._one_shard_each(plan)
    assert [len(jobs) for jobs in plan.shards] == [1, 1, 1, 1]
    assert plan.work.run_key() == plan_for(sample, tmp_path / "out").work.run_key()


@pytest.mark.parametrize(
    ("rows", "kind", "name"),
    [
        ([row(0)], "COMPLETED", "Completed"),
        ([row(0), failure(1)], "COMPLETED", "Some failed"),
        ([failure(1)], "FAILED", "Failed"),
        ([], "COMPLETED", "Completed"),
    ],
)
def test_a_run_s_state_tells_whether_episodes_failed(rows, kind, name):
    state = flows_of._verdict(Outcome(rows=rows))
    assert (state.type.value, state.name) == (kind, name)


def test_an_interrupted_run_is_cancelled_and_a_stopped_one_raises():
    assert flows_of._verdict(Outcome(interrupted=True)).is_cancelled()
    with pytest.raises(ConfigError):
        flows_of._verdict(Outcome(error=ConfigError("weights are gone")))


def test_new_only_leaves_out_what_would_fail_again(sample, tmp_path):
    out = tmp_path / "out"
    plan = plan_for(sample, out)
    job, key = plan.jobs[0], plan.work.run_key()
    bad = failure(0, run_key=key, source_stamp=source_stamp(job.info)) | {"episode_id": job.episode_id}
    assert failed_as_it_is(bad, job, key)
    assert not failed_as_it_is(bad | {"source_stamp": "changed"}, job, key)
    assert not failed_as_it_is(bad | {"error_type": "DeviceMemoryError"}, job, key)
    assert not failed_as_it_is(bad, job, "other settings")
    Manifest(out).add(bad)
    again = plan_for(sample, out, new_only=True)
    assert [each["episode_id"] for each in again.given_up] == [job.episode_id]
    assert len(again.jobs) == 3
    assert len(plan_for(sample, out).jobs) == 4


def test_rerun_plans_refuse_an_episode_that_is_not_listed(sample, tmp_path):
    out = tmp_path / "out"
    record_run(plan_for(sample, out), "test")
    with pytest.raises(ConfigError, match=r"no episode nobody; manifest\.csv"):
        rerun_plans(OutputDirectory.open(out), ["nobody"])


def test_the_contact_sheet_shows_a_row_per_packet_and_black_for_a_damaged_one(sample, tmp_path):
    out = tmp_path / "out"
    carry_out(plan_for(sample, out, limit=1), RunProgress(1, len(ALL_STAGES), quiet=True), run_shard_plainly)
    good = next(out.glob("packets/*/*.h5"))
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(b"no packet")
    sheet = contact_sheet([good, damaged])
    assert sheet.shape == (2 * TILE, 5 * TILE, 3)
    assert sheet[:TILE].std() > 10
    assert sheet[TILE:].max() == 0
    assert data_uri(sheet).startswith("data:image/jpeg;base64,/9j/")
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_what_is_handed_to_a_flow_stays_in_this_process(sample, tmp_path):
    plan = plan_for(sample, tmp_path / "out")
    parameters = flows_of._extract_given.serialize_parameters({"out": "x", "given": Handed(plan)})
    assert parameters == {"out": "x", "given": "<Handed>"}
    # Ray and Dask get the parameters of the surrounding flow along with a task.
    assert cloudpickle.loads(cloudpickle.dumps(Handed(plan))).value is None
    for each in (flows_of.extract_dataset, flows_of.rerun_episode, shard_flow.extract_shard, shard_flow.run_shard):
        assert len(cloudpickle.dumps(each)) < 100_000


def test_a_run_that_leaves_without_its_server_gives_the_terminal_back(sample, tmp_path, monkeypatch):
    def lose_server(plan, progress, *, if_server_lost, rerun):
        if_server_lost(Outcome())

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes standard error for a terminal
    monkeypatch.setattr("flows.orchestration.flows.run_with_prefect", lose_server)
    monkeypatch.setattr("flows.orchestration.settings.prepare", lambda out: None)
    monkeypatch.setattr("flows.orchestration.settings.leave_at_once", leave)
    result = CliRunner().invoke(main, ["extract", str(sample), "--out", str(tmp_path / "out"), "--profile", "cpu"])
    assert result.exit_code == 0
    assert result.stdout.startswith("0 packed")
    assert result.stderr.index("\x1b[?25h") < result.stderr.index("the Prefect server is gone")
