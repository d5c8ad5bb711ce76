"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path


@contextlib.contextmanager
def built_aside(target: Path) -> Iterator[Path]:
    """A path of the same name to build `target` at, moved there in one step when all went well.

    It lies in a hidden folder beside the target, so that the move stays on one disk. Who builds there holds a lock;
    what a killed process left is taken over and goes.

    Raises:
        OSError: the folder cannot be made, or `target` cannot be replaced (a folder that is not empty).
    """
    folder, lock = _claim(target)
    lock_file = _lock_file(folder)
    try:
        _clear(folder, keep=lock_file)
        yield folder / target.name
        os.replace(folder / target.name, target)
    finally:
        _clear(folder, keep=lock_file)
        lock_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the next one may be in it already
            folder.rmdir()
        os.close(lock)


def _claim(target: Path) -> tuple[Path, int]:
    """The first hidden folder beside `target` in which nobody builds, and its lock."""
    folders = (target.with_name(f".{target.name}.{number}.tmp") for number in count())
    return next((folder, lock) for folder in folders if (lock := _lock(folder)) is not None)


def _lock(folder: Path) -> int | None:
    """The folder's lock, both made if need be; None if another process holds it."""
    while True:
        with contextlib.suppress(FileExistsError):  # `exist_ok` stumbles over one that goes meanwhile
            folder.mkdir()
        # A file open for writing: network file systems show other machines no lock on a folder.
        try:
            lock = os.open(_lock_file(folder), os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # who built there has just removed the folder
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        if _is_at(_lock_file(folder), lock):
            return lock
        os.close(lock)


def _lock_file(folder: Path) -> Path:
    return folder / f"{folder.name}.lock"  # longer than the target's name, so not that


def _is_at(path: Path, handle: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False


def _clear(folder: Path, *, keep: Path) -> None:
    for path in folder.iterdir():
        if path == keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
