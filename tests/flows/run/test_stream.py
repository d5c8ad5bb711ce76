import threading
import time
from dataclasses import dataclass, field

import pytest

from flows.run.stream import Interrupted, Stream
from tests.counting import AtOnce


@dataclass
class Item:
    name: int
    is_over: bool = False
    done: list = field(default_factory=list)


def stream(items, work, *, workers=2, memory=1e9, stop=None, ahead=8):
    stop, stages = stop or threading.Event(), ("a", "b", "c")
    return Stream(items, stages, work, workers=workers, threads=1, memory_bytes=memory, stop=stop, ahead=ahead)


def test_every_item_goes_through_every_stage_in_order():
    items = [Item(number) for number in range(30)]
    with stream(items, lambda stage, item, turn: item.done.append(stage)) as running:
        for stage in ("a", "b", "c"):
            running.wait(stage)
    assert all(item.done == ["a", "b", "c"] for item in items)


def test_one_item_is_ahead_while_another_still_works():
    first_may_end, items = threading.Event(), [Item(0), Item(1)]

    def work(stage, item, turn):
        item.done.append(stage)
        if item.name == 0:
            assert first_may_end.wait(10)
        elif stage == "c":
            first_may_end.set()

    with stream(items, work) as running:
        running.wait("c")
    assert items[0].done == ["a", "b", "c"]


def test_what_is_over_leaves_the_later_stages_and_holds_up_nobody():
    def work(stage, item, turn):
        item.done.append(stage)
        item.is_over = item.name == 1

    items = [Item(0), Item(1)]
    with stream(items, work) as running:
        running.wait("c")
    assert [item.done for item in items] == [["a", "b", "c"], ["a"]]


def test_no_more_compute_at_once_than_there_are_workers_and_waiters_leave_their_place():
    computing, aside = AtOnce(), AtOnce()

    def work(stage, item, turn):
        with computing.one_more():
            time.sleep(0.002)
        with turn.aside(), aside.one_more():
            time.sleep(0.01)

    with stream([Item(number) for number in range(12)], work) as running:
        running.wait("c")
    assert computing.most == 2
    assert aside.most > 2


def test_memory_bounds_what_is_under_way():
    held = AtOnce()

    def work(stage, item, turn):
        if stage == "a":
            turn.reserve(4)
            held.add(4)
        time.sleep(0.002)
        if stage == "c":
            held.add(-4)

    with stream([Item(number) for number in range(12)], work, workers=4, memory=10) as running:
        running.wait("c")
    assert held.most == 8


def test_the_first_error_ends_all_and_is_raised_where_somebody_waits():
    items = [Item(number) for number in range(40)]

    def work(stage, item, turn):
        item.done.append(stage)
        if item.name == 3:
            raise OSError("the disk is full")
        time.sleep(0.001)

    with pytest.raises(OSError, match="disk is full"), stream(items, work) as running:
        running.wait("c")
    assert items[-1].done == []


def test_a_run_that_is_asked_to_stop_ends_stages_and_begins_none():
    stop, items = threading.Event(), [Item(number) for number in range(6)]

    def work(stage, item, turn):
        stop.set()
        time.sleep(0.01)
        item.done.append(stage)

    with pytest.raises(Interrupted), stream(items, work, stop=stop) as running:
        running.wait("c")
    assert {tuple(item.done) for item in items} <= {(), ("a",)}
    assert any(item.done for item in items)


def test_left_early_what_is_under_way_ends_its_stage_before_the_block_is_over():
    begun, ended = threading.Event(), []

    def work(stage, item, turn):
        begun.set()
        time.sleep(0.02)
        ended.append((item.name, stage))

    with stream([Item(number) for number in range(20)], work):
        assert begun.wait(10)
    count = len(ended)
    assert 1 <= count <= 4
    time.sleep(0.05)
    assert len(ended) == count
