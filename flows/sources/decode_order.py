"""Pictures of a video by counting alone, for `verify`: decoded from the file's start, without seeks, stamps or index.

The reader of `video` finds pictures by their stamps and seeks to them. This one shares its decoder and its colours,
and nothing of how pictures are found, so that the two can disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractors.errors import CorruptDataError
from flows.sources.video import VideoDecoder


class DecodeOrder:
    """Pictures by number; a pass is kept open, so that the episodes of a joined file cost one decoding in all."""

    def __init__(self) -> None:
        self._open: tuple[Path, VideoDecoder] | None = None
        self._number = -1

    def pictures(self, path: Path, numbers: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """The (H, W, 3) uint8 RGB of pictures `numbers` of `path`, which do not decrease.

        Raises:
            CorruptDataError: the file ends before one of them.
        """
        if self._open is None or self._open[0] != path or (len(numbers) and numbers[0] <= self._number):
            self.close()
            self._open, self._number = (path, VideoDecoder(path)), -1
        decoder = self._open[1]
        pixels: NDArray[np.uint8] | None = None
        for number in numbers:
            while self._number < number:
                frame = decoder.next()
                if frame is None:
                    raise CorruptDataError(
                        f"{path.name} ends after {self._number + 1} pictures, {number + 1} are wanted"
                    )
                self._number += 1
                pixels = decoder.rgb(frame) if self._number == number else None
            assert pixels is not None
            yield pixels

    def close(self) -> None:
        """Closes the file that is open."""
        if self._open is not None:
            self._open[1].__exit__()
        self._open = None
