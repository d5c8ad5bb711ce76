"""Tiny LeRobot datasets and videos whose frames carry their own number."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.scheduling import kept_scheduling

NAMES = ["x", "y", "gripper"]
V30 = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file_{file_index:03d}.mp4",
}
V21 = {
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
FRONT, SIDE = "observation.images.front", "observation.images.side"


def numbered(number: int, *, size: tuple[int, int] = (48, 64), red: int = 200) -> np.ndarray:
    """A picture with `number` as eight black or white stripes, under a band whose red value names the camera."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 3] = (red, 120, 60)
    for bit in range(8):
        if number >> bit & 1:
            image[height // 3 :, bit * width // 8 : (bit + 1) * width // 8] = 235
    return image


def number_of(image: np.ndarray) -> int:
    """The number that `numbered` painted."""
    height, width = image.shape[:2]
    columns = image[height // 2 :, :, 1].mean(axis=0).reshape(8, width // 8).mean(axis=1)
    return int(sum(1 << bit for bit in range(8) if columns[bit] > 120))


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    fps: int = 10,
    codec: str = "libx264",
    front: bool = False,
    gop: int = 6,
) -> None:
    """A video with B-frames where the codec has them; `front` puts the index before the pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = list(frames)
    with kept_scheduling(), av.open(str(path), "w", options={"movflags": "faststart"} if front else {}) as container:
        options = {"preset": "12", "crf": "25"} if codec == "libsvtav1" else {"bf": "2"}
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def cut(path: Path, share: float) -> None:
    """Keeps the first `share` of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def png(array: np.ndarray) -> bytes:
    """`array` as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def columns(episode: int, n_rows: int, *, fps: float = 10, task: int = 0, start: int = 0) -> dict[str, pa.Array]:
    """Number columns of one episode; state and action of row t are known from `episode` and t."""
    t = np.arange(n_rows, dtype=np.float32)
    state = np.stack([t, t * 0 + episode, 1 - t / max(n_rows - 1, 1)], 1).astype(np.float32)
    return {
        "observation.state": pa.array(list(state), pa.list_(pa.float32(), 3)),
        "action": pa.array(list(-state), pa.list_(pa.float32(), 3)),
        "timestamp": pa.array((t / np.float32(fps)).astype(np.float32)),
        "frame_index": pa.array(t.astype(np.int64)),
        "episode_index": pa.array(np.full(n_rows, episode, np.int64)),
        "index": pa.array(np.arange(start, start + n_rows)),
        "task_index": pa.array(np.full(n_rows, task, np.int64)),
    }


def pictures(arrays: Sequence[np.ndarray]) -> pa.Array:
    """An image-typed column."""
    cells = [{"bytes": png(array), "path": f"frame-{i:06d}.png"} for i, array in enumerate(arrays)]
    return pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))


def write_table(path: Path, table: Mapping[str, pa.Array] | pa.Table, **options: object) -> None:
    """A parquet file, folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(dict(table)), path, **options)


def video_feature(**info: object) -> dict[str, object]:
    """A feature entry of a video."""
    return {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"], "info": info}


def image_feature(channels: int = 3, **info: object) -> dict[str, object]:
    """A feature entry of an image-typed column."""
    return {"dtype": "image", "shape": [48, 64, channels], "names": ["height", "width", "channels"], "info": info}


def write_info(root: Path, version: str, lengths: Mapping[int, int], **changes: object) -> None:
    """meta/info.json."""
    vector = {"dtype": "float32", "shape": [3], "names": {"motors": NAMES}}
    features = {"observation.state": vector, "action": vector, FRONT: video_feature(), SIDE: video_feature()}
    info = {
        "codebase_version": version,
        "robot_type": "widowx",
        "fps": 10,
        "total_episodes": len(lengths),
        "total_frames": sum(lengths.values()),
        "chunks_size": 1000,
        **(V30 if version.startswith("v3") else V21),
        "features": features,
        **changes,
    }
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """A JSON-lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_v21(
    root: Path,
    lengths: Mapping[int, int],
    *,
    version: str = "v2.1",
    paint: Callable[[str, int, int], np.ndarray] | None = None,
    codec: str = "libx264",
    **info: object,
) -> Path:
    """A v2.x dataset of `lengths` by episode index, frames numbered `episode * 32 + row`, two cameras."""
    write_info(root, version, lengths, **info)
    write_lines(
        root / "meta" / "episodes.jsonl",
        [{"episode_index": e, "tasks": [f"task {e}"], "length": n} for e, n in lengths.items()],
    )
    write_lines(root / "meta" / "tasks.jsonl", [{"task_index": e, "task": f"task {e}"} for e in lengths])
    for episode, n_rows in lengths.items():
        write_table(root / f"data/chunk-000/episode_{episode:06d}.parquet", columns(episode, n_rows, task=episode))
        for camera in (FRONT, SIDE):
            frames = [(paint or code)(camera, episode, row) for row in range(n_rows)]
            write_video(root / f"videos/chunk-000/{camera}/episode_{episode:06d}.mp4", frames, codec=codec)
    return root


def write_v30(
    root: Path,
    lengths: Mapping[int, int],
    *,
    files: Mapping[str, Sequence[Sequence[int]]],
    data: Sequence[Sequence[int]],
    codec: str = "libx264",
    one_group: bool = False,
    front: bool = False,
    **info: object,
) -> Path:
    """A v3.0 dataset; `files` gives for each camera the episodes in each of its mp4s, `data` those in each parquet."""
    write_info(root, "v3.0", lengths, **info)
    rows = {e: {"episode_index": e, "tasks": [f"task {e}"], "length": n} for e, n in lengths.items()}
    for camera, groups in files.items():
        for number, group in enumerate(groups):
            frames = []
            for e in group:
                start = len(frames) / 10
                span = (0, number, start, start + lengths[e] / 10)
                keys = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
                rows[e] |= {f"videos/{camera}/{key}": value for key, value in zip(keys, span, strict=True)}
                frames += [code(camera, e, row) for row in range(lengths[e])]
            path = root / f"videos/{camera}/chunk-000/file_{number:03d}.mp4"
            write_video(path, frames, codec=codec, front=front)
    for number, group in enumerate(data):
        table = pa.concat_tables([pa.table(columns(e, lengths[e], task=e)) for e in group])
        size = len(table) if one_group else lengths[group[0]]
        write_table(root / f"data/chunk-000/file-{number:03d}.parquet", table, row_group_size=size)
        for e in group:
            rows[e] |= {"data/chunk_index": 0, "data/file_index": number, "stats/action/min": [0.0]}
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(list(rows.values())))
    tasks = {"task_index": list(lengths), "__index_level_0__": [f"task {e}" for e in lengths]}
    write_table(root / "meta/tasks.parquet", pa.table(tasks))
    return root


def code(camera: str, episode: int, row: int) -> np.ndarray:
    """The picture of a row: its number, and a band that differs between the cameras."""
    return numbered(episode * 32 + row, red=220 if camera == FRONT else 40)


def camera_of(image: np.ndarray) -> str:
    """Which camera `code` painted for."""
    return FRONT if image[: image.shape[0] // 4, :, 0].mean() > 130 else SIDE
