"""Packets as control videos: what video-generation models that follow depth, masks or edges take, with a prompt.

A folder for each episode with `video.mp4` (RGB), `depth.mp4` (grey, near is bright), `mask.mp4` (the object white),
`edge.mp4` (Canny edges white) and `prompt.txt`, all of the same frames; `videos.jsonl` lists them with their prompts.
Videos are H.264, which loses a little: they are conditions, not labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from extractors.errors import OutputError
from packers.atomic import built_aside
from packers.reader import Packet

EDGES = (100, 200)
"""Thresholds of Canny's detector on 8-bit grey frames, as ControlNet's annotator has them."""

SPAN = (2.0, 98.0)
"""Percentiles of a clip's inverse depth that become black and white: single pixels must not set the scale."""

_CRF = "18"


@dataclass(frozen=True, slots=True)
class ControlVideos:
    """What was written: `episodes`, and how many `videos` in all."""

    episodes: int
    videos: int


def write_control(
    packets: Sequence[Path],
    target: Path,
    done: Callable[[Path], None] = lambda path: None,
    *,
    ids: Mapping[Path, str] | None = None,
) -> ControlVideos:
    """Writes the folder `target`, which appears when it is whole.

    Args:
        packets: the episodes; one without depth or mask lacks that video.
        target: a folder that is not there yet.
        done: called with each packet that is in.
        ids: packet -> its episode's name, where it is not the packet's own.

    Raises:
        PacketError: a packet is damaged.
        OutputError: the folder cannot be written.
    """
    lines, count = [], 0
    try:
        with built_aside(target) as temporary:
            temporary.mkdir()
            for path in packets:
                with Packet(path) as packet:
                    entry = _episode(packet, temporary / (ids or {}).get(path, path.stem))
                count += len(entry["videos"])
                lines.append(json.dumps(entry, ensure_ascii=False))
                done(path)
            (temporary / "videos.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    except (OSError, FFmpegError) as error:
        raise OutputError(f"{target} cannot be written: {error}; free space or fix permissions") from error
    return ControlVideos(len(packets), count)


def _episode(packet: Packet, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    prompt = " ".join(str(packet.attributes["language_instruction"]).split())
    (folder / "prompt.txt").write_text(prompt + "\n", encoding="utf-8")
    videos = {"video": _pixels(packet), "edge": _edges(packet)}
    depth = next((name for name in ("depth/metric", "depth/stabilized", "depth/relative") if name in packet), None)
    if depth is not None:
        videos["depth"] = _depth(packet, depth)
    if "masks/object" in packet:
        videos["mask"] = (_grey(np.where(frame, 255, 0).astype(np.uint8)) for frame in _each(packet, "masks/object"))
    for name, frames in videos.items():
        _write_video(folder / f"{name}.mp4", frames, float(packet.attributes["fps"]))
    return {
        "episode_id": folder.name,
        "prompt": prompt,
        "fps": float(packet.attributes["fps"]),
        "frames": packet.n_frames,
        "videos": {name: f"{folder.name}/{name}.mp4" for name in sorted(videos)},
    }


def _each(packet: Packet, name: str) -> Iterator[NDArray[Any]]:
    for frame in range(packet.n_frames):
        yield packet.read(name, frame, frame + 1)[0]


def _pixels(packet: Packet) -> Iterator[NDArray[np.uint8]]:
    for frame in _each(packet, "pixels"):
        yield np.asarray(frame, np.uint8)


def _edges(packet: Packet) -> Iterator[NDArray[np.uint8]]:
    for frame in _pixels(packet):
        yield _grey(np.asarray(cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), *EDGES), np.uint8))


def _depth(packet: Packet, name: str) -> Iterator[NDArray[np.uint8]]:
    """Inverse depth on one scale for the whole clip: a scale for each frame would flicker."""
    metric = name == "depth/metric"

    def inverse(frame: NDArray[Any]) -> NDArray[np.float64]:
        values = np.asarray(frame, np.float64)
        if not metric:
            return values
        return np.asarray(np.divide(1.0, values, out=np.full(values.shape, np.nan), where=values > 0))

    sampled = np.unique(np.linspace(0, packet.n_frames - 1, 24).round().astype(int)).tolist()
    some = np.concatenate([inverse(packet.read(name, t, t + 1)[0]).ravel() for t in sampled])
    some = some[np.isfinite(some)]
    low, high = np.percentile(some, SPAN) if len(some) else (0.0, 1.0)
    for frame in _each(packet, name):
        share = (inverse(frame) - low) / max(high - low, 1e-9)
        # No reading is far: the models know no other word for it.
        yield _grey((np.clip(np.nan_to_num(share), 0, 1) * 255).round().astype(np.uint8))


def _grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(frame[..., None], 3, axis=2)


def _write_video(path: Path, frames: Iterator[NDArray[np.uint8]], fps: float) -> None:
    with av.open(str(path), "w") as video:
        stream = None
        for frame in frames:
            # 4:2:0 wants even sides; the last row or column is repeated where a side is odd.
            even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            if stream is None:
                stream = video.add_stream("libx264", rate=Fraction(fps).limit_denominator(100_000))
                stream.height, stream.width = even.shape[:2]
                stream.pix_fmt, stream.options = "yuv420p", {"crf": _CRF}
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
        if stream is not None:
            video.mux(stream.encode())
