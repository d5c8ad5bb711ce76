"""Figures of the study: made without pyplot's global state, and the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""The palette of Okabe and Ito (2008), which colour-blind readers can distinguish."""

DASHES = ("-", "--", "-.", ":")
MOST_LISTED = 12
"""Entries of a legend at most: more are not read."""


def panels(rows: int, columns: int, *, width: float = 4.2, height: float = 3.1) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` x `columns` axes, each `width` x `height` inches, and its axes row by row."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, list(np.ravel(figure.subplots(rows, columns)))


def said(reason: str) -> Figure:
    """A figure that says why it shows nothing."""
    figure = Figure(figsize=(6.0, 1.2))
    figure.text(0.5, 0.5, reason, ha="center", va="center", wrap=True, parse_math=False)
    return figure


def lines(axes: Axes, curves: Mapping[str, Sequence[float | None]], *, start: int = 1, x: str, y: str) -> None:
    """Draws curves, name -> values at `start`, `start` + 1, ...; told apart by dashes as well as by colour."""
    for index, (name, values) in enumerate(curves.items()):
        drawn = [np.nan if value is None else value for value in values]
        axes.plot(
            np.arange(start, start + len(drawn)),
            drawn,
            label=name,
            color=COLOURS[index % len(COLOURS)],
            linestyle=DASHES[index % len(DASHES)],
            marker="o" if len(drawn) < 20 else "",
            markersize=3,
        )
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    if curves:
        axes.legend(fontsize=8, loc="upper right")  # "best" looks at every point, for seconds


def points_by_time(axes: Axes, points: NDArray[np.floating], time: NDArray[np.floating]) -> None:
    """Points (n, 2) coloured by `time` (n,), 0 at an episode's first frame and 1 at its last."""
    drawn = axes.scatter(points[:, 0], points[:, 1], c=time, cmap="viridis", s=7, vmin=0, vmax=1, rasterized=True)
    bar = axes.get_figure(root=True)
    assert bar is not None
    bar.colorbar(drawn, ax=axes, label="share of the episode")


def points_by_group(
    axes: Axes, points: NDArray[np.floating], groups: NDArray[np.integer], names: Sequence[str]
) -> None:
    """Points (n, 2) coloured by the index of their episode; the first MOST_LISTED episodes are named."""
    colours = matplotlib.colormaps["tab20"]
    for index in np.unique(groups):
        chosen = points[groups == index]
        label = shortened(names[index]) if index < MOST_LISTED else None
        axes.scatter(chosen[:, 0], chosen[:, 1], color=colours(int(index) % 20), s=7, label=label, rasterized=True)
    legend = axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.01, 0.5), title_fontsize=7)
    for text in legend.get_texts():
        text.set_parse_math(False)  # an episode may be called "$x$"
    if len(names) > MOST_LISTED:
        legend.set_title(f"first {MOST_LISTED} of {len(names)}")


def picture(axes: Axes, frame: NDArray[np.uint8], title: str = "") -> None:
    """A frame (h, w, 3) without ticks, under `title`."""
    axes.imshow(frame, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8, parse_math=False)


def shortened(name: str, letters: int = 18) -> str:
    """A name that fits a legend: its end, which differs between episodes of one data set."""
    return name if len(name) <= letters else f"…{name[1 - letters :]}"


def as_svg(figure: Figure) -> str:
    """The figure as SVG text: texts stay texts, and neither a date nor random ids enter."""
    # The salt makes ids a hash of what they name; they are random otherwise.
    with matplotlib.rc_context({"svg.hashsalt": "cuepack", "svg.fonttype": "none"}):
        # Laid out once: a second layout starts from the first one's places and ends some hundredths of a point beside.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        target = StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None}, dpi=110)
    return target.getvalue()
