"""What counts episodes, at 6,000, 60,000 and a million of them: seconds, and memory, of each step and for each episode.

    python -m tests.benchmarks.scale [--counts 6000 60000] [--only list,plan,...] [--folder DIR]

A LeRobot v3.0 listing is generated, its manifest has the columns of a real run, and its packets are hard links to one
tiny packet. Every step runs in a process of its own; memory is the peak above that before the step. The last lines say
what a step costs an episode at each count, beside the smallest count: 1.0 is a straight line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows.config import Config, load_config
from flows.output.directory import LocalDirectory
from flows.output.manifest import Manifest
from flows.run.plan import Plan, Request, make_plan
from flows.run.reuse import packed_from
from flows.run.shard import ALL_STAGES, source_stamp
from flows.sources.detect import open_source
from packers.atomic import write_whole
from packers.reader import check_head
from tests.benchmarks.measuring import measured
from tests.benchmarks.pipeline import _lerobot_metadata
from tests.flows.batches import Silent
from tests.packers.examples import write_example

LINKS = 30_000
"""Hard links to one file; ext4 allows 65,000."""

CONFIG = load_config(None, ["run.profile=cpu"])


def prepare_batch(folder: Path) -> None:
    """The packets and the manifest of a finished batch over the listing."""
    out = LocalDirectory(folder / "out")
    plan = make_plan(Request(str(folder / "source"), LocalDirectory(folder / "fresh"), CONFIG))
    out.manifest.write(_rows(plan, out, folder))


def _rows(plan: Plan, out: LocalDirectory, folder: Path) -> Iterator[dict[str, Any]]:
    """A row of each episode with the columns of a real one; its packet is a link."""
    store, run_key = out.store(), plan.work.run_key()
    original = folder / "original.h5"
    for index, job in enumerate(plan.jobs):
        if index % LINKS == 0:
            original.unlink(missing_ok=True)
            write_example(folder, "original")
            size, mark = original.stat().st_size, check_head(original)
        packet = store.packet_path(job.episode_id)
        packet.parent.mkdir(parents=True, exist_ok=True)
        os.link(original, packet)
        stamp = source_stamp(job.info)
        row = {
            "episode_id": job.episode_id,
            "episode_index": job.info.episode_index,
            "status": "done",
            "packet": packet.relative_to(out.root).as_posix(),
            "sha256": f"{index:064x}",
            "bytes": size,
            "camera": "observation.images.main",
            "n_frames": job.info.n_frames,
            "language_instruction": job.info.language_instruction,
            "score": round(index * 0.618 % 1, 6),
            "tags": "low-motion;no-grasp" if index % 3 else "",
            "source_id": job.info.episode_id,
            "source_stamp": stamp,
            "run_key": run_key,
            "packed_from": packed_from(stamp, mark),
            "stages_computed": ";".join(ALL_STAGES),
            "recorded_at": 1.79e9 + index,
        }
        row |= {f"score_{name}": round(index * 0.382 % 1, 6) for name in ("task", "length", "mask", "depth")}
        row |= {f"quality_{name}": "pass" for name in ("masks", "depth", "tracks", "geometry", "motion")}
        row |= {f"seconds_{stage}": 0.1 + index % 7 for stage in ALL_STAGES}
        yield row | {f"peak_mb_{stage}": 800.0 + index % 7 for stage in ALL_STAGES}


def _request(folder: Path, out: str = "out", config: Config = CONFIG) -> Request:
    return Request(str(folder / "source"), LocalDirectory(folder / out), config)


def list_source(folder: Path, count: int) -> None:
    """Listing, each episode looked at and dropped."""
    assert sum(1 for _ in open_source(str(folder / "source")).episodes()) == count


def plan_fresh(folder: Path, count: int) -> None:
    """The plan of a run that has everything to do."""
    assert len(make_plan(_request(folder, "fresh")).jobs) == count


def read_manifest(folder: Path, count: int) -> None:
    """Every row."""
    assert len(Manifest(folder / "out").rows()) == count


def merge_manifest(folder: Path, count: int) -> None:
    """One finished row folded into the others, in a copy."""
    merged = folder / "merged"
    merged.mkdir(exist_ok=True)
    shutil.copy(folder / "out" / "manifest.parquet", merged)
    manifest = Manifest(merged)
    row = {"episode_id": "one_more", "episode_index": count, "status": "failed", "error": "made up"}
    manifest.add(row)
    manifest.merge()


def resume(folder: Path, count: int) -> None:
    """A finished batch is recognised, and its run ends."""
    from flows.run.carry_out import carry_out, run_shard_plainly

    plan = make_plan(_request(folder))
    assert (len(plan.jobs), len(plan.finished)) == (0, count)
    assert carry_out(plan, Silent(), run_shard_plainly).exit_code == 0


def shards_of_plan(folder: Path, count: int) -> None:
    """Every shard of a plan asked for by its number, as engines do."""
    plan = make_plan(_request(folder, "fresh"))
    assert sum(len(plan.shards[index]) for index in range(len(plan.shards))) == count


def find_shard(folder: Path, count: int) -> None:
    """Beside `plan`: one shard given out and found, as each process of Prefect's workers finds it."""
    from flows.orchestration.plan_file import find_plan, hand_out, published

    plan = make_plan(_request(folder, "fresh"))
    with published(plan) as file:
        hand_out(file, plan, 7)
        assert len(find_plan(file, 7).jobs) == 64


def select_best(folder: Path, count: int) -> None:
    """The best hundred, checked against their packets' head of the manifest, split and written."""
    from flows.output.selection import Pick, choose, read_candidates, write_selection

    candidates = read_candidates(folder / "out")
    assert len(candidates) == count
    chosen = choose(candidates, Pick("top", count=100, by_task=True))
    write_selection(LocalDirectory(folder / "out"), "selection-best.csv", chosen)


def show_overview(folder: Path, count: int) -> None:
    """The viewer's first page."""
    from flows.viewing.library import Library

    page = Library(folder / "out").overview(server=True)
    write_whole(folder / "overview.js", page)


def plan_export(folder: Path, count: int) -> None:
    """Which packets an export takes, and their names told apart from another directory's."""
    from flows.commands.export import _chosen
    from flows.output.directory import Opened
    from packers.export.merging import told_apart

    packets = _chosen(Opened.open(str(folder / "out")), None)
    assert len(packets) == count
    assert told_apart(packets) == {}


def validate_all(folder: Path, count: int) -> None:
    """Every packet read whole, and the manifest compared with the folder."""
    from flows.commands.packets import _validated
    from flows.output.directory import Opened

    assert sum(1 for _ in _validated(Opened.open(str(folder / "out")))) >= count


STEPS: dict[str, Callable[[Path, int], None]] = {
    "list": list_source,
    "plan": plan_fresh,
    "shards": shards_of_plan,
    "worker": find_shard,
    "manifest": read_manifest,
    "resume": resume,
    "select": select_best,
    "overview": show_overview,
    "export": plan_export,
    "merge": merge_manifest,
    "validate": validate_all,
}

OF_A_LISTING = {"list", "plan", "shards", "worker"}
"""Steps that need no packets."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[6_000, 60_000])
    parser.add_argument("--only", default=",".join(STEPS))
    parser.add_argument("--validate-up-to", type=int, default=600, help="packets: each is read whole, twice")
    parser.add_argument("--folder", type=Path, help="where the batches are made, and kept [default: a temporary one]")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        _, seconds, megabytes = measured(lambda: STEPS[options.step](options.folder, options.counts[0]))
        print(json.dumps([seconds, megabytes]))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.python_version()}, {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory() as temporary:
        measure(options.folder or Path(temporary), options.counts, options.only.split(","), options.validate_up_to)


def measure(root: Path, counts: list[int], steps: list[str], validate_up_to: int) -> None:
    """Prints seconds and memory of each step at each count, and how they grow for an episode."""
    print(f"{'step':<10}{'episodes':>10}{'CPU s':>9}{'wall s':>9}{'ms/episode':>12}{'MiB':>8}{'kB/episode':>12}")
    first: dict[str, tuple[float, float]] = {}
    for count in counts:
        folder = root / str(count)
        if not (folder / "source").exists():
            _lerobot_metadata(folder / "source", count)
        if not set(steps) <= OF_A_LISTING and not (folder / "out" / "manifest.parquet").exists():
            prepare_batch(folder)
        for step in steps:
            if step == "validate" and count > validate_up_to:
                continue
            started = time.perf_counter()
            command = [sys.executable, "-m", "tests.benchmarks.scale", "--step", step, "--counts", str(count)]
            done = subprocess.run([*command, "--folder", str(folder)], check=True, capture_output=True, text=True)
            wall = time.perf_counter() - started
            seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
            each = seconds / count, megabytes / count
            growth = [a / b for a, b in zip(each, first.setdefault(step, each), strict=True)]
            print(
                f"{step:<10}{count:>10,}{seconds:>9.2f}{wall:>9.1f}{1e3 * each[0]:>12.3f}{megabytes:>8.0f}"
                f"{1024 * each[1]:>12.2f}   x{growth[0]:.2f} time, x{growth[1]:.2f} memory",
                flush=True,
            )


if __name__ == "__main__":
    main()
