"""`cuepack calibrate`: the cameras of set-ups, told by the robot's hand in many episodes together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extractors.errors import ConfigError
from flows.commands.options import (
    FAILED,
    FINISHED,
    LocalPath,
    assignments,
    output_options,
    print_json,
    settings_options,
    start_logging,
)

if TYPE_CHECKING:
    from flows.output.calibrations import SetUp


@click.command()
@click.argument("source", metavar="SOURCE|DIR")
@click.option("--out", required=True, type=LocalPath(), help="File to write, such as calibrations.json.")
@click.option("--work", type=LocalPath(), help="Folder for the packets of a SOURCE [default: --out with .packets].")
@click.option("--camera", help="Of a SOURCE: the view to take [default: the first fixed, non-black one].")
@click.option("--one-camera", is_flag=True, help="The cameras stood still: backgrounds that differ split no set-up.")
@click.option("--limit", type=click.IntRange(min=1), help="Of a SOURCE: at most this many episodes.")
@settings_options
@output_options
def calibrate(source: str, out: Path, work: Path | None, **options: Any) -> None:
    """Find the cameras of SOURCE, or of the packets of an output directory DIR, from the hand's recorded motion.

    Episodes are grouped by camera set-up and solved together; `extract --set geometry.calibration=FILE` uses the file.
    Exit code 0: at least one set-up is observable; 1: none is.
    """
    from flows.run.calibrate import write_calibrations

    start_logging(quiet=options["quiet"])
    packets = _packets(source, work or out.with_name(f"{out.name}.packets"), options)
    if options["no_prefect"]:
        from flows.run.calibrate import solve_all

        found, unusable = solve_all(packets, one_camera=options["one_camera"])
        write_calibrations(out, found)
    else:
        from flows.orchestration.settings import prepare

        prepare(out.parent)
        from flows.orchestration.calibrate_flow import calibrate_with_prefect

        found, unusable = calibrate_with_prefect(packets, out, one_camera=options["one_camera"])
    for sentence in unusable:
        print(f"left out  {sentence}", file=sys.stderr)
    code = FINISHED if any(not each.reasons for each in found) else FAILED
    _print(found, out, options, code, len(packets))
    sys.exit(code)


def _packets(source: str, work: Path, options: dict[str, Any]) -> list[Path]:
    """The packets of an output directory, or those made of a source for this: masks and tracks, no depth."""
    if "://" not in source and (Path(source) / "packets").is_dir():
        found = sorted((Path(source) / "packets").glob("*/*.h5"))
    else:
        found = _extracted(source, work, options)
    if not found:
        raise ConfigError(f"no packet of {source} can be used; see the manifest in {work}")
    return found


def _extracted(source: str, work: Path, options: dict[str, Any]) -> list[Path]:
    from flows.config import load_config
    from flows.output.directory import OutputDirectory
    from flows.run.carry_out import carry_out, run_shard_plainly
    from flows.run.plan import Request, make_plan, record_run
    from flows.run.progress import RunProgress
    from flows.run.shard import ALL_STAGES

    settings = ["depth.backend=off", *assignments(options), "geometry.calibration=off"]
    request = Request(
        source=source,
        out=OutputDirectory.open(work),
        config=load_config(options["config_file"], settings),
        camera=options["camera"],
        limit=options["limit"],
    )
    plan = make_plan(request)
    record_run(plan, " ".join(["cuepack", *sys.argv[1:]]))
    with RunProgress(
        len(plan.jobs), len(ALL_STAGES), lengths=plan.lengths, quiet=options["quiet"] or options["as_json"]
    ) as progress:
        outcome = carry_out(plan, progress, run_shard_plainly)
    if outcome.error is not None:
        raise outcome.error
    if outcome.interrupted:
        raise KeyboardInterrupt
    return sorted(work / str(row["packet"]) for row in outcome.rows if row["status"] == "done")


def _print(found: list[SetUp], out: Path, options: dict[str, Any], code: int, n_packets: int) -> None:
    from flows.run.calibrate import table

    rows = table(found)
    if options["as_json"]:
        counts = {"packets": n_packets, "set_ups": len(found), "observable": sum(not each.reasons for each in found)}
        print_json("calibrate", code, counts=counts, file=str(out), set_ups=rows)
        return
    for row in rows:
        print(row.pop("set-up"))
        for name, value in row.items():
            print(f"    {name}: {value}")
    for each in found:
        for episode_id, reason in each.apart.items():
            print(f"put apart  {episode_id}: {reason}")
    print(f"{len(found)} set-ups of {n_packets} packets, written to {out}")
