"""Files of a dataset on disk: read with errors that name them, sorted as people count."""

from __future__ import annotations

import re
from pathlib import Path

from extractors.errors import CorruptDataError, MissingDataError

_NUMBER = re.compile(r"([0-9]+)")


def read_bytes(path: Path, name: str) -> bytes:
    """The content of `path`, which messages call `name`.

    Raises:
        MissingDataError: there is no such file.
        CorruptDataError: it is there and cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingDataError(f"{name} is missing; fetch the episode again") from error
    except OSError as error:
        raise CorruptDataError(f"{name} cannot be read: {error.strerror or error}; check the disk") from error


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which `im_10` comes after `im_9`."""
    return [int(part) if i % 2 else part for i, part in enumerate(_NUMBER.split(name))], name
