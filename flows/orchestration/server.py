"""Prefect servers that cuepack starts: the dashboard of `cuepack serve`, and one for the length of a run.

Import only after `flows.orchestration.settings.prepare()`.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from prefect.context import refresh_global_settings_context
from prefect.settings import get_current_settings

from extractors.errors import ConfigError
from flows.orchestration.database import check_database
from flows.orchestration.settings import answers_foreign_pages, check_token, find_server, server_answers
from flows.own_pages import is_loopback

log = logging.getLogger("cuepack")

SERVER_START_S = 120.0
"""Seconds a server may take to start: 11 s on an idle machine, more where its database is made first."""

_STOP_S = 5.0

_DATABASE_NAMES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")

_LAST_WORDS = 600
"""Letters of what a server said before it ended that an error quotes."""


class StartedServer:
    """A guarded Prefect server in a process of its own, which ends with this one."""

    def __init__(self, host: str, port: int, *, ui: bool) -> None:
        """Binds and starts; `port` 0 takes a free one.

        Raises:
            ConfigError: the port is taken, the server may not be bound there, or its database cannot be used.
        """
        check_token(host)
        check_database()
        with _bound(host, port) as listening:
            self.port: int = listening.getsockname()[1]
            self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 as long as the process
            options = ["--host", host, "--port", str(self.port), "--fd", str(listening.fileno())]
            options += ["--parent", str(os.getpid()), *([] if ui else ["--no-ui"])]
            settings = get_current_settings().to_environment_variables(exclude_unset=True)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.orchestration.server_process", *options],
                env={name: value for name, value in (os.environ | settings).items() if name != "PREFECT_API_URL"},
                stdout=self._said,
                stderr=self._said,
                pass_fds=[listening.fileno()],
                # A session of its own: Ctrl-C ends the runs first, then this.
                start_new_session=True,
            )
        near = "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else host
        self.url = f"http://{f'[{near}]' if ':' in near else near}:{self.port}/api"

    def wait(self) -> None:
        """Returns when it answers.

        Raises:
            ConfigError: it ended, or does not answer in time.
        """
        deadline = time.monotonic() + SERVER_START_S
        ways = "use --no-prefect, or name a running server in PREFECT_API_URL"
        ways = next((f"correct or unset {name}, {ways}" for name in _DATABASE_NAMES if name in os.environ), ways)
        while not server_answers(self.url):
            if self._process.poll() is not None:
                raise ConfigError(
                    f"the Prefect server did not start (exit code {self._process.returncode}): {self._last_words()}; "
                    f"{ways}"
                )
            if time.monotonic() > deadline:
                said = self._last_words()
                self.stop()
                raise ConfigError(
                    f"the Prefect server did not answer at {self.url} within {SERVER_START_S:.0f} s: {said}; {ways}"
                )
            time.sleep(0.1)

    def runs(self) -> bool:
        """Whether its process is there."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends it, and waits until it has ended."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        # Of a traceback the last line says what happened.
        return lines[-1].strip()[-_LAST_WORDS:] if lines else "it said nothing"


@contextmanager
def server_at(port: int, host: str = "127.0.0.1") -> Iterator[str]:
    """The URL of the API to use: the one that is configured, one that already runs on `port`, or one started there.

    Raises:
        ConfigError: the configured server does not answer, another program has the port, or the server does not start.
    """
    configured = get_current_settings().api.url
    if configured is not None:
        _warn_if_open(find_server(configured).url)
        yield configured
        return
    check_token(host)
    url = f"http://127.0.0.1:{port}/api"
    # A second `cuepack serve` on one machine shares the first one's server.
    server = None if server_answers(url) else StartedServer(host, port, ui=True)
    if server is None:
        _warn_if_open(url)
    else:
        url = server.url
    # In the environment, so that the processes of flow runs find the server too.
    os.environ["PREFECT_API_URL"] = url
    _log_in()
    refresh_global_settings_context()
    try:
        if server is not None:
            server.wait()
        yield url
    finally:
        if server is not None:
            server.stop()


_for_runs: StartedServer | None = None


def start_for_runs() -> None:
    """Starts a server for the runs of this process, where none is configured; it ends with the process.

    Prefect's own embedded server answers every page, and outlives a process that is killed.

    Raises:
        ConfigError: it cannot be started, or the user has forbidden it.
    """
    global _for_runs
    settings = get_current_settings()
    if settings.api.url is not None and (_for_runs is None or settings.api.url != _for_runs.url or _for_runs.runs()):
        return
    if not settings.server.ephemeral.enabled:
        raise ConfigError(
            "no Prefect server is named and PREFECT_SERVER_EPHEMERAL_ENABLED is off; set PREFECT_API_URL, unset that, "
            "or use --no-prefect"
        )
    _for_runs = StartedServer("127.0.0.1", 0, ui=False)
    os.environ["PREFECT_API_URL"] = _for_runs.url
    _log_in()
    refresh_global_settings_context()
    # Out of the environment again: what this process starts is not to take it for a server that lasts.
    del os.environ["PREFECT_API_URL"]
    # Before Prefect's own exit handlers are registered, so that it runs after them: they tell the server how it ended.
    atexit.register(_for_runs.stop)
    _for_runs.wait()


def _log_in() -> None:
    """Where a server of ours asks for a login, its own clients know it."""
    token = get_current_settings().server.api.auth_string
    if token is not None:
        os.environ.setdefault("PREFECT_API_AUTH_STRING", token.get_secret_value())


def _warn_if_open(url: str) -> None:
    if answers_foreign_pages(url):
        log.warning(
            "the Prefect server at %s answers every web page that a browser on its network shows; start it by "
            "`cuepack serve`, or as docs/operations.md says",
            url,
        )


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    # A port that a server left a moment ago is free.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        where = "" if is_loopback(host) else f" of {host}"
        raise ConfigError(
            f"port {port}{where} is taken by a program other than a Prefect server, or cannot be used "
            f"({error.strerror}); choose another with --port, or set PREFECT_API_URL"
        ) from error
    return listening
