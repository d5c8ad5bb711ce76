"""Weights and thresholds of the scores; every value is configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ScoringSettings(BaseModel):
    """How a clip is scored. Thresholds without another source are the study's, as product.md section 6 gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight_task: float = Field(0.2, ge=0, description="weight of the task sub-score")
    weight_length: float = Field(0.2, ge=0, description="weight of the length sub-score")
    weight_displacement: float = Field(0.2, ge=0, description="weight of the object tracks' displacement")
    weight_mask: float = Field(0.2, ge=0, description="weight of the mask sub-score")
    weight_depth: float = Field(0.2, ge=0, description="weight of the depth sub-score")
    length_low: int = Field(15, ge=1, description="shortest clip of full length score, frames")
    length_high: int = Field(40, ge=1, description="longest clip of full length score, frames")
    displacement_full_px: float = Field(
        40.0, gt=0, description="median path of object tracks that scores 1, packet pixels"
    )
    coverage_low: float = Field(0.02, ge=0, le=1, description="smallest mask coverage of full score, share of frame")
    coverage_high: float = Field(0.25, ge=0, le=1, description="largest mask coverage of full score, share of frame")
    flicker_zero: float = Field(0.5, gt=0, description="median relative area change per frame that scores 0")
    depth_range_full: float = Field(2.0, gt=0, description="dynamic range of depth that scores 1")
