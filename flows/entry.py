"""The `cuepack` command where only part of cuepack is installed."""

from __future__ import annotations

import sys

_OWN = ("extractors", "flows", "packers", "scoring")


def main() -> None:
    """Runs the command line, or says which extra is missing."""
    try:
        from flows.cli import main as run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _OWN:
            raise
        print(
            f"cuepack: the command needs the package {missing}, which is not installed: pip install 'cuepack[extract]' "
            "brings all of them; packers.reader and packers.training work without",
            file=sys.stderr,
        )
        sys.exit(2)
    run()
