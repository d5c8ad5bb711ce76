"""`cuepack verify`: do packets still show what their source holds?"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from extractors.printable import printable
from flows.commands.options import FAILED, FINISHED, OutputOrFile, print_json
from flows.commands.packets import fetched, packet_files

if TYPE_CHECKING:
    from flows.output.directory import Opened


@click.command()
@click.argument("path", type=OutputOrFile(), metavar="DIR|PACKET")
@click.option("--source", help="Where the source is now [default: where run.json says it was].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def verify(path: Opened, source: str | None, as_json: bool) -> None:
    """Read the source again and check every packet frame against it and the recorded hashes.

    A shift by a frame, another order and a swapped camera are named as such. Exit code 0: all good; 1: findings;
    2: nothing to check, or no source.
    """
    from flows.output.directory import OutputDirectory
    from flows.run.verify import Verifier, verified_source

    packets, directory, name_of = fetched(path, packet_files(path)), path.directory, path.directory.name_of
    if directory.root == path.path.parent:
        # A packet named by its path: DIR/packets/<bucket>/<episode>.h5
        parents = path.path.resolve().parents
        directory = OutputDirectory.open(parents[min(2, len(parents) - 1)])
    verifier = Verifier(verified_source(directory, source))
    findings: list[dict[str, Any]] = []
    for packet in packets:
        for finding in map(asdict, verifier.verify(packet)):
            findings.append(finding | {"packet": name_of(packet)})
            if not as_json:
                frame = None if finding["frame"] is None else f"frame {finding['frame']}"
                where = ", ".join(part for part in (finding["dataset"], frame) if part)
                print(printable(f"{name_of(packet)}: {where + ': ' if where else ''}{finding['reason']}"))
    code = FAILED if findings else FINISHED
    if as_json:
        print_json("verify", code, counts={"packets": len(packets), "findings": len(findings)}, findings=findings)
    else:
        print(f"{len(packets)} packets, {len(findings)} findings")
    sys.exit(code)
