"""Whether a study finds a planted effect and invents none: whole small studies on toy worlds whose answer is known.

    python -m tests.benchmarks.study_power --repetitions 20

Each repetition draws new packets (tests/flows/study/worlds.py: a square that actions move, before a background that
nothing predicts) and runs a study of `tiny` at 32 px: `dataset:state` tells where the square is, `G` is noise.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from scipy import stats

from flows.study.comparison import compare
from flows.study.evaluation import read_evaluation
from flows.study.plan import StudySettings, make_study, write_study
from flows.study.work import work_on
from tests.flows.study.worlds import write_toy

PLANTED, NOISE = "dataset:state", "G"


def study(seed: int, episodes: int, seeds: int, epochs: int) -> dict[str, str]:
    """The verdicts of one small study on packets of their own."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_toy(root / "packets", episodes, seed=seed, noise=15.0)
        settings = StudySettings(side=32, epochs=epochs, rate=1e-3, horizon=4, held_share=0.3, split_seed=seed)
        plan = make_study(
            root / "packets",
            root / "study",
            settings,
            conditions=[PLANTED, NOISE],
            controls=(),
            seeds=seeds,
        )
        write_study(plan)
        for run in plan.runs:
            work_on(plan, run)
        found = {(run.condition, run.seed): read_evaluation(plan.folder(run)) for run in plan.runs}
        results = {each.condition: each for each in compare(found, 0, {})}
        for name in (PLANTED, NOISE):
            change = results[name].change
            assert change is not None
            interval = f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
            print(
                f"  {name:14s} {results[name].verdict:16s} {interval}, detectable {change.detectable:.3f}", flush=True
            )
        return {name: results[name].verdict for name in (PLANTED, NOISE)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first; several processes share them")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    began, verdicts = time.process_time(), {PLANTED: Counter[str](), NOISE: Counter[str]()}
    for seed in range(options.first, options.first + options.repetitions):
        print(f"repetition {seed}", flush=True)
        for name, verdict in study(seed, options.episodes, options.seeds, options.epochs).items():
            verdicts[name][verdict] += 1
    for name, wanted in ((PLANTED, "helps"), (NOISE, "nothing")):
        right, count = verdicts[name][wanted], options.repetitions
        interval = stats.binomtest(right, count).proportion_ci(method="exact")
        print(f"{name}: {wanted} in {right} of {count} ({interval.low:.2f} to {interval.high:.2f})", end="; ")
        print(dict(verdicts[name]))
    print(f"{(time.process_time() - began) / 60:.1f} CPU minutes")


if __name__ == "__main__":
    main()
