"""Masks by motion, chosen by the nano network, and the robot's by the network. Fixed cameras only.

The network tells which thing is handled better than where its border is (docs/nano.md): so motion proposes what may be
the object and draws it, the network chooses, and draws the object itself where no proposal is what it sees.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.backends.motion.segmenter import MotionSegmenter, Seen
from extractors.backends.nano.clips import answers, clip_scenery, read_context, working_frames, working_size
from extractors.backends.nano.network import CLASSES
from extractors.backends.nano.weights import load_network


class NanoSegmenter(MotionSegmenter):
    """Finds what starts to move and is not the robot; see the module's text."""

    name = "nano"

    def __init__(self, *, network_px: int = 128, **settings: Any) -> None:
        """Loads the packaged weights; `network_px` is the longer side that the network sees, the rest is motion's.

        Raises:
            ConfigError: an unknown setting.
            WeightsError: the weights are damaged.
        """
        super().__init__(**settings)
        self._network_px = network_px
        self._network = load_network()

    def _look(self, pixels: NDArray[np.uint8]) -> Seen:
        height, width = pixels.shape[1:3]
        frames = working_frames(pixels, working_size((height, width), self._network_px))
        scenery = clip_scenery(frames)
        context = read_context(self._network, frames, scenery)
        robot, thing = np.empty(pixels.shape[:3], np.float16), np.empty(pixels.shape[:3], np.float16)
        for moment, (shares, _) in enumerate(answers(self._network, frames, scenery, context)):
            robot[moment] = cv2.resize(shares[CLASSES.index("robot")], (width, height))
            thing[moment] = cv2.resize(shares[CLASSES.index("object")], (width, height))
        return Seen(robot, thing)
