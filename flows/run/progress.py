"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LINE_EVERY_S = 30.0
"""Seconds between two lines where standard error is not a terminal."""

EPISODE_FRAMES = 5
"""What an episode costs beside its frames, in frames: it is opened, locked, listed and put in its place."""


class RunProgress:
    """Counts episodes and frames, and shows them on standard error.

    How much is over is told by frames and stages, not by episodes: lengths differ a hundredfold.

    Args:
        episodes: how many episodes the run works on.
        stages: how many stages each goes through.
        lengths: frames of each episode, None where the source does not say; () counts episodes alone.
        quiet: show nothing.
        clock: seconds, from any origin.
    """

    def __init__(
        self,
        episodes: int,
        stages: int,
        *,
        lengths: Sequence[int | None] = (),
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = {"done": 0, "failed": 0, "filtered": 0, "busy": 0}
        self.frames = 0
        self._steps = 0.0
        self._episodes, self._stages, self._quiet, self._clock = episodes, stages, quiet, clock
        listed = [length for length in lengths if length is not None]
        # An episode of unknown length is taken to be as long as the others.
        self._frames = sum(listed) * len(lengths) / len(listed) if listed else 0.0
        self._stage = ""
        self._lock = threading.Lock()
        self._started = self._last_line = clock()
        self._console = Console(stderr=True)
        self._bar: Progress | None = None

    def __enter__(self) -> RunProgress:
        if not self._quiet and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.fields[stage]}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[over]}/{task.fields[episodes]} episodes ·"),
                TextColumn("{task.fields[failed]} failed · {task.fields[rate]:.0f} frames/s{task.fields[left]}"),
                console=self._console,
            )
            self._bar.add_task("", total=1.0, stage="", over=0, episodes=self._episodes, failed=0, rate=0.0, left="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Gives the terminal back: its cursor, and standard output to whoever prints next."""
        if self._bar is not None:
            self._bar.stop()

    def stage_moved(self, stage: str, frames: float) -> None:
        """One episode came `frames` frames further in `stage`, or takes them back, as it leaves it."""
        with self._lock:
            # Where lengths are not known, frames cannot be counted against them.
            self._steps += frames if self._frames else 0.0
            if frames > 0:
                self._stage = stage
                self._show()

    def stage_done(self, stage: str, frames: int) -> None:
        """One episode left `stage`."""
        with self._lock:
            self._steps += frames + EPISODE_FRAMES if self._frames else 1.0
            self._stage = stage
            if stage == "source":
                self.frames += frames
            self._show()

    def episode_done(self, status: str) -> None:
        """One episode is over."""
        with self._lock:
            self.counts[status] += 1
            self._refresh()

    @property
    def rate(self) -> float:
        """Source frames per second since the start."""
        return self.frames / max(self._clock() - self._started, 1e-6)

    @property
    def over(self) -> int:
        """Episodes that are over; one that is gone through again after a lost server counts once."""
        return min(sum(self.counts.values()), self._episodes)

    def fraction(self) -> float:
        """Part of the run that is over, in [0, 1], finished stages of unfinished episodes included."""
        if self.over == self._episodes:
            return 1.0
        if self._frames:
            whole = self._frames + EPISODE_FRAMES * self._episodes
            return min(self._steps / self._stages / whole, 1.0)
        return min(max(self.over, self._steps / self._stages) / self._episodes, 1.0)

    def left_s(self) -> float | None:
        """Seconds that the rest will take at the pace so far; None before anything is over, and at the end."""
        fraction = self.fraction()
        return (self._clock() - self._started) * (1 - fraction) / fraction if 0 < fraction < 1 else None

    def summary(self) -> str:
        """One line: episodes over and failed, the stage that moved last, frames per second, time left."""
        stage = f"now {self._stage}, " if self._stage else ""
        return (
            f"{self.over} of {self._episodes} episodes over, {self.counts['failed']} failed, {stage}"
            f"{self.rate:.0f} frames/s{self._left()}, {_duration(self._clock() - self._started)} so far"
        )

    def _left(self) -> str:
        left = self.left_s()
        return "" if left is None else f", about {_duration(left)} left"

    def _show(self) -> None:
        if self._bar is not None:
            self._refresh()
        elif not self._quiet and self._clock() - self._last_line > LINE_EVERY_S:
            self._last_line = self._clock()
            # A terminal that is gone, or a log on a full disk, is not the episode's fault.
            with suppress(OSError):
                print(self.summary(), file=sys.stderr, flush=True)

    def _refresh(self) -> None:
        if self._bar is None:
            return
        task = self._bar.tasks[0]
        self._bar.update(
            task.id,
            # Never backwards: one that is gone through twice advances twice.
            completed=max(self.fraction(), task.completed),
            stage=self._stage,
            over=self.over,
            failed=self.counts["failed"],
            rate=self.rate,
            left=self._left(),
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{minutes} min {rest:02d} s" if hours == 0 else f"{hours} h {minutes:02d} min"
