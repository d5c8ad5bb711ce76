"""An output directory as one value, on this machine or behind a URI: what it holds is read and written through it.

A directory behind a URI has a local stand-in in the cache. The files at the top are copied there when it is opened, and
put back when they change; packets are placeholders of the right size until somebody reads one. `.work` (unfinished
stages, locks, packets that are not put there yet) exists in the stand-in only. Object stores know no locks: one machine
at a time dispatches work on a URI; on that machine the stand-in's locks hold.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from extractors.errors import ConfigError, OutputError
from flows.output.manifest import Manifest
from flows.output.remote_store import RemoteStore
from flows.output.store import Store
from flows.remote.files import PAST_STAMPS, Remote, cache_folder, is_uri
from flows.remote.mirror import CACHE_REMEDY, Mirror, is_placeholder, without_clashes
from flows.remote.places import as_config_errors
from packers.atomic import write_whole
from packers.locks import held

log = logging.getLogger("cuepack")

_TOP = re.compile(r"manifest\.(parquet|csv)|run\.json|config\.yaml|annotations\.csv|selection-[A-Za-z0-9_.-]+\.csv")
_WRITTEN_BY_PEOPLE = re.compile(r"annotations\.csv|selection-[A-Za-z0-9_.-]+\.csv")
_PACKET = re.compile(r"packets/[0-9a-f]{2}/[A-Za-z0-9_.-]+\.h5")


class OutputDirectory(ABC):
    """One output directory.

    Attributes:
        root: the local folder in which its files are read and written; what is written at the top goes through `write`
            or is handed to `put`.
        label: how a person named it: a path or a URI.
        manifest: its rows.
    """

    root: Path
    label: str

    @staticmethod
    def open(named: str | Path) -> OutputDirectory:
        """The directory at a path or URI, whether or not it exists; of a URI the stand-in is brought up to date.

        Raises:
            ConfigError: the URI cannot be used.
        """
        if not is_uri(str(named)):
            return LocalDirectory(Path(named))
        with as_config_errors():
            return RemoteDirectory(str(named))

    @property
    @abstractmethod
    def address(self) -> str:
        """An absolute path or a URI, under which another process opens the same directory."""

    @abstractmethod
    def store(self, *, keep_local: bool = False) -> Store:
        """Its packets, work files and locks. `keep_local`: packets put behind a URI are kept here too."""

    @abstractmethod
    def put(self, path: Path) -> None:
        """Puts a file at the top, just written below `root`, where the directory really is.

        Raises:
            OutputError: it cannot be put there.
        """

    @abstractmethod
    def fetch(self, paths: Iterable[Path]) -> None:
        """Makes sure that these packets below `root` can be read.

        Raises:
            ConfigError: one cannot be fetched.
        """

    @abstractmethod
    def name_of(self, path: Path) -> str:
        """How to name a path below `root` to a person."""

    @abstractmethod
    def undisturbed(self) -> AbstractContextManager[object]:
        """While this is held, no other process takes up what is behind the URI over what is being written here."""

    @property
    def manifest(self) -> Manifest:
        """The rows of the directory."""
        return Manifest(self.root, put=self.put)

    def write(self, name: str, content: bytes | str) -> None:
        """Writes a file at the top, whole or not at all, and puts it where the directory is.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.root / name
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise OutputError(
                f"{self.name_of(path)} cannot be written: {error}; free space, fix permissions, or choose another --out"
            ) from error
        self.put(path)


class LocalDirectory(OutputDirectory):
    """An output directory on a file system of this machine: what is written is there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.label = str(root)

    @property
    def address(self) -> str:
        """The absolute path."""
        return str(self.root.resolve())

    def store(self, *, keep_local: bool = False) -> Store:
        """Its packets, work files and locks."""
        return Store(self.root)

    def put(self, path: Path) -> None:
        """Nothing is left to do."""

    def fetch(self, paths: Iterable[Path]) -> None:
        """Nothing is left to do."""

    def name_of(self, path: Path) -> str:
        """The path."""
        return str(path)

    def undisturbed(self) -> AbstractContextManager[object]:
        """Files are replaced in one step, so readers disturb nobody."""
        return nullcontext()


class RemoteDirectory(OutputDirectory):
    """An output directory behind a URI.

    Attributes:
        remote: where it is.
        mirror: the copies in the stand-in.

    Raises:
        RemoteError, ConfigError: the URI cannot be used.
        OutputError: the cache cannot be written.
    """

    def __init__(self, uri: str) -> None:
        self.remote = Remote(uri)
        self.label = self.remote.uri
        # Two URIs may end in the same name; the digest keeps their stand-ins apart.
        digest = hashlib.sha256(self.label.encode()).hexdigest()[:16]
        self.root = cache_folder().resolve() / "outputs" / f"{self.remote.name}-{digest}"
        self.mirror = Mirror(self.remote, self.root, self.root / ".work" / "tmp")
        self.refresh()

    @property
    def address(self) -> str:
        """The URI."""
        return self.label

    def store(self, *, keep_local: bool = False) -> Store:
        """Its packets, which are put where the directory is, and the stand-in's work files and locks."""
        return RemoteStore(self.mirror, keep_local=keep_local)

    def put(self, path: Path) -> None:
        """Puts a file of the stand-in where the directory is.

        Raises:
            OutputError: it cannot be put there, after several tries.
        """
        file = self.remote.put(path, self._inside(path))
        # The copy is now of this version, and need not be fetched again.
        os.utime(path, ns=(file.stamp * 10**9, file.stamp * 10**9))

    def fetch(self, paths: Iterable[Path]) -> None:
        """Fetches those of the packets that are placeholders.

        Raises:
            ConfigError: one is gone or cannot be fetched, or the disk is full.
        """
        with as_config_errors():
            self.mirror.fetch([self._inside(path) for path in paths if is_placeholder(path)])

    def name_of(self, path: Path) -> str:
        """The URI of a path of the stand-in."""
        inside = self._inside(path)
        return self.label if inside == "." else f"{self.label}/{inside}"

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """No refresh of the stand-in takes place meanwhile."""
        with held(self.root / ".work" / "manifest.lock", remedy=CACHE_REMEDY):
            yield

    def refresh(self) -> None:
        """Takes up what is there now: fetches the files at the top, makes placeholders of packets.

        What a person wrote here and could not be put there is put there first; where that fails again, it stays.

        Raises:
            RemoteError: it cannot be listed or fetched.
            OutputError: the cache cannot be written.
        """
        with self.undisturbed():
            # First: fetching would replace a verdict that exists on this machine only.
            kept = self._put_what_waits()
            listing = {name: file for name, file in self.remote.top_files().items() if _TOP.fullmatch(name)}
            packets = self.remote.files("packets")
            # Only names that cuepack writes: a stranger's file must not reach the cache, and `.work` stays local.
            listing |= {name: file for name, file in packets.items() if _PACKET.fullmatch(name)}
            for name in kept:
                listing.pop(name, None)
            self.mirror.refresh(
                without_clashes(listing), lambda name: "/" not in name, lambda name: _is_copy(name) and name not in kept
            )

    def _put_what_waits(self) -> set[str]:
        """Puts verdicts and selections that were written here only; the names of those that cannot be put there."""
        kept = set()
        for path in self.root.iterdir():
            # What was fetched or put carries a stamp, a time long past.
            written_here = _WRITTEN_BY_PEOPLE.fullmatch(path.name) and not is_placeholder(path)
            if not written_here or path.stat().st_mtime < PAST_STAMPS:
                continue
            try:
                self.put(path)
            except OutputError as error:
                log.warning("%s is on this machine only: %s", path, error)
                kept.add(path.name)
        return kept

    def _inside(self, path: Path) -> str:
        return path.resolve().relative_to(self.root).as_posix()


@dataclass(frozen=True, slots=True)
class Opened:
    """What a command line named: an output directory, or one file.

    Attributes:
        directory: the output directory; of a single local file, its folder.
        path: the local path of what was named; a packet behind a URI is fetched.
    """

    directory: OutputDirectory
    path: Path

    @property
    def label(self) -> str:
        """How to name it to a person."""
        return self.directory.name_of(self.path)

    @staticmethod
    def open(named: str) -> Opened:
        """Opens a directory, or a packet or another file, named by path or URI.

        Raises:
            ConfigError: the URI cannot be used, or names a packet that does not exist.
        """
        # A path decides by what is on disk; a URI by its ending, since asking costs a request.
        if not is_uri(named) or not named.endswith(".h5"):
            path = Path(named)
            if not is_uri(named) and path.is_file():
                return Opened(LocalDirectory(path.parent), path)
            directory = OutputDirectory.open(named)
            return Opened(directory, directory.root)
        uri, inside, rest = named.rpartition("/packets/")
        if not inside or not _PACKET.fullmatch(f"packets/{rest}"):
            raise ConfigError(
                f"{named} is not a packet of an output directory (URI/packets/ab/EPISODE.h5); copy it to this machine "
                "first"
            )
        directory = OutputDirectory.open(uri)
        path = directory.root / "packets" / rest
        if not path.exists():
            raise ConfigError(f"the packet {named} does not exist; manifest.csv lists those of an output directory")
        directory.fetch([path])
        return Opened(directory, path)


def _is_copy(name: str) -> bool:
    return _TOP.fullmatch(name) is not None or _PACKET.fullmatch(name) is not None
