"""Walks below a folder that say what they pass over: links are not followed unless asked, and never in circles."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from flows.sources.base import LeftOut
from flows.sources.files import natural_key


class Below:
    """The files below a path, and the links to folders that were met on the way.

    Attributes:
        links: linked folders that were passed over, relative to the path; complete once the walk has ended.
    """

    def __init__(self, path: Path, *, follow_links: bool = False) -> None:
        """Of a folder; of a file, that file alone."""
        self.links: list[str] = []
        self._path = path
        self._follow = follow_links

    @cached_property
    def files(self) -> list[Path]:
        """All files, folder by folder.

        Raises:
            OSError: a folder cannot be read.
        """
        return list(self.walk())

    def walk(self) -> Iterator[Path]:
        """The files, lazily.

        Raises:
            OSError: a folder cannot be read.
        """
        if not self._path.is_dir():
            yield self._path
            return
        seen = {os.path.realpath(self._path)}
        folders = [self._path]
        while folders:
            folder = folders.pop()
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: natural_key(entry.name))
            inner = []
            for entry in listed:
                if not entry.is_dir():
                    yield Path(entry.path)
                elif entry.is_symlink() and not self._follow:
                    self.links.append(shown_path(Path(entry.path).relative_to(self._path).as_posix()))
                elif (real := os.path.realpath(entry.path)) not in seen:
                    seen.add(real)
                    inner.append(Path(entry.path))
            folders += reversed(inner)

    def left_out(self) -> tuple[LeftOut, ...]:
        """The links that were passed over."""
        return linked_out(self.links)


def linked_out(links: Sequence[str]) -> tuple[LeftOut, ...]:
    """Linked folders as something left out, none where there are none."""
    if not links:
        return ()
    return (LeftOut("episodes", f"linked folders are not looked into: {some(links)}", "source.follow_links=true"),)


def shown_path(path: str) -> str:
    """A path as text that any encoding can hold: bytes that are no UTF-8 are escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few of many names."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
