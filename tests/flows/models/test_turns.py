import threading
import time

import pytest

from flows.models.turns import Budget, Turn, current_turn


def start(*works):
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads


def join(threads):
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_earliest_is_served_first_whoever_asked_first():
    budget, served = Budget(1), []
    budget.take(1, 0)

    def work(order):
        budget.take(1, order)
        served.append(order)
        budget.give(1)

    threads = []
    for count, order in enumerate((7, 3, 5), 1):
        threads += start(lambda order=order: work(order))
        until(lambda count=count: len(budget._waiting) == count)
    budget.give(1)
    join(threads)
    assert served == [3, 5, 7]


def test_who_wants_more_than_there_is_has_it_alone_and_is_not_overtaken():
    budget, served = Budget(10), []
    budget.take(4, 0)
    large = start(lambda: (budget.take(25, 1), served.append("large")))
    until(lambda: budget._waiting)
    small = start(lambda: (budget.take(2, 2), served.append("small")))
    until(lambda: len(budget._waiting) == 2)
    assert served == []
    budget.give(4)
    join(large)
    assert served == ["large"]
    budget.give(25)
    join(small)


def test_a_wait_ends_where_its_reason_has_gone():
    budget, over, got = Budget(1), threading.Event(), []
    budget.take(1, 0)
    threads = start(lambda: got.append(budget.take(1, 1, unless=over.is_set)))
    until(lambda: budget._waiting)
    over.set()
    budget.look_again()
    join(threads)
    assert got == [False]
    budget.give(1)
    assert budget.take(1, 2)


def test_a_thread_that_waits_for_memory_leaves_its_place_and_comes_back_to_it():
    cpus, memory, seen = Budget(1), Budget(10), []
    first, second = (Turn(order, cpus, memory) for order in (0, 1))

    def work(turn, size):
        with turn.held():
            assert current_turn() is turn
            turn.reserve(size)
            seen.append(turn.order)

    memory.take(8, 0)
    threads = start(lambda: work(first, 5))
    until(lambda: memory._waiting)
    # The place is free, though the thread that had it has not ended.
    assert cpus.take(1, 9)
    cpus.give(1)
    memory.give(8)
    threads += start(lambda: work(second, 5))
    join(threads)
    assert sorted(seen) == [0, 1]
    assert memory._used == cpus._used == 0
    assert first.spent.waited_memory_s > 0


def test_work_that_is_to_stop_does_so_after_a_wait():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Turn(check=stop).reserve(1)


def test_outside_a_shard_nothing_is_waited_for():
    with current_turn().held(), current_turn().aside():
        current_turn().reserve(10**15)
