"""Pictures of a packet's frames: sheets of many frames for the pages, and a moving thumbnail."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import PacketError
from packers.reader import Packet
from packers.schema import dilation_radius
from packers.viewer.hand import OBJECT_RGB, draw_hand, hand_marks

VIEW_VERSION = 4
"""Raised by hand when pictures or pages' data change, so that kept ones are made again."""

SHEET_COLUMNS = SHEET_ROWS = 4
SHEET_FRAMES = SHEET_COLUMNS * SHEET_ROWS

LONGEST_PX = 512
"""Longer side of a frame on a sheet, at most; larger packets are shown reduced."""

THUMBNAIL_FRAMES, THUMBNAIL_PX = 10, 128

ROBOT_RGB = (240, 228, 66)
RING_RGB = ((86, 180, 233), (0, 158, 115), (204, 121, 167))
"""Marks on the frames: the palette of Okabe and Ito (2008), which colour-blind readers can distinguish."""

NO_READING_GREY = 176

_OBJECT_ALPHA, _RING_ALPHA, _ROBOT_ALPHA, _THING_ALPHA = 120, 95, 60, 90
_SAMPLED_FRAMES = 24
_DEPTHS = {
    "depth": "depth/relative",
    "stabilized": "depth/stabilized",
    "aligned": "depth/aligned",
    "metric": "depth/metric",
}
_METRES = ("depth/metric", "depth/aligned")

PanelName = Literal["rgb", "masks", "hand", "depth", "stabilized", "aligned", "metric", "object_depth"]
Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ValueRange:
    """What a depth panel's colours stand for, the same in all frames, so that drift and flicker show.

    Attributes:
        low, high: values at the ends of the colour map.
        dark_is_high: whether the dark end is the high one (metric depth: near is bright in every panel).
        units: of the values.
        even_in_inverse: whether colours are even in 1 / value.
    """

    low: float
    high: float
    dark_is_high: bool
    units: str
    even_in_inverse: bool = False

    def shares(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Where `values` lie from dark (0) to bright (1); z over a whole scene evenly in 1/z, as inverse depth is."""
        clipped = np.clip(values, np.float32(self.low), np.float32(self.high))
        if self.even_in_inverse:
            return np.asarray((1 / clipped - 1 / self.high) / (1 / self.low - 1 / self.high))
        shares = (clipped - self.low) / (self.high - self.low)
        return np.asarray(1 - shares if self.dark_is_high else shares)


class FramePictures:
    """Encoded pictures of one open packet.

    Args:
        packet: the packet, open or not.
    """

    def __init__(self, packet: Packet) -> None:
        self.packet = packet
        self._ranges: dict[tuple[tuple[str, ...], str], ValueRange] = {}
        self.n_frames = packet.n_frames
        height, width = packet.size
        scale = min(1.0, LONGEST_PX / max(height, width))
        self.size = max(1, round(height * scale)), max(1, round(width * scale))
        # JPEG works in blocks of 16 px: cells on block borders do not bleed into each other.
        self.stride = tuple(-(-side // 16) * 16 for side in self.size)

    @cached_property
    def panels(self) -> tuple[PanelName, ...]:
        """The panels that this packet has something for, in the order they are shown."""
        there = set(self.packet.modalities)
        found: list[PanelName] = ["rgb"]
        if {"masks/object", "masks/robot", "masks/things"} & there:
            found.append("masks")
        if "hand_pose" in there and ("extrinsics" in there or "camera_pose" in there):
            found.append("hand")
        for panel, dataset in _DEPTHS.items():
            if dataset in there:
                found.append(panel)  # type: ignore[arg-type]
        if "masks/object" in there and self.object_depth is not None:
            found.append("object_depth")
        return tuple(found)

    @cached_property
    def object_depth(self) -> str | None:
        """The dataset of the object-only panel: that of the centroids where they name one, else the steadiest."""
        there = set(self.packet.modalities)
        if "centroids" in there:
            named = self.packet.dataset_attributes("centroids").get("depth")
            if isinstance(named, str) and named in there:
                return named
        return next((d for d in ("depth/metric", "depth/stabilized", "depth/relative") if d in there), None)

    @cached_property
    def marks(self) -> list[dict[str, Any]]:
        """Where the hand and the object's points are re-projected, frame by frame."""
        return hand_marks(self.packet) or []

    @property
    def n_sheets(self) -> int:
        """Sheets per panel."""
        return -(-self.n_frames // SHEET_FRAMES)

    @cached_property
    def radii(self) -> tuple[int, ...]:
        """Radii of the dilated masks in the packet, pixels, ascending."""
        return tuple(sorted(r for r in map(dilation_radius, self.packet.modalities) if r is not None))

    def value_range(self, panel: PanelName) -> ValueRange | None:
        """What the colours of a depth panel stand for, None for the other panels."""
        if panel in ("rgb", "masks", "hand"):
            return None
        if panel == "object_depth" and self.object_depth is not None:
            sources: tuple[str, ...] = (self.object_depth,)
            mask = "masks/object"
        elif panel in ("metric", "aligned"):
            # One scale for both: where they differ can be seen.
            sources, mask = tuple(name for name in _METRES if name in self.packet.modalities), ""
        else:
            # One scale for both: what anchoring changed can be seen.
            both = ("depth/relative", "depth/stabilized")
            sources, mask = tuple(name for name in both if name in self.packet.modalities), ""
        if (sources, mask) not in self._ranges:
            self._ranges[sources, mask] = self._range(sources, mask or None)
        return self._ranges[sources, mask]

    def sheet(self, panel: PanelName, index: int) -> bytes:
        """Sheet `index` of a panel, 16 frames in rows of 4: JPEG, or PNG with alpha for `masks`, an overlay.

        Raises:
            KeyError: the packet has no such panel.
            IndexError: there is no such sheet.
            PacketError: the data are damaged.
        """
        if panel not in self.panels:
            raise KeyError(f"{self.packet.path.name} has no panel '{panel}'; it has {list(self.panels)}")
        if not 0 <= index < self.n_sheets:
            raise IndexError(f"{self.packet.path.name}: wanted sheet {index}, it has {self.n_sheets}")
        start = index * SHEET_FRAMES
        frames = self.frames(panel, start, min(start + SHEET_FRAMES, self.n_frames))
        return encode_image(self._tiled(frames), lossless=panel == "masks")

    def frames(self, panel: PanelName, start: int, stop: int) -> list[Image]:
        """Pictures of the frames `start` to `stop`, (h, w, 3) RGB, for `masks` (h, w, 4) RGBA."""
        if panel == "rgb":
            return [self._reduced(frame) for frame in self.packet.read("pixels", start, stop)]
        if panel == "masks":
            return self._overlays(start, stop)
        if panel == "hand":
            pixels = self.packet.read("pixels", start, stop)
            return [self._reduced(draw_hand(frame, self.marks, start + t)) for t, frame in enumerate(pixels)]
        dataset = self.object_depth if panel == "object_depth" else _DEPTHS[panel]
        assert dataset is not None
        scale = self.value_range(panel)
        depth = self.packet.read(dataset, start, stop)
        valid = np.isfinite(depth) & (depth > 0) if dataset in _METRES else np.isfinite(depth)
        if panel == "object_depth":
            valid &= self.packet.read("masks/object", start, stop)
        backgrounds: list[Image | None] = [None] * len(depth)
        if panel == "object_depth":
            backgrounds = [_ghost(frame) for frame in self.packet.read("pixels", start, stop)]
        pictures = [_coloured(z, v, scale, b) for z, v, b in zip(depth, valid, backgrounds, strict=True)]
        return [self._reduced(picture) for picture in pictures]

    def thumbnail(self) -> bytes:
        """A strip of 10 frames from the whole clip side by side, 128 px high and wide each, object outlined; JPEG."""
        import cv2

        indices = np.linspace(0, self.n_frames - 1, THUMBNAIL_FRAMES).round().astype(int)
        cells = []
        for t in indices:
            frame = self.packet.read("pixels", int(t), int(t) + 1)[0]
            cell = cv2.resize(frame, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
            if "masks/object" in self.packet.modalities:
                mask = self.packet.read("masks/object", int(t), int(t) + 1)[0].astype(np.uint8)
                small = cv2.resize(mask, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_NEAREST)
                outlines, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
                cv2.drawContours(cell, outlines, -1, OBJECT_RGB, 1, cv2.LINE_AA)
            cells.append(cell)
        return encode_image(np.concatenate(cells, axis=1))

    def _overlays(self, start: int, stop: int) -> list[Image]:
        height, width = self.packet.size
        there = set(self.packet.modalities)
        layers: list[tuple[NDArray[np.bool_], tuple[int, int, int], int]] = []
        for radius, colour in reversed(list(zip(self.radii, _cycled(len(self.radii)), strict=True))):
            layers.append((self.packet.read(f"masks/object_dilate{radius}", start, stop), colour, _RING_ALPHA))
        if "masks/robot" in there:
            layers.append((self.packet.read("masks/robot", start, stop), ROBOT_RGB, _ROBOT_ALPHA))
        if "masks/object" in there:
            layers.append((self.packet.read("masks/object", start, stop), OBJECT_RGB, _OBJECT_ALPHA))
        things = np.zeros((stop - start, height, width), np.uint8)
        if "masks/things" in there:
            things = self.packet.read("masks/things", start, stop)
        of_number = np.array([(0, 0, 0, 0), *((*thing_rgb(k), _THING_ALPHA) for k in range(1, 256))], np.uint8)
        pictures = []
        for t in range(stop - start):
            overlay = of_number[things[t]]
            for masks, colour, alpha in layers:
                overlay[masks[t]] = (*colour, alpha)
            pictures.append(self._reduced(overlay, nearest=True))
        return pictures

    def _range(self, datasets: tuple[str, ...], mask: str | None = None) -> ValueRange:
        """1st to 99th percentile of up to 24 frames of the clip."""
        metric = set(datasets) <= set(_METRES)
        values = []
        for t in np.unique(np.linspace(0, self.n_frames - 1, _SAMPLED_FRAMES).round().astype(int)):
            for dataset in datasets:
                frame = self.packet.read(dataset, int(t), int(t) + 1)[0]
                valid = np.isfinite(frame) & ((frame > 0) | (not metric))
                if mask is not None:
                    valid &= self.packet.read(mask, int(t), int(t) + 1)[0]
                values.append(frame[valid][:: 1 if mask else 7])
        sample = np.concatenate(values)
        low, high = (float(p) for p in np.percentile(sample, (1, 99))) if len(sample) else (0.0, 1.0)
        units = str(self.packet.dataset_attributes(datasets[0]).get("units", ""))
        high = high if high > low else low + 1e-6
        return ValueRange(low, high, metric, units, even_in_inverse=metric and mask is None and low > 0)

    def _reduced(self, image: Image, *, nearest: bool = False) -> Image:
        import cv2

        if image.shape[:2] == self.size:
            return image
        height, width = self.size
        how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
        return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)

    def _tiled(self, frames: list[Image]) -> Image:
        height, width = self.size
        channels = frames[0].shape[2]
        sheet = np.zeros((SHEET_ROWS * self.stride[0], SHEET_COLUMNS * self.stride[1], channels), np.uint8)
        for place, frame in enumerate(frames):
            y, x = place // SHEET_COLUMNS * self.stride[0], place % SHEET_COLUMNS * self.stride[1]
            sheet[y : y + height, x : x + width] = frame
        rows = -(-len(frames) // SHEET_COLUMNS)
        return sheet[: rows * self.stride[0]]


def encode_image(image: Image, *, lossless: bool = False) -> bytes:
    """(h, w, 3) RGB as JPEG, or (h, w, 3 or 4) as PNG."""
    import cv2

    if image.shape[2] == 4:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA), np.uint8)
    else:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)
    if lossless:
        done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    else:
        # Halved colour resolution would blur the depth maps' edges.
        full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88, *full_colour])
    assert done
    return data.tobytes()


def placeholder(text: str, size: tuple[int, int], copies: tuple[int, int] = (1, 1)) -> Image:
    """A grey picture (h, w, 3) with `text` in each of its `copies` (down, across); shown for what cannot be read."""
    import cv2

    height, width = size
    cell = np.full((height, width, 3), 226, np.uint8)
    scale = width / 250
    for row, line in enumerate(text.split("\n")):
        (wide, high), _ = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        at = (width - wide) // 2, height // 2 + row * round(1.7 * high)
        cv2.putText(cell, line, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (90, 60, 60), 1, cv2.LINE_AA)
    return np.tile(cell, (*copies, 1))


@lru_cache(maxsize=1)
def depth_colours() -> Image:
    """(256, 3) RGB of the depth colour map, dark to bright: inferno, perceptually uniform."""
    import cv2

    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(ramp[:, 0, ::-1], dtype=np.uint8)


def panel_legend(pictures: FramePictures) -> dict[str, dict[str, Any]]:
    """Panel -> what its colours stand for, JSON types; a panel whose data are damaged has `fault`."""
    legend: dict[str, dict[str, Any]] = {}
    for panel in pictures.panels:
        try:
            scale = pictures.value_range(panel)
        except PacketError as error:
            legend[panel] = {"fault": str(error)}
            continue
        legend[panel] = {} if scale is None else _range_record(scale)
    if "masks" in legend:
        there = set(pictures.packet.modalities)
        marks = [{"name": "object", "rgb": OBJECT_RGB}] if "masks/object" in there else []
        marks += [
            {"name": f"+{radius}", "rgb": colour}
            for radius, colour in zip(pictures.radii, _cycled(len(pictures.radii)), strict=True)
        ]
        marks += [{"name": "robot", "rgb": ROBOT_RGB}] if "masks/robot" in there else []
        if "masks/things" in there:
            names = pictures.packet.dataset_attributes("masks/things")["names"]
            marks += [{"name": name or f"thing {k}", "rgb": thing_rgb(k)} for k, name in enumerate(names) if k]
        legend["masks"]["marks"] = marks
    if "object_depth" in legend:
        legend["object_depth"]["dataset"] = pictures.object_depth
    return legend


def _range_record(scale: ValueRange) -> dict[str, Any]:
    return {
        "low": round(scale.low, 4),
        "high": round(scale.high, 4),
        "dark_is_high": scale.dark_is_high,
        "units": scale.units,
        "even_in": "1/depth" if scale.even_in_inverse else None,
    }


def _ghost(frame: Image) -> Image:
    """The frame in light greys: shows where the object is without competing with its colours."""
    grey = frame.astype(np.float32).mean(axis=-1, keepdims=True)
    return np.repeat((205 + grey * (50 / 255)).astype(np.uint8), 3, axis=-1)


def thing_rgb(number: int) -> tuple[int, int, int]:
    """Colour of thing `number`: hues a golden section apart, paler than every other mark."""
    red, green, blue = (round(255 * part) for part in hsv_to_rgb(number * 0.618 % 1, 0.4, 0.9))
    return red, green, blue


def _cycled(count: int) -> list[tuple[int, int, int]]:
    return [RING_RGB[index % len(RING_RGB)] for index in range(count)]


def _coloured(
    values: NDArray[Any], valid: NDArray[np.bool_], scale: ValueRange | None, background: Image | None
) -> Image:
    assert scale is not None
    shares = scale.shares(np.where(valid, values, scale.low))
    # Rounded down after adding a half: these are not negative.
    picture = np.take(depth_colours(), (np.float32(255) * shares + np.float32(0.5)).astype(np.uint8), axis=0)
    picture[~valid] = NO_READING_GREY if background is None else background[~valid]
    return picture
