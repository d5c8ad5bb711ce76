"""Weights and thresholds of scores and quality cards; every value is configuration.

Thresholds of the sub-scores without another source are the study's, as product.md section 6 gives them. Thresholds of
the cards were set between good clips (14 BridgeData teaser videos, 25 BridgeData RLDS clips, 7 LeRobot episodes, 11
simulated episodes with exact truth, the bundled sample) and the same with faults put in; `python -m
tests.benchmarks.faults` shows both sides.

No threshold counts frames or pixels: lengths are shares of the frame's width ("widths"), areas shares of the frame,
times seconds. A change "within 0.2 s" is one between neighbours of a clip of 5 frames/s, where it was set; a faster
clip is compared over as many frames as 0.2 s hold (`extractors.timing.WINDOW_S`).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ScoringSettings(BaseModel):
    """How a clip is scored, and what its quality card calls a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight_task: float = Field(0.2, ge=0, description="weight of the task sub-score")
    weight_length: float = Field(0.2, ge=0, description="weight of the length sub-score")
    weight_displacement: float = Field(0.2, ge=0, description="weight of the object tracks' displacement")
    weight_mask: float = Field(0.2, ge=0, description="weight of the mask sub-score")
    weight_depth: float = Field(0.2, ge=0, description="weight of the depth sub-score")
    weight_dead_actions: float = Field(0.05, ge=0, description="weight of actions that are not dead")
    weight_jerk: float = Field(0.05, ge=0, description="weight of actions that do not jerk")
    weight_chatter: float = Field(0.05, ge=0, description="weight of a gripper that does not chatter")

    task_place: float = Field(1.0, ge=0, le=1, description="score of put X on/in/into Y")
    task_pick: float = Field(1.0, ge=0, le=1, description="score of pick up X, take X")
    task_stack: float = Field(1.0, ge=0, le=1, description="score of stack X on Y")
    task_move: float = Field(0.8, ge=0, le=1, description="score of move, push, slide X")
    task_articulate: float = Field(0.7, ge=0, le=1, description="score of open, close, turn, flip X")
    task_tool: float = Field(0.4, ge=0, le=1, description="score of wipe, sweep, stir, pour: no single object")
    task_deformable: float = Field(0.4, ge=0, le=1, description="most that cloth scores that is carried, not folded")
    task_fold: float = Field(0.1, ge=0, le=1, description="score of folding cloth")
    task_neutral: float = Field(0.5, ge=0, le=1, description="score without an instruction, or of one not understood")

    length_low_s: float = Field(3.0, gt=0, description="shortest clip of full length score, seconds (15 frames at 5/s)")
    length_high_s: float = Field(8.0, gt=0, description="longest clip of full length score, seconds (40 frames at 5/s)")
    displacement_full: float = Field(
        0.18, gt=0, description="median excursion of object tracks that scores 1, widths (40 of 224 pixels)"
    )
    coverage_low: float = Field(0.02, ge=0, le=1, description="smallest mask coverage of full score, share of frame")
    coverage_high: float = Field(0.25, ge=0, le=1, description="largest mask coverage of full score, share of frame")
    flicker_zero: float = Field(0.5, gt=0, description="mean relative area change within 0.2 s that scores 0")
    depth_range_full: float = Field(2.0, gt=0, description="dynamic range of depth that scores 1")
    jerk_full: float = Field(1.2, ge=0, description="jerk ratio of full score (RMS second difference over RMS, at 5/s)")
    jerk_zero: float = Field(2.4, gt=0, description="jerk ratio that scores 0; white noise has 2.45")
    grip_changes_full: int = Field(4, ge=0, description="gripper reversals of full score: two grasps")
    grip_changes_zero: int = Field(16, ge=1, description="gripper reversals that score 0")

    white_level: float = Field(250, le=255, description="grey level from which a pixel is saturated")
    saturated_share: float = Field(0.5, gt=0, le=1, description="saturated pixels that spoil a frame")
    blank_contrast: float = Field(2.0, ge=0, description="grey-level standard deviation below which a frame is blank")
    motion_level: float = Field(1.0, gt=0, description="mean grey-level change within 0.2 s that is motion")
    duplicate_level: float = Field(0.02, ge=0, description="mean change below which a frame repeats the one before")
    order_ratio: float = Field(0.81, gt=0, lt=1, description="path through swapped frames over that in order")
    order_gain: float = Field(1.15, gt=1, description="median change within 0.4 s per change over one frame, at least")
    glitch_factor: float = Field(2.5, gt=1, description="change to both neighbours over theirs, of a foreign frame")
    glitch_level: float = Field(8.0, gt=0, description="least grey-level change of a foreign frame")
    jump_ratio: float = Field(1.5, gt=1, description="change of picture over its neighbours' where frames are missing")
    state_jump_ratio: float = Field(1.6, gt=1, description="the same for proprioception")
    fps_tolerance: float = Field(0.1, gt=0, description="relative difference of time stamps and fps")
    gap_factor: float = Field(1.8, gt=1, description="time step over the usual one that is a gap")
    frozen_s: float = Field(0.8, gt=0, description="equal pictures, masks or maps amid motion that are frozen, seconds")
    low_motion: float = Field(0.022, ge=0, description="travel of the object below which a clip is low-motion, widths")

    dead_share: float = Field(0.8, gt=0, le=1, description="share of dead actions that is a fault")
    saturation_share: float = Field(0.3, gt=0, le=1, description="share of action values at their limit: a fault")
    jerk_fault: float = Field(2.0, gt=0, description="jerk ratio that is a fault; teleoperation reaches 1.9")
    jerk_least_s: float = Field(3.2, gt=0, description="shortest clip from which a fault is made of jerk, seconds")
    grip_changes_fault: int = Field(8, ge=1, description="gripper reversals that are a fault")

    flicker_change: float = Field(0.25, gt=0, lt=1, description="area off its neighbours' that is flicker, relative")
    flicker_share: float = Field(0.08, gt=0, le=1, description="share of frames with flicker that is a fault")
    flicker_least_s: float = Field(0.5, ge=0, description="flicker that is a fault lasts this long in all, seconds")
    mask_jump: float = Field(0.12, gt=0, description="centroid step to a mask that does not overlap, a jump, widths")
    object_speed: float = Field(0.6, gt=0, description="speed that no object exceeds, widths per second")
    mask_before_grasp: float = Field(0.24, gt=0, description="travel of a mask before the gripper closes: on the arm")
    mask_tiny: float = Field(0.0004, ge=0, description="median mask area below which it is tiny, share of the frame")
    mask_huge: float = Field(0.6, gt=0, le=1, description="coverage above which a mask holds the background")
    frozen_change: float = Field(15.0, gt=0, description="colour change under an unchanged mask, grey levels")
    robot_overlap: float = Field(0.3, gt=0, le=1, description="share of the mask on the robot that is a fault")

    flat_relative: float = Field(0.2, ge=0, description="range of relative depth below which a map is flat")
    flat_metric: float = Field(1.02, ge=1, description="p95/p5 of metric depth below which a map is flat")
    holes_share: float = Field(0.5, gt=0, le=1, description="share of pixels without depth that is a fault")
    drift_share: float = Field(0.15, gt=0, description="wander of still background over its depth spread: a fault")
    depth_jump_share: float = Field(0.15, gt=0, description="background of one frame off its neighbours', a jump")

    lost_share: float = Field(0.25, ge=0, le=1, description="visible points below which tracks are lost")
    kink: float = Field(0.07, gt=0, description="distance from the middle of both neighbours: a jump, widths")
    kink_share: float = Field(0.02, ge=0, le=1, description="share of samples that jump: a fault")
    min_object_tracks: int = Field(47, ge=0, description="object points that should be seen where the object is")
    few_share: float = Field(0.25, ge=0, le=1, description="share of frames with too few object points: a fault")
    off_object_share: float = Field(0.5, ge=0, le=1, description="object points inside the mask, below: a fault")
