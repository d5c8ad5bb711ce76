"""Windows of frames: which rows one sample takes, how many a clip has, and the order they come in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError

MOVES = {"motion/robot": 0.0156, "motion/object": 0.0078}
"""Widths per second from which each moves, as the phases take it (`extractors.motion.PhaseRule`)."""


@dataclass(frozen=True, slots=True)
class Window:
    """The frames of one sample: `history` that a model sees, `horizon` that it predicts, `frameskip` rows apart.

    Actions between two frames are kept: a frame has the `frameskip` actions from it on, so that the last frame's reach
    beyond it, as in stable-worldmodel's reader. A window with `ends="drop"` has all of its actions' rows in the clip.

    Attributes:
        history: frames given, at least 1.
        horizon: frames to predict, 0 and more.
        frameskip: rows from one frame to the next; 1 takes every row.
        stride: rows from one window's start to the next one's.
        ends: "drop" leaves out windows that reach beyond the clip; "pad" keeps all whose history is inside and repeats
            the last row, with `frame_valid` False for what is repeated.
        moving: least share of a window's rows in which something moves, by the packets' `motion/robot` and
            `motion/object`; 0 takes every window. Packets without them give no windows then.
        mover: what has to move: "either", the "object" or the "robot".
    """

    history: int = 3
    horizon: int = 1
    frameskip: int = 1
    stride: int = 1
    ends: Literal["drop", "pad"] = "drop"
    moving: float = 0.0
    mover: Literal["either", "object", "robot"] = "either"

    def __post_init__(self) -> None:
        for name, least in (("history", 1), ("horizon", 0), ("frameskip", 1), ("stride", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"a window's {name} is {least} or more, got {getattr(self, name)}")
        if self.ends not in ("drop", "pad"):
            raise ConfigError(f"a window's ends are 'drop' or 'pad', got {self.ends!r}")
        if not 0 <= self.moving <= 1:
            raise ConfigError(f"a window's moving is a share of its rows from 0 to 1, got {self.moving}")
        if self.mover not in ("either", "object", "robot"):
            raise ConfigError(f"a window's mover is 'either', 'object' or 'robot', got {self.mover!r}")

    @property
    def motion(self) -> tuple[str, ...]:
        """Datasets that tell which windows move; none where all are taken."""
        names = tuple(MOVES) if self.mover == "either" else (f"motion/{self.mover}",)
        return names if self.moving else ()

    @property
    def frames(self) -> int:
        """Frames of a sample."""
        return self.history + self.horizon

    @property
    def span(self) -> int:
        """Rows of a clip that a window covers, the last frame's actions included."""
        return self.frames * self.frameskip

    @property
    def shortest(self) -> int:
        """Rows of the shortest clip that has a window."""
        return self.span if self.ends == "drop" else (self.history - 1) * self.frameskip + 1

    def count(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Windows of clips with `lengths` rows each; (n,) int64."""
        return np.maximum(0, (np.asarray(lengths, np.int64) - self.shortest) // self.stride + 1)

    def starts(self, length: int, moves: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """First rows (n,) of the windows of a clip; with `moves` (length,), of those that move enough."""
        starts = np.arange(int(self.count(np.array([length]))[0]), dtype=np.int64) * self.stride
        if moves is None:
            return starts
        so_far = np.concatenate([[0], np.cumsum(moves)])
        stops = np.minimum(starts + self.span, length)
        return np.asarray(starts[so_far[stops] - so_far[starts] >= self.moving * (stops - starts)])

    def rows(self, start: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Rows of the window at `start` in a clip of `length` rows.

        Returns:
            (n,) int64 rows of the frames; (n, frameskip) int64 rows of their actions; (n, frameskip) bool, False where
            a row is past the clip's end and the last row is repeated.
        """
        action_rows = np.arange(start, start + self.span).reshape(self.frames, self.frameskip)
        if start + self.span <= length:
            return action_rows[:, 0], action_rows, np.ones(action_rows.shape, bool)
        inside = action_rows < length
        np.minimum(action_rows, length - 1, out=action_rows)
        return action_rows[:, 0], action_rows, inside


class WindowTable:
    """All windows of a list of clips, numbered clip by clip; holds one number per clip, with `moves` one per window.

    Args:
        lengths: (n,) rows of each clip.
        window: what a window is.
        moves: per clip (length,) bool, the rows in which something moves; None takes every window.

    Raises:
        ConfigError: every clip is shorter than a window, which says how long they are, or none moves enough.
    """

    def __init__(
        self, lengths: NDArray[np.int64], window: Window, moves: Sequence[NDArray[np.bool_]] | None = None
    ) -> None:
        lengths = np.asarray(lengths, np.int64)
        self.window = window
        counts = window.count(lengths)
        self._starts: NDArray[np.int64] | None = None
        if moves is not None:
            each = [window.starts(len(rows), rows) for rows in moves]
            if counts.any() and not any(map(len, each)):
                raise ConfigError(
                    f"of {counts.sum()} windows none moves in {window.moving:.0%} of its rows ({window.mover}); lower "
                    "Window(moving=...), or name another mover"
                )
            counts, self._starts = np.array([len(starts) for starts in each]), np.concatenate([*each, []]).astype(int)
        # A list: bisection in it takes a tenth of what NumPy's search takes for one number.
        self._ends: list[int] = np.cumsum(counts).tolist()
        self.too_short = int((lengths < window.shortest).sum())
        if not len(lengths) or not self._ends[-1]:
            there = f"{len(lengths)} episodes of {lengths.min()} to {lengths.max()} frames" if len(lengths) else "none"
            raise ConfigError(
                f"a window needs {window.shortest} frames ({window.history} of history, {window.horizon} to predict, "
                f"{window.frameskip} apart); there are {there}; take a smaller frameskip, history or horizon"
            )

    def __len__(self) -> int:
        return self._ends[-1]

    def place(self, number: int) -> tuple[int, int]:
        """(clip, first row) of window `number`."""
        clip = bisect_right(self._ends, number)
        if self._starts is not None:
            return clip, int(self._starts[number])
        before = self._ends[clip - 1] if clip else 0
        return clip, (number - before) * self.window.stride


def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The numbers below `count` in an order that `seed` and `epoch` fix, on every machine and with every NumPy.

    Sorted by SplitMix64 (Steele, Lea, Flood 2014) of seed, epoch and number; NumPy promises no stable stream.
    """
    with np.errstate(over="ignore"):
        key = _mixed(_mixed(np.array([seed], np.int64).view(np.uint64)) + np.uint64(epoch))
        drawn = _mixed(np.arange(count, dtype=np.uint64) + key)
    return np.argsort(drawn, kind="stable").astype(np.int64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
