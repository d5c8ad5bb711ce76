"""RLDS: TFRecord files of tensorflow-datasets, read without TensorFlow.

How rows are laid out is told by the features. What is BridgeData's own (names of the state's numbers, the gripper's
place and sense, camera models, the rate) is said of builds that are BridgeData's by name or by their four views, and
of no other robot's.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from extractors.errors import (
    BlankCameraError,
    CorruptDataError,
    MissingDataError,
    SourceError,
    UnknownCameraError,
)
from extractors.types import Episode
from flows.config import SourceConfig
from flows.sources.base import EpisodeInfo, LeftOut, safe_id
from flows.sources.bridge_folders import CAMERA_MODELS
from flows.sources.cells import text, whole
from flows.sources.files import read_json
from flows.sources.images import LazyFrames, decode_depth, decode_rgb, is_16_bit_png, is_blank
from flows.sources.rlds_features import Layout, Steps
from flows.sources.tfrecord import Frame, list_frames, read_record

logger = logging.getLogger(__name__)

FPS = 5.0
"""BridgeData's control rate (dataset paper); the files carry no time, so other builds get it with a tag."""

STATE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")

WRIST_CAMERA = "image_3"
"""The wrist view of `bridge_dataset` builds."""

_SHARD = re.compile(r"(?P<name>.+)-(?P<split>[^-.]+)\.tfrecord-(?P<shard>[0-9]{5})-of-(?P<shards>[0-9]{5})")


def is_rlds(path: Path) -> bool:
    """Whether `path` is a folder with features.json and TFRecord files."""
    return (path / "features.json").is_file() and any(_SHARD.fullmatch(name) for name in os.listdir(path))


class RldsSource:
    """One version folder of a tensorflow-datasets build.

    All splits are listed, in name order; what a split repeats of another is listed twice. Cameras are named as the
    image features are (image_0, ...); "wrist" is accepted for image_3.
    """

    kind = "rlds"
    camera_aliases = ("wrist",)

    def __init__(self, root: Path, settings: SourceConfig | None = None) -> None:
        """Reads features.json and dataset_info.json.

        Raises:
            SourceError: features.json cannot be used, or no image is among the features.
        """
        self.root = root
        self._layout = Layout(root)
        self._promised, self._name = _read_totals(root)
        self._splits = _find_shards(root, self._promised)
        self._is_bridge = "bridge" in self.dataset.lower() or self._layout.has_bridge_views
        self._gripper_open = (settings or SourceConfig()).gripper_open
        self._beside = [path for path in (root / "features.json", root / "dataset_info.json") if path.is_file()]

    @property
    def dataset(self) -> str:
        """The name in dataset_info.json, else that of the files."""
        return self._name or next(iter(self._splits.values()))[0].name.split(".tfrecord")[0].rpartition("-")[0]

    def episodes(self) -> Iterator[EpisodeInfo]:
        """Every record, lazily; of each, the instruction and the number of steps are read.

        Records that dataset_info.json promises and a file lacks are listed too, and fail in `open`. Those of files
        that were not fetched are counted, so that ids stay when they come, and not listed: see `left_out`.
        """
        index = 0
        for split, shards in self._splits.items():
            number = 0
            for shard, path in enumerate(shards):
                if not path.is_file():
                    lengths = self._promised.get(split, ())
                    absent = lengths[shard] if shard < len(lengths) else 0
                    index, number = index + absent, number + absent
                    continue
                for record, (frame, n_frames, language) in enumerate(self._records(split, shard, path)):
                    yield self._info(index, f"{split}-{number:05d}", path, (split, record), frame, n_frames, language)
                    index += 1
                    number += 1

    def _records(self, split: str, shard: int, path: Path) -> Iterator[tuple[Frame | None, int | None, str]]:
        """Place, number of steps and instruction of each record of a file, then the ones it should have besides."""
        lengths = self._promised.get(split, ())
        promised = lengths[shard] if shard < len(lengths) else 0
        n_listed = 0
        with path.open("rb", buffering=0) as file:
            for frame in list_frames(file.fileno()):
                yield (frame, *self._layout.peek(file.fileno(), frame))
                n_listed += 1
        for _ in range(n_listed, promised):
            yield None, None, ""

    def reread(self, episode: Episode) -> None:
        """None: every frame is an image of its own."""

    def left_out(self) -> tuple[LeftOut, ...]:
        """Files that were not fetched, and actions or states in a form that is not read."""
        out = []
        for split, shards in self._splits.items():
            absent = [i for i, path in enumerate(shards) if not path.is_file()]
            if absent:
                lengths = self._promised.get(split, ())
                lost = sum(lengths[i] for i in absent if i < len(lengths))
                counted = f", {lost} episodes" if lost else ""
                found = f"{len(absent)} of {len(shards)} files of split {split} are missing{counted}"
                out.append(LeftOut("episodes", found))
        return (*out, *(LeftOut(signal, found) for signal, found in self._layout.unread.items()))

    def _info(
        self,
        index: int,
        name: str,
        path: Path,
        place: tuple[str, int],
        frame: Frame | None,
        n_frames: int | None,
        language: str,
    ) -> EpisodeInfo:
        split, record = place
        return EpisodeInfo(
            episode_id=safe_id(name),
            episode_index=index,
            n_frames=n_frames,
            language_instruction=language,
            cameras=self._layout.cameras,
            fps=FPS,
            files=(path, *self._beside),
            key={"split": split, "file": path.name, "record": record, "offset": frame.offset if frame else None},
            tags=(*_tags(n_frames, language), *self._own_tags),
        )

    @property
    def _own_tags(self) -> tuple[str, ...]:
        lacking = {"no-action": not self._layout.has_action, "no-state": not self._layout.has_state}
        return (*(tag for tag, lacks in lacking.items() if lacks), *(() if self._is_bridge else ("fps-assumed",)))

    def open(self, info: EpisodeInfo, camera: str | None = None) -> Episode:
        """One record seen by `camera`, or by the first fixed camera in name order that is not all black.

        A wrist camera is the default only where no fixed one shows anything; the tag "wrist-camera" says so.

        Raises:
            UnknownCameraError: the build has no camera of that name.
            BlankCameraError: the chosen camera is black in every frame.
            MissingDataError, CorruptDataError, LengthMismatchError: see the message.
        """
        path = self.root / str(info.key["file"])
        name = f"record {info.key['record']} of {path.name}"
        if info.key["offset"] is None:
            _raise_absent(path, name)
        steps = self._layout.decode(read_record(path, int(info.key["offset"]), name), name)
        chosen, pixels = _choose_camera(steps, name, camera)
        depth, depth_tags = _recorded_depth(steps, name, chosen)
        action = _check_action(steps.action)
        state = _check_state(steps.state, name)
        gripper = _gripper(state, self._gripper_open) if self._is_bridge else None
        return Episode(
            episode_id=info.episode_id,
            episode_index=info.episode_index,
            camera_name=chosen,
            language_instruction=steps.language_instruction,
            fps=FPS,
            pixels=pixels,
            timestamp=np.arange(len(steps)) / FPS,
            action=action.rows,
            action_valid=action.valid,
            state=state,
            state_names=STATE_NAMES if gripper is not None else (),
            gripper=gripper,
            recorded_depth=depth,
            provenance=self._provenance(info, steps, chosen, action),
            tags=(
                *_tags(len(steps), steps.language_instruction, chosen),
                *action.tags,
                *depth_tags,
                *self._own_tags,
            ),
        )

    def _provenance(self, info: EpisodeInfo, steps: Steps, chosen: str, action: _Actions) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "kind": self.kind,
            "path": info.key["file"],
            "key": f"{info.key['split']}/{info.key['record']}",
            "episode_index": info.episode_index,
            "camera": chosen,
            "cameras": list(self._layout.cameras),
            "camera_model": CAMERA_MODELS.get(chosen) if self._is_bridge else None,
            "frame_ids": list(range(len(steps))),
            "alignment": action.alignment,
            "action_columns": self._layout.action_columns,
            "pad_action": action.padded,
            "timestamp_from": "index / 5 Hz",
            "recorded_as": steps.recorded_as,
        }


def _tags(n_frames: int | None, language: str, camera: str = "") -> tuple[str, ...]:
    tags = {"no-language": not language, "one-frame": n_frames == 1, "wrist-camera": _is_wrist(camera)}
    return tuple(tag for tag, holds in tags.items() if holds)


def _is_wrist(camera: str) -> bool:
    return camera == WRIST_CAMERA or "wrist" in camera or "hand" in camera


def _raise_absent(path: Path, name: str) -> NoReturn:
    if path.is_file():
        raise CorruptDataError(
            f"{name} is not there, though dataset_info.json counts it: the file is cut; fetch it again"
        )
    raise MissingDataError(f"{name}: the file is missing; fetch it")


def _choose_camera(steps: Steps, name: str, camera: str | None) -> tuple[str, LazyFrames]:
    candidates = sorted(steps.images, key=_is_wrist)  # stable: fixed ones first, in name order
    if camera is not None:
        wrists = [there for there in candidates if _is_wrist(there)]
        candidates = [there for there in candidates if there == camera] or (wrists[:1] if camera == "wrist" else [])
        if not candidates:
            raise UnknownCameraError(f"{name} has no camera '{camera}'; it has {list(steps.images)}")
    for there in candidates:
        pixels = _frames(steps.images[there], f"{there} of {name}", decode_rgb, (3,))
        if not is_blank(pixels):
            return there, pixels
    raise BlankCameraError(
        f"{', '.join(candidates)} of {name} is black in every frame; choose another --camera of {list(steps.images)}"
    )


def _frames(
    encoded: Sequence[bytes], name: str, decode: Callable[[bytes, str], NDArray[Any]], channels: tuple[int, ...] = ()
) -> LazyFrames:
    names = [f"step {step}, {name}" for step in range(len(encoded))]
    return LazyFrames(names, encoded.__getitem__, decode, channels)


def _recorded_depth(steps: Steps, name: str, camera: str) -> tuple[LazyFrames | None, tuple[str, ...]]:
    """The depth maps that go with `camera`: 16-bit PNG, taken as millimetres, as RealSense cameras record them.

    Missing ones are stored as zeros; 8-bit ones have no known unit. Neither is depth.
    """
    encoded = steps.depth.get(camera)
    if encoded is None:
        return None, ()
    frames = _frames(encoded, f"depth of {camera} of {name}", decode_depth)
    if not is_16_bit_png(encoded[0]):
        return None, ("depth-8-bit-ignored",)
    return (frames, ()) if any(depth.any() for depth in frames) else (None, ())


@dataclass(frozen=True, slots=True, eq=False)
class _Actions:
    """Commands by step.

    Attributes:
        rows: (T, A) float32, NaN where not valid; None where the build has no action that is known.
        valid: (T,) bool.
        padded: whether the last row was padding of the build.
        alignment: what was done, in words.
    """

    rows: NDArray[np.float32] | None
    valid: NDArray[np.bool_] | None
    padded: bool
    alignment: str
    tags: tuple[str, ...] = ()


def _check_action(action: NDArray[np.float32] | None) -> _Actions:
    """Commands as stored; a row that is none, all-zero padding at the end or not finite, becomes NaN."""
    if action is None:
        return _Actions(None, None, False, "the build has no action that is known")
    finite = np.all(np.isfinite(action), axis=1)
    padded = not action[-1].any()
    valid = finite & ~(padded & (np.arange(len(action)) == len(action) - 1))
    alignment = "rows as stored, action t was commanded at step t"
    if padded:
        alignment += "; the last row is all zero in the file, padding of the build, so NaN and not valid"
    if not finite.all():
        alignment += f"; not finite in the file, so NaN as a whole and not valid: row {_list(np.flatnonzero(~finite))}"
    rows = np.where(valid[:, None], action, np.float32(np.nan))
    return _Actions(rows, valid, padded, alignment, () if finite.all() else ("nan-action",))


def _list(numbers: NDArray[Any]) -> str:
    return ", ".join(map(str, numbers[:10])) + (" and more" if len(numbers) > 10 else "")


def _check_state(state: NDArray[np.float32] | None, name: str) -> NDArray[np.float32] | None:
    if state is not None and not np.isfinite(state).all():
        rows = np.flatnonzero(~np.all(np.isfinite(state), axis=1))
        raise CorruptDataError(f"state of {name} is not finite in row {_list(rows)}")
    return state


def _gripper(state: NDArray[np.float32] | None, open_end: Any) -> NDArray[np.float32] | None:
    """Opening from the state's last column: 1 open, 0 closed, slightly above 1 possible; None in other states."""
    if state is None or state.shape[1] != len(STATE_NAMES):
        return None
    opening = np.clip(state[:, 6], 0.0, 1.0)
    return np.float32(1) - opening if open_end == 0 else opening


def _read_totals(root: Path) -> tuple[dict[str, tuple[int, ...]], str]:
    """Split -> episodes per file, and the build's name; nothing where there is no usable dataset_info.json."""
    try:
        if not (root / "dataset_info.json").exists():
            return {}, ""
        info = read_json(root / "dataset_info.json")
        totals = {
            text(split["name"]): tuple(whole(length) or 0 for length in split.get("shardLengths", ()))
            for split in info.get("splits", ())
        }
        return totals, text(info.get("name", ""))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        logger.warning("%s/dataset_info.json cannot be used (%r); records are counted in the files alone", root, error)
        return {}, ""


def _find_shards(root: Path, promised: Mapping[str, tuple[int, ...]]) -> dict[str, list[Path]]:
    """Split -> the paths of all its files, the missing ones among them, in order."""
    found: dict[str, dict[int, str]] = {}
    for name in sorted(os.listdir(root)):
        if match := _SHARD.fullmatch(name):
            found.setdefault(match["split"], {}).setdefault(int(match["shards"]), match["name"])
    splits: dict[str, list[Path]] = {}
    for split, builds in sorted(found.items()):
        shard_counts = [n for n in builds if n == len(promised.get(split, ()))] or list(builds)
        if len(shard_counts) != 1:
            raise SourceError(f"{root} holds split {split} more than once, in {sorted(builds)} files; remove one")
        stem, n_shards = builds[shard_counts[0]], shard_counts[0]
        if not 0 < n_shards <= 99_999:
            raise SourceError(f"{root} says in a name that split {split} has {n_shards} files; rename them")
        splits[split] = [root / f"{stem}-{split}.tfrecord-{i:05d}-of-{n_shards:05d}" for i in range(n_shards)]
    if not splits:
        raise SourceError(f"{root} holds no file named <name>-<split>.tfrecord-00000-of-00001")
    return splits
