"""Tiny RLDS builds, written without TensorFlow."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from flows.sources.tfrecord import masked_crc
from tests.flows.sources.bridge_builder import SIZE, jpeg, picture, png, states

Image = tfds.features.Image
Tensor = tfds.features.Tensor
Scalar = tfds.features.Scalar
Text = tfds.features.Text


def bridge_features(cameras: int = 2, depth: type | None = None) -> Any:
    """The features of a `bridge_dataset` build."""
    observation = {f"image_{k}": Image(shape=(*SIZE, 3), encoding_format="jpeg") for k in range(cameras)}
    observation["state"] = Tensor(shape=(7,), dtype=np.float32)
    if depth is not None:
        form = "png" if depth is np.uint16 else "jpeg"
        observation["depth_0"] = Image(shape=(*SIZE, 1), dtype=depth, encoding_format=form)
    steps = {
        "observation": observation,
        "action": Tensor(shape=(7,), dtype=np.float32),
        "language_instruction": Text(),
        "language_embedding": Tensor(shape=(512,), dtype=np.float32),
        "is_first": Scalar(dtype=np.bool_),
    }
    metadata = {"file_path": Text(), "has_image_0": Scalar(dtype=np.bool_)}
    return tfds.features.FeaturesDict({"steps": tfds.features.Dataset(steps), "episode_metadata": metadata})


def oxe_features() -> Any:
    """The features of Open X-Embodiment's `bridge`."""
    steps = {
        "observation": {
            "image": Image(shape=(*SIZE, 3), encoding_format="jpeg"),
            "state": Tensor(shape=(7,), dtype=np.float32),
            "natural_language_instruction": Text(),
        },
        "action": {
            "world_vector": Tensor(shape=(3,), dtype=np.float32),
            "rotation_delta": Tensor(shape=(3,), dtype=np.float32),
            "open_gripper": Scalar(dtype=np.bool_),
            "terminate_episode": Scalar(dtype=np.float32),
        },
        "is_first": Scalar(dtype=np.bool_),
        "reward": Scalar(dtype=np.float32),
    }
    return tfds.features.FeaturesDict({"steps": tfds.features.Dataset(steps)})


def steps_of(n_steps: int, *, cameras: int = 2, black: tuple[int, ...] = ()) -> dict[str, Any]:
    """Flat features of a `bridge_dataset` record: action t is state[t+1] - state[t], the last row zero."""
    state = states(n_steps)
    action = np.zeros((n_steps, 7))
    action[:-1, :6], action[:-1, 6] = np.diff(state[:, :6], axis=0), state[1:, 6].round()
    images = {
        f"steps/observation/image_{k}": [jpeg(picture(t + 20 * k) * (k not in black)) for t in range(n_steps)]
        for k in range(cameras)
    }
    return {
        **images,
        "steps/observation/state": state,
        "steps/action": action,
        "steps/language_instruction": [b"put the cup in the sink"] * n_steps,
        "steps/language_embedding": np.zeros((n_steps, 512)),
        "steps/is_first": [t == 0 for t in range(n_steps)],
        "episode_metadata/file_path": [b"/recorded/out.npy"],
        "episode_metadata/has_image_0": [False],
    }


def oxe_steps_of(n_steps: int) -> dict[str, Any]:
    """Flat features of an OXE `bridge` record."""
    flat = steps_of(n_steps, cameras=1)
    action = np.asarray(flat["steps/action"])
    return {
        "steps/observation/image": flat["steps/observation/image_0"],
        "steps/observation/state": flat["steps/observation/state"],
        "steps/observation/natural_language_instruction": flat["steps/language_instruction"],
        "steps/action/world_vector": action[:, :3],
        "steps/action/rotation_delta": action[:, 3:6],
        "steps/action/open_gripper": action[:, 6] > 0.5,
        "steps/action/terminate_episode": np.eye(n_steps)[-1],
        "steps/is_first": flat["steps/is_first"],
        "steps/reward": np.zeros(n_steps),
    }


def depth_png(value: int, dtype: type = np.uint16) -> bytes:
    return png(np.full(SIZE, value, dtype))


def example(flat: dict[str, Any]) -> bytes:
    """A serialized `tf.train.Example`."""
    message = tf_example_pb2.Example()
    for name, values in flat.items():
        feature = message.features.feature[name]
        if isinstance(values, list) and values and isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif np.asarray(values).dtype.kind == "f":
            feature.float_list.value.extend(np.ravel(values).tolist())
        else:
            feature.int64_list.value.extend(int(value) for value in np.ravel(values))
    return message.SerializeToString()


def frame(record: bytes) -> bytes:
    """A record in TFRecord framing."""
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked_crc(length)) + record + struct.pack("<I", masked_crc(record))


def write_build(
    root: Path,
    splits: dict[str, list[list[bytes]]],
    features: Any = None,
    *,
    promised: dict[str, list[int]] | None = None,
) -> Path:
    """A build with the records of each file of each split; `promised` is dataset_info.json's count of them."""
    root.mkdir(parents=True, exist_ok=True)
    (features or bridge_features()).save_config(str(root))
    for split, shards in splits.items():
        for number, records in enumerate(shards):
            path = root / f"bridge_dataset-{split}.tfrecord-{number:05d}-of-{len(shards):05d}"
            path.write_bytes(b"".join(map(frame, records)))
    counts = promised or {split: [len(records) for records in shards] for split, shards in splits.items()}
    entries = [{"name": split, "shardLengths": [str(n) for n in lengths]} for split, lengths in counts.items()]
    (root / "dataset_info.json").write_text(json.dumps({"name": "bridge_dataset", "splits": entries}))
    return root
