"""Which kind of source a path holds, told from its contents."""

from __future__ import annotations

from pathlib import Path

from extractors.errors import SourceError
from flows.config import SourceConfig
from flows.remote.files import is_uri
from flows.sources.base import Source

_MARKS = ("meta/info.json", "features.json")

HUB_PREFIX = "lerobot:"


def open_source(source: str, settings: SourceConfig | None = None) -> Source:
    """The source at a path or URI, read as `settings` say.

    Raises:
        SourceError: it is not there, cannot be read, or is of no known kind.
    """
    if source.startswith(HUB_PREFIX):
        from flows.sources.lerobot import LeRobotSource, fetch_lerobot

        return LeRobotSource(fetch_lerobot(source.removeprefix(HUB_PREFIX)), settings)
    if is_uri(source):
        from flows.sources.remote import Copies, RemoteSource

        copies = Copies(source)
        return RemoteSource(source, _open_path(copies.path, source, settings), copies.mirror, copies.held)
    return _open_path(Path(source).expanduser(), source, settings)


def source_location(source: Source) -> str:
    """Where a later command finds the source again: its URI, or the absolute path of its root."""
    uri = getattr(source, "uri", None)
    return str(source.root.resolve()) if uri is None else str(uri)


def _open_path(path: Path, source: str, settings: SourceConfig | None) -> Source:
    """The source at `path`, which messages call `source`."""
    from flows.sources.bridge import BridgeRawSource, is_bridge_raw
    from flows.sources.lerobot import LeRobotSource, is_lerobot
    from flows.sources.rlds import RldsSource, is_rlds
    from flows.sources.videos import VideoFolderSource, is_video_folder

    try:
        if not path.exists():
            raise SourceError(f"source {source} does not exist; name a folder, a video, or {HUB_PREFIX}HUB_ID")
        if is_lerobot(path):
            return LeRobotSource(path, settings)
        if is_rlds(path):
            return RldsSource(path)
        if is_bridge_raw(path):
            return BridgeRawSource(path, settings)
        inside = [f"{source.rstrip('/')}/{name}" for name in _datasets_inside(path)]
        if inside:
            raise SourceError(f"source {source} is a folder of data sets; name one of them: {', '.join(inside)}")
        if is_video_folder(path):
            return VideoFolderSource(path, settings)
    except (OSError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"source {source} cannot be read: {error}; check its permissions") from error
    raise SourceError(
        f"source {source} is of no known kind; wanted BridgeData V2 raw folders (raw/traj_group*/traj*), RLDS "
        "(features.json beside *.tfrecord-*), LeRobot (meta/info.json), or videos"
    )


def _datasets_inside(path: Path, most: int = 5) -> list[str]:
    """Sub-folders, down to three levels, that are LeRobot or RLDS data sets themselves, by name."""
    if not path.is_dir():
        return []
    found: list[str] = []
    for depth in ("*", "*/*", "*/*/*"):
        for mark in _MARKS:
            folders = sorted(
                hit.relative_to(path).as_posix().removesuffix(f"/{mark}") for hit in path.glob(f"{depth}/{mark}")
            )
            found += folders[: most - len(found)]
        if found:
            break
    return found
