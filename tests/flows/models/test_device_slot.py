import contextlib
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from extractors.backends.devices import arithmetic
from extractors.backends.lucas_kanade import LucasKanade
from extractors.build import SEGMENTERS, TRACKERS
from extractors.track_windows import WindowedTracker
from flows.models import build as models
from flows.models import device_slot as device_slot_module
from flows.models.device_slot import device_label, device_slot
from tests.counting import AtOnce


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A model on a device that is called CUDA; what is tested is the lock, which asks nothing of it but its name."""
    monkeypatch.setenv("CUEPACK_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(device_slot_module, "_device_id", lambda device: f"gpu-{device.index}")
    return lambda index: SimpleNamespace(device=torch.device("cuda", index))


def most_at_once(models_in_use):
    """How many of the models run at once, each on a thread of its own."""
    running = AtOnce()

    def work(model):
        with device_slot(model), running.one_more():
            time.sleep(0.05)

    threads = [threading.Thread(target=work, args=(model,)) for model in models_in_use]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return running.most


def test_models_of_one_device_run_one_at_a_time(gpu):
    assert most_at_once([gpu(0), gpu(0), gpu(0)]) == 1


def test_a_tracker_of_long_clips_takes_the_slot_of_the_one_it_wraps(gpu):
    def windowed():
        return WindowedTracker(SimpleNamespace(device=torch.device("cuda", 0), precision="fp32"), length=48)

    assert most_at_once([windowed(), windowed(), gpu(0)]) == 1


@pytest.mark.parametrize("name", ["lucas-kanade", "recorded", "nano"])
def test_what_has_no_network_of_a_device_says_that_it_runs_on_the_cpu(name):
    model = (TRACKERS if name in TRACKERS else SEGMENTERS)[name]()
    assert (device_label(model), model.precision) == ("cpu", "fp32")


def test_full_precision_holds_for_a_thread_whose_neighbour_ends_first(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: contextlib.nullcontext())
    # Two that overlap in one thread would leave it in inference mode; here only the flag is looked at.
    monkeypatch.setattr(torch, "inference_mode", contextlib.nullcontext)
    first, second = (arithmetic("fp32", torch.device("cuda")) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.backends.cudnn.allow_tf32 is False
    second.__exit__(None, None, None)
    assert torch.backends.cudnn.allow_tf32 is False


def test_two_devices_run_side_by_side(gpu):
    assert most_at_once([gpu(0), gpu(1)]) == 2


def test_on_the_cpu_nothing_waits(gpu, tmp_path):
    assert most_at_once([LucasKanade(), LucasKanade(), SimpleNamespace(device=torch.device("cpu"))]) == 3
    assert not (tmp_path / "locks").exists()


def test_a_model_is_built_once_however_many_threads_ask():
    built = []

    def build():
        time.sleep(0.02)
        built.append(1)
        return object()

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(models._once("test", "test_devices", build))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert len(set(map(id, found))) == 1
    del models._built["test", "test_devices"]


@pytest.mark.gpu
def test_a_device_is_known_by_its_own_id():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert device_slot_module._device_id(torch.device("cuda")).startswith("gpu-")
