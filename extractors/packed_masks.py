"""The masks of a clip, compressed in memory, so that all candidates of a long clip can be kept."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ShapeError
from extractors.types import Size

Bools = NDArray[np.bool_]


class PackedMasks:
    """T boolean masks of one size, compressed; iterating unpacks them one by one. Is a `Frames`.

    2,000 masks of 224 x 224 px take about 1 MB where an array takes 100 MB: a clip's candidates can all be kept.
    """

    def __init__(self, size: Size, n_frames: int) -> None:
        """All False at first."""
        self.size = size
        self._packed: list[bytes | None] = [None] * n_frames

    @classmethod
    def of(cls, masks: Bools) -> PackedMasks:
        """The masks (T, H, W) bool, packed."""
        if masks.ndim != 3 or masks.dtype != np.bool_:
            raise ShapeError(f"masks must be (T, H, W) bool, got {masks.shape} {masks.dtype}")
        packed = cls((int(masks.shape[1]), int(masks.shape[2])), len(masks))
        for frame, mask in enumerate(masks):
            packed[frame] = mask
        return packed

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W)."""
        return len(self._packed), *self.size

    def __len__(self) -> int:
        return len(self._packed)

    def __setitem__(self, frame: int, mask: Bools) -> None:
        if mask.shape != self.size or mask.dtype != np.bool_:
            raise ShapeError(f"a mask must be {self.size} bool, got {mask.shape} {mask.dtype}")
        self._packed[frame] = zlib.compress(np.packbits(mask).tobytes(), 1) if mask.any() else None

    def __getitem__(self, frame: int) -> Bools:
        packed = self._packed[frame]
        if packed is None:
            return np.zeros(self.size, np.bool_)
        bits = np.frombuffer(zlib.decompress(packed), np.uint8)
        return np.unpackbits(bits, count=self.size[0] * self.size[1]).astype(np.bool_).reshape(self.size)

    def __iter__(self) -> Iterator[Bools]:
        for frame in range(len(self)):
            yield self[frame]

    @property
    def present(self) -> Bools:
        """(T,) bool, the frames with a mask."""
        return np.array([packed is not None for packed in self._packed], np.bool_)
