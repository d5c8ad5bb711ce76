"""Whether the camera moves: what is still in the picture then says nothing."""

from __future__ import annotations

import numpy as np

from scoring.frames import Motion
from scoring.signals import ClipSignals

_STILL_PX = 2.0
"""Excursion of a point of the still scene under a still camera: several times a tracker's jitter."""


def camera_moves(signals: ClipSignals, motion: Motion) -> bool:
    """Told by the grid's points off the object, of which most lie on the scene.

    Without a grid by what anchoring found, else by the share of the picture that stays the same.
    """
    grid = (signals.tracks or {}).get("grid")
    if grid is not None and not grid["on_object"].all():
        xy = grid["xy"][:, ~grid["on_object"].astype(bool)].astype(np.float64)
        return float(np.nanmedian(np.linalg.norm(xy - xy[:1], axis=-1).max(axis=0))) > _STILL_PX
    anchoring = ((signals.reports or {}).get("geometry") or {}).get("anchoring") or {}
    if "tags" in anchoring:
        return "moving-camera" in anchoring["tags"]
    return float(motion.static_pixels().mean()) < 0.3
