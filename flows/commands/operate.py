"""Commands that look after a machine and its runs: `manifest rebuild`, `doctor`, `deploy`, `serve`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from flows.commands.options import CAMERA_HELP, FAILED, FINISHED, LocalPath, OutputPath, print_json

if TYPE_CHECKING:
    from flows.orchestration.deployments import Schedule
    from flows.output.directory import OutputDirectory

Function = TypeVar("Function", bound=Callable[..., Any])


@click.group()
def manifest() -> None:
    """The manifest of an output directory."""


@manifest.command()
@click.argument("directory", type=OutputPath(), metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def rebuild(directory: OutputDirectory, as_json: bool) -> None:
    """Make manifest.parquet and manifest.csv of DIR again from its packets, and say what packets do not hold.

    Exit code 0: every packet is listed; 1: some are damaged or gone.
    """
    from flows.output.rebuild import rebuild_manifest

    rebuilt = rebuild_manifest(directory)
    code = FAILED if rebuilt.damaged or rebuilt.lost else FINISHED
    for path, reason in rebuilt.damaged.items():
        print(f"damaged  {path}: {reason}", file=sys.stderr)
    for name in rebuilt.lost:
        print(f"lost     {name}: listed as done, but its packet is gone or damaged", file=sys.stderr)
    if rebuilt.aside is not None:
        print(f"cuepack: {rebuilt.manifest_error}; it was put aside as {rebuilt.aside}", file=sys.stderr)
    for sentence in rebuilt.unknown():
        print(f"cuepack: {sentence}", file=sys.stderr)
    counts = {name: len(getattr(rebuilt, name)) for name in ("kept", "made", "damaged", "lost")}
    if as_json:
        findings = [
            {"packet": path, "dataset": None, "frame": None, "reason": why} for path, why in rebuilt.damaged.items()
        ]
        print_json("manifest rebuild", code, counts=counts, findings=findings, unknown=rebuilt.unknown())
    else:
        table = directory.name_of(directory.root / "manifest.parquet")
        print(f"{counts['kept']} rows kept, {counts['made']} made from packets -> {table}")
    sys.exit(code)


def _schedule_options(command: Function) -> Function:
    for option in (
        click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting; repeat."),
        click.option("--camera", help=CAMERA_HELP),
        click.option("--timezone", default="UTC", show_default=True, help="Time zone of --cron."),
        click.option("--cron", help="When to look for new episodes, such as '0 2 * * *' [default: by hand only]."),
        click.option("--out", required=True, help="Output directory or URI."),
        click.argument("source"),
    ):
        command = option(command)
    return command


@click.command()
@_schedule_options
@click.option("--pool", required=True, help="The Prefect work pool whose workers carry it out.")
def deploy(source: str, out: str, pool: str, **options: Any) -> None:
    """Register batch and rerun deployments of SOURCE and --out with a Prefect server's work pool.

    Paths are the workers'. Needs PREFECT_API_URL; on one machine `cuepack serve` needs nothing.
    """
    from flows.orchestration.settings import check_server, prepare

    prepare()
    schedule = _schedule(source, out, options)
    from flows.orchestration.deployments import register

    check_server()
    for name in register(schedule, pool):
        print(name)
    print(f"a worker takes them up: prefect worker start --pool {pool} --limit 1", file=sys.stderr)


@click.command()
@_schedule_options
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where the dashboard listens; others need a login."
)
@click.option("--port", type=click.IntRange(1, 65535), default=4200, show_default=True, help="Of the dashboard.")
@click.option("--limit", type=click.IntRange(min=1), default=1, show_default=True, help="Flow runs at once.")
def serve(source: str, out: str, host: str, port: int, limit: int, **options: Any) -> None:
    """Serve batch and rerun deployments of SOURCE and --out from this machine, with a dashboard, until Ctrl-C.

    Starts a Prefect server unless PREFECT_API_URL names one or one runs on the port already. Runs take other
    parameters, but no other source or output, and no settings that name files or machines.
    """
    from flows.orchestration.settings import prepare
    from flows.remote.files import is_uri

    prepare(None if is_uri(out) else Path(out))
    schedule = _schedule(source, out, options)
    from flows.orchestration.deployments import serve_deployments
    from flows.orchestration.server import server_at

    # Until Prefect's runner has its own handler, SIGTERM would end this process alone and leave the server running.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(FINISHED))
    with server_at(port, host) as url:
        print(f"dashboard  {url.removesuffix('/api')}", flush=True)
        serve_deployments(schedule, limit=limit)


def _schedule(source: str, out: str, options: dict[str, Any]) -> Schedule:
    """What the options say, paths made absolute and the settings checked before a server is asked."""
    from flows.config import load_config
    from flows.orchestration.deployments import Schedule
    from flows.remote.files import is_uri
    from flows.sources.detect import HUB_PREFIX

    def place(named: str) -> str:
        return named if is_uri(named) else str(Path(named).expanduser().resolve())

    load_config(assignments=options["assignments"])
    return Schedule(
        source=source if source.startswith(HUB_PREFIX) else place(source),
        out=place(out),
        cron=options["cron"],
        timezone=options["timezone"],
        camera=options["camera"],
        settings=options["assignments"],
    )


@click.command()
@click.argument("directory", type=LocalPath(), metavar="[DIR]", default=Path())
@click.option(
    "--licence",
    type=click.Choice(["any", "open"]),
    default="any",
    show_default=True,
    help="Count only profiles whose weights anyone may use, companies included (open), or all.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(directory: Path, licence: Literal["any", "open"], as_json: bool) -> None:
    """Say what this machine can do: devices, weights, profiles, codecs, Prefect server, free disk at DIR.

    Exit code 1 where even `--profile cpu` cannot run.
    """
    from dataclasses import asdict

    from flows.doctor import examine, format_checks

    checks = examine(directory, licence)
    code = FAILED if any(check.grade == "bad" for check in checks) else FINISHED
    if as_json:
        counts = {grade: sum(check.grade == grade for check in checks) for grade in ("good", "note", "bad")}
        print_json("doctor", code, counts=counts, findings=[asdict(check) for check in checks])
    else:
        print(format_checks(checks))
    sys.exit(code)
