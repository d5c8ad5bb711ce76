import multiprocessing
import os
import resource

from packers.locks import named_locks


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_many_locks_take_one_descriptor_and_one_file(tmp_path):
    before = open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        with named_locks(tmp_path / "locks" / "episodes.lock") as take:
            assert all(take(f"episode_{number}") for number in range(2000))
            assert open_files() == before + 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_files() == before
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["episodes.lock"]


def test_holders_in_one_process_exclude_each_other_by_name(tmp_path):
    path = tmp_path / "episodes.lock"
    with named_locks(path) as first, named_locks(path) as second:
        assert first("a")
        assert first("a")  # who holds it may ask again
        assert not second("a")
        assert second("b")
        assert not first("b")
    with named_locks(path) as third:
        assert third("a")
        assert third("b")


def _hold(path, connection):
    with named_locks(path) as take:
        connection.send(take("a"))
        connection.recv()


def test_a_killed_holder_gives_its_locks_back(tmp_path):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path / "episodes.lock", theirs))
    process.start()
    assert ours.recv()
    with named_locks(tmp_path / "episodes.lock") as take:
        assert not take("a")
        process.kill()
        process.join()
        assert take("a")
