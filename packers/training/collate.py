"""Samples joined into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Batch = dict[str, Any]


def collate(samples: Sequence[dict[str, NDArray[Any]] | None]) -> Batch:
    """Arrays of all samples stacked along a new first axis, NumPy.

    Samples that could not be read (None) are left out; `skipped` () int64 says how many. A batch of which nothing is
    left has that key alone.
    """
    present = [sample for sample in samples if sample is not None]
    batch: Batch = {"skipped": np.asarray(len(samples) - len(present))}
    if present:
        batch |= {key: np.stack([sample[key] for sample in present]) for key in present[0]}
    return batch


def collate_torch(samples: Sequence[dict[str, NDArray[Any]] | None]) -> Batch:
    """`collate` with torch tensors, for torch's DataLoader (`collate_fn=collate_torch`)."""
    import torch

    return {key: torch.from_numpy(np.asarray(values)) for key, values in collate(samples).items()}
