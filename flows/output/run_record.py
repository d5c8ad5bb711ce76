"""config.yaml and run.json of an output directory: the settings, versions and source of its last run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from extractors.errors import ConfigError, OutputError
from flows.config import Config
from flows.output.manifest import Manifest
from flows.output.remote_output import put_back, shown
from packers.atomic import write_whole


def write_run(manifest: Manifest, config: Config, run: Mapping[str, Any]) -> None:
    """Writes config.yaml and run.json into the manifest's output directory.

    Raises:
        OutputError: they cannot be written.
    """
    out = manifest.root
    try:
        with manifest.locked():
            _replace(out / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
            _replace(out / "run.json", json.dumps(run, indent=2, sort_keys=True) + "\n")
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error}; choose another --out or fix permissions") from error


def record_seconds(out: Path, **seconds: float) -> None:
    """Adds how long the parts of the last run took to run.json."""
    run = read_run(out) | {"seconds": {name: round(value, 3) for name, value in seconds.items()}}
    with contextlib.suppress(OSError), Manifest(out).locked():  # a full disk has been reported already
        _replace(out / "run.json", json.dumps(run, indent=2, sort_keys=True) + "\n")


def read_run(out: Path) -> dict[str, Any]:
    """What run.json says about an output directory.

    Raises:
        ConfigError: `out` is no output directory.
    """
    try:
        found: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
        source = found["source"]
        if not all(isinstance(source[name], str) for name in ("path", "asked", "kind", "dataset", "fingerprint")):
            raise TypeError("its source is not described")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{shown(out)} is no cuepack output directory: run.json cannot be read ({error!r}); name the --out of an "
            "extract"
        ) from error
    return found


def _replace(path: Path, text: str) -> None:
    """Replaces a file at the top of an output directory, in a twin also there; the caller holds the manifest's lock."""
    write_whole(path, text)
    put_back(path)
