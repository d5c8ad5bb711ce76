"""The manifest made again from the packets, with the rows of the old manifest that still fit them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extractors.errors import ConfigError, OutputError, PacketError
from flows.output.directory import OutputDirectory
from flows.output.manifest import Manifest, Row, assessment_columns
from flows.output.store import NO_PACKET, Store, json_digest
from flows.sources.base import safe_id
from packers.plain_files import read_plain
from packers.reader import Packet, check_digest


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuilt manifest is made of.

    Attributes:
        kept: episodes whose old row fits their packet, or that have no packet (failed, filtered): the row stays.
        made: episodes whose row was made from their packet.
        damaged: packet path relative to the directory -> why it was left out.
        lost: episodes that the old manifest called done and whose packet is gone or damaged.
        manifest_error: why the old manifest could not be read, None where it could or there was none.
        aside: where the unreadable manifest was put.
    """

    kept: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    manifest_error: str | None = None
    aside: Path | None = None

    def unknown(self) -> list[str]:
        """What cannot be known from packets, in sentences; [] where nothing is missing."""
        said = []
        if self.made:
            said.append(
                f"{len(self.made)} rows come from packets alone: seconds and peak memory are not in a packet, and "
                "the next `cuepack extract` reads their source once to see that it is unchanged"
            )
        if self.manifest_error is not None:
            said.append(
                "episodes that failed or were filtered leave no packet: they are not listed until the next "
                "`cuepack extract` looks at them again"
            )
        if self.damaged:
            said.append(
                f"{len(self.damaged)} damaged packets are not listed; the next `cuepack extract` makes them again"
            )
        if self.lost:
            said.append(f"{len(self.lost)} episodes were done and have no whole packet any more; run `cuepack extract`")
        return said


def rebuild_manifest(directory: OutputDirectory) -> Rebuilt:
    """Rewrites manifest.parquet and manifest.csv from the packets; every packet is fetched and read whole.

    Rows of the old manifest are kept where their sha256 is the packet's, and where there is no packet (failed and
    filtered episodes). An unreadable manifest is set aside as `manifest.parquet.unreadable`, never deleted.

    Raises:
        ConfigError: the directory holds neither packets nor a manifest, or a packet cannot be fetched.
        OutputError: the manifest cannot be written.
    """
    out = directory.root
    packets = sorted((out / "packets").glob("*/*.h5"))
    manifest = directory.manifest
    if not packets and not manifest.parquet.exists():
        raise ConfigError(
            f"{directory.label} holds neither packets nor a manifest; name an output directory of `cuepack extract`"
        )
    # Before the lock: fetching may take hours, and runs on the directory would wait for it.
    directory.fetch(packets)
    # A run that goes on meanwhile adds its rows to the journal; the lock keeps both from being half seen.
    with manifest.locked():
        earlier, rebuilt = _earlier_rows(manifest, directory)
        rows: dict[str, Row] = {}
        for path in packets:
            _add_packet(out, path, earlier, rows, rebuilt)
        for name, row in earlier.items():
            if name in rows:
                continue
            if row.get("status") == "done":
                rebuilt.lost.append(name)
            else:
                # It may have listed the packet of an earlier run, which is gone or damaged.
                rows[name] = row | NO_PACKET | {"packed_from": None}
                rebuilt.kept.append(name)
        manifest.write(rows.values())
        manifest.forget_journal()
    return rebuilt


def packet_row(out: Path, path: Path) -> Row:
    """The manifest's row of a packet, as far as the packet tells it.

    Raises:
        PacketError: the packet is damaged, or its file has the name of another episode.
    """
    check_digest(path)
    with Packet(path) as packet:
        attributes = packet.attributes
    episode_id = attributes["episode_id"]
    if Store(out).packet_path(episode_id) != path:
        raise PacketError(f"{path} says it is the packet of {episode_id}; put it back, or extract the episode again")
    source, stages = attributes["source"], attributes["stages"]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    camera_asked = _camera_asked(out, episode_id, source)
    suffix = "" if camera_asked is None else f"-{safe_id(camera_asked)}"
    row: Row = {
        "episode_id": episode_id,
        "episode_index": source.get("episode_index"),
        "status": "done",
        "packet": path.relative_to(out).as_posix(),
        "sha256": digest,
        "bytes": path.stat().st_size,
        "n_frames": len(source["frame_sha256"]),
        "language_instruction": attributes["language_instruction"],
        "camera": source.get("camera"),
        "camera_asked": camera_asked,
        "source_id": episode_id.removesuffix(suffix),
        "run_key": _run_key(attributes["config"], stages),
        "mask_recorded_j": _number((stages.get("masks") or {}).get("report", {}).get("recorded_j")),
    }
    return row | assessment_columns({name: attributes[name] for name in ("scores", "quality", "tags")})


def _earlier_rows(manifest: Manifest, directory: OutputDirectory) -> tuple[dict[str, Row], Rebuilt]:
    try:
        return manifest.rows(), Rebuilt()
    except OutputError as error:
        # Set aside before anything is written: `write` would replace the only copy.
        rebuilt = Rebuilt(manifest_error=str(error), aside=manifest.set_aside())
    if rebuilt.aside is not None:
        directory.put(rebuilt.aside)
    # The journal may still hold rows of a run that was cut short.
    return manifest.rows(), rebuilt


def _add_packet(out: Path, path: Path, earlier: Mapping[str, Row], rows: dict[str, Row], rebuilt: Rebuilt) -> None:
    try:
        row = packet_row(out, path)
    except (PacketError, KeyError, TypeError) as error:
        rebuilt.damaged[path.relative_to(out).as_posix()] = str(error)
        return
    name = str(row["episode_id"])
    old = earlier.get(name)
    # The old row knows more than the packet: seconds, peak memory, the source's stamp.
    if old is not None and old.get("sha256") == row["sha256"]:
        rows[name] = old
        rebuilt.kept.append(name)
    else:
        rows[name] = row
        rebuilt.made.append(name)


def _camera_asked(out: Path, episode_id: str, source: Mapping[str, Any]) -> str | None:
    """The camera that was asked for; its name is then the end of the id."""
    asked = []
    # Without run.json the packet's own camera is all there is.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        asked.append(json.loads(read_plain(out / "run.json"))["camera"])
    for camera in (*asked, source.get("camera")):
        if camera and episode_id.endswith(f"-{safe_id(str(camera))}"):
            return str(camera)
    return None


def _run_key(config: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> str:
    """`Work.run_key` as it was when the packet was made."""
    return json_digest(
        {
            "config": dict(config),
            "weights": {name: dict(record["weights"]) for name, record in stages.items() if name != "pack"},
            "versions": {name: record.get("version") for name, record in stages.items()},
        }
    )


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
