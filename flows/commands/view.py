"""`cuepack view`: look at packets, and take pictures of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extractors.errors import ConfigError
from extractors.printable import printable
from flows.commands.options import FAILED, LocalPath, OutputOrFile
from packers.cores import usable_cpus

if TYPE_CHECKING:
    from flows.output.directory import Opened
    from flows.viewing.library import Library

DEFAULT_PORT = 8765


@click.command()
@click.argument("path", type=OutputOrFile(), metavar="DIR|PACKET")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port on 127.0.0.1; 0 takes a free one.",
)
@click.option("--no-browser", is_flag=True, help="Print the address only.")
@click.option("--export", "export_to", type=LocalPath(), help="Write the pages as files into this folder.")
@click.option("--render", type=LocalPath(), metavar="FILE", help="One packet as .mp4, .gif or .png.")
@click.option("--compare", type=OutputOrFile(), metavar="OTHER", help="A second directory or packet.")
@click.option("--study", type=LocalPath(), metavar="STUDY", help="Link held-out episodes to a study's report.")
def view(path: Opened, port: int, compare: Opened | None, study: Path | None, **options: Any) -> None:
    """Look at the packets of DIR in a browser, or at one PACKET.

    Served on this machine alone, until Ctrl-C. --export writes the same pages as files that open from disk and on any
    web host. --compare puts the packets of a second run beside those of the first; --study links episodes to
    what the models of `cuepack study` made of them.
    """
    export_to: Path | None = options["export_to"]
    if options["render"] is not None:
        _render(path.path, options["render"], any(each is not None for each in (export_to, compare, study)))
        return
    from flows.viewing.library import Library
    from flows.viewing.server import serve

    library = Library(path.path, path.directory, study)
    other = Library(compare.path, compare.directory) if compare is not None else None
    if compare is not None and other is not None and not library.common(other):
        raise ConfigError(
            f"{path.label} and {compare.label} have no episode in common; compare runs on the same source and camera"
        )
    if export_to is not None:
        _export(library, export_to, other)
        return
    serve(library, other, port=port, browser=not options["no_browser"] and sys.stdout.isatty())


def _render(path: Path, target: Path, others: bool) -> None:
    from packers.viewer.render import render_episode

    if others:
        raise ConfigError("--render makes one picture; leave --export, --compare and --study away")
    if not path.is_file():
        raise ConfigError(
            f"--render wants one packet, got {path}; DIR/packets holds the packets of an output directory"
        )
    if not target.parent.is_dir():
        raise ConfigError(f"--render {target}: there is no folder {target.parent}; make it first")
    render_episode(path, target)
    print(target)


def _export(library: Library, folder: Path, other: Library | None) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from flows.viewing.server import export_site

    total = sum(1 for row in library.rows().values() if row.get("packet"))
    total += 0 if other is None else len(library.common(other))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("episodes", total=total)
        made = export_site(library, folder, other, workers=usable_cpus(), done=lambda key: progress.advance(task))
    library.trim()
    for key, fault in made.failed.items():
        print(printable(f"{key}: {fault}"), file=sys.stderr)
    print(f"{made.episodes} episodes -> {folder / 'index.html'}")
    if made.failed:
        sys.exit(FAILED)
