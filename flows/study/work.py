"""One run of a study from its files: trained and evaluated here, or in a process of its own.

    python -m flows.study.work --study STUDY --run KEY [--device cpu]

Any process that sees the study's folder and the packets can take a run: the folder's lock is all that they share.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from extractors.errors import ConfigError, CuepackError
from flows.child_process import end_with
from flows.study.plan import Run, StudyPlan, read_study
from packers.locks import held

Status = Literal["trained", "diverged", "there", "busy"]
Engine = Literal["local", "ray", "dask", "workers"]

LOCK = ".lock"

BUSY = 3
"""Exit code of a process whose run another one is working on."""

_LAST_WORDS = 600


@dataclass(frozen=True, slots=True)
class StudyWork:
    """How the runs of a study are carried out.

    Attributes:
        engine: where.
        workers: runs side by side.
        device: "cpu" or "cuda".
        address: of a Ray or Dask cluster; None starts one here.
    """

    engine: Engine = "local"
    workers: int = 1
    device: str = "cpu"
    address: str | None = None


def work_on(
    plan: StudyPlan, run: Run, device: str = "cpu", progress: Callable[[int, int], None] | None = None
) -> Status:
    """Trains and evaluates a run, unless it is there; "busy" where another process works on it.

    Raises:
        CuepackError: a packet cannot be read, or the folder not written.
    """
    folder = plan.folder(run)
    with held(folder / LOCK, wait=False) as mine:
        if not mine:
            return "busy"
        from flows.study.evaluation import EVALUATION_FILE

        if (folder / EVALUATION_FILE).exists():
            return "there"
        return _trained_and_evaluated(plan, run, device, progress)


def _trained_and_evaluated(
    plan: StudyPlan, run: Run, device: str, progress: Callable[[int, int], None] | None
) -> Status:
    import torch

    from flows.study.data import whole_episodes
    from flows.study.evaluation import TorchLatents, evaluate, save_evaluation
    from flows.study.training import CURVES_FILE, read_trained, train

    if device == "cpu":
        # Sums depend on how many threads share them, and a study is several runs side by side.
        torch.set_num_threads(1)
    folder = plan.folder(run)
    if (folder / CURVES_FILE).exists():
        trained = read_trained(plan, run)
    else:
        trained = train(plan, run, device, progress or (lambda step, steps: None))
    if trained.diverged:
        return "diverged"
    held_out, training = (whole_episodes(plan, run, side) for side in ("val", "train"))
    model = TorchLatents(trained.model.to(device), device)
    save_evaluation(evaluate(model, held_out, training, plan.settings.horizon), folder)
    return "trained"


def work_in_process(out: Path, run: Run, device: str = "cpu", threads: int = 1) -> Status:
    """`work_on` in a process of its own, which ends with this one.

    Raises:
        CuepackError: it failed; with what it said last.
    """
    command = [sys.executable, "-m", "flows.study.work", "--study", str(out), "--run", run.key, "--device", device]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [*command, "--parent", str(os.getpid())], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == BUSY:
        return "busy"
    if done.returncode:
        said = done.stderr.strip()[-_LAST_WORDS:] or f"ended with {done.returncode}"
        raise CuepackError(f"{run.name}: {said}")
    return done.stdout.strip().splitlines()[-1]  # type: ignore[return-value]


def pick_device(asked: str) -> str:
    """The device that is asked for; "auto" takes a GPU where one is.

    Raises:
        ConfigError: CUDA is asked for and missing.
    """
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("--profile gpu needs a CUDA device, and torch sees none; use --profile cpu")
    return asked


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.study.work")
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parent", type=int, help="end when this process is gone")
    given = parser.parse_args(arguments)
    if given.parent is not None:
        end_with(given.parent)
    try:
        plan = read_study(given.study)
        run = next((each for each in plan.runs if each.key == given.run), None)
        if run is None:
            raise ConfigError(f"{given.study} has no run {given.run}")
        status = work_on(plan, run, given.device)
    except CuepackError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(status)
    sys.exit(BUSY if status == "busy" else 0)


if __name__ == "__main__":
    main()
