"""Finished stages on disk: work files while an episode is under way, its packet afterwards.

A stage's result is found by its key, never by time, so the same lookup serves a repeated run, a run after a crash,
and a rerun from one stage.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import OutputError, PacketError
from packers.atomic import remove_if_abandoned
from packers.locks import in_use, named_locks
from packers.reader import Packet, check_digest, check_head, read_dataset
from packers.schema import Dataset
from packers.writer import decode, write_group

log = logging.getLogger("cuepack")

NO_PACKET = {"packet": None, "sha256": None, "bytes": None}
"""The manifest's columns of an episode without a packet that can be read."""

LEFTOVERS = (
    "packets/*/.tmp-*",
    ".work/stages/*/*/.tmp-*",
    ".work/plans/*",
    ".work/pending/*/.tmp-*",
    ".work/tmp/.tmp-*",
)
"""What only a run that was killed leaves behind, relative to the output directory."""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What is kept about one finished stage; the `stages` root attribute of a packet holds one per stage.

    Attributes:
        key: sha256 over the stage's inputs, settings, weights and code version.
        version: the stage's code version.
        backend: what made the signal, None for stages that have no choice.
        weights: checkpoint name -> sha256.
        device: where it ran: "cpu" or the CUDA device's name.
        precision: "fp32", "fp16" or "bf16".
        outputs: dataset -> sha256 of its stored content.
        report: what the stage found out; JSON types only.
    """

    key: str
    version: int
    backend: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    precision: str = "fp32"
    outputs: Mapping[str, str] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageResult:
    """A finished stage and the file that holds its arrays."""

    stage: str
    record: StageRecord
    path: Path

    def dataset(self, name: str) -> Dataset:
        """One array as it is stored."""
        return read_dataset(self.path, name)

    def read(self, name: str) -> NDArray[Any]:
        """One array's physical values, after whatever rounding storage did."""
        return decode(self.dataset(name))


class Store:
    """The packets, work files and locks of one output directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / ".work"

    def packet_path(self, episode_id: str) -> Path:
        """Where the packet of an episode is; 256 buckets keep a folder of 60,000 packets manageable."""
        return _packet_path(self.root, episode_id)

    def packet_results(self, episode_id: str) -> dict[str, StageResult]:
        """The stages that an episode's packet holds, {} without a packet.

        Raises:
            PacketError: the file is damaged or of another schema.
        """
        path = self.packet_path(episode_id)
        if not path.exists():
            return {}
        check_digest(path)
        with Packet(path) as packet:
            attributes = packet.attributes
        stages = attributes["stages"]
        # The packet keeps these two reports as root attributes of their own.
        for name in ("source", "language_instruction", "fps"):
            stages["source"]["report"][name] = attributes[name]
        stages["quality"]["report"] = {name: attributes[name] for name in ("scores", "quality", "tags")}
        return {name: StageResult(name, StageRecord(**record), path) for name, record in stages.items()}

    def packing_path(self, episode_id: str) -> Path:
        """Where a packet is written to; `publish` then puts it in its place where that is another."""
        return self.packet_path(episode_id)

    def is_packed(self, episode_id: str, key: str) -> bool:
        """Whether a packet whose `pack` stage has this key was written and not published."""
        return False

    def publish(self, episode_id: str) -> None:
        """Puts the packet that was just written in its place.

        Raises:
            PacketError: it breaks the schema.
            OutputError: it cannot be put there.
        """

    def is_here(self, episode_id: str) -> bool:
        """Whether the packet's content can be read without fetching it."""
        return self.packet_path(episode_id).exists()

    def mark(self, episode_id: str) -> str | None:
        """The digest that a packet carries at its head, which tells it from every other; None without a packet."""
        try:
            return check_head(self.packet_path(episode_id))
        except PacketError:
            return None

    def packet_columns(self, episode_id: str, earlier: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Path, sha256 and size of an episode's packet for the manifest, None where it has none.

        An episode that fails or is filtered now may have one of an earlier run: it is kept, and listed. `earlier` is
        the episode's row of before this run.
        """
        path = self.packet_path(episode_id)
        if not path.exists():
            return dict(NO_PACKET)
        try:
            check_digest(path)
        except PacketError as error:
            # The file stays for `validate` to find; a row lists what can be read.
            log.warning("%s: its packet is not listed: %s", episode_id, error)
            return dict(NO_PACKET)
        return packet_facts(path, path.relative_to(self.root).as_posix())

    def release(self, episode_id: str) -> None:
        """Says that no more is read from the episode's earlier packet."""

    def save(
        self, episode_id: str, stage: str, record: StageRecord, datasets: Mapping[str, Dataset], *, stamp: str
    ) -> StageResult:
        """Writes a finished stage to its work file, replacing an older one.

        `stamp` recognises the source files that it was made from; see `saved_from`.

        Raises:
            OutputError: the file cannot be written.
        """
        path = self._stage_path(episode_id, stage)
        make_folder(path.parent)
        # The source's stamp is kept beside the record, not in its key: a touched file has the same content.
        write_group(path, datasets, {"stage": asdict(record), "source_stamp": stamp})
        return StageResult(stage, record, path)

    def saved(self, episode_id: str, stage: str) -> StageResult | None:
        """The stage's work file, None where it is missing or damaged (it is then made again)."""
        path = self._stage_path(episode_id, stage)
        if not path.exists():
            return None
        try:
            check_digest(path)
            with Packet(path, any_group=True) as group:
                return StageResult(stage, StageRecord(**group.attributes["stage"]), path)
        except (PacketError, TypeError, KeyError):
            # Removed, or every later run would read and refuse it again.
            path.unlink(missing_ok=True)
            return None

    def saved_from(self, episode_id: str, stage: str, stamp: str) -> StageResult | None:
        """The stage's work file, if it was made from the source files that `stamp` recognises."""
        found = self.saved(episode_id, stage)
        if found is None:
            return None
        with Packet(found.path, any_group=True) as group:
            return found if group.attributes.get("source_stamp") == stamp else None

    def forget(self, episode_id: str) -> None:
        """Removes the work files of an episode."""
        shutil.rmtree(self._episode_work(episode_id), ignore_errors=True)

    @contextmanager
    def locked(self, episode_ids: Iterable[str]) -> Iterator[set[str]]:
        """Holds episodes for this process; yields those that no other run holds.

        The locks end with the process, however the process ends.
        """
        with named_locks(self.work / "episodes.lock") as take:
            yield {name for name in episode_ids if take(name)}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Marks the directory as worked on; where no other run is, first removes what a killed one left half written.

        The mark is a shared lock, so it ends with the process, however the process ends.

        Raises:
            OutputError: the directory cannot be written.
        """
        with in_use(self.work / "run.lock", self._remove_leftovers) as alone:
            if not alone:
                log.info("%s: another run is working on it, so nothing is cleaned up", self.root)
            yield

    def _remove_leftovers(self) -> None:
        # Only while no other run is on the directory: its temporary files look like a killed run's.
        for pattern in LEFTOVERS:
            for path in self.root.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    remove_if_abandoned(path)

    def _episode_work(self, episode_id: str) -> Path:
        return self.work / "stages" / self.packet_path(episode_id).parent.name / episode_id

    def _stage_path(self, episode_id: str, stage: str) -> Path:
        return self._episode_work(episode_id) / f"{stage}.h5"


@lru_cache(maxsize=1024)  # asked for several times in a row, for each of 60,000 episodes before a run begins
def _packet_path(root: Path, episode_id: str) -> Path:
    bucket = hashlib.sha256(episode_id.encode()).hexdigest()[:2]
    return Path(f"{root}/packets/{bucket}/{episode_id}.h5")


def packet_facts(path: Path, name: str) -> dict[str, Any]:
    """The manifest's columns of a packet that is at `path` and is called `name`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"packet": name, "sha256": digest, "bytes": path.stat().st_size}


def make_folder(folder: Path) -> None:
    """Makes a folder of an output directory.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error}; fix permissions, or free space") from error


def content_digest(dataset: Dataset) -> str:
    """Sha256 of an array as stored: type, shape, bytes and the attributes that give it its meaning."""
    data = np.ascontiguousarray(dataset.data)
    head = {
        "dtype": data.dtype.str,
        "shape": data.shape,
        # Scale, offset and fill belong to the content: the same integers with another scale are other values.
        "code": {
            name: float(dataset.attributes[name]) for name in ("scale", "offset", "fill") if name in dataset.attributes
        },
    }
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    digest.update(data.data if data.size else b"")
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """Sha256 of a JSON value with sorted keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    # File names that are no UTF-8 hold lone surrogates.
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
