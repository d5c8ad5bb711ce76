"""Shards on Prefect workers, with a server that is made of a list of states."""

import httpx
import pytest
from prefect.states import Completed, Crashed, Failed, Running, Scheduled

from flows.orchestration import dispatch
from flows.orchestration.deployments import lost_runs_automation
from flows.run.stream import Interrupted
from tests.flows.batches import QUICK, array_plan
from tests.support import ArraySource


class FakeServer:
    """Answers `read_flow_run` with the next of a run's states; errors among them are raised."""

    def __init__(self, states):
        self.states = {run: list(each) for run, each in states.items()}
        self.started, self.cancelled = [], []

    def start(self, parameters, key):
        self.started.append((parameters["shard"], key))
        return len(self.started) - 1

    def read_flow_run(self, run):
        state = self.states[run].pop(0) if len(self.states[run]) > 1 else self.states[run][0]
        if isinstance(state, Exception):
            raise state
        return type("Run", (), {"state": state})

    def set_flow_run_state(self, run, state):
        self.cancelled.append((run, state.type.value))
        self.states[run] = [Crashed(message="stopped")]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    def serving(states):
        server = FakeServer(states)
        monkeypatch.setattr(dispatch, "get_client", lambda **_: server)
        monkeypatch.setattr(dispatch, "_start_on_workers", server.start)
        monkeypatch.setattr(dispatch, "hand_out", lambda file, plan, index: None)
        monkeypatch.setattr(dispatch, "POLL_S", 0.0)
        monkeypatch.setattr(dispatch, "_rows", lambda plan, file, index, error: [(index, error)])
        return server

    return serving


@pytest.fixture
def plan(tmp_path):
    settings = [*QUICK, "run.shard_size=1", "run.engine=workers", "run.in_flight=2"]
    return array_plan(ArraySource(tmp_path / "in", count=3), tmp_path / "out", settings)


def test_shards_go_out_in_a_window_and_each_ends_once(plan, serve):
    server = serve({run: [Scheduled(), Running(), Completed()] for run in range(3)})
    ended = [row for rows in dispatch._on_workers(plan, "plan.json") for row in rows]
    assert sorted(ended) == [(0, None), (1, None), (2, None)]
    assert [shard for shard, _ in server.started] == [0, 1, 2]
    assert server.cancelled == []


def test_requests_that_are_lost_do_not_end_the_batch(plan, serve):
    server = serve({run: [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), Completed()] for run in range(3)})
    ended = [row for rows in dispatch._on_workers(plan, "plan.json") for row in rows]
    assert len(ended) == 3
    assert len(server.started) == 3


def test_a_server_that_stays_away_ends_it_in_the_end(plan, serve, monkeypatch):
    serve({run: [httpx.ConnectError("refused")] for run in range(3)})
    monkeypatch.setattr(dispatch, "SERVER_AWAY_S", 0.0)
    with pytest.raises(httpx.ConnectError):
        list(dispatch._on_workers(plan, "plan.json"))


def test_ctrl_c_stops_the_shards_that_are_under_way(plan, serve):
    server = serve({run: [Running()] for run in range(3)})
    shards = dispatch._on_workers(plan, "plan.json")
    server.states[0] = [Completed()]
    assert next(shards) == [(0, None)]
    plan.work.stop.set()
    with pytest.raises(Interrupted):
        next(shards)
    assert server.cancelled == [(1, "CANCELLING")]


def test_a_consumer_that_ends_stops_them_too(plan, serve):
    server = serve({0: [Completed()], 1: [Running()], 2: [Running()]})
    shards = dispatch._on_workers(plan, "plan.json")
    next(shards)
    shards.close()
    assert [run for run, _ in server.cancelled] == [1]


def test_a_shard_lost_with_its_worker_is_tried_once_more_under_another_key(plan, serve):
    server = serve({0: [Crashed()], 1: [Completed()], 2: [Failed(message="no")], 3: [Crashed(message="again")]})
    ended = dict(row for rows in dispatch._on_workers(plan, "plan.json") for row in rows)
    assert [shard for shard, _ in server.started] == [0, 1, 2, 0]
    assert len({key for _, key in server.started}) == 4
    assert (str(ended[0]), ended[1], str(ended[2])) == ("Crashed: again", None, "Failed: no")


def test_the_watch_for_lost_runs_looks_at_our_own_alone():
    trigger = lost_runs_automation().trigger
    wanted = trigger.match_related.model_dump(mode="json")
    assert wanted == {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.cuepack"}
