"""`cuepack extract` and `cuepack rerun`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import click

from extractors.errors import ConfigError
from flows.commands.options import (
    CAMERA_HELP,
    FAILED,
    FINISHED,
    FilePath,
    OutputPath,
    assignments,
    output_options,
    print_json,
    settings_options,
    start_logging,
)
from flows.config import StageName

PROCESS_STARTED = time.monotonic()
MOST_FAILURES_SHOWN = 20

if TYPE_CHECKING:
    from flows.output.directory import OutputDirectory
    from flows.run.carry_out import Outcome
    from flows.run.plan import Plan
    from flows.run.progress import RunProgress


@click.command()
@click.argument("source")
@click.option("--out", required=True, type=OutputPath(), help="Output directory or URI; made where missing.")
@click.option("--camera", help=CAMERA_HELP)
@click.option("--episodes", "indices", metavar="3,7,10-20", help="Only these episode indices.")
@click.option("--selection", type=FilePath(), help="Only the episodes of this selection file.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many episodes.")
@click.option("--rehash", is_flag=True, help="Read the source again even where size and time are unchanged.")
@click.option("--strict", is_flag=True, help="Exit 1 where the source has something that the packets do not.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@settings_options
@output_options
def extract(source: str, out: OutputDirectory, **options: Any) -> None:
    """Read, score, extract and pack the episodes of SOURCE.

    Safe to repeat: finished episodes are not redone. SOURCE is a folder of BridgeData V2 (raw), RLDS/TFDS,
    LeRobot v2.0, v2.1 or v3.0, a folder of videos, or lerobot:HUB_ID. SOURCE and --out may be URIs that fsspec opens,
    such as s3://bucket/folder.
    """
    from flows.config import load_config
    from flows.output.selection import read_selection
    from flows.run.plan import Request, make_plan, parse_indices

    request = Request(
        source=source,
        out=out,
        config=load_config(options["config_file"], assignments(options)),
        camera=options["camera"],
        indices=parse_indices(options["indices"]) if options["indices"] is not None else None,
        ids=read_selection(options["selection"]) if options["selection"] else None,
        limit=options["limit"],
        rehash=options["rehash"],
    )
    plan = make_plan(request)
    if options["dry_run"]:
        _print_dry_run(plan, as_json=options["as_json"])
        return
    _run("extract", [plan], options, strict=options["strict"])


@click.command()
@click.argument("directory", type=OutputPath())
@click.argument("episode_ids", nargs=-1, required=True, metavar="EPISODE_ID...")
@click.option(
    "--from",
    "force_from",
    type=click.Choice(get_args(StageName)),
    help="Redo this stage and those after it [default: what changed].",
)
@settings_options
@output_options
def rerun(directory: OutputDirectory, episode_ids: Sequence[str], force_from: str | None, **options: Any) -> None:
    """Redo single episodes of an output DIRECTORY, with its own configuration and --set on top."""
    from flows.run.plan import rerun_plans

    plans = rerun_plans(
        directory,
        episode_ids,
        force_from=force_from,
        config_file=options["config_file"],
        settings=assignments(options),
    )
    _run("rerun", plans, options, record=False)


def _run(
    command: str, plans: Sequence[Plan], options: dict[str, Any], *, record: bool = True, strict: bool = False
) -> None:
    from flows.output.run_record import record_seconds
    from flows.run.carry_out import Outcome
    from flows.run.plan import record_run
    from flows.run.progress import RunProgress
    from flows.run.shard import ALL_STAGES

    start_logging(quiet=options["quiet"])
    total = Outcome()

    def add(plan: Plan, outcome: Outcome) -> None:
        if record:
            record_seconds(
                plan.request.out, startup=outcome.began - PROCESS_STARTED, work=time.monotonic() - outcome.began
            )
        total.add(outcome)

    def leave_without_server(plan: Plan, progress: RunProgress, outcome: Outcome) -> NoReturn:
        from flows.orchestration.settings import leave_at_once

        progress.stop()  # no `with` ends any more
        add(plan, outcome)
        print("cuepack: the Prefect server is gone, so the dashboard does not show how this run ended", file=sys.stderr)
        if plan is not plans[-1]:
            print("cuepack: other cameras' episodes were not begun; run again", file=sys.stderr)
        _print_outcome(command, plans, total, options, exit_code=total.exit_code)
        leave_at_once(total.exit_code if plan is plans[-1] else FAILED)

    for plan in plans:
        if options["no_prefect"] and plan.work.config.run.engine != "local":
            raise ConfigError(f"run.engine={plan.work.config.run.engine} goes through Prefect; drop --no-prefect")
        if record:
            record_run(plan, " ".join(["cuepack", *sys.argv[1:]]))
        with RunProgress(
            len(plan.jobs), len(ALL_STAGES), lengths=plan.lengths, quiet=options["quiet"] or options["as_json"]
        ) as progress:
            leave = partial(leave_without_server, plan, progress)
            plainly = options["no_prefect"] or not plan.jobs
            outcome = _carry_out(plan, progress, leave, plainly=plainly, rerun=command == "rerun")
        add(plan, outcome)
    left_out = plans[0].work.source.left_out()
    code = total.exit_code or (FAILED if strict and left_out else FINISHED)
    _print_outcome(command, plans, total, options, exit_code=code)
    sys.exit(code)


def _carry_out(
    plan: Plan, progress: RunProgress, if_server_lost: Callable[[Outcome], NoReturn], *, plainly: bool, rerun: bool
) -> Outcome:
    if plainly:
        from flows.run.carry_out import carry_out, run_shard_plainly

        return carry_out(plan, progress, run_shard_plainly)
    from flows.orchestration.settings import prepare

    prepare(plan.request.out.root)
    from flows.orchestration.flows import run_with_prefect

    return run_with_prefect(plan, progress, if_server_lost=if_server_lost, rerun=rerun)


def _print_outcome(
    command: str, plans: Sequence[Plan], outcome: Outcome, options: dict[str, Any], *, exit_code: int
) -> None:
    plan = plans[0]
    counts = {status: sum(row["status"] == status for row in outcome.rows) for status in ("done", "failed", "filtered")}
    busy = [row for row in outcome.rows if row["status"] == "busy"]
    # A black view of an episode is finished, and was never packed.
    counts["reused"] = sum(row["status"] == "done" for row in plan.finished)
    counts["busy"] = len(busy)
    failed = [row for row in outcome.rows if row["status"] == "failed"]
    for row in failed[:MOST_FAILURES_SHOWN]:
        print(f"failed  {row['episode_id']} ({row['stage']}, {row['error_type']}): {row['error']}", file=sys.stderr)
    if len(failed) > MOST_FAILURES_SHOWN:
        print(f"        and {len(failed) - MOST_FAILURES_SHOWN} more, all in manifest.csv", file=sys.stderr)
    for item in plan.work.source.left_out():
        print(f"left out  {item}", file=sys.stderr)
    for row in busy:
        print(f"busy    {row['episode_id']}: another run is working on it", file=sys.stderr)
    if outcome.error is not None:
        print(f"cuepack: stopped: {outcome.error}; what is packed is whole, run again to go on", file=sys.stderr)
    if outcome.interrupted:
        print("cuepack: interrupted; what is finished is kept, run again to go on", file=sys.stderr)
    if options["as_json"]:
        stopped = {} if outcome.error is None else {"error": str(outcome.error)}
        left_out = [asdict(item) for item in plan.work.source.left_out()]
        print_json(command, exit_code, counts=counts, episodes=outcome.rows, left_out=left_out, **stopped)
        return
    print(
        f"{counts['done']} packed ({counts['reused']} of them before), {counts['failed']} failed, "
        f"{counts['filtered']} filtered -> {plan.request.out.label}"
    )
    if (costs := _costs_line(plans, outcome)) is not None:
        print(costs)
    black = sum(row["status"] == "filtered" and row.get("error_type") == "BlankCameraError" for row in outcome.rows)
    if black:
        print(f"{black} of the filtered are black views; manifest.csv lists them")
    compared = [row["mask_recorded_j"] for row in outcome.rows if row.get("mask_recorded_j") is not None]
    if compared:
        print(
            f"masks against the ones the source records: mean J {sum(compared) / len(compared):.2f} "
            f"over {len(compared)} episodes ({min(compared):.2f} to {max(compared):.2f})"
        )


def _costs_line(plans: Sequence[Plan], outcome: Outcome) -> str | None:
    """What the run cost; None where nothing was left to do."""
    from flows.output.costs import closing_line, run_costs

    # The rows of episodes that were finished before hold what an earlier run cost.
    worked_on = {job.episode_id for plan in plans for job in plan.jobs}
    rows = [row for row in outcome.rows if row["episode_id"] in worked_on]
    if not rows:
        return None
    return closing_line(run_costs(rows), seconds=outcome.seconds, workers=plans[0].workers_at_once)


def _print_dry_run(plan: Plan, *, as_json: bool) -> None:
    counts = {"todo": len(plan.jobs), "reused": len(plan.finished), "filtered": len(plan.filtered)}
    if as_json:
        episodes = [
            {"episode_id": job.episode_id, "episode_index": job.info.episode_index, "status": "todo"}
            for job in plan.jobs
        ]
        print_json("extract", FINISHED, counts=counts, episodes=episodes)
        return
    from flows.sources.detect import source_location

    work = plan.work
    print(f"source   {work.source.kind} {source_location(work.source)}")
    print(
        f"profile  {work.config.run.profile}: masks {work.config.masks.backend}, depth {work.config.depth.backend}, "
        f"tracks {work.config.tracks.backend}"
    )
    print(f"episodes {counts['todo']} to do, {counts['reused']} finished, {counts['filtered']} filtered")
    for job in plan.jobs[:10]:
        print(f"  {job.info.episode_index:>6}  {job.episode_id}  {job.info.language_instruction[:60]}")
    if len(plan.jobs) > 10:
        print(f"  ... and {len(plan.jobs) - 10} more")
