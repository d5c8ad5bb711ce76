"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def built_aside(target: Path) -> Iterator[Path]:
    """A path of the same name to build `target` at, moved there in one step when all went well.

    It lies in a hidden folder beside the target, so that the move stays on one disk. What processes that were killed
    left of the same target goes first; a living one, on this machine or on one that shares the disk, holds a lock.

    Raises:
        OSError: the folder cannot be made, or `target` cannot be replaced (a folder that is not empty).
    """
    _remove_leftovers(target)
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / target.name
        os.replace(folder / target.name, target)
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            lock = os.open(leftover, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(lock)
