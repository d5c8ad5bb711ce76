"""Packets made by hand to do harm: each a change to a good one, signed again so that only the change is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from tests.packers.examples import FRAMES, HEIGHT, WIDTH, set_values

SECRET = b"SECRET OF THIS MACHINE "
"""What a file outside the packet holds, and no surface may show."""

Change = Callable[[h5py.File], None]


def cases(folder: Path) -> dict[str, Change]:
    """Name -> change. `folder` holds the files that some of them lead to."""
    secret = folder / "secret.bin"
    secret.write_bytes(SECRET * 4000)
    other = folder / "other.h5"
    with h5py.File(other, "w") as file:
        text = np.frombuffer((SECRET * 1000)[: FRAMES * HEIGHT * WIDTH * 3], np.uint8)
        file["pixels"] = text.reshape(FRAMES, HEIGHT, WIDTH, 3)
        file["gripper"] = np.zeros(FRAMES, np.float32)
    found = {
        **_links(other),
        **_storage(secret, other),
        **_types(),
        **_sizes(),
        **_attributes(),
        **_records(),
        **_values(),
    }
    assert len(found) >= 85
    return found


def _links(other: Path) -> dict[str, Change]:
    def itself(count: int) -> Change:
        def change(file: h5py.File) -> None:
            extra = file.require_group("extra")
            for number in range(count):
                extra[f"loop{number}"] = extra

        return change

    def deep(file: h5py.File) -> None:
        file.create_group("extra/" + "/".join("abcdefghijkl"))["x"] = np.zeros(3)

    def crowd(file: h5py.File) -> None:
        for number in range(2100):
            file.create_group(f"extra/{number}")

    return {
        "soft link as a dataset": _swapped("gripper", h5py.SoftLink("/held")),
        "soft link to itself": _swapped("gripper", h5py.SoftLink("/gripper")),
        "soft link to nothing": _put("extra/a", h5py.SoftLink("/nowhere")),
        "soft link in extra": _put("extra/a", h5py.SoftLink("/pixels")),
        "external link as pixels": _swapped("pixels", h5py.ExternalLink(str(other), "pixels")),
        "external link as gripper": _swapped("gripper", h5py.ExternalLink(str(other), "gripper")),
        "external link in extra": _put("extra/a", h5py.ExternalLink(str(other), "pixels")),
        "external link as a group": _put("extra/g", h5py.ExternalLink(str(other), "/")),
        "external link to a device": _put("extra/g", h5py.ExternalLink("/dev/zero", "/")),
        "one dataset linked twice": lambda file: file.__setitem__("extra/again", file["gripper"]),
        "two names of the schema share a dataset": lambda file: (
            file.__delitem__("centroids_valid"),
            file.__setitem__("centroids_valid", file["shape_descriptors_valid"]),
        ),
        "group linked to itself": itself(1),
        "group linked to itself 150 times": itself(150),
        "root linked in itself": lambda file: file.__setitem__("extra/root", file["/"]),
        "groups twelve deep": deep,
        "thousands of groups": crowd,
        "type by itself": lambda file: file.__setitem__("extra/type", np.dtype("f4")),
        "type by itself at the root": lambda file: file.__setitem__("kind", np.dtype("f4")),
        "group named as a dataset": lambda file: (file.__delitem__("state"), file.create_group("state")),
        "dataset named as a group": lambda file: (
            file.__delitem__("tracks"),
            file.__setitem__("tracks", np.zeros(3, np.float32)),
        ),
    }


def _storage(secret: Path, other: Path) -> dict[str, Change]:
    def external(name: str, shape: tuple[int, ...]) -> Change:
        def change(file: h5py.File) -> None:
            how = h5p.create(h5p.DATASET_CREATE)
            how.set_external(str(secret).encode(), 0, int(np.prod(shape)))
            _remove(file, name)
            file.require_group(name.rpartition("/")[0] or "/")
            h5d.create(file.id, name.encode(), h5t.NATIVE_UINT8, h5s.create_simple(shape), dcpl=how)
            _describe(file[name])

        return change

    def virtual(name: str, source: Path | str, key: str) -> Change:
        def change(file: h5py.File) -> None:
            layout = h5py.VirtualLayout((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
            layout[...] = h5py.VirtualSource(str(source), key, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
            _remove(file, name)
            _describe(file.create_virtual_dataset(name, layout))

        return change

    whole = (FRAMES, HEIGHT, WIDTH, 3)
    return {
        "pixels stored in another file": external("pixels", whole),
        "extra stored in another file": external("extra/a", whole),
        "pixels are virtual": virtual("pixels", other, "pixels"),
        "extra is virtual": virtual("extra/a", other, "pixels"),
        "virtual of itself": virtual("extra/a", ".", "extra/a"),
    }


def _types() -> dict[str, Change]:
    pair = np.dtype([("a", "f4"), ("b", "i4")])
    values: dict[str, Callable[[h5py.File], Any]] = {
        "compound": lambda file: np.zeros(FRAMES, pair),
        "object references": lambda file: np.array([file["pixels"].ref] * FRAMES, h5py.ref_dtype),
        "region references": lambda file: np.array([file["pixels"].regionref[0:2]] * FRAMES, h5py.regionref_dtype),
        "lists of variable length": lambda file: np.array(
            [np.arange(3, dtype="f4")] * FRAMES + [None], h5py.vlen_dtype("f4")
        )[:FRAMES],
        "texts of variable length": lambda file: np.array(["a"] * FRAMES, h5py.string_dtype()),
        "texts of fixed length": lambda file: np.array([b"abc"] * FRAMES, "S3"),
        "opaque": lambda file: np.zeros(FRAMES, "V8"),
        "enumeration": lambda file: np.zeros(FRAMES, h5py.enum_dtype({"RED": 0, "GREEN": 1}, basetype="i1")),
        "arrays in an array": lambda file: np.zeros(FRAMES, np.dtype(("f4", (3,)))),
        "complex": lambda file: np.zeros(FRAMES, np.complex64),
        "long double": lambda file: np.zeros(FRAMES, np.longdouble),
    }

    def change(name: str, make: Callable[[h5py.File], Any]) -> Change:
        return lambda file: _replace(name, make(file))(file)

    return {f"{kind} as {name}": change(name, make) for kind, make in values.items() for name in ("gripper", "extra/a")}


def _sizes() -> dict[str, Change]:
    def claimed(name: str, shape: tuple[int, ...], dtype: Any, chunks: tuple[int, ...] | None, **how: Any) -> Change:
        def change(file: h5py.File) -> None:
            _remove(file, name)
            _describe(file.create_dataset(name, shape, dtype, chunks=chunks, **how))

        return change

    def zeros(name: str, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...]) -> Change:
        def change(file: h5py.File) -> None:
            _remove(file, name)
            _describe(
                file.create_dataset(name, shape, dtype, data=np.zeros(shape, dtype), chunks=chunks, compression=9)
            )

        return change

    return {
        "pixels without a last axis": _replace("pixels", np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)),
        "pixels of four channels": _replace("pixels", np.zeros((FRAMES, HEIGHT, WIDTH, 4), np.uint8)),
        "pixels of floats": _replace("pixels", np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.float32)),
        "pixels of no frames": _replace("pixels", np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)),
        "pixels of no width": _replace("pixels", np.zeros((FRAMES, HEIGHT, 0, 3), np.uint8)),
        "pixels as one number": _replace("pixels", np.uint8(3)),
        "gripper as one number": _replace("gripper", np.float32(1)),
        "an array without elements": _replace("gripper", h5py.Empty("f4")),
        "an array without elements in extra": _replace("extra/a", h5py.Empty("f4")),
        "more frames than the pixels": _replace("state", np.zeros((FRAMES + 1, 3), np.float32)),
        "a terabyte of nothing": claimed("pixels", (2**20, 1024, 1024, 3), "u1", (1, 1024, 1024, 3)),
        "a terabyte of nothing in extra": claimed("extra/a", (2**40,), "u1", (2**20,)),
        "a terabyte without chunks": claimed("extra/a", (2**40,), "u1", None),
        "a chunk of two gigabytes": claimed("extra/a", (2**31,), "u1", (2**31,), compression="gzip"),
        "a chunk larger than the array": claimed(
            "gripper", (FRAMES,), "f4", (2**20,), compression="gzip", maxshape=(None,)
        ),
        "a compound with references": claimed(
            "extra/a", (FRAMES,), np.dtype([("r", h5py.ref_dtype), ("n", "i4")]), None
        ),
        "deflated frames": zeros("pixels", (600, HEIGHT, WIDTH, 3), "u1", (1, HEIGHT, WIDTH, 3)),
        "a state of many columns": zeros("state", (FRAMES, 2**20), "f4", (FRAMES, 2**20)),
        "lzf": lambda file: _replace("gripper", np.zeros(FRAMES, np.float32), compression="lzf")(file),
        "scale-offset": lambda file: _replace("extra/a", np.zeros(600, np.int32), scaleoffset=0)(file),
    }


def _attributes() -> dict[str, Change]:
    def many(file: h5py.File) -> None:
        for number in range(100):
            file["gripper"].attrs[f"a{number}"] = number

    def shared_text(file: h5py.File) -> None:
        file.attrs["names"] = ["a" * 60_000] * 400

    return {
        "a hundred attributes": many,
        "texts of 24 MB": shared_text,
        "an attribute of 20 MB": _attribute(None, "more", np.bytes_(b"a" * 20_000_000)),
        "an attribute without a value": _attribute(None, "scores", h5py.Empty("S1")),
        "a table as an attribute": _attribute("gripper", "units", np.zeros((2, 2))),
        "a compound as an attribute": _attribute("gripper", "units", np.zeros(1, np.dtype([("a", "f4")]))),
        "a reference as an attribute": lambda file: file.attrs.__setitem__("more", file["pixels"].ref),
        "a text that is no UTF-8": _attribute(None, "language_instruction", np.bytes_(b"put \xff\xfe")),
        "units that are no UTF-8": _attribute("gripper", "units", np.bytes_(b"\xff")),
        "units as a number": _attribute("gripper", "units", 3),
        "scale as text": _attribute("depth/metric", "scale", np.bytes_(b"much")),
        "scale of 1e300": _attribute("depth/relative", "scale", 1e300),
        "offset of 1e39": _attribute("depth/relative", "offset", 1e39),
        "scale is missing": _attribute("depth/relative", "scale", None),
        "fill beyond its codes": _attribute("depth/metric", "fill", 10**9),
        "fill as text": _attribute("depth/metric", "fill", np.bytes_(b"0")),
        "pixels with a scale": lambda file: file["pixels"].attrs.update({"scale": 1e300, "offset": 0.0}),
        "names of another length": _attribute("state", "names", np.array([b"a", b"b"])),
        "names as a number": _attribute("state", "names", 3),
        "contact_onset as text": _attribute("contact", "contact_onset", np.bytes_(b"soon")),
        "contact_onset beyond the clip": _attribute("contact", "contact_onset", 10**12),
        "depth of the centroids is a list": _attribute("centroids", "depth", np.array([1, 2])),
        "sigma as text": _attribute("intrinsics", "sigma", np.bytes_(b"small")),
    }


def _records() -> dict[str, Change]:
    texts = {
        "1e999 as a score": ("scores", '{"score": 1e999}'),
        "a score of 400 digits": ("scores", '{"score": ' + "9" * 400 + "}"),
        "a score as a list": ("scores", '{"score": [1]}'),
        "a score as text": ("scores", '{"score": "good"}'),
        "a score named as a path": ("scores", '{"../x": 1.0}'),
        "a score with a lone surrogate": ("scores", '{"\\ud800": 1.0}'),
        "ten thousand scores": ("scores", json.dumps({f"s{n:05}": 1 for n in range(10_000)})),
        "scores nested deeply": ("scores", '{"score": ' + "[" * 50_000 + "]" * 50_000 + "}"),
        "scores as a list": ("scores", "[]"),
        "quality of lists": ("quality", '{"masks": []}'),
        "quality without a status": ("quality", '{"masks": {}}'),
        "quality with a number for reasons": ("quality", '{"masks": {"reasons": 3, "status": "pass"}}'),
        "quality with a list for numbers": ("quality", '{"masks": {"numbers": [], "status": "pass"}}'),
        "tags of numbers": ("tags", "[1, 2]"),
        "tags with escape sequences": ("tags", '["\\u001b[2J", "\\u001b]0;owned\\u0007"]'),
        "modalities of numbers": ("modalities", "[1]"),
        "modalities that are not there": ("modalities", '["masks/robot", "masks/nothing"]'),
        "stages as lists": ("stages", '{"masks": [], "source": []}'),
        "stages without keys": ("stages", '{"source": {}}'),
        "weights as a list": (
            "stages",
            '{"source": {"backend": null, "device": "cpu", "key": "k", "precision": "fp32", "weights": []}}',
        ),
        "source as text": ("source", '"nothing"'),
        "source without hashes": ("source", "{}"),
        "config as a number": ("config", "3"),
        "an id that leads out": ("episode_id", "../../etc/passwd"),
        "an instruction of escape sequences": ("language_instruction", "\x1b[2J\x1b]52;c;b3duZWQ=\x07 \u202e cup"),
    }

    def change(name: str, text: str) -> Change:
        return _attribute(None, name, np.bytes_(text.encode()))

    def source(**parts: Any) -> Change:
        def edit(file: h5py.File) -> None:
            record = json.loads(file.attrs["source"]) | parts
            file.attrs["source"] = np.bytes_(json.dumps(record, sort_keys=True).encode())

        return edit

    def report(value: Any) -> Change:
        def edit(file: h5py.File) -> None:
            record = json.loads(file.attrs["stages"])
            record["geometry"]["report"] = value
            record["masks"]["report"] = {"recorded_j": [1]}
            file.attrs["stages"] = np.bytes_(json.dumps(record, sort_keys=True).encode())
            file["centroids"].attrs["depth"] = np.bytes_(b"depth/relative")

        return edit

    missing = {f"{name} is missing": _attribute(None, name, None) for name in ("source", "stages", "scores", "fps")}
    return {
        **{name: change(*given) for name, given in texts.items()},
        **missing,
        "a report of lists": report({"centroids": [1]}),
        "a mapping of texts": report({"centroids": {"inverse_depth": {"scale": "a", "shift": []}}}),
        "frame_sha256 as text": source(frame_sha256="abcdef"),
        "frame_sha256 of numbers": source(frame_sha256=list(range(FRAMES))),
        "a camera as a list": source(camera=["images0"]),
        "an index of 70 bits": source(episode_index=2**70),
        "an index as text": source(episode_index="first"),
        "fps of 1e300": _attribute(None, "fps", 1e300),
        "fps is NaN": _attribute(None, "fps", float("nan")),
        "fps as text": _attribute(None, "fps", np.bytes_(b"5")),
        "schema as a number": _attribute(None, "schema", 2),
    }


def _values() -> dict[str, Change]:
    given = [
        ("timestamp", 3, 1e300),
        ("timestamp", -1, 1e18),
        ("timestamp", 2, np.nan),
        ("timestamp", 2, -1e300),
        ("intrinsics", (0, 0), np.nan),
        ("intrinsics", (0, 0), 0),
        ("intrinsics", (1, 1), 1e38),
        ("intrinsics", (0, 2), 3e38),
        ("action", (0, 0), 3e38),
        ("state", (1, 0), -3e38),
        ("state", (1, 0), np.inf),
        ("gripper", 2, np.nan),
        ("gripper", 2, 3e38),
        ("contact", 2, np.inf),
        ("masks/score", 1, -1),
        ("depth/stabilizer", (1, 0), 3e38),
        ("centroids", (1, 2), 3e38),
        ("centroids", (1, 2), -1),
        ("centroids_sigma", (1, 0), 3e38),
        ("shape_descriptors", (1, 3), 3e38),
        ("tracks/grid/xy", (1, 2, 0), 3e38),
        ("tracks/grid/xy", (1, 2, 0), np.nan),
        ("tracks/foreground/xy", (2, 2, 1), -1e20),
        ("tracks/grid/queries", (2, 0), 1e30),
        ("tracks/grid/queries", (2, 0), np.nan),
        ("tracks/foreground/queries", (2, 1), -3e38),
        ("tracks/grid/confidence", (1, 1), np.nan),
        ("ep_len", 0, 2**31 - 1),
        ("ep_len", 0, -1),
        ("ep_offset", 0, 2**62),
    ]
    return {f"{name}[{index}] = {value}": set_values(name, index, value) for name, index, value in given}


def _remove(file: h5py.File, name: str) -> None:
    if name in file:
        del file[name]


def _describe(dataset: h5py.Dataset) -> None:
    for attribute in ("units", "description"):
        dataset.attrs[attribute] = np.bytes_(b"made by hand")


def _replace(name: str, values: Any, **how: Any) -> Change:
    def change(file: h5py.File) -> None:
        kept = dict(file[name].attrs) if name in file else {}
        _remove(file, name)
        dataset = file.create_dataset(name, data=values, **how)
        for attribute, value in kept.items():
            dataset.attrs[attribute] = value

    return change


def _put(name: str, link: Any) -> Change:
    return lambda file: file.require_group(name.rpartition("/")[0]).__setitem__(name.rpartition("/")[2], link)


def _swapped(name: str, link: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return change


def _attribute(dataset: str | None, name: str, value: Any) -> Change:
    def change(file: h5py.File) -> None:
        target = file[dataset] if dataset else file
        if value is None:
            del target.attrs[name]
        else:
            target.attrs[name] = value

    return change
