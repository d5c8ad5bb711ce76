"""Decodes the clip once: packet-size pixels, the record of every frame, proprioception as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from extractors.advance import advance
from extractors.camera_motion import CameraMotion, camera_motion, watched_frame, watched_frames
from extractors.cuts import is_black, scene_cuts
from extractors.errors import BlankCameraError, CorruptDataError, MissingDataError
from extractors.geometry import resize_rgb
from extractors.types import Episode, Frames
from flows.config import Config
from flows.output.store import json_digest
from flows.stages.base import Stage, StageInputs, StageOutput
from packers.schema import Dataset
from packers.writer import encode

MOST_PIXEL_BYTES = 2**34
"""Largest pixels of one episode, bytes: an hour and a half at 20 frames a second in 224 x 224. A video of 1 MB can
claim a million frames."""


def frame_digest(frame: NDArray[np.uint8]) -> str:
    """Sha256 of one decoded source frame: the bytes of its (H, W, 3) uint8 RGB array, row by row."""
    return hashlib.sha256(np.ascontiguousarray(frame).data).hexdigest()


def source_settings(config: Config) -> Mapping[str, Any]:
    """What the source stage depends on beside the episode itself."""
    settings = config.source.model_dump(mode="json", exclude={"follow_links"})
    return {"packet": config.packet.model_dump(mode="json"), "source": settings}


def _run(inputs: StageInputs) -> StageOutput:
    episode = inputs.episode
    decoded = _decode(episode, inputs.size)
    if decoded.black == len(decoded.digests):
        raise BlankCameraError(
            f"camera '{episode.camera_name}' is black in all {decoded.black} frames; choose another --camera"
        )
    arrays: dict[str, NDArray[Any] | None] = {
        "pixels": decoded.pixels,
        "timestamp": episode.timestamp - episode.timestamp[0],
        "action": episode.action,
        "action_valid": episode.action_valid if episode.action is not None else None,
        "state": episode.state,
        "gripper": episode.gripper,
    }
    names: dict[str, dict[str, Any]] = {}
    if episode.state_names:
        names["state"] = {"names": list(episode.state_names)}
    datasets = {name: encode(name, array, **names.get(name, {})) for name, array in arrays.items() if array is not None}
    report = _report(episode, decoded)
    return StageOutput(datasets, report, content=_content(report, datasets, inputs.config))


class _Decoded(NamedTuple):
    """What one pass over the frames leaves.

    Attributes:
        pixels: (T, height, width, 3) uint8 at packet size.
        digests: sha256 of each source frame.
        black: how many frames are black.
        camera: whether the camera moves, measured at the source's size so that the packet's does not matter.
    """

    pixels: NDArray[np.uint8]
    digests: list[str]
    black: int
    camera: CameraMotion


def _decode(episode: Episode, size: tuple[int, int]) -> _Decoded:
    if episode.n_frames * size[0] * size[1] * 3 > MOST_PIXEL_BYTES:
        raise CorruptDataError(
            f"{episode.n_frames} frames of {size[1]} x {size[0]} make more than {MOST_PIXEL_BYTES:,} bytes; split the "
            "episode, or pack it smaller"
        )
    pixels = np.empty((episode.n_frames, *size, 3), np.uint8)
    digests: list[str] = []
    black = 0
    watched: list[NDArray[np.uint8]] = []
    numbers = watched_frames(episode.n_frames)
    watch = set(numbers.tolist())
    for t, frame in enumerate(episode.pixels):
        if t == len(pixels):
            raise CorruptDataError(f"more frames decoded than the {len(pixels)} the episode has")
        digests.append(frame_digest(frame))
        black += int(is_black(frame))
        pixels[t] = resize_rgb(frame, size)
        if t in watch:
            watched.append(watched_frame(frame))
        advance(t + 1, episode.n_frames)
    if len(digests) != len(pixels):
        raise CorruptDataError(f"{len(digests)} of {len(pixels)} frames could be decoded; fetch the episode again")
    if not digests:
        raise MissingDataError("the episode has no frames")
    camera = camera_motion(watched, numbers, cuts=scene_cuts(pixels).starts[1:])
    return _Decoded(pixels, digests, black, camera)


def _report(episode: Episode, decoded: _Decoded) -> dict[str, Any]:
    height, width = episode.size
    source: dict[str, Any] = {
        **episode.provenance,
        "frame_sha256": decoded.digests,
        "frame_size": [height, width],
        "resize": "area averaging down, bilinear up, each axis by its own factor",
    }
    for name, frames in (
        ("depth", episode.recorded_depth),
        ("masks", episode.recorded_masks),
        ("robot", episode.recorded_robot),
    ):
        if frames is not None:
            source[f"recorded_{name}_sha256"] = _stream_digest(frames)
    return {
        "language_instruction": episode.language_instruction,
        "fps": episode.fps,
        "camera": asdict(episode.camera) if episode.camera is not None else None,
        "black_frames": decoded.black,
        "camera_motion": asdict(decoded.camera),
        "tags": sorted(set(episode.tags)),
        "source": source,
    }


def _stream_digest(frames: Frames) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()


def _content(report: Mapping[str, Any], datasets: Mapping[str, Dataset], config: Config) -> Mapping[str, Any]:
    """What the source's key is made of: all that later stages and the packet take from the source.

    The packet's size is among it, so that the stages after it, which work at that size, need not name it.
    """
    arrays = {
        name: hashlib.sha256(np.ascontiguousarray(dataset.data).data).hexdigest()
        for name, dataset in datasets.items()
        if name != "pixels"
    }
    return {"report": json_digest(report), "arrays": arrays, "settings": dict(source_settings(config))}


SOURCE = Stage(name="source", version=5, inputs=(), settings=source_settings, run=_run)
