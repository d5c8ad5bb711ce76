"""Options that several commands share, and the one way results are printed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

log = logging.getLogger("cuepack")

FINISHED, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def settings_options(command: Function) -> Function:
    """The options of every command that makes packets."""
    for option in (
        click.option("--workers", type=click.IntRange(min=1), help="Episodes worked on at once [default: CPU cores]."),
        click.option("--profile", type=click.Choice(["auto", "cpu", "gpu"]), help="gpu needs weights; cpu needs none."),
        click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting; repeat."),
        click.option("--config", "config_file", type=click.Path(path_type=Path), help="Settings in a YAML file."),
    ):
        command = option(command)
    return command


def output_options(command: Function) -> Function:
    """The options of every command that works for long."""
    for option in (
        click.option("--no-prefect", is_flag=True, help="Run the same stages plainly, without Prefect."),
        click.option("--quiet", "-q", is_flag=True, help="No progress; only what went wrong."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, the rest on stderr."),
    ):
        command = option(command)
    return command


def assignments(options: dict[str, Any]) -> list[str]:
    """Every `section.key=value` of the command line, the short options included."""
    chosen = list(options["assignments"])
    if options.get("profile"):
        chosen.append(f"run.profile={options['profile']}")
    if options.get("workers"):
        chosen.append(f"run.workers={options['workers']}")
    return chosen


def print_json(command: str, exit_code: int, **content: Any) -> None:
    """The one object that `--json` puts on standard output."""
    print(json.dumps({"command": command, "exit_code": exit_code, **content}, sort_keys=True, ensure_ascii=False))


def start_logging(*, quiet: bool) -> None:
    """Warnings and errors of the engine go to standard error, between the progress bar's updates."""
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False, markup=False)
    handler.setLevel(logging.ERROR if quiet else logging.WARNING)
    handler.addFilter(lambda record: not getattr(record, "listed_at_the_end", False))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
