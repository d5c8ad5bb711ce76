"""The export formats by name: the one place where a format is found and added.

A format imports its writer when it is asked for, so that listing the choices needs none of their libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from extractors.errors import ConfigError

Tick = Callable[[Path], None]
"""Hears of each packet that is finished."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is to be exported, and how.

    Attributes:
        packets: the files, in the order of the episodes.
        out: the file or folder to write.
        columns: further datasets to take (lewm-hdf5, swm-lance, lerobot, webdataset).
        names: of those columns (lewm-hdf5, swm-lance): the packet's, or those of the study's author; None: packet's.
        split: one file for each split (lewm-hdf5).
        full: every cue that all packets have, with frames that have no action (lerobot).
        splits: packet -> "train" or "val".
        ids: packet -> the name of its episode where the packet's own would be another's too.
        moving: frames from the first to the last in which something moves alone (lewm-hdf5, swm-lance).
        without: datasets to leave out (lerobot).
        pixels: how frames are stored (lerobot); None: the format's default.
        trim: leaves out frames without an action at the ends of episodes (lerobot).
        progress: opens a progress bar with a name; yields what ticks it.
    """

    packets: Sequence[Path]
    out: Path
    progress: Callable[[str], AbstractContextManager[Tick]]
    columns: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    pixels: Literal["video", "png"] | None = None
    trim: bool = False
    names: Literal["packet", "study"] | None = None
    split: bool = False
    full: bool = False
    moving: bool = False
    splits: Mapping[Path, str] = field(default_factory=dict)
    ids: Mapping[Path, str] = field(default_factory=dict)

    def options(self) -> set[str]:
        """The command line's options that only some formats take and that were given."""
        given: dict[str, Any] = {
            "--with": self.columns,
            "--without": self.without,
            "--pixels": self.pixels,
            "--trim": self.trim,
        }
        given |= {"--names": self.names, "--split": self.split, "--full": self.full}
        given |= {"--windows moving": self.moving}
        return {name for name, value in given.items() if value}


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format.

    Attributes:
        summary: a few words for the help text.
        write: writes it; returns what was written (JSON types), with `notes` for the user where there are any.
        options: the command line's options that it takes beside the common ones.
        check: refuses a target before the packets are looked at.
    """

    summary: str
    write: Callable[[ExportRequest], Mapping[str, Any]]
    options: frozenset[str] = field(default_factory=frozenset)
    check: Callable[[Path], None] = lambda out: None


def _check_new_folder(out: Path) -> None:
    from packers.export.lerobot.dataset import check_target

    check_target(out)


def _check_file(out: Path) -> None:
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out {out}: wanted a file in an existing folder, such as {out.parent / 'train.h5'}")


def _check_folder_or_recording(out: Path) -> None:
    if out.suffix != ".rrd" and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder, or a new file ending in .rrd")


def _lewm(request: ExportRequest) -> dict[str, Any]:
    from packers.export.lewm import DEFAULT_SPAN, write_lewm

    parts = _split_files(request) if request.split else {request.out: list(request.packets)}
    with request.progress("packets") as tick:
        joined = [
            write_lewm(
                packets,
                out,
                request.columns,
                tick,
                names=request.names or "packet",
                splits=request.splits,
                ids=request.ids,
                moving=request.moving,
            )
            for out, packets in parts.items()
        ]
    too_short = sum(part.too_short for part in joined)
    notes = [f"{too_short} episodes have fewer than {DEFAULT_SPAN} frames and give LeWM's own window none"]
    return {
        "episodes": sum(part.episodes for part in joined),
        "frames": sum(part.frames for part in joined),
        "columns": list(joined[0].columns),
        "files": [str(out) for out in parts],
        "notes": notes if too_short else [],
    }


def _split_files(request: ExportRequest) -> dict[Path, list[Path]]:
    """A file for each split with its packets: OUT with `-train` and `-val` before its ending."""
    parts: dict[Path, list[Path]] = {}
    for split in ("train", "val"):
        packets = [path for path in request.packets if request.splits.get(path) == split]
        if not packets:
            raise ConfigError(
                f"--split: no packet is in the split {split}; name a --selection that has both, or --val-share"
            )
        parts[request.out.with_name(f"{request.out.stem}-{split}{request.out.suffix}")] = packets
    if lacks := [path.stem for path in request.packets if path not in request.splits]:
        raise ConfigError(f"--split: {lacks[0]} is in no split ({len(lacks)} are not); select again")
    return parts


def _lerobot(request: ExportRequest) -> dict[str, Any]:
    from packers.export.lerobot.dataset import plan_lerobot, write_lerobot
    from packers.export.lerobot.plan import STOCK

    if request.full and request.columns:
        raise ConfigError("--full takes every dataset already; leave --with out, or --full")
    with request.progress("packets looked at") as tick:
        plan = plan_lerobot(
            request.packets,
            only=None if request.full else (*STOCK, *request.columns),
            without=request.without,
            pixels=request.pixels or "video",
            trim=request.trim or not request.full,
            splits=request.splits,
            ids=request.ids,
            done=tick,
        )
    with request.progress("packets") as tick:
        written = write_lerobot(plan, request.out, done=tick)
    notes = list(plan.notes)
    if written.psnr_db is not None:
        notes.insert(
            0,
            f"pixels are LOSSY: H.264 video, {written.psnr_db:.1f} dB PSNR over the first frames of the first episode; "
            "--pixels png keeps them exactly. Cues, actions and states are exact",
        )
    return {
        "episodes": written.episodes,
        "frames": written.frames,
        "tasks": written.tasks,
        "features": list(written.features),
        "psnr_db": None if written.psnr_db is None else round(written.psnr_db, 2),
        "left_out": list(plan.left_out),
        "notes": notes,
    }


def _rerun(request: ExportRequest) -> dict[str, Any]:
    from packers.export.rerun import require_rerun, write_rerun

    require_rerun()
    packets, out = request.packets, request.out
    if out.suffix == ".rrd":
        if len(packets) != 1:
            raise ConfigError(f"--out {out}: {len(packets)} packets make as many recordings; name a folder")
        write_rerun(packets[0], out)
        return {"recordings": [out.name]}
    out.mkdir(parents=True, exist_ok=True)
    with request.progress("packets") as tick:
        for packet in packets:
            write_rerun(packet, out / f"{request.ids.get(packet, packet.stem)}.rrd")
            tick(packet)
    return {"recordings": [f"{request.ids.get(packet, packet.stem)}.rrd" for packet in packets]}


def _check_absent(out: Path) -> None:
    if out.exists():
        raise ConfigError(f"--out {out} exists already; name a new folder")


def _webdataset(request: ExportRequest) -> dict[str, Any]:
    from packers.export.webdataset import write_webdataset

    with request.progress("packets") as tick:
        written = write_webdataset(
            request.packets, request.out, request.columns, splits=request.splits, ids=request.ids, done=tick
        )
    return {"episodes": written.episodes, "frames": written.frames, "shards": list(written.shards)}


def _check_table(out: Path) -> None:
    from packers.export.swm_lance import check_table, require_lance

    require_lance()
    check_table(out)


def _lance(request: ExportRequest) -> dict[str, Any]:
    from packers.export.lewm import DEFAULT_SPAN
    from packers.export.swm_lance import JPEG_QUALITY, write_lance

    with request.progress("packets") as tick:
        written = write_lance(
            request.packets, request.out, request.columns, tick, names=request.names or "packet", moving=request.moving
        )
    notes = [f"pixels are LOSSY: JPEG of quality {JPEG_QUALITY}, as stable-worldmodel writes them"]
    if written.too_short:
        notes.append(f"{written.too_short} episodes have fewer than {DEFAULT_SPAN} frames and give LeWM's window none")
    return {
        "episodes": written.episodes,
        "frames": written.frames,
        "columns": list(written.columns),
        "notes": notes,
    }


def _control(request: ExportRequest) -> dict[str, Any]:
    from packers.export.control import write_control

    with request.progress("packets") as tick:
        written = write_control(request.packets, request.out, tick, ids=request.ids)
    return {"episodes": written.episodes, "videos": written.videos}


FORMATS: dict[str, ExportFormat] = {
    "lewm-hdf5": ExportFormat(
        "one flat file for stable-worldmodel and LeWM",
        _lewm,
        frozenset({"--with", "--names", "--split", "--val-share", "--windows moving"}),
        check=_check_file,
    ),
    "swm-lance": ExportFormat(
        "the Lance table that stable-worldmodel streams (extra lance)",
        _lance,
        frozenset({"--with", "--names", "--windows moving"}),
        check=_check_table,
    ),
    "lerobot": ExportFormat(
        "a LeRobotDataset v3.0 folder that stock LeRobot trains on and edits, cues by choice",
        _lerobot,
        frozenset({"--with", "--without", "--pixels", "--trim", "--full", "--val-share"}),
        check=_check_new_folder,
    ),
    "webdataset": ExportFormat(
        "tar shards with a sample per episode", _webdataset, frozenset({"--with", "--val-share"}), check=_check_absent
    ),
    "control": ExportFormat(
        "depth, mask and edge videos with prompts, for video generation", _control, check=_check_absent
    ),
    "rerun": ExportFormat("recordings for the Rerun viewer", _rerun, check=_check_folder_or_recording),
}


def export_packets(form: str, request: ExportRequest) -> Mapping[str, Any]:
    """Writes packets in the format `form` of `FORMATS`; returns what was written.

    Raises:
        ConfigError: an option that the format does not take, or a target that cannot be made.
        PacketError: a packet is damaged, or does not fit the others.
        OutputError: the target cannot be written.
    """
    check_request(form, request.options(), request.out)
    return FORMATS[form].write(request)


def check_request(form: str, options: set[str], out: Path) -> None:
    """Refuses what `export_packets` would refuse, before packets are fetched.

    Raises:
        ConfigError: an option that the format does not take, or a target that cannot be made.
    """
    for option in sorted(options - FORMATS[form].options):
        takers = [name for name, each in FORMATS.items() if option in each.options]
        raise ConfigError(f"{option} is an option of --format {' and '.join(takers)}, {form} does not take it")
    FORMATS[form].check(out)
