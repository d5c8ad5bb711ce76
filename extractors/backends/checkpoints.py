"""What is wrong with a checkpoint, in words; the backends say what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

MOST_NAMED = 3
"""A checkpoint of another model differs in hundreds of names; this many are enough to recognise it."""


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
