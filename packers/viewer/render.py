"""One episode as a picture or a clip, for papers and chat: contact sheet (PNG), GIF, MP4."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError, OutputError
from packers.atomic import written_whole
from packers.reader import Packet
from packers.viewer.frames import FramePictures, Image
from packers.viewer.hand import OBJECT_RGB

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

RENDERED = (".mp4", ".png", ".gif")

SHEET_MOMENTS = 8
"""Frames on a contact sheet."""

TRAIL_FRAMES, MOST_TRAILS = 12, 80

_TITLES = {
    "rgb": "RGB",
    "masks": "masks",
    "tracks": "tracks",
    "depth": "depth",
    "stabilized": "stabilized depth",
    "hand": "hand, re-projected",
    "aligned": "depth in metres, aligned",
    "metric": "metric depth",
    "object_depth": "object depth",
}
_OFF_RGB, _GRID_RGB = (86, 180, 233), (235, 235, 235)
_INK, _QUIET, _PAPER = (27, 36, 48), (86, 97, 113), (255, 255, 255)
_GAP, _CAPTION, _LABEL, _SHEET_HEAD = 6, 22, 16, 76
_GIF_LONGEST_PX = 160


def render_episode(path: Path | str, target: Path) -> None:
    """Draws a packet into `target`: .png a contact sheet, .gif and .mp4 a clip of all panels.

    Raises:
        ConfigError: the ending is another one.
        PacketError: the packet is damaged.
        OutputError: the file cannot be written.
    """
    ending = target.suffix.lower()
    if ending not in RENDERED:
        raise ConfigError(f"--render wants a file ending in {', '.join(RENDERED)}, got {target.name}")
    with Packet(path) as packet:
        drawing = _Drawing(packet)
        try:
            with written_whole(target) as temporary:
                {".png": _write_png, ".gif": _write_gif, ".mp4": _write_mp4}[ending](drawing, temporary)
        except OSError as error:
            raise OutputError(f"{target} cannot be written: {error}; free space or fix permissions") from error


class _Drawing:
    """Panels of one packet as arrays, tracks drawn in."""

    def __init__(self, packet: Packet) -> None:
        self.packet = packet
        self.pictures = FramePictures(packet)
        self.n_frames = packet.n_frames
        attributes = packet.attributes
        self.fps = float(attributes.get("fps") or 5.0)
        self.title = " ".join(str(attributes.get("language_instruction") or "(no instruction)").split())
        self.subtitle = str(attributes.get("episode_id", packet.path.stem))
        self.tracks = next((s for s in ("foreground", "grid") if f"tracks/{s}/xy" in packet), None)
        panels: list[str] = list(self.pictures.panels)
        if self.tracks is not None:
            panels.insert(2 if "masks" in panels else 1, "tracks")
        self.panels = panels

    def frame(self, panel: str, t: int) -> Image:
        """(h, w, 3) RGB of one panel at frame `t`."""
        if panel == "tracks":
            return self._tracks(t)
        if panel == "masks":
            overlay = self.pictures.frames("masks", t, t + 1)[0]
            share = overlay[..., 3:].astype(np.float32) / 255
            mixed = self.frame("rgb", t) * (1 - share) + overlay[..., :3] * share
            return np.rint(mixed).astype(np.uint8)
        return self.pictures.frames(panel, t, t + 1)[0]  # type: ignore[arg-type]

    def composed(self, t: int, scale: float = 1.0) -> Image:
        """All panels of frame `t` in up to four columns, with titles, instruction and time."""
        import cv2

        height, width = (round(side * scale) for side in self.pictures.size)
        columns = min(len(self.panels), 3 if len(self.panels) in (3, 5, 6, 9) else 4)
        cells = []
        for panel in self.panels:
            cell = cv2.resize(self.frame(panel, t), (width, height), interpolation=cv2.INTER_AREA)
            cells.append((_TITLES[panel], np.asarray(cell, np.uint8)))
        seconds = float(self.packet.read("timestamp", t, t + 1)[0])
        return _grid(cells, columns, self.title, f"{t} / {self.n_frames - 1}   {seconds:.2f} s")

    def _tracks(self, t: int) -> Image:
        import cv2

        height, width = self.pictures.size
        large = 2  # drawn twice as large and reduced: smooth lines at sub-pixel places
        frame = cv2.resize(self.frame("rgb", t), (width * large, height * large), interpolation=cv2.INTER_LINEAR)
        canvas = np.ascontiguousarray((frame * 0.55).astype(np.uint8))
        root = f"tracks/{self.tracks}"
        start = max(0, t - TRAIL_FRAMES)
        xy = (self.packet.read(f"{root}/xy", start, t + 1) + 0.5) * (large * width / self.packet.size[1])
        seen = self.packet.read(f"{root}/visibility", start, t + 1)
        on_object, queries = self.packet.read(f"{root}/on_object"), self.packet.read(f"{root}/queries")
        # As on the page: trails of some points of each kind, or they run into one smear.
        every = {kind: -(-int((on_object == kind).sum()) // MOST_TRAILS) for kind in (False, True)}
        for place, point in enumerate(np.argsort(on_object, kind="stable")):
            if queries[point, 0] > t:
                continue
            colour = OBJECT_RGB if on_object[point] else _OFF_RGB if self.tracks == "foreground" else _GRID_RGB
            for back in range(1, len(xy) if place % every[bool(on_object[point])] == 0 else 0):
                if seen[back - 1, point] and seen[back, point]:
                    _line(canvas, xy[back - 1, point], xy[back, point], colour)
            if seen[-1, point]:
                at = tuple(int(v) for v in np.rint(xy[-1, point] * 16))
                cv2.circle(canvas, at, 2 * 16, colour, cv2.FILLED, cv2.LINE_AA, 4)
        return np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _line(canvas: Image, start: NDArray[Any], end: NDArray[Any], colour: tuple[int, int, int]) -> None:
    import cv2

    from_, to = (tuple(int(v) for v in np.rint(point * 16)) for point in (start, end))
    cv2.line(canvas, from_, to, colour, 1, cv2.LINE_AA, 4)


def _grid(cells: list[tuple[str, Image]], columns: int, title: str, right: str) -> Image:
    """Cells with a label over each, under one caption line."""
    from PIL import Image as Pictures
    from PIL import ImageDraw

    height, width = cells[0][1].shape[:2]
    rows = -(-len(cells) // columns)
    size = columns * width + (columns + 1) * _GAP, _CAPTION + rows * (height + _LABEL) + _GAP
    page = Pictures.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    room = size[0] - 2 * _GAP - round(draw.textlength(right, font=_font(11))) - 12
    draw.text((_GAP, 4), _fitted(draw, title, room), fill=_INK, font=_font(13))
    draw.text((size[0] - _GAP, 6), right, fill=_QUIET, font=_font(11), anchor="ra")
    for place, (label, cell) in enumerate(cells):
        x = _GAP + place % columns * (width + _GAP)
        y = _CAPTION + place // columns * (height + _LABEL)
        draw.text((x, y + 2), label, fill=_QUIET, font=_font(10))
        page.paste(Pictures.fromarray(cell), (x, y + _LABEL))
    return np.asarray(page)


def _font(size: int) -> FreeTypeFont | BitmapFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _fitted(draw: ImageDraw, text: str, room: int, size: int = 13) -> str:
    if draw.textlength(text, font=_font(size)) <= room:
        return text
    while text and draw.textlength(f"{text}…", font=_font(size)) > room:
        text = text[:-1]
    return f"{text}…"


def _write_png(drawing: _Drawing, path: Path) -> None:
    """Contact sheet: a row per panel, moments of the clip from left to right."""
    from PIL import Image as Pictures
    from PIL import ImageDraw

    moments = np.unique(np.linspace(0, drawing.n_frames - 1, SHEET_MOMENTS).round().astype(int))
    height, width = drawing.pictures.size
    left = 104
    size = (
        left + len(moments) * (width + _GAP) + _GAP,
        _SHEET_HEAD + len(drawing.panels) * (height + _GAP) + _GAP,
    )
    page = Pictures.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_GAP, 8), _fitted(draw, drawing.title, size[0] - 2 * _GAP, 20), fill=_INK, font=_font(20))
    draw.text((_GAP, 36), drawing.subtitle, fill=_QUIET, font=_font(13))
    for row, panel in enumerate(drawing.panels):
        y = _SHEET_HEAD + row * (height + _GAP)
        draw.text((_GAP, y + height // 2), _TITLES[panel], fill=_INK, font=_font(13), anchor="lm")
        for column, t in enumerate(moments):
            x = left + column * (width + _GAP)
            page.paste(Pictures.fromarray(drawing.frame(panel, int(t))), (x, y))
            if row == 0:
                draw.text((x, y - 5), f"frame {t}", fill=_QUIET, font=_font(12), anchor="ls")
    page.save(path, optimize=True)


def _write_gif(drawing: _Drawing, path: Path) -> None:
    from PIL import Image as Pictures

    scale = min(1.0, _GIF_LONGEST_PX / max(drawing.pictures.size))
    frames = (Pictures.fromarray(frame) for frame in _frames(drawing, lambda t: drawing.composed(t, scale)))
    first = next(frames)
    # One palette for the clip: a palette of its own for each frame makes still parts flicker.
    palette = first.quantize(256, method=Pictures.Quantize.MEDIANCUT)
    quantized = [frame.quantize(palette=palette, dither=Pictures.Dither.NONE) for frame in frames]
    duration = max(20, round(1000 / drawing.fps))
    first = first.quantize(palette=palette, dither=Pictures.Dither.NONE)
    first.save(path, save_all=True, append_images=quantized, duration=duration, loop=0, optimize=False)


def _write_mp4(drawing: _Drawing, path: Path) -> None:
    from fractions import Fraction

    import av

    frames = _frames(drawing, drawing.composed)
    first = next(frames)
    height, width = (side - side % 2 for side in first.shape[:2])
    with av.open(str(path), "w") as file:
        # H.264 in 4:2:0 with the index first: what browsers, slides and chats play.
        stream = file.add_stream("libx264", rate=Fraction(drawing.fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "20", "movflags": "+faststart"}
        for frame in _chained(first, frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode())


def _frames(drawing: _Drawing, draw: Callable[[int], Image]) -> Iterator[Image]:
    return (draw(t) for t in range(drawing.n_frames))


def _chained(first: Image, rest: Iterator[Image]) -> Iterator[Image]:
    yield first
    yield from rest
