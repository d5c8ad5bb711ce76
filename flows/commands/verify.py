"""`cuepack verify`: do packets still show what their source holds?"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from flows.commands.options import FAILED, FINISHED, OutputPath, print_json
from flows.commands.packets import fetched, packet_files


@click.command()
@click.argument("path", type=OutputPath(packet=True), metavar="DIR|PACKET")
@click.option("--source", help="Where the source is now [default: where run.json says it was].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def verify(path: Path, source: str | None, as_json: bool) -> None:
    """Read the source again and check every packet frame against it and the recorded hashes.

    A shift by a frame, another order and a swapped camera are named as such. Exit code 0: all good; 1: findings;
    2: nothing to check, or no source.
    """
    from flows.output.remote_output import shown
    from flows.run.verify import Verifier, verified_source

    packets = fetched(packet_files(path))
    # DIR/packets/<bucket>/<episode>.h5
    directory = path if path.is_dir() else path.resolve().parents[min(2, len(path.resolve().parents) - 1)]
    verifier = Verifier(verified_source(directory, source))
    findings: list[dict[str, Any]] = []
    for packet in packets:
        for finding in map(asdict, verifier.verify(packet)):
            findings.append(finding | {"packet": shown(packet)})
            if not as_json:
                frame = None if finding["frame"] is None else f"frame {finding['frame']}"
                where = ", ".join(part for part in (finding["dataset"], frame) if part)
                print(f"{shown(packet)}: {where + ': ' if where else ''}{finding['reason']}")
    code = FAILED if findings else FINISHED
    if as_json:
        print_json("verify", code, counts={"packets": len(packets), "findings": len(findings)}, findings=findings)
    else:
        print(f"{len(packets)} packets, {len(findings)} findings")
    sys.exit(code)
