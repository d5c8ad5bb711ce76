"""What is wrong with a checkpoint, in words; the backends say what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extractors.errors import WeightsError

MOST_NAMED = 3
"""A checkpoint of another model differs in hundreds of names; this many are enough to recognise it."""


def read_state(path: Path, advice: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU; nothing that the file names is run.

    Args:
        path: the file; a dict of tensors, or one under the key `model`, as CoTracker's trainer saves it.
        advice: what to do, put at the end of messages.

    Raises:
        WeightsError: it cannot be read whole, or is no plain dict of tensors.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for files that are cut off, or no checkpoints
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WeightsError(f"{path} cannot be read as a checkpoint ({reason}); it may be cut off: {advice}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} is no plain dict of tensors; {advice}")
    return state


def load_state(network: nn.Module, state: dict[str, Tensor], path: Path, file: str, advice: str) -> None:
    """Gives `network`, which may be on the meta device, the tensors of the published `file` as read from `path`.

    Raises:
        WeightsError: names or shapes differ, or a number is not finite.
    """
    faults = checkpoint_faults(state, network.state_dict())
    if faults:
        raise WeightsError(f"{path} is not {file}: {faults}; {advice}")
    network.load_state_dict(state, strict=True, assign=True)
    network.requires_grad_(False).eval()


def checkpoint_faults(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """How names, shapes and numbers of `state` differ from the network's own, "" where they do not."""
    faults = [
        *(f"{name} is missing" for name in wanted if name not in state),
        *(f"{name} is not expected" for name in state if name not in wanted),
        *(
            f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
            for name, value in wanted.items()
            if name in state and state[name].shape != value.shape
        ),
    ]
    faults += [] if faults else [f"{name} is not finite" for name in state if not state[name].isfinite().all()]
    more = f" and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
    return "; ".join(faults[:MOST_NAMED]) + more
