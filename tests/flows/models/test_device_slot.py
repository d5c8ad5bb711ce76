import threading
import time
from types import SimpleNamespace

import pytest
import torch

from flows.models import build as models
from flows.models import device_slot as device_slot_module
from flows.models.device_slot import device_slot


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A model on a device that is called CUDA; what is tested is the lock, which asks nothing of it but its name."""
    monkeypatch.setenv("CUEPACK_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(device_slot_module, "_device_name", lambda device: f"gpu-{device.index}")
    return lambda index: SimpleNamespace(device=torch.device("cuda", index))


def most_at_once(models_in_use):
    """How many of the models run at once, each on a thread of its own."""
    lock, running, most = threading.Lock(), 0, 0

    def work(model):
        nonlocal running, most
        with device_slot(model):
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.05)
            with lock:
                running -= 1

    threads = [threading.Thread(target=work, args=(model,)) for model in models_in_use]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most


def test_models_of_one_device_run_one_at_a_time(gpu):
    assert most_at_once([gpu(0), gpu(0), gpu(0)]) == 1


def test_two_devices_run_side_by_side(gpu):
    assert most_at_once([gpu(0), gpu(1)]) == 2


def test_on_the_cpu_nothing_waits(gpu, tmp_path):
    assert most_at_once([SimpleNamespace(device=torch.device("cpu")), object(), object()]) == 3
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
    assert device_slot_module._device_name(torch.device("cuda")).startswith("gpu-")
