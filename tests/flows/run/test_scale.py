"""What grows with the episodes of a batch: operations are counted, so that no one of them is done twice for each."""

from collections import Counter

import pytest

from flows.config import load_config
from flows.output.directory import LocalDirectory
from flows.output.manifest import Manifest
from flows.run import plan as plan_module
from flows.run.carry_out import carry_out, run_shard_plainly
from flows.run.plan import Request, make_plan
from packers import locks
from tests.flows.batches import QUICK, Silent
from tests.support import ArraySource

EPISODES = 5


@pytest.fixture
def request_of(tmp_path, monkeypatch):
    """Makes a request over a source of arrays."""
    source = ArraySource(tmp_path / "in", count=EPISODES)
    monkeypatch.setattr(plan_module, "open_source", lambda *_: source)
    out = LocalDirectory(tmp_path / "out")
    return lambda: Request(str(source.root), out, load_config(None, [*QUICK, "run.profile=cpu", "run.shard_size=2"]))


def _count(monkeypatch, counts, owner, name):
    original = getattr(owner, name)

    def counted(*arguments, **named):
        counts[name] += 1
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, counted)


def test_a_finished_batch_is_recognised_by_one_head_an_episode_and_nothing_is_written(request_of, monkeypatch):
    assert carry_out(make_plan(request_of()), Silent(), run_shard_plainly).exit_code == 0
    counts = Counter()
    _count(monkeypatch, counts, Manifest, "write")
    _count(monkeypatch, counts, Manifest, "rows")
    _count(monkeypatch, counts, locks, "_take_byte")
    store = type(request_of().out.store())
    _count(monkeypatch, counts, store, "mark")
    _count(monkeypatch, counts, store, "packet_results")
    plan = make_plan(request_of())
    assert len(plan.finished) == EPISODES
    assert carry_out(plan, Silent(), run_shard_plainly).exit_code == 0
    assert counts == {"rows": 1, "mark": EPISODES}


def test_locks_and_work_files_of_a_batch_do_not_stay(request_of, tmp_path):
    carry_out(make_plan(request_of()), Silent(), run_shard_plainly)
    left = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out" / ".work").rglob("*.*"))
    assert left == [".work/episodes.lock", ".work/manifest.lock", ".work/run.lock"]
    # One byte an episode is locked, not written: the table of locks stays empty.
    assert (tmp_path / "out" / ".work" / "episodes.lock").stat().st_size == 0
