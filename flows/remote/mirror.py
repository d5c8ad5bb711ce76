"""A local copy of remote files, some of which are placeholders until they are needed.

A placeholder has the size and the stamp of its remote file and no permission at all, so that nothing reads it for data;
root, whom permissions do not stop, reads a sentence that is the beginning of no format. Whole files replace
placeholders in one step. Nothing else is kept: what a file's size, time and permissions say is the state, so that a
killed process leaves nothing to repair and several may share a mirror.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from extractors.errors import OutputError, RemoteError
from flows.remote.files import Remote, RemoteFile
from packers.atomic import remove_leftovers
from packers.locks import held, in_use

AT_ONCE = 8
"""Files fetched at once: object stores answer one request in tens of milliseconds."""

CACHE_REMEDY = "free space, fix permissions, or set CUEPACK_CACHE to another folder"

_NOT_FETCHED = b"\x00cuepack: not fetched yet; a placeholder of the file's size, see flows/remote/mirror.py\n"

WORTH_SAYING = 1_000_000
"""Bytes from which on a fetch is announced."""


class Mirror:
    """Copies below `root` of the files of `remote`.

    Args:
        remote: where the files are.
        root: the folder of the copies, made where it is missing.
        work: a folder on the same disk for files under way and the lock.

    Raises:
        OutputError: the folders cannot be made.
    """

    def __init__(self, remote: Remote, root: Path, work: Path) -> None:
        self.remote = remote
        self.root = root
        self._work = work
        for folder in (root, work):
            _make(folder)

    def refresh(
        self, listing: Mapping[str, RemoteFile], eager: Callable[[str], bool], ours: Callable[[str], bool]
    ) -> None:
        """Makes the copies what `listing` says: gone files go, new and changed ones are placeholders or fetched.

        Args:
            listing: every file there should be.
            eager: whether a file is fetched at once.
            ours: whether a local file is a copy at all; others are left alone.

        Raises:
            RemoteError: a file cannot be fetched.
            OutputError: the copies cannot be written.
        """
        try:
            for name in self._local_names():
                if name not in listing and ours(name):
                    self.drop(name)
            for name, file in listing.items():
                if not self.is_there(name, file):
                    with self._locked():
                        if not self.is_there(name, file):
                            self._lay(name, file)
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"{self.root} cannot be written: {error}; {CACHE_REMEDY}") from error
        self.fetch(name for name in listing if eager(name))

    def is_there(self, name: str, file: RemoteFile) -> bool:
        """Whether the copy, placeholder or whole, is of this version."""
        try:
            found = (self.root / name).lstat()
        except OSError:
            return False
        return found.st_size == file.size and found.st_mtime_ns == file.stamp * 10**9 and stat.S_ISREG(found.st_mode)

    def fetch(self, names: Iterator[str] | Collection[str]) -> None:
        """Fetches those of the files that are placeholders.

        Raises:
            RemoteMissingError: one is gone.
            RemoteError: one cannot be fetched, or changed since it was listed.
            OutputError: the disk is full.
        """
        missing = [name for name in names if is_placeholder(self.root / name)]
        if not missing:
            return
        size = sum((self.root / name).stat().st_size for name in missing)
        self._check_space(size)
        if size >= WORTH_SAYING:
            say(f"fetching {len(missing)} files, {size / 1e6:,.1f} MB, of {self.remote.uri} into {self.root}")
        with ThreadPoolExecutor(min(AT_ONCE, len(missing))) as pool:
            futures = [pool.submit(self._fetch, name) for name in missing]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                for future in futures:
                    future.cancel()
                raise

    def adopt(self, path: Path, name: str, file: RemoteFile) -> None:
        """Makes `path`, a file just put there, the copy."""
        self._put_in_place(path, name, file)

    def forget(self, name: str, file: RemoteFile | None = None) -> None:
        """Makes the copy a placeholder, of the version `file` where it is given."""
        with self._locked():
            if file is None:
                try:
                    found = (self.root / name).stat()
                except OSError:
                    return
                file = RemoteFile(found.st_size, found.st_mtime_ns // 10**9)
            self._lay(name, file)

    def drop(self, name: str) -> None:
        """Removes the copy, and folders that are empty then."""
        path = self.root / name
        with self._locked():
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty
                for folder in path.parents:
                    if folder == self.root:
                        return
                    folder.rmdir()

    def _fetch(self, name: str) -> None:
        found = (self.root / name).stat()
        file = RemoteFile(found.st_size, found.st_mtime_ns // 10**9)
        temporary = self._temporary()
        try:
            self.remote.fetch(name, temporary, file.size)
            self._put_in_place(temporary, name, file)
        finally:
            temporary.unlink(missing_ok=True)

    def _put_in_place(self, path: Path, name: str, file: RemoteFile) -> None:
        path.chmod(0o644)
        os.utime(path, ns=(file.stamp * 10**9, file.stamp * 10**9))
        with self._locked():
            target = self.root / name
            _make(target.parent)
            os.replace(path, target)

    def _lay(self, name: str, file: RemoteFile) -> None:
        temporary, target = self._temporary(), self.root / name
        try:
            with temporary.open("wb") as sparse:
                sparse.write(_NOT_FETCHED[: file.size])
                sparse.truncate(file.size)
            temporary.chmod(0)
            os.utime(temporary, ns=(file.stamp * 10**9, file.stamp * 10**9))
            _make(target.parent)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _local_names(self) -> Iterator[str]:
        for folder, _, files in os.walk(self.root):
            for file in files:
                yield os.path.relpath(os.path.join(folder, file), self.root)

    def _temporary(self) -> Path:
        return self._work / f".tmp-{os.getpid()}-{secrets.token_hex(8)}"

    def _check_space(self, size: int) -> None:
        free = shutil.disk_usage(self.root).free
        if size > free:
            raise OutputError(
                f"{self.remote.uri}: {size / 1e6:,.1f} MB are to be fetched and {free / 1e6:,.1f} MB are free at "
                f"{self.root}; set CUEPACK_CACHE to a folder on another disk"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """No other process puts a file in place meanwhile: a placeholder never replaces what was just fetched."""
        with held(self._work / "mirror.lock", remedy=CACHE_REMEDY):
            yield


@contextmanager
def clean_while_alone(work: Path) -> Iterator[None]:
    """Marks a mirror's work folder as in use; where no other process is, first removes what a killed one left there.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    with in_use(work / "use.lock", lambda: remove_leftovers(work), remedy=CACHE_REMEDY):
        yield


def is_placeholder(path: Path) -> bool:
    """Whether a file of a mirror is without content; False where there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode) == 0
    except OSError:
        return False


def say(text: str) -> None:
    """Tells the user on standard error, before logging has been set up."""
    print(f"cuepack: {text}", file=sys.stderr, flush=True)


def without_clashes(listing: Mapping[str, RemoteFile]) -> dict[str, RemoteFile]:
    """The files that can exist on a disk together: object stores have both `a` and `a/b`.

    Raises:
        RemoteError: two files have names that are one file and one folder.
    """
    folders = {parent for name in listing for parent in _parents(name)}
    clash = next((name for name in listing if name in folders), None)
    if clash is not None and listing[clash].size > 0:
        raise RemoteError(f"{clash} is both a file and a folder there; rename one")
    # Empty objects that stand for folders.
    return {name: file for name, file in listing.items() if name not in folders}


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error}; {CACHE_REMEDY}") from error
