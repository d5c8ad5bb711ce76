"""Which dataset of a packet becomes which feature of a LeRobot data set, and how its values are stored.

`pixels`, `action` and `state` take LeRobot's own names; `phase` is `subtask_index`, whose names LeRobot reads from
`meta/subtasks.parquet`. Every other dataset is `cuepack.` with its path, "/" as ".": by
LeRobot's rules a key that begins with `observation` or `action` is an input or output of a policy, and a cue made by a
model should not pass for an observation. Nothing loses a bit but video:

* numbers and flags: columns of float32, float64 or bool; what is constant over an episode is repeated in each row.
* masks: 1-bit PNG images, which LeRobot reads as 0.0 and 1.0; numbers of things: 8-bit ones, of which it reads number k
  as k / 255.
* depth: float32 TIFF images, which LeRobot reads as they are (a PNG of codes would need scale and offset beside it,
  and these differ between packets). NaN where the reading is missing.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from packers.schema import DatasetSpec, dataset_spec

PREFIX = "cuepack."
OWN_NAMES = {"action": "action", "state": "observation.state", "phase": "subtask_index"}

_OWN_TYPES = {"phase": "int64"}

LEROBOTS_OWN = ("ep_len", "ep_offset")
"""Datasets that LeRobot's episode table says already."""

DEFAULTS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""Columns of every LeRobot data set, each one number a row."""

DONE = "next.done"

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

Kind = Literal["video", "png", "mask", "depth", "numbers"]

_NAMES = {
    "centroids": ("x", "y", "z"),
    "centroids_sigma": ("x", "y", "z"),
    "centroids_base": ("x", "y", "z"),
    "centroids_base_sigma": ("x", "y", "z"),
    "object_pose_sigma": ("place", "turn"),
    "depth/stabilizer": ("scale", "shift"),
    "shape_descriptors": ("x", "y", "z", "e1", "e2", "e3", "e2/e1", "e3/e1", "depth_range", "visibility"),
}


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature.

    Attributes:
        key: LeRobot's name.
        dataset: the packet's.
        kind: how it is stored.
        dtype: numpy's name of the element type.
        shape: of one row as LeRobot states it: (1,) for a scalar, (H, W, C) for an image.
        names: of a vector's elements, None where unknown.
        per_frame: whether the packet has a row for each frame, else its one value is repeated.
        units, description: the dataset's own.
    """

    key: str
    dataset: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None
    per_frame: bool
    units: str
    description: str

    @property
    def is_image(self) -> bool:
        """Whether LeRobot counts it among the cameras."""
        return self.kind != "numbers"

    @property
    def has_stats(self) -> bool:
        """Whether it has statistics: point i of one episode is not point i of another, so tracks have none."""
        return not self.dataset.startswith("tracks/")


def feature_of(
    dataset: str, row: tuple[int, ...], attributes: Mapping[str, Any], camera: str, pixels: Literal["video", "png"]
) -> Feature:
    """The feature of `dataset`.

    Args:
        dataset: a path of the schema.
        row: shape of what belongs to one frame, () for a scalar.
        attributes: the dataset's own, of any of the packets.
        camera: name of the camera in LeRobot's sense.
        pixels: how frames are stored.
    """
    spec = dataset_spec(dataset)
    assert spec is not None
    kind = _kind(spec, pixels)
    names = attributes.get("names") or _NAMES.get(dataset)
    return Feature(
        key=_key(dataset, camera),
        dataset=dataset,
        kind=kind,
        dtype=_OWN_TYPES.get(dataset) or ("float32" if kind == "depth" else spec.dtype),
        shape=(row or (1,)) if kind == "numbers" else (*row[:2], 3 if dataset == "pixels" else 1),
        names=tuple(names) if names and kind == "numbers" else None,
        per_frame=spec.dims[0] == "T",
        units=str(attributes.get("units", spec.units)),
        description=str(attributes.get("description", spec.description)),
    )


def camera_name(camera: str) -> str:
    """A source's camera as the last part of a LeRobot key."""
    name = camera.removeprefix("observation.").removeprefix("images.")
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".") or "camera"


def is_per_frame(dataset: str) -> bool:
    """Whether the dataset has a row for each frame."""
    spec = dataset_spec(dataset)
    return spec is not None and spec.dims[0] == "T"


def described(features: Sequence[Feature], fps: float) -> dict[str, dict[str, Any]]:
    """`features` of `meta/info.json`, LeRobot's own columns at the end."""
    found = {feature.key: _described(feature, fps) for feature in features}
    found |= {DONE: {"dtype": "bool", "shape": [1], "names": None}}
    return found | {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in DEFAULTS.items()}


def data_schema(features: Sequence[Feature]) -> pa.Schema:
    """The schema of the data files; its metadata has the types as the `datasets` library writes them."""
    columns = [(feature.key, _arrow_type(feature)) for feature in features if feature.kind != "video"]
    columns += [(DONE, pa.bool_()), *((key, pa.type_for_alias(dtype)) for key, dtype in DEFAULTS.items())]
    types = {feature.key: _hub_type(feature) for feature in features if feature.kind != "video"}
    types |= {key: {"dtype": dtype, "_type": "Value"} for key, dtype in {DONE: "bool", **DEFAULTS}.items()}
    return pa.schema(columns, {"huggingface": json.dumps({"info": {"features": types}})})


def number_column(values: NDArray[Any], shape: tuple[int, ...]) -> pa.Array:
    """`values` (T, ...) as a column of rows of `shape`."""
    flat = np.ascontiguousarray(values).reshape(-1)
    column = pa.array(flat)
    if shape == (1,):
        return column
    if len(shape) == 1:
        return pa.FixedSizeListArray.from_arrays(column, shape[0])
    # The `datasets` library stores arrays of more dimensions as lists of lists.
    for size in reversed(shape):
        column = pa.ListArray.from_arrays(pa.array(np.arange(0, len(column) + 1, size, dtype=np.int32)), column)
    return column


def image_column(pictures: Sequence[bytes], ending: str) -> pa.Array:
    """Encoded images, one a row."""
    names = [f"frame-{frame:06d}.{ending}" for frame in range(len(pictures))]
    return pa.StructArray.from_arrays(
        [pa.array(pictures, pa.binary()), pa.array(names, pa.string())], fields=list(IMAGE_TYPE)
    )


def encode_picture(values: NDArray[Any], kind: Kind) -> bytes:
    """One image as bytes: RGB (H, W, 3) uint8, a mask (H, W) bool, or depth (H, W) float32."""
    data = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(values))
    if kind == "depth":
        # Tag 317, predictor 3: differences of floats, byte by byte; a sixth of the size, a tenth of the time.
        image.save(data, "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: 3})
    else:
        image.save(data, "PNG", compress_level=4)
    return data.getvalue()


def picture_ending(kind: Kind) -> str:
    """The ending of a file with such an image."""
    return "tiff" if kind == "depth" else "png"


def _kind(spec: DatasetSpec, pixels: Literal["video", "png"]) -> Kind:
    if spec.storage == "frames":
        return pixels
    if spec.storage == "maps":
        return "mask" if spec.dtype == "bool" else "png"
    return "depth" if spec.storage == "depth" else "numbers"


def _key(dataset: str, camera: str) -> str:
    if dataset == "pixels":
        return f"observation.images.{camera}"
    return OWN_NAMES.get(dataset) or PREFIX + dataset.replace("/", ".")


def _described(feature: Feature, fps: float) -> dict[str, Any]:
    if not feature.is_image:
        names = None if feature.names is None else list(feature.names)
        return {"dtype": feature.dtype, "shape": list(feature.shape), "names": names}
    height, width, channels = feature.shape
    found: dict[str, Any] = {
        "dtype": "video" if feature.kind == "video" else "image",
        "shape": list(feature.shape),
        "names": ["height", "width", "channels"],
    }
    if feature.kind == "video":
        found["info"] = {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": channels,
            "has_audio": False,
        }
    if feature.kind == "depth":
        # Without a unit LeRobot leaves the values as they are, which is right for relative depth.
        unit = {"depth_unit": "m"} if feature.units == "m" else {}
        found["info"] = {"is_depth_map": True, **unit}
    return found


def _arrow_type(feature: Feature) -> pa.DataType:
    if feature.is_image:
        return IMAGE_TYPE
    element = pa.from_numpy_dtype(np.dtype(feature.dtype))
    if feature.shape == (1,):
        return element
    if len(feature.shape) == 1:
        return pa.list_(element, feature.shape[0])
    for _ in feature.shape:
        element = pa.list_(element)
    return element


def _hub_type(feature: Feature) -> dict[str, Any]:
    if feature.is_image:
        return {"_type": "Image"}
    element = {"dtype": feature.dtype, "_type": "Value"}
    if feature.shape == (1,):
        return element
    if len(feature.shape) == 1:
        return {"feature": element, "length": feature.shape[0], "_type": "List"}
    return {"shape": list(feature.shape), "dtype": feature.dtype, "_type": f"Array{len(feature.shape)}D"}
