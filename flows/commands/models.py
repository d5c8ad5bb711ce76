"""`cuepack models`: which weights each backend needs, where they come from, whether they are here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extractors.errors import ConfigError, WeightsError
from extractors.printable import printable
from flows.commands.options import FAILED, FINISHED, LocalPath, OutputOrFile, print_json
from flows.commands.packets import fetched, packet_files
from flows.models.weights import (
    CHECKPOINTS,
    Checkpoint,
    check_checkpoint,
    checkpoint_file,
    fetch_checkpoint,
    recorded_digest,
)

if TYPE_CHECKING:
    from flows.output.directory import Opened


@click.group()
def models() -> None:
    """Weights: which each backend needs, where they come from, their licence, whether they are here."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def list_models(as_json: bool) -> None:
    """List every checkpoint that a backend can use."""
    rows = [_row(checkpoint) for checkpoint in CHECKPOINTS.values()]
    if as_json:
        present = sum(row["here"] for row in rows)
        print_json("models list", FINISHED, counts={"models": len(rows), "here": present}, models=rows)
        return
    for row in rows:
        print(f"{'here   ' if row['here'] else 'missing'}  {row['name']}")
        print(f"         {row['repository']}/{row['file']}")
        print(f"         for {row['backend']}; licence {row['licence']}{'; gated' if row['gated'] else ''}")
        if row["sha256"]:
            print(f"         sha256 {row['sha256']}")


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def fetch(names: Sequence[str], as_json: bool) -> None:
    """Download checkpoints from the hub into the model folder; shows the licence first."""
    fetched = []
    for checkpoint in _chosen(names):
        print(f"{checkpoint.name}: licence {checkpoint.licence}", file=sys.stderr)
        path = fetch_checkpoint(checkpoint.name)
        fetched.append({**_row(checkpoint), "path": str(path)})
        if not as_json:
            print(path)
    if as_json:
        print_json("models fetch", FINISHED, counts={"fetched": len(fetched)}, models=fetched)


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check(names: Sequence[str], as_json: bool) -> None:
    """Load checkpoints as their backend would, and compare their sha256 with the one recorded.

    Without names: those that are here. Exit code 1 where one is missing or damaged. "unpinned": it loads and computes,
    and no published sha256 is known to compare it with, so it may be any weights of that model.
    """
    chosen = _chosen(names) if names else [item for item in CHECKPOINTS.values() if checkpoint_file(item.name).exists()]
    rows: list[dict[str, Any]] = []
    for checkpoint in chosen:
        try:
            digest = check_checkpoint(checkpoint.name)
            rows.append({"name": checkpoint.name, "sha256": digest, "pinned": bool(checkpoint.sha256), "error": None})
        except WeightsError as error:
            rows.append({"name": checkpoint.name, "sha256": None, "pinned": False, "error": str(error)})
    bad = sum(row["error"] is not None for row in rows)
    if as_json:
        print_json("models check", FAILED if bad else FINISHED, counts={"checked": len(rows), "bad": bad}, models=rows)
    else:
        for row in rows:
            print(printable(f"{row['name']}: {row['error'] or _verdict(row)}"))
        if not rows:
            print("no checkpoint is here; `cuepack models list` shows what there is")
    sys.exit(FAILED if bad else FINISHED)


@models.command()
@click.argument("given", type=OutputOrFile(), metavar="DIR")
@click.option("--out", required=True, type=LocalPath(), help="Weights file to be written.")
@click.option("--minutes", type=click.FloatRange(min=0.1), default=20.0, show_default=True, help="Of training.")
@click.option("--seed", type=int, default=0, show_default=True, help="Fixes the draws.")
@click.option("--device", default="auto", show_default=True, help="To train on: auto, cpu or cuda.")
def distil(given: Opened, out: Path, minutes: float, seed: int, device: str) -> None:
    """Teach nano's depth what Video-Depth-Anything saw in the packets of DIR.

    Half of the lessons are generated scenes (pip install 'cuepack[scenes]'), so that nano does not forget the rest. Use
    the weights with --set depth.backend=nano --set depth.weights=FILE. Clips are kept in FILE.work.
    """
    from extractors.backends.devices import choose_device
    from flows.learning.distil import distil as distil_packets

    chosen, work = choose_device(device), out.with_name(f"{out.name}.work")
    count = distil_packets(fetched(given, packet_files(given)), work, out, minutes=minutes, seed=seed, device=chosen)
    print(f"taught by {count} packets -> {out}")


def _verdict(row: dict[str, Any]) -> str:
    if row["pinned"]:
        return f"good, the published file, sha256 {row['sha256']}"
    return f"loads, unpinned (no published sha256 is known), sha256 {row['sha256']}"


def _chosen(names: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints named; a backend's or profile's name stands for those that its default settings use."""
    defaults = {
        "video-depth-anything": ("video_depth_anything_vits",),
        "grounded-sam": ("grounding-dino-tiny", "sam-vit-base"),
        "gpu-open": ("grounding-dino-tiny", "sam-vit-base", "video_depth_anything_vits", "tapir"),
    }
    checkpoints = [each for name in names for each in defaults.get(name, (name,))]
    unknown = [name for name in checkpoints if name not in CHECKPOINTS]
    if unknown:
        raise ConfigError(f"no model named {', '.join(unknown)}; choose from {sorted(CHECKPOINTS)}")
    return [CHECKPOINTS[name] for name in checkpoints]


def _row(checkpoint: Checkpoint) -> dict[str, Any]:
    path: Path = checkpoint_file(checkpoint.name)
    return {
        "name": checkpoint.name,
        "backend": checkpoint.backend,
        "repository": checkpoint.repository,
        "file": checkpoint.file,
        "licence": checkpoint.licence,
        "gated": checkpoint.gated,
        "here": path.exists(),
        "sha256": recorded_digest(checkpoint.name),
        "path": str(path),
    }
