"""Files that others may have put where one of ours should be: read with bounds, and only if they are plain files.

A pipe would be waited for, a device read without end, and a sparse file of terabytes costs nothing to make.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MAX_RECORD_BYTES = 64 * 2**20
"""Largest file that holds a record for people (settings, a run's description, notes): theirs have a few kB."""

MAX_TABLE_BYTES = 8 * 2**30
"""Largest table or journal of episodes: 3 kB for each of a million are 3 GB."""


def open_plain(path: Path, most: int) -> BinaryIO:
    """Opens a plain file of at most `most` bytes for reading.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be opened, is not a plain file, or is larger.
    """
    try:
        # Non-blocking: opening a pipe would else wait for its writer for ever.
        file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115 - handed on
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size <= most:
        return file
    file.close()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a plain file (a device, pipe or folder); replace it", str(path))
    raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, at most {most:,} are read; replace it", str(path))


def read_plain(path: Path, most: int = MAX_RECORD_BYTES) -> bytes:
    """The content of a plain file of at most `most` bytes.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, is not a plain file, or is larger.
    """
    with open_plain(path, most) as file:
        return file.read(most)
