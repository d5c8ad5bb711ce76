"""What the features of an RLDS build mean, and its records taken apart by them, with tensorflow-datasets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import CorruptDataError, LengthMismatchError, MissingDataError, SourceError
from flows.sources.files import natural_key, read_json
from flows.sources.tfrecord import Frame, peek_features

OXE_ACTION = ("world_vector", "rotation_delta", "open_gripper")
"""Parts of Open X-Embodiment's action dict, in the order of the 7 columns made of them."""

_SCALARS = ("is_first", "is_last", "is_terminal", "discount", "reward")
_LANGUAGE = ("language_instruction", "observation/natural_language_instruction", "observation/language_instruction")
_STATE_LIKE = re.compile(r"state|joint|pose|position|gripper|proprio", re.IGNORECASE)
_TFDS_CLASSES = "tensorflow_datasets."


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """One record, its images still encoded. Row t of everything belongs to step t.

    Attributes:
        images: camera -> T encoded images.
        depth: camera -> T encoded depth maps.
        action: (T, A) float32 or None.
        state: (T, S) float32 or None.
        language_instruction: the first step's, "" where there is none.
        recorded_as: the file_path of the episode's metadata, "" where there is none.
    """

    images: Mapping[str, list[bytes]]
    depth: Mapping[str, list[bytes]]
    action: NDArray[np.float32] | None
    state: NDArray[np.float32] | None
    language_instruction: str
    recorded_as: str

    def __len__(self) -> int:
        return len(next(iter(self.images.values())))


class Layout:
    """The features of one build that an episode is made of.

    Attributes:
        cameras: names of the RGB image features of `observation`, in name order.
        action_columns: what the columns of the action are made of, in words.
        has_action, has_state: whether there is one of a form that is read.
        has_bridge_views: whether the views are those of BridgeData's own build.
        unread: "action" and "state" -> what there is instead, where there is something that is not read.
    """

    def __init__(self, root: Path) -> None:
        """Reads `root`/features.json.

        Raises:
            SourceError: it cannot be used, or has no image.
        """
        self._features = _load_features(root)
        steps = _children(_children(self._features).get("steps"))
        observation = _children(steps.get("observation"))
        images = {name: feature for name, feature in observation.items() if _n_channels(feature)}
        self.cameras = tuple(
            sorted((name for name in images if _n_channels(images[name]) == 3 and not _is_depth(name)), key=natural_key)
        )
        if not self.cameras:
            raise SourceError(
                f"{root / 'features.json'} has no RGB image under steps/observation; it has {sorted(observation)}"
            )
        depth_of = {name.replace("image", "depth", 1): name for name in self.cameras}
        self._depth = {name: depth_of[name] for name in images if name in depth_of}
        self._state = self.has_state = "state" in observation and not _children(observation["state"])
        action = _children(steps.get("action"))
        self._oxe = set(OXE_ACTION) <= set(action)
        self._action = self.has_action = self._oxe or ("action" in steps and not action)
        self.has_bridge_views = {"image_0", "image_1", "image_2", "image_3", "state"} <= set(observation)
        self.unread = _unread(action, observation, has_action=self._action, has_state=self._state)
        self.action_columns = " ".join(OXE_ACTION) if self._oxe else "as stored"
        flat = {*steps, *(f"observation/{name}" for name in observation)}
        self._language = next((name for name in _LANGUAGE if name in flat), None)
        self._scalar = next((name for name in _SCALARS if name in steps), None)
        self._reader, self._decoders = self._select(steps, observation)

    def _select(self, steps: Mapping[str, Any], observation: Mapping[str, Any]) -> tuple[Any, Any]:
        """The features that are read, no embeddings or the like, and the decoders that leave images encoded."""
        import tensorflow_datasets as tfds

        encoded = [*self.cameras, *self._depth]
        seen = {name: observation[name] for name in encoded}
        chosen: dict[str, Any] = {"observation": seen}
        if self._state:
            seen["state"] = observation["state"]
        if self._action:
            chosen["action"] = {name: steps["action"][name] for name in OXE_ACTION} if self._oxe else steps["action"]
        if self._language:
            *inside, name = self._language.split("/")
            (seen if inside else chosen)[name] = (observation if inside else steps)[name]
        top: dict[str, Any] = {"steps": tfds.features.Dataset(chosen)}
        metadata = _children(_children(self._features).get("episode_metadata"))
        if "file_path" in metadata:
            top["episode_metadata"] = {"file_path": metadata["file_path"]}
        skip = {name: tfds.decode.SkipDecoding() for name in encoded}
        return tfds.features.FeaturesDict(top), {"steps": {"observation": skip}}

    def peek(self, file: int, frame: Frame) -> tuple[int | None, str]:
        """Number of steps (None where nothing says it) and instruction of a record, most of it unread."""
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorflow_datasets.proto import tf_feature_pb2

        if frame.length is None:
            return None, ""
        names = {role: f"steps/{name}" for role, name in (("count", self._scalar), ("text", self._language)) if name}
        found = peek_features(file, frame, set(names.values()))
        try:
            features = {
                role: tf_feature_pb2.Feature.FromString(found[name]) for role, name in names.items() if name in found
            }
        except DecodeError:  # `open` says what is wrong
            return None, ""
        texts = features["text"].bytes_list.value if "text" in features else []
        counted = features.get("count", features.get("text"))
        lists = (counted.int64_list, counted.float_list, counted.bytes_list) if counted is not None else ()
        n_steps = max((len(values.value) for values in lists), default=0)
        return n_steps or None, _text(texts[0]) if texts else ""

    def decode(self, record: bytes, name: str) -> Steps:
        """The record taken apart, images left as they are; messages call it `name`.

        Raises:
            MissingDataError: it has no steps.
            LengthMismatchError: its features disagree about their number.
            CorruptDataError: it does not fit the features.
        """
        from google.protobuf.message import DecodeError

        try:
            example = self._reader.deserialize_example_np(record, decoders=self._decoders)
            steps = list(example["steps"])
            if steps:
                return self._gather(steps, _text(example.get("episode_metadata", {}).get("file_path", "")))
        except (
            *(ValueError, LookupError, AttributeError, TypeError, RuntimeError, OverflowError, MemoryError),
            *(AssertionError, DecodeError, SystemError),
        ) as error:
            # tensorflow-datasets has no exception of its own for this.
            kind = LengthMismatchError if "length of elements" in str(error) else CorruptDataError
            raise kind(f"{name} does not fit features.json: {error}; fetch the dataset again") from error
        raise MissingDataError(f"{name} has no steps")

    def _gather(self, steps: list[Any], recorded_as: str) -> Steps:
        language = _text(_at(steps[0], self._language)) if self._language else ""
        return Steps(
            images={camera: [step["observation"][camera] for step in steps] for camera in self.cameras},
            depth={camera: [step["observation"][name] for step in steps] for name, camera in self._depth.items()},
            action=_table([self._action_row(step["action"]) for step in steps]) if self._action else None,
            state=_table([step["observation"]["state"] for step in steps]) if self._state else None,
            language_instruction=language,
            recorded_as=recorded_as,
        )

    def _action_row(self, action: Any) -> Any:
        if not self._oxe:
            return action
        return np.concatenate([np.ravel(action[name]).astype(np.float32) for name in OXE_ACTION])


def _load_features(root: Path) -> Any:
    """The FeaturesDict of a build.

    tensorflow-datasets imports whatever module features.json names for a feature; only its own are let through.
    """
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]

    path = root / "features.json"
    try:
        foreign = sorted(name for name in _class_names(read_json(path)) if not name.startswith(_TFDS_CLASSES))
        if foreign:
            raise SourceError(f"{path} uses features that are not tensorflow-datasets' own: {foreign}")
        return tfds.features.FeaturesDict.from_config(os.fspath(root))
    except SourceError:
        raise
    except (
        *(OSError, ValueError, LookupError, AttributeError, TypeError, ImportError, RecursionError, OverflowError),
        *(AssertionError, ParseError, RuntimeError, SystemError),
    ) as error:
        raise SourceError(f"{path} cannot be used: {error!r}; fetch the dataset again") from error


def _class_names(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {str(value["pythonClassName"])} if "pythonClassName" in value else set()
        return own.union(*map(_class_names, value.values()))
    return set().union(*map(_class_names, value)) if isinstance(value, list) else set()


def _children(feature: Any) -> dict[str, Any]:
    """The named parts of a feature (of a step, for a dataset of steps), none where it has none."""
    inner = getattr(feature, "feature", feature)
    return dict(inner.items()) if hasattr(inner, "items") else {}


def _n_channels(feature: Any) -> int:
    import tensorflow_datasets as tfds

    return int(feature.shape[-1]) if isinstance(feature, tfds.features.Image) else 0


def _unread(
    action: Mapping[str, Any], observation: Mapping[str, Any], *, has_action: bool, has_state: bool
) -> dict[str, str]:
    import tensorflow_datasets as tfds

    images = {name for name in observation if isinstance(observation[name], tfds.features.Image)}
    numbers = sorted(name for name in observation if name not in images and _STATE_LIKE.search(name))
    found = {}
    if action and not has_action:
        found["action"] = f"the build has {', '.join(f'action/{name}' for name in sorted(action))}, which are not read"
    if numbers and not has_state:
        found["state"] = f"the build has {', '.join(numbers)} under steps/observation, which are not read"
    return found


def _is_depth(name: str) -> bool:
    return name.startswith("depth")


def _at(step: Any, path: str) -> Any:
    for name in path.split("/"):
        step = step[name]
    return step


def _table(rows: list[Any]) -> NDArray[np.float32]:
    table = np.asarray(rows, np.float32)
    return table if table.ndim == 2 else table.reshape(len(rows), -1)


def _text(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
