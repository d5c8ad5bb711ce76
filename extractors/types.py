"""The values that pass between a source, the extractors and the packer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from extractors.errors import GeometryError, ShapeError

if TYPE_CHECKING:
    import torch

Size = tuple[int, int]
"""(height, width) in pixels."""

IntrinsicsSource = Literal["calibrated", "camera-model", "estimated", "assumed"]
DepthKind = Literal["relative", "metric"]


class Frames(Protocol):
    """T images of one size, RGB unless said otherwise; decoded again by each iteration where they are lazy.

    A (T, H, W, 3) uint8 array is one; so is a source's lazy sequence. Extractors iterate, once where they can, and
    keep only what they have made smaller: a clip may be 2,000 frames of 1280 x 720.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, 3), or (T, H, W) for depth and masks."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class Backend(Protocol):
    """What every model says about where and how it computes."""

    @property
    def device(self) -> torch.device:
        """Where it runs; models of one CUDA device take turns (flows/models/device_slot.py)."""
        ...

    @property
    def precision(self) -> str:
        """Arithmetic of the network: "fp32", "fp16" or "bf16"."""
        ...


class OnCpu:
    """The same of what has no network, and runs on the CPU."""

    precision = "fp32"

    @property
    def device(self) -> torch.device:
        """The CPU."""
        import torch

        return torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Camera:
    """Pinhole intrinsics for one frame size.

    Pixel coordinates are (x, y) with the centre of the top-left pixel at (0, 0), so the image spans
    -0.5 .. width - 0.5.

    Attributes:
        fx, fy: focal lengths in pixels of this frame size.
        cx, cy: principal point in pixels of this frame size.
        width, height: the frame size, pixels.
        source: how the numbers are known.
        sigma: relative standard deviation of the focal length (0.1 is 10 %).
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    source: IntrinsicsSource = "assumed"
    sigma: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.fx, self.fy, self.cx, self.cy, self.sigma)
        if not all(np.isfinite(numbers)) or min(self.fx, self.fy) <= 0 or min(self.width, self.height) < 1:
            raise GeometryError(
                f"a camera needs positive finite focal lengths and a frame size, got fx={self.fx} fy={self.fy} "
                f"cx={self.cx} cy={self.cy} for {self.width}x{self.height}; check the intrinsics given"
            )

    @property
    def K(self) -> NDArray[np.float64]:  # noqa: N802 - the field's name for the 3x3 matrix
        """(3, 3) float64 intrinsic matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def resized(self, width: int, height: int) -> Camera:
        """The same camera after its frames were resized, each axis by its own factor."""
        sx, sy = width / self.width, height / self.height
        return Camera(
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
            width=width,
            height=height,
            source=self.source,
            sigma=self.sigma,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """One source clip seen by one camera, frames still undecoded.

    Row t of every array belongs to frame t. What the source does not have is None.

    Attributes:
        episode_id: `[A-Za-z0-9_.-]+`, unique in the source; names the packet.
        episode_index: LeRobot's `episode_index`, else the position in sorted order.
        camera_name: the view that `pixels` shows, as the source names it.
        language_instruction: the instruction, "" where the source has none.
        fps: frames per second.
        pixels: T lazy RGB frames, (H, W, 3) uint8 at source resolution.
        timestamp: (T,) float64, seconds from the episode's start.
        action: (T, A) float32, commanded at frame t; rows without a command are NaN.
        action_valid: (T,) bool, False where `action` has no command (the last frame).
        state: (T, S) float32, proprioception untouched.
        state_names: names of the S numbers, () where unknown.
        gripper: (T,) float32 opening, 1 open, 0 closed.
        camera: intrinsics at source resolution, where the source or a table knows them.
        recorded_depth: T lazy (H, W) float32 maps, metres along z, 0 where the reading is missing.
        recorded_masks: T lazy (H, W) bool maps of the manipulated object.
        recorded_robot: T lazy (H, W) bool maps of the robot.
        camera_moves: as measured on the clip (`extractors.camera_motion`), None where that was not done or shows too
            little; segmenters that need a still camera ask for it.
        provenance: what the `source` root attribute records: dataset, kind, path, key, camera, frame_ids, and what
            was done to align rows. JSON types only.
        tags: what the reader noticed: "no-language", "nan-action", "one-frame", ...
    """

    episode_id: str
    episode_index: int
    camera_name: str
    language_instruction: str
    fps: float
    pixels: Frames
    timestamp: NDArray[np.float64]
    action: NDArray[np.float32] | None = None
    action_valid: NDArray[np.bool_] | None = None
    state: NDArray[np.float32] | None = None
    state_names: tuple[str, ...] = ()
    gripper: NDArray[np.float32] | None = None
    camera: Camera | None = None
    recorded_depth: Frames | None = None
    recorded_masks: Frames | None = None
    recorded_robot: Frames | None = None
    camera_moves: bool | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    @property
    def n_frames(self) -> int:
        """T, the number of frames."""
        return len(self.pixels)

    @property
    def size(self) -> Size:
        """(height, width) of the source frames."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])


@dataclass(frozen=True, slots=True, eq=False)
class Things:
    """Things beside the manipulated one: distractors, receptacles.

    Attributes:
        labels: (T, H, W) uint8, number of the thing in each pixel, 0 none.
        names: of the numbers, counted from 0, which has none: "" where nothing names the thing.
    """

    labels: NDArray[np.uint8]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """Where the manipulated object is, frame by frame.

    Attributes:
        object: (T, H, W) bool, pixels of the manipulated object, at the size that was asked for.
        score: (T,) float32 in [0, 1], the detector's confidence, 0 where nothing was found.
        robot: (T, H, W) bool, the arm and gripper, or None where the backend does not find them.
        things: what else could be handled, or None where the backend does not find it.
        report: what made the choice: prompts, candidates, scores. JSON types only.
    """

    object: NDArray[np.bool_]
    score: NDArray[np.float32]
    robot: NDArray[np.bool_] | None = None
    things: Things | None = None
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Depth:
    """Depth of every pixel.

    Attributes:
        values: (T, H, W) float32, at the size that was asked for. `relative`: affine-invariant inverse depth on the
            model's own scale, larger is nearer. `metric`: metres along the optical axis, 0 without a
            reading.
        kind: which of the two it is.
        report: windows, scale and shift, precision. JSON types only.
    """

    values: NDArray[np.float32]
    kind: DepthKind
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """N points followed through T frames.

    Attributes:
        xy: (T, N, 2) float32, pixels of the tracked frames, x right, y down.
        visibility: (T, N) bool, `visibility_score` x `confidence` above the tracker's threshold.
        confidence: (T, N) float32 in [0, 1], how sure the tracker is of the position, before any threshold.
        visibility_score: (T, N) float32 in [0, 1], probability that the point is seen, before any threshold.
        queries: (N, 3) float32, (frame, x, y) where each point was dropped.
    """

    xy: NDArray[np.float32]
    visibility: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    visibility_score: NDArray[np.float32]
    queries: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class SceneTracks:
    """Points of the object and of the rest of the scene, as the cues that need no model take them.

    Attributes:
        xy: (T, N, 2) pixels of frames `width` wide.
        visibility: (T, N) bool.
        on_object: (N,) bool, the point was posed on the object.
        width: of the frames, pixels.
    """

    xy: NDArray[np.floating]
    visibility: NDArray[np.bool_]
    on_object: NDArray[np.bool_]
    width: int

    def __post_init__(self) -> None:
        shape = np.shape(self.xy)
        xy_fits = len(shape) == 3 and shape[2] == 2 and self.width > 0
        if not xy_fits or np.shape(self.visibility) != shape[:2] or np.shape(self.on_object) != shape[1:2]:
            raise ShapeError(
                f"wanted tracks (T, N, 2), visibility (T, N), on_object (N,) and a width, got {shape}, "
                f"{np.shape(self.visibility)}, {np.shape(self.on_object)} and {self.width}"
            )

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(T, N) bool, visible at a finite place."""
        return np.asarray(self.visibility & np.isfinite(self.xy).all(-1), np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Centroids:
    """Where the object is in space.

    Attributes:
        xyz: (T, 3) float32, camera frame, x right, y down, z forward; NaN where `valid` is False.
        valid: (T,) bool.
        sigma: (T, 3) float32, one standard deviation, in the unit of `xyz`; NaN where `valid` is False.
        unit: "m" with metric depth, "relative" else.
        report: method, what was assumed, and the one mapping from inverse depth. JSON types only.
    """

    xyz: NDArray[np.float32]
    valid: NDArray[np.bool_]
    sigma: NDArray[np.float32]
    unit: Literal["m", "relative"]
    report: Mapping[str, Any] = field(default_factory=dict)


DESCRIPTOR_NAMES = ("x", "y", "z", "e1", "e2", "e3", "e2_e1", "e3_e1", "depth_range", "visibility")
"""Columns of `ShapeDescriptors.values`."""


@dataclass(frozen=True, slots=True, eq=False)
class ShapeDescriptors:
    """Ten numbers a frame about the object's visible surface.

    Attributes:
        values: (T, 10) float32, columns `DESCRIPTOR_NAMES`: centroid x, y, z; extents e1 >= e2 >= e3; ratios e2/e1,
            e3/e1; depth range; visibility. NaN where `valid` is False.
        valid: (T,) bool.
        unit: that of the lengths.
    """

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    unit: Literal["m", "relative"]


@dataclass(frozen=True, slots=True, eq=False)
class Contact:
    """When the robot touches the manipulated object.

    Attributes:
        probability: (T,) float32 in [0, 1], of touch: a grasp or a push.
        onset: first frame above 0.5, -1 if there is none.
        held: (T,) bool, the object is grasped.
        report: cues that were there, levels and thresholds used. JSON types only.
    """

    probability: NDArray[np.float32]
    onset: int
    held: NDArray[np.bool_]
    report: Mapping[str, Any] = field(default_factory=dict)


def check_pixels(pixels: Frames) -> tuple[int, int, int]:
    """(T, H, W) of RGB frames.

    Raises:
        ShapeError: not (T, H, W, 3) with at least one frame and pixel.
    """
    shape = tuple(pixels.shape)
    if len(shape) != 4 or shape[-1] != 3 or min(shape) < 1 or len(pixels) != shape[0]:
        raise ShapeError(f"pixels must be (T, H, W, 3) RGB with at least one frame and pixel, got {shape}")
    return int(shape[0]), int(shape[1]), int(shape[2])
