"""Prefect's database, looked at before a server opens it: a damaged one costs minutes and a traceback otherwise."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

from prefect.settings import get_current_settings

from extractors.errors import ConfigError

LOOK_S = 2.0
"""Seconds spent on a look at the pages of a large database; 300 MB take about one."""


def check_database() -> None:
    """Refuses a database file that is damaged or cannot be opened. Databases on servers are not looked at.

    Raises:
        ConfigError: names the file and the way out; the record of work is not in it.
    """
    path = _file()
    if path is None:
        return
    if not path.parent.is_dir():
        raise ConfigError(
            f"PREFECT_SERVER_DATABASE_CONNECTION_URL names {path}, whose folder is missing; make it, unset that, or "
            "use --no-prefect"
        )
    if not path.exists() or (os.access(path, os.W_OK) and not path.stat().st_size):
        return
    if not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError(f"Prefect's database {path} cannot be read and written; mend that, or use --no-prefect")
    fault = _fault(path)
    if fault is not None:
        raise ConfigError(
            f"Prefect's database {path} is damaged ({fault}); it holds the history of runs only, packets and manifest "
            f"do not need it: move it away (mv {path} {path}.damaged) and start again, or use --no-prefect"
        )


def _file() -> Path | None:
    settings = get_current_settings()
    url = settings.server.database.connection_url
    if url is None:
        # A server named by its parts.
        return None if settings.server.database.host else settings.home / "prefect.db"
    text = url.get_secret_value()
    scheme, _, rest = text.partition(":///")
    path = rest.partition("?")[0]
    if not scheme.startswith("sqlite") or not path or path.startswith((":memory:", "file:")):
        return None
    return Path(unquote(path))


def _fault(path: Path) -> str | None:
    deadline = time.monotonic() + LOOK_S
    try:
        with closing(sqlite3.connect(path, timeout=LOOK_S)) as database:
            database.execute("select count(*) from sqlite_master").fetchone()
            # In a look that is cut short nothing was found; the server then says what it meets.
            database.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            found = database.execute("pragma quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError:
        return None  # locked by a server, or the look was cut short
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else str(found)
