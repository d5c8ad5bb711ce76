"""Clips of several episodes in one call of a depth model: whoever gets the device takes along those that wait.

While the device works on one batch the next one gathers, so batches are as large as the device is busy, and nobody
waits for a batch to fill.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from extractors.depth import BatchDepthEstimator, DepthEstimator
from extractors.types import Depth, Frames, Size
from flows.models.device_slot import device_slot, is_on_device
from flows.models.turns import Turn, current_turn

log = logging.getLogger("cuepack")

MOST_CLIPS = 8
"""Clips of one call. Video-Depth-Anything mixes four windows at once, and a clip of 38 frames has two."""


@dataclass(eq=False, slots=True)
class _Request:
    """One clip that waits, and what became of it."""

    pixels: Frames
    size: Size
    turn: Turn
    depth: Depth | None = None
    error: Exception | None = None

    @property
    def is_over(self) -> bool:
        return self.depth is not None or self.error is not None

    @property
    def kind(self) -> tuple[object, ...]:
        """Clips of one kind can be one batch: frames of one size make maps of one size."""
        return tuple(self.pixels.shape[1:]), self.size


def estimate_depth(estimator: DepthEstimator, pixels: Frames, *, size: Size, most_clips: int = MOST_CLIPS) -> Depth:
    """Depth of one clip, on a device together with up to `most_clips` - 1 others that wait for the same model.

    With 1 no clip shares a call, and bytes are the same whatever else is worked on. Otherwise maps move by rounding
    (`BatchDepthEstimator.estimate_many`).

    Raises:
        Whatever `estimator` raises for this clip.
    """
    if most_clips == 1 or not is_on_device(estimator) or not isinstance(estimator, BatchDepthEstimator):
        with device_slot(estimator):
            return estimator.estimate(pixels, size=size)
    with _lock:
        batches = _batches.setdefault(estimator, _Batches(estimator))
    return batches.estimate(_Request(pixels, size, current_turn()), most_clips)


class _Batches:
    """The clips that wait for one model."""

    def __init__(self, estimator: BatchDepthEstimator) -> None:
        self._estimator = estimator
        self._waiting: list[_Request] = []
        self._lock = threading.Lock()

    def estimate(self, request: _Request, most_clips: int) -> Depth:
        with self._lock:
            self._waiting.append(request)
        try:
            with device_slot(self._estimator, unless=lambda: request.is_over) as has_device:
                if has_device and not request.is_over:
                    self._run(self._batch_with(request, most_clips), request)
        finally:
            with self._lock:
                if request in self._waiting:
                    self._waiting.remove(request)
        if request.error is not None:
            raise request.error
        assert request.depth is not None
        return request.depth

    def _batch_with(self, request: _Request, most_clips: int) -> list[_Request]:
        """`request` and those of its kind that come first, no longer among those that wait."""
        with self._lock:
            alike = [other for other in self._waiting if other.kind == request.kind and other is not request]
            batch = [request, *sorted(alike, key=lambda other: other.turn.order)[: most_clips - 1]]
            self._waiting = [other for other in self._waiting if other not in batch]
        return batch

    def _run(self, batch: list[_Request], leader: _Request) -> None:
        started = time.perf_counter()
        try:
            depths = self._estimator.estimate_many([each.pixels for each in batch], size=leader.size)
            for each, depth in zip(batch, depths, strict=True):
                each.depth = depth
        except Exception as error:
            if len(batch) == 1:
                leader.error = error
            else:
                # One clip fails a whole batch: each alone shows whose fault it is.
                log.warning("%d clips are estimated one by one, as together: %s", len(batch), error)
                self._one_by_one(batch)
        self._share_costs(batch, leader, time.perf_counter() - started)

    def _one_by_one(self, batch: Sequence[_Request]) -> None:
        for each in batch:
            try:
                each.depth = self._estimator.estimate(each.pixels, size=each.size)
            except Exception as error:
                each.error = error

    def _share_costs(self, batch: Sequence[_Request], leader: _Request, seconds: float) -> None:
        lengths = [len(each.pixels) for each in batch]
        padding = self._estimator.padding(lengths)
        for each, length in zip(batch, lengths, strict=True):
            share = seconds * length / sum(lengths)
            each.turn.spent.padding = padding
            if each is leader:
                # Its own turn counts the whole batch, as it holds the device.
                each.turn.spent.device_s -= seconds - share
            else:
                each.turn.spent.device_s += share
                each.turn.spent.waited_device_s -= share


_batches: dict[DepthEstimator, _Batches] = {}
_lock = threading.Lock()
