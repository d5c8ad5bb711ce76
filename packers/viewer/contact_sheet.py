"""A picture of some packets of a run, small enough for a dashboard."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.errors import PacketError
from packers.reader import Packet

Image = NDArray[np.uint8]

TILE = 128
"""Side of one picture on the sheet, pixels."""

MOMENTS = (0.0, 0.35, 0.65, 1.0)
"""Which moments of an episode are shown, as parts of its length; the second also as depth."""

_OBJECT, _ROBOT, _SEEN = (255, 64, 64), (64, 160, 255), (80, 255, 80)


def contact_sheet(packets: Sequence[Path]) -> Image:
    """One row per packet, (rows * `TILE`, 5 * `TILE`, 3) uint8 RGB: four moments with outlines and tracks, one depth.

    The object is outlined in red, the robot in blue; visible points are green. A packet that cannot be read is a
    black row.
    """
    rows = [_row(path) for path in packets]
    if not rows:
        raise ValueError("a contact sheet needs at least one packet")
    return np.concatenate(rows)


def data_uri(image: Image, *, quality: int = 80) -> str:
    """`image` (H, W, 3) uint8 RGB as a JPEG data URI, which a browser shows without asking for a file."""
    done, coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape} as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode("ascii")


def _row(path: Path) -> Image:
    try:
        with Packet(path) as packet:
            frames = [round(part * (packet.n_frames - 1)) for part in MOMENTS]
            tiles = [_frame(packet, frame) for frame in frames]
            tiles.append(_depth(packet, frames[1]))
    except PacketError:
        return np.zeros((TILE, TILE * (len(MOMENTS) + 1), 3), np.uint8)
    return np.concatenate(tiles, axis=1)


def _frame(packet: Packet, frame: int) -> Image:
    image = _tile(packet.read("pixels", frame, frame + 1)[0])
    for name, colour in (("masks/robot", _ROBOT), ("masks/object", _OBJECT)):
        if name in packet:
            mask = _tile(packet.read(name, frame, frame + 1)[0].astype(np.uint8), nearest=True)
            outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, outlines, -1, colour, 1)
    if "tracks/foreground/xy" in packet:
        _draw_tracks(image, packet, frame)
    return image


def _draw_tracks(image: Image, packet: Packet, frame: int) -> None:
    height, width = packet.size
    points = packet["tracks/foreground/xy"][frame]
    shown = packet["tracks/foreground/visibility"][frame] & packet["tracks/foreground/on_object"]
    places = (points + 0.5) * np.array([TILE / width, TILE / height]) - 0.5
    for x, y in np.rint(places[shown]).astype(int)[::4]:
        cv2.circle(image, (int(x), int(y)), 1, _SEEN, -1)


def _depth(packet: Packet, frame: int) -> Image:
    for name, near in (("depth/stabilized", 1), ("depth/relative", 1), ("depth/metric", -1)):
        if name in packet:
            values = near * packet.read(name, frame, frame + 1)[0].astype(np.float64)
            low, high = np.nanpercentile(values, (2, 98)) if np.isfinite(values).any() else (0.0, 1.0)
            grey = np.nan_to_num(np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)
            return cv2.cvtColor(cv2.applyColorMap(_tile(grey), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB).astype(
                np.uint8
            )
    return np.zeros((TILE, TILE, 3), np.uint8)


def _tile(image: NDArray[np.uint8], *, nearest: bool = False) -> Image:
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
    return np.ascontiguousarray(cv2.resize(image, (TILE, TILE), interpolation=how), dtype=np.uint8)
