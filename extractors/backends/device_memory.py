"""What does not fit a device's memory is tried again in halves, down to the smallest piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from extractors.backends.devices import is_out_of_memory
from extractors.errors import DeviceMemoryError

Result = TypeVar("Result")


def attempt(work: Callable[[], Result]) -> Result | None:
    """What `work` gives, or None where memory does not suffice."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of one device, and what to do about a model that does not fit.

    Attributes:
        device: where the model runs.
        model: its name, for messages.
        remedy: what the user can do.
    """

    device: torch.device
    model: str
    remedy: str

    def halved(self, size: int, smallest: int, what: str) -> int:
        """The next size to try after memory ran out on `what`.

        Raises:
            DeviceMemoryError: `size` was the smallest that makes a difference.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if size <= smallest:
            raise self.error(what)
        return size // 2

    def fit(self, work: Callable[[int], Result], size: int, smallest: int, what: str) -> tuple[Result, int]:
        """What `work(size)` gives, with the first of `size`, size / 2, ... that fits, and that size.

        Raises:
            DeviceMemoryError: not even the smallest does.
        """
        while (result := attempt(partial(work, size))) is None:
            size = self.halved(size, smallest, what)
        return result, size

    def error(self, what: str) -> DeviceMemoryError:
        """That memory ran out on `what`."""
        return DeviceMemoryError(f"{self.device} ran out of memory on {what} with {self.model}; {self.remedy}")
