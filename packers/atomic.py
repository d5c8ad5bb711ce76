"""Files and folders that appear whole or not at all.

Whoever writes holds a lock on the temporary file, so that what a killed process left can be told from what a living one
is still writing. Content and folder entry are synced: after a power cut a file is the old one or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from packers.locks import is_held, take

TEMPORARY = ".tmp-"
"""First letters of the name of every file that is being written."""


@contextlib.contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A path beside `target`, with its ending, to write to; put in its place in one step when all went well.

    The file at the path exists and is empty: what writes it may open it again, but not replace it by another file.

    Raises:
        OSError: the folder is missing or cannot be written, or the disk is full; an older `target` is untouched.
    """
    label = _label(target)
    remove_leftovers(target.parent, f"{label}-*")
    temporary, descriptor = _locked_file(target, label)
    try:
        yield temporary
        os.fsync(descriptor)
        os.replace(temporary, target)
        sync_folder(target.parent)
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(target: Path, content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) to `target`, whole or not at all.

    Raises:
        OSError: as `written_whole`.
    """
    with written_whole(target) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def remove_leftovers(folder: Path, pattern: str = f"{TEMPORARY}*") -> None:
    """Removes the temporary files of dead writers in `folder`; those that a living one holds stay."""
    for leftover in folder.glob(pattern):
        remove_if_abandoned(leftover)


def remove_if_abandoned(temporary: Path) -> None:
    """Removes a temporary file unless a living writer holds it; one that cannot be removed stays."""
    with contextlib.suppress(OSError):
        if not is_held(temporary):
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes sure that a name that was just put into `folder` survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def built_aside(target: Path) -> Iterator[Path]:
    """A path of the same name to build `target`, a folder or a file, at; moved there in one step when all went well.

    It is in a hidden folder beside the target, so that the move stays on one disk. Who builds there holds a lock; what
    a killed process left is taken over and goes.

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


def _label(target: Path) -> str:
    # A digest, so that a long name does not become longer than a file system allows.
    return TEMPORARY + hashlib.sha256(target.name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _locked_file(target: Path, label: str) -> tuple[Path, int]:
    """A new temporary file beside `target`, and a descriptor that holds its lock."""
    while True:
        temporary = target.with_name(f"{label}-{secrets.token_hex(8)}{target.suffix}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        # Before the lock was taken another process may have removed the file as a dead writer's.
        if take(descriptor) and _is_at(temporary, descriptor):
            return temporary, descriptor
        os.close(descriptor)


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
        if not take(lock):
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
