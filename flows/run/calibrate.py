"""Cameras of set-ups from the packets of many episodes: grouped, checked, solved together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.backgrounds import register, still_background
from extractors.errors import GeometryError, OutputError, PacketError
from extractors.handeye.camera import calibrate_camera
from extractors.handeye.pooled import left_one_out
from extractors.handeye.problem import Calibration, Priors, Rig, TrackedClip
from extractors.handeye.sight import seen_again
from extractors.matching import body_alone
from extractors.types import SceneTracks
from flows.output.calibrations import SetUp, as_text, encode_picture, setup_of
from flows.stages.calibration import (
    LEAST_TRAVEL_M,
    LEAST_UNLIKE_WIDTHS,
    TRACK_DRIFT,
    UNLIKE,
    beliefs,
    calibration_report,
    camera_of,
    found_again,
    telling_tracks,
    thinned,
    travel_m,
)
from flows.stages.camera import joined_tracks
from packers.atomic import write_whole
from packers.reader import Packet
from packers.viewer.episode import packet_camera

log = logging.getLogger("cuepack")

MOST_CLIPS = 12
"""Clips that a camera is solved from, evenly spread: sigmas fall with their root, time grows with them."""


@dataclass(frozen=True, slots=True, eq=False)
class PooledClip:
    """What pooling needs of one packet.

    Attributes:
        episode_id, path: the packet.
        setup: collection folder or data set, and camera.
        when: the source's path, which dates a collection, for reports.
        rig: how the camera is mounted.
        clip: tracks and hand.
        posed: (N,) the frame in which each track was posed on the robot; None of tracks of the scene.
        background: grey picture of the still scene.
        priors: what is believed of the camera.
    """

    episode_id: str
    path: Path
    setup: str
    when: str
    rig: Rig
    clip: TrackedClip
    posed: NDArray[np.intp] | None
    background: NDArray[np.uint8]
    priors: Priors
    size: tuple[int, int]


def pooled_clips(packets: Sequence[Path]) -> Iterator[PooledClip | str]:
    """The clips of packets, or a sentence for each that cannot be used."""
    for path in packets:
        try:
            with Packet(path) as packet:
                yield _clip_of(packet)
        except (PacketError, GeometryError) as error:
            yield f"{path.stem}: {error}"


def packet_tracks(packet: Packet, names: Sequence[str]) -> SceneTracks:
    """Those of a packet's track sets `names` that are there, side by side; tracks that several hold once."""
    sets = [
        {field: packet.read(f"tracks/{each}/{field}") for field in ("xy", "visibility", "on_object", "queries")}
        for each in names
        if f"tracks/{each}/xy" in packet
    ]
    return joined_tracks(sets, packet.size[1])


def _clip_of(packet: Packet) -> PooledClip | str:
    name, attributes = packet.path.stem, packet.attributes
    if "hand_pose" not in packet or "tracks/grid/xy" not in packet:
        return f"{name}: the packet has no {'hand_pose' if 'hand_pose' not in packet else 'tracks'}"
    rig: Rig = "wrist" if {"wrist-camera", "moving-camera"} & set(attributes["tags"]) else "fixed"
    names = telling_tracks(on_wrist=rig == "wrist", of_robot="tracks/robot/xy" in packet)
    camera, intrinsics = packet_camera(packet), packet.dataset_attributes("intrinsics")
    if names == ("robot",):
        xy, visibility = packet.read("tracks/robot/xy"), packet.read("tracks/robot/visibility")
        posed = packet.read("tracks/robot/queries")[:, 0].astype(int)
    else:
        tracks, posed = packet_tracks(packet, names), None
        xy, visibility = (each[:, ~tracks.on_object] for each in (tracks.xy, tracks.visibility))
    clip = TrackedClip(
        xy,
        visibility,
        packet.read("hand_pose"),
        packet.read("timestamp"),
        packet.size,
        camera.fy / camera.fx,
        name=name,
    )
    moving = [packet.read(mask) for mask in ("masks/object", "masks/robot") if mask in packet]
    source = intrinsics["source"]
    return PooledClip(
        episode_id=name,
        path=packet.path,
        setup=setup_of(attributes["source"]),
        when=str(attributes["source"].get("path")),
        rig=rig,
        clip=clip,
        posed=posed,
        background=still_background(packet.read("pixels"), np.logical_or.reduce(moving) if moving else None),
        priors=beliefs(source, camera.fx / packet.size[1], float(intrinsics["sigma"]), rig)
        if source in ("calibrated", "camera-model")
        else beliefs("assumed", 1.0, 1.0, rig),
        size=packet.size,
    )


def grouped(clips: Sequence[PooledClip], *, one_camera: bool = False) -> dict[str, list[PooledClip]]:
    """Clips by set-up; a set-up whose still background moves is split, `NAME#2` on from the first clip that differs.

    A clip joins the first part whose background registers with its own, so that a camera that comes back joins again.
    A table that was moved before a camera that stands looks the same as a camera that was moved: `one_camera` says that
    it was the table.
    """
    found: dict[str, list[PooledClip]] = {}
    parts: dict[str, list[str]] = {}
    for clip in clips:
        names = parts.setdefault(clip.setup, [])
        for name in names:
            first = found[name][0]
            if (
                clip.rig == first.rig
                and clip.size == first.size
                and (one_camera or clip.rig == "wrist" or register(first.background, clip.background).same_view)
            ):
                found[name].append(clip)
                break
        else:
            name = clip.setup if not names else f"{clip.setup}#{len(names) + 1}"
            names.append(name)
            found[name] = [clip]
    return found


def solve_set_up(name: str, clips: Sequence[PooledClip], *, one_camera: bool = False) -> SetUp:
    """The camera of one set-up, solved once more without the episodes that do not fit the others."""
    chosen, found, residuals = _solved(_spread(clips))
    apart = {
        clip.episode_id: reason
        for clip, residual in zip(chosen, residuals, strict=True)
        if (reason := _unlike(clip, residual, residuals)) is not None
    }
    if apart and len(chosen) - len(apart) >= 2:
        chosen = [clip for clip in chosen if clip.episode_id not in apart]
        chosen, found, residuals = _solved(chosen)
    else:
        apart = {}
    return replace(_as_set_up(name, clips, chosen, found, residuals, apart), one_camera=one_camera)


def _unlike(clip: PooledClip, residual: float, residuals: NDArray[np.float64]) -> str | None:
    """Why a clip does not fit the camera that the others tell; None where it does, or nothing is told."""
    if not np.isfinite(residuals).any():
        return None
    where = f"({clip.when}): another base frame, or the camera was moved"
    if np.isnan(residual):
        moves = travel_m(clip.clip.hand_pose) >= LEAST_TRAVEL_M
        return f"no tracks move as the camera that the others tell would see its hand move {where}" if moves else None
    if residual <= max(UNLIKE * float(np.nanmedian(residuals)), LEAST_UNLIKE_WIDTHS):
        return None
    return f"{residual * clip.size[1]:.1f} px off the camera that the others tell {where}"


def _spread(clips: Sequence[PooledClip]) -> list[PooledClip]:
    kept = (
        np.unique(np.linspace(0, len(clips) - 1, MOST_CLIPS).round().astype(int)) if len(clips) > MOST_CLIPS else None
    )
    return list(clips) if kept is None else [clips[number] for number in kept]


def _solved(
    clips: Sequence[PooledClip],
) -> tuple[Sequence[PooledClip], Calibration | None, NDArray[np.float64]]:
    """The clips with points on the robot matched again, their calibration, and their residuals before each other's."""
    rig, priors = clips[0].rig, clips[0].priors
    try:
        if rig == "wrist":
            found = _calibrated(clips)
        else:
            found, clips = found_again(_calibrated, _seen_again, clips)
    except GeometryError as error:
        log.warning("%s: %s", clips[0].setup, error)
        return clips, None, np.full(len(clips), np.nan)
    if not np.isfinite(found.focal_px) or len(clips) < 2:
        return clips, found, np.full(len(clips), np.nan)
    return clips, found, left_one_out(_thinned(clips), found, rig=rig, priors=priors)


def _calibrated(clips: Sequence[PooledClip], **how: Any) -> Calibration:
    """As `calibrate_camera`, which takes `how`."""
    return calibrate_camera(_thinned(clips), rig=clips[0].rig, priors=clips[0].priors, drift=TRACK_DRIFT, **how)


def _thinned(clips: Sequence[PooledClip]) -> list[TrackedClip]:
    return [thinned(clip.clip, of_robot=clip.posed is not None) for clip in clips]


def _seen_again(clips: Sequence[PooledClip], found: Calibration) -> Sequence[PooledClip]:
    """The clips with points on the robot matched again, before the camera that all of them told."""
    camera = camera_of(found)
    ends = np.cumsum([clip.clip.visibility.shape[1] for clip in clips])[:-1]
    seen = []
    for clip, places, riding in zip(clips, np.split(found.places, ends), np.split(found.riding, ends), strict=True):
        if clip.posed is None or not riding.any():
            seen.append(clip)
            continue
        with Packet(clip.path) as packet:
            alone = body_alone(packet.read("pixels"), packet.read("masks/robot"))
        matched, _ = seen_again(alone, clip.clip, camera, places, riding, clip.posed)
        seen.append(replace(clip, clip=matched))
    return seen


def _as_set_up(
    name: str,
    clips: Sequence[PooledClip],
    chosen: Sequence[PooledClip],
    found: Calibration | None,
    residuals: NDArray[np.float64],
    apart: Mapping[str, str],
) -> SetUp:
    first = chosen[0]
    picture = np.asarray(np.rint(np.median([clip.background for clip in chosen], axis=0)), np.uint8)
    camera: dict[str, Any] | None = None
    reasons: tuple[str, ...] = ("the hand's path could not be used",)
    if found is not None:
        camera = calibration_report(found, first.clip, None)
        reasons = tuple(found.reasons)
    width = first.size[1]
    rest = [clip.episode_id for clip in clips if clip.episode_id not in apart]
    return SetUp(
        name=name,
        setup=first.setup,
        episodes=tuple(sorted(rest)),
        size=first.size,
        rig=first.rig,
        background=encode_picture(picture),
        background_size=(picture.shape[0], picture.shape[1]),
        camera=camera,
        reasons=reasons,
        left_out={
            clip.episode_id: round(float(residual) * width, 3) if np.isfinite(residual) else None
            for clip, residual in zip(chosen, residuals, strict=True)
        },
        apart=dict(apart),
    )


def table(set_ups: Sequence[SetUp]) -> list[dict[str, Any]]:
    """A row a set-up, for a person."""
    rows = []
    for each in set_ups:
        camera = each.camera or {}
        left = [value for value in each.left_out.values() if value is not None]
        rows.append(
            {
                "set-up": each.name,
                "episodes": len(each.episodes),
                "solved from": len(each.left_out),
                "observable": "yes" if not each.reasons else "no",
                "focal length, widths": _said(camera.get("focal_px"), each.size[1], 3),
                "its sigma, %": _said(camera.get("focal_sigma"), 0.01, 1),
                "place, cm": _said(camera.get("position_sigma_m"), 0.01, 1),
                "turn, degrees": _said(camera.get("rotation_sigma_deg"), 1, 2),
                "residual, px": _said(camera.get("residual_px"), 1, 2),
                "left one out, px": f"{np.median(left):.2f}, worst {max(left):.2f}" if left else "",
                "put apart": len(each.apart),
                "reasons": "; ".join(each.reasons),
            }
        )
    return rows


def _said(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"


def solve_all(packets: Sequence[Path], *, one_camera: bool = False) -> tuple[list[SetUp], list[str]]:
    """The set-ups of packets, and sentences about those that cannot be used."""
    clips, unusable = sorted_out(packets)
    groups = sorted(grouped(clips, one_camera=one_camera).items())
    return [solve_set_up(name, group, one_camera=one_camera) for name, group in groups], unusable


def sorted_out(packets: Sequence[Path]) -> tuple[list[PooledClip], list[str]]:
    """Clips in the order of their sources' paths, which is that of time in BridgeData; and who cannot be used."""
    read = list(pooled_clips(packets))
    clips = sorted(
        (each for each in read if isinstance(each, PooledClip)), key=lambda clip: (clip.when, clip.episode_id)
    )
    return clips, [each for each in read if isinstance(each, str)]


def write_calibrations(out: Path, found: Sequence[SetUp]) -> None:
    """Writes the file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, as_text(found))
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error}; free space or fix permissions") from error
