import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from extractors.errors import DeviceMemoryError
from extractors.types import Depth
from flows.models import device_queue
from flows.models.device_queue import estimate_depth
from flows.models.turns import Budget, Turn


class Recorder:
    """A depth model of a device that is only a name; notes every call, and lets calls pass one by one."""

    precision = "fp32"

    def __init__(self, name, refuse=None):
        self.device = SimpleNamespace(type=name, index=None)
        self.calls = []
        self.refuse = refuse
        self.gate = threading.Semaphore(0)

    def estimate(self, pixels, *, size):
        return self.estimate_many([pixels], size=size)[0]

    def estimate_many(self, clips, *, size):
        self.calls.append([int(clip[0, 0, 0, 0]) for clip in clips])
        self.gate.acquire()
        time.sleep(0.01)
        if self.refuse in self.calls[-1]:
            raise DeviceMemoryError(f"clip {self.refuse} is too large")
        return [Depth(np.full((len(clip), *size), clip[0, 0, 0, 0], np.float32), "relative") for clip in clips]

    def padding(self, n_frames):
        return 0.25 if len(n_frames) > 1 else 0.0


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Has clips asked for on threads of their own, the first alone on the device until all others wait."""
    monkeypatch.setenv("CUEPACK_LOCKS", str(tmp_path / "locks"))

    def ask(model, clips, **options):
        found, turns = {}, [Turn(order, Budget(2)) for order in range(len(clips))]

        def work(order):
            with turns[order].held():
                try:
                    found[order] = estimate_depth(model, clips[order], size=(4, 4), **options)
                except DeviceMemoryError as error:
                    found[order] = error

        threads = [threading.Thread(target=work, args=(order,), daemon=True) for order in range(len(clips))]
        threads[0].start()
        _until(lambda: model.calls)
        for thread in threads[1:]:
            thread.start()
        _until(lambda: len(_waiting(model)) == len(clips) - 1)
        for _ in range(2 * len(clips)):
            model.gate.release()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        return found, turns

    return ask


def _waiting(model):
    from flows.models import device_slot

    return device_slot._queues[model.device.type]._waiting


def _until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def clip(value, frames=3, size=(8, 8)):
    return np.full((frames, *size, 3), value, np.uint8)


def test_what_waits_while_the_device_works_is_one_batch_in_order(asked, request):
    model = Recorder(request.node.name)
    found, turns = asked(model, [clip(value) for value in range(5)])
    assert model.calls == [[0], [1, 2, 3, 4]]
    assert all(found[order].values.max() == order for order in range(5))
    assert [turn.spent.padding for turn in turns] == [0.0] + [0.25] * 4


def test_a_batch_is_no_larger_than_asked_and_of_one_size(asked, request):
    model = Recorder(request.node.name)
    clips = [clip(0), clip(1), clip(2, size=(8, 16)), clip(3), clip(4), clip(5)]
    found, _ = asked(model, clips, most_clips=3)
    assert model.calls == [[0], [1, 3, 4], [2], [5]]
    assert all(found[order].values.max() == order for order in range(6))


def test_with_one_clip_a_batch_nobody_shares_a_call(asked, request):
    model = Recorder(request.node.name)
    asked(model, [clip(value) for value in range(4)], most_clips=1)
    assert model.calls == [[0], [1], [2], [3]]


def test_one_clip_that_fails_costs_the_others_nothing_but_time(asked, request):
    model = Recorder(request.node.name, refuse=2)
    found, _ = asked(model, [clip(value) for value in range(4)])
    assert isinstance(found[2], DeviceMemoryError)
    assert [found[order].values.max() for order in (0, 1, 3)] == [0, 1, 3]


def test_the_device_time_of_a_batch_is_shared_by_frames(asked, request):
    model = Recorder(request.node.name)
    _, turns = asked(model, [clip(0), clip(1, frames=2), clip(2, frames=6)])
    short, long = turns[1].spent, turns[2].spent
    assert long.device_s == pytest.approx(3 * short.device_s, rel=0.2)
    assert short.device_s + long.device_s == pytest.approx(0.01, abs=0.01)
    assert min(short.waited_device_s, long.waited_device_s) >= 0


def test_on_the_cpu_nothing_is_batched():
    model = Recorder("cpu")
    model.gate.release()
    assert estimate_depth(model, clip(7), size=(4, 4)).values.max() == 7
    assert model not in device_queue._batches
