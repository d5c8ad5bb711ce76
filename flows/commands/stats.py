"""`cuepack stats`: what a directory of packets holds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from flows.commands.options import FAILED, FINISHED, OutputOrFile, print_json
from flows.commands.packets import fetched, packet_files

if TYPE_CHECKING:
    from flows.output.directory import Opened


@click.command()
@click.argument("path", type=OutputOrFile(), metavar="DIR|PACKET")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def stats(path: Opened, as_json: bool) -> None:
    """Print what the packets of DIR hold: frames, hours, tags, cues, statistics of actions and states.

    Exit code 1: packets that cannot be read are left out, and listed.
    """
    from packers.training.index import FOLDER, index_packets
    from packers.training.summary import describe_collection, format_collection

    packets = fetched(path, packet_files(path))
    cache = path.path / FOLDER / "index" if path.path.is_dir() else None
    entries, faults = index_packets(packets, cache, damaged="skip")
    for fault in faults:
        print(f"left out: {fault}", file=sys.stderr)
    code = FAILED if faults or not entries else FINISHED
    description = describe_collection(entries) if entries else None
    if as_json:
        print_json("stats", code, counts={"packets": len(entries), "left_out": len(faults)}, stats=description)
    else:
        print(format_collection(description) if description else "no packet can be read")
    sys.exit(code)
