"""The viewer as a server on this machine, and as files for disk and any web host."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extractors.errors import ConfigError, CuepackError, OutputError
from extractors.printable import printable
from flows.output.annotations import VERDICTS, Annotation, write_annotation
from flows.own_pages import refusal
from flows.viewing.library import Library
from packers.plain_files import read_plain
from packers.viewer.episode import POINTS_FRAMES
from packers.viewer.pages import CONTENT_SECURITY_POLICY, MEDIA_TYPES, as_script, static_files

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
_MARKER = "cuepack-viewer.json"
_LONGEST_BODY = 20_000

HEADERS = {
    "Content-Security-Policy": f"{CONTENT_SECURITY_POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Data come as scripts, which any site could otherwise load from here.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class _Pages:
    """What the viewer answers, by kind of request."""

    def __init__(self, library: Library, other: Library | None) -> None:
        self._library, self._other = library, other
        self._assets = dict(static_files())
        self._sides = {"a": library} | ({} if other is None else {"b": other})

    def page(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        return _answer(self._assets[name], name) if name in self._assets else _refusal(404, "no such page")

    def overview(self, request: Request) -> Response:
        try:
            return _answer(self._library.overview(server=True, other=self._other), "overview.js")
        except CuepackError as error:
            return _refusal(500, str(error))

    def statistics(self, request: Request) -> Response:
        try:
            return _answer(self._library.statistics(), "stats.js")
        except CuepackError as error:
            return _refusal(500, str(error))

    def stamp(self, request: Request) -> Response:
        return _answer(self._library.stamp().encode(), "stamp")

    def file(self, request: Request) -> Response:
        side, key, name = (request.path_params[part] for part in ("side", "key", "name"))
        try:
            held = self._sides[side]
            # Two single packets are one episode, whatever their files are called.
            content = held.file(_key(held, key, side, self._library), name)
        except KeyError:
            return _refusal(404, "no such file")
        return _answer(content, name)

    def compared(self, request: Request) -> Response:
        key = request.path_params["name"].removesuffix(".js")
        try:
            if self._other is None:
                raise KeyError(key)
            return _answer(self._library.compared(key, self._other), "compare.js")
        except KeyError:
            return _refusal(404, "no such comparison")
        except CuepackError as error:
            return _refusal(500, str(error))

    async def annotate(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        body = await _annotation_body(request)
        # On a thread: another process may hold the lock, and a directory behind a URI takes seconds.
        return await run_in_threadpool(_annotate, body, self._library) if isinstance(body, bytes) else body


def make_app(library: Library, other: Library | None = None) -> Starlette:
    """The viewer of `library` as a web application; `other` holds second packets to compare with.

    It answers requests that name this machine and come from its own pages only, and reads nothing but the pages' own
    files and what `Library` hands out by key.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    pages = _Pages(library, other)
    routes = [
        Route("/", pages.page),
        Route("/data/overview.js", pages.overview),
        Route("/data/stats.js", pages.statistics),
        Route("/data/stamp", pages.stamp),
        Route("/data/compare/{name}", pages.compared),
        Route("/data/{side}/{key}/{name}", pages.file),
        Route("/annotations", pages.annotate, methods=["POST"]),
        *([] if library.report is None else [Mount("/study", StaticFiles(directory=library.report))]),
        Route("/{name}", pages.page),
    ]
    return Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=_only_from_here)])


def serve(library: Library, other: Library | None = None, *, port: int = 0, browser: bool = True) -> None:
    """Serves the viewer on this machine's loopback address until Ctrl-C.

    Raises:
        ConfigError: the port is taken.
    """
    import uvicorn

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            # Now, so that the address works as soon as it is printed.
            listening.listen(128)
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used ({error.strerror}); choose another with --port, or --port 0 for a free one"
            ) from error
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        print(f"{printable(library.title)}: {address}   (Ctrl-C ends)", flush=True)
        threading.Thread(target=library.trim, daemon=True).start()
        if browser:
            threading.Timer(0.5, webbrowser.open, (address,)).start()
        config = uvicorn.Config(
            make_app(library, other), log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=2
        )
        uvicorn.Server(config).run(sockets=[listening])


@dataclass(frozen=True, slots=True)
class ExportedSite:
    """What `export_site` wrote.

    Attributes:
        episodes: how many have pages.
        failed: key -> why the episode has none, or no comparison.
    """

    episodes: int
    failed: dict[str, str]


def export_site(
    library: Library,
    folder: Path,
    other: Library | None = None,
    *,
    workers: int = 2,
    done: Callable[[str], None] = lambda key: None,
) -> ExportedSite:
    """Writes the viewer as files: every packed episode with all its pictures. Safe to repeat.

    An episode whose packet is missing or elsewhere gets a page that says so; the others follow.

    Args:
        library: what to show.
        folder: where to; made where missing, refused where it holds something else.
        other: second packets to compare with.
        workers: episodes drawn at once.
        done: called with the key of each finished episode.

    Raises:
        ConfigError: the folder holds something else.
        OutputError: the disk is full, or the folder may not be written.
    """
    _check_export(folder, library)
    failed: dict[str, str] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        site = _site(folder)
        for name, content in static_files():
            (folder / name).write_bytes(content)
        if library.report is not None:
            shutil.copytree(library.report, folder / "study", dirs_exist_ok=True)
        keys = [key for key, row in library.rows().items() if row.get("packet")]
        work: list[tuple[str, Library, str]] = [("a", library, key) for key in keys]
        if other is not None:
            work += [("b", other, key) for key in library.common(other)]
        with ThreadPoolExecutor(workers) as pool:
            for key, fault in pool.map(lambda item: _export_episode(folder, library, *item), work):
                failed |= {key: fault} if fault else {}
                done(key)
        for key in library.common(other) if other is not None else ():
            assert other is not None
            try:
                _write(folder / "data" / "compare" / f"{key}.js", library.compared(key, other))
            except (KeyError, CuepackError) as error:
                failed[key] = _words(error)
        _write(folder / "data" / "stats.js", library.statistics())
        # Last: a site with a list is whole.
        _write(folder / "data" / "overview.js", library.overview(server=False, other=other, site=site))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error}; free space or fix permissions") from error
    return ExportedSite(len(keys) - len(failed.keys() & set(keys)), failed)


def _site(folder: Path) -> str:
    """The name under which browsers keep the verdicts given in this export; it stays when the export is repeated."""
    marker = folder / _MARKER
    try:
        site = str(json.loads(read_plain(marker))["site"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        site = secrets.token_hex(8)
    marker.write_text(json.dumps({"made_by": "cuepack view --export", "site": site}) + "\n", encoding="utf-8")
    return site


def episode_files(description: dict[str, Any]) -> list[str]:
    """Names of an episode's files besides episode.js, from what episode.js says."""
    names = ["thumb.jpg"]
    if "broken" in description:
        return names
    n_frames, sheet = description["n_frames"], description["view"]["sheet_frames"]
    for panel in description["panels"]:
        names += [f"{panel}-{i}.{'png' if panel == 'masks' else 'jpg'}" for i in range(-(-n_frames // sheet))]
    return names + [f"points-{index}.js" for index in range(-(-n_frames // POINTS_FRAMES))]


def _export_episode(folder: Path, library: Library, side: str, held: Library, key: str) -> tuple[str, str | None]:
    """The key, and why the episode's page says only that it cannot be shown (None where it shows the episode)."""
    target, fault = folder / "data" / side / key, None
    try:
        held_key = _key(held, key, side, library)
        content = held.file(held_key, "episode.js")
        description = json.loads(content.decode()[len("cuepack.receive(") : -len(");\n")])
        fault = description.get("broken")
        for name in episode_files(description):
            _write(target / name, held.file(held_key, name))
    except (KeyError, CuepackError) as error:
        fault = _words(error)
    if fault is not None:
        # A page that goes elsewhere does not tell where it was made.
        fault = fault.replace(str(held.path), held.title)
        content = as_script({"broken": fault})
    _write(target / "episode.js", content)
    return key, fault


def _words(error: Exception) -> str:
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _check_export(folder: Path, library: Library) -> None:
    inside = folder.resolve()
    if not library.is_packet and (inside == library.path or inside.is_relative_to(library.path / "packets")):
        raise ConfigError(f"--export {folder} is among the packets; name another folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise ConfigError(f"--export {folder} holds something else already; name a new or empty folder")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--export {folder} is a file; name a folder")


def _key(held: Library, key: str, side: str, library: Library) -> str:
    if side == "b" and held.is_packet and library.is_packet:
        return next(iter(held.rows()))
    return key


def _answer(content: bytes, name: str) -> Response:
    from starlette.responses import Response

    return Response(content, media_type=MEDIA_TYPES.get(Path(name).suffix, "text/plain; charset=utf-8"))


def _refusal(code: int, text: str) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(text, code)


async def _only_from_here(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuses what a foreign page could send: another name for this machine (DNS rebinding), another site's request."""
    reason = refusal(request.headers)
    response = await go_on(request) if reason is None else _refusal(403, reason)
    response.headers.update(HEADERS)
    return response


async def _annotation_body(request: Request) -> bytes | Response:
    """What a page of this server sent, or the refusal."""
    if "origin" not in request.headers:  # one of another site was refused before
        return _refusal(403, "annotations are taken from the viewer's own pages only")
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return _refusal(415, "wanted application/json")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST_BODY:
            return _refusal(413, "too long")
    return body


def _annotate(body: bytes, library: Library) -> Response:
    try:
        given = json.loads(body)
        episode_id, verdict, note = (given[name] for name in ("episode_id", "verdict", "note"))
        if not all(isinstance(value, str) for value in (episode_id, verdict, note)) or verdict not in VERDICTS:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        return _refusal(400, "wanted episode_id, verdict (accept, reject or nothing) and note, all texts")
    if library.is_packet or episode_id not in {str(row["episode_id"]) for row in library.rows().values()}:
        return _refusal(404, "no such episode in the manifest")
    try:
        write_annotation(library.directory, episode_id, Annotation(verdict, note))
    except ConfigError as error:
        return _refusal(400, str(error))
    except CuepackError as error:
        return _refusal(503, str(error))
    return _answer(b"saved", "text")
