"""Which packets are let in: whole by their sha256, then looked through by a process of its own, then remembered."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from extractors.errors import PacketError
from packers.examiner import examine
from packers.schema import MAGIC, USER_BLOCK

MOST_REMEMBERED = 100_000
"""Files that are not looked at again; each takes some 200 bytes."""

FRESH_NS = 50_000_000
"""A file changed so short a time ago may change again within one tick of the file system's clock (10 ms at most), and
keep its times: it is looked at again."""

Identity = tuple[int, ...]
"""What changes when a file does: device, inode, size, and the times of its content and of its entry."""

_DIGEST_BYTES = slice(len(MAGIC), len(MAGIC) + 64)


def admit(path: Path | str, *, any_group: bool = False) -> None:
    """Lets a file in, or says why not: its sha256 first, then what HDF5 finds in it, in a process of its own.

    Args:
        path: the file.
        any_group: whether the form is all that counts, and not the schema of packets.

    Raises:
        PacketError: the file is missing, damaged, made to do harm, or breaks what readers of packets rely on.
    """
    path = Path(path)
    task = "form" if any_group else "packet"
    identity, passed = ADMITTED.look_up(path)
    if task in passed:
        return
    if not passed:
        check_digest(path)
    for dataset, _, reason in examine(task, path):
        where = f"{dataset}: " if dataset not in (None, "/") else ""
        raise PacketError(f"{path}: {where}{reason}; extract the episode again, or see `cuepack validate`")
    ADMITTED.add(identity, (task,))


def check_digest(path: Path | str) -> None:
    """Reads the whole file and compares it with the sha256 in its user block.

    Raises:
        PacketError: any bit differs, or the file is not a packet.
    """
    path = Path(path)
    identity = ADMITTED.look_up(path)[0]
    recorded = check_head(path)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            file.seek(USER_BLOCK)
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise PacketError(f"{path}: damaged: it cannot be read ({error.strerror or error})") from error
    if digest.hexdigest() != recorded:
        raise PacketError(
            f"{path}: damaged: its bytes do not have the sha256 that its user block states; extract it again"
        )
    ADMITTED.add(identity, ("digest",))


class Admitted:
    """Which files of which identity passed which checks; safe between threads, inherited by forks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passed: dict[Identity, frozenset[str]] = {}

    def look_up(self, path: Path) -> tuple[Identity, frozenset[str]]:
        """The file's identity, () where it is not there or too fresh to have one, and what it passed."""
        try:
            found = path.stat()
        except (OSError, ValueError):
            return (), frozenset()
        if 0 <= time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < FRESH_NS:
            return (), frozenset()
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return identity, self._passed.get(identity, frozenset())

    def add(self, identity: Identity, passed: Iterable[str]) -> None:
        """Remembers; of too many, the eldest is forgotten and will be looked at again."""
        if not identity:
            return
        with self._lock:
            self._passed[identity] = self._passed.pop(identity, frozenset()) | frozenset(passed)
            while len(self._passed) > MOST_REMEMBERED:
                del self._passed[next(iter(self._passed))]


ADMITTED = Admitted()
os.register_at_fork(after_in_child=lambda: setattr(ADMITTED, "_lock", threading.Lock()))


def check_head(path: Path) -> str:
    """The sha256 that the user block of the file `path` states.

    Raises:
        PacketError: the file is missing, or has no whole user block.
    """
    try:
        # A pipe would be waited for, a device read without end.
        head = None
        if stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as file:
                head = file.read(USER_BLOCK)
    except OSError as error:
        raise PacketError(f"{path}: wanted a packet: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise PacketError(f"wanted a packet, got the name {str(path)!r}: {error}") from error
    if head is None:
        raise PacketError(f"{path}: wanted a packet, got a folder, a pipe or a device; name a file")
    if not head.startswith(MAGIC):
        raise PacketError(f"{path}: no packet: wanted {MAGIC.decode()} in its first bytes, got {head[: len(MAGIC)]!r}")
    digest, rest = head[_DIGEST_BYTES], head[_DIGEST_BYTES.stop :]
    if len(head) < USER_BLOCK or set(digest) - set(b"0123456789abcdef") or rest.strip(b"\0"):
        raise PacketError(f"{path}: damaged: wanted a sha256 and zeros in its {USER_BLOCK}-byte user block")
    return digest.decode("ascii")
