"""Batches in an order that a seed fixes, resumable at any batch: NumPy in this process, or torch with workers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError
from packers.training.collate import Batch, collate, collate_torch
from packers.training.dataset import PacketDataset
from packers.training.windows import shuffled

_log = logging.getLogger(__name__)


class PacketBatches:
    """Batches of a dataset as NumPy arrays, read in this process; needs no torch.

    Each iteration gives what is left of one epoch, then the next epoch's turn has come. The order depends on the seed
    and the epoch alone.

    Args:
        dataset: the windows.
        batch_size: windows of a batch.
        seed: fixes the order; None keeps the dataset's own.
        drop_last: leave out a last batch that is smaller.
        rank, ranks: this process among those that share the epoch; all get the same number of batches, for which a
            few windows at the end of an epoch's order are left out.
    """

    def __init__(
        self,
        dataset: PacketDataset,
        batch_size: int = 16,
        *,
        seed: int | None = 0,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < ranks:
            raise ConfigError(f"wanted a batch of at least 1 and 0 <= rank < ranks, got {batch_size}, {rank}, {ranks}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.epoch = 0
        self.position = 0
        self.skipped = 0
        self._seed = seed
        self._drop_last = drop_last
        self._rank, self._ranks = rank, ranks
        if len(self) == 0:
            raise ConfigError(
                f"{len(dataset)} windows give no batch of {batch_size} to {ranks} processes; take smaller batches"
            )

    def __len__(self) -> int:
        """Batches of one epoch."""
        windows = len(self.dataset) // self._ranks
        return windows // self.batch_size if self._drop_last else -(-windows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for numbers in self._left():
            yield self._counted(collate([self.dataset[number] for number in numbers.tolist()]))
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was given out, for `load_state_dict` of an equal loader."""
        fixed = (self._seed, self.batch_size, self._drop_last, self._rank, self._ranks, self.dataset.fingerprint)
        return {"epoch": self.epoch, "position": self.position, "skipped": self.skipped, "fixed": list(fixed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was called: the next batch is the one that came next there.

        Raises:
            ConfigError: the state is of another seed, batch size, window, or set of packets.
        """
        if state["fixed"] != self.state_dict()["fixed"]:
            raise ConfigError("the position is one of another seed, batch size, window or set of packets; start again")
        self.epoch, self.position, self.skipped = state["epoch"], state["position"], state["skipped"]

    def _left(self) -> list[NDArray[np.int64]]:
        """The window numbers of each batch that this epoch has left."""
        count = len(self.dataset)
        order = np.arange(count) if self._seed is None else shuffled(count, self._seed, self.epoch)
        own = order[: count - count % self._ranks][self._rank :: self._ranks]
        return [own[at * self.batch_size : (at + 1) * self.batch_size] for at in range(self.position, len(self))]

    def _counted(self, batch: Batch) -> Batch:
        self.position += 1
        self.skipped += int(batch["skipped"])
        return batch


class PacketLoader(PacketBatches):
    """The same batches as torch tensors, read by worker processes.

    Args:
        dataset, batch_size: as in `PacketBatches`.
        workers: processes that read; 0 reads in this one. Any number gives the same batches in the same order.
        options: of `PacketBatches` (`seed`, `drop_last`, `rank`, `ranks`) and of torch's DataLoader
            (`prefetch_factor`, `pin_memory`, `multiprocessing_context`, `persistent_workers`).
    """

    def __init__(self, dataset: PacketDataset, batch_size: int = 16, *, workers: int = 0, **options: Any) -> None:
        try:
            from torch.utils.data import DataLoader
        except ModuleNotFoundError as error:
            raise ConfigError(
                "PacketLoader needs torch: pip install 'cuepack[train]'; PacketBatches gives the same batches in NumPy"
            ) from error
        own = {name: options.pop(name) for name in ("seed", "drop_last", "rank", "ranks") if name in options}
        super().__init__(dataset, batch_size, **own)
        options.setdefault("persistent_workers", workers > 0)
        self._loader: Any = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=_Order(self),
            num_workers=workers,
            collate_fn=collate_torch,
            **options,
        )

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            yield self._counted(batch)
        self.epoch, self.position = self.epoch + 1, 0


class _Order:
    """What is left of the epoch, as torch asks for it: anew at each iteration, in the main process."""

    def __init__(self, batches: PacketBatches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return (numbers.tolist() for numbers in self._batches._left())

    def __len__(self) -> int:
        return len(self._batches) - self._batches.position
