"""config.yaml and run.json of an output directory: the settings, versions and source of its last run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import yaml

from extractors.errors import ConfigError, OutputError
from flows.config import Config
from flows.output.directory import OutputDirectory
from packers.plain_files import read_plain


def write_run(out: OutputDirectory, config: Config, run: Mapping[str, Any]) -> None:
    """Writes config.yaml and run.json.

    Raises:
        OutputError: they cannot be written.
    """
    with out.manifest.locked():
        out.write("config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        out.write("run.json", json.dumps(run, indent=2, sort_keys=True) + "\n")


def record_seconds(out: OutputDirectory, **seconds: float) -> None:
    """Adds how long the parts of the last run took to run.json."""
    run = read_run(out) | {"seconds": {name: round(value, 3) for name, value in seconds.items()}}
    with contextlib.suppress(OutputError), out.manifest.locked():  # a full disk has been reported already
        out.write("run.json", json.dumps(run, indent=2, sort_keys=True) + "\n")


def read_run(out: OutputDirectory) -> dict[str, Any]:
    """What run.json says about an output directory.

    Raises:
        ConfigError: `out` is not an output directory.
    """
    try:
        found: dict[str, Any] = json.loads(read_plain(out.root / "run.json"))
        source = found["source"]
        # Checked as a whole here, so that whoever uses the record can rely on these five.
        if not all(isinstance(source[name], str) for name in ("path", "asked", "kind", "dataset", "fingerprint")):
            raise TypeError("its source is not described")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{out.label} is not a cuepack output directory: run.json cannot be read ({error!r}); name the --out of an "
            "extract"
        ) from error
    return found
