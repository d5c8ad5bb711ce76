"""Training targets cut from packets: depth, tracks, centroids, shape, contact, masks, each at a head's own resolution.

A target is a small frozen description, such as `Depth(variant="tight")`. `PacketDataset` cuts it for every window; the
keys, shapes and units of what comes out are in each class's docstring, n being the window's frames. A weight of 0 says
that there is nothing to learn from, and the value beside it is 0: a packet that lacks a cue gives weights of 0.
`CONDITIONS` names the targets after the study behind this project.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError, PacketError, ShapeError
from packers.reader import Packet

OBJECT_WEIGHT = 5.0
"""Weight of an object pixel against 1 for the others in the variant "weighted"."""

DEPTH_SIZE = (56, 56)
"""Rows and columns of depth and mask targets, as in the study: a quarter of a packet's 224."""

Fields = dict[str, tuple[tuple[int, ...], str]]
"""What a target gives: key -> (shape, type)."""

Values = dict[str, NDArray[Any]]

_VARIANT = re.compile(r"full|tight|weighted|dilate[1-9][0-9]*")


class View(Protocol):
    """One window of one packet, as a target sees it."""

    n_frames: int
    size: tuple[int, int]

    def frames(self, name: str) -> NDArray[Any]:
        """Physical values of dataset `name` at the window's frames, (n, ...)."""

    def standardised(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """`values` of dataset `name` less its mean, by its deviation, of the packet's source."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What shapes depend on.

    Attributes:
        n_frames: of a window.
        frame: (height, width) of the packets.
        rows: dataset -> shape of one row; the largest, where packets differ in their number of tracks.
        dtypes: dataset -> type of its physical values.
    """

    n_frames: int
    frame: tuple[int, int]
    rows: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]


class Target(ABC):
    """What a head is trained on."""

    __slots__ = ()
    per_frame: ClassVar[bool] = False
    """Whether what it gives for a frame depends on that frame alone, so that it can be prepared for a whole clip."""

    standardises: ClassVar[tuple[str, ...]] = ()
    """Datasets whose statistics it needs."""

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """Datasets that it is cut from."""

    @abstractmethod
    def fields(self, sizes: Sizes) -> Fields:
        """Keys, shapes and types of what `cut` gives; where packets differ, the largest shape."""

    @abstractmethod
    def cut(self, view: View) -> Values:
        """The target of one window whose packet has all it needs."""


@dataclass(frozen=True, slots=True)
class Depth(Target):
    """Depth averaged over cells, of the whole frame or of the object (the study's B, C and parts of E).

    Gives `<name>` (n, h, w) float32 in the dataset's unit, the mean over a cell's pixels that count, and
    `<name>_weight` (n, h, w) float32, what they count by the cell's pixels: 1 where all have a reading and weigh 1.

    Attributes:
        dataset: the depth; each has its own unit, so none stands in for another.
        variant: "full", "tight" (the object's pixels alone), "dilate<R>" (and R px around it, as the packet has it: 8
            and 20 by default), "weighted" (all, the object's `weight` times).
        size: rows and columns; None keeps the packet's.
        weight: of object pixels in "weighted".
        name: of the keys.
    """

    dataset: str = "depth/relative"
    variant: str = "full"
    size: tuple[int, int] | None = DEPTH_SIZE
    weight: float = OBJECT_WEIGHT
    name: str = "depth"
    per_frame: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_variant(self.variant, self.weight)

    @property
    def needs(self) -> tuple[str, ...]:
        """The depth, and the variant's mask."""
        mask = _variant_mask(self.variant)
        return (self.dataset,) if mask is None else (self.dataset, mask)

    def fields(self, sizes: Sizes) -> Fields:
        """`<name>`, `<name>_weight`."""
        shape = (sizes.n_frames, *(self.size or sizes.frame))
        return {self.name: (shape, "float32"), f"{self.name}_weight": (shape, "float32")}

    def cut(self, view: View) -> Values:
        """The target of one window."""
        values = view.frames(self.dataset).astype(np.float32, copy=False)
        mask = _variant_mask(self.variant)
        weights = pixel_weights(self.variant, values, None if mask is None else view.frames(mask), self.weight)
        coarse, share = weighted_cells(values, weights, self.size or view.size)
        return {self.name: coarse, f"{self.name}_weight": share}


@dataclass(frozen=True, slots=True)
class Tracks(Target):
    """How far each point moved since one frame of the window (the study's D).

    Gives `<name>` (n, N, 2) float32, the displacement (x, y) from the anchor frame in shares of the frame's width, and
    `<name>_weight` (n, N) float32, 1 where the point is visible and inside the frame both there and at the anchor.

    Attributes:
        points: "grid", or "foreground", which favours the object.
        anchor: frame of the window that displacements start from; negative ones count from its end.
        name: of the keys.
    """

    points: Literal["grid", "foreground"] = "grid"
    anchor: int = 0
    name: str = "tracks"

    @property
    def needs(self) -> tuple[str, ...]:
        """Positions and visibility."""
        return f"tracks/{self.points}/xy", f"tracks/{self.points}/visibility"

    def fields(self, sizes: Sizes) -> Fields:
        """`<name>`, `<name>_weight`."""
        points = sizes.rows[self.needs[1]][0]
        moved, seen = (sizes.n_frames, points, 2), (sizes.n_frames, points)
        return {self.name: (moved, "float32"), f"{self.name}_weight": (seen, "float32")}

    def cut(self, view: View) -> Values:
        """The target of one window."""
        xy, visibility = (view.frames(name) for name in self.needs)
        moved, seen = track_displacements(xy, visibility, view.size, anchor=self.anchor)
        return {self.name: moved, f"{self.name}_weight": seen}


@dataclass(frozen=True, slots=True)
class TrackTokens(Target):
    """One token per point, for heads that read the latent of the patch a point is on (the study's D').

    Gives, N points: `<name>_position` (N, 2) float32, (x, y) at the anchor frame in shares of the frame's width;
    `<name>_displacement` (n, N, 2) and `<name>_weight` (n, N) float32 as in `Tracks`; `<name>_visibility` (n, N)
    float32, 1 where the point is seen inside the frame; `<name>_patch` (n, N) int64, the patch it is on, row by row, -1
    outside the frame.

    Attributes:
        points, anchor: as in `Tracks`.
        patch: side of a patch in pixels, 14 or 16 for the usual encoders; divides the frame's sides.
        name: of the keys.
    """

    points: Literal["grid", "foreground"] = "grid"
    anchor: int = 0
    patch: int = 14
    name: str = "tokens"

    @property
    def needs(self) -> tuple[str, ...]:
        """Positions and visibility."""
        return f"tracks/{self.points}/xy", f"tracks/{self.points}/visibility"

    def fields(self, sizes: Sizes) -> Fields:
        """The five keys."""
        if any(side % self.patch for side in sizes.frame):
            raise ConfigError(f"patches of {self.patch} px do not fill frames of {sizes.frame}; take a divisor of both")
        points, n = sizes.rows[self.needs[1]][0], sizes.n_frames
        return {
            f"{self.name}_position": ((points, 2), "float32"),
            f"{self.name}_displacement": ((n, points, 2), "float32"),
            f"{self.name}_weight": ((n, points), "float32"),
            f"{self.name}_visibility": ((n, points), "float32"),
            f"{self.name}_patch": ((n, points), "int64"),
        }

    def cut(self, view: View) -> Values:
        """The target of one window."""
        xy, visibility = (view.frames(name) for name in self.needs)
        moved, weight = track_displacements(xy, visibility, view.size, anchor=self.anchor)
        inside = inside_frame(xy, view.size)
        at_anchor = inside[self.anchor]
        return {
            f"{self.name}_position": np.where(at_anchor[:, None], xy[self.anchor] / np.float32(view.size[1]), 0),
            f"{self.name}_displacement": moved,
            f"{self.name}_weight": weight,
            f"{self.name}_visibility": (visibility & inside).astype(np.float32),
            f"{self.name}_patch": patch_index(xy, view.size, self.patch),
        }


@dataclass(frozen=True, slots=True)
class Centroids(Target):
    """Where the object is in space (the study's F).

    Gives `<name>` (n, 3) and `<name>_sigma` (n, 3) float32 in the dataset's unit (metres where the depth is metric),
    and `<name>_weight` (n,) float32, 1 where the object has a centroid.

    Attributes:
        frame: "camera" (x right, y down, z forward), or "robot", its base frame, which packets have whose camera was
            calibrated against the robot.
        name: of the keys.
    """

    frame: Literal["camera", "robot"] = "camera"
    name: str = "centroid"

    @property
    def needs(self) -> tuple[str, ...]:
        """The centroid, whether it is valid, and its standard deviation."""
        root = "centroids" if self.frame == "camera" else "centroids_base"
        return root, f"{root}_valid", f"{root}_sigma"

    def fields(self, sizes: Sizes) -> Fields:
        """`<name>`, `<name>_sigma`, `<name>_weight`."""
        n = sizes.n_frames
        keys = {self.name: ((n, 3), "float32"), f"{self.name}_sigma": ((n, 3), "float32")}
        return {**keys, f"{self.name}_weight": ((n,), "float32")}

    def cut(self, view: View) -> Values:
        """The target of one window."""
        centroid, valid, sigma = (view.frames(name) for name in self.needs)
        valid = valid & np.isfinite(centroid).all(axis=1) & np.isfinite(sigma).all(axis=1)
        filled = {self.name: centroid, f"{self.name}_sigma": sigma}
        return {
            **{key: np.where(valid[:, None], values, np.float32(0)) for key, values in filled.items()},
            f"{self.name}_weight": valid.astype(np.float32),
        }


@dataclass(frozen=True, slots=True)
class Shape(Target):
    """The ten shape descriptors, standardised (the study's G).

    Gives `<name>` (n, 10) float32, each less its mean and by its standard deviation over the training split of the
    packet's source, and `<name>_weight` (n,) float32, 1 where the frame has descriptors.
    """

    name: str = "shape"
    standardises: ClassVar[tuple[str, ...]] = ("shape_descriptors",)

    @property
    def needs(self) -> tuple[str, ...]:
        """The descriptors, and whether they are valid."""
        return "shape_descriptors", "shape_descriptors_valid"

    def fields(self, sizes: Sizes) -> Fields:
        """`<name>`, `<name>_weight`."""
        return {self.name: ((sizes.n_frames, 10), "float32"), f"{self.name}_weight": ((sizes.n_frames,), "float32")}

    def cut(self, view: View) -> Values:
        """The target of one window."""
        values, valid = (view.frames(name) for name in self.needs)
        valid = valid & np.isfinite(values).all(axis=1)
        standard = view.standardised(self.needs[0], values)
        kept = np.where(valid[:, None], standard, np.float32(0))
        return {self.name: kept, f"{self.name}_weight": valid.astype(np.float32)}


@dataclass(frozen=True, slots=True)
class Contact(Target):
    """Whether the robot touches and holds the object.

    Gives `<name>` (n, 2) float32: the probability of a touch in [0, 1], and 1 where the object is held; and
    `<name>_weight` (n,) float32, 1.
    """

    name: str = "contact"

    @property
    def needs(self) -> tuple[str, ...]:
        """Both signals."""
        return "contact", "held"

    def fields(self, sizes: Sizes) -> Fields:
        """`<name>`, `<name>_weight`."""
        return {self.name: ((sizes.n_frames, 2), "float32"), f"{self.name}_weight": ((sizes.n_frames,), "float32")}

    def cut(self, view: View) -> Values:
        """The target of one window."""
        contact, held = (view.frames(name).astype(np.float32) for name in self.needs)
        valid = np.isfinite(contact)
        both = np.stack([np.where(valid, contact, np.float32(0)), held * valid], axis=1)
        return {self.name: both, f"{self.name}_weight": valid.astype(np.float32)}


@dataclass(frozen=True, slots=True)
class Masks(Target):
    """A mask at low resolution, soft: the share of each cell that it covers (the study's M).

    Gives `<name>` (n, h, w) float32 in [0, 1], and `<name>_weight` (n,) float32, 1.

    Attributes:
        dataset: "masks/object", "masks/robot", a dilated one.
        size: rows and columns; None keeps the packet's.
        name: of the keys.
    """

    dataset: str = "masks/object"
    size: tuple[int, int] | None = DEPTH_SIZE
    name: str = "mask"
    per_frame: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:
        """The mask."""
        return (self.dataset,)

    def fields(self, sizes: Sizes) -> Fields:
        """`<name>`, `<name>_weight`."""
        n, size = sizes.n_frames, self.size or sizes.frame
        return {self.name: ((n, *size), "float32"), f"{self.name}_weight": ((n,), "float32")}

    def cut(self, view: View) -> Values:
        """The target of one window."""
        soft = cell_shares(view.frames(self.dataset).astype(np.float32), self.size or view.size)
        return {self.name: soft, f"{self.name}_weight": np.ones(view.n_frames, np.float32)}


@dataclass(frozen=True, slots=True)
class Frames(Target):
    """The frames at another size, for models that are smaller than a packet's pixels; averaged over cells.

    Gives `<name>` (n, h, w, 3) uint8 RGB.

    Attributes:
        size: rows and columns.
        name: of the key.
    """

    size: tuple[int, int]
    name: str = "frames"
    per_frame: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:
        """The pixels."""
        return ("pixels",)

    def fields(self, sizes: Sizes) -> Fields:
        """`<name>`."""
        return {self.name: ((sizes.n_frames, *self.size, 3), "uint8")}

    def cut(self, view: View) -> Values:
        """The frames of one window."""
        pixels = view.frames("pixels").astype(np.float32)
        channels = [cell_shares(pixels[..., channel], self.size) for channel in range(3)]
        return {self.name: np.rint(np.stack(channels, axis=-1)).astype(np.uint8)}


@dataclass(frozen=True, slots=True)
class Stored(Target):
    """A dataset of the packets as it is, one row per frame: for targets that are made elsewhere.

    Gives the dataset's own name, (n, ...) in its physical unit and type, NaN where it has NaN, and
    `<dataset>_weight` (n,) float32, 1 where the packet has it.
    """

    dataset: str

    @property
    def needs(self) -> tuple[str, ...]:
        """The dataset."""
        return (self.dataset,)

    def fields(self, sizes: Sizes) -> Fields:
        """Both keys."""
        shape = (sizes.n_frames, *sizes.rows[self.dataset])
        weight = f"{self.dataset}_weight"
        return {self.dataset: (shape, sizes.dtypes[self.dataset]), weight: ((sizes.n_frames,), "float32")}

    def cut(self, view: View) -> Values:
        """The target of one window."""
        return {
            self.dataset: view.frames(self.dataset),
            f"{self.dataset}_weight": np.ones(view.n_frames, np.float32),
        }


def weighted_cells(
    values: NDArray[np.float32], weights: NDArray[np.float32], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weighted means of `values` (n, H, W) over `size` cells, and what each cell weighs by its area; both (n, h, w).

    Pixels of weight 0 may be NaN. A cell that weighs nothing has the value 0. A pixel that two cells share counts in
    each by its part.
    """
    if values.shape[1:] == size:
        return np.where(weights > 0, values, np.float32(0)), weights
    share = cell_shares(weights, size)
    # Not the product alone: NaN times a weight of 0 is NaN, and would spoil its whole cell.
    total = cell_shares(np.where(weights > 0, values * weights, np.float32(0)), size)
    return np.divide(total, share, out=np.zeros_like(total), where=share > 0), share


def cell_shares(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Means of `values` (n, H, W) over `size` equal cells, (n, h, w) float32."""
    height, width = values.shape[1:]
    if (height, width) == size:
        return values
    if size[0] > height or size[1] > width or min(size) < 1:
        raise ShapeError(f"wanted cells of at least a pixel: {height} x {width} pixels do not fill {size} cells")
    if height % size[0] == 0 and width % size[1] == 0:
        # Slices are added: five times faster than a sum over a short last axis.
        down, across = height // size[0], width // size[1]
        rows = sum((values[:, k::down] for k in range(1, down)), start=values[:, ::down])
        sums = sum((rows[:, :, k::across] for k in range(1, across)), start=rows[:, :, ::across])
        return np.asarray(sums * np.float32(1 / (down * across)), np.float32)
    vertical, horizontal = _cell_matrix(height, size[0]), _cell_matrix(width, size[1])
    return np.asarray(vertical @ values @ horizontal.T, np.float32)


def pixel_weights(
    variant: str, values: NDArray[np.float32], mask: NDArray[np.bool_] | None, weight: float = OBJECT_WEIGHT
) -> NDArray[np.float32]:
    """What each pixel counts in a `variant` whose mask is `mask`; 0 where `values` (n, H, W) has no reading."""
    readable = np.isfinite(values)
    if mask is None:
        return readable.astype(np.float32)
    if variant == "weighted":
        return np.where(readable, np.where(mask, np.float32(weight), np.float32(1)), np.float32(0))
    return (readable & mask).astype(np.float32)


def track_displacements(
    xy: NDArray[np.float32], visibility: NDArray[np.bool_], size: tuple[int, int], *, anchor: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Displacements of points from frame `anchor`, and what they weigh.

    Args:
        xy: (n, N, 2) float32, pixels.
        visibility: (n, N) bool.
        size: (height, width) of the frames.
        anchor: the frame that displacements start from.

    Returns:
        (n, N, 2) float32 in shares of the frame's width, 0 where the weight is 0; (n, N) float32 weights, 1 where the
        point is seen inside the frame both at the anchor and at the frame.
    """
    if not -len(xy) <= anchor < len(xy):
        raise ConfigError(f"wanted an anchor among the window's {len(xy)} frames, got {anchor}")
    seen = visibility & inside_frame(xy, size)
    both = seen & seen[anchor]
    moved = (xy - xy[anchor]) / np.float32(size[1])
    return np.where(both[..., None], moved, np.float32(0)), both.astype(np.float32)


def inside_frame(xy: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether points (..., 2) in pixels are in a frame of `size`, which spans -0.5 to its side less 0.5."""
    inside = (xy >= -0.5) & (xy < np.array([size[1] - 0.5, size[0] - 0.5], np.float32))
    return np.asarray(inside[..., 0] & inside[..., 1])


def patch_index(xy: NDArray[np.float32], size: tuple[int, int], patch: int) -> NDArray[np.int64]:
    """The patch of `patch` px that each point (..., 2) is on, counted row by row from 0; -1 outside the frame."""
    inside = inside_frame(xy, size)
    # A pixel's centre is at whole numbers, so the first patch begins at -0.5. What is outside may be NaN or too large
    # for an integer, so it is set to 0 before the cast.
    at = np.floor((np.where(inside[..., None], xy, 0) + 0.5) / patch).astype(np.int64)
    return np.where(inside, at[..., 1] * (size[1] // patch) + at[..., 0], -1)


@dataclass(frozen=True, slots=True, eq=False)
class DepthTarget:
    """What a depth head is trained on at the packet's own resolution.

    A weighted loss is `(weights * loss(predicted, values)).sum() / weights.sum()`.

    Attributes:
        values: (n, H, W) float32, in the unit of the depth dataset; 0 where `weights` is 0.
        weights: (n, H, W) float32, 0 where there is nothing to learn from.
    """

    values: NDArray[np.float32]
    weights: NDArray[np.float32]


def masked_depth(
    packet: Packet,
    variant: str = "tight",
    *,
    depth: str = "depth/relative",
    start: int | None = None,
    stop: int | None = None,
    weight: float = OBJECT_WEIGHT,
) -> DepthTarget:
    """Depth of the frames `start` to `stop` of one packet as a training target.

    Args:
        packet: an open packet.
        variant: as in `Depth`.
        depth: the depth dataset.
        start: first frame, the clip's first by default.
        stop: frame after the last, the clip's end by default.
        weight: of object pixels in "weighted", at least 0.

    Raises:
        PacketError: an unknown variant, or the packet has not the depth or mask it needs.
    """
    _check_variant(variant, weight)
    values = _required(packet, depth, "depth/")(start, stop).astype(np.float32)
    name = _variant_mask(variant)
    mask = None if name is None else _required(packet, name, "masks/")(start, stop)
    weights = pixel_weights(variant, values, mask, weight)
    return DepthTarget(np.where(weights > 0, values, np.float32(0)), weights)


def depth_variants(packet: Packet) -> tuple[str, ...]:
    """The variants of `masked_depth` that the packet's masks allow."""
    dilated = sorted(
        (name.removeprefix("masks/object_") for name in packet.modalities if name.startswith("masks/object_dilate")),
        key=lambda name: int(name.removeprefix("dilate")),
    )
    return ("full", "tight", *dilated, "weighted") if "masks/object" in packet else ("full",)


def _check_variant(variant: str, weight: float) -> None:
    if not _VARIANT.fullmatch(variant):
        raise PacketError(f"no depth variant '{variant}'; choose full, tight, dilate<R> or weighted")
    if not (np.isfinite(weight) and weight >= 0):
        raise PacketError(f"wanted an object weight of at least 0, got {weight}")


def _variant_mask(variant: str) -> str | None:
    if variant == "full":
        return None
    return f"masks/object_{variant}" if variant.startswith("dilate") else "masks/object"


def _required(packet: Packet, name: str, kind: str) -> Callable[[int | None, int | None], NDArray[Any]]:
    if name not in packet:
        present = [path for path in packet.modalities if path.startswith(kind)]
        raise PacketError(f"{packet.path.name} has no '{name}'; it has {present}; extract it with other settings")
    return lambda start, stop: packet.read(name, start, stop)


def _cell_matrix(pixels: int, cells: int) -> NDArray[np.float32]:
    """(cells, pixels): the share of each cell that each pixel covers."""
    edges = np.arange(cells + 1) * (pixels / cells)
    left = np.maximum(edges[:-1, None], np.arange(pixels))
    right = np.minimum(edges[1:, None], np.arange(pixels) + 1)
    return np.asarray(np.maximum(0, right - left) * (cells / pixels), np.float32)


CONDITIONS: dict[str, tuple[Target, ...]] = {
    "A": (),
    "B": (Depth(),),
    "C-tight": (Depth(variant="tight"),),
    "C-8": (Depth(variant="dilate8"),),
    "C-20": (Depth(variant="dilate20"),),
    "C-weighted": (Depth(variant="weighted"),),
    "D": (Tracks(),),
    "D-tokens": (TrackTokens(),),
    "E": (Depth(), Tracks()),
    "F": (Centroids(),),
    "G": (Shape(),),
    "M": (Masks(),),
}
"""The study's conditions: A has no auxiliary target, E has depth and tracks together."""
