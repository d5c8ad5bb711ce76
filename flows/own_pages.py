"""Which requests a server on this machine answers: those of programs here, and of its own pages.

Any page that a browser shows can send requests to 127.0.0.1. Without these checks it reads the answers under another
name for this machine (DNS rebinding), or has something done without reading the answer (a form, `fetch` of text/plain,
which no preflight precedes; a WebSocket, for which browsers ask nobody).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")

_HEADERS = ((b"content-security-policy", b"frame-ancestors 'none'"), (b"x-content-type-options", b"nosniff"))
"""No page may show ours in a frame, where clicks could be led astray, or load an answer as a script."""


def refusal(headers: Mapping[str, str], names: Collection[str] = (), *, any_address: bool = False) -> str | None:
    """Why a request is refused, None where it is not.

    Args:
        headers: of the request, names in lower case.
        names: other names than loopback's under which this server may be asked, in lower case.
        any_address: whether any IP address is such a name. A page cannot be served under an address of this machine,
            so only names can be turned against it.
    """
    host = headers.get("host", "")
    if not _is_own(_name(host), names, any_address=any_address):
        return "this server does not answer to the name in the request's Host"
    origin = headers.get("origin")
    if origin is not None:
        # Local names of one server are one origin for it, though two for a browser.
        return None if _same_server(origin, host) else "refused: asked for by another site"
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
        return "refused: asked for by another site"
    return None


def is_loopback(name: str) -> bool:
    """Whether `name`, a host to bind or of a URL, means this machine alone."""
    name = name.strip("[]").lower()
    if name == "localhost":
        return True
    return _is_address(name) and ip_address(name).is_loopback


class OwnPagesOnly:
    """Answers 403 to what `refusal` refuses, WebSockets included; everything else reaches the application."""

    def __init__(self, app: App, names: Collection[str] = (), *, any_address: bool = False) -> None:
        self._app, self._names, self._any_address = app, names, any_address

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request or connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            # A header given twice fits no name, so that no reader behind this one takes the other value.
            key = name.decode("latin-1").lower()
            headers[key] = f"{headers[key]}, {value!r}" if key in headers else value.decode("latin-1")
        reason = refusal(headers, self._names, any_address=self._any_address)
        if reason is not None:
            await _refuse(scope, receive, send, reason)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _refuse(scope: Message, receive: Receive, send: Send, reason: str) -> None:
    if scope["type"] == "websocket":
        # Closed before it is accepted: the server answers 403.
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": [*headers, *_HEADERS]})
    await send({"type": "http.response.body", "body": body})


def _name(host: str) -> str:
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).lower()


def _is_own(name: str, names: Collection[str], *, any_address: bool) -> bool:
    return name in LOOPBACK_NAMES or name in names or (any_address and _is_address(name.strip("[]")))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _same_server(origin: str, host: str) -> bool:
    try:
        asked_by = urlsplit(origin).netloc.lower()
    except ValueError:  # brackets that close nothing
        return False
    if asked_by == host.lower():
        return True
    both_local = _name(asked_by) in LOOPBACK_NAMES and _name(host) in LOOPBACK_NAMES
    return both_local and asked_by.removeprefix(_name(asked_by)) == host.lower().removeprefix(_name(host))
