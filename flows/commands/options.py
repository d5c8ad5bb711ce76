"""Options that several commands share, and the one way results are printed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from extractors.errors import ConfigError
from extractors.printable import printable, printable_json

Function = TypeVar("Function", bound=Callable[..., Any])

if TYPE_CHECKING:
    from flows.output.directory import Opened, OutputDirectory

    _PathType = click.ParamType[Path]
    _OutputType = click.ParamType[OutputDirectory]
    _OpenedType = click.ParamType[Opened]
else:
    _PathType = _OutputType = _OpenedType = click.ParamType  # older versions of click are not generic


class OutputPath(_OutputType):
    """An output directory, by path or URI."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> OutputDirectory:
        """The directory; the stand-in of one behind a URI is brought up to date."""
        from flows.output.directory import OutputDirectory

        return value if isinstance(value, OutputDirectory) else OutputDirectory.open(value)


class OutputOrFile(_OpenedType):
    """An output directory, or a single packet or table, by path or URI; a packet behind a URI is fetched."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Opened:
        """What was named."""
        from flows.output.directory import Opened

        return value if isinstance(value, Opened) else Opened.open(value)


class FilePath(_PathType):
    """A file to be read, by path or URI; of a URI commands get a copy."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The local path."""
        from flows.remote.places import fetched_file

        return value if isinstance(value, Path) else fetched_file(value)


class LocalPath(_PathType):
    """A file or folder of this machine; a URI is refused instead of being taken for the name of a folder."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        if isinstance(value, str) and "://" in value:
            raise ConfigError(
                f"{param.opts[0] if param else 'this'} wants a path of this machine, got {value}; write it here, then "
                "copy it there"
            )
        return Path(value)


log = logging.getLogger("cuepack")

FINISHED, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

CAMERA_HELP = "The view to take; all: a packet for each that shows something [default: the first fixed, non-black one]."


def settings_options(command: Function) -> Function:
    """The options of every command that makes packets."""
    for option in (
        click.option("--workers", type=click.IntRange(min=1), help="Episodes worked on at once [default: CPU cores]."),
        click.option(
            "--profile",
            type=click.Choice(["auto", "cpu", "gpu", "gpu-open"]),
            help="gpu needs weights, gpu-open weights that anyone may use; cpu needs none.",
        ),
        click.option(
            "--deterministic", is_flag=True, help="Equal bytes whatever is worked on beside an episode; slower."
        ),
        click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting; repeat."),
        click.option("--config", "config_file", type=FilePath(), help="Settings in a YAML file."),
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
    if options.get("deterministic"):
        chosen.append("run.deterministic=true")
    return chosen


def print_json(command: str, exit_code: int, **content: Any) -> None:
    """The one object that `--json` puts on standard output."""
    text = json.dumps({"command": command, "exit_code": exit_code, **content}, sort_keys=True, ensure_ascii=False)
    print(printable_json(text))


class _PrintableFormatter(logging.Formatter):
    """Messages quote what sources and packets say, which may hold escape sequences."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


def start_logging(*, quiet: bool) -> None:
    """Warnings and errors of the engine go to standard error, between the progress bar's updates."""
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False, markup=False)
    handler.setFormatter(_PrintableFormatter("%(message)s"))
    handler.setLevel(logging.ERROR if quiet else logging.WARNING)
    handler.addFilter(lambda record: not getattr(record, "listed_at_the_end", False))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
