"""Prefect's environment, set before Prefect is imported: quiet, no telemetry, patient; and a look at its server."""

from __future__ import annotations

import json
import logging
import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from platformdirs import user_cache_path

from extractors.errors import ConfigError
from flows.own_pages import is_loopback

log = logging.getLogger("cuepack")

TAG = "cuepack"
"""The tag on every flow run that cuepack starts: other programs may use the same server."""

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # On a loaded machine the embedded server needs longer than the default 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # The console shows cuepack's own lines; the dashboard keeps the logs.
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "cuepack",
    # A server that went away is said once, by us, not once for every event that waits for it.
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # A run whose heartbeats stop was lost with its machine (flows/orchestration/deployments.py).
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
}

SERVER_SETTINGS = {
    # Task runs are recorded from a queue: in batches it keeps up with a run per stage and shard (measured: 59/s).
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}

ANSWER_WITHIN_S = 10.0

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_FOREIGN = "http://page.invalid"
"""The origin of a web page that no server of ours serves."""


@dataclass(frozen=True, slots=True)
class Server:
    """A Prefect server that answers.

    Attributes:
        url: its API.
        version: what it says it is, None where it asks for a login to say so.
    """

    url: str
    version: str | None


def prepare(out: Path | None = None) -> None:
    """Sets what the user has not set. Prefect's home is $PREFECT_HOME, else the user's cache folder.

    Args:
        out: an output directory, whose `.work` serves as Prefect's home where the cache folder cannot be written.

    Raises:
        ConfigError: $PREFECT_HOME cannot be written (Prefect would end in a time-out that does not say so).
    """
    for name, value in (SETTINGS | SERVER_SETTINGS).items():
        os.environ.setdefault(name, value)
    keep_loopback_direct()
    if "PREFECT_HOME" in os.environ:
        home = Path(os.environ["PREFECT_HOME"]).expanduser()
        if not _is_writable(home):
            raise ConfigError(
                f"PREFECT_HOME={home} cannot be written; name a folder that can, unset it, or use --no-prefect"
            )
        return
    home = user_cache_path("cuepack") / "prefect"
    if not _is_writable(home) and out is not None:
        log.warning("%s cannot be written; Prefect keeps its run history in %s", home, out / ".work" / "prefect")
        home = out / ".work" / "prefect"
        home.mkdir(parents=True, exist_ok=True)
    os.environ["PREFECT_HOME"] = str(home)


def keep_loopback_direct() -> None:
    """Has no client of this process ask a proxy for this very machine.

    With HTTP_PROXY or ALL_PROXY set, the client of the embedded server waited two minutes for a proxy's answer.
    """
    for name in ("NO_PROXY", "no_proxy"):
        kept = [each for each in os.environ.get(name, "").split(",") if each]
        os.environ[name] = ",".join(dict.fromkeys([*kept, *LOOPBACK]))


def check_server() -> Server | None:
    """The Prefect server that PREFECT_API_URL (or Prefect's profile) names; None where the embedded one is used.

    Raises:
        ConfigError: it does not answer, or is of another major version than the client here.
    """
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if url is None:
        return None
    server = find_server(url)
    client = metadata.version("prefect")
    if server.version is not None and server.version.split(".")[0] != client.split(".")[0]:
        raise ConfigError(
            f"the Prefect server at {url} is version {server.version}, cuepack has Prefect {client}; use a server of "
            f"version {client.split('.')[0]}, unset PREFECT_API_URL, or use --no-prefect"
        )
    if server.version is not None and _minor(server.version) != _minor(client):
        log.warning("the Prefect server at %s is version %s, the client %s", url, server.version, client)
    return server


def check_token(host: str) -> None:
    """Refuses to have a server listen where other machines reach it, unless it asks for a login.

    Raises:
        ConfigError: `host` is not loopback, and no token is set.
    """
    if is_loopback(host):
        return
    from prefect.settings import get_current_settings

    token = get_current_settings().server.api.auth_string
    if token is None or not token.get_secret_value():
        raise ConfigError(
            f"a server on {host} is reached by other machines, whose users could start runs; set a login first, for "
            "the server in PREFECT_SERVER_API_AUTH_STRING=USER:PASSWORD and for its clients and workers the same in "
            "PREFECT_API_AUTH_STRING, or serve on 127.0.0.1"
        )


def answers_foreign_pages(url: str) -> bool:
    """Whether the Prefect server at `url` lets pages of other sites read its answers."""
    request = urllib.request.Request(f"{url.rstrip('/')}/health", headers={"Origin": _FOREIGN})
    try:
        with _opener(url).open(request, timeout=ANSWER_WITHIN_S) as answer:
            return answer.headers.get("Access-Control-Allow-Origin") in ("*", _FOREIGN)
    except (OSError, ValueError):
        return False


def server_answers(url: str | None = None) -> bool:
    """Whether a Prefect server answers now: at `url`, else the one that is named."""
    from prefect.settings import get_current_settings

    url = url or get_current_settings().api.url
    if url is None:
        return False
    try:
        find_server(url)
    except ConfigError:
        return False
    return True


def leave_at_once(code: int) -> NoReturn:
    """Ends the process with everything said, but without Prefect's exit handlers.

    To a server that is gone they would offer every waiting event and log line, for seconds each.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def find_server(url: str) -> Server:
    """Asks the Prefect API at `url` for its version.

    Raises:
        ConfigError: nothing answers there, or something other than a Prefect server answers.
    """
    ways = "start it (`prefect server start`), correct or unset PREFECT_API_URL, or use --no-prefect"
    request = urllib.request.Request(f"{url.rstrip('/')}/admin/version", headers=_authorisation())
    try:
        with _opener(url).open(request, timeout=ANSWER_WITHIN_S) as answer:
            # A version is a few bytes; another server at this address may send any amount.
            said = json.loads(answer.read(1000))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Server(url, None)
        raise ConfigError(f"{url} answers {error.code}: no Prefect server is there; {ways}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Prefect server answers at {url} ({error}); {ways}") from error
    if not isinstance(said, str):
        raise ConfigError(f"{url} is not a Prefect API; its address usually ends in /api; {ways}")
    return Server(url, said)


def _opener(url: str) -> urllib.request.OpenerDirector:
    if urlsplit(url).hostname in LOOPBACK:
        return urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener()


def _authorisation() -> dict[str, str]:
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if login := os.environ.get("PREFECT_API_AUTH_STRING"):
        import base64

        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    return {}


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
