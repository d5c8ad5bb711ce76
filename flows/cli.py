"""The `cuepack` command."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

import click

from extractors.errors import ConfigError, CuepackError, SourceError
from flows.commands.extract import extract, rerun
from flows.commands.options import FAILED, USAGE
from flows.commands.packets import inspect, validate
from flows.commands.sources import sample, score


class CuepackGroup(click.Group):
    """Turns every error that cuepack raises on purpose into one line and the right exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the command line and exits."""
        try:
            return super().main(*args, **kwargs)
        except (ConfigError, SourceError) as error:
            _stop(error, USAGE)
        except CuepackError as error:
            _stop(error, FAILED)


def _stop(error: Exception, code: int) -> NoReturn:
    print(f"cuepack: {error}", file=sys.stderr)
    if "--json" in sys.argv:
        command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
        print(json.dumps({"command": command, "exit_code": code, "counts": {}, "error": str(error)}, sort_keys=True))
    raise SystemExit(code)


@click.group(cls=CuepackGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="cuepack")
def main() -> None:
    """Robot-manipulation episodes in, packets of visual cues out."""


for command in (extract, rerun, score, inspect, validate, sample):
    main.add_command(command)


if __name__ == "__main__":
    main()
