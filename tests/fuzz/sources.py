"""Bad input for every source reader: small good sources, spoiled, then listed, opened, decoded and inspected."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from extractors.errors import EpisodeError, UnknownCameraError
from flows.sources.detect import open_source
from flows.sources.images import decode_depth, decode_rgb
from flows.sources.inspect import inspect_source
from flows.sources.pickles import load_pickle
from flows.sources.tfrecord import masked_crc
from tests.flows.sources.bridge_builder import jpeg, picture, png, write_trajectory
from tests.flows.sources.lerobot_builder import (
    FRONT,
    SIDE,
    code,
    columns,
    image_feature,
    numbered,
    pictures,
    write_info,
    write_lines,
    write_table,
    write_v21,
    write_v30,
    write_video,
)
from tests.fuzz.mutate import VALUES, spoil_bytes, spoil_tree
from tests.fuzz.running import Case

_MOST = 6  # episodes opened of one source
_FRAMES = 40  # frames decoded of one episode


def read_source(folder: Path, rng: np.random.Generator) -> str:
    """Everything that `extract` and `inspect` ask a source for."""
    source = open_source(str(folder))
    opened = refused = 0
    for info in islice(source.episodes(), _MOST):
        json.dumps([info.episode_id, dict(info.key), info.tags], allow_nan=False)
        try:
            episode = source.open(info, str(rng.choice(info.cameras)) if info.cameras and rng.random() < 0.3 else None)
            _check(episode)
            opened += 1
        except (EpisodeError, UnknownCameraError) as error:
            str(error).encode()
            refused += 1
    source.left_out()
    if rng.random() < 0.5:
        inspect_source(source, seconds=5)
    return "read" if opened and not refused else "read in part" if opened else "every episode refused"


def _check(episode: Any) -> None:
    """What the stages after the source rely on."""
    n_frames = episode.n_frames
    height, width = episode.size
    assert n_frames > 0
    assert height > 0 < width
    for frame in islice(episode.pixels, _FRAMES):
        assert frame.shape == (height, width, 3)
        assert frame.dtype == np.uint8
    assert len(episode.timestamp) == n_frames
    assert np.isfinite(episode.timestamp).all()
    for rows in (episode.action, episode.state, episode.gripper):
        assert rows is None or (len(rows) == n_frames and rows.dtype == np.float32)
    assert episode.state is None or np.isfinite(episode.state).all()
    assert episode.gripper is None or (np.isfinite(episode.gripper).all() and episode.gripper.min() >= 0)
    for recorded in (episode.recorded_depth, episode.recorded_masks, episode.recorded_robot):
        for frame in islice(recorded or (), _FRAMES):
            assert frame.ndim == 2
    json.dumps(dict(episode.provenance), allow_nan=False, ensure_ascii=False).encode()
    assert all(text.isprintable() for text in (episode.episode_id, episode.language_instruction, *episode.tags))


def _lerobot_v21(root: Path) -> None:
    write_v21(root, {0: 5, 1: 6})


def _lerobot_v30(root: Path) -> None:
    write_v30(root, {0: 5, 1: 6, 2: 4}, files={FRONT: [[0, 1, 2]], SIDE: [[0, 1], [2]]}, data=[[0], [1, 2]])


def _lerobot_images(root: Path) -> None:
    features = {"observation.state": image_feature(), FRONT: image_feature()}
    vector = {"dtype": "float32", "shape": [3], "names": ["x", "y", "gripper"]}
    depth, masks = "observation.depth.front", "observation.masks.front"
    features = {"observation.state": vector, "action": vector, FRONT: image_feature()}
    features |= {depth: image_feature(1, is_depth_map=True, depth_unit="mm"), masks: image_feature(1)}
    write_info(root, "v2.1", {0: 4}, features=features, video_path=None)
    write_lines(root / "meta/episodes.jsonl", [{"episode_index": 0, "tasks": ["put it in"], "length": 4}])
    cells = {
        FRONT: pictures([code(FRONT, 0, row) for row in range(4)]),
        depth: pictures([np.full((48, 64), 1000 + row, np.uint16) for row in range(4)]),
        masks: pictures([np.eye(48, 64, dtype=np.uint8)] * 4),
    }
    write_table(root / "data/chunk-000/episode_000000.parquet", {**columns(0, 4), **cells})
    camera = {"fx": 60, "fy": 70, "cx": 31.5, "cy": 23.5, "width": 64, "height": 48}
    (root / "meta/intrinsics.json").write_text(json.dumps({FRONT: camera}))


def _videos(root: Path, name: str = "a.mp4", codec: str = "libx264") -> None:
    fps = 25 if codec == "mpeg2video" else 10
    write_video(root / name, [numbered(i) for i in range(12)], codec=codec, fps=fps)


def _bridge(root: Path) -> None:
    for number in range(2):
        write_trajectory(
            root, number=number, cameras=2, depth=np.uint16, topics=["/cam0/image_raw", "/wrist/image_raw"]
        )


def _rlds(root: Path) -> None:
    from tests.flows.sources.rlds_builder import example, steps_of, write_build

    records = [[example(steps_of(3)), example(steps_of(2))], [example(steps_of(2))]]
    write_build(root, {"train": records})


@cache
def _template(build: Callable[[Path], None]) -> Path:
    """A good source, built once for a process."""
    root = Path(tempfile.mkdtemp(prefix="cuepack-fuzz-")) / "source"
    root.mkdir()
    build(root)
    return root


def _spoiled(build: Callable[[Path], None], folder: Path, rng: np.random.Generator) -> str:
    root = folder / "source"
    shutil.copytree(_template(build), root)
    spoil_tree(root, rng)
    return read_source(root, rng)


def _rlds_record(folder: Path, rng: np.random.Generator) -> str:
    """A record spoiled behind its checksum: what protobuf and the features make of it."""
    root = folder / "source"
    shutil.copytree(_template(_rlds), root)
    path = sorted(root.glob("*tfrecord*"))[0]
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    record = spoil_bytes(data[12 : 12 + length], rng)
    head = len(record).to_bytes(8, "little")
    frame = head + masked_crc(head).to_bytes(4, "little") + record + masked_crc(record).to_bytes(4, "little")
    path.write_bytes(frame + data[16 + length :])
    return read_source(root, rng)


def _picture(folder: Path, rng: np.random.Generator) -> str:
    kind = int(rng.integers(3))
    good = (jpeg(picture(3)), png(picture(3)), png(np.full((20, 30), 1234, np.uint16)))[kind]
    (decode_depth if kind == 2 else decode_rgb)(spoil_bytes(good, rng), "x")
    return "decoded"


class _Runs:
    """What a pickle would run if it could."""

    def __reduce__(self) -> Any:
        return eval, ("__import__('os').system('true')",)


def _pickle(folder: Path, rng: np.random.Generator) -> str:
    """Pickles of odd values, of every protocol, whole or spoiled."""
    value: Any = VALUES[int(rng.integers(len(VALUES)))]
    odd = (value, _Runs(), np.array([value], object), np.array([1, 2]), bytearray(9), {1, 2}, np.float64(3), 2**5000)
    state = np.zeros((6, 7), [np.float64, np.int8, np.complex128, "S3", "datetime64[s]"][int(rng.integers(5))])
    held = [{"full_state": state, "time_stamp": odd[int(rng.integers(len(odd)))]}, [{"actions": value}], *odd]
    data = pickle.dumps(held[int(rng.integers(len(held)))], protocol=int(rng.integers(6)))
    path = folder / "obs_dict.pkl"
    path.write_bytes(spoil_bytes(data, rng) if rng.random() < 0.8 else data)
    load_pickle(path)
    return "read"


def _odd_rows(folder: Path, rng: np.random.Generator) -> str:
    """A BridgeData trajectory whose pickles hold odd values."""
    root = folder / "source"
    shutil.copytree(_template(_bridge), root)
    values = [VALUES[int(rng.integers(len(VALUES)))] for _ in range(4)]
    state: Any = np.zeros((6, 7))
    stamps: Any = [0.2 * k for k in range(6)]
    actions: Any = [{"actions": np.zeros(7)} for _ in range(5)]
    kind = int(rng.integers(5))
    if kind == 0:
        state = [[values[0]] * 7] * 6
    elif kind == 1:
        stamps = [*stamps[:3], values[1], *stamps[4:]] if rng.random() < 0.5 else values[1]
    elif kind == 2:
        actions[2] = {"actions": values[2]} if rng.random() < 0.5 else values[2]
    elif kind == 3:
        state = state.astype([np.complex128, "S4", np.bool_, np.float16, "U9"][int(rng.integers(5))])
    else:
        actions = values[3]
    for path in root.rglob("obs_dict.pkl"):
        path.write_bytes(pickle.dumps({"full_state": state, "time_stamp": stamps}, protocol=int(rng.integers(6))))
    for path in root.rglob("policy_out.pkl"):
        path.write_bytes(pickle.dumps(actions, protocol=int(rng.integers(6))))
    return read_source(root, rng)


_TREES: dict[str, Callable[[Path], None]] = {
    "lerobot-v2.1": _lerobot_v21,
    "lerobot-v3.0": _lerobot_v30,
    "lerobot-images": _lerobot_images,
    "bridge-raw": _bridge,
    "rlds": _rlds,
    "video-mp4": _videos,
    "video-mkv": partial(_videos, name="a.mkv"),
    "video-avi": partial(_videos, name="a.avi", codec="mpeg4"),
    "video-ts": partial(_videos, name="a.ts"),
    "video-mpg": partial(_videos, name="a.mpg", codec="mpeg2video"),
    "video-av1": partial(_videos, name="a.mp4", codec="libsvtav1"),
}

CASES: dict[str, Case] = {
    **{name: partial(_spoiled, build) for name, build in _TREES.items()},
    "rlds-record": _rlds_record,
    "picture": _picture,
    "pickle": _pickle,
    "bridge-rows": _odd_rows,
}
