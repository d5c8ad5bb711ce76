"""Intrinsics and what rests on them; contact; motion."""

from __future__ import annotations

import numpy as np

from extractors.instruction import parse_instruction
from extractors.motion import PhaseRule
from scoring.card import Card
from scoring.masks import MaskNumbers
from scoring.signals import ClipSignals

FIELD_OF_VIEW = (12.0, 130.0)
"""Degrees between which a horizontal field of view is believed: a tele lens, and the widest action camera."""


def judge_geometry(signals: ClipSignals, masks: MaskNumbers | None) -> Card:
    """The card of intrinsics and centroids; cross-checks of the geometry stage are quoted."""
    card = Card()
    card.numbers["intrinsics_source"] = signals.intrinsics_source
    if signals.intrinsics is not None:
        _judge_intrinsics(card, signals)
    if signals.intrinsics_source == "assumed":
        card.add(
            "intrinsics-assumed", "warn", "intrinsics are assumed: lengths in metres may be off by tens of percent"
        )
    if signals.centroids_valid is not None and masks is not None and masks.present.any():
        share = float(signals.centroids_valid[masks.present].mean())
        card.numbers["centroids_valid_share"] = share
        if share < 0.5:
            card.add("centroids-missing", "warn", f"a centroid in {share:.0%} of the frames with a mask")
    checks = ((signals.reports or {}).get("geometry") or {}).get("consistency") or {}
    card.numbers |= {name: value for name, value in checks.items() if isinstance(value, int | float | None)}
    return card


def judge_calibration(signals: ClipSignals) -> Card:
    """The card of the camera that the hand's motion calibrates: its numbers, or why it is not observable."""
    card = Card()
    reports = signals.reports or {}
    found, placed = reports.get("calibration") or {}, reports.get("placing") or {}
    camera = found.get("camera") or {}
    for name in _CAMERA_NUMBERS:
        if name in camera:
            card.numbers[name] = camera[name]
    for name, part in (("object_residual_px", "object"), ("depth_sigma", "depth"), ("depth_of_recorded", "depth")):
        value = (placed.get(part) or {}).get(name.split("_", 1)[1])
        if value is not None:
            card.numbers[name] = value
    reasons = [str(reason) for reason in found.get("reasons") or ()]
    for tag in found.get("tags") or ():
        if tag not in ("calibrated-by-hand", "time-offset"):
            card.add(tag, "warn", "; ".join(reasons) or "rows of the state are missing")
    return card


_CAMERA_NUMBERS = (
    "residual_px",
    "focal_sigma",
    "position_sigma_m",
    "rotation_sigma_deg",
    "delay_s",
    "tracks_riding",
    "focal_of_recorded",
)


def judge_contact(signals: ClipSignals) -> Card:
    """The card of contact: whether a clip whose instruction asks for a grasp has one."""
    assert signals.contact is not None
    card = Card()
    touching = signals.contact > 0.5
    held = signals.held if signals.held is not None else np.zeros(len(touching), bool)
    card.numbers |= {
        "onset": int(np.argmax(touching)) if touching.any() else -1,
        "seconds_touching": float(touching.sum()) / signals.fps,
        "seconds_held": float(held.sum()) / signals.fps,
    }
    if not touching.any():
        card.add("no-contact", "warn", "the robot never touches the object")
    action = parse_instruction(signals.language_instruction).action
    signal = signals.gripper is not None and bool(np.isfinite(signals.gripper).any())
    if action in ("pick", "place", "stack") and signal and not held.any():
        card.add("no-grasp", "warn", f"the instruction asks to {action} something, and nothing is grasped")
    return card


def judge_motion(signals: ClipSignals) -> Card:
    """The card of motion and phases: numbers that `cuepack select` filters by; nothing here is a fault."""
    assert signals.phase is not None
    card, rule = Card(), PhaseRule()
    first, stop = signals.active_span
    card.numbers |= {"active_first": first, "active_stop": stop, "active_seconds": (stop - first) / signals.fps}
    for name, speeds, least in (
        ("robot", signals.robot_speed, rule.robot_speed),
        ("object", signals.object_speed, rule.object_speed),
    ):
        measured = speeds is not None and bool(np.isfinite(speeds).any())
        moving = None if speeds is None else float((np.nan_to_num(speeds) >= least).sum()) / signals.fps
        card.numbers[f"{name}_seconds"] = moving if measured else None
    card.numbers["phase_known_share"] = float((signals.phase > 0).mean())
    return card


def _judge_intrinsics(card: Card, signals: ClipSignals) -> None:
    matrix = np.asarray(signals.intrinsics, np.float64)
    height, width = signals.pixels.shape[1:3]
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    if not np.isfinite(matrix).all() or fx <= 0 or fy <= 0:
        card.add("intrinsics-odd", "fail", "the intrinsic matrix is not a camera's")
        return
    view = float(np.degrees(2 * np.arctan(width / (2 * fx))))
    card.numbers["field_of_view_deg"] = view
    if not FIELD_OF_VIEW[0] <= view <= FIELD_OF_VIEW[1] or not (0 <= cx < width and 0 <= cy < height):
        reason = f"field of view {view:.0f} degrees, centre ({cx:.0f}, {cy:.0f}) of {width}x{height}: no usual camera"
        card.add("intrinsics-odd", "fail", reason)
