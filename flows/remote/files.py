"""Files behind a URI (`s3://`, `gs://`, `sftp://`, `file://`, ...), through fsspec: listed, fetched, put.

Every fault comes out as `RemoteError` with what to do about it; callers say whether it costs an episode or the run.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from platformdirs import user_cache_path

from extractors.errors import ConfigError, OutputError, RemoteError, RemoteMissingError

log = logging.getLogger("cuepack")

WAITS_S = (1.0, 3.0, 10.0)
"""Seconds before each further try of a fetch or a put; the clients of object stores retry by themselves before that."""

PAST_STAMPS = 1 << 30
"""Stamps are times before this, 2004: what was really written lately is told from copies."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "tos"})
"""Where folders do not exist by themselves, and making one would make a bucket."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

# The clients' own names for "who are you?"; each client has another base class.
_NO_LOGIN = frozenset(
    {
        "ClientAuthenticationError",
        "CredentialRetrievalError",
        "DefaultCredentialsError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "RefreshError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
    }
)

# What stays the same while nothing but its place or its reader changes comes first.
_VERSIONS = ("ETag", "etag", "md5Hash", "md5", "generation")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")

Got = TypeVar("Got")


def is_uri(text: str) -> bool:
    """Whether `text` is a URI that fsspec opens, rather than a path; `lerobot:HUB_ID` is none."""
    return _URI.match(text) is not None


def cache_folder() -> Path:
    """Where copies of remote files are kept: $CUEPACK_CACHE, else the user's cache (~/.cache/cuepack on Linux)."""
    return Path(os.environ.get("CUEPACK_CACHE") or user_cache_path("cuepack"))


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One version of a remote file.

    Attributes:
        size: bytes.
        stamp: stands for its content: made from its ETag or checksum where the store has one, else from its time. A
            time in whole seconds, so that a local copy can carry it on any file system.
    """

    size: int
    stamp: int


class Remote:
    """A folder, or a single file, behind a URI.

    Args:
        uri: as the user gave it.

    Raises:
        RemoteError: the protocol is unknown, or its package is missing.
        ConfigError: the URI cannot be taken apart, or holds a password, which would end up in run.json and in logs.
    """

    def __init__(self, uri: str) -> None:
        try:
            password = urlsplit(uri).password
        except ValueError as error:
            raise ConfigError(f"{uri} is no URI ({error}); check its spelling") from error
        if password:
            raise ConfigError(
                f"{uri.split('://')[0]}://: leave the password out of the URI, as run.json records it; give it to "
                "fsspec through its configuration (~/.config/fsspec) or environment"
            )
        self.uri = uri.rstrip("/")
        try:
            self._fs, self._root = url_to_fs(uri)
        except Exception as error:  # every protocol's client raises its own kinds
            raise self._explained("", error) from error
        self._root = str(self._root).rstrip("/")
        self._protocol = uri.partition("://")[0].rpartition("::")[2].lower()
        self._folders: set[str] = set()

    @property
    def name(self) -> str:
        """The last part of the path; the protocol's name where there is none."""
        return PurePosixPath(self._root).name or self._protocol

    @property
    def local_path(self) -> Path | None:
        """Where the files are, for a URI of this machine's own file system."""
        return Path(self._root or "/").resolve() if isinstance(self._fs, LocalFileSystem) else None

    def files(self, under: str = "") -> dict[str, RemoteFile]:
        """Every file below the folder `under`, by name relative to the URI, sorted; {} where there is none.

        For a URI of a single file its name is "".

        Raises:
            RemoteError: it cannot be listed.
        """
        return self._listed(lambda: self._fs.find(self._path(under), detail=True))

    def top_files(self) -> dict[str, RemoteFile]:
        """The files directly in the folder, by name; {} where the folder is missing.

        Raises:
            RemoteError: it cannot be listed.
        """
        found = self._listed(lambda: {each["name"]: each for each in self._fs.ls(self._root, detail=True)})
        return {name: file for name, file in found.items() if name and "/" not in name}

    def describe(self, name: str) -> RemoteFile:
        """One file.

        Raises:
            RemoteMissingError: there is no such file.
            RemoteError: it cannot be looked at.
        """

        def look() -> Mapping[str, Any]:
            self._fs.invalidate_cache()
            found: Mapping[str, Any] = self._fs.info(self._path(name))
            return found

        return self._remote_file(name, self._patiently(name, look))

    def fetch(self, name: str, target: Path, size: int) -> None:
        """Copies a file to `target`, whose folder is there; what is at `target` when this fails is to be thrown away.

        Raises:
            RemoteMissingError: there is no such file any more.
            RemoteError: it cannot be fetched, or has another size than `size`: it changed since it was listed.
            OutputError: this machine's disk is full.
        """
        self._patiently(name, lambda: self._fs.get_file(self._path(name), str(target)))
        try:
            there = target.stat().st_size
        except FileNotFoundError as error:
            raise RemoteError(f"the copy of {self._shown(name)} was removed meanwhile; run again") from error
        if there != size:
            raise RemoteError(
                f"{self._shown(name)} has {there:,} bytes and was listed with {size:,}: it changed meanwhile; run again"
            )

    def put(self, path: Path, name: str) -> RemoteFile:
        """Copies the file `path` there, over an older one.

        A reader sees the old or the new file; on file systems that write in place it may see a part of the new one,
        which its size tells.

        Raises:
            OutputError: it cannot be written, after several tries.
        """
        target, local = self._path(name), isinstance(self._fs, LocalFileSystem)

        def put() -> None:
            self._make_parent(target)
            if not local:
                self._fs.put_file(str(path), target)
                return
            beside = f"{PurePosixPath(target).parent}/.tmp-{secrets.token_hex(8)}"
            try:
                self._fs.put_file(str(path), beside)
                os.replace(beside, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
                raise

        try:
            self._patiently(name, put, if_full="free space there")
            found = self.describe(name)
        except RemoteError as error:
            raise OutputError(f"{error}; what is finished is kept here and put there by the next run") from error
        if found.size != path.stat().st_size:
            raise OutputError(
                f"{self._shown(name)} has {found.size:,} bytes after a put of {path.stat().st_size:,}; run again"
            )
        return found

    def read_text(self, name: str) -> str:
        """The content of a small file.

        Raises:
            RemoteMissingError: there is no such file.
            RemoteError: it cannot be read.
        """
        return str(self._patiently(name, lambda: self._fs.cat_file(self._path(name))).decode("utf-8"))

    def write_text(self, name: str, text: str) -> None:
        """Writes a small file.

        Raises:
            OutputError: it cannot be written, after several tries.
        """
        target = self._path(name)

        def write() -> None:
            self._make_parent(target)
            self._fs.pipe_file(target, text.encode("utf-8"))

        try:
            self._patiently(name, write, if_full="free space there")
        except RemoteError as error:
            raise OutputError(str(error)) from error

    def remove(self, name: str) -> None:
        """Removes a file or a folder with all that is in it; what cannot be removed is left and logged."""
        try:
            self._fs.rm(self._path(name), recursive=True)
        except FileNotFoundError:
            return
        except Exception as error:  # see above
            log.warning("%s", self._explained(name, error))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root or "/"

    def _shown(self, name: str) -> str:
        return f"{self.uri}/{name}" if name else self.uri

    def _make_parent(self, path: str) -> None:
        folder = str(PurePosixPath(path).parent)
        if self._protocol not in _OBJECT_STORES and folder not in self._folders:
            self._fs.makedirs(folder, exist_ok=True)
            self._folders.add(folder)

    def _listed(self, look: Callable[[], Mapping[str, Mapping[str, Any]]]) -> dict[str, RemoteFile]:
        try:
            self._fs.invalidate_cache()
            found = look()
        except FileNotFoundError:
            return {}
        except Exception as error:  # see above
            raise self._explained("", error) from error
        files = {}
        for path, info in sorted(found.items()):
            if info.get("type") == "directory" or path.endswith("/"):
                continue
            name = str(path).rstrip("/").removeprefix(self._root).lstrip("/")
            if not _stays_inside(name) or (info.get("islink") and not self._leads_inside(path)):
                log.warning("%s is left out: it leads out of the folder", self._shown(name))
                continue
            files[name] = self._remote_file(name, info)
        return files

    def _leads_inside(self, path: str) -> bool:
        """Whether a link of this machine's own file system stays in the folder: a data set must not hand in others."""
        folder = self.local_path
        return folder is not None and Path(path).resolve().is_relative_to(folder)

    def _remote_file(self, name: str, info: Mapping[str, Any]) -> RemoteFile:
        size = info.get("size")
        if not isinstance(size, int):
            raise RemoteError(f"{self._shown(name)}: the server does not tell its size; copy the files here first")
        version = next((str(info[key]).strip('"') for key in _VERSIONS if info.get(key)), None)
        if version is None:
            version = next((str(info[key]) for key in _TIMES if info.get(key)), "")
        digest = hashlib.sha256(json.dumps([size, version]).encode()).digest()
        return RemoteFile(size, int.from_bytes(digest[:4], "big") % PAST_STAMPS)

    def _patiently(
        self,
        name: str,
        attempt: Callable[[], Got],
        *,
        if_full: str = "free space, or set CUEPACK_CACHE to a folder on another disk",
    ) -> Got:
        """Tries again what may be better in a few seconds."""
        for wait in (*WAITS_S, None):
            try:
                return attempt()
            except Exception as error:  # see above
                if isinstance(error, OSError) and error.errno in _DISK_FAULTS:
                    raise OutputError(f"{self._shown(name)} cannot be copied: {error}; {if_full}") from error
                if wait is None or _is_lasting(error):
                    raise self._explained(name, error) from error
                log.info("%s: %s: %s; tried again", self._shown(name), type(error).__name__, error)
                time.sleep(wait)
        raise AssertionError

    def _explained(self, name: str, error: Exception) -> RemoteError:
        """The fault in our words, with what to do about it."""
        shown, protocol = self._shown(name), self.uri.partition("://")[0].rpartition("::")[2]
        text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        if isinstance(error, ImportError):
            extra = _EXTRAS.get(protocol)
            install = f"pip install 'cuepack[{extra}]'" if extra else "install it beside cuepack"
            return RemoteError(f"{shown}: a package for {protocol}:// is missing ({text}); {install}")
        if isinstance(error, ValueError) and "rotocol not known" in text:
            protocols = sorted(fsspec.available_protocols())
            near = difflib.get_close_matches(protocol, protocols, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}://?" if near else "s3, gs, abfs, sftp and file are among those it knows"
            return RemoteError(f"{shown}: fsspec knows no protocol {protocol}://; {hint}")
        if isinstance(error, FileNotFoundError):
            return RemoteMissingError(f"{shown} does not exist; check the name")
        if isinstance(error, PermissionError) or type(error).__name__ in _NO_LOGIN:
            return RemoteError(
                f"{shown}: access refused ({type(error).__name__}: {text}); give the client credentials that may use "
                f"it ({_login_hint(protocol)})"
            )
        return RemoteError(
            f"{shown} cannot be reached ({type(error).__name__}: {text}); check the name, the network and the endpoint"
        )


def _login_hint(protocol: str) -> str:
    if protocol in ("s3", "s3a"):
        return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or ~/.aws; AWS_ENDPOINT_URL for other stores"
    if protocol in ("gs", "gcs"):
        return "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS"
    return "see its fsspec documentation"


def _stays_inside(name: str) -> bool:
    """Whether a listed name can be a path below the remote's folder; object stores take any text."""
    parts = name.split("/")
    return name == "" or ("\0" not in name and all(part not in ("", ".", "..") for part in parts))


def _is_lasting(error: Exception) -> bool:
    lasting = (FileNotFoundError, PermissionError, ImportError, IsADirectoryError, NotADirectoryError, ValueError)
    return isinstance(error, lasting) or type(error).__name__ in _NO_LOGIN
