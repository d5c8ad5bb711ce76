"""`cuepack study`: which cue helps a world model."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extractors.errors import ConfigError
from flows.commands.options import FAILED, FINISHED, LocalPath, print_json, start_logging

if TYPE_CHECKING:
    from flows.study.plan import Run, StudyPlan
    from flows.study.work import Status, StudyWork

DEFAULT_CONDITIONS = "A,B,D,F,M"

PROFILES = {"cpu": "tiny", "gpu": "lewm"}
"""Profile -> the model that it can train in an afternoon."""


@click.command()
@click.argument("source", type=LocalPath(), metavar="DIR|SELECTION")
@click.option("--out", required=True, type=LocalPath(), help="Folder of the study; made where missing.")
@click.option(
    "--conditions",
    default=DEFAULT_CONDITIONS,
    show_default=True,
    help="What is compared, A (no head) always; see docs.",
)
@click.option(
    "--controls", default="nothing,shuffled", show_default=True, help="nothing, shuffled, both, or none of them: ''."
)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each condition.")
@click.option("--sizes", default="0", show_default=True, help="Training episodes, such as 13,100; 0 takes all.")
@click.option(
    "--profile", type=click.Choice([*PROFILES]), default="cpu", show_default=True, help="tiny, or lewm in bf16."
)
@click.option("--model", type=click.Choice(["tiny", "lewm", "stable-worldmodel"]), help="[default: the profile's]")
@click.option("--predictor", type=click.Choice(["cls", "patches"]), default="cls", show_default=True)
@click.option("--side", type=click.IntRange(16, 512), help="Of the frames, pixels [default: the model's].")
@click.option("--epochs", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option("--batch", type=click.IntRange(2, 4096), default=16, show_default=True)
@click.option("--rate", type=click.FloatRange(0, 1, min_open=True), help="Learning rate [default: 5e-5; tiny 3e-4].")
@click.option("--weight", type=click.FloatRange(0, 100), default=0.1, show_default=True, help="Of every head's loss.")
@click.option("--frameskip", type=click.IntRange(1, 1000), help="Rows between frames [default: 0.2 s].")
@click.option("--horizon", type=click.IntRange(1, 200), default=8, show_default=True, help="Frames of a roll-out.")
@click.option(
    "--held-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of the episodes that no run trains on, whole scenes where there are several.",
)
@click.option("--windows", type=click.Choice(["all", "moving"]), default="all", show_default=True, help="To train on.")
@click.option("--engine", type=click.Choice(["local", "ray", "dask", "workers"]), default="local", show_default=True)
@click.option("--engine-address", help="Of a Ray or Dask cluster [default: one is started here].")
@click.option("--workers", type=click.IntRange(1, 256), help="Runs side by side [default: cores, or 1 with a GPU].")
@click.option("--dry-run", is_flag=True, help="State the runs, their steps and the time, and train nothing.")
@click.option("--no-prefect", is_flag=True, help="The same runs without Prefect.")
@click.option("--quiet", "-q", is_flag=True, help="Only what went wrong.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, the rest on stderr.")
def study(source: Path, out: Path, **options: Any) -> None:
    """Compare cues: train a world model with one auxiliary head at a time on the packets of DIR.

    A study that is stopped goes on when the command is repeated; a new condition trains only itself. The report is
    OUT/report/index.html. Needs the extra `study`.
    """
    start_logging(quiet=options["quiet"])
    _need_extra()
    plan, work = _planned(source, out, options)
    from flows.study.plan import write_study

    if options["dry_run"]:
        _print_dry_run(plan, work.workers, options)
        return
    write_study(plan)
    tally = _Tally(plan, quiet=options["quiet"])
    if options["no_prefect"]:
        _plainly(plan, work, tally)
        table = _report(plan)
    else:
        from flows.orchestration.settings import prepare

        prepare(plan.out)
        from flows.orchestration.study_flow import run_study

        kept: list[str] = []

        def report(plan: StudyPlan) -> str:
            kept.append(_report(plan))
            return kept[-1]

        run_study(plan, work, tally.told, report)
        table = kept[-1]
    _print_outcome(plan, tally, table, options)


def _need_extra() -> None:
    """Before any training: the report at its end draws with both."""
    for package in ("matplotlib", "sklearn"):
        if find_spec(package) is None:
            raise ConfigError(f"`cuepack study` needs the package {package}: pip install 'cuepack[study]'")


def _planned(source: Path, out: Path, options: dict[str, Any]) -> tuple[StudyPlan, StudyWork]:
    from flows.study.plan import StudySettings, make_study
    from flows.study.work import StudyWork, pick_device
    from packers.cores import usable_cpus

    device = pick_device("cuda" if options["profile"] == "gpu" else "cpu")
    names = ("predictor", "side", "epochs", "batch", "rate", "weight", "frameskip", "horizon", "held_share")
    given = {("tokens" if name == "predictor" else name): options[name] for name in names}
    settings = StudySettings(
        model=options["model"] or PROFILES[options["profile"]], moving=options["windows"] == "moving", **given
    )
    plan = make_study(
        source,
        out.absolute(),
        settings,
        conditions=_listed(options["conditions"]),
        controls=_listed(options["controls"]),  # type: ignore[arg-type]
        seeds=options["seeds"],
        sizes=_numbers(options["sizes"]),
    )
    workers = options["workers"] or (1 if device.startswith("cuda") else usable_cpus())
    return plan, StudyWork(options["engine"], workers, device, options["engine_address"])


def _plainly(plan: StudyPlan, work: StudyWork, tally: _Tally) -> None:
    from extractors.errors import CuepackError
    from flows.study.work import work_in_process

    if work.engine != "local":
        raise ConfigError(f"--engine {work.engine} goes through Prefect; drop --no-prefect")

    def one(run: Run) -> None:
        try:
            tally.told(run, work_in_process(plan.out, run, work.device))
        except CuepackError as error:
            tally.told(run, error)

    with ThreadPoolExecutor(work.workers) as pool:
        list(pool.map(one, plan.todo()))


def _report(plan: StudyPlan) -> str:
    from flows.study.results import make_report

    return make_report(plan)


class _Tally:
    """What became of the runs, and a line for each on standard error."""

    def __init__(self, plan: StudyPlan, *, quiet: bool) -> None:
        self.failed: dict[str, Exception] = {}
        self.counts = {"trained": 0, "diverged": 0, "there": 0, "busy": 0}
        self._lock, self._quiet = threading.Lock(), quiet
        self.todo = len(plan.todo())
        self.before = len(plan.runs) - self.todo
        self._began = time.monotonic()

    def told(self, run: Run, status: Status | Exception) -> None:
        """Counts a run that is over."""
        with self._lock:
            if isinstance(status, Exception):
                self.failed[run.name] = status
                print(f"failed  {run.name}: {status}", file=sys.stderr)
                return
            self.counts[status] += 1
            over = sum(self.counts.values()) + len(self.failed)
            left = (time.monotonic() - self._began) / over * (self.todo - over)
            if not self._quiet:
                print(f"{over}/{self.todo}  {run.name}: {status}, {left / 60:.0f} min left", file=sys.stderr)


def _print_dry_run(plan: StudyPlan, workers: int, options: dict[str, Any]) -> None:
    from flows.study.estimate import estimate

    estimated = estimate(plan, workers)
    if options["as_json"]:
        print_json("study", FINISHED, counts={"runs": len(plan.runs), "todo": len(plan.todo())}, **estimated)
        return
    print(f"packets    {plan.facts['packets']} of {plan.facts['scenes']} scene(s), {plan.facts['frames']} frames")
    print(f"split      {len(plan.training)} to train on, {len(plan.held_out)} held out")
    for warning in plan.warnings:
        print(f"           {warning}")
    print(f"conditions {', '.join(each.name for each in plan.all_conditions)}")
    print(f"runs       {len(plan.runs)}, {len(plan.todo())} of them to do, {estimated['steps']} steps in all")
    step = estimated["seconds_per_step"]
    minutes = max(1, round(estimated["minutes"])) if estimated["steps"] else 0
    print(f"time       about {minutes} min, {workers} side by side, {step:.3f} s a step")


def _print_outcome(plan: StudyPlan, tally: _Tally, table: str, options: dict[str, Any]) -> None:
    code = FAILED if tally.failed else FINISHED
    counts = {**tally.counts, "before": tally.before, "failed": len(tally.failed)}
    if options["as_json"]:
        from flows.study.results import COMPARISON_FILE, read_comparison

        failed = {name: str(error) for name, error in tally.failed.items()}
        results = read_comparison(plan.out / COMPARISON_FILE)
        print_json("study", code, counts=counts, failed=failed, warnings=list(plan.warnings), results=results)
        sys.exit(code)
    for warning in plan.warnings:
        print(f"note  {warning}", file=sys.stderr)
    print(table)
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    print(f"{said} -> {plan.out / 'report' / 'index.html'}")
    sys.exit(code)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in _listed(text)]
    except ValueError as error:
        raise ConfigError(f"--sizes wants numbers of episodes such as 13,100, got {text!r}") from error
