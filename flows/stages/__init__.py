"""The stages of an episode, in order; each file holds one: what it reads, what its key depends on, what it makes."""

from __future__ import annotations

from flows.stages.base import Stage, StageInputs, StageOutput
from flows.stages.calibration import CALIBRATION
from flows.stages.depth import DEPTH
from flows.stages.geometry import GEOMETRY
from flows.stages.masks import MASKS
from flows.stages.placing import PLACING
from flows.stages.quality import QUALITY
from flows.stages.source import SOURCE
from flows.stages.tracks import TRACKS

STAGES: tuple[Stage, ...] = (SOURCE, MASKS, DEPTH, TRACKS, CALIBRATION, GEOMETRY, PLACING, QUALITY)
"""Every stage but the last, `pack`, which writes what these made."""

__all__ = ["STAGES", "Stage", "StageInputs", "StageOutput"]
