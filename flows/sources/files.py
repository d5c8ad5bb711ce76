"""Files of a dataset on disk: read with bounds and with errors that name them, sorted as people count."""

from __future__ import annotations

import codecs
import json
import re
import stat
from pathlib import Path
from typing import Any

from extractors.errors import CorruptDataError, MissingDataError, SourceError
from packers.plain_files import read_plain

MAX_PICTURE_BYTES = 64 * 2**20
"""Largest encoded picture that is read: an uncompressed 8K frame in 16 bits has 100 MB, as PNG about half."""

MAX_TABLE_BYTES = 512 * 2**20
"""Largest JSON file that is read; episodes.jsonl of 100,000 episodes has 15 MB, episodes_stats.jsonl 200 MB."""

_NUMBER = re.compile(r"([0-9]+)")
_LFS = b"version https://git-lfs.github.com/spec/"


def read_bytes(path: Path, name: str, most: int = MAX_PICTURE_BYTES) -> bytes:
    """The content of `path`, which messages call `name`.

    Raises:
        MissingDataError: there is no such file.
        CorruptDataError: it exists and cannot be read, is not a plain file, or has more than `most` bytes.
    """
    try:
        return read_plain(path, most)
    except FileNotFoundError as error:
        raise MissingDataError(f"{name} is missing; fetch the episode again") from error
    except OSError as error:
        raise CorruptDataError(f"{name} cannot be read: {error.strerror or error}; check the disk") from error


def check_plain(path: Path, name: str) -> None:
    """Refuses what a library would read without end or not at all, before the library opens it.

    Raises:
        MissingDataError: there is no such file.
        CorruptDataError: it is a device, a pipe or a folder, or a Git-LFS pointer.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CorruptDataError(f"{name} is not a plain file (a device, pipe or folder); replace it by one")
        if status.st_size < 1024:  # pointers have some 130 bytes
            pointer = foreign_content(path.read_bytes())
            if pointer:
                raise CorruptDataError(f"{name} {pointer}")
    except FileNotFoundError as error:
        raise MissingDataError(f"{name} is not there; restore it") from error
    except (OSError, ValueError) as error:
        raise CorruptDataError(f"{name} cannot be read: {error}; check the disk") from error


def foreign_content(data: bytes) -> str:
    """What a file is instead of what its name says, and the way out; "" where nothing is recognised."""
    if data.startswith(_LFS):
        return "is a Git-LFS pointer, not the file itself; fetch it with `git lfs pull`"
    if data[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the file itself; download it again"
    return ""


def read_json(path: Path) -> Any:
    """What a JSON file holds; a byte order mark and UTF-16 are taken.

    Raises:
        SourceError: it cannot be read, or is no JSON.
    """
    try:
        data = read_bytes(path, str(path), MAX_TABLE_BYTES)
    except (MissingDataError, CorruptDataError) as error:
        raise SourceError(f"cannot read {path}: {error}") from error
    return parse_json(data, str(path))


def parse_json(data: bytes, name: str) -> Any:
    """What JSON text holds.

    Raises:
        SourceError: it is none, or nested too deeply.
    """
    try:
        return json.loads(decode_text(data, "strict"))
    except (ValueError, RecursionError) as error:
        why = foreign_content(data) or f"is no JSON: {'nested too deeply' if type(error) is RecursionError else error}"
        raise SourceError(f"{name} {why}; restore the file") from error


def decode_text(data: bytes, errors: str = "replace") -> str:
    """Text in UTF-8, or in the UTF-16 that Windows writes; `errors` as of `bytes.decode`."""
    marks = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
    for mark, name in marks:
        if data.startswith(mark):
            return data.decode(name, errors)
    # Every second byte zero is UTF-16 without its mark: no text holds so many NULs.
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(data) > 3 and not any(data[start:200:2]):
            return data.decode(name, errors)
    return data.decode("utf-8", errors)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which `im_10` comes after `im_9`."""
    return [int(part) if i % 2 else part for i, part in enumerate(_NUMBER.split(name))], name
