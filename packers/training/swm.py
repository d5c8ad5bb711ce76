"""Packets as a data set of stable-worldmodel: its scripts train on them as they are, without an export.

    import packers.training.swm  # registers the format "cuepack"
    dataset = swm.data.load_dataset("DIR", format="cuepack", frameskip=5, num_steps=4)

Columns are `pixels`, `action`, where packets have a state `observation`, `proprio` and `state`, and what the targets
give. All are finite; `<column>_valid` (n, 1) says what is known of actions and states.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from stable_worldmodel.data.dataset import Dataset
from stable_worldmodel.data.format import FORMATS, Format, register_format

from packers.training.dataset import PacketDataset, Reading
from packers.training.selection import Choice
from packers.training.targets import Target
from packers.training.windows import Window

STATES = ("observation", "proprio", "state")
"""One state under the names that the toolkit of the study's author, LeWM, and stable-worldmodel ask for."""

Row = dict[str, NDArray[Any]]


class CuepackDataset(Dataset):  # type: ignore[misc]
    """Windows of packets with stable-worldmodel's columns; the same windows in the same order as its HDF5 reader.

    Args:
        path: what `PacketDataset` takes.
        frameskip, num_steps, transform, keys_to_load, keys_to_cache, keys_to_merge: as in its other readers.
        targets, choose, reading: as in `PacketDataset`.
    """

    def __init__(
        self,
        path: Path | str,
        frameskip: int = 1,
        num_steps: int = 1,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        keys_to_load: Sequence[str] | None = None,
        keys_to_cache: Sequence[str] = (),
        keys_to_merge: dict[str, list[str] | str] | None = None,
        *,
        targets: Sequence[Target | str] = (),
        choose: Choice | Literal["train", "val"] | None = None,
        reading: Reading | None = None,
    ) -> None:
        self.packets = PacketDataset(path, Window(num_steps, 0, frameskip), targets, choose, reading=reading)
        lengths = np.array([entry.facts["n_frames"] for entry in self.packets.entries], np.int64)
        self._merged: dict[str, NDArray[Any]] = {}
        self._keys = list(keys_to_load or self._columns(0, [0]))
        if lacks := [key for key in (*self._keys, *keys_to_cache) if key not in self._columns(0, [0])]:
            raise KeyError(f"packets give no column {lacks[0]}; there are {sorted(self._columns(0, [0]))}")
        super().__init__(lengths, np.concatenate([[0], np.cumsum(lengths)[:-1]]), frameskip, num_steps, transform)
        for target, source in (keys_to_merge or {}).items():
            self.merge_col(source, target)

    @property
    def column_names(self) -> list[str]:
        """What a window has."""
        return self._keys

    def get_col_data(self, col: str) -> NDArray[Any]:
        """A column of all rows, (N, ...)."""
        if col in self._merged:
            return self._merged[col]
        return np.concatenate([self._columns(ep, range(length))[col] for ep, length in enumerate(self.lengths)])

    def get_dim(self, col: str) -> int:
        """Numbers in one row of a column."""
        return (
            int(np.prod(self._columns(0, [0])[col].shape[1:]))
            if col not in self._merged
            else self._merged[col].shape[1]
        )

    def get_row_data(self, row_idx: int | list[int]) -> Row:
        """Rows by their number in the flat order of all packets."""
        rows = [self._one(int(row)) for row in np.atleast_1d(row_idx)]
        found = {key: np.concatenate([row[key] for row in rows]) for key in self._keys}
        return found if np.ndim(row_idx) else {key: values[0] for key, values in found.items()}

    def merge_col(self, source: list[str] | str, target: str, dim: int = -1) -> None:
        """A column made of others, kept in memory; a text is a pattern of names."""
        names = [name for name in self._keys if re.match(source, name)] if isinstance(source, str) else source
        self._merged[target] = np.concatenate([self.get_col_data(name) for name in names], axis=dim)
        self._keys += [target] if target not in self._keys else []

    def _one(self, row: int) -> Row:
        ep = int(np.searchsorted(self.offsets, row, side="right")) - 1
        merged = {name: values[row : row + 1] for name, values in self._merged.items()}
        return self._columns(ep, [row - int(self.offsets[ep])]) | merged

    def _load_slice(self, ep_idx: int, start: int, end: int) -> dict[str, Any]:
        rows = range(start, end, self.frameskip)
        found = self._columns(ep_idx, rows) | {"action": self.packets.actions(ep_idx)[0][start:end]}
        first = int(self.offsets[ep_idx])
        found |= {name: values[[first + row for row in rows]] for name, values in self._merged.items()}
        steps = {key: torch.from_numpy(np.ascontiguousarray(found[key])) for key in self._keys}
        if "pixels" in steps:
            steps["pixels"] = steps["pixels"].permute(0, 3, 1, 2)
        return self.transform(steps) if self.transform else steps

    def _columns(self, clip: int, rows: Sequence[int]) -> Row:
        """Every column at some rows of a packet."""
        action, valid = self.packets.actions(clip)
        found = self.packets.read(clip, rows)
        columns = {
            "pixels": found.pop("pixels"),
            "action": action[list(rows)],
            "action_valid": _flags(valid[list(rows)]),
        }
        if "state" in found:
            columns |= dict.fromkeys(STATES, found.pop("state")) | {"state_valid": _flags(found.pop("state_valid"))}
            found.pop("state_dims")
        return columns | {key: values for key, values in found.items() if len(values) == len(rows)}


def _flags(valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    # Its scaler subtracts the mean, which PyTorch refuses for bools.
    return valid[:, None].astype(np.float32)


@register_format
class Cuepack(Format):  # type: ignore[misc]
    """The format by its name; a folder that `cuepack extract` wrote is detected."""

    name = "cuepack"

    @classmethod
    def detect(cls, path: Path | str) -> bool:
        """Whether `path` is an output directory, or a selection file in one."""
        place = Path(path)
        return (place / "packets").is_dir() or (place.suffix == ".csv" and (place.parent / "packets").is_dir())

    @classmethod
    def open_reader(cls, path: Path | str, **kwargs: Any) -> CuepackDataset:
        """The data set; keywords are those of `CuepackDataset`."""
        return CuepackDataset(path, **kwargs)


# It takes the first format that fits, and its own HDF5 reader takes every folder with an .h5 file in it, such as an
# output directory that an export was written into.
for _name in [name for name in FORMATS if name != Cuepack.name]:
    FORMATS[_name] = FORMATS.pop(_name)
