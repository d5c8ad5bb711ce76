"""An output directory, or one packet, as the viewer reads it: rows, packets, and pictures kept for the next look."""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, cast, get_args

from extractors.errors import ConfigError, CuepackError, OutputError, PacketError
from flows.output.annotations import ANNOTATIONS, read_annotations
from flows.output.costs import TABLE_HEAD, cost_table, run_costs
from flows.output.directory import OutputDirectory, RemoteDirectory
from flows.output.manifest import Row
from flows.output.study_tags import STUDY_TAGS, read_study_tags
from packers.admission import check_head
from packers.atomic import write_whole
from packers.reader import Packet
from packers.training.index import FOLDER, index_packets
from packers.training.summary import describe_collection
from packers.viewer.compare import compare_packets
from packers.viewer.episode import describe_episode, describe_points
from packers.viewer.frames import (
    SHEET_COLUMNS,
    SHEET_ROWS,
    THUMBNAIL_FRAMES,
    THUMBNAIL_PX,
    VIEW_VERSION,
    FramePictures,
    PanelName,
    encode_image,
    placeholder,
)
from packers.viewer.overview import describe_overview, folder_key
from packers.viewer.pages import as_script

UNREADABLE = "cannot be read:\ndamaged data"

_STEMS = ("points", *get_args(PanelName))
_OPEN_PACKETS = 6

MOST_KEPT_BYTES = 4 * 2**30
"""Of pictures kept for the next look: those of some 2,000 episodes of 40 frames that were opened, or of all thumbnails
of 100,000."""

_WATCHED = ("manifest.parquet", ".work/rows.jsonl", ANNOTATIONS, STUDY_TAGS)


class Library:
    """Where the viewer gets its data from.

    Files are asked for by name (`episode.js`, `rgb-0.jpg`, `points-0.js`, `thumb.jpg`); what takes time is kept in
    DIR/.work/view, under a name that changes with the packet. Where that cannot be written, nothing is kept.

    Args:
        path: an output directory, or one packet.
        directory: the output directory of `path`, None for the local one at `path`.

    Raises:
        ConfigError: there is neither.
    """

    def __init__(self, path: Path, directory: OutputDirectory | None = None) -> None:
        self.path = path.resolve()
        self.is_packet = self.path.is_file()
        self.directory = directory or OutputDirectory.open(self.path)
        if not self.path.exists():
            raise ConfigError(f"nothing at {path}; name an output directory of `cuepack extract`, or a packet")
        if not self.is_packet and not _looks_like_output(self.path):
            raise ConfigError(f"{path} holds neither a manifest nor packets; name an output directory, or a packet")
        self._cache = None if self.is_packet else self.path / ".work" / "view"
        self._lock = threading.Lock()
        self._indexing = threading.Lock()
        self._open: OrderedDict[str, tuple[threading.Lock, FramePictures]] = OrderedDict()
        self._rows: tuple[str, dict[str, Row]] = ("", {})
        self._fault = ""

    @property
    def title(self) -> str:
        """A short name: the last parts of the path."""
        return PurePosixPath(self.directory.name_of(self.path)).name or str(self.path)

    def stamp(self) -> str:
        """Changes when the manifest, its journal or the annotations do."""
        if self.is_packet:
            return _stamp(self.path)
        return hashlib.sha256("\n".join(_stamp(self.path / name) for name in _WATCHED).encode()).hexdigest()[:24]

    def rows(self) -> dict[str, Row]:
        """Manifest rows by folder key, read again when they changed.

        Without a manifest that can be read: the packets that are there; `notices` says so.
        """
        stamp = self.stamp()
        with self._lock:
            if self._rows[0] != stamp:
                self._rows = (stamp, {folder_key(str(row["episode_id"])): row for row in self._read_rows()})
            return self._rows[1]

    def notices(self) -> list[str]:
        """What the overview should say above the cards."""
        if self._fault:
            return [self._fault]
        if self.is_packet or any((self.path / name).exists() for name in _WATCHED[:2]):
            return []
        return [f"The manifest is missing; `cuepack manifest rebuild {self.title}` makes one from the packets."]

    def overview(self, *, server: bool, other: Library | None = None, site: str = "") -> bytes:
        """The overview's data; `site` tells exports apart, whose verdicts a browser keeps."""
        rows = self.rows()
        notices = self.notices()
        try:
            annotations = {} if self.is_packet else {k: asdict(v) for k, v in read_annotations(self.path).items()}
        except ConfigError as error:
            annotations = {}
            notices.append(str(error))
        compare = [] if other is None else [str(rows[key]["episode_id"]) for key in self.common(other)]
        return as_script(
            describe_overview(
                list(rows.values()),
                title=self.title,
                site=site,
                server=server and not self.is_packet,
                # A page that goes elsewhere does not tell where it was made.
                directory=None
                if self.is_packet
                else shlex.quote(self.directory.name_of(self.path) if server else self.title),
                thresholds=self.thresholds(),
                annotations=annotations,
                notices=notices,
                compare=compare,
            )
        )

    def statistics(self) -> bytes:
        """The statistics page's data: `describe_collection` of the packets, and sentences on what is left out.

        Packets are looked at once and their index is kept; of a directory behind a URI nothing is fetched for a page.
        """
        if isinstance(self.directory, RemoteDirectory):
            notes = [f"The packets are elsewhere; `cuepack stats {self.directory.address}` fetches and describes them."]
            return as_script({"title": self.title, "stats": None, "left_out": notes, "costs": self._costs()})
        packets = [self.path] if self.is_packet else sorted((self.path / "packets").glob("*/*.h5"))
        cache = None if self.is_packet else self.path / FOLDER / "index"
        with self._indexing:
            try:
                entries, faults = index_packets(packets, cache, damaged="skip", processes=1)
            except OutputError:  # a directory that may only be read: nothing is kept, as with the pictures
                entries, faults = index_packets(packets, None, damaged="skip", processes=1)
        stats = describe_collection(entries) if entries else None
        # A page that goes elsewhere does not tell where it was made.
        left_out = [f"Left out: {fault}".replace(str(self.path), self.title) for fault in faults]
        if not entries:
            left_out.append("No packet can be read.")
        return as_script({"title": self.title, "stats": stats, "left_out": left_out, "costs": self._costs()})

    def _costs(self) -> dict[str, Any] | None:
        """What each stage cost, from the manifest; None where it does not say."""
        found = run_costs(list(self.rows().values()))
        if not found.stages:
            return None
        return {"head": TABLE_HEAD, "lines": cost_table(found), "frames": found.frames, "device_s": found.device_s}

    def thresholds(self) -> dict[str, list[dict[str, Any]]]:
        """Column -> lines for its distribution, from the directory's config.yaml."""
        config_file = self.path / "config.yaml"
        if self.is_packet or not config_file.exists():
            return {}
        from flows.config import load_config

        try:
            config = load_config(config_file)
        except ConfigError:
            # Written by another version: the page is as good without the lines.
            return {}
        lines: dict[str, list[dict[str, Any]]] = {}
        if config.select.min_score is not None:
            lines["score"] = [{"name": "min", "value": config.select.min_score}]
        return lines

    def packet(self, key: str) -> Path:
        """The packet of an episode.

        Raises:
            KeyError: no such episode, or it has no packet, or its packet would be outside the directory.
        """
        row = self.rows()[key]
        if self.is_packet:
            return self.path
        named = row.get("packet")
        if not named:
            raise KeyError(f"{key} has no packet")
        try:
            path = (self.path / str(named)).resolve()
        except (OSError, ValueError) as error:  # a NUL, a name too long, links in a circle
            raise KeyError(f"the packet of {key} is at no path: {error}") from error
        if not path.is_relative_to(self.path):
            raise KeyError(f"the packet of {key} is outside {self.path}")
        try:
            self.directory.fetch([path])
        except ConfigError as error:
            raise KeyError(f"the packet of {key} cannot be fetched: {error}") from error
        return path

    def common(self, other: Library) -> list[str]:
        """Keys of the episodes that both have packets of; two single packets are taken as the same episode."""
        if self.is_packet and other.is_packet:
            return list(self.rows())
        other_keys = {key for key, row in other.rows().items() if row.get("packet")}
        return [key for key, row in self.rows().items() if row.get("packet") and key in other_keys]

    def file(self, key: str, name: str) -> bytes:
        """One of an episode's files.

        Raises:
            KeyError: there is no such episode or file.
        """
        if name == "episode.js":
            return self._kept(key, name, lambda path: as_script(describe_episode(path)), _broken)
        if name == "thumb.jpg":
            return self._kept(key, name, lambda path: self._pictured(path, lambda p: p.thumbnail()), _no_thumbnail)
        stem, _, rest = name.partition("-")
        number, _, ending = rest.partition(".")
        if not number.isdecimal() or len(number) > 6 or stem not in _STEMS:
            raise KeyError(name)
        index = int(number)
        if stem == "points" and ending == "js":
            return self._kept(key, name, lambda path: as_script(describe_points(path, index)), None)
        if ending == ("png" if stem == "masks" else "jpg"):
            panel = cast("PanelName", stem)
            return self._kept(key, name, lambda path: self._pictured(path, lambda p: p.sheet(panel, index)), _no_sheet)
        raise KeyError(name)

    def compared(self, key: str, other: Library) -> bytes:
        """What the compare page says about an episode that `other` has too."""
        other_key = next(iter(other.rows())) if other.is_packet else key
        names = (self.title, other.title)
        if names[0] == names[1]:
            names = (f"{self.path.parent.name}/{self.title}", f"{other.path.parent.name}/{other.title}")
        try:
            return as_script(compare_packets(self.packet(key), other.packet(other_key), names))
        except PacketError as error:
            empty: dict[str, Any] = {part: [] for part in ("numbers", "agreement", "settings")}
            return as_script({"names": {"a": names[0], "b": names[1]}, **empty, "notes": [str(error)]})

    def trim(self, most_bytes: int = MOST_KEPT_BYTES) -> None:
        """Removes kept pictures of packets that changed or went, then the eldest beyond `most_bytes`."""
        if self._cache is None or not self._cache.is_dir():
            return
        current = {
            key: self._digest(self.path / str(row["packet"])) for key, row in self.rows().items() if row["packet"]
        }
        kept: list[tuple[float, int, Path]] = []
        for folder in self._cache.glob("*/*/*"):
            if current.get(folder.parent.name) != folder.name:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with contextlib.suppress(OSError):
                sizes = [file.stat().st_size for file in folder.iterdir()]
                kept.append((folder.stat().st_mtime, sum(sizes), folder))
        total = sum(size for _, size, _ in kept)
        for _, size, folder in sorted(kept):
            if total <= most_bytes:
                return
            shutil.rmtree(folder, ignore_errors=True)
            total -= size

    def _read_rows(self) -> list[Row]:
        if self.is_packet:
            return [_packet_row(self.path, self.path.parent)]
        self._fault = ""
        if any((self.path / name).exists() for name in _WATCHED[:2]):
            try:
                return self._with_study_tags(list(self.directory.manifest.rows().values()))
            except CuepackError as error:
                self._fault = f"The packets are listed without their manifest: {error}"
        return [_bare_row(path, self.path) for path in sorted((self.path / "packets").glob("*/*.h5"))]

    def _with_study_tags(self, rows: list[Row]) -> list[Row]:
        studied = read_study_tags(self.path)
        for row in rows:
            if said := studied.get(str(row["episode_id"])):
                row["tags"] = ";".join(dict.fromkeys([*filter(None, str(row.get("tags") or "").split(";")), *said]))
        return rows

    def _kept(
        self, key: str, name: str, make: Callable[[Path], bytes], instead: Callable[[Exception], bytes] | None
    ) -> bytes:
        path = self.packet(key)
        cached = self._cached(key, path, name)
        if cached is not None:
            try:
                return cached.read_bytes()
            except OSError:
                pass
        try:
            content = make(path)
        except (KeyError, IndexError) as error:
            raise KeyError(str(error)) from error
        except (PacketError, CuepackError) as error:
            if instead is None:
                return as_script({"start": 0, "tracks": {}, "cloud": [], "colours": []})
            # Not kept: the packet may be made again, or be there in a moment.
            return instead(error)
        if cached is not None:
            _keep(cached, content)
            for earlier in cached.parent.parent.glob("*"):
                if earlier != cached.parent:
                    shutil.rmtree(earlier, ignore_errors=True)
        return content

    def _cached(self, key: str, path: Path, name: str) -> Path | None:
        if self._cache is None:
            return None
        digest = self._digest(path)
        # Ids of one data set begin alike, so a bucket is made of their hash, as with packets.
        bucket = hashlib.sha256(key.encode()).hexdigest()[:2]
        return None if digest is None else self._cache / bucket / key / digest / name

    @staticmethod
    def _digest(path: Path) -> str | None:
        """The name of the folder of a packet's pictures, another one when the packet changes."""
        try:
            head = f"{VIEW_VERSION} {check_head(path)} {_stamp(path)}"
        except PacketError:
            return None
        return hashlib.sha256(head.encode()).hexdigest()[:16]

    def _pictured(self, path: Path, draw: Callable[[FramePictures], bytes]) -> bytes:
        """Draws with a packet that is kept open for a while: ranges are found once, not for every sheet."""
        name = f"{path} {_stamp(path)}"
        with self._lock:
            if name not in self._open:
                self._open[name] = (threading.Lock(), FramePictures(Packet(path)))
            self._open.move_to_end(name)
            held, pictures = self._open[name]
            while len(self._open) > _OPEN_PACKETS:
                self._open.popitem(last=False)
        with held:
            return draw(pictures)


def _looks_like_output(path: Path) -> bool:
    return any((path / name).exists() for name in ("manifest.parquet", "run.json", "packets", ".work/rows.jsonl"))


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return f"{path.name} absent"
    return f"{path.name} {found.st_size} {found.st_mtime_ns} {found.st_ino}"


def _bare_row(path: Path, root: Path) -> Row:
    return {"episode_id": path.stem, "status": "done", "packet": path.relative_to(root).as_posix()}


def _packet_row(path: Path, root: Path) -> Row:
    """A manifest row from the packet itself; just its name where it cannot be read."""
    row = _bare_row(path, root)
    try:
        with Packet(path) as packet:
            attributes: Mapping[str, Any] = packet.attributes
            row["n_frames"] = packet.n_frames
    except PacketError:
        return row
    row["language_instruction"] = attributes.get("language_instruction")
    row["tags"] = ";".join(attributes.get("tags") or [])
    for name, value in (attributes.get("scores") or {}).items():
        row[name if name == "score" else f"score_{name}"] = value
    for modality, card in (attributes.get("quality") or {}).items():
        row[f"quality_{modality}"] = card.get("status")
    return row


def _keep(path: Path, content: bytes) -> None:
    """Writes a picture for the next look; a directory that may not be written does not stop whoever looks."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


@lru_cache(maxsize=1)
def _thumbnail_placeholder() -> bytes:
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    return encode_image(placeholder(UNREADABLE, size, (1, THUMBNAIL_FRAMES)))


def _broken(error: Exception) -> bytes:
    return as_script({"broken": str(error)})


def _no_thumbnail(error: Exception) -> bytes:
    return _thumbnail_placeholder()


@lru_cache(maxsize=1)
def _sheet_placeholder() -> bytes:
    return encode_image(placeholder(UNREADABLE, (224, 224), (SHEET_ROWS, SHEET_COLUMNS)))


def _no_sheet(error: Exception) -> bytes:
    return _sheet_placeholder()
