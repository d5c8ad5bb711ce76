"""One slot per device: models of one GPU run one at a time, whichever thread, process or run wants them.

Between processes the lock is a file, so it ends with its process, however that ends; a Prefect concurrency limit keeps
a killed holder's slot for minutes, and needs a server. Within a process the episode that comes first is served first,
and a thread that waits or computes on a device leaves its CPU place to another (flows/models/turns.py): what surrounds
a model (decoding, compressing, writing) goes on meanwhile.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from extractors.types import Backend
from flows.models.turns import Budget, current_turn
from packers.locks import held

if TYPE_CHECKING:
    import torch

_queues: dict[str, Budget] = {}
_lock = threading.Lock()


def slot_folder() -> Path:
    """Where the locks are: $CUEPACK_LOCKS, for containers that share a GPU a folder they all mount, else temporary."""
    return Path(os.environ.get("CUEPACK_LOCKS") or Path(tempfile.gettempdir()) / f"cuepack-{os.getuid()}")


def is_on_device(model: Backend) -> bool:
    """Whether a model computes elsewhere than on the CPU."""
    return model.device.type != "cpu"


@contextmanager
def device_slot(model: Backend, *, unless: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """Holds the device that `model` runs on; waits for it. On the CPU nothing is waited for.

    Yields:
        Whether it is held: not where `unless` became true first, which is asked whenever the device is given back.
    """
    if not is_on_device(model):
        yield True
        return
    device, turn = _device_id(model.device), current_turn()
    with _lock:
        queue = _queues.setdefault(device, Budget(1))
    with turn.aside():
        started = time.perf_counter()
        if not queue.take(1, turn.order, unless=unless):
            turn.spent.waited_device_s += time.perf_counter() - started
            yield False
            return
        try:
            turn.check()
            with held(slot_folder() / f"{device}.lock"):
                got = time.perf_counter()
                turn.spent.waited_device_s += got - started
                yield True
                turn.spent.device_s += time.perf_counter() - got
        finally:
            queue.give(1)


def device_label(model: Backend) -> str:
    """What a model runs on, as a packet records it: "cpu", or the graphics card's own name.

    Numbers differ between cards, so "cuda" would not say what made a packet.
    """
    if model.device.type != "cuda":
        return model.device.type
    import torch

    return torch.cuda.get_device_name(model.device)


def _device_id(device: torch.device) -> str:
    """The device's own id, which CUDA_VISIBLE_DEVICES does not renumber."""
    if device.type != "cuda":
        return device.type if device.index is None else f"{device.type}-{device.index}"
    import torch

    index = device.index if device.index is not None else torch.cuda.current_device()
    return f"gpu-{torch.cuda.get_device_properties(index).uuid}"
