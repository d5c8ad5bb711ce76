"""What scores and quality cards are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class ClipSignals:
    """All that a verdict is made from, as stored in the packet. None: not extracted.

    Attributes:
        language_instruction: "" where there is none.
        n_frames: T.
        pixels: (T, H, W, 3) uint8.
        timestamp: (T,) seconds.
        fps: as declared.
        frame_ids: the source's own frame numbers, where it has them.
        action: (T, A), rows without a command NaN.
        action_valid: (T,) bool.
        state: (T, S).
        gripper: (T,) opening, 1 open.
        masks: (T, H, W) bool, the object.
        robot: (T, H, W) bool.
        mask_score: (T,) the detector's confidence.
        depth: (T, h, w) of `depth_kind`, every n-th pixel of the packet's map; NaN where there is no reading.
        depth_kind: "relative" (inverse, on the model's own scale) or "metric" (metres).
        depth_stabilized: (T, h, w) the relative map with its background anchored.
        tracks: set name -> field name -> array.
        contact: (T,) probability.
        held: (T,) bool.
        phase: (T,) codes of `extractors.phases.PHASES`.
        robot_speed, object_speed: (T,) widths per second, NaN where not known.
        active_span: first frame, and frame after the last, in which either moves.
        centroids_valid: (T,) bool.
        intrinsics: (3, 3) at packet resolution.
        intrinsics_source: as in the packet.
        camera_moves: as measured once on the clip (`extractors.camera_motion`); None where it shows too little.
        reports: stage -> its report.
        tags: what the source noticed.
    """

    language_instruction: str
    n_frames: int
    pixels: NDArray[np.uint8]
    timestamp: NDArray[np.float64]
    fps: float
    frame_ids: Sequence[int] | None = None
    action: NDArray[np.float32] | None = None
    action_valid: NDArray[np.bool_] | None = None
    state: NDArray[np.float32] | None = None
    gripper: NDArray[np.float32] | None = None
    masks: NDArray[np.bool_] | None = None
    robot: NDArray[np.bool_] | None = None
    mask_score: NDArray[np.float32] | None = None
    depth: NDArray[np.float32] | None = None
    depth_kind: Literal["relative", "metric"] | None = None
    depth_stabilized: NDArray[np.float32] | None = None
    tracks: Mapping[str, Mapping[str, NDArray[Any]]] | None = None
    contact: NDArray[np.float32] | None = None
    held: NDArray[np.bool_] | None = None
    phase: NDArray[np.uint8] | None = None
    robot_speed: NDArray[np.float32] | None = None
    object_speed: NDArray[np.float32] | None = None
    active_span: tuple[int, int] = (0, 0)
    centroids_valid: NDArray[np.bool_] | None = None
    intrinsics: NDArray[np.floating] | None = None
    intrinsics_source: str = "assumed"
    camera_moves: bool | None = None
    reports: Mapping[str, Mapping[str, Any]] | None = None
    tags: tuple[str, ...] = ()
