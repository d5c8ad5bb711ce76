"""The manifest as the overview page needs it: columns instead of rows, repeated texts once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from packers.viewer.frames import THUMBNAIL_FRAMES

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")

_MOST_DISTINCT = 0.5
"""Share of distinct texts up to which a column is sent as codes."""


def folder_key(episode_id: str) -> str:
    """The folder that holds an episode's files: its id, or a hash of it where the id is unfit for a file name."""
    if _PLAIN_KEY.fullmatch(episode_id):
        return episode_id
    return f"x-{hashlib.sha256(episode_id.encode('utf-8', 'replace')).hexdigest()[:24]}"


def describe_overview(
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str,
    server: bool,
    site: str = "",
    directory: str | None = None,
    thresholds: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    annotations: Mapping[str, Mapping[str, str]] | None = None,
    notices: Iterable[str] = (),
    compare: Iterable[str] = (),
    studied: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All that the overview page shows, JSON types.

    Args:
        rows: manifest rows, column -> value, None for none.
        title: names the directory.
        server: whether a server is behind the page (annotations are kept, changes are noticed).
        site: names this export among others, whatever their titles; a browser keeps verdicts under it.
        directory: the argument of `cuepack rerun`, quoted for a shell; None where there is nothing to rerun in.
        thresholds: column -> lines to draw into its distribution, each `value` and `name`.
        annotations: episode id -> `verdict` and `note`.
        notices: sentences to show above the cards.
        compare: ids of the episodes that a second packet is there for.
        studied: episode id -> address of its page in a study's report.
    """
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    ids = [str(row["episode_id"]) for row in rows]
    keys = {index: folder_key(name) for index, name in enumerate(ids) if folder_key(name) != name}
    columns = [_column(name, [row.get(name) for row in rows]) for name in names]
    notes = annotations or {}
    columns += [
        _column(field, [notes.get(name, {}).get(field) or None for name in ids]) for field in ("verdict", "note")
    ]
    return {
        "title": title,
        "site": site,
        "server": server,
        "directory": directory,
        "n": len(rows),
        "columns": columns,
        "keys": keys,
        "thresholds": {name: list(lines) for name, lines in (thresholds or {}).items()},
        "notices": list(notices),
        "compare": sorted(compare),
        "studied": dict(studied or {}),
        "thumbnail_frames": THUMBNAIL_FRAMES,
    }


def _column(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """A column as `values`, or as `codes` into `texts` (-1 for none) where texts repeat."""
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        return {"name": name, "kind": "number", "values": [_finite(value) for value in values]}
    texts = [None if value is None else str(value) for value in values]
    distinct = {text: code for code, text in enumerate(sorted({text for text in texts if text is not None}))}
    if len(distinct) <= max(1, _MOST_DISTINCT * len(values)):
        codes = [-1 if text is None else distinct[text] for text in texts]
        return {"name": name, "kind": "text", "texts": list(distinct), "codes": codes}
    return {"name": name, "kind": "text", "values": texts}


def _finite(value: float | None) -> float | None:
    return value if value is None or abs(value) < float("inf") else None
