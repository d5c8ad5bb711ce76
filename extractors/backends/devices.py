"""Where a network runs, in which arithmetic, and when memory did not suffice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, get_args

import torch

from extractors.errors import ConfigError

Precision = Literal["fp32", "fp16"]
"""fp16 is mixed precision, weights in fp32, and needs a CUDA device."""


def choose_device(name: str) -> torch.device:
    """The device called "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ...

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"no device {name!r}; choose auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for, this machine has no CUDA device; choose auto or cpu")
    return device


def check_precision(precision: str, device: torch.device, setting: str) -> None:
    """Raises ConfigError unless `precision` is known and the device has it; `setting` is its name for the user."""
    if precision not in get_args(Precision):
        raise ConfigError(f"no precision {precision!r}; choose one of {sorted(get_args(Precision))}")
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"{setting} fp16 needs a CUDA device; set fp32")


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Inference in the precision asked for.

    fp32 means fp32: by default cuDNN convolves in TF32, three digits short of the published numbers.
    """
    if device.type == "cuda":
        forbid_tf32()
    half = torch.autocast(device.type, dtype=torch.float16, enabled=precision == "fp16")
    with torch.inference_mode(), half:
        yield


def forbid_tf32() -> None:
    """fp32 means fp32 from now on, in all threads of this process.

    The flag belongs to the process. Put back at the end of one thread's work, it would change the arithmetic under
    another thread that has not ended yet, and numbers would depend on timing.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the CPU's allocator, said that memory does not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
