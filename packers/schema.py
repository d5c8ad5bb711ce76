"""What a packet holds, as a literal table; FORMAT.md says the same in prose for people without this code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.phases import PHASES

SCHEMA = "cuepack/4"
"""The version that is written."""

READABLE = ("cuepack/1", "cuepack/2", "cuepack/3", SCHEMA)
"""The versions that are read. `cuepack/1` kept its texts in HDF5's global heap, which has no checksum: one flipped bit
there let HDF5 loop for ever, so `cuepack/2` writes texts of fixed length; `cuepack/3` adds phases and
motion, `cuepack/4` the hand's pose and what it calibrates."""

USER_BLOCK = 512
"""Bytes before the HDF5 part: `MAGIC`, the sha256 of all bytes after the block as 64 hexadecimal digits, zeros."""

MAGIC = b"CUEPACK1"

EPISODE_ID = re.compile(r"[A-Za-z0-9_.-]+")

SHA256 = re.compile(r"[0-9a-f]{64}")

LARGEST_VALUE = 1e30
"""Of every array and code, in its unit: float32 ends at 3e38, and sums of values must not overflow."""

FARTHEST_PX = 1e6
"""Of a track from its frame; drawing counts sixteenths of pixels in 32 bits."""

LARGEST_FOCAL_PX = 1e7
"""A hundredth of an arc second for a pixel: a telescope's camera."""

FARTHEST_M = 1e3
"""Of a pose or point from the robot's base, metres: no arm and no camera over its table is farther away."""

LATEST_S = 1e8
"""Seconds from an episode's start, three years: later time stamps are a clock's date, or made to overflow."""

Storage = Literal["frames", "maps", "depth", "rows", "plain"]
"""How an array is stored; `packers/writer.py` has the chunks and filters of each, FORMAT.md says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One array as it goes into a packet and comes out of one: in its storage type, with its attributes.

    Attributes:
        data: the stored array; integer codes where the attributes have `scale` and `offset`.
        attributes: str, int, float, bool, or lists of one of these.
    """

    data: NDArray[Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """What the schema asks of one dataset.

    Attributes:
        path: its path in the file; `<R>` stands for a radius in pixels.
        dtype: the type it is written with.
        dims: names (T frames, H x W packet size, N tracks of one set, A and S as the source has them) or numbers.
        units, description: the default attributes.
        storage: how it is stored.
        required: every packet has it.
        also: other types that a reader meets.
        valid: the bool [T] dataset that is False where this one's rows are NaN.
        minimum, maximum: bounds of its finite values.
        positive: whether values above 0 are asked for, with the code `fill` for no reading.
        needs: datasets that must be there with it.
        attributes: names that must be there beside `units`, `description` and `stage_key`.
    """

    path: str
    dtype: str
    dims: tuple[str | int, ...]
    units: str
    description: str
    storage: Storage = "rows"
    required: bool = False
    also: tuple[str, ...] = ()
    valid: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    positive: bool = False
    needs: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()

    @property
    def names_values(self) -> bool:
        """Whether the attribute `names` names values, as it does where it is asked for; columns elsewhere."""
        return "names" in self.attributes


_INVERSE = "affine-invariant inverse depth on the model's own scale, larger is nearer"


_TRACK_FIELDS: tuple[tuple[str, str, tuple[str | int, ...], str, str, tuple[float | None, float | None]], ...] = (
    ("xy", "float32", ("T", "N", 2), "px", "position (x, y) in every frame", (-FARTHEST_PX, FARTHEST_PX)),
    ("visibility", "bool", ("T", "N"), "1", "whether the point is seen", (None, None)),
    ("confidence", "float32", ("T", "N"), "probability", "how sure the position is, before any threshold", (0.0, 1.0)),
    ("visibility_score", "float32", ("T", "N"), "probability", "that it is seen, before any threshold", (0.0, 1.0)),
    # Frames count from 0; the first pixel, whose centre is at 0, begins at -0.5.
    ("queries", "float32", ("N", 3), "frame, px, px", "(frame, x, y) where the point was dropped", (-0.5, FARTHEST_PX)),
    ("on_object", "bool", ("N",), "1", "whether the query lies on the object mask", (None, None)),
)
"""Name, dtype, dimensions, units, description and bounds of each array of a track set."""


TRACK_SETS = ("grid", "foreground", "robot")
"""All that a packet may hold."""


def _track_set(name: str, description: str) -> tuple[DatasetSpec, ...]:
    root = f"tracks/{name}"
    names = [field_name for field_name, *_ in _TRACK_FIELDS]
    return tuple(
        DatasetSpec(
            path=f"{root}/{field_name}",
            dtype=dtype,
            dims=dims,
            units=units,
            description=f"{description}: {text}",
            minimum=least,
            maximum=most,
            # All of a set or nothing: whoever finds one array may read the others without asking.
            needs=tuple(f"{root}/{other}" for other in names if other != field_name),
        )
        for field_name, dtype, dims, units, text, (least, most) in _TRACK_FIELDS
    )


def _motion(name: str, of: str) -> tuple[DatasetSpec, DatasetSpec]:
    path = f"motion/{name}"
    return (
        DatasetSpec(
            path,
            "float32",
            ("T",),
            "frame widths per second",
            f"speed of {of} in the image; NaN where {path}_valid is false",
            valid=f"{path}_valid",
            minimum=0.0,
        ),
        DatasetSpec(f"{path}_valid", "bool", ("T",), "1", f"whether the speed of {of} is known", needs=(path,)),
    )


def _poses(name: str, text: str, *needs: str) -> tuple[DatasetSpec, DatasetSpec]:
    """Rigid transforms [T,4,4] in metres and whether each is known."""
    return (
        DatasetSpec(
            name,
            "float32",
            ("T", 4, 4),
            "m",
            text,
            valid=f"{name}_valid",
            minimum=-FARTHEST_M,
            maximum=FARTHEST_M,
            needs=needs,
        ),
        DatasetSpec(f"{name}_valid", "bool", ("T",), "1", f"whether {name} is known", needs=(name,)),
    )


_SIGMAS = ("position_sigma_m", "rotation_sigma_deg", "delay_s")


def _pose(name: str, text: str, *attributes: str) -> DatasetSpec:
    """One rigid transform [4,4] in metres."""
    return DatasetSpec(
        name,
        "float32",
        (4, 4),
        "m",
        text,
        storage="plain",
        minimum=-FARTHEST_M,
        maximum=FARTHEST_M,
        needs=("hand_pose",),
        attributes=attributes,
    )


def _points(name: str, count: str, text: str, *needs: str) -> tuple[DatasetSpec, DatasetSpec]:
    """Points [count,3] in metres and one standard deviation of each."""
    return (
        DatasetSpec(
            name,
            "float32",
            (count, 3),
            "m",
            text,
            minimum=-FARTHEST_M,
            maximum=FARTHEST_M,
            needs=(f"{name}_sigma", *needs),
        ),
        DatasetSpec(
            f"{name}_sigma",
            "float32",
            (count, 3),
            "m",
            f"one standard deviation of {name}",
            minimum=0.0,
            maximum=FARTHEST_M,
            needs=(name,),
        ),
    )


_SPECS = (
    DatasetSpec("pixels", "uint8", ("T", "H", "W", 3), "8-bit sRGB", "frames, RGB", storage="frames", required=True),
    DatasetSpec(
        "timestamp",
        "float64",
        ("T",),
        "s",
        "time since the episode's start",
        required=True,
        minimum=0.0,
        maximum=LATEST_S,
    ),
    DatasetSpec(
        "intrinsics",
        "float32",
        (3, 3),
        "px",
        "pinhole matrix K at packet resolution, centre of the top-left pixel at (0, 0)",
        storage="plain",
        required=True,
        minimum=-LARGEST_FOCAL_PX,
        maximum=LARGEST_FOCAL_PX,
        attributes=("source", "sigma"),
    ),
    _pose(
        "extrinsics",
        "maps points of the camera's frame to the robot's base frame; a camera that stands still",
        *_SIGMAS,
    ),
    _pose("hand_from_camera", "maps points of the camera's frame to the hand's; a camera on the wrist", *_SIGMAS),
    DatasetSpec("ep_len", "int32", (1,), "frames", "T, for readers of flat files", storage="plain", required=True),
    DatasetSpec("ep_offset", "int64", (1,), "frames", "0, for readers of flat files", storage="plain", required=True),
    DatasetSpec(
        "action",
        "float32",
        ("T", "A"),
        "as the source gives it",
        "action commanded at frame t; NaN where action_valid is false",
        valid="action_valid",
    ),
    DatasetSpec(
        "action_valid", "bool", ("T",), "1", "whether the source has an action for the frame", needs=("action",)
    ),
    DatasetSpec("state", "float32", ("T", "S"), "as the source gives it", "proprioception"),
    *_poses("hand_pose", "maps points of the hand's frame to the robot's base frame; NaN where it was not recorded"),
    *_poses("camera_pose", "maps points of the camera's frame to the robot's base frame", "hand_from_camera"),
    *_points("scene_points", "P", "points of the still scene, robot's base frame", "hand_from_camera"),
    *_points("object_points", "M", "points of the held object, object frame", "object_pose"),
    *_poses("object_pose", "maps points of the object's frame to the robot's base frame", "object_pose_sigma"),
    DatasetSpec(
        "object_pose_sigma",
        "float32",
        ("T", 2),
        "m, degrees",
        "one standard deviation of the place and of the turn of object_pose",
        valid="object_pose_valid",
        minimum=0.0,
        needs=("object_pose",),
    ),
    DatasetSpec(
        "centroids_base",
        "float32",
        ("T", 3),
        "m",
        "place of the object in the robot's base frame",
        valid="centroids_base_valid",
        minimum=-FARTHEST_M,
        maximum=FARTHEST_M,
        needs=("centroids_base_sigma", "extrinsics"),
        attributes=("made_from",),
    ),
    DatasetSpec(
        "centroids_base_valid", "bool", ("T",), "1", "whether the object's place is known", needs=("centroids_base",)
    ),
    DatasetSpec(
        "centroids_base_sigma",
        "float32",
        ("T", 3),
        "m",
        "one standard deviation of centroids_base",
        valid="centroids_base_valid",
        minimum=0.0,
        needs=("centroids_base",),
    ),
    DatasetSpec("gripper", "float32", ("T",), "1", "gripper opening, 1 open, 0 closed", minimum=0.0, maximum=1.0),
    DatasetSpec(
        "contact",
        "float32",
        ("T",),
        "probability",
        "that the robot touches the manipulated object",
        minimum=0.0,
        maximum=1.0,
        needs=("held",),
        attributes=("contact_onset",),
    ),
    DatasetSpec("held", "bool", ("T",), "1", "whether the object is grasped", needs=("contact",)),
    DatasetSpec(
        "phase",
        "uint8",
        ("T",),
        "code",
        "what the robot is doing; the attribute phases names the codes, 0 is not sure",
        maximum=len(PHASES) - 1,
        attributes=("phases", "acts_on", "active_span"),
    ),
    *_motion("robot", "the robot"),
    *_motion("object", "the manipulated object"),
    DatasetSpec(
        "masks/object", "bool", ("T", "H", "W"), "1", "the manipulated object", storage="maps", needs=("masks/score",)
    ),
    DatasetSpec(
        "masks/object_dilate<R>",
        "bool",
        ("T", "H", "W"),
        "1",
        "masks/object dilated by <R> px",
        storage="maps",
        needs=("masks/object",),
    ),
    DatasetSpec(
        "masks/score",
        "float32",
        ("T",),
        "1",
        "the detector's confidence",
        minimum=0.0,
        maximum=1.0,
        needs=("masks/object",),
    ),
    DatasetSpec("masks/robot", "bool", ("T", "H", "W"), "1", "the arm and gripper", storage="maps"),
    DatasetSpec(
        "masks/things",
        "uint8",
        ("T", "H", "W"),
        "number",
        "other things that could be handled, each with a number, 0 none; the attribute names names the numbers",
        storage="maps",
        attributes=("names",),
    ),
    DatasetSpec(
        "depth/relative",
        "uint16",
        ("T", "H", "W"),
        "relative inverse depth",
        "depth as the model gives it",
        storage="depth",
        also=("float16", "float32"),
        attributes=("convention",),
    ),
    DatasetSpec(
        "depth/stabilized",
        "uint16",
        ("T", "H", "W"),
        "relative inverse depth",
        "depth/relative after background anchoring",
        storage="depth",
        also=("float16", "float32"),
        needs=("depth/relative", "depth/stabilizer"),
        attributes=("convention",),
    ),
    DatasetSpec(
        "depth/stabilizer",
        "float32",
        ("T", 2),
        "1, relative inverse depth",
        "(scale, shift): stabilized = scale * relative + shift",
        needs=("depth/relative", "depth/stabilized"),
    ),
    DatasetSpec(
        "depth/metric",
        "uint16",
        ("T", "H", "W"),
        "m",
        "depth along z",
        storage="depth",
        also=("float32",),
        positive=True,
        attributes=("fill",),
    ),
    DatasetSpec(
        "depth/aligned",
        "uint16",
        ("T", "H", "W"),
        "m",
        "relative depth in metres along z, by one scale and shift for the clip",
        storage="depth",
        also=("float32",),
        positive=True,
        needs=("depth/relative",),
        attributes=("fill", "fit_scale", "fit_shift", "sigma"),
    ),
    *_track_set("grid", "uniform grid on frame 0"),
    *_track_set("foreground", "points that favour the object"),
    *_track_set("robot", "points on the robot"),
    DatasetSpec(
        "centroids",
        "float32",
        ("T", 3),
        "m",
        "mean of the back-projected masked depth, camera frame, x right, y down, z forward",
        valid="centroids_valid",
        needs=("centroids_sigma", "masks/object"),
    ),
    DatasetSpec("centroids_valid", "bool", ("T",), "1", "whether the object has a centroid", needs=("centroids",)),
    DatasetSpec(
        "centroids_sigma",
        "float32",
        ("T", 3),
        "m",
        "one standard deviation of centroids",
        valid="centroids_valid",
        minimum=0.0,
        needs=("centroids",),
    ),
    DatasetSpec(
        "shape_descriptors",
        "float32",
        ("T", 10),
        "m, 1",
        "centroid x, y, z; PCA extents e1 >= e2 >= e3; e2/e1, e3/e1; depth range; visible share of the object",
        valid="shape_descriptors_valid",
        needs=("masks/object",),
    ),
    DatasetSpec(
        "shape_descriptors_valid",
        "bool",
        ("T",),
        "1",
        "whether the frame has shape descriptors",
        needs=("shape_descriptors",),
    ),
)

DATASETS: dict[str, DatasetSpec] = {spec.path: spec for spec in _SPECS}
"""Every dataset of the schema. Others are stored under `extra/`, and the schema promises nothing about them."""

OBSERVED = (
    "hand_pose",
    "extrinsics",
    "hand_from_camera",
    "camera_pose",
    "scene_points",
    "object_points",
    "object_pose",
    "centroids_base",
    "depth/aligned",
)
"""Datasets that a clip has where it shows enough to tell them; their `_valid` and `_sigma` go with them. Packets of one
run differ in them, as they do not in what a model makes."""

DEFAULT_CONVENTION = {
    "depth/relative": _INVERSE,
    "depth/stabilized": _INVERSE,
    "depth/metric": "z along the optical axis, metres",
    "depth/aligned": "z along the optical axis, metres",
}

TEXT_ATTRIBUTES = ("schema", "episode_id", "language_instruction")
"""Root attributes that are plain text; every other root attribute that is a string is JSON."""

JSON_ATTRIBUTES: dict[str, type] = {
    "source": dict,
    "config": dict,
    "stages": dict,
    "scores": dict,
    "quality": dict,
    "tags": list,
    "modalities": list,
}
"""JSON root attributes of a packet and what each parses to."""

ROOT_ATTRIBUTES = (*TEXT_ATTRIBUTES, "fps", *JSON_ATTRIBUTES)
"""Root attributes that every packet has."""

SOURCE_RECORD = ("dataset", "kind", "path", "camera", "frame_ids", "frame_sha256", "resize")
"""What the `source` attribute holds, beside `episode_index` or `key`."""

STAGE_RECORD = ("key", "backend", "weights", "device", "precision")
"""What the `stages` attribute holds for each stage."""

INTRINSICS_SOURCES = ("calibrated", "camera-model", "estimated", "assumed")

_DILATED = re.compile(r"masks/object_dilate([1-9][0-9]{0,3})")


def dilation_radius(name: str) -> int | None:
    """The radius in pixels that a dataset's name states: 8 for `masks/object_dilate8`, None for other names."""
    found = _DILATED.fullmatch(name)
    return int(found[1]) if found else None


def dataset_spec(name: str) -> DatasetSpec | None:
    """What the schema says of the dataset `name`, None where it does not know it (`extra/` included)."""
    return DATASETS["masks/object_dilate<R>" if dilation_radius(name) else name] if _known(name) else None


def is_observed(name: str) -> bool:
    """Whether packets of one run may differ in having this dataset."""
    return name.removesuffix("_valid").removesuffix("_sigma") in OBSERVED


def is_extra(name: str) -> bool:
    """Whether `name` is under `extra/`, where the schema promises nothing."""
    return name.startswith("extra/") and len(name) > len("extra/")


def dims_text(dims: Sequence[str | int]) -> str:
    """`("T", 3)` as "[T,3]"."""
    return f"[{','.join(str(dim) for dim in dims)}]"


def shape_fault(name: str, spec: DatasetSpec, shape: Sequence[int], sizes: dict[str, int]) -> str | None:
    """What is wrong with the shape of dataset `name`, None where it fits.

    Args:
        name: the dataset's path; N is counted for each track set apart.
        spec: what the schema asks.
        shape: what came.
        sizes: dimension -> size met so far; completed with what this shape tells.
    """
    expected_shape = dims_text(spec.dims)
    if len(shape) != len(spec.dims):
        return f"wanted shape {expected_shape}, got {tuple(shape)}"
    for dim, size in zip(spec.dims, shape, strict=True):
        if isinstance(dim, int):
            expected_size: int | None = dim
        else:
            scope = f"N of {name.rsplit('/', 1)[0]}" if dim == "N" else dim
            # An empty array must not set the size that the others are then blamed for.
            expected_size = sizes.setdefault(scope, size) if size > 0 else None
        if size != expected_size:
            stated = "at least 1" if expected_size is None else f"{dim} = {expected_size}"
            return f"wanted shape {expected_shape} with {stated}, got {tuple(shape)}"
    return None


def value_faults(spec: DatasetSpec, values: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """What values of a small array break the schema whatever the other arrays hold, and where: (reason, bool)."""
    if values.dtype.kind != "f":
        return
    if spec.valid is None:
        yield "wanted finite values", ~np.isfinite(values)
    else:
        yield "wanted finite values, or NaN where there is none", np.isinf(values)
    yield f"beyond {LARGEST_VALUE:g}", np.isfinite(values) & (np.abs(values) > LARGEST_VALUE)
    if spec.minimum is not None:
        yield f"below {spec.minimum:g}", values < spec.minimum
    if spec.maximum is not None:
        yield f"above {spec.maximum:g}", values > spec.maximum


def _known(name: str) -> bool:
    return dilation_radius(name) is not None or (name in DATASETS and "<" not in name)
