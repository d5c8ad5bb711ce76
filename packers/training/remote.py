"""Packets behind a URI, fetched once into a local folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from extractors.errors import ConfigError, OutputError


def is_uri(where: Path | str) -> bool:
    """Whether `where` names a remote: `s3://...`, `gs://...`, any that fsspec knows."""
    return isinstance(where, str) and "://" in where


def fetched(uri: str, cache: Path | None) -> Path:
    """The local copy of the folder, selection file or packet at `uri`, below `cache`; files of the same size are kept.

    A selection brings the packets that it names. All of them are fetched before training starts: a window read from a
    remote would take longer than a training step.

    Raises:
        ConfigError: no cache folder is named, fsspec or the client of the URI's protocol is missing, or nothing is
            there.
        OutputError: the copy cannot be written.
    """
    if cache is None:
        raise ConfigError(f"packets of {uri} are fetched into a local folder; name it with Reading(cache=...)")
    try:
        import fsspec
    except ImportError as error:
        raise ConfigError(f"{uri} needs fsspec and a client of its protocol; install cuepack[s3] or [gcs]") from error
    try:
        files, path = fsspec.core.url_to_fs(uri)
        target = Path(cache) / "fetched" / path.strip("/").replace("/", "_")
        if files.isdir(path):
            names = [name for name in files.find(path) if name.endswith(".h5") and "/." not in name[len(path) :]]
            return _fetch_all(files, names, path, target)
        if path.endswith(".csv"):
            return _fetch_selection(files, path, target)
        folder, _, name = str(path).rpartition("/")
        return _fetch_all(files, [path], folder, target) / name
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise ConfigError(f"{uri} cannot be read: {error}") from error


def _fetch_selection(files: Any, path: str, target: Path) -> Path:
    from packers.training.selection import selected_packets

    folder = path.rsplit("/", 1)[0]
    _fetch_all(files, [path], folder, target)
    local = target / path.rsplit("/", 1)[1]
    _fetch_all(files, [name for p in selected_packets(local) if files.exists(name := f"{folder}/{p}")], folder, target)
    return local


def _fetch_all(files: Any, names: list[str], root: str, target: Path) -> Path:
    for name in names:
        local = target / name[len(root) :].strip("/")
        if local.exists() and local.stat().st_size == files.size(name) and local.suffix == ".h5":
            continue
        part = local.with_name(f".{local.name}.{secrets.token_hex(4)}.part")
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(name, str(part))
            os.replace(part, local)
        except OSError as error:
            part.unlink(missing_ok=True)
            if isinstance(error, FileNotFoundError):
                raise
            raise OutputError(f"{name} cannot be fetched to {local}: {error}; free space or fix permissions") from error
    return target
