"""Every rule of the schema checked on one packet; what is wrong becomes findings, whatever the file holds.

HDF5 works in a process of its own (`packers.examiner`), which may end on a file made to do harm. Arrays are read in
blocks, so that a packet of any length is checked in little memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from extractors.errors import PacketError
from packers.admission import check_digest, check_head
from packers.examiner import examine
from packers.finding import Finding
from packers.form import Form, FormError, survey
from packers.reader import DAMAGE, open_hdf5, plain_value
from packers.records import parse_root, record_faults
from packers.schema import (
    DATASETS,
    INTRINSICS_SOURCES,
    LARGEST_VALUE,
    SCHEMA,
    TRACK_SETS,
    Dataset,
    DatasetSpec,
    dataset_spec,
    dilation_radius,
    is_extra,
    shape_fault,
    value_faults,
)
from packers.writer import decode

ROOT = "/"
"""Stands in a finding's `dataset` for the root attributes."""

LARGEST_ROWS = 2**29
"""Bytes of one array that readers take whole: tracks of 400 points over 160,000 frames."""

READ_BLOCK_BYTES = 2**24

ROTATION_TOLERANCE = 1e-3
"""float32 leaves 1e-6; what a source states with three digits leaves 1e-3."""

RATIO_TOLERANCE = 1e-4
"""float32 carries seven digits; ratios of two such numbers are compared with four."""


def validate_packet(path: Path | str) -> list[Finding]:
    """What breaks the schema in the packet `path`, [] for a good one. No file makes it raise.

    A file whose bytes do not have the sha256 that it states is examined all the same, to name what is damaged.
    """
    path = Path(path)
    findings = []
    try:
        check_head(path)
        try:
            check_digest(path)
        except PacketError as error:
            findings.append(Finding(str(path), None, None, _without_path(error, path)))
        findings += [Finding(str(path), *row) for row in examine("validate", path)]
    except PacketError as error:
        findings.append(Finding(str(path), None, None, _without_path(error, path)))
    return findings


def _without_path(error: PacketError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def examine_packet(path: Path) -> list[Finding]:
    """Findings about the HDF5 part, made in this process: for `packers.examination`, which may end by it."""
    return _examined(path, (_check_attributes, _check_tree, _check_values, *_RULES)).findings


def broken_promises(path: Path) -> list[Finding]:
    """Those findings for which readers of packets would have to be on their guard: types, shapes, what is missing."""
    return _examined(path, (_check_attributes, _check_tree)).broken


def form_faults(path: Path) -> list[Finding]:
    """What no file of ours holds, whatever its arrays are called (work files of stages have names of their own)."""
    return _examined(path, ()).broken


def _examined(path: Path, steps: Sequence[Callable[[_Examination], None]]) -> _Examination:
    packet = _Examination(path)
    try:
        with open_hdf5(path) as file:
            packet.file = file
            packet.form = survey(file, path.stat().st_size)
            for name, reason in packet.form.faults:
                packet.add(name, reason, breaks=True)
            for step in steps:
                packet.run(step)
    except FormError as error:
        packet.add(None, f"no form that a packet has: {error}", breaks=True)
    except DAMAGE as error:
        packet.add(None, f"damaged: HDF5 cannot open it ({_reason(error)})", breaks=True)
    return packet


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class _Examination:
    """An open packet under examination: what it holds so far, and what was found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: h5py.File
        self.form = Form()
        self.findings: list[Finding] = []
        self.broken: list[Finding] = []
        self.attributes: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}
        self.sound: dict[str, h5py.Dataset] = {}
        """Datasets of the right type and shape, all of whose rows can be read."""
        self.codes: dict[str, dict[str, Any]] = {}

    def add(self, dataset: str | None, reason: str, frame: int | None = None, *, breaks: bool = False) -> None:
        """Records a finding; `breaks`: of what readers rely on."""
        self.findings.append(Finding(str(self.path), dataset, frame, reason))
        if breaks:
            self.broken.append(self.findings[-1])

    def run(self, step: Callable[[_Examination], None]) -> None:
        """One step, whose own failure on a hostile file is a finding too."""
        try:
            step(self)
        except DAMAGE as error:
            name = step.__name__.removeprefix("_check_").replace("_", " ")
            self.add(None, f"damaged: the check of {name} could not be done ({_reason(error)})", breaks=True)

    def has(self, *names: str) -> bool:
        """Whether all these can be relied on."""
        return all(name in self.sound for name in names)

    def frames(self, name: str) -> Iterator[NDArray[Any]]:
        """Row after row of a dataset, physical values."""
        dataset, code = self.sound[name], self.codes.get(name, {})
        for row in range(dataset.shape[0]):
            yield decode(Dataset(np.asarray(dataset[row]), code))

    def rows(self, name: str) -> NDArray[Any]:
        """A whole dataset; for those that grow with T alone."""
        return np.asarray(self.sound[name][()])

    def bad_rows(self, name: str, bad: NDArray[np.bool_], reason: str) -> None:
        """A finding at the first frame where `bad` (T, ...) is true, if it is anywhere."""
        frames = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
        if len(frames):
            more = f" (in {len(frames)} frames)" if len(frames) > 1 else ""
            self.add(name, reason + more, int(frames[0]))


# --- root attributes ---------------------------------------------------------------------------------------------


def _check_attributes(packet: _Examination) -> None:
    for name in packet.file.attrs:
        try:
            packet.attributes[name] = _parsed(packet, name, plain_value(packet.file.attrs[name]))
        except DAMAGE as error:
            packet.add(ROOT, f"root attribute '{name}': {_reason(error)}", breaks=True)
    unparsed = set(packet.file.attrs) - set(packet.attributes)
    for reason, frame in record_faults(packet.attributes, _length(packet)):
        if not any(reason == f"root attribute '{name}' is missing" for name in unparsed):
            packet.add(ROOT, reason, frame, breaks=True)
    episode_id = packet.attributes.get("episode_id")
    if isinstance(episode_id, str) and packet.path.name != f"{episode_id}.h5":
        packet.add(ROOT, f"episode_id is '{episode_id}', the file is named {packet.path.name}")
    if packet.attributes.get("schema") == SCHEMA:
        _check_texts(packet)


def _parsed(packet: _Examination, name: str, value: Any) -> Any:
    unsorted: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [key for key, _ in items]
        if names != sorted(set(names)):
            unsorted.append(", ".join(names[:4]))
        return dict(items)

    parsed = parse_root(name, value, pairs)
    if unsorted:
        packet.add(ROOT, f"root attribute '{name}': keys are not sorted, or occur twice, near {unsorted[0]}")
    return parsed


def _check_texts(packet: _Examination) -> None:
    """Texts of variable length are kept in HDF5's global heap, in which damage is not noticed."""
    for name, found in ((ROOT, packet.file), *packet.form.datasets.items()):
        loose = [each for each in found.attrs if h5py.check_string_dtype(found.attrs.get_id(each).dtype)]
        loose = [each for each in loose if h5py.check_string_dtype(found.attrs.get_id(each).dtype).length is None]
        if loose:
            packet.add(name, f"attributes {loose}: wanted texts of fixed length, as {SCHEMA} has them")


def _length(packet: _Examination) -> int | None:
    pixels = packet.form.datasets.get("pixels")
    return int(pixels.shape[0]) if pixels is not None and pixels.shape else None


# --- the tree ------------------------------------------------------------------------------------------------------


def _check_tree(packet: _Examination) -> None:
    for path in packet.form.groups:
        if path != "extra" and not is_extra(path) and not any(name.startswith(f"{path}/") for name in DATASETS):
            packet.add(path, "no group of the schema; other arrays go under extra/")
    names = sorted(name for name in packet.form.datasets if not is_extra(name))
    faulty = {name for name, _ in packet.form.faults}
    for spec in DATASETS.values():
        if spec.required and spec.path not in names and spec.path not in faulty:
            packet.add(spec.path, "required, and missing", breaks=True)
    # T, H and W are those of the pixels, so that another array that disagrees is the one blamed.
    for name in sorted(names, key=lambda name: (name != "pixels", name)):
        try:
            _check_dataset(packet, name)
        except DAMAGE as error:
            packet.add(name, f"damaged: cannot be read ({_reason(error)})", breaks=True)
    for name in names:
        found = dataset_spec(name)
        required = (*found.needs, *([found.valid] if found.valid else [])) if found else ()
        absent = sorted(set(required) - set(names))
        if absent:
            packet.add(name, f"needs {absent}, which are missing", breaks=True)
    modalities = packet.attributes.get("modalities")
    if modalities is not None:
        _check_modalities(packet, modalities, names)


def _check_dataset(packet: _Examination, name: str) -> None:
    spec = dataset_spec(name)
    if spec is None:
        # Readers of whole groups would meet it among the arrays of the schema.
        packet.add(name, "not in the schema; other arrays go under extra/")
        return
    dataset = packet.form.datasets[name]
    before = len(packet.findings)
    dtype = dataset.dtype.name
    if dtype not in (spec.dtype, *spec.also):
        packet.add(name, f"wanted {' or '.join((spec.dtype, *spec.also))}, got {dtype}", breaks=True)
    fault = shape_fault(name, spec, dataset.shape, packet.sizes)
    if fault is not None:
        packet.add(name, fault, breaks=True)
    elif spec.storage == "frames" and dataset.compression is not None:
        # Stored as they are, the pixels bound T, H and W, and with them every array of that size, by the file's bytes.
        packet.add(name, f"wanted frames that are not compressed, got {dataset.compression}", breaks=True)
    elif spec.storage == "rows" and dataset.nbytes > LARGEST_ROWS:
        packet.add(name, f"{dataset.nbytes} bytes; readers take it whole, and {LARGEST_ROWS} at most", breaks=True)
    whole = len(packet.findings) == before
    attributes = {key: plain_value(dataset.attrs[key]) for key in dataset.attrs}
    _check_dataset_attributes(packet, name, spec, attributes)
    coded = _check_code(packet, name, spec, dataset.dtype, attributes)
    if whole and coded:
        packet.sound[name] = dataset
        packet.codes[name] = {
            key: attributes[key] for key in ("scale", "offset", "fill", "max_error") if key in attributes
        }


def _check_dataset_attributes(packet: _Examination, name: str, spec: DatasetSpec, attributes: dict[str, Any]) -> None:
    names = attributes.get("names")
    width = None if spec.names_values else packet.form.datasets[name].shape[-1]
    if names is not None and not (_are_names(names) and width in (None, len(names))):
        texts = "a text for each number" if width is None else f"{width} texts"
        packet.add(name, f"attribute 'names': wanted {texts}, got {str(names)[:80]}", breaks=True)
    onset = attributes.get("contact_onset", -1)
    if isinstance(onset, bool) or not isinstance(onset, int):
        packet.add(name, f"attribute 'contact_onset': wanted a frame's number, got {onset!r}", breaks=True)
    if name == "phase":
        _check_phase_attributes(packet, attributes)
    for attribute in ("units", "description", "stage_key", *spec.attributes):
        if attribute not in attributes:
            packet.add(name, f"attribute '{attribute}' is missing")
        elif attribute in ("units", "description", "stage_key", "convention") and not isinstance(
            attributes[attribute], str
        ):
            packet.add(name, f"attribute '{attribute}': wanted text, got {attributes[attribute]!r}")
    stages = packet.attributes.get("stages", {})
    keys = {str(stage.get("key")) for stage in stages.values() if isinstance(stage, dict)}
    key = attributes.get("stage_key")
    if key is not None and keys and key not in keys:
        packet.add(name, f"stage_key {key!r} is not the key of any stage in the root attribute 'stages'")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def _check_phase_attributes(packet: _Examination, attributes: dict[str, Any]) -> None:
    phases = attributes.get("phases", ["unknown"])
    if not _are_names(phases):
        packet.add("phase", f"attribute 'phases': wanted the codes' names, got {str(phases)[:80]}", breaks=True)
    if not isinstance(attributes.get("acts_on", ""), str):
        packet.add("phase", f"attribute 'acts_on': wanted a dataset's path, got {attributes['acts_on']!r}", breaks=True)
    span = attributes.get("active_span", [0, 0])
    whole = isinstance(span, list) and len(span) == 2 and all(type(frame) is int for frame in span)
    if not whole or not 0 <= span[0] <= span[1] <= packet.sizes.get("T", span[1]):
        packet.add("phase", f"attribute 'active_span': wanted two frames of the clip, got {span!r}", breaks=True)


def _check_code(
    packet: _Examination, name: str, spec: DatasetSpec, dtype: np.dtype[Any], attributes: dict[str, Any]
) -> bool:
    """Whether integer-coded depth says how to decode it."""
    if spec.storage != "depth" or dtype.kind != "u":
        return True
    faults = []
    for attribute in ("scale", "offset", *(["max_error"] if spec.positive else [])):
        value = attributes.get(attribute)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            faults.append(f"attribute '{attribute}': wanted a finite number, got {value!r}")
        elif attribute == "scale" and value <= 0:
            faults.append(f"attribute 'scale': wanted a positive number, got {value}")
        elif abs(value) * (np.iinfo(dtype).max if attribute == "scale" else 1) > LARGEST_VALUE:
            faults.append(f"attribute '{attribute}': wanted depths up to {LARGEST_VALUE:g}, got {value}")
    fill = attributes.get("fill", 0)
    if isinstance(fill, bool) or not isinstance(fill, int) or not 0 <= fill <= np.iinfo(dtype).max:
        faults.append(f"attribute 'fill': wanted a code of {dtype.name}, got {fill!r}")
    for fault in faults:
        packet.add(name, fault, breaks=True)
    return not faults


def _check_modalities(packet: _Examination, modalities: Sequence[Any], names: Sequence[str]) -> None:
    if not all(isinstance(name, str) for name in modalities):
        return  # said with the other records
    if list(modalities) != sorted(set(modalities)):
        packet.add(ROOT, "modalities: wanted sorted, each once")
    listed = {name for name in modalities if not is_extra(name)}
    for name in sorted(listed - set(names)):
        packet.add(name, "listed in modalities, but not there", breaks=True)
    for name in sorted(set(names) - listed):
        packet.add(name, "there, but not listed in modalities")


# --- values --------------------------------------------------------------------------------------------------------


def _check_values(packet: _Examination) -> None:
    """Each dataset by itself: readable, finite or NaN as the schema says, in range."""
    for name in list(packet.sound):
        spec = DATASETS["masks/object_dilate<R>"] if dilation_radius(name) else DATASETS[name]
        try:
            if spec.storage in ("frames", "maps", "depth"):
                _check_map(packet, name, spec)
            else:
                _check_rows(packet, name, spec)
        except DAMAGE as error:
            packet.add(name, f"damaged: cannot be read ({_reason(error)})")
            del packet.sound[name]


def _check_map(packet: _Examination, name: str, spec: DatasetSpec) -> None:
    bad = np.zeros(packet.sound[name].shape[0], bool)
    values = packet.frames(name)
    for frame in range(len(bad)):
        try:
            row = next(values)
        except DAMAGE as error:
            packet.add(name, f"damaged: cannot be read ({_reason(error)})", frame)
            del packet.sound[name]
            return
        if row.dtype.kind == "f":
            # Decoding turns the code for "no reading" into NaN.
            good = np.isnan(row) | (np.isfinite(row) & (row > 0)) if spec.positive else np.isfinite(row)
            good &= ~(np.abs(row) > LARGEST_VALUE)
            bad[frame] = not good.all()
    reading = "metres above 0, or the code `fill`" if spec.positive else "finite values"
    packet.bad_rows(name, bad, f"wanted {reading}")
    if spec.positive and packet.sound[name].dtype.kind == "f":
        stored = (np.asarray(packet.sound[name][frame]) for frame in range(len(bad)))
        packet.bad_rows(
            name, np.array([np.isnan(row).any() for row in stored]), "NaN; the code for no reading is `fill`"
        )


def _check_rows(packet: _Examination, name: str, spec: DatasetSpec) -> None:
    dataset = packet.sound[name]
    valid = packet.rows(spec.valid) if spec.valid is not None and spec.valid in packet.sound else None
    bad: dict[str, NDArray[np.bool_]] = {}
    rows = max(1, READ_BLOCK_BYTES // max(1, dataset.nbytes // max(1, len(dataset))))
    for start in range(0, len(dataset), rows):
        block = np.asarray(dataset[start : start + rows])
        part = None if valid is None else valid[start : start + rows].reshape(-1, *[1] * (block.ndim - 1))
        for reason, wrong in _row_faults(spec, block, part):
            found = bad.setdefault(reason, np.zeros(len(dataset), bool))
            found[start : start + rows] = wrong.reshape(len(block), -1).any(axis=1)
    for reason, wrong in bad.items():
        packet.bad_rows(name, wrong, reason)


def _row_faults(
    spec: DatasetSpec, values: NDArray[Any], valid: NDArray[np.bool_] | None
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """What rows of a small array may not hold, and where they do."""
    yield from value_faults(spec, values)
    if valid is not None and values.dtype.kind == "f":
        yield f"not finite where {spec.valid} is true", ~np.isfinite(values) & valid
        yield f"not NaN where {spec.valid} is false", ~np.isnan(values) & ~valid


# --- relations between values --------------------------------------------------------------------------------------


def _check_flat_index(packet: _Examination) -> None:
    if packet.has("ep_len") and packet.rows("ep_len")[0] != packet.sizes.get("T"):
        packet.add("ep_len", f"wanted [{packet.sizes.get('T')}], got {packet.rows('ep_len').tolist()}")
    if packet.has("ep_offset") and packet.rows("ep_offset")[0] != 0:
        packet.add("ep_offset", f"wanted [0], got {packet.rows('ep_offset').tolist()}")


def _check_timestamps(packet: _Examination) -> None:
    if not packet.has("timestamp"):
        return
    times = packet.rows("timestamp")
    # A source's float32 clock is good to a microsecond in the first seconds.
    if abs(times[0]) > 1e-6:
        packet.add("timestamp", f"wanted 0 at the first frame, got {times[0]:g}", 0)
    packet.bad_rows("timestamp", np.concatenate([[False], np.diff(times) <= 0]), "not later than the frame before")


def _check_intrinsics(packet: _Examination) -> None:
    if not packet.has("intrinsics"):
        return
    matrix = packet.rows("intrinsics")
    if matrix[2].tolist() != [0, 0, 1] or matrix[1, 0] != 0 or matrix[0, 1] != 0:
        packet.add("intrinsics", f"wanted [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got {matrix.tolist()}")
    if not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
        packet.add("intrinsics", f"wanted positive focal lengths, got {matrix[0, 0]:g} and {matrix[1, 1]:g}")
    attributes = {key: plain_value(value) for key, value in packet.sound["intrinsics"].attrs.items()}
    source, sigma = attributes.get("source"), attributes.get("sigma", 0.0)
    if source is not None and source not in INTRINSICS_SOURCES:
        packet.add("intrinsics", f"attribute 'source': wanted one of {list(INTRINSICS_SOURCES)}, got {source!r}")
    if not isinstance(sigma, int | float) or not (math.isfinite(sigma) and sigma >= 0):
        packet.add("intrinsics", f"attribute 'sigma': wanted a number of at least 0, got {sigma!r}")


_POSES = ("hand_pose", "camera_pose", "object_pose", "extrinsics", "hand_from_camera")


def _check_poses(packet: _Examination) -> None:
    """Rigid transforms: a rotation, a place, and the row 0 0 0 1."""
    for name in _POSES:
        if not packet.has(name):
            continue
        poses = packet.rows(name).astype(np.float64).reshape(-1, 4, 4)
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(poses).all(axis=(1, 2)))
        turns = np.where(finite[:, None, None], poses[:, :3, :3], np.eye(3))
        off = np.abs(turns @ np.swapaxes(turns, 1, 2) - np.eye(3)).max(axis=(1, 2))
        bad = np.asarray((off > ROTATION_TOLERANCE) | (np.linalg.det(turns) < 0))
        packet.bad_rows(name, bad, "wanted rotations, as R R^T = 1 and det R = 1")
        wrong = (np.abs(poses[:, 3] - np.array([0.0, 0.0, 0.0, 1.0])) > 0).any(axis=1)
        packet.bad_rows(name, finite & wrong, "wanted the last row 0 0 0 1")
    for name in ("extrinsics", "hand_from_camera"):
        for attribute in ("position_sigma_m", "rotation_sigma_deg") if packet.has(name) else ():
            value = plain_value(packet.sound[name].attrs.get(attribute, 0.0))
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                packet.add(name, f"attribute '{attribute}': wanted a number of at least 0, got {value!r}")


def _check_contact(packet: _Examination) -> None:
    if not packet.has("contact"):
        return
    onset = plain_value(packet.sound["contact"].attrs.get("contact_onset", -2))
    touching = np.flatnonzero(packet.rows("contact") > 0.5)
    first_touch = int(touching[0]) if len(touching) else -1
    if onset not in (first_touch, -2) or isinstance(onset, bool):
        packet.add(
            "contact", f"contact_onset is {onset!r}, the first frame above 0.5 is {first_touch}", max(first_touch, 0)
        )


def _check_phase(packet: _Examination) -> None:
    if packet.has("phase") and isinstance(phases := plain_value(packet.sound["phase"].attrs.get("phases")), list):
        packet.bad_rows("phase", packet.rows("phase") >= len(phases), f"wanted a code of {len(phases)} phases")


def _check_things(packet: _Examination) -> None:
    if packet.has("masks/things") and isinstance(
        names := plain_value(packet.sound["masks/things"].attrs.get("names")), list
    ):
        largest = np.array([labels.max(initial=0) for labels in packet.frames("masks/things")])
        packet.bad_rows("masks/things", largest >= len(names), f"wanted a number of {len(names)} names")


def _check_dilated_masks(packet: _Examination) -> None:
    """Each dilation covers the next smaller one, and the mask itself."""
    radii = {radius: name for name in packet.sound if (radius := dilation_radius(name)) is not None}
    nested = (["masks/object"] if packet.has("masks/object") else []) + [radii[radius] for radius in sorted(radii)]
    for inner, outer in itertools.pairwise(nested):
        pairs = zip(packet.frames(inner), packet.frames(outer), strict=True)
        bad = np.array([bool((small & ~large).any()) for small, large in pairs])
        packet.bad_rows(outer, bad, f"does not cover {inner}")


def _check_stabilizer(packet: _Examination) -> None:
    names = ("depth/relative", "depth/stabilized", "depth/stabilizer")
    if not packet.has(*names):
        return
    stabilizer = packet.rows("depth/stabilizer").astype(np.float64)
    packet.bad_rows("depth/stabilizer", stabilizer[:, :1] <= 0, "wanted a positive scale")
    error = [_code_error(packet, name) for name in names[:2]]
    bad = np.zeros(len(stabilizer), bool)
    frames = zip(stabilizer, packet.frames(names[0]), packet.frames(names[1]), strict=True)
    for frame, ((scale, shift), relative, stabilized) in enumerate(frames):
        expected = scale * relative.astype(np.float64) + shift
        # Both maps are rounded to their codes; scale and shift to float32.
        rounding = 4 * np.finfo(np.float32).eps * (np.abs(expected).max() + abs(shift))
        bad[frame] = np.abs(expected - stabilized).max() > abs(scale) * error[0] + error[1] + rounding
    packet.bad_rows("depth/stabilized", bad, "is not scale * depth/relative + shift of depth/stabilizer")


def _code_error(packet: _Examination, name: str) -> float:
    """Largest error of a depth map's storage."""
    dataset, code = packet.sound[name], packet.codes[name]
    if dataset.dtype.kind == "u":
        return float(code.get("max_error", code["scale"] / 2))
    largest = max(float(np.abs(frame).max()) for frame in packet.frames(name))
    return float(np.finfo(dataset.dtype).eps) * largest


def _check_queries(packet: _Examination) -> None:
    for root in (f"tracks/{name}" for name in TRACK_SETS):
        name = f"{root}/queries"
        if not packet.has(name, "pixels"):
            continue
        frames, height, width = packet.sound["pixels"].shape[:3]
        frame, x, y = packet.rows(name).T
        if ((frame != np.rint(frame)) | (frame < 0) | (frame > frames - 1)).any():
            packet.add(name, f"wanted whole frame numbers of 0 to {frames - 1}")
            continue
        # A frame spans -0.5 to width - 0.5, as pixel centres are whole numbers.
        if ((x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5)).any():
            packet.add(name, f"wanted points inside the {width} x {height} frame")
        elif packet.has(f"{root}/on_object"):
            _check_on_object(packet, root, frame.astype(int), x, y)


def _check_on_object(
    packet: _Examination, root: str, frame: NDArray[np.int_], x: NDArray[Any], y: NDArray[Any]
) -> None:
    """`on_object` against the mask; a sub-pixel query may count as lying on any of the pixels around it."""
    on_object = packet.rows(f"{root}/on_object")
    if not packet.has("masks/object"):
        if on_object.any() and "masks/object" not in packet.file:
            packet.add(f"{root}/on_object", "marks queries as on the object, and there is no masks/object")
        return
    mask = packet.sound["masks/object"]
    height, width = mask.shape[1:]
    for t in np.unique(frame):
        in_frame = frame == t
        shown = np.asarray(mask[int(t)])
        columns = [np.clip(step(x[in_frame]), 0, width - 1).astype(int) for step in (np.floor, np.ceil)]
        rows = [np.clip(step(y[in_frame]), 0, height - 1).astype(int) for step in (np.floor, np.ceil)]
        around = np.stack([shown[row, column] for row in rows for column in columns])
        claimed = on_object[in_frame]
        if (claimed & ~around.any(axis=0)).any() or (~claimed & around.all(axis=0)).any():
            packet.add(f"{root}/on_object", "disagrees with masks/object at the query", int(t))
            return


def _check_empty_masks(packet: _Examination) -> None:
    """Where the mask is empty, nothing about the object can be valid."""
    names = [name for name in ("centroids_valid", "shape_descriptors_valid") if packet.has(name)]
    if not names or not packet.has("masks/object"):
        return
    empty = np.array([not mask.any() for mask in packet.frames("masks/object")])
    for name in names:
        packet.bad_rows(name, packet.rows(name) & empty, "true although masks/object is empty")


def _check_shape_descriptors(packet: _Examination) -> None:
    name = "shape_descriptors"
    if not packet.has(name, f"{name}_valid"):
        return
    values = packet.rows(name).astype(np.float64)
    valid = packet.rows(f"{name}_valid") & np.isfinite(values).all(axis=1)
    extents, ratios, span, visibility = values[:, 3:6], values[:, 6:8], values[:, 8], values[:, 9]
    with np.errstate(invalid="ignore", divide="ignore"):
        unordered = (np.diff(extents, axis=1) > 0).any(axis=1) | (extents < 0).any(axis=1)
        expected = extents[:, 1:] / extents[:, :1]
        uneven = (np.abs(expected - ratios) > RATIO_TOLERANCE).any(axis=1) & (extents[:, 0] > 0)
        outside = (visibility < 0) | (visibility > 1)
    packet.bad_rows(name, valid & unordered, "wanted extents e1 >= e2 >= e3 >= 0")
    packet.bad_rows(name, valid & uneven & ~unordered, "ratios are not e2/e1 and e3/e1")
    packet.bad_rows(name, valid & (span < 0), "negative depth range")
    packet.bad_rows(name, valid & outside, "visibility outside [0, 1]")


_RULES: tuple[Callable[[_Examination], None], ...] = (
    _check_flat_index,
    _check_timestamps,
    _check_intrinsics,
    _check_poses,
    _check_contact,
    _check_phase,
    _check_things,
    _check_dilated_masks,
    _check_stabilizer,
    _check_queries,
    _check_empty_masks,
    _check_shape_descriptors,
)
