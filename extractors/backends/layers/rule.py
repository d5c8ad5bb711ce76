"""How motion layers are judged: thresholds, as shares of the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LayerRule:
    """Thresholds of the layers; grey levels are of 255.

    Lengths are shares of the frame's side (the root of its area), and pixels once `at` has converted them; they were
    set on simulated episodes of 256 x 256. Nothing is counted in frames: a layer is judged by where it is, not by how
    fast it got there.

    Attributes:
        window: side of the Lucas-Kanade window.
        patch: side of the box over which colour differences are averaged.
        loop: forward-backward error at which a Lucas-Kanade match has lost 1/e of its weight.
        fit: distance from the layer's motion at which a match starts to count as an outlier.
        border: how far around a layer's points its picture is registered.
        reach: how far around a layer its next position is searched.
        slack: how far off a visible point may be placed.
        stir: a layer that never strays farther from the background is the background.
        near: distance over which points share their evidence, and side of the squares that measure a region.
        cut: colour difference above which a point counts as hidden or wrong, whatever the amount, grey levels.
        noise: colour difference that a match under changing light has, grey levels.
        poor: colour difference of a match that is hardly one, and over which points share their evidence, grey levels.
        explained: mean colour difference below which the background explains a point, and lead of the best layer over
            the next at which a point is clear, grey levels.
        search: look for new motion (not just go on as before) where the layer differs by more, grey levels.
        rest: a layer that differs by less has not moved since the frame before, grey levels.
        lead: how much better the background fits where it is seen, grey levels.
        doubt: advantage of the layer that a point has already, and of that of its clear neighbours, grey levels.
        bias: advantage of the background, and of rest, grey levels.
        price: what a further layer must save, in grey levels x independent points.
        affinity: standard deviation of one update's change of scale, rotation and shear (1 is 100 %).
        hiding: factor on the cost of moving layers when points are dealt out.
        cells: sizes of the regions tried, one round each, in squares of `near`.
        regions: most regions tried in one round.
        points, draft_points: points of a layer, and of one that is only tried, that are matched.
        judged: most frames by which layers are compared, so that the cost of a frame does not grow with the clip.
    """

    window: float = 0.04296875
    patch: float = 0.01953125
    loop: float = 0.002734375
    fit: float = 0.0078125
    border: float = 0.046875
    reach: float = 0.15625
    slack: float = 0.00390625
    stir: float = 0.005859375
    near: float = 0.0234375
    cut: float = 30.0
    noise: float = 15.0
    poor: float = 12.0
    explained: float = 2.0
    search: float = 3.0
    rest: float = 1.0
    lead: float = 6.0
    doubt: float = 4.0
    bias: float = 0.5
    price: float = 10.0
    affinity: float = 0.06
    hiding: float = 0.87
    cells: tuple[int, ...] = (40, 12)
    regions: int = 5
    points: int = 30
    draft_points: int = 16
    judged: int = 60

    def at(self, image: Image) -> LayerRule:
        """The rule with lengths in pixels of `image` (h, w, 3)."""
        side = float(np.sqrt(image.shape[0] * image.shape[1]))
        return replace(self, **{name: getattr(self, name) * side for name in LENGTHS})


LENGTHS = ("window", "patch", "loop", "fit", "border", "reach", "slack", "stir", "near")
"""The rule's fields that `LayerRule.at` converts."""


def odd(length: float) -> int:
    """The odd number of pixels, 1 or more, nearest to `length`."""
    return 2 * max(round((length - 1) / 2), 0) + 1
