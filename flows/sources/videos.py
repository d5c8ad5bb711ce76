"""Plain videos: one file, or a folder of them, each file an episode without states or actions.

An episode is every picture of its file, in presentation order, whatever the file's time stamps say. A file's header
may be wrong about its length, so opening an episode decodes the file once without colour conversion to count frames
and to find out whether it is whole. Iterating decodes it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from extractors.errors import SourceError, UnknownCameraError
from extractors.types import Episode
from flows.config import SourceConfig
from flows.sources.base import EpisodeInfo, LeftOut, unique_id
from flows.sources.decode_order import DecodeOrder
from flows.sources.folders import Below, shown_path, some
from flows.sources.lerobot_tables import natural_order
from flows.sources.video import VideoFrames, scan_video

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".3gp", ".flv"),
    *(".wmv", ".asf", ".ogv"),
)
UNREAD_SUFFIXES = (
    *(".gif", ".h264", ".264", ".h265", ".265", ".hevc", ".av1", ".ivf", ".mxf", ".vob", ".y4m", ".mjpeg", ".bag"),
)
"""Files that hold moving pictures too, and that are not read."""
CAMERA = "video"

# Manipulation verbs as BridgeData V2, DROID and Open X-Embodiment instructions begin with them.
_VERBS = re.compile(
    r"close|cover|drag|drop|empty|fill|flip|fold|grab|grasp|hang|insert|lay|lift|move|open|pick|place|plug|"
    r"pour|press|pull|push|put|reach|remove|rotate|set|slide|squeeze|stack|stir|sweep|take|tilt|topple|"
    r"touch|turn|twist|unfold|unplug|unstack|wipe|zip",
    re.IGNORECASE,
)


def is_video_folder(path: Path) -> bool:
    """Whether `path` is a video, or a folder with a video somewhere below it, or in a linked folder below it."""
    return any(_is_video(file) for file in Below(path, follow_links=True).walk())


def instruction_from_name(stem: str) -> str:
    """The instruction in a file's name: its words from the first manipulation verb on, "" where there is none.

    `bridge_data_v1_berkeley_toykitchen1_put_banana_on_plate` gives "put banana on plate". Names of collections
    (`..._drawer_pnp_01`, `..._push_sweep_toykitchen6_00`) do not count as instructions: a verb must be followed by a
    word that is neither a verb nor a name with digits, and a running number at the end is dropped.
    """
    words = [word for word in re.split(r"[\s_\-.]+", stem) if word]
    while words and words[-1].isdigit():
        words.pop()
    for start, word in enumerate(words):
        if _VERBS.fullmatch(word):
            task = words[start:]
            names_collection = any(re.search(r"\d|^pnp$", other, re.IGNORECASE) for other in task)
            if len(task) < 2 or _VERBS.fullmatch(task[1]) or names_collection:
                return ""
            return " ".join([word.lower(), *task[1:]])
    return ""


class VideoFolderSource:
    """All videos below a folder, in natural order of their paths; or one video file."""

    camera_aliases: tuple[str, ...] = ()

    def __init__(self, path: Path, settings: SourceConfig | None = None) -> None:
        """The videos at `path`.

        Raises:
            SourceError: there is none.
        """
        path = Path(path)
        self._root = path if path.is_dir() else path.parent
        settings = settings or SourceConfig()
        self._below = Below(path, follow_links=settings.follow_links)
        self._files = sorted((file for file in self._below.files if _is_video(file)), key=natural_order)
        if not self._files:
            linked = f"; linked folders are not looked into: {self._below.links[0]}" if self._below.links else ""
            raise SourceError(
                f"no video ({', '.join(SUFFIXES)}) at {path}{linked}; name a video or a folder that has one"
            )
        self._in_order = DecodeOrder()
        self._name = path.resolve().name if path.is_dir() else path.stem
        self._by_key = {shown_path(file.relative_to(self._root).as_posix()): file for file in self._files}

    @property
    def kind(self) -> str:
        """Always "videos"."""
        return "videos"

    @property
    def dataset(self) -> str:
        """The folder's name, or the file's without its suffix."""
        return self._name

    @property
    def root(self) -> Path:
        """The folder that episode paths are relative to."""
        return self._root

    def episodes(self) -> Iterator[EpisodeInfo]:
        """Every video; opens none, so neither the number of frames nor the rate is known yet."""
        taken: set[str] = set()
        for index, file in enumerate(self._files):
            relative = shown_path(file.relative_to(self._root).as_posix())
            task = instruction_from_name(file.stem)
            # a.mp4 and a.mkv, or a/b.mp4 and a_b.mp4, would share an id.
            identifier = unique_id(relative.removesuffix(file.suffix), relative, taken)
            yield EpisodeInfo(
                episode_id=identifier,
                episode_index=index,
                n_frames=None,
                language_instruction=task,
                cameras=(CAMERA,),
                fps=None,
                files=(file,),
                key={"path": relative},
                tags=("language-from-name",) if task else ("no-language",),
            )

    def reread(self, episode: Episode) -> Iterator[Any] | None:
        """The pictures of the file, counted by the decoder that `verify` shares with no reader."""
        path = str(episode.provenance["path"])
        return self._in_order.pictures(self._by_key.get(path, self._root / path), range(episode.n_frames))

    def left_out(self) -> tuple[LeftOut, ...]:
        """Linked folders, and files that look like videos and are of a kind that is not read."""
        unread = sorted(file.name for file in self._below.files if file.suffix.lower() in UNREAD_SUFFIXES)
        out = [LeftOut("episodes", f"{len(unread)} files of kinds that are not read: {some(unread)}")] if unread else []
        return (*self._below.left_out(), *out)

    def open(self, info: EpisodeInfo, camera: str | None = None) -> Episode:
        """One video as an episode; decodes it once to count its frames.

        Raises:
            CorruptDataError: the file is cut, damaged, or no video.
            MissingDataError: the file has gone.
            UnknownCameraError: another camera than "video" was asked for.
        """
        if camera not in (None, CAMERA):
            raise UnknownCameraError(f"no camera named {camera!r} in a plain video; it has one, {CAMERA!r}")
        file = self._by_key.get(info.key["path"], self._root / info.key["path"])
        scan = scan_video(file)
        tags = {*info.tags, *scan.tags, *(["one-frame"] * (len(scan.times) == 1))}
        return Episode(
            episode_id=info.episode_id,
            episode_index=info.episode_index,
            camera_name=CAMERA,
            language_instruction=info.language_instruction,
            fps=scan.fps,
            pixels=VideoFrames(file, np.arange(len(scan.times)), size=scan.size),
            timestamp=scan.times,
            provenance={
                "dataset": self.dataset,
                "kind": self.kind,
                "path": info.key["path"],
                "episode_index": info.episode_index,
                "key": dict(info.key),
                "camera": CAMERA,
                "cameras": [CAMERA],
                "frame_ids": list(range(len(scan.times))),
                "frames": {
                    "path": info.key["path"],
                    "alignment": "every frame of the file, in presentation order",
                    "first_picture": 0,
                    "pictures": len(scan.times),
                },
            },
            tags=tuple(sorted(tags)),
        )


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.name[0] != "." and file.is_file()
