"""`cuepack export`: packets for other tools."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from extractors.errors import ConfigError
from flows.commands.options import FINISHED, FilePath, LocalPath, OutputOrFile, print_json
from flows.commands.packets import fetched

if TYPE_CHECKING:
    from flows.output.directory import Opened

FORMATS = ("lewm-hdf5", "lerobot", "rerun")


@click.command()
@click.argument("path", type=OutputOrFile(), metavar="DIR|PACKET")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    required=True,
    help="lewm-hdf5: one file; lerobot: v3.0; rerun: .rrd.",
)
@click.option(
    "--out",
    required=True,
    type=LocalPath(),
    help="The file; for lerobot a new folder; for rerun a folder, or one .rrd.",
)
@click.option("--selection", type=FilePath(), help="Only the episodes of this file, in its order.")
@click.option(
    "--with", "extra", multiple=True, metavar="DATASET", help="lewm-hdf5: one more column, such as centroids; repeat."
)
@click.option(
    "--without", multiple=True, metavar="DATASET", help="lerobot: leave out, such as tracks/foreground; repeat."
)
@click.option(
    "--pixels",
    type=click.Choice(["video", "png"]),
    help="lerobot: H.264 video, which loses a little, or exact PNG images [default: video].",
)
@click.option("--trim", is_flag=True, help="lerobot: leave out frames without an action at the ends of episodes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def export(
    path: Opened,
    form: str,
    out: Path,
    selection: Path | None,
    extra: tuple[str, ...],
    without: tuple[str, ...],
    pixels: Literal["video", "png"] | None,
    *,
    trim: bool,
    as_json: bool,
) -> None:
    """Hand the packets of DIR to other tools.

    lewm-hdf5: one flat file for stable-worldmodel and LeWM (pixels, action, proprio, ep_len, ep_offset), and
    OUT.episodes.csv that says which episode is where. lerobot: a LeRobotDataset v3.0 folder with every cue that all
    packets have. rerun: recordings for the Rerun viewer.
    """
    if extra and form != "lewm-hdf5":
        raise ConfigError("--with adds columns to lewm-hdf5 files; the other formats have everything already")
    if (without or pixels or trim) and form != "lerobot":
        raise ConfigError("--without, --pixels and --trim belong to --format lerobot")
    if form == "lerobot":
        from packers.export.lerobot.dataset import check_target

        check_target(out)
    packets = fetched(path, _chosen(path, selection))
    if form == "lewm-hdf5":
        result = _to_lewm(packets, out, extra)
    elif form == "lerobot":
        result = _to_lerobot(packets, out, without, pixels or "video", trim=trim)
    else:
        result = _to_rerun(packets, out)
    if as_json:
        print_json("export", FINISHED, counts={"packets": len(packets)}, out=str(out), **result)
        return
    print(f"{len(packets)} packets -> {out}")


def _chosen(given: Opened, selection: Path | None) -> list[Path]:
    """Packets in the order of the selection, else of the manifest's finished episodes, else of their names."""
    from flows.commands.packets import packet_files
    from flows.output.manifest import Manifest
    from flows.output.selection import read_selection

    files, path = packet_files(given), given.path
    if path.is_file():
        return files
    rows = Manifest(path).rows()
    listed = {name: path / str(row["packet"]) for name, row in rows.items() if row.get("packet")}
    if not listed:
        listed = {file.stem: file for file in files}
    if selection is None:
        if not listed:
            raise ConfigError(f"{path} holds no packet; extract some first")
        # Failed and filtered episodes keep an older packet; nobody expects it among those that passed.
        left_out = [name for name in listed if name in rows and rows[name]["status"] != "done"]
        if left_out:
            print(
                f"note: {len(left_out)} packets of episodes that failed or were filtered since are left out, "
                f"{left_out[0]} for one; --selection takes what it lists",
                file=sys.stderr,
            )
        skipped = set(left_out)
        chosen = [file for name, file in listed.items() if name not in skipped]
        if not chosen:
            raise ConfigError(f"{path} holds no packet of an episode that is done; name episodes with --selection")
        return chosen
    ids = read_selection(selection)
    missing = [name for name in ids if name not in listed]
    if missing:
        raise ConfigError(f"{path} has no packet of {missing[0]} ({len(missing)} of {selection} are missing)")
    return [listed[name] for name in ids]


def _to_lewm(packets: list[Path], out: Path, extra: tuple[str, ...]) -> dict[str, Any]:
    from packers.export.lewm import write_lewm

    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out {out}: wanted a file in a folder that is there, such as {out.parent / 'train.h5'}")
    with _progress(len(packets)) as tick:
        joined = write_lewm(packets, out, extra, done=lambda path: tick())
    return {"episodes": joined.episodes, "frames": joined.frames, "columns": list(joined.columns)}


def _to_lerobot(
    packets: list[Path], out: Path, without: tuple[str, ...], pixels: Literal["video", "png"], *, trim: bool
) -> dict[str, Any]:
    from packers.export.lerobot.dataset import plan_lerobot, write_lerobot

    with _progress(len(packets), "packets looked at") as tick:
        plan = plan_lerobot(packets, without=without, pixels=pixels, trim=trim, done=lambda path: tick())
    with _progress(len(packets)) as tick:
        written = write_lerobot(plan, out, done=lambda path: tick())
    notes = list(plan.notes)
    if written.psnr_db is not None:
        notes.insert(
            0,
            f"pixels are LOSSY: H.264 video, {written.psnr_db:.1f} dB PSNR over the first frames of the first episode; "
            "--pixels png keeps them exactly. Cues, actions and states are exact",
        )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return {
        "episodes": written.episodes,
        "frames": written.frames,
        "tasks": written.tasks,
        "features": list(written.features),
        "psnr_db": None if written.psnr_db is None else round(written.psnr_db, 2),
        "left_out": list(plan.left_out),
        "notes": notes,
    }


def _to_rerun(packets: list[Path], out: Path) -> dict[str, Any]:
    from packers.export.rerun import require_rerun, write_rerun

    require_rerun()
    if out.suffix == ".rrd":
        if len(packets) != 1:
            raise ConfigError(f"--out {out}: {len(packets)} packets make as many recordings; name a folder")
        write_rerun(packets[0], out)
        return {"recordings": [out.name]}
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder, or a new file ending in .rrd")
    out.mkdir(parents=True, exist_ok=True)
    with _progress(len(packets)) as tick:
        for packet in packets:
            write_rerun(packet, out / f"{packet.stem}.rrd")
            tick()
    return {"recordings": [f"{packet.stem}.rrd" for packet in packets]}


@contextmanager
def _progress(total: int, what: str = "packets") -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
