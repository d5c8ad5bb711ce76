"""Write recordings in BridgeData V2's raw layout, as a LeRobot v3.0 dataset, and their ground truth."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from tests.scheduling import kept_scheduling
from tests.tools.sample_scene import CONTROL_S, Recording
from tests.tools.sample_truth import truth_arrays

FPS = round(1.0 / CONTROL_S)
JPEG_QUALITY = 85
VIDEO_CODEC, VIDEO_CRF, VIDEO_GOP = "libsvtav1", 28, 2
MM = 1000.0
OBJECT, ROBOT = 1, 2

VIDEO_KEY, DEPTH_KEY, MASK_KEY = "observation.images.main", "observation.depth.main", "observation.masks.main"
STATE_NAMES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
ACTION_NAMES = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"]
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def depth_mm(recording: Recording) -> NDArray[np.uint16]:
    """(T, H, W) depth along the optical axis in millimetres, 0 where nothing was hit."""
    return np.round(recording.depth * MM).astype(np.uint16)


def labels(recording: Recording) -> NDArray[np.uint8]:
    """(T, H, W): 0 background, 1 object, 2 robot."""
    is_object = np.isin(recording.body, list(recording.object_ids))
    is_robot = np.isin(recording.body, list(recording.robot_ids))
    return (OBJECT * is_object + ROBOT * is_robot).astype(np.uint8)


def intrinsics(recording: Recording) -> dict[str, float]:
    """The camera as `intrinsics.json` holds it; the centre of the top-left pixel is (0, 0)."""
    height, width = recording.depth.shape[1:]
    K = recording.K
    return {"fx": K[0, 0], "fy": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "width": width, "height": height}


def write_truth(out: Path, recordings: Sequence[Recording], trajectories: Sequence[Path]) -> None:
    """`<name>.npz` per recording, and `episodes.json`, which says where each one lies in the two layouts."""
    out.mkdir(parents=True)
    table = {}
    for index, (recording, trajectory) in enumerate(zip(recordings, trajectories, strict=True)):
        script = recording.script
        arrays = truth_arrays(recording, seed=index)
        height, width = recording.depth.shape[1:]
        meta = {
            "camera": "fixed",
            "height": height,
            "n_frames": len(recording.pixels),
            "name": script.name,
            "object_text": script.noun,
            "robot": "sawyer",
            "step_s": CONTROL_S,
            "width": width,
        }
        arrays["meta"] = np.array(json.dumps(meta, sort_keys=True))
        arrays["language_instruction"] = np.array(script.instruction)
        _write_npz(out / f"{script.name}.npz", arrays)
        table[script.name] = {
            "bridge_camera": "images0",
            "bridge_trajectory": trajectory.as_posix(),
            "lerobot_camera": VIDEO_KEY,
            "lerobot_episode_index": index,
        }
    _write_json(out / "episodes.json", table)


def write_bridge(root: Path, recordings: Sequence[Recording]) -> list[Path]:
    """BridgeData V2's raw folders; returns each trajectory's path relative to `root`.

    Beside Bridge's own files a trajectory has `masks0` (labels) and `intrinsics.json`.
    """
    trajectories = []
    for recording in recordings:
        script = recording.script
        dated = Path(script.collection, "00", script.date)
        trajectory = dated / "raw" / "traj_group0" / "traj0"
        folder = root / trajectory
        folder.mkdir(parents=True)
        environment = {"action_mode": "3trans3rot", "camera_topics": ["/D435/color/image_raw"]}
        height, width = recording.depth.shape[1:]
        agent = {"T": len(recording.pixels), "image_height": height, "image_width": width, "ncam": 1}
        agent["env"] = ["SimulatedSawyer", environment]
        _write_json(root / dated / "config.json", {"agent": agent, "policy": {"type": "ScriptedPolicy"}})
        _write_json(root / dated / "collection_metadata.json", {"robot": "sawyer", "simulator": "MuJoCo, Meta-World"})
        (folder / "lang.txt").write_text(f"{script.instruction}\nconfidence: 1.0\n")
        _write_json(folder / "intrinsics.json", {"images0": intrinsics(recording)})
        _write_pickle(folder / "obs_dict.pkl", _observations(recording))
        _write_pickle(folder / "policy_out.pkl", _policy(recording))
        _write_images(folder / "images0", recording.pixels, "jpg", quality=JPEG_QUALITY, optimize=True)
        _write_images(folder / "depth_images0", depth_mm(recording), "png", optimize=True)
        _write_images(folder / "masks0", labels(recording), "png", optimize=True)
        trajectories.append(trajectory)
    return trajectories


def _observations(recording: Recording) -> dict[str, Any]:
    n = len(recording.pixels)
    clock = [1_700_000_000.0 + CONTROL_S * t for t in range(n)]
    return {
        "state": recording.state,
        "full_state": recording.state,
        "desired_state": recording.command,
        "qpos": recording.joints,
        "qvel": recording.joint_speeds,
        "eef_transform": np.stack([_transform_of(row) for row in recording.state]),
        "high_bound": np.tile([0.5, 1.0, 0.4, 3.1416, 1.0], (n, 1)),
        "low_bound": np.tile([-0.5, 0.4, 0.0, -3.1416, 0.0], (n, 1)),
        "time_stamp": clock,
        "t_get_obs": [0.0] * n,
        "env_done": [False] * (n - 1) + [True],
    }


def _policy(recording: Recording) -> list[dict[str, Any]]:
    return [
        {
            "actions": action,
            "new_robot_transform": _transform_of(after),
            "delta_robot_transform": _transform_of(after) @ np.linalg.inv(_transform_of(before)),
            "policy_type": "ScriptedPolicy",
        }
        for action, before, after in zip(recording.action, recording.command[:-1], recording.command[1:], strict=True)
    ]


def _transform_of(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """4x4 pose of xyz, roll, pitch, yaw (rotations about the fixed x, then y, then z axis)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(row[3:6]), np.sin(row[3:6])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = about_z @ about_y @ about_x, row[:3]
    return T


def write_lerobot(root: Path, recordings: Sequence[Recording]) -> None:
    """A LeRobot v3.0 dataset: all episodes in one parquet file and one video; depth and masks are image features."""
    rows = pd.concat([_rows(r, i, recordings) for i, r in enumerate(recordings)], ignore_index=True)
    _write_data(root / "data/chunk-000/file-000.parquet", rows, recordings)
    _write_video(root / f"videos/{VIDEO_KEY}/chunk-000/file-000.mp4", recordings)

    meta = root / "meta"
    episodes = [_episode_row(rows, i, r, recordings) for i, r in enumerate(recordings)]
    path = meta / "episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(episodes), path)
    tasks = _tasks(recordings)
    pd.DataFrame({"task_index": range(len(tasks))}, index=tasks).to_parquet(meta / "tasks.parquet")
    _write_json(meta / "info.json", _info(recordings))
    _write_json(meta / "intrinsics.json", {VIDEO_KEY: intrinsics(recordings[0])})
    pixels = np.concatenate([r.pixels for r in recordings])
    _write_json(meta / "stats.json", {key: _stats(values) for key, values in _columns(rows, pixels).items()})


def _tasks(recordings: Sequence[Recording]) -> list[str]:
    return list(dict.fromkeys(r.script.instruction for r in recordings))


def _rows(recording: Recording, index: int, recordings: Sequence[Recording]) -> pd.DataFrame:
    n = len(recording.pixels)
    before = sum(len(r.pixels) for r in recordings[:index])
    # LeRobot wants an action in every row: in the last one the arm is told to stay and the grip to stay as it is.
    action = np.concatenate([recording.action, [[0.0] * 6 + [recording.command[-1, 6]]]])
    frames = np.arange(n)
    return pd.DataFrame(
        {
            "observation.state": list(recording.state.astype(np.float32)),
            "action": list(action.astype(np.float32)),
            "timestamp": (frames / FPS).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(n, index),
            "index": before + frames,
            "task_index": np.full(n, _tasks(recordings).index(recording.script.instruction)),
        }
    )


def _write_data(path: Path, rows: pd.DataFrame, recordings: Sequence[Recording]) -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    vector = pa.list_(pa.float32(), 7)
    # The PNG of a depth map is stored uncompressed: neighbouring frames are nearly equal, which the parquet file's own
    # compression can use only so.
    depth = [_png(frame, compress_level=0) for r in recordings for frame in depth_mm(r)]
    masks = [_png(frame, optimize=True) for r in recordings for frame in labels(r)]
    names = [f"frame-{i:06d}.png" for i in rows["frame_index"]]
    columns: dict[str, pa.Array] = {
        DEPTH_KEY: pa.array([{"bytes": b, "path": p} for b, p in zip(depth, names, strict=True)], image),
        MASK_KEY: pa.array([{"bytes": b, "path": p} for b, p in zip(masks, names, strict=True)], image),
    }
    for name in rows.columns:
        values = rows[name]
        columns[name] = pa.array(list(values), vector) if values.dtype == object else pa.array(values.to_numpy())
    features: dict[str, Any] = {}
    for name, column in columns.items():
        if column.type == image:
            features[name] = {"_type": "Image"}
        elif column.type == vector:
            features[name] = {"feature": {"dtype": "float32", "_type": "Value"}, "length": 7, "_type": "List"}
        else:
            features[name] = {"dtype": "float32" if name == "timestamp" else "int64", "_type": "Value"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True)
    # One page, or the compressor would see no more than a few frames at once.
    pq.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=False, data_page_size=1 << 30)


def _write_video(path: Path, recordings: Sequence[Recording]) -> None:
    path.parent.mkdir(parents=True)
    height, width = recordings[0].depth.shape[1:]
    with kept_scheduling(), av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        options = {"crf": str(VIDEO_CRF), "preset": "4", "g": str(VIDEO_GOP)}
        stream = container.add_stream(VIDEO_CODEC, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for i, pixels in enumerate(p for r in recordings for p in r.pixels):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _episode_row(
    rows: pd.DataFrame, index: int, recording: Recording, recordings: Sequence[Recording]
) -> dict[str, Any]:
    own = rows[rows["episode_index"] == index]
    first, length = int(own["index"].iloc[0]), len(own)
    row: dict[str, Any] = {
        "episode_index": index,
        "tasks": [recording.script.instruction],
        "length": length,
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": first,
        "dataset_to_index": first + length,
        f"videos/{VIDEO_KEY}/chunk_index": 0,
        f"videos/{VIDEO_KEY}/file_index": 0,
        f"videos/{VIDEO_KEY}/from_timestamp": first / FPS,
        f"videos/{VIDEO_KEY}/to_timestamp": (first + length) / FPS,
    }
    for key, values in _columns(own, recording.pixels).items():
        row |= {f"stats/{key}/{name}": value for name, value in _stats(values).items()}
    return row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}


def _columns(rows: pd.DataFrame, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    columns = {name: np.stack(list(rows[name])) for name in rows.columns}
    return {VIDEO_KEY: pixels} | columns


def _stats(values: NDArray[np.generic]) -> dict[str, Any]:
    """LeRobot's statistics: per number of a vector, per channel and scaled to 0..1 for images, there as (3, 1, 1)."""
    is_image = values.ndim == 4
    flat = values.reshape(-1, values.shape[-1]) / 255.0 if is_image else values.reshape(len(values), -1)
    found = {
        "min": flat.min(axis=0),
        "max": flat.max(axis=0),
        "mean": flat.mean(axis=0, dtype=np.float64),
        "std": flat.std(axis=0, dtype=np.float64),
    }
    found |= {name: np.quantile(flat, q, axis=0) for name, q in QUANTILES.items()}
    listed = {name: (v.reshape(3, 1, 1) if is_image else v).tolist() for name, v in found.items()}
    return listed | {"count": [len(values)]}


def _info(recordings: Sequence[Recording]) -> dict[str, Any]:
    height, width = recordings[0].depth.shape[1:]
    total, n = sum(len(r.pixels) for r in recordings), len(recordings)
    axes = ["height", "width", "channels"]
    video = {"video.height": height, "video.width": width, "video.codec": "av1", "video.pix_fmt": "yuv420p"}
    video |= {"video.is_depth_map": False, "video.fps": FPS, "video.channels": 3, "has_audio": False}
    map_info = {"is_depth_map": True, "depth_unit": "mm"}
    label_info = {"is_depth_map": False, "labels": {"0": "background", "1": "object", "2": "robot"}}
    features: dict[str, Any] = {
        VIDEO_KEY: {"dtype": "video", "shape": [height, width, 3], "names": axes, "info": video},
        DEPTH_KEY: {"dtype": "image", "shape": [height, width, 1], "names": axes, "info": map_info},
        MASK_KEY: {"dtype": "image", "shape": [height, width, 1], "names": axes, "info": label_info},
        "observation.state": {"dtype": "float32", "shape": [7], "names": STATE_NAMES},
        "action": {"dtype": "float32", "shape": [7], "names": ACTION_NAMES},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    }
    for name in ("frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "int64", "shape": [1], "names": None}
    return {
        "codebase_version": "v3.0",
        "robot_type": "sawyer",
        "total_episodes": n,
        "total_frames": total,
        "total_tasks": len(_tasks(recordings)),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": FPS,
        "splits": {"train": f"0:{n}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }


def _png(frame: NDArray[np.generic], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG", **options)
    return buffer.getvalue()


def _write_images(folder: Path, frames: NDArray[np.generic], suffix: str, **options: Any) -> None:
    folder.mkdir()
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"im_{t}.{suffix}", **options)


def _write_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content, protocol=4))


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _write_npz(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    """`np.load` reads it; LZMA uses that most points stand still, and the fixed date keeps the bytes the same."""
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_LZMA)
