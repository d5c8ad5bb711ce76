"""What one complete packet costs with the profile `cpu`: seconds of the clock and of the processor, by stage.

    python -m tests.benchmarks.packet OUT [--episodes 5] [--side 256] [--frames 40]

Generated episodes, one after the other in this process, as a rerun of one episode has it; start-up (imports, weights,
Prefect) is left out, and so is the first episode, which pays for what later ones find loaded. Needs the extra `scenes`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from flows.run.carry_out import carry_out, run_shard_plainly
from flows.run.progress import RunProgress
from flows.run.shard import ALL_STAGES
from flows.scenes.episodes import write_scenes
from tests.benchmarks.handeye_packets import TruthSource
from tests.flows.batches import array_plan

SEED = 31


def main() -> None:
    """Prints one row an episode, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--set", action="append", default=[], help="SECTION.KEY=VALUE")
    options = parser.parse_args()
    scenes, size = options.out / "scenes", (options.side, options.side)
    scenes.mkdir(parents=True, exist_ok=True)
    list(write_scenes(scenes, options.episodes + 1, SEED, kind="pick-place", size=size, frames=options.frames))
    rows = []
    for path in sorted(scenes.glob("*.npz")):
        plan = array_plan(TruthSource(scenes, path.stem), options.out / path.stem, ("run.profile=cpu", *options.set))
        clock, processor = time.perf_counter(), time.process_time()
        with RunProgress(len(plan.jobs), len(ALL_STAGES), quiet=True) as progress:
            (row,) = carry_out(plan, progress, run_shard_plainly).rows
        cost = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
        rows.append(cost | {stage: float(row.get(f"seconds_{stage}") or 0) for stage in ALL_STAGES})
        print(f"{path.stem} {row['status']}: " + _told(rows[-1]), flush=True)
    kept = rows[1:]
    median = {name: statistics.median(row[name] for row in kept) for name in kept[0]}
    print("median: " + _told(median))
    total = sum(median[stage] for stage in ALL_STAGES)
    print("shares: " + ", ".join(f"{stage} {median[stage] / total:.0%}" for stage in ALL_STAGES))


def _told(cost: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in cost.items())


if __name__ == "__main__":
    main()
