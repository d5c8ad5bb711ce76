"""The store of an output directory behind a URI: packets are made and checked here, then put there in one step."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from extractors.errors import OutputError, PacketError, RemoteError, RemoteMissingError
from flows.output.store import NO_PACKET, StageResult, Store, packet_facts
from flows.remote.mirror import Mirror, is_placeholder
from packers.reader import Packet, check_digest, check_head
from packers.validate import validate_packet


class RemoteStore(Store):
    """The packets, work files and locks of a directory's stand-in.

    Args:
        mirror: the stand-in's copies.
        keep_local: keep the packets that were put there, for looking at them here.
    """

    def __init__(self, mirror: Mirror, *, keep_local: bool) -> None:
        super().__init__(mirror.root)
        self._mirror = mirror
        self._keep_local = keep_local
        self._put: dict[str, dict[str, Any]] = {}
        self._marks: dict[str, str] = {}
        self._fetched: set[str] = set()
        self._lock = threading.Lock()

    def packet_results(self, episode_id: str) -> dict[str, StageResult]:
        """As of a local store; fetches the packet as it is there now, which another run may have put a moment ago.

        Raises:
            PacketError: the packet is damaged or of another schema.
            OutputError: it cannot be fetched now.
        """
        name, mirror = self._name(episode_id), self._mirror
        self._put.pop(episode_id, None)
        self._marks.pop(episode_id, None)
        try:
            file = self._mirror.remote.describe(name)
            # Another run may have put a packet since this one listed the directory.
            if not mirror.is_there(name, file):
                mirror.forget(name, file)
            if is_placeholder(mirror.root / name):
                mirror.fetch([name])
                with self._lock:
                    self._fetched.add(episode_id)
        except RemoteMissingError:
            mirror.drop(name)
            return {}
        except RemoteError as error:
            # Making the packet again would cost more than waiting, and it could not be uploaded either.
            raise OutputError(f"{error}; run again to go on") from error
        return super().packet_results(episode_id)

    def packing_path(self, episode_id: str) -> Path:
        """Where a packet waits to be put there."""
        path = self.packet_path(episode_id)
        # Not in `packets/`, where the stand-in holds copies and placeholders of what is behind the URI.
        return self.work / "pending" / path.parent.name / path.name

    def is_packed(self, episode_id: str, key: str) -> bool:
        """Whether a packet of this key, whole, waits to be put there: a run ended between the two."""
        path = self.packing_path(episode_id)
        if not path.exists():
            return False
        try:
            check_digest(path)
            with Packet(path) as packet:
                return bool(packet.attributes["stages"]["pack"]["key"] == key)
        except (PacketError, KeyError, TypeError):
            return False

    def publish(self, episode_id: str) -> None:
        """Checks the packet that waits and puts it there.

        Raises:
            PacketError: it breaks the schema.
            OutputError: it cannot be put there; it goes on waiting.
        """
        path, name = self.packing_path(episode_id), self._name(episode_id)
        # Before the put: what is behind the URI is whole and valid, or absent.
        findings = validate_packet(path)
        if findings:
            reasons = "; ".join(f"{found.dataset or 'packet'}: {found.reason}" for found in findings[:3])
            path.unlink(missing_ok=True)
            raise PacketError(f"{name} was not put there, as it breaks the schema: {reasons}")
        # Read before the put: afterwards the local file is moved or removed.
        facts, mark = packet_facts(path, name), check_head(path)
        file = self._mirror.remote.put(path, name)
        if self._keep_local:
            self._mirror.adopt(path, name, file)
        else:
            self._mirror.forget(name, file)
            path.unlink(missing_ok=True)
        with self._lock:
            self._put[episode_id], self._marks[episode_id] = facts, mark
            self._fetched.discard(episode_id)

    def is_here(self, episode_id: str) -> bool:
        """Whether the stand-in holds the packet itself and not a placeholder of its size."""
        path = self.packet_path(episode_id)
        return path.exists() and not is_placeholder(path)

    def mark(self, episode_id: str) -> str | None:
        """As of a local store, of the packet that was put last or fetched; None of one that is not here."""
        if episode_id in self._marks:
            return self._marks[episode_id]
        return super().mark(episode_id) if self.is_here(episode_id) else None

    def packet_columns(self, episode_id: str, earlier: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """As of a local store; of a packet that is not here, size and what the earlier row knows."""
        if episode_id in self._put:
            return dict(self._put[episode_id])
        path = self.packet_path(episode_id)
        if not is_placeholder(path):
            return super().packet_columns(episode_id)
        size = path.stat().st_size
        # A packet that looks unchanged is listed without fetching it.
        if earlier is not None and earlier.get("bytes") == size and earlier.get("packet"):
            return {name: earlier.get(name) for name in NO_PACKET}
        # Somebody replaced or cut it off: only its content tells whether it can be listed.
        try:
            self._mirror.fetch([self._name(episode_id)])
            columns = super().packet_columns(episode_id)
        except RemoteError as error:
            raise OutputError(f"{error}; run again to go on") from error
        if not self._keep_local:
            self._mirror.forget(self._name(episode_id))
        return columns

    def release(self, episode_id: str) -> None:
        """Drops the copy of an earlier packet that was fetched to work on the episode."""
        if episode_id in self._fetched and not self._keep_local:
            self._mirror.forget(self._name(episode_id))
            with self._lock:
                self._fetched.discard(episode_id)

    def _name(self, episode_id: str) -> str:
        return self.packet_path(episode_id).relative_to(self.root).as_posix()
