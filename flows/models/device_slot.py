"""One slot per device: models of one GPU run one at a time, whichever thread, process or run wants them.

The lock is a file, so it ends with its process, however that ends; a Prefect concurrency limit keeps a killed holder's
slot for minutes, and needs a server. What surrounds a model (compressing, writing, the next episode's other stages)
goes on in other threads meanwhile.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from extractors.types import Backend
from packers.locks import held

if TYPE_CHECKING:
    import torch


def slot_folder() -> Path:
    """Where the locks are: $CUEPACK_LOCKS, for containers that share a GPU a folder they all mount, else temporary."""
    return Path(os.environ.get("CUEPACK_LOCKS") or Path(tempfile.gettempdir()) / f"cuepack-{os.getuid()}")


@contextmanager
def device_slot(model: Backend) -> Iterator[None]:
    """Holds the device that `model` runs on; waits for it. On the CPU nothing is waited for."""
    if model.device.type != "cuda":
        yield
        return
    path = slot_folder() / f"{_device_id(model.device)}.lock"
    with held(path):
        yield


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
    import torch

    index = device.index if device.index is not None else torch.cuda.current_device()
    return f"gpu-{torch.cuda.get_device_properties(index).uuid}"
