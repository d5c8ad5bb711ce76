"""`cuepack inspect` and `cuepack validate`: what is in a packet, and whether it keeps the schema."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extractors.errors import ConfigError
from extractors.printable import printable
from flows.commands.options import FAILED, FINISHED, OutputOrFile, print_json
from flows.commands.sources import inspect_and_exit

if TYPE_CHECKING:
    from flows.output.directory import Opened


@click.command()
@click.argument("path", metavar="PACKET|SOURCE")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting of a source; repeat.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def inspect(path: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Print a PACKET's tree, provenance, scores and quality card; or what a SOURCE holds and what is wrong with it.

    Of a source, nothing is decoded. Exit code 0: good; 1: faults, whose episodes would fail or be wrong.
    """
    if _names_packet(path):
        from flows.output.directory import Opened

        _inspect_packet(Opened.open(path), as_json)
    else:
        inspect_and_exit(path, settings, as_json=as_json)


def _names_packet(path: str) -> bool:
    if path.endswith((".h5", ".hdf5")):
        return True
    local = Path(path)
    if "://" in path or not local.is_file():
        return False
    with local.open("rb") as file:
        return file.read(8) in (b"CUEPACK1", b"\x89HDF\r\n\x1a\n")


def _inspect_packet(packet: Opened, as_json: bool) -> None:
    from packers.inspect import describe_packet, format_packet

    if not packet.path.is_file():
        raise ConfigError(f"no packet at {packet.label}; manifest.csv lists the packets of an output directory")
    description = describe_packet(packet.path)
    if as_json:
        print_json("inspect", FINISHED, counts={"packets": 1}, packet=description)
        return
    width = shutil.get_terminal_size().columns
    print(format_packet(description, width=width))


@click.command()
@click.argument("path", type=OutputOrFile())
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def validate(path: Opened, as_json: bool) -> None:
    """Check a packet, or every packet of an output directory, against the schema.

    Exit code 0: all good; 1: findings; 2: nothing to check.
    """
    findings: list[dict[str, Any]] = []
    count = 0
    for _, found in _validated(path):
        count += 1
        findings += found
        for finding in found if not as_json else []:
            print(printable(f"{finding['packet']}: {_where(finding)}{finding['reason']}"))
    code = FAILED if findings else FINISHED
    if as_json:
        print_json("validate", code, counts={"packets": count, "findings": len(findings)}, findings=findings)
    else:
        print(f"{count} packets, {len(findings)} findings")
    sys.exit(code)


def _validated(given: Opened) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    from packers.validate import validate_packet

    path, name_of = given.path, given.directory.name_of
    for packet in fetched(given, packet_files(given)):
        found = validate_packet(packet)
        yield (
            packet,
            [{"packet": name_of(packet), "dataset": f.dataset, "frame": f.frame, "reason": f.reason} for f in found],
        )
    if path.is_dir():
        listed = _manifest_findings(path)
        if listed:
            yield path / "manifest.parquet", listed


def packet_files(given: Opened) -> list[Path]:
    """The packet that was named, or all packets of an output directory; those behind a URI may be placeholders.

    Raises:
        ConfigError: there is none.
    """
    path = given.path
    if path.is_file():
        return [path]
    files = sorted((path / "packets").glob("*/*.h5")) if path.is_dir() else []
    if not files and not (path / "manifest.parquet").exists():
        raise ConfigError(f"no packets at {given.label}; name a packet or an output directory of `cuepack extract`")
    return files


def fetched(given: Opened, packets: list[Path]) -> list[Path]:
    """The same packets, all of them here: those behind a URI are fetched, which standard error says.

    Raises:
        ConfigError: one cannot be fetched.
    """
    given.directory.fetch(packets)
    return packets


def _manifest_findings(root: Path) -> list[dict[str, Any]]:
    """Where the manifest and the packets of a directory disagree."""
    from flows.output.manifest import Manifest

    def finding(packet: str, reason: str) -> dict[str, Any]:
        return {"packet": packet, "dataset": None, "frame": None, "reason": reason}

    listed = {row["packet"]: row for row in Manifest(root).rows().values() if row.get("packet")}
    present = {path.relative_to(root).as_posix() for path in (root / "packets").glob("*/*.h5")}
    findings = [finding(name, "in the manifest, but the file is missing") for name in sorted(listed.keys() - present)]
    findings += [finding(name, "not in the manifest") for name in sorted(present - listed.keys())]
    for name in sorted(listed.keys() & present):
        recorded = listed[name].get("sha256")
        with (root / name).open("rb") as file:
            if recorded and hashlib.file_digest(file, "sha256").hexdigest() != recorded:
                findings.append(finding(name, "sha256 differs from the manifest's"))
    return findings


def _where(finding: dict[str, Any]) -> str:
    dataset, frame = finding["dataset"], finding["frame"]
    if dataset is None:
        return ""
    return f"{dataset}: " if frame is None else f"{dataset}, frame {frame}: "
