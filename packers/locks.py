"""Locks between processes that end with the process, however it ends.

The standard library's flock rather than the `filelock` package: shared holders are needed, and a lock on the very file
that is being written, which tells a living writer's temporary file from a dead one's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from extractors.errors import OutputError

REMEDY = "fix permissions, or free space"


@contextmanager
def held(path: Path, *, wait: bool = True, remedy: str = REMEDY) -> Iterator[bool]:
    """Holds the lock file `path`, made if need be with its folder.

    A lock belongs to the open file, so threads of one process exclude each other as processes do.

    Args:
        path: the lock file; it stays when the lock ends, as others may be waiting on it.
        wait: for who holds it; False: yields False at once where another does.
        remedy: what the user can do where the file cannot be written.

    Yields:
        Whether the lock is held.

    Raises:
        OutputError: the file cannot be made or written.
    """
    with _opened(path, remedy) as file:
        yield take(file.fileno(), wait=wait)


@contextmanager
def named_locks(path: Path, *, remedy: str = REMEDY) -> Iterator[Callable[[str], bool]]:
    """Any number of locks in one file, each known by a name; all end with the block, or with the process.

    Each is a lock on one byte of the file, at a place made of the name (two of 60,000 names share one with a chance of
    1 in 10^9). They belong to the open file as `held`'s do: one descriptor, however many. A file per lock ran out of
    descriptors at about 1,000. Taking n costs the kernel n^2 steps: 0.1 s for 1,000 (2 cores, November 2026).

    Yields:
        Takes the lock of a name; False where another process or thread holds it.

    Raises:
        OutputError: the file cannot be made or written.
    """
    with _opened(path, remedy) as file:
        yield lambda name: _take_byte(file.fileno(), name)


@contextmanager
def in_use(path: Path, clean: Callable[[], None], *, remedy: str = REMEDY) -> Iterator[bool]:
    """Shares the lock file `path` with whoever else works there; where nobody does, calls `clean` first.

    Yields:
        Whether nobody else was there.

    Raises:
        OutputError: the file cannot be made or written.
    """
    with _opened(path, remedy) as file:
        alone = take(file.fileno())
        if alone:
            clean()
        take(file.fileno(), shared=True, wait=True)
        yield alone


def take(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Locks an open file until it is closed, or changes the kind of its lock; False where another holds it."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take_byte(descriptor: int, name: str) -> bool:
    place = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") >> 2
    # struct flock: type, whence, start, length, and no process id, as an open file and not a process holds it
    request = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except (BlockingIOError, PermissionError):  # POSIX leaves the choice to the system
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a living process holds a lock on `path`; False for a file that is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not take(descriptor)
    finally:
        os.close(descriptor)


def _opened(path: Path, remedy: str) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}; {remedy}") from error
