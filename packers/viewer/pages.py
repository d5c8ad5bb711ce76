"""The pages' fixed files, and data wrapped so that a page opened from disk can load them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
"""Nothing but the pages' own files is loaded or run; the pages carry it in a meta element too."""

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".jpg": "image/jpeg",
    ".png": "image/png",
}

PAGES = ("index.html", "episode.html", "compare.html", "stats.html")


def static_files() -> Iterator[tuple[str, bytes]]:
    """(name, content) of the pages, their styles and scripts."""
    folder = resources.files("packers.viewer") / "static"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith((".html", ".css", ".js")):
            yield file.name, file.read_bytes()


def as_script(payload: Any) -> bytes:
    """JSON data as a script that hands them to the page: browsers refuse to fetch() from disk, but do load scripts.

    ASCII only, so neither the encoding nor line separators that JavaScript knows and JSON does not can break it.
    """
    return f"cuepack.receive({json.dumps(payload, ensure_ascii=True, allow_nan=False)});\n".encode("ascii")
