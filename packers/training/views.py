"""Some frames of one packet, as targets see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packers.schema import Dataset
from packers.training.files import OpenPacket, RowReader
from packers.training.statistics import ColumnStatistics
from packers.writer import decode


class PacketView:
    """Rows of one open packet; each dataset is read once. What `targets.View` asks for.

    Args:
        packet: where from.
        reader: reads them.
        rows: the frames.
        size: (height, width) of the frames.
        columns: statistics of the packet's source, by dataset.
    """

    def __init__(
        self,
        packet: OpenPacket,
        reader: RowReader,
        rows: list[int],
        size: tuple[int, int],
        columns: Mapping[str, ColumnStatistics],
    ) -> None:
        self.n_frames = len(rows)
        self.size = size
        self._packet = packet
        self._reader = reader
        self._rows = rows
        self._columns = columns
        self._found: dict[str, NDArray[Any]] = {}

    def stored(self, name: str) -> NDArray[Any]:
        """Dataset `name` at the view's frames, as it is stored."""
        if name not in self._found:
            self._found[name] = self._reader.read(self._packet, name, self._rows)
        return self._found[name]

    def frames(self, name: str) -> NDArray[Any]:
        """Physical values of dataset `name` at the view's frames."""
        code = self._packet.arrays[name].code
        if code is None:
            return self.stored(name)
        scale, offset, fill = code
        attributes = {"scale": scale, "offset": offset} | ({} if np.isnan(fill) else {"fill": int(fill)})
        return decode(Dataset(self.stored(name), attributes))

    def standardised(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """`values` of dataset `name` less its mean, by its deviation."""
        return self._columns[name].normalised(values, "standard")
