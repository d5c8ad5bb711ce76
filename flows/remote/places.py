"""What a person named, by path or URI: a file to be read, and whether one place is inside another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from extractors.errors import ConfigError, OutputError, RemoteError
from flows.remote.files import Remote, cache_folder, is_uri
from flows.remote.mirror import Mirror


def fetched_file(named: str | Path) -> Path:
    """The local path of a file to be read, such as a selection: a path as it is, of a URI a copy.

    Raises:
        ConfigError: the URI cannot be used.
    """
    if not is_uri(str(named)):
        return Path(named)
    with as_config_errors():
        folder, _, name = str(named).rpartition("/")
        remote = Remote(folder)
        root = cache_folder() / "files" / hashlib.sha256(remote.uri.encode()).hexdigest()[:16]
        mirror = Mirror(remote, root / "files", root / "work")
        mirror.refresh({name: remote.describe(name)}, lambda each: True, lambda each: False)
    return mirror.root / name


def is_inside(place: str, folder: str) -> bool:
    """Whether `place` is the same as `folder` or inside it, both given by path or URI.

    Raises:
        ConfigError: a URI cannot be used.
    """
    inner, outer = _absolute(place), _absolute(folder)
    return outer == inner or outer in [str(parent) for parent in PurePosixPath(inner).parents]


@contextmanager
def as_config_errors() -> Iterator[None]:
    """What cannot be done with a URI that the user named is a fault of usage."""
    try:
        yield
    except (RemoteError, OutputError) as error:
        raise ConfigError(str(error)) from error


def _absolute(named: str) -> str:
    if not is_uri(named):
        return str(Path(named).resolve())
    with as_config_errors():
        local = Remote(named).local_path
    # As a path "s3://bucket/in" has its double slash made single, in both.
    return str(local) if local is not None else str(PurePosixPath(named))
