"""What every source offers: a lazy list of episodes, and one episode opened at a time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from extractors.printable import printable
from extractors.types import Episode

_MAX_ID = 180  # leaves room for a camera's name and a suffix in a file name of 255 bytes
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class EpisodeInfo:
    """What can be said about one episode without decoding an image.

    Attributes:
        episode_id: `[A-Za-z0-9_.-]+`, unique in the source, without the camera.
        episode_index: LeRobot's `episode_index`, else the position in sorted order.
        n_frames: the number of frames the metadata gives, None where nothing says it.
        language_instruction: "" where there is none.
        cameras: the views this episode has, in name order; may include ones that turn out to be black.
        fps: frames per second as declared, None where nothing says it.
        files: the files that the episode is read from; their sizes and times recognise it on the next run. May be
            listed only when looked at.
        key: how the source finds the episode again (relative path, record number, ...). JSON types only.
        tags: what the metadata already tells: "no-language", "wrong-totals", ...
    """

    episode_id: str
    episode_index: int
    n_frames: int | None
    language_instruction: str
    cameras: tuple[str, ...]
    fps: float | None
    files: Sequence[Path]
    key: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that a source has and no packet of it gets.

    Attributes:
        signal: what the packets lack: "action", "state", "gripper", a camera, "episodes".
        found: what the source has instead, in words.
        setting: the `--set` argument that would take it, "" where none does.
    """

    signal: str
    found: str
    setting: str = ""

    def __str__(self) -> str:
        way = f"; take it with --set {self.setting}" if self.setting else ""
        return printable(f"{self.signal}: {self.found}{way}")


class Source(Protocol):
    """A dataset on disk.

    Listing is lazy and decodes no image. An episode whose data turn out to be bad is listed all the same and fails
    in `open`, or while its frames are iterated, with an `EpisodeError`.
    """

    @property
    def kind(self) -> str:
        """One of "bridge-raw", "rlds", "lerobot-v2.0", "lerobot-v2.1", "lerobot-v3.0" or "videos"."""
        ...

    @property
    def dataset(self) -> str:
        """The dataset's name, for provenance and run names."""
        ...

    @property
    def root(self) -> Path:
        """The folder that relative paths in provenance start from."""
        ...

    @property
    def camera_aliases(self) -> tuple[str, ...]:
        """Camera names that `open` takes beside the ones `EpisodeInfo.cameras` lists."""
        ...

    def episodes(self) -> Iterator[EpisodeInfo]:
        """Every episode, in index order."""
        ...

    def left_out(self) -> tuple[LeftOut, ...]:
        """What the source has and packets will lack, by its listing alone; nothing is silently dropped."""
        ...

    def reread(self, episode: Episode) -> Iterator[Any] | None:
        """The frames of an episode that `open` gave, found in another way than `open` finds them.

        None where its frames are files or cells of their own, or the two ways would be one.
        """
        ...

    def open(self, info: EpisodeInfo, camera: str | None = None) -> Episode:
        """One episode seen by `camera`, or by the first fixed, non-black camera in name order.

        Raises:
            EpisodeError: the episode cannot be used; the message says why.
            UnknownCameraError: this episode has no camera of that name.
        """
        ...


def safe_id(text: str) -> str:
    """`text` as an episode id: path separators become "_", nothing can climb out of a folder.

    Text too long for a file name is cut, and text without a single allowed character named "episode"; both get a digest
    of the whole text.
    """
    identifier = _UNSAFE.sub("_", text.replace("/", "_").replace("\\", "_")).strip("._-")
    identifier = re.sub(r"\.{2,}", ".", identifier)
    if identifier and len(identifier) <= _MAX_ID:
        return identifier
    return f"{identifier[:_MAX_ID] or 'episode'}-{_digest(text)}"


def unique_id(text: str, path: str, taken: set[str]) -> str:
    """`safe_id` of `text`, with a digest of the episode's `path` where `taken` has that id; `taken` gets the id.

    "a b" and "a_b", or "A" and "a" on some disks, would else be one packet. A digest and not a number: what is added to
    the source elsewhere does not change it.
    """
    identifier = safe_id(text)
    if identifier.casefold() in taken:
        identifier = f"{identifier}-{_digest(path)}"
    taken.add(identifier.casefold())
    return identifier


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]
