"""Prefect's environment, set before Prefect is imported: quiet, no telemetry, patient start."""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger("cuepack")

_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # On a loaded machine the embedded server needs longer than the default 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # The console stays ours; the dashboard keeps the logs.
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "cuepack",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}


def prepare(out: Path | None = None) -> None:
    """Sets what the user has not set. Prefect's home is $PREFECT_HOME, else the user's cache folder.

    Args:
        out: an output directory, whose `.work` serves as Prefect's home where the cache folder cannot be written.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if "PREFECT_HOME" in os.environ:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cuepack" / "prefect"
    try:
        home.mkdir(parents=True, exist_ok=True)
        writable = os.access(home, os.W_OK)
    except OSError:
        writable = False
    if not writable and out is not None:
        log.warning("%s cannot be written; Prefect keeps its run history in %s", home, out / ".work" / "prefect")
        home = out / ".work" / "prefect"
        home.mkdir(parents=True, exist_ok=True)
    os.environ["PREFECT_HOME"] = str(home)
