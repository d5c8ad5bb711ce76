"""Commands that look after a machine and its runs: `manifest rebuild`, `doctor`, `deploy`, `serve`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flows.commands.options import FAILED, FINISHED, print_json


@click.group()
def manifest() -> None:
    """The manifest of an output directory."""


@manifest.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def rebuild(directory: Path, as_json: bool) -> None:
    """Make manifest.parquet and manifest.csv of DIR anew from its packets, and say what they cannot tell.

    Exit code 0: every packet is listed; 1: some are damaged or gone.
    """
    from flows.rebuild import rebuild_manifest

    rebuilt = rebuild_manifest(directory)
    code = FAILED if rebuilt.damaged or rebuilt.lost else FINISHED
    for path, reason in rebuilt.damaged.items():
        print(f"damaged  {path}: {reason}", file=sys.stderr)
    for name in rebuilt.lost:
        print(f"lost     {name}: listed as done, but its packet is gone or damaged", file=sys.stderr)
    if rebuilt.aside is not None:
        print(f"cuepack: {rebuilt.manifest_error}; it was put aside as {rebuilt.aside}", file=sys.stderr)
    for sentence in rebuilt.unknown():
        print(f"cuepack: {sentence}", file=sys.stderr)
    counts = {name: len(getattr(rebuilt, name)) for name in ("kept", "made", "damaged", "lost")}
    if as_json:
        findings = [
            {"packet": path, "dataset": None, "frame": None, "reason": why} for path, why in rebuilt.damaged.items()
        ]
        print_json("manifest rebuild", code, counts=counts, findings=findings, unknown=rebuilt.unknown())
    else:
        print(f"{counts['kept']} rows kept, {counts['made']} made from packets -> {directory / 'manifest.parquet'}")
    sys.exit(code)
