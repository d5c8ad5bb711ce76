"""`cuepack export`: packets for other tools."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from extractors.errors import ConfigError
from flows.commands.options import FINISHED, FilePath, LocalPath, OutputOrFile, print_json
from flows.commands.packets import fetched
from packers.export.formats import FORMATS, ExportRequest, Tick, check_request, export_packets

if TYPE_CHECKING:
    from flows.output.directory import Opened


@click.command()
@click.argument("places", type=OutputOrFile(), metavar="DIR|PACKET...", nargs=-1, required=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="; ".join(f"{name}: {each.summary}" for name, each in FORMATS.items()) + ".",
)
@click.option(
    "--out",
    required=True,
    type=LocalPath(),
    help="The file; a new folder (lerobot, webdataset, control), NAME.lance (swm-lance), or a folder or .rrd (rerun).",
)
@click.option(
    "--selection",
    "selections",
    type=FilePath(),
    multiple=True,
    help="Only the episodes of this file, in its order; with several DIRs one for each, in their order.",
)
@click.option(
    "--val-share",
    type=float,
    help="lewm-hdf5, lerobot, webdataset: share of the episodes for validation; near-duplicates stay on one side.",
)
@click.option(
    "--split-by",
    type=click.Choice(["episode", "scene"]),
    default="episode",
    show_default=True,
    help="What --val-share keeps together.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Fixes the draw of --val-share.")
@click.option(
    "--windows",
    type=click.Choice(["all", "moving"]),
    default="all",
    show_default=True,
    help="lewm-hdf5, swm-lance: moving takes each episode from its first to its last motion, so windows are there.",
)
@click.option(
    "--with",
    "columns",
    multiple=True,
    metavar="DATASET",
    help="lewm-hdf5, swm-lance, lerobot, webdataset: one more dataset, such as centroids or tracks/grid; repeat.",
)
@click.option(
    "--names",
    type=click.Choice(["packet", "study"]),
    help="lewm-hdf5, swm-lance: names of these columns [default: packet].",
)
@click.option(
    "--split", is_flag=True, help="lewm-hdf5: a file for train and one for val, as --selection or --val-share splits."
)
@click.option("--full", is_flag=True, help="lerobot: every cue and every frame; stock training and editing refuse it.")
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
    places: tuple[Opened, ...],
    form: str,
    out: Path,
    selections: tuple[Path, ...],
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Hand the packets of DIR, or of several, to other tools.

    lewm-hdf5: one flat file for stable-worldmodel and LeWM (pixels, action, state under its three names, ep_len,
    ep_offset), and OUT.episodes.csv that says which episode is where. lerobot: a LeRobotDataset v3.0 folder that stock
    LeRobot trains on and edits; cues by --with, all of them with --full. webdataset: tar shards, a sample
    per episode. swm-lance: the table that stable-worldmodel streams. control: videos of depth, mask and edges with a
    prompt. rerun: recordings for the Rerun viewer.
    """
    from packers.export.merging import told_apart

    share, by, seed = options.pop("val_share"), options.pop("split_by"), options.pop("seed")
    options["moving"] = options.pop("windows") == "moving"
    request = ExportRequest((), out, _progress(0), **options)
    check_request(form, request.options() | ({"--val-share"} if share is not None else set()), out)
    if len(selections) not in (0, len(places)):
        raise ConfigError(f"{len(selections)} --selection for {len(places)} DIRs; give one for each, or none")
    packets: list[Path] = []
    splits: dict[Path, str] = {}
    for place, selection in zip_longest(places, selections):
        chosen = fetched(place, _chosen(place, selection))
        packets += chosen
        splits |= _splits(chosen, selection)
    closing = ""
    if share is not None:
        splits, closing = _drawn(packets, splits, share, seed, by)
    request = replace(request, packets=packets, progress=_progress(len(packets)), splits=splits)
    result = export_packets(form, replace(request, ids=told_apart(packets) if len(places) > 1 else {}))
    for note in result.get("notes", ()):
        print(f"note: {note}", file=sys.stderr)
    if as_json:
        sides = {side: count for side, count in Counter(splits.values()).items() if share is not None}
        print_json("export", FINISHED, counts={"packets": len(packets)} | sides, out=str(out), **result)
        return
    print(f"{len(packets)} packets -> {out}{closing}")


def _splits(packets: list[Path], selection: Path | None) -> dict[Path, str]:
    from packers.training.selection import selected_splits

    sides = {} if selection is None else selected_splits(selection)
    return {path: sides[path.stem] for path in packets if path.stem in sides}


def _drawn(
    packets: list[Path], given: dict[Path, str], share: float, seed: int, by: Literal["episode", "scene"]
) -> tuple[dict[Path, str], str]:
    """The side of each packet, and what the closing line says of it."""
    from packers.export.splitting import split_packets

    if given:
        raise ConfigError("--val-share: the --selection has a split already; leave one out")
    with _progress(len(packets))("packets compared") as tick:
        drawn, copies = split_packets(packets, share, seed=seed, by=by, done=tick)
    counts = Counter(drawn.values())
    said = f"; {counts['train']} train, {counts['val']} val, {copies} near-duplicates kept with what they repeat"
    return dict(drawn), said


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


def _progress(total: int) -> Callable[[str], AbstractContextManager[Tick]]:
    @contextmanager
    def bar(name: str) -> Iterator[Tick]:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(name, total=total)
            yield lambda path: progress.advance(task)

    return bar
