"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 30.0
"""Seconds between two lines where standard error is not a terminal."""


class RunProgress:
    """Counts episodes and frames, and shows them on standard error.

    Args:
        episodes: how many episodes the run works on.
        stages: how many stages each goes through.
        quiet: show nothing.
    """

    def __init__(self, episodes: int, stages: int, *, quiet: bool = False) -> None:
        self.counts = {"done": 0, "failed": 0, "filtered": 0, "busy": 0}
        self.frames = 0
        self._steps = 0
        self._episodes, self._stages, self._quiet = episodes, stages, quiet
        self._lock = threading.Lock()
        self._started = self._last_line = time.monotonic()
        self._console = Console(stderr=True)
        self._bar: Progress | None = None

    def __enter__(self) -> RunProgress:
        if not self._quiet and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[failed]} failed · {task.fields[rate]:.0f} frames/s ·"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.add_task("episodes", total=self._episodes, failed=0, rate=0.0)
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

    def stage_done(self, stage: str, frames: int) -> None:
        """One episode left `stage`."""
        with self._lock:
            self._steps += 1
            if stage == "source":
                self.frames += frames
            if self._bar is not None:
                # Fractions of an episode, so that the bar moves on a first shard of 64 long episodes.
                self._bar.advance(self._bar.task_ids[0], 1.0 / self._stages)
                self._refresh()
            elif not self._quiet and time.monotonic() - self._last_line > LINE_EVERY_S:
                self._line(stage)

    def episode_done(self, status: str) -> None:
        """One episode is over."""
        with self._lock:
            self.counts[status] += 1
            self._refresh()

    @property
    def rate(self) -> float:
        """Source frames per second since the start."""
        return self.frames / max(time.monotonic() - self._started, 1e-6)

    @property
    def over(self) -> int:
        """Episodes that are over; one that is gone through again after a lost server counts once."""
        return min(sum(self.counts.values()), self._episodes)

    def fraction(self) -> float:
        """Part of the run that is over, in [0, 1], finished stages of unfinished episodes included."""
        with self._lock:
            over = self.over
            # An episode that fails early leaves its later stages out of `_steps`, but it is over.
            steps = max(float(over), self._steps / self._stages)
        return min(steps / self._episodes, 1.0) if self._episodes else 1.0

    def summary(self) -> str:
        """One line: episodes over and failed, frames per second, time left."""
        fraction, over = self.fraction(), self.over
        passed = time.monotonic() - self._started
        left = f", about {_duration(passed * (1 - fraction) / fraction)} left" if 0 < fraction < 1 else ""
        return (
            f"{over} of {self._episodes} episodes over, {self.counts['failed']} failed, {self.rate:.0f} frames/s"
            f"{left}, {_duration(passed)} so far"
        )

    def _refresh(self) -> None:
        if self._bar is None:
            return
        over = self.over
        task = self._bar.task_ids[0]
        # Never backwards: failed episodes skip stages, and one gone through twice advances twice.
        completed = min(max(float(over), self._bar.tasks[task].completed), self._episodes)
        self._bar.update(task, completed=completed, failed=self.counts["failed"], rate=self.rate)

    def _line(self, stage: str) -> None:
        self._last_line = time.monotonic()
        over = self.over
        left = (self._last_line - self._started) / over * (self._episodes - over) if over else None
        remaining = f", about {left:.0f} s left" if left is not None else ""
        print(
            f"{over}/{self._episodes} episodes over ({self.counts['failed']} failed), now {stage}, "
            f"{self.rate:.0f} frames/s{remaining}",
            file=sys.stderr,
            flush=True,
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{minutes} min {rest:02d} s" if hours == 0 else f"{hours} h {minutes:02d} min"
