"""The report of a study: a folder of pages that open from disk, with nothing loaded from elsewhere."""

from __future__ import annotations

import html
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extractors.errors import ConfigError, OutputError
from flows.study.figures import as_svg
from flows.study.report_data import GLOBAL, SAME, STATIC, EpisodePage, StudyReport
from packers.atomic import built_aside
from packers.viewer.overview import folder_key
from packers.viewer.pages import CONTENT_SECURITY_POLICY, static_files

NUMBERS = "report.json"
"""All numbers of the report, for scripts; also what tells a report's folder from any other."""

SHEET_COLUMNS = SHEET_ROWS = 8
_JPEG_QUALITY = 88
_MADE_BY = "cuepack study"

Frames = NDArray[np.uint8]


def write_report(report: StudyReport, folder: Path) -> Path:
    """Writes the whole report aside and moves it to `folder`, in the place of an older one.

    Returns:
        The page to open, `folder`/index.html.

    Raises:
        ConfigError: `folder` holds something that is not a report.
        ValueError: a retrieved index is outside of the frames it points into, or a link is not one of a page.
        OutputError: the disk is full, or the folder may not be written.
    """
    _check_target(folder)
    _check(report)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with built_aside(folder) as aside:
            aside.mkdir()
            _write_pages(report, aside)
            if folder.exists():
                # Renamed, not removed: a killed process leaves the old report or the new one, hardly ever neither.
                os.replace(folder, aside.parent / "replaced")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error}; free space or fix permissions") from error
    return folder / "index.html"


def _check_target(folder: Path) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        made_by = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))["made_by"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        made_by = None
    if made_by != _MADE_BY:
        raise ConfigError(f"{folder} holds something that is not a study's report; name a new or empty folder")


def _check(report: StudyReport) -> None:
    for episode in report.episodes:
        name = episode.episode_id
        if episode.link and urlsplit(episode.link).scheme not in ("", "http", "https", "file"):
            raise ValueError(f"the link of episode {name} must be a page's address, got {episode.link[:80]!r}")
        if not 0 < episode.start <= len(episode.frames):
            raise ValueError(
                f"episode {name} must have 1 to {len(episode.frames)} given frames, got start {episode.start}"
            )
        sizes = {GLOBAL: len(report.bank), SAME: len(episode.frames)}
        for model, kinds in episode.retrieved.items():
            for kind, found in kinds.items():
                if any(not 0 <= index < sizes[kind] for index in found):
                    raise ValueError(
                        f"{kind} retrieval of {model} in {name} must point into {sizes[kind]} frames, got {max(found)}"
                    )


def _write_pages(report: StudyReport, folder: Path) -> None:
    for name in ("episodes", "figures", "sheets"):
        (folder / name).mkdir()
    _write_static(folder)
    # Only frames that are retrieved somewhere are shown, so that a large bank costs no more than what is seen of it.
    used = sorted(
        {at for episode in report.episodes for kinds in episode.retrieved.values() for at in kinds.get(GLOBAL, ())}
    )
    bank = _write_sheets(report.bank[used], folder, "bank") if used else None
    place = {index: rank for rank, index in enumerate(used)}
    for at, episode in enumerate(report.episodes):
        siblings = [report.episodes[i].episode_id if 0 <= i < len(report.episodes) else None for i in (at - 1, at + 1)]
        payload = _episode(episode, folder, bank, place) | {
            "study": report.title,
            "previous": siblings[0] and _page_name(siblings[0]),
            "next": siblings[1] and _page_name(siblings[1]),
        }
        page = _page(f"{episode.episode_id} · {report.title}", "episode", payload, up="../")
        (folder / "episodes" / _page_name(episode.episode_id)).write_text(page, encoding="utf-8")
    overview = _overview(report, folder)
    (folder / NUMBERS).write_text(json.dumps({"made_by": _MADE_BY, **overview}, indent=1) + "\n", encoding="utf-8")
    (folder / "index.html").write_text(_page(report.title, "report", overview), encoding="utf-8")


def _write_static(folder: Path) -> None:
    # The viewer's core builds elements without ever parsing HTML; its own pages are not needed here.
    core = dict(static_files())["core.js"]
    (folder / "core.js").write_bytes(core)
    for file in (resources.files("flows.study") / "static").iterdir():
        if file.name.endswith((".css", ".js")):
            (folder / file.name).write_bytes(file.read_bytes())


def _overview(report: StudyReport, folder: Path) -> dict[str, Any]:
    plain = _plain(
        {
            "title": report.title,
            "settings": report.settings,
            "counts": report.counts,
            "warnings": list(report.warnings),
            "method": list(report.method),
            "conditions": [asdict(row) for row in report.conditions],
            "curves": {title: [asdict(curve) for curve in curves] for title, curves in report.curves.items()},
            "probes": {},
            "episodes": [_listed(episode) for episode in report.episodes],
        }
    )
    assert isinstance(plain, dict)
    for condition, probes in report.probes.items():
        shown = []
        for probe in probes:
            path = f"figures/{folder_key(condition)}-{folder_key(probe.name)}.svg"
            (folder / path).write_text(as_svg(probe.figure), encoding="utf-8")
            numbers = _plain(probe.numbers)
            # The size, so that the page keeps its place while figures load.
            size = [round(96 * inches) for inches in probe.figure.get_size_inches()]
            shown.append(
                {"name": probe.name, "figure": path, "size": size, "caption": probe.caption, "numbers": numbers}
            )
        plain["probes"][condition] = shown
    return plain


def _listed(episode: EpisodePage) -> dict[str, Any]:
    """An episode as a row of the overview: means over its horizon."""
    return {
        "id": episode.episode_id,
        "instruction": episode.instruction,
        "tags": list(episode.tags),
        "frames": len(episode.frames),
        "page": f"episodes/{_page_name(episode.episode_id)}",
        "link": episode.link,
        "errors": {name: _mean(values) for name, values in episode.errors.items()},
    }


def _episode(
    episode: EpisodePage, folder: Path, bank: dict[str, Any] | None, place: Mapping[int, int]
) -> dict[str, Any]:
    retrieved = {
        model: {
            kind: [place[index] for index in found] if kind == GLOBAL else [int(index) for index in found]
            for kind, found in kinds.items()
        }
        for model, kinds in episode.retrieved.items()
    }
    payload = _plain(
        {
            "id": episode.episode_id,
            "instruction": episode.instruction,
            "tags": list(episode.tags),
            "start": episode.start,
            "frames": len(episode.frames),
            "static": STATIC,
            "retrieved": retrieved,
            "errors": episode.errors,
            "link": _from_below(episode.link),
        }
    )
    assert isinstance(payload, dict)
    return payload | {
        "sheets": {
            "episode": _write_sheets(episode.frames, folder, f"e-{folder_key(episode.episode_id)}"),
            "bank": bank,
        }
    }


def _write_sheets(frames: Frames, folder: Path, stem: str) -> dict[str, Any]:
    """Writes frames as JPEG sheets of 8 x 8 and says how they are arranged."""
    n, height, width = frames.shape[:3]
    # JPEG works in blocks of 8 px: cells on block borders, filled up with their own edge, do not bleed.
    down, across = -(-height // 8) * 8, -(-width // 8) * 8
    files = []
    per_sheet = SHEET_COLUMNS * SHEET_ROWS
    for first in range(0, n, per_sheet):
        shown = frames[first : first + per_sheet]
        sheet = np.zeros((-(-len(shown) // SHEET_COLUMNS) * down, SHEET_COLUMNS * across, 3), np.uint8)
        for cell, frame in enumerate(shown):
            top, left = cell // SHEET_COLUMNS * down, cell % SHEET_COLUMNS * across
            filled = np.pad(frame, ((0, down - height), (0, across - width), (0, 0)), mode="edge")
            sheet[top : top + down, left : left + across] = filled
        target = io.BytesIO()
        # Frames are small and shown enlarged: halved colours (JPEG's default) would smear over many pixels.
        Image.fromarray(sheet).save(target, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
        path = f"sheets/{stem}-{first // per_sheet}.jpg"
        (folder / path).write_bytes(target.getvalue())
        files.append(path)
    return {
        "files": files,
        "columns": SHEET_COLUMNS,
        "per_sheet": per_sheet,
        "size": [width, height],
        "stride": [across, down],
    }


def _page(title: str, script: str, payload: Mapping[str, Any], *, up: str = "") -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">
<meta name="referrer" content="no-referrer">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{up}report.css">
<script type="application/json" id="data">{_inline(payload)}</script>
<script defer src="{up}core.js"></script>
<script defer src="{up}charts.js"></script>
<script defer src="{up}{script}.js"></script>
</head>
<body class="{script}">
<noscript>This page needs JavaScript, which it brings along; nothing is loaded from elsewhere.</noscript>
</body>
</html>
"""


def _inline(payload: Mapping[str, Any]) -> str:
    """JSON that no text in it can break out of: ASCII only, and no letter that HTML reads."""
    text = json.dumps(payload, ensure_ascii=True, allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    """`value` as JSON has it: keys as texts, arrays as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | range | np.ndarray):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _page_name(episode_id: str) -> str:
    return f"{folder_key(episode_id)}.html"


def _from_below(link: str) -> str:
    """An address relative to the report's folder as one relative to `episodes`."""
    parts = urlsplit(link)
    return link if not link or parts.scheme or parts.netloc or link.startswith("/") else f"../{link}"
