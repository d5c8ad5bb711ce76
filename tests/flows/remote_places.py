"""Places behind URIs that live in this process, and runs from and to them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fsspec.implementations.memory import MemoryFileSystem

from flows.config import load_config
from flows.output.directory import OutputDirectory
from flows.run.carry_out import carry_out, run_shard_plainly
from flows.run.plan import Request, make_plan, record_run
from flows.sources.sample import SAMPLE
from tests.flows.batches import Silent

SETTINGS = (
    "run.profile=cpu",
    "masks.backend=recorded",
    "depth.backend=off",
    "tracks.backend=off",
    "packet.height=48",
    "packet.width=64",
    "run.workers=2",
)
TWO = ("tabletop_plate", "tabletop_tray")
"""Folders of the sample, an episode each."""


def put_tree(folder: Path, target: str) -> None:
    """Copies a folder to memory://`target`."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            MemoryFileSystem().pipe_file(f"/{target}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def two_episodes(target: str = "data/bridge_raw") -> str:
    """Two episodes of the bundled sample in memory; their URI."""
    for name in TWO:
        put_tree(SAMPLE / "bridge_raw" / name, f"{target}/{name}")
    return f"memory://{target}"


def extract(source, out, *settings, **wanted):
    """A run without Prefect; its outcome and its plan."""
    config = load_config(assignments=[*SETTINGS, *settings])
    plan = make_plan(Request(str(source), OutputDirectory.open(str(out)), config, **wanted))
    record_run(plan, "test")
    return carry_out(plan, Silent(), run_shard_plainly), plan


def by_id(outcome):
    """Rows by the folder of the sample that the episode comes from."""
    return {next(name for name in TWO if row["episode_id"].startswith(name)): row for row in outcome.rows}


def remote_packets(out: str) -> dict[str, str]:
    """Name -> sha256 of the packets below memory://`out`."""
    fs = MemoryFileSystem()
    found = [path for path in fs.find(f"/{out}/packets") if path.endswith(".h5")]
    return {path.rpartition("/")[2]: hashlib.sha256(fs.cat_file(path)).hexdigest() for path in found}


def local_packets(out: Path) -> dict[str, str]:
    """Name -> sha256 of the packets of a directory."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("packets/*/*.h5")}
