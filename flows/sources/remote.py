"""A source behind a URI: its small files are copied here at once, images, videos and tables when an episode is opened.

The copy is a folder of the cache with the data set's own name, so that packets come out with the bytes of those made
from a local folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

from extractors.errors import (
    ConfigError,
    MissingDataError,
    OutputError,
    RemoteError,
    RemoteMissingError,
    SourceError,
    UnreachableDataError,
)
from extractors.types import Episode
from flows.remote.files import Remote, RemoteFile, cache_folder
from flows.remote.mirror import Mirror, clean_while_alone, without_clashes
from flows.sources.base import EpisodeInfo, LeftOut, Source

_READ_WHEN_LISTING = (".json", ".jsonl", ".txt")
_PICTURES = (".jpg", ".jpeg", ".png")
_RLDS_MARK, _LEROBOT_MARK = "features.json", "meta/info.json"


class RemoteSource:
    """A source whose files are fetched when they are needed; `local` reads the copies.

    Attributes:
        uri: as the user gave it.
    """

    def __init__(self, uri: str, local: Source, mirror: Mirror, held: ExitStack) -> None:
        self.uri = uri
        self._local = local
        self._mirror = mirror
        self._held = held  # ends with the process, as the copies are in use until then

    def __getstate__(self) -> dict[str, Any]:
        # The process that opened the source outlives those that it starts, and holds the copies for all.
        return {**self.__dict__, "_held": ExitStack()}

    @property
    def kind(self) -> str:
        """That of the data set."""
        return self._local.kind

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self._local.dataset

    @property
    def root(self) -> Path:
        """The folder of the copies."""
        return self._local.root

    @property
    def camera_aliases(self) -> tuple[str, ...]:
        """Those of the data set."""
        return self._local.camera_aliases

    def episodes(self) -> Iterator[EpisodeInfo]:
        """Every episode, as its small files list it."""
        return self._local.episodes()

    def left_out(self) -> tuple[LeftOut, ...]:
        """As of the data set."""
        return self._local.left_out()

    def reread(self, episode: Episode) -> Iterator[Any] | None:
        """As of the data set; the files are here since the episode was opened."""
        return self._local.reread(episode)

    def open(self, info: EpisodeInfo, camera: str | None = None) -> Episode:
        """One episode, whose files are fetched first where they are not here yet.

        Raises:
            MissingDataError: a file is gone from the remote.
            UnreachableDataError: a file cannot be fetched now, or changed since it was listed.
            EpisodeError, UnknownCameraError: as of the data set.
        """
        names = [file.relative_to(self._mirror.root).as_posix() for file in _needed(info, camera, self._mirror.root)]
        try:
            self._mirror.fetch(names)
        except RemoteMissingError as error:
            raise MissingDataError(f"{error}; it was there when the source was listed") from error
        except RemoteError as error:
            raise UnreachableDataError(str(error)) from error
        return self._local.open(info, camera)


class Copies:
    """The copies of what is behind a URI, in the cache.

    Attributes:
        path: what a local source is opened at: the folder, or the file.
    """

    def __init__(self, uri: str) -> None:
        """Lists the remote and copies what listing its episodes reads.

        Raises:
            SourceError: it cannot be listed or copied, or holds nothing.
        """
        try:
            remote = Remote(uri)
            listing = remote.files()
            if not listing:
                raise SourceError(f"source {uri} does not exist, or is an empty folder; check the name")
            folder = cache_folder() / "sources" / hashlib.sha256(remote.uri.encode()).hexdigest()[:16]
            # A data set may be called "work".
            work = folder / ".work"
            self.held = ExitStack()
            self.held.enter_context(clean_while_alone(work))
            # One file stands in a folder of its own.
            one_file = set(listing) == {""}
            if one_file:
                parent, _, name = remote.uri.rpartition("/")
                remote, listing = Remote(parent), {name: listing[""]}
            self.mirror = Mirror(remote, folder / ("file" if one_file else remote.name), work)
            self.path = self.mirror.root / name if one_file else self.mirror.root
            kept = without_clashes(listing)
            self.mirror.refresh(kept, lambda name: _is_eager(name, kept), lambda name: True)
        except (RemoteError, OutputError, ConfigError) as error:
            raise SourceError(f"source {error}") from error


def _is_eager(name: str, listing: Mapping[str, RemoteFile]) -> bool:
    """Whether a file is read when episodes are listed; TFRecords are read through, as nothing indexes them."""
    if _RLDS_MARK in listing and "/" not in name:
        return True
    if _LEROBOT_MARK in listing:
        # Loose pictures are named in rows alone: no listing tells which episode they belong to.
        return name.startswith("meta/") or PurePosixPath(name).suffix.lower() in _PICTURES
    return PurePosixPath(name).suffix.lower() in _READ_WHEN_LISTING


def _needed(info: EpisodeInfo, camera: str | None, root: Path) -> list[Path]:
    """The episode's files without the pictures of cameras that are surely not looked at."""
    named = [name for name in info.cameras if camera is not None and (name == camera or name.endswith(f".{camera}"))]
    if len(named) != 1:
        return list(info.files)
    others = set(info.cameras) - set(named)
    # Below the root only: a data set may be called as a camera is.
    return [file for file in info.files if not others & set(file.relative_to(root).parts)]
