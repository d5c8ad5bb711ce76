"""The process of a Prefect server behind cuepack's door: own pages only, and gone when its parent is.

    PREFECT_SERVER_API_AUTH_STRING=USER:PASSWORD python -m flows.orchestration.server_process --host 0.0.0.0 --port 4200

`cuepack serve` and `cuepack extract` start it for themselves; docker/compose.yaml starts it by itself.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys

from extractors.errors import ConfigError
from flows.child_process import GRACE_S, end_with
from flows.orchestration.settings import check_token, prepare
from flows.own_pages import LOOPBACK_NAMES, App, OwnPagesOnly, is_loopback


def own_environment(host: str, port: int) -> dict[str, str]:
    """Prefect's settings of a guarded server, whatever the user has set: the door must not depend on that."""
    return {
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in LOOPBACK_NAMES),
        # Relative: the pages ask the server that they came from, under whatever name it was reached.
        "PREFECT_UI_API_URL": "/api",
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
    }


def guarded_app(host: str, *, ui: bool) -> App:
    """Prefect's server as an application, behind `OwnPagesOnly`. Reads Prefect's settings."""
    from prefect.server.api.server import create_app

    app: App = create_app(final=True, ephemeral=not ui)
    if is_loopback(host):
        return OwnPagesOnly(app)
    # From elsewhere it is reached by an address, or by the name of this machine.
    names = {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    return OwnPagesOnly(app, names, any_address=True)


def main() -> None:
    """Serves until it is asked to stop, or its parent is gone."""
    parser = argparse.ArgumentParser(prog="python -m flows.orchestration.server_process")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument("--no-ui", action="store_true", help="the API alone, for one run")
    parser.add_argument("--fd", type=int, help="a bound socket, inherited")
    parser.add_argument("--parent", type=int, help="end when this process is gone")
    given = parser.parse_args()
    if given.parent is not None:
        end_with(given.parent)
    prepare()
    os.environ.update(own_environment(given.host, given.port))
    if given.no_ui:
        os.environ["PREFECT_UI_ENABLED"] = "0"
    try:
        check_token(given.host)
    except ConfigError as error:
        sys.exit(f"cuepack: {error}")
    import uvicorn

    config = uvicorn.Config(
        guarded_app(given.host, ui=not given.no_ui),
        host=given.host,
        port=given.port,
        log_level="error",
        lifespan="on",
        # A header that anybody may send decides nothing here.
        proxy_headers=False,
        timeout_graceful_shutdown=int(GRACE_S),
    )
    uvicorn.Server(config).run(sockets=None if given.fd is None else [socket.socket(fileno=given.fd)])


if __name__ == "__main__":
    main()
