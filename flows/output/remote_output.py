"""An output directory behind a URI, and the local directory that stands for it while it is worked on.

The twin lies in the cache. The files at the top of the directory are copied there, and put back when they change;
packets are placeholders of the right size until somebody reads one. `.work` (unfinished stages, locks, packets that
are not put there yet) exists here only. Object stores know no locks: one machine at a time dispatches work on a URI;
on that machine the twin's locks hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from extractors.errors import ConfigError, OutputError, RemoteError
from flows.remote.files import PAST_STAMPS, Remote, RemoteFile, cache_folder, is_uri
from flows.remote.mirror import CACHE_REMEDY, Mirror, is_placeholder, without_clashes
from packers.atomic import write_whole
from packers.locks import held

log = logging.getLogger("cuepack")

_MARK = "remote.json"
_TOP = re.compile(r"manifest\.(parquet|csv)|run\.json|config\.yaml|annotations\.csv|selection-[A-Za-z0-9_.-]+\.csv")
_WRITTEN_HERE = re.compile(r"annotations\.csv|selection-[A-Za-z0-9_.-]+\.csv")
_PACKET = re.compile(r"packets/[0-9a-f]{2}/[A-Za-z0-9_.-]+\.h5")


class Twin:
    """The local stand-in of the output directory at `uri`.

    Attributes:
        root: the local directory.
        remote: the directory it stands for.
        mirror: the copies.

    Raises:
        RemoteError, ConfigError: the URI cannot be used.
        OutputError: the cache cannot be written.
    """

    def __init__(self, uri: str) -> None:
        self.remote = Remote(uri)
        self.root = _twins() / f"{self.remote.name}-{hashlib.sha256(self.remote.uri.encode()).hexdigest()[:16]}"
        self.mirror = Mirror(self.remote, self.root, self.root / ".work" / "tmp")

    def refresh(self) -> None:
        """Takes up what is there now: fetches the files at the top, lays placeholders for packets.

        What a person wrote here and could not be put there is put there first; where that fails again, it stays.

        Raises:
            RemoteError: it cannot be listed or fetched.
            OutputError: the cache cannot be written.
        """
        with held(self.root / ".work" / "manifest.lock", remedy=CACHE_REMEDY):
            _write_mark(self.root / _MARK, self.remote.uri)
            kept = self._put_what_waits()
            listing = {name: file for name, file in self.remote.top_files().items() if _TOP.fullmatch(name)}
            packets = self.remote.files("packets")
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
            if not _WRITTEN_HERE.fullmatch(path.name) or is_placeholder(path) or path.stat().st_mtime < PAST_STAMPS:
                continue
            try:
                self.push(path)
            except OutputError as error:
                log.warning("%s is here only: %s", path, error)
                kept.add(path.name)
        return kept

    def push(self, path: Path) -> RemoteFile:
        """Puts a file of the twin there.

        Raises:
            OutputError: it cannot be put there, after several tries.
        """
        file = self.remote.put(path, path.resolve().relative_to(self.root).as_posix())
        # The copy is now of this version, and need not be fetched again.
        os.utime(path, ns=(file.stamp * 10**9, file.stamp * 10**9))
        return file

    def fetch(self, names: Iterable[str]) -> None:
        """Fetches those packets, named relative to the directory, that are placeholders.

        Raises:
            RemoteError: one is gone or cannot be fetched.
            OutputError: the disk is full.
        """
        self.mirror.fetch(list(names))


def output_directory(named: str | Path) -> Path:
    """The local path of an output directory that is named by path or URI; of a URI its twin, brought up to date.

    Raises:
        ConfigError: the URI cannot be used.
    """
    if not is_uri(str(named)):
        return Path(named)
    with _as_config_errors():
        twin = Twin(str(named))
        twin.refresh()
    return twin.root


def output_or_packet(named: str) -> Path:
    """The same, and of a URI that ends in .h5 the local copy of that packet, fetched.

    Raises:
        ConfigError: the URI cannot be used, or there is no such packet.
    """
    if not is_uri(named) or not named.endswith(".h5"):
        return output_directory(named)
    directory, inside, rest = named.rpartition("/packets/")
    if not inside or not _PACKET.fullmatch(f"packets/{rest}"):
        raise ConfigError(
            f"{named} is no packet of an output directory (URI/packets/ab/EPISODE.h5); copy it here first"
        )
    root = output_directory(directory)
    path = root / "packets" / rest
    if not path.exists():
        raise ConfigError(f"there is no packet {named}; manifest.csv lists the packets of an output directory")
    fetch_packets([path])
    return path


def twin_of(path: Path) -> Twin | None:
    """The twin that `path` is, or lies in; None for all other paths."""
    found = _marked(path)
    if found is None:
        return None
    try:
        return Twin(found[1])
    except RemoteError as error:
        raise ConfigError(str(error)) from error


def shown(path: Path | str) -> str:
    """How to name a path to the user: by URI where it lies in a twin."""
    found = _marked(Path(path))
    if found is None:
        return str(path)
    root, uri = found
    inside = Path(path).resolve().relative_to(root).as_posix()
    return uri if inside == "." else f"{uri}/{inside}"


def fetch_packets(paths: Iterable[Path]) -> None:
    """Fetches those of the packets that are placeholders of a twin; others are left as they are.

    Raises:
        ConfigError: one cannot be fetched.
    """
    missing: dict[Path, list[Path]] = {}
    for path in paths:
        if is_placeholder(path):
            found = _marked(path)
            if found is not None:
                missing.setdefault(found[0], []).append(path)
    for root, files in missing.items():
        twin = twin_of(root)
        assert twin is not None
        with _as_config_errors():
            twin.fetch(file.resolve().relative_to(root).as_posix() for file in files)


def put_back(path: Path) -> None:
    """Puts a file at the top of a twin, just written, there; does nothing for other directories.

    Raises:
        OutputError: it cannot be put there.
    """
    twin = twin_of(path)
    if twin is not None:
        twin.push(path)


@contextmanager
def undisturbed(path: Path) -> Iterator[None]:
    """No refresh of the twin that `path` lies in takes place meanwhile; nothing for other paths."""
    found = _marked(path)
    if found is None:
        yield
        return
    with held(found[0] / ".work" / "manifest.lock", remedy=CACHE_REMEDY):
        yield


def fetched_file(named: str | Path) -> Path:
    """The local path of a file to be read, such as a selection: a path as it is, of a URI a copy.

    Raises:
        ConfigError: the URI cannot be used.
    """
    if not is_uri(str(named)):
        return Path(named)
    with _as_config_errors():
        folder, _, name = str(named).rpartition("/")
        remote = Remote(folder)
        root = cache_folder() / "files" / hashlib.sha256(remote.uri.encode()).hexdigest()[:16]
        mirror = Mirror(remote, root / "files", root / "work")
        mirror.refresh({name: remote.describe(name)}, lambda each: True, lambda each: False)
    return mirror.root / name


def overlap(source: str, out: str) -> bool:
    """Whether the output `out` lies inside the source, both given by path or URI."""
    parts = [_place(source), _place(out)]
    return parts[0] == parts[1] or parts[0] in [str(parent) for parent in PurePosixPath(parts[1]).parents]


def _place(named: str) -> str:
    if not is_uri(named):
        return str(Path(named).resolve())
    try:
        local = Remote(named).local_path
    except RemoteError as error:
        raise ConfigError(str(error)) from error
    # As a path "s3://bucket/in" has its double slash made single, in both.
    return str(local) if local is not None else str(PurePosixPath(named))


@contextmanager
def _as_config_errors() -> Iterator[None]:
    """What cannot be done with a URI that the user named is a fault of usage."""
    try:
        yield
    except (RemoteError, OutputError) as error:
        raise ConfigError(str(error)) from error


def _twins() -> Path:
    return cache_folder().resolve() / "outputs"


def _is_copy(name: str) -> bool:
    return _TOP.fullmatch(name) is not None or _PACKET.fullmatch(name) is not None


def _marked(path: Path) -> tuple[Path, str] | None:
    """Root and URI of the twin that `path` is or lies in."""
    twins, resolved = _twins(), path.resolve()
    if not resolved.is_relative_to(twins) or resolved == twins:
        return None
    root = twins / resolved.relative_to(twins).parts[0]
    with contextlib.suppress(OSError, ValueError, KeyError):
        return root, str(json.loads((root / _MARK).read_text(encoding="utf-8"))["uri"])
    return None


def _write_mark(path: Path, uri: str) -> None:
    if path.exists():
        return
    try:
        write_whole(path, json.dumps({"uri": uri}) + "\n")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}; {CACHE_REMEDY}") from error
